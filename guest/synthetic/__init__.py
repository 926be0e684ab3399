"""A machine grown from a seed, that dies where it is told to; see ``machine``."""

from guest.kernel.corpse import MachineError
from guest.kernel.guard import PanicGuard, Violation
from guest.kernel.locks import BadLocking, Deadlock, MachineLock
from guest.kernel.mbufs import MbufAccounting, OrdinaryMbufs, PanicPool
from guest.kernel.memory import PAGE_SIZE, OutOfMemory, PhysicalMemory
from guest.synthetic.contents import fill
from guest.synthetic.load import Endpoint, NetworkLoad, udp_frame
from guest.synthetic.machine import (
    MachineConfig,
    PanicStrikes,
    SyntheticMachine,
)

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
