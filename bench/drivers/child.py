"""The process that a C driver lives in: loads the library, lends it the kernel's callbacks.

    python -m bench.drivers.child LIBRARY SOCKET MAILBOX MEMORY SIZE MTU TX RX LOCKED PROMISC

SOCKET, MAILBOX and MEMORY are inherited descriptors. ``protocol`` says what passes the socket.
Stdlib only, and nothing of the bench but that: it starts quickly, and has little that a wild store
can hit.

Two things are done with signals. ctypes runs a Python function as handler at once, in the midst of
the library's code, because Python itself waits outside it.

* A crash is told before it happens: which signal, and where in the library. Then the signal
  strikes.
* The panic closes all memory but the arena (mprotect). A store there is told, with its place; then
  the page is opened, and the store is done: the bench records and never forbids.

The place is found by glibc's backtrace(3), as an offset in the library; the bench looks for its
name.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import signal
import socket
import sys
from collections.abc import Callable
from ctypes import (
    CFUNCTYPE,
    POINTER,
    Structure,
    c_char_p,
    c_int,
    c_size_t,
    c_uint8,
    c_uint16,
    c_uint32,
    c_uint64,
    c_void_p,
)
from pathlib import Path
from typing import Any, Final

from bench.drivers.protocol import (
    ASK_WHERE,
    EXITED,
    LONGEST,
    MAILBOX,
    METHODS,
    NAME,
    PLACES,
    TO_LIBRARY,
    UNUSABLE,
    VERSION,
    Kind,
    Message,
    Method,
    row_of,
    rows_of,
    unpack,
)
from bench.drivers.protocol import Callback as C

SYMBOL: Final = "netdump_bench_driver"

_Ctx: Final = c_void_p
_READERS: Final = {C.READ8: c_uint8, C.READ16: c_uint16, C.READ32: c_uint32}
_WRITERS: Final = {C.WRITE8: c_uint8, C.WRITE16: c_uint16, C.WRITE32: c_uint32}
_MEMORY = CFUNCTYPE(c_void_p, _Ctx, c_uint64, c_uint64, POINTER(c_uint64))
_NAME = CFUNCTYPE(None, _Ctx, c_char_p)
_TYPES: Final[dict[C, Any]] = {
    **{which: CFUNCTYPE(word, _Ctx, c_uint32) for which, word in _READERS.items()},
    **{which: CFUNCTYPE(None, _Ctx, c_uint32, word) for which, word in _WRITERS.items()},
    C.ALLOC: _MEMORY,
    C.RESERVE: _MEMORY,
    C.DELAY: CFUNCTYPE(None, _Ctx, c_uint32),
    C.LOCK: _NAME,
    C.UNLOCK: _NAME,
    C.BYPASS: _NAME,
    C.MBUF_TAKE: CFUNCTYPE(c_int, _Ctx, c_int, c_uint32),
    C.MBUF_GIVE: CFUNCTYPE(None, _Ctx, c_int, c_uint32),
    C.STEP: _NAME,
    C.WAIT_INTERRUPT: CFUNCTYPE(c_int, _Ctx, c_uint32),
    C.RECEIVE: CFUNCTYPE(None, _Ctx, c_void_p, c_uint32),
}


class _Kernel(Structure):
    """struct nb_kernel."""

    _fields_ = [
        ("version", c_uint32),
        ("size", c_uint32),
        ("ctx", c_void_p),
        ("memory", c_void_p),
        ("memory_size", c_uint64),
        ("mtu", c_uint32),
        ("tx_ring", c_uint32),
        ("rx_ring", c_uint32),
        ("locked", c_uint32),
        ("promiscuous", c_uint32),
        ("reserved", c_uint32),
        *((which.name.lower(), _TYPES[which]) for which in C),
    ]


class _Driver(Structure):
    """struct nb_driver."""

    _fields_ = [
        ("version", c_uint32),
        ("size", c_uint32),
        ("name", c_char_p),
        ("init", CFUNCTYPE(c_int, POINTER(_Kernel), POINTER(c_void_p))),
        ("mac", CFUNCTYPE(c_int, c_void_p, c_void_p)),
        ("link_up", CFUNCTYPE(c_int, c_void_p)),
        ("event", CFUNCTYPE(None, c_void_p, c_int)),
        ("transmit", CFUNCTYPE(c_uint32, c_void_p, c_void_p, c_uint32)),
        ("poll", CFUNCTYPE(None, c_void_p, c_uint32)),
        ("attach", CFUNCTYPE(c_int, c_void_p)),
        ("send", CFUNCTYPE(c_uint32, c_void_p, c_void_p, c_uint32)),
        ("interrupt", CFUNCTYPE(None, c_void_p)),
    ]


_REQUIRED: Final = ("init", "mac", "link_up", "event", "transmit", "poll")
_LIFE: Final = ("attach", "send", "interrupt")

# --- libc -----------------------------------------------------------------------------------------

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = c_void_p
_libc.mmap.argtypes = [c_void_p, c_size_t, c_int, c_int, c_int, ctypes.c_long]
_libc.mprotect.argtypes = [c_void_p, c_size_t, c_int]
_libc.backtrace.argtypes = [c_void_p, c_int]
_DEEPEST: Final = 64
_READ: Final = mmap.PROT_READ
_READ_WRITE: Final = mmap.PROT_READ | mmap.PROT_WRITE

_Handler = CFUNCTYPE(None, c_int, c_void_p, c_void_p)


class _Sigaction(Structure):
    """struct sigaction of glibc; the same on all of its 64-bit platforms."""

    _fields_ = [
        ("handler", _Handler),
        ("mask", c_uint8 * 128),
        ("flags", c_int),
        ("restorer", c_void_p),
    ]


#: SA_SIGINFO | SA_NODEFER: a second fault in the handler ends the process.
_FLAGS: Final = 4 | 0x4000_0000
#: Where siginfo_t has si_addr.
_SI_ADDR: Final = 16
#: Where ucontext_t has the program counter, by machine (x86-64: RIP of gregs; arm64: pc).
_PC: Final = {"x86_64": 168, "aarch64": 440}
_FATAL: Final = (signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGABRT)


def _map(fd: int, size: int) -> int:
    found = _libc.mmap(None, size, _READ_WRITE, mmap.MAP_SHARED, fd, 0)
    if found in (None, c_void_p(-1).value):
        raise SystemExit(f"mmap: {os.strerror(ctypes.get_errno())}")
    return int(found)


# --- the child ------------------------------------------------------------------------------------


class Child:
    """The library, and what it is lent. One thread."""

    def __init__(self, library: str, socket_fd: int, mailbox: int, memory: int, sizes: list[int]):
        memory_size, self._mtu, tx_ring, rx_ring, locked, promiscuous = sizes
        self._socket = socket.socket(fileno=socket_fd)
        self._mailbox = _map(mailbox, MAILBOX)
        self._memory, self._memory_size = _map(memory, memory_size), memory_size
        self._row, self._rows = row_of(self._mtu), rows_of(self._mtu)
        self._received = 0
        self._softc = c_void_p()
        self._closed = False
        self._driver, self._text = _load(library)
        lent = {which.name.lower(): _TYPES[which](self._callback(which)) for which in C}
        self._kernel = _Kernel(
            version=VERSION,
            size=ctypes.sizeof(_Kernel),
            memory=self._memory,
            memory_size=memory_size,
            mtu=self._mtu,
            tx_ring=tx_ring,
            rx_ring=rx_ring,
            locked=locked,
            promiscuous=promiscuous,
            **lent,
        )
        self._handlers = [_Handler(self._on_signal), _ON_EXIT(self._on_exit)]
        self._watch_signals()

    # -- calls ---------------------------------------------------------------------------------

    def run(self) -> None:
        """Serve until the bench hangs up."""
        name = self._driver.name or b"?"
        hello = int(bool(self._driver.attach)), self._mailbox, self._memory
        pointers = [getattr(self._driver, method.name.lower()) for method in METHODS]
        places = [ctypes.cast(p, c_void_p).value if p else None for p in pointers]
        base = self._text[0]
        offsets = PLACES.pack(*(-1 if place is None else place - base for place in places))
        self._say(Message(Kind.DONE, 0, *hello, offsets + name[:NAME]))
        while True:
            self._serve(self._hear())

    def _serve(self, message: Message) -> None:
        """A CALL, or WHERE, which may come whenever the bench has the turn."""
        if message.kind == Kind.WHERE:
            self._say(Message(Kind.DONE, 0, self._where()))
            return
        value = self._call(message)
        self._say(Message(Kind.DONE, message.code, value))

    def _call(self, message: Message) -> int:
        driver, softc, method = self._driver, self._softc, message.code
        self._received = 0
        if method == Method.INIT:
            return -int(driver.init(ctypes.byref(self._kernel), ctypes.byref(self._softc)))
        if method == Method.MAC:
            address = (c_uint8 * 6)()
            failed = driver.mac(softc, ctypes.addressof(address))
            return -failed if failed else int.from_bytes(bytes(address), "big")
        if method == Method.LINK_UP:
            return int(bool(driver.link_up(softc)))
        if method == Method.EVENT:
            driver.event(softc, message.a)
            return 0
        if method == Method.TRANSMIT:
            return int(driver.transmit(softc, self._mailbox, message.a))
        if method == Method.SEND:
            return int(driver.send(softc, self._mailbox, message.a))
        if method == Method.POLL:
            driver.poll(softc, message.a)
            return self._received
        if method == Method.INTERRUPT:
            driver.interrupt(softc)
            return self._received
        if method == Method.ATTACH:
            return -int(driver.attach(softc))
        assert method == Method.PANIC
        self._close(message.a, message.b)
        return 0

    def _close(self, start: int, end: int) -> None:
        """All memory but [start, end) can be read, and a store is told."""
        for first, last in ((0, start), (end, self._memory_size)):
            if last > first:
                _libc.mprotect(self._memory + first, last - first, _READ)
        self._closed = True

    # -- callbacks -----------------------------------------------------------------------------

    def _callback(self, which: C) -> Callable[..., Any]:
        if which in _READERS or which in (C.MBUF_TAKE, C.WAIT_INTERRUPT):
            return lambda _ctx, a, b=0: self._ask(which, a, b)
        if which in (C.ALLOC, C.RESERVE):
            return lambda _ctx, size, align, out: self._lend(which, size, align, out)
        if which in (C.LOCK, C.UNLOCK, C.BYPASS, C.STEP):
            return lambda _ctx, name: self._tell(which, text=name or b"")
        if which == C.RECEIVE:
            return self._receive
        return lambda _ctx, a, b=0: self._tell(which, a, b)

    def _tell(self, which: C, a: int = 0, b: int = 0, text: bytes = b"") -> None:
        self._ask(which, a, b, text)

    def _ask(self, which: C, a: int = 0, b: int = 0, text: bytes = b"") -> int:
        return self._question(Message(Kind.ASK, which, a, b, text=text))

    def _question(self, message: Message) -> int:
        """Ask; until the answer comes, the bench may call."""
        received = self._received
        self._say(message)
        while True:
            heard = self._hear()
            if heard.kind == Kind.ANSWER:
                self._received = received
                return heard.a
            self._serve(heard)

    def _lend(self, which: C, size: int, align: int, out: Any) -> int:
        physical = self._ask(which, size, align)
        if out:
            out[0] = physical
        return self._memory + physical

    def _receive(self, _ctx: int, frame: int, length: int) -> None:
        number = self._received
        self._received += 1
        if number < self._rows:  # beyond that the bench complains
            at = self._mailbox + TO_LIBRARY + number * self._row
            c_uint64.from_address(at).value = length
            ctypes.memmove(at + 8, frame, min(length, self._row - 8))

    # -- the socket ----------------------------------------------------------------------------

    def _say(self, message: Message) -> None:
        try:
            self._socket.send(message.pack())
        except OSError:
            os._exit(0)

    def _hear(self) -> Message:
        packet = self._socket.recv(LONGEST)
        if not packet:
            os._exit(0)  # the bench has done with us; the library gets no word in that
        return unpack(packet)

    # -- where, and what befalls it ------------------------------------------------------------

    def _where(self, context: int | None = None) -> int:
        """The innermost place in the library, an offset in its image; -1 if there is none.

        A return address is that of the next instruction: one less lies in the call itself.
        """
        pc = _program_counter(context)
        found = (c_void_p * _DEEPEST)()
        depth = _libc.backtrace(found, _DEEPEST)
        base, ranges = self._text
        for address in found[:depth]:
            if address and any(first <= address < last for first, last in ranges):
                return address - base - (address != pc)
        return -1

    def _watch_signals(self) -> None:
        _libc.backtrace((c_void_p * 1)(), 1)  # loads what it needs, now
        action = _Sigaction(handler=self._handlers[0], flags=_FLAGS)
        for number in (*_FATAL, ASK_WHERE):
            _libc.sigaction(int(number), ctypes.byref(action), None)
        with contextlib.suppress(AttributeError):  # a libc that lacks it tells the status alone
            _libc.on_exit(self._handlers[1], None)

    def _on_signal(self, number: int, info: int, context: int) -> None:
        where = self._where(context)
        if number == signal.SIGSEGV and self._closed:
            address = c_uint64.from_address(info + _SI_ADDR).value - self._memory
            if 0 <= address < self._memory_size:
                page = address & -mmap.PAGESIZE
                self._question(Message(Kind.STORE, 0, address, where))
                _libc.mprotect(self._memory + page, mmap.PAGESIZE, _READ_WRITE)
                return
        address = c_uint64.from_address(info + _SI_ADDR).value if number in _FATAL[:2] else 0
        self._say(Message(Kind.DIES, number, where, _signed(address)))
        if number != ASK_WHERE:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)  # now it strikes, whoever raised it

    def _on_exit(self, status: int, _argument: int) -> None:
        self._say(Message(Kind.DIES, EXITED, self._where(), status))


_ON_EXIT = CFUNCTYPE(None, c_int, c_void_p)


def _signed(address: int) -> int:
    return address - (1 << 64) if address >> 63 else address


def _program_counter(context: int | None) -> int | None:
    offset = _PC.get(os.uname().machine)
    if context is None or offset is None:
        return None
    return c_uint64.from_address(context + offset).value


def _load(path: str) -> tuple[_Driver, tuple[int, list[tuple[int, int]]]]:
    """The library's driver; its load address, and its executable ranges."""
    try:
        library = ctypes.CDLL(path)
    except OSError as error:
        raise SystemExit(_unusable(str(error))) from None
    try:
        driver = _Driver.in_dll(library, SYMBOL)
    except ValueError:
        raise SystemExit(_unusable(f"it exports no {SYMBOL}; see netdump_bench.h")) from None
    if driver.version != VERSION:
        raise SystemExit(
            _unusable(
                f"it was built for version {driver.version} of netdump_bench.h, and this bench has"
                f" version {VERSION}: build it anew with the bench's header"
            )
        )
    if driver.size != ctypes.sizeof(_Driver):
        says = f"its struct nb_driver has {driver.size} bytes, ours has {ctypes.sizeof(_Driver)}"
        raise SystemExit(_unusable(f"{says}: set .size to sizeof(struct nb_driver)"))
    lacks = [name for name in _REQUIRED if not getattr(driver, name)]
    if lacks:
        raise SystemExit(_unusable(f"its struct nb_driver lacks {', '.join(lacks)}"))
    life = [name for name in _LIFE if getattr(driver, name)]
    if life and len(life) < len(_LIFE):
        says = f"it has {' and '.join(life)}: attach, send and interrupt come together"
        raise SystemExit(_unusable(says))
    return driver, _ranges(ctypes.addressof(driver), path)


