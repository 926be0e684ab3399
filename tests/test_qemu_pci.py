"""PCI configuration space, against a bus that is a table."""

from __future__ import annotations

import pytest

from guest.qemu.pci import (
    BAR0,
    BUS_MASTER,
    COMMAND,
    CONFIG_ADDRESS,
    CONFIG_DATA,
    FIRST_BAR,
    ID,
    MEMORY_SPACE,
    NoSuchDevice,
    find,
)

INTEL, E1000, E1000E = 0x8086, 0x100E, 0x10D3
HOST_BRIDGE = 0x1237_8086
#: Status bits that a write of ones clears (PCI Local Bus 3.0, 6.2.3), as a device may show them.
ABORTED = 0x2000
INTERRUPT = 0x0008
PARITY = 0x0040


class Bus:
    """Configuration mechanism #1 over a table: slot -> {register: value}. RAM is a dictionary."""

    def __init__(self, functions: dict[int, dict[int, int]]) -> None:
        self.functions = functions
        self.memory: dict[int, int] = {}
        self._address = 0

    def _selected(self) -> tuple[dict[int, int] | None, int]:
        assert self._address >> 31, "the enable bit is not set"
        assert self._address & 3 == 0
        assert self._address >> 16 & 0xFF == 0, "bus 0"
        number = self._address >> 8 & 7
        slot = self._address >> 11 & 31
        return (self.functions.get(slot) if number == 0 else None), self._address & 0xFF

    def outl(self, port: int, value: int) -> None:
        if port == CONFIG_ADDRESS:
            self._address = value
            return
        assert port == CONFIG_DATA
        function, register = self._selected()
        assert function is not None, "a write to nobody"
        if register == COMMAND:
            status = function[COMMAND] >> 16 & ~(value >> 16)
            value = status << 16 | value & 0xFFFF
        function[register] = value

    def inl(self, port: int) -> int:
        assert port == CONFIG_DATA
        function, register = self._selected()
        return 0xFFFF_FFFF if function is None else function.get(register, 0)

    def readl(self, address: int) -> int:
        return self.memory[address]

    readb = readw = readl

    def writel(self, address: int, value: int) -> None:
        self.memory[address] = value

    writeb = writew = writel


def e1000(bar: int = 0, command: int = 0, status: int = 0) -> dict[int, int]:
    return {ID: E1000 << 16 | INTEL, COMMAND: status << 16 | command, BAR0: bar}


def test_the_first_such_device_is_found_wherever_it_sits() -> None:
    bus = Bus({0: {ID: HOST_BRIDGE}, 7: e1000(), 31: e1000()})
    assert find(bus, INTEL, E1000).slot == 7
    del bus.functions[7]
    assert find(bus, INTEL, E1000).slot == 31


def test_a_device_that_is_not_there_is_told_with_those_that_are() -> None:
    bus = Bus({0: {ID: HOST_BRIDGE}, 3: e1000()})
    with pytest.raises(NoSuchDevice, match=r"no 8086:10d3 .* 8086:1237, 8086:100e$"):
        find(bus, INTEL, E1000E)
    with pytest.raises(NoSuchDevice, match="none"):
        find(Bus({}), INTEL, E1000)


def test_a_bar_that_nobody_assigned_is_assigned_and_registers_lie_behind_it() -> None:
    bus = Bus({2: e1000()})
    function = find(bus, INTEL, E1000)
    assert function.enable() == FIRST_BAR
    assert bus.functions[2][BAR0] == FIRST_BAR
    function.write32(0x3818, 5)
    assert bus.memory == {FIRST_BAR + 0x3818: 5}
    assert function.read32(0x3818) == 5


def test_a_bar_that_the_firmware_assigned_stays_where_it_is() -> None:
    bus = Bus({2: e1000(bar=0xFEB8_0008)})  # prefetchable: the low four bits are no address
    function = find(bus, INTEL, E1000)
    assert function.enable() == 0xFEB8_0000
    assert bus.functions[2][BAR0] == 0xFEB8_0008
    function.write32(8, 1)
    assert bus.memory == {0xFEB8_0008: 1}


def test_enabling_adds_what_is_needed_and_clears_nothing() -> None:
    bus = Bus({2: e1000(command=PARITY, status=ABORTED)})
    find(bus, INTEL, E1000).enable()
    found = bus.functions[2][COMMAND]
    assert found & (MEMORY_SPACE | BUS_MASTER) == MEMORY_SPACE | BUS_MASTER
    assert found & PARITY
    assert found >> 16 == ABORTED, "what the device has to tell is still there"


def test_the_interrupt_line_is_its_status_bit_alone() -> None:
    bus = Bus({2: e1000(command=0xFFFF, status=0xFFFF & ~INTERRUPT)})
    function = find(bus, INTEL, E1000)
    assert not function.interrupt_pending()
    bus.functions[2] = e1000(status=INTERRUPT)
    assert function.interrupt_pending()
