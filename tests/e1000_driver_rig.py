"""The smallest bench: a machine, our silicon with a wire as fast as you like, the e1000's driver.

For the tests of the driver (test_e1000_driver, _takeover, _panic_rings).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from guest.synthetic import Endpoint, MachineConfig, NetworkLoad, SyntheticMachine
from netdump.contracts import TxBatch
from nic_models.contracts import Mode
from nic_models.e1000.device import E1000Device
from nic_models.e1000.driver import E1000Driver
from nic_models.e1000.ordinary import LIVE_RING
from nic_models.frames import Frames
from nic_models.narrow import DwordRegisters

MAC = bytes.fromhex("02000a000001")
PEER_MAC = bytes.fromhex("02000a000002")
HERE = Endpoint(MAC, bytes([198, 18, 0, 2]))
PEER = Endpoint(PEER_MAC, bytes([198, 18, 0, 9]))
BROADCAST = b"\xff" * 6


class SpyMmio(DwordRegisters):
    """The device's registers, and who touched which since ``forget``."""

    def __init__(self, device: E1000Device) -> None:
        self.device = device
        self.touched: list[tuple[str, int]] = []

    def read32(self, offset: int) -> int:
        self.touched.append(("read", offset))
        return self.device.read32(offset)

    def write32(self, offset: int, value: int) -> None:
        self.touched.append(("write", offset))
        self.device.write32(offset, value)


class Rig:
    """A machine with a NIC, alive."""

    def __init__(
        self,
        *,
        mode: Mode = Mode.POLLED,
        tx_ring: int = 64,
        rx_ring: int = 64,
        mtu: int = 1500,
        promiscuous: bool = False,
        live_ring: int = LIVE_RING,
        attach: bool = True,
        rate: int | None = None,
    ) -> None:
        config = MachineConfig(memory_size=1 << 20, arena_size=4 << 20, seed=3)
        self.machine = SyntheticMachine(config)
        line = self.machine.interrupt_line
        self.device = E1000Device(self.machine.memory.buffer, MAC, line, rate)
        self.mmio = SpyMmio(self.device)
        self.driver = E1000Driver(
            self.mmio,
            self.machine.memory,
            self.machine,
            mode=mode,
            mtu=mtu,
            promiscuous=promiscuous,
            tx_ring=tx_ring,
            rx_ring=rx_ring,
        )
        self.now = 0
        if attach:
            self.driver.attach(live_ring)
        self.load = NetworkLoad(self.machine, self.driver, HERE, PEER, seed=11, cpus=[1, 2, 3])

    def wire(self) -> list[bytes]:
        """What has left the wire by a second from now."""
        self.now += 10**9
        frames = self.device.transmit(self.now)
        return [frames.bytes_of(i) for i in range(len(frames))]

    def hear(self, *frames: bytes) -> None:
        self.device.deliver(Frames.of(frames))

    def die(self, cpu: int = 0) -> None:
        self.machine.panic("the test asked for it", cpu)
        self.device.forget_dma_writes()

    def start(self) -> None:
        self.driver.event("start")

    def transmit(self, batch: TxBatch) -> int:
        """As debugnet does: two mbufs a frame, and back with those of frames not taken."""
        count = len(batch)
        assert self.machine.panic_pool.take(2 * count)
        taken = self.driver.transmit(batch)
        self.machine.panic_pool.give(2 * (count - taken))
        return taken

    def pump(self) -> None:
        """One round of the network outside."""
        self.wire()
        self.hear(*self.load.peer_frames(3))


def batch_of(payloads: list[tuple[int, int]], width: int = 66, first: int = 0) -> TxBatch:
    """Frames with numbered headers; each payload an (address, length)."""
    count = len(payloads)
    headers = np.zeros((count, width), np.uint8)
    headers[:, :12] = np.frombuffer(PEER_MAC + MAC, np.uint8)
    headers[:, 14:18] = np.arange(first, first + count, dtype=">u4").view(np.uint8).reshape(-1, 4)
    return TxBatch(
        headers,
        np.full(count, width, np.int64),
        np.array([address for address, _ in payloads], np.int64).reshape(count),
        np.array([length for _, length in payloads], np.int64).reshape(count),
    )


def expected(batch: TxBatch, memory: NDArray[np.uint8]) -> list[bytes]:
    """The frames of a batch, put together the slow way."""
    frames = []
    for i in range(len(batch)):
        at, length = int(batch.payload_addresses[i]), int(batch.payload_lengths[i])
        head = batch.headers[i, : int(batch.header_lengths[i])].tobytes()
        frame = head + (memory[at : at + length].tobytes() if length else b"")
        frames.append(frame.ljust(60, b"\0"))
    return frames


def ack(number: int, to: bytes = MAC) -> bytes:
    return (to + PEER_MAC + b"\x08\x00" + number.to_bytes(4, "big")).ljust(60, b"\0")


def whole_round_trip(rig: Rig) -> None:
    """A full batch out, a full batch in, twice round the rings: every byte right."""
    memory = rig.machine.memory.buffer
    number = 0
    for lap in range(5):
        batch = batch_of([(4096 + 977 * i, 1 + (i * 211) % 1434) for i in range(31)], first=number)
        assert rig.transmit(batch) == 31
        sent = rig.wire()
        assert sent[-31:] == expected(batch, memory)
        acks = [ack(number + i) for i in range(31)]
        rig.hear(*acks)
        frames = rig.driver.poll(1000)
        got = [frames.bytes_of(i) for i in range(len(frames))]
        assert got[-31:] == acks
        assert len(got) == 31 or lap == 0, "old frames of the FIFO come first, and once"
        number += 31
    assert rig.machine.panic_pool.in_use == 0


def live(rig: Rig) -> None:
    """Some life, ending with work for the handler."""
    rig.load.run(3, rig.pump)
    rig.pump()


def send(rig: Rig) -> object:
    return rig.load.send_round()


def interrupt(rig: Rig) -> object:
    return rig.load.interrupt_round()