def _ranges(inside: int, path: str) -> tuple[int, list[tuple[int, int]]]:
    """Of the mapped file that the address lies in."""
    mapped: list[tuple[int, int, int, bool, str]] = []
    for line in Path("/proc/self/maps").read_text().splitlines():
        row = line.split(None, 5)
        if len(row) == 6:
            first, last = (int(end, 16) for end in row[0].split("-"))
            mapped.append((first, last, int(row[2], 16), "x" in row[1], row[5]))
    name = next((row[4] for row in mapped if row[0] <= inside < row[1]), os.path.realpath(path))
    ours = [row for row in mapped if row[4] == name]
    base = min(first - offset for first, _last, offset, _x, _name in ours)
    return base, [(first, last) for first, last, _offset, executable, _name in ours if executable]


def _unusable(why: str) -> int:
    """The exit status, when it has been said why."""
    print(why, file=sys.stderr, flush=True)
    return UNUSABLE


def main() -> None:
    library, *numbers = sys.argv[1:]
    socket_fd, mailbox, memory, *sizes = map(int, numbers)
    with contextlib.suppress(ValueError, AttributeError):
        # What the library prints is in the log at once.
        stdout = c_void_p.in_dll(_libc, "stdout")
        _libc.setvbuf(stdout, None, 2, c_size_t(0))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    Child(library, socket_fd, mailbox, memory, sizes).run()


if __name__ == "__main__":
    main()
