"""A machine grown from a seed, that dies where it is told to; see ``machine``."""

from guest.synthetic.contents import fill
from guest.synthetic.guard import PanicGuard, Violation
from guest.synthetic.load import Endpoint, NetworkLoad, udp_frame
from guest.synthetic.locks import BadLocking, Deadlock, MachineLock
from guest.synthetic.machine import (
    MachineConfig,
    MachineError,
    PanicStrikes,
    SyntheticMachine,
)
from guest.synthetic.mbufs import MbufAccounting, OrdinaryMbufs, PanicPool
from guest.synthetic.memory import PAGE_SIZE, OutOfMemory, PhysicalMemory

__all__ = [
    "PAGE_SIZE",
    "BadLocking",
    "Deadlock",
    "Endpoint",
    "MachineConfig",
    "MachineError",
    "MachineLock",
    "MbufAccounting",
    "NetworkLoad",
    "OrdinaryMbufs",
    "OutOfMemory",
    "PanicGuard",
    "PanicPool",
    "PanicStrikes",
    "PhysicalMemory",
    "SyntheticMachine",
    "Violation",
    "fill",
    "udp_frame",
]
