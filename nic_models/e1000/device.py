"""The silicon: an Intel 82540EM as its registers, its DMA and its wire show it.

Software sees three things, as on the PCI bus: ``read32``/``write32`` on BAR 0, guest memory that
the device reads and writes by itself, and the interrupt line. The other side is a wire:
``transmit`` hands out the frames that have left, ``deliver`` takes those that arrive, ``set_link``
plugs the cable.

This module is the register file and nothing else; the work is done by

    fetch    ring -> memory reads -> transmit FIFO        dma      memory, with a log of writes
    tx       transmit FIFO -> wire, in time               ring     base, length, head, tail
    rx       wire -> receive FIFO -> memory -> ring       stats    13.7, and what no register tells
    filters  who may come in                              interrupts  cause, mask, line

and the tables are in ``registers`` and ``descriptors``.

Rules:

* No clock. Time enters through ``transmit(now_ns)`` and nowhere else; see ``tx``.
* Whatever software writes, nothing raises and nothing outside memory is touched: what the
  hardware would refuse is refused and counted in ``counters``.
* CTRL.RST resets (13.4.1): registers, rings, FIFOs, statistics, at once and completely. Two things
  outlive it: the multicast table, which is a memory, and PBA, whose new value takes effect only
  through the reset. The PHY's link stays, but the MAC does not see it until CTRL.SLU is set again.
* An offset that this model does not know reads 0, remembers nothing, and is counted.

Known to stray from the hardware: an access while the reset runs (the chip can't answer for a
microsecond), PHY and MDIC, EECD bit-banging, VLANs, checksum offload, flow control, wake-up.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Final

import numpy as np
from numpy.typing import NDArray

from nic_models.contracts import InterruptLine
from nic_models.e1000 import registers as r
from nic_models.e1000.dma import DmaPort
from nic_models.e1000.interrupts import Interrupts
from nic_models.e1000.registers import CTRL, EERD, INT, STATUS, TCTL, Reg
from nic_models.e1000.ring import Ring
from nic_models.e1000.rx import Receiver
from nic_models.e1000.stats import Counters, Statistics
from nic_models.e1000.tx import Transmitter
from nic_models.frames import Frames
from nic_models.narrow import DwordRegisters

_U32: Final = 0xFFFF_FFFF
_EEPROM_WORDS: Final = 64
_EEPROM_CHECKSUM: Final = 0xBABA  # all words add up to this. 8254x SDM 5.6

#: Ring registers: offset -> field of ``Ring``, for either direction.
_RX_RING: Final[dict[int, str]] = {
    Reg.RDBAL: "base_low",
    Reg.RDBAH: "base_high",
    Reg.RDLEN: "length",
    Reg.RDH: "head",
    Reg.RDT: "tail",
}
_TX_RING: Final[dict[int, str]] = {
    Reg.TDBAL: "base_low",
    Reg.TDBAH: "base_high",
    Reg.TDLEN: "length",
    Reg.TDH: "head",
    Reg.TDT: "tail",
}


class E1000Device(DwordRegisters):
    """An 82540EM; a ``nic_models.contracts.Silicon``."""

    def __init__(
        self,
        memory: NDArray[np.uint8],
        mac: bytes,
        interrupt: InterruptLine,
        rate_bps: int | None = None,
    ) -> None:
        """
        Args:
            memory: guest-physical memory, flat uint8, writable; index = physical address.
            mac: six bytes, as in the EEPROM.
            interrupt: the INTx line; ``set`` is called when its level changes.
            rate_bps: line rate in bit/s; None = an infinitely fast wire.

        Raises:
            ValueError: an argument is none of these.
        """
        if len(mac) != 6 or mac[0] & 1:
            raise ValueError(f"a station address is six bytes, no group address: {mac.hex()}")
        if rate_bps is not None and rate_bps <= 0:
            raise ValueError(f"a rate of {rate_bps} bit/s carries nothing: give more, or None")
        self.dma: Final = DmaPort(memory)
        self.counters: Final = Counters()
        self.statistics: Final = Statistics()
        self.transmitter: Final = Transmitter(self.dma, self.statistics, self.counters, rate_bps)
        self.receiver: Final = Receiver(self.dma, mac, self.statistics, self.counters)
        self.interrupts: Final = Interrupts(interrupt)
        self._cable = True
        self._plain: dict[int, int] = {}
        self._pba = r.PBA_DEFAULT_KIB
        self._eeprom = _eeprom(mac)
        self._readers: dict[int, Callable[[int], int]] = {}
        self._writers: dict[int, Callable[[int, int], None]] = {}
        self._wire_registers()
        self._load_defaults()

    # --- software's side ---------------------------------------------------------------------

    def read32(self, offset: int) -> int:
        """The register at ``offset``; reading ICR or a statistic clears it."""
        reader = self._readers.get(offset)
        if reader is None:
            self.counters.unknown_reads += 1
            return 0
        return reader(offset)

    def write32(self, offset: int, value: int) -> None:
        """Write a register; only the low 32 bits of ``value`` count."""
        writer = self._writers.get(offset)
        if writer is not None:
            writer(offset, int(value) & _U32 & r.WRITE_MASK.get(offset, _U32))
            self._take_causes()
        elif offset in self._readers:
            self.counters.ignored_writes += 1
        else:
            self.counters.unknown_writes += 1

    # --- the wire's side ---------------------------------------------------------------------

    def power_on(self) -> None:
        """The cable is plugged in; it is also when this object is made."""
        self.set_link(True)

    def settle(self, at_most_s: float = 0.0) -> bool:
        """What was delivered is in memory at once, or waits for descriptors."""
        return True

    def await_interrupt(self) -> None:
        """A cause reaches the line at once."""

    def machine_died(self) -> None:
        """Whose memory it writes to from here on."""
        self.forget_dma_writes()

    def reach(self) -> list[tuple[int, int]]:
        """Exactly what DMA has written to since."""
        return self.dma_writes()

    def transmit(self, now_ns: int) -> Frames:
        """Play the transmitter up to ``now_ns``; the frames that have left the wire by then.

        ``time_ns`` of each is when its last bit left. ``now_ns`` never runs backwards.
        """
        frames = self.transmitter.advance(now_ns)
        self._take_causes()
        return frames

    def deliver(self, frames: Frames) -> None:
        """Frames that reach the PHY, without FCS, ordered by time; copied before this returns."""
        self.receiver.receive(frames)
        self._take_causes()

    def set_link(self, up: bool) -> None:
        """Plug or pull the cable (the PHY's view of the link)."""
        before = self._link()
        self._cable = up
        self._link_may_have_changed(before)

    def next_event_ns(self) -> int | None:
        """When ``transmit`` next has something to do; None = not before software or the link acts.

        A doorbell that has not been seen yet answers with the time of the last ``transmit``: call
        it at once.
        """
        return self.transmitter.next_event_ns()

    def snapshot(self) -> dict[str, int]:
        """Counters, heads and tails, FIFO levels and interrupt state, with no side effect."""
        tx, rx = self.transmitter.fetcher.ring, self.receiver.ring
        return {
            **asdict(self.counters),
            "tdh": tx.head,
            "tdt": tx.tail,
            "rdh": rx.head,
            "rdt": rx.tail,
            "tx_fifo_bytes": self.transmitter.fifo_used,
            "tx_fifo_frames": self.transmitter.fifo_frames,
            "rx_fifo_bytes": self.receiver.fifo_used,
            "icr": self.interrupts.cause,
            "ims": self.interrupts.mask,
            "dma_bytes_written": self.dma.bytes_written,
        }

    def dma_writes(self) -> list[tuple[int, int]]:
        """Where DMA wrote since ``forget_dma_writes``: disjoint [start, end) physical addresses."""
        return self.dma.writes()

    def forget_dma_writes(self) -> None:
        """Start that log anew, at the panic instant for example."""
        self.dma.forget_writes()

    def _take_causes(self) -> None:
        """Pass on what the engines have to report."""
        causes = self.transmitter.fetcher.causes | self.receiver.causes
        if causes:
            self.transmitter.fetcher.causes = self.receiver.causes = 0
            self.interrupts.post(causes)

    # --- reset -------------------------------------------------------------------------------

    def _reset(self) -> None:
        self.counters.resets += 1
        self.transmitter.reset()
        self.receiver.reset()
        self.statistics.reset()
        self._load_defaults()

    def _load_defaults(self) -> None:
        self._plain = dict.fromkeys(r.STORAGE, 0)
        self._plain.update({Reg.CTRL: 0, Reg.TCTL: 0, Reg.EERD: 0, **r.RESET_VALUES})
        self.interrupts.reset()
        self.receiver.fifo_size = self._pba << 10
        self.transmitter.fetcher.fifo_size = (r.PACKET_BUFFER_KIB - self._pba) << 10
        self._switch()

    # --- control and link --------------------------------------------------------------------

    def _link(self) -> bool:
        return self._cable and bool(self._plain.get(Reg.CTRL, 0) & CTRL.SLU)

    def _link_may_have_changed(self, before: bool) -> None:
        if self._link() != before:
            self._switch()
            self.interrupts.post(int(INT.LSC))

    def _switch(self) -> None:
        self.receiver.link = self._link()
        self.transmitter.switch(bool(self._plain[Reg.TCTL] & TCTL.EN), self._link())

    def _write_ctrl(self, offset: int, value: int) -> None:
        if value & CTRL.RST:
            self._reset()
            return
        before = self._link()
        self._plain[Reg.CTRL] = value
        self._link_may_have_changed(before)

    def _read_status(self, offset: int) -> int:
        up = STATUS.LU if self._link() else 0
        return int(STATUS.FD | STATUS.SPEED_1000 | STATUS.ASDV_1000 | up)

    def _write_tctl(self, offset: int, value: int) -> None:
        self._plain[Reg.TCTL] = value
        self.transmitter.fetcher.pad = bool(value & TCTL.PSP)
        self._switch()

    def _write_eerd(self, offset: int, value: int) -> None:
        """13.4.4: the word is there at once."""
        if value & EERD.START:
            address = value >> r.EERD_ADDRESS_SHIFT & 0xFF
            word = self._eeprom[address % _EEPROM_WORDS]
            done = address << r.EERD_ADDRESS_SHIFT | int(EERD.DONE)
            self._plain[Reg.EERD] = word << r.EERD_DATA_SHIFT | done

    def _read_pba(self, offset: int) -> int:
        return (r.PACKET_BUFFER_KIB - self._pba) << 16 | self._pba

    def _write_pba(self, offset: int, value: int) -> None:
        """Takes effect at the next CTRL.RST, which is when the FIFOs are empty."""
        self._pba = min(value, r.PACKET_BUFFER_KIB)

    # --- the register map ----------------------------------------------------------------------

    def _wire_registers(self) -> None:
        """Each offset's reader and writer; one without a writer is read-only."""
        readers, writers = self._readers, self._writers
        for offset in (*r.STORAGE, Reg.EERD, Reg.CTRL, Reg.TCTL):
            readers[offset] = self._read_plain
            writers[offset] = self._write_plain
        writers[Reg.CTRL] = self._write_ctrl
        writers[Reg.TCTL] = self._write_tctl
        writers[Reg.EERD] = self._write_eerd
        readers[Reg.STATUS] = self._read_status
        readers[Reg.PBA] = self._read_pba
        writers[Reg.PBA] = self._write_pba
        readers[Reg.RCTL] = lambda _: self.receiver.rctl
        writers[Reg.RCTL] = lambda _, value: self.receiver.control(value)
        for offset in (Reg.ICR, Reg.ICS, Reg.IMS, Reg.IMC):
            readers[offset] = self.interrupts.read
            writers[offset] = self.interrupts.write
        for offset in (*_RX_RING, *_TX_RING):
            readers[offset] = self._read_ring
            writers[offset] = self._write_ring
        for offset in self.statistics.offsets():
            readers[offset] = self.statistics.read
        for offset in range(Reg.MTA, Reg.MTA + 4 * r.MTA_COUNT, 4):
            readers[offset] = self._read_mta
            writers[offset] = self._write_mta
        for offset in range(Reg.RAL0, Reg.RAL0 + 8 * r.RAR_COUNT, 4):
            readers[offset] = self._read_address
            writers[offset] = self._write_address

    def _read_plain(self, offset: int) -> int:
        return self._plain[offset]

    def _write_plain(self, offset: int, value: int) -> None:
        self._plain[offset] = value

    def _ring(self, offset: int) -> tuple[Ring, str]:
        if offset in _RX_RING:
            return self.receiver.ring, _RX_RING[offset]
        return self.transmitter.fetcher.ring, _TX_RING[offset]

    def _read_ring(self, offset: int) -> int:
        ring, field = self._ring(offset)
        value: int = getattr(ring, field)
        return value

    def _write_ring(self, offset: int, value: int) -> None:
        ring, field = self._ring(offset)
        setattr(ring, field, value)
        if offset == Reg.TDT:
            self.transmitter.doorbell()
        elif offset == Reg.RDT:
            self.receiver.doorbell()

    def _read_mta(self, offset: int) -> int:
        return int(self.receiver.filter.table[(offset - Reg.MTA) >> 2])

    def _write_mta(self, offset: int, value: int) -> None:
        self.receiver.filter.table[(offset - Reg.MTA) >> 2] = value

    def _address(self, offset: int) -> tuple[list[int], int]:
        halves = self.receiver.filter.high if offset & 4 else self.receiver.filter.low
        return halves, (offset - Reg.RAL0) >> 3

    def _read_address(self, offset: int) -> int:
        halves, index = self._address(offset)
        return halves[index]

    def _write_address(self, offset: int, value: int) -> None:
        halves, index = self._address(offset)
        halves[index] = value


def _eeprom(mac: bytes) -> list[int]:
    """64 words: the address in the first three, a checksum in the last. 8254x SDM 5.6."""
    words = [int.from_bytes(mac[i : i + 2], "little") for i in (0, 2, 4)]
    words += [0xFFFF] * (_EEPROM_WORDS - 1 - len(words))
    return [*words, (_EEPROM_CHECKSUM - sum(words)) & 0xFFFF]
