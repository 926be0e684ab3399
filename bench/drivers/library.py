"""A C driver, as the bench knows drivers: a shared library in a process of its own.

The process maps the machine's memory, too, so the library writes its descriptors where the card
reads them. All else (registers, locks, buffers, time) it asks for, and the answers are given here,
by the same board and machine that a Python driver uses. ``protocol`` has the messages, ``child``
the other side, ``examples/c-driver/netdump_bench.h`` the interface for people.

What befalls the library is told, and ends its run, not the bench:

    it breaks a rule of the panic       the guard hears of it, with the function that asked
    it dies (signal, abort, exit)       ``DriverCrashed``: the signal, the method, the function
    it does not come back               ``DriverHangs``: the same, and it is killed
    it strays from the interface        ``DriverCrashed``

A run on ``sim`` stays a pure function of scenario and seed, as long as the library is one: it is
asked one thing at a time, and the bench never looks at the clock to decide what comes next.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Literal, Self

import numpy as np
from numpy.typing import NDArray

from bench.again import module
from bench.board import Board
from bench.drivers.errors import DriverCrashed, DriverHangs, UnusableDriver
from bench.drivers.limits import CALLBACKS, CPU_S, TURN_S, TURNS
from bench.drivers.protocol import (
    ASK_WHERE,
    EXITED,
    FRAME,
    LONGEST,
    MAILBOX,
    METHODS,
    ORDINARY,
    PANIC_POOL,
    PLACES,
    SENT,
    TO_LIBRARY,
    UNUSABLE,
    Callback,
    Kind,
    Message,
    Method,
    row_of,
    rows_of,
    unpack,
)
from bench.drivers.symbols import NotElf, Symbols, read_symbols
from bench.servers.child import start_child
from guest.kernel.corpse import Corpse
from guest.kernel.locks import BadLocking
from guest.kernel.mapping import Mapping
from guest.kernel.mbufs import MbufAccounting
from nic_models.contracts import Driver, Mbufs, Mode, TxBatch
from nic_models.frames import Frames
from nic_models.narrow import NarrowAccess

#: How long a process may take to start, and to say its last word, seconds.
START_S: Final = 60.0
LAST_WORD_S: Final = 5.0
END_S: Final = 60.0
#: Of what the library printed.
_TAIL: Final = 300

_DEFECTS: Final = (BadLocking, MbufAccounting, NarrowAccess)
_FRAME_DTYPE: Final = np.dtype(
    [("header", "<u8"), ("payload", "<u8"), ("at", "<u8"), ("headers", "<u4"), ("payloads", "<u4")]
)
assert _FRAME_DTYPE.itemsize == FRAME.size


class LibraryDriver:
    """A ``nic_models.contracts.Driver``; a context manager, which ends the process."""

    def __init__(
        self,
        path: Path,
        board: Board,
        machine: Corpse,
        *,
        mode: Mode,
        mtu: int,
        promiscuous: bool,
        tx_ring: int,
        rx_ring: int,
        tx_zone: Mbufs,
        log: Path,
        living: Callable[[], Driver],
    ) -> None:
        """``log``: takes what the library prints. ``living()``: the driver that lives the ordinary
        life of the machine, if the library does not.

        Raises:
            UnusableDriver: the library can't be loaded.
            DriverCrashed, DriverHangs: ... in its init.
        """
        try:
            self._symbols: Symbols = read_symbols(path)
        except OSError as error:
            raise UnusableDriver(f"{path}: {error.strerror}") from None
        except NotElf as error:
            raise UnusableDriver(f"{path} is no shared library: {error}") from None
        self.tx_zone: Mbufs = tx_zone
        self.mtu: Final = mtu
        self._stack: list[Callable[[bytes], None]] = []
        self._path = path
        self._board = board
        self._machine = machine
        self._log = log
        self._mac: bytes | None = None
        self._told_of_panic = False
        self._places: dict[Method, int] = {}
        """Where its functions are; known when it has been loaded."""
        self._end: DriverCrashed | DriverHangs | None = None
        """How it ended."""
        self._method = Method.INIT
        self._asked = 0
        self._row, self._rows = row_of(mtu), rows_of(mtu)
        fd = os.memfd_create("mailbox")
        try:
            os.ftruncate(fd, MAILBOX)
            self._mail = Mapping(MAILBOX, fd)
            sizes = [len(machine.memory.buffer), mtu, tx_ring, rx_ring]
            sizes += [mode is Mode.LOCKED, promiscuous]
            self._start(fd, sizes)
        finally:
            os.close(fd)
        try:
            hello = self._next(START_S / TURN_S)
            self._places = dict(zip(METHODS, PLACES.unpack_from(hello.text), strict=True))
            self.name = hello.text[PLACES.size :].decode("utf-8", "replace")
            self._bases = hello.b, hello.c
            self._living = None if hello.a else living()
            self._failing(Method.INIT)
        except BaseException:
            self.close()
            raise

    def _start(self, mailbox: int, sizes: list[int]) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        memory = self._machine.memory.share()
        command = module("bench.drivers.child", str(self._path.resolve()))
        fds = [theirs.fileno(), mailbox, memory]
        command += [str(int(number)) for number in (*fds, *sizes)]
        self._socket = ours
        self._poll = select.poll()
        self._poll.register(ours, select.POLLIN)
        log = os.open(self._log, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
        try:
            self._child: subprocess.Popen[bytes] = start_child(command, log, fds)
        finally:
            theirs.close()
            os.close(memory)
            os.close(log)
        # Its end is heard of by itself: a process that the library forked keeps the socket open.
        self._ended = os.pidfd_open(self._child.pid)
        self._poll.register(self._ended, select.POLLIN)
        # The kernel's number of the clock of a process' CPU time (MAKE_PROCESS_CPUCLOCK).
        self._cpu_clock = (~self._child.pid << 3) | 2

    # -- the driver ------------------------------------------------------------------------------

    @property
    def stack(self) -> list[Callable[[bytes], None]]:
        return self._stack if self._living is None else self._living.stack

    @property
    def mac(self) -> bytes:
        if self._mac is None:
            self._mac = self._failing(Method.MAC).to_bytes(6, "big")
        return self._mac

    def link_up(self) -> bool:
        return bool(self._call(Method.LINK_UP))

    def attach(self) -> None:
        if self._living is not None:
            self._living.attach()
        else:
            self._failing(Method.ATTACH)

    def send(self, frames: list[bytes]) -> int:
        if self._living is not None:
            return self._living.send(frames)
        batch = Frames.of(frames)
        nothing = np.zeros(len(batch), np.int64)
        return self._give(Method.SEND, batch.data, batch.lengths, nothing, nothing)

    def interrupt(self) -> None:
        if self._living is not None:
            self._living.interrupt()
            return
        received = self._taken(Method.INTERRUPT, self._rows)
        for index in range(len(received)):
            for deliver in self._stack:
                deliver(received.bytes_of(index))

    def event(self, what: Literal["start", "end"]) -> None:
        self._call(Method.EVENT, int(what == "start"))

    def transmit(self, batch: TxBatch) -> int:
        return self._give(
            Method.TRANSMIT,
            batch.headers,
            batch.header_lengths,
            batch.payload_addresses,
            batch.payload_lengths,
        )

    def poll(self, budget: int) -> Frames:
        budget = min(budget, self._rows)
        return self._taken(Method.POLL, budget)

    def where(self, method: Method) -> str:
        """The library's function for that; for messages."""
        place = self._places.get(method, -1)
        name = self._symbols.at(place) if place >= 0 else f"{method.name} ({self._path.name})"
        return name.replace("+0x0 ", " ")

    def _give(
        self,
        method: Method,
        headers: NDArray[np.uint8],
        header_lengths: NDArray[np.int64],
        addresses: NDArray[np.int64],
        payload_lengths: NDArray[np.int64],
    ) -> int:
        """Put frames into the mailbox, as many as fit, and let the library have them."""
        width = max(headers.shape[1], 1)
        count = min(len(header_lengths), TO_LIBRARY // (width + FRAME.size))
        if not count:
            return 0
        mailbox, memory = self._bases
        table = self._mail.array[: count * FRAME.size].view(_FRAME_DTYPE)
        blocks = count * FRAME.size
        table["header"] = mailbox + blocks + width * np.arange(count)
        table["headers"] = header_lengths[:count]
        table["at"] = addresses[:count]
        table["payload"] = memory + addresses[:count]
        table["payloads"] = payload_lengths[:count]
        block = self._mail.array[blocks : blocks + count * width].reshape(count, width)
        block[:, : headers.shape[1]] = headers[:count]
        taken = self._call(method, count)
        if not 0 <= taken <= count:
            says = f"it says that it took {taken} frames of {count}"
            raise DriverCrashed(f"{self.where(method)}: {says}")
        return taken

    def _taken(self, method: Method, budget: int) -> Frames:
        """The frames that the library hands up in that call."""
        count = self._call(method, budget)
        if not count:
            return Frames.empty()
        if count > budget:
            says = f"it handed {count} frames up, and its budget was {budget}"
            raise DriverCrashed(f"{self.where(method)}: {says}")
        rows = self._mail.array[TO_LIBRARY : TO_LIBRARY + count * self._row]
        rows = rows.reshape(count, self._row)
        lengths = rows[:, :8].copy().view("<i8")[:, 0]
        lengths = np.minimum(lengths, self._row - 8)
        data = rows[:, 8 : 8 + int(lengths.max())].copy()
        return Frames(data, lengths, np.zeros(count, np.int64))

    # -- calls -----------------------------------------------------------------------------------

    def _failing(self, method: Method) -> int:
        """A call whose negative result is an errno."""
        value = self._call(method)
        if value < 0:
            why = os.strerror(-value)
            raise DriverCrashed(f"{self.where(method)} fails: {why} ({-value})")
        return value

    def _call(self, method: Method, a: int = 0) -> int:
        if self._end is not None:
            raise type(self._end)(*self._end.args)
        guard = self._machine.guard
        if guard.armed and not self._told_of_panic:
            self._told_of_panic = True
            self._plain_call(Message(Kind.CALL, Method.PANIC, *self._machine.memory.arena))
        outer = self._method, self._asked
        self._method, self._asked = method, 0
        value = self._plain_call(Message(Kind.CALL, method, a))
        self._method, self._asked = outer
        return value

    def _plain_call(self, message: Message) -> int:
        self._say(message)
        while True:
            heard = self._next()
            if heard.kind == Kind.DONE:
                return heard.a
            self._say(Message(Kind.ANSWER, heard.code, self._answer(heard)))

    def _answer(self, heard: Message) -> int:
        """What the library asked for. What stops its CPU (a panic, a deadlock) passes through: the
        library waits for its answer from then on.
        """
        if heard.kind == Kind.STORE:
            what = f"a store to {heard.a:#x}"
            with self._speaking(lambda: self._place(heard.b)):
                self._machine.guard.report("store-outside-arena", what)
            return 0
        assert heard.kind == Kind.ASK, heard
        self._asked += 1
        if self._asked > CALLBACKS:
            raise DriverHangs(
                f"{self.where(self._method)} does not come back: {CALLBACKS:,}"
                f" callbacks, the last from {self._who()}"
            )
        with self._speaking(self._who):
            try:
                return int(_ANSWERS[Callback(heard.code)](self, heard.a, heard.b, heard.text) or 0)
            except _DEFECTS as defect:
                raise DriverCrashed(f"{defect} ({self._who()})") from None

    def _zone(self, which: int) -> Mbufs:
        machine = self._machine
        zones = {ORDINARY: machine.mbufs, PANIC_POOL: machine.panic_pool, SENT: self.tx_zone}
        if which not in zones:
            raise DriverCrashed(f"there is no zone of buffers {which} ({self._who()})")
        return zones[which]

    @contextmanager
    def _speaking(self, who: Callable[[], str]) -> Iterator[None]:
        """Breaches in here are of the library's making. Nothing to mend if a panic unwinds it."""
        guard = self._machine.guard
        before, guard.caller = guard.caller, who
        try:
            yield
        finally:
            guard.caller = before

    def _who(self) -> str:
        """The function that waits for an answer."""
        self._say(Message(Kind.WHERE))
        return self._place(self._next().a)

    def _place(self, offset: int) -> str:
        """A place in the library. There is none on the stack where a function's last act is a jump
        to the callback: then it is the one that the bench has called.
        """
        return self._symbols.at(offset) if offset >= 0 else self.where(self._method)

    # -- the socket ------------------------------------------------------------------------------

    def _say(self, message: Message) -> None:
        with suppress(OSError):  # who has died is found out by listening
            self._socket.send(message.pack())

    def _next(self, turns: float = TURNS) -> Message:
        """The next message; within its bounds.

        Raises:
            DriverCrashed: the process died.
            DriverHangs: it does not come back.
        """
        began = self._cpu_s()
        turn = 0.0
        while not self._poll.poll(TURN_S * 1000):
            turn += 1
            used = self._cpu_s() - began
            if used > CPU_S:
                self._end_hanging(f"{CPU_S:g} s of CPU without a callback")
            if turn >= turns:
                self._end_hanging(f"no callback in {turn * TURN_S:g} s")
        packet = self._receive()
        if packet:
            message = unpack(packet)
            if message.kind != Kind.DIES:
                return message
            self._reap()
        else:
            status = self._reap()
            if status == UNUSABLE:
                raise UnusableDriver(f"{self._path}: {self._printed()}")
            message = Message(Kind.DIES, -status if status < 0 else EXITED, -1, status)
        self._end = DriverCrashed(self._epitaph(message))
        raise self._end

    def _reap(self) -> int:
        """The status of a process that has hung up; one that goes on all the same is killed."""
        ended = select.poll()
        ended.register(self._ended, select.POLLIN)
        ended.poll(LAST_WORD_S * 1000)
        return self._kill()

    def _kill(self) -> int:
        """End the process, and those that the library forked: they are of its group. It is not
        waited for before, so the group's number is still its own. The status; twice is harmless.
        """
        if self._child.returncode is None:
            os.killpg(self._child.pid, signal.SIGKILL)
        return self._child.wait(END_S)

    def _receive(self) -> bytes:
        """What it has said; nothing where it has ended, or hung up."""
        try:
            return self._socket.recv(LONGEST, socket.MSG_DONTWAIT)
        except (BlockingIOError, ConnectionError):
            return b""

    def _end_hanging(self, how: str) -> None:
        """Ask where it is, and end it. Raises ``DriverHangs``."""
        where = ""
        os.kill(self._child.pid, ASK_WHERE)
        if self._poll.poll(LAST_WORD_S * 1000) and (packet := self._receive()):
            heard = unpack(packet)
            if heard.kind == Kind.DIES and heard.a >= 0:
                where = f", in {self._symbols.at(heard.a)}"
        self._kill()
        self._end = DriverHangs(f"{self.where(self._method)} does not come back{where}: {how}")
        raise self._end

    def _epitaph(self, last: Message) -> str:
        """``SIGSEGV at address 0xdead0000 in its poll: em_put+0x1c (mine.so)``."""
        if last.code == EXITED:
            how = f"the library called exit({last.b})" if last.a >= 0 else f"exit status {last.b}"
        else:
            how = signal.Signals(last.code).name
            if last.code in (signal.SIGSEGV, signal.SIGBUS) and last.a >= 0:
                how += f" at address {last.b & (1 << 64) - 1:#x}"
        text = f"{how} in its {self._method.name.lower()}: {self._place(last.a)}"
        said = self._printed()
        return f"{text}; it printed: {said}" if said else text

    def _printed(self) -> str:
        said = self._log.read_bytes()[-_TAIL:].decode("utf-8", "replace").strip()
        return " ".join(said.split())

    def _cpu_s(self) -> float:
        try:
            return time.clock_gettime(self._cpu_clock)
        except OSError:  # it has ended
            return 0.0

    # -- the end ---------------------------------------------------------------------------------

    def close(self) -> None:
        """End the process. Twice is harmless."""
        if self._ended < 0:
            return
        self._kill()
        os.close(self._ended)
        self._ended = -1
        self._socket.close()
        self._mail.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "replace")


#: What answers each callback: (driver, a, b, text) -> the value, None = 0.
_ANSWERS: Final[dict[Callback, Callable[[LibraryDriver, int, int, bytes], int | None]]] = {
    Callback.READ8: lambda d, a, b, t: d._board.read8(a),
    Callback.READ16: lambda d, a, b, t: d._board.read16(a),
    Callback.READ32: lambda d, a, b, t: d._board.read32(a),
    Callback.WRITE8: lambda d, a, b, t: d._board.write8(a, b),
    Callback.WRITE16: lambda d, a, b, t: d._board.write16(a, b),
    Callback.WRITE32: lambda d, a, b, t: d._board.write32(a, b),
    Callback.ALLOC: lambda d, a, b, t: d._machine.memory.allocate(a, b),
    Callback.RESERVE: lambda d, a, b, t: d._machine.memory.reserve(a, b),
    Callback.DELAY: lambda d, a, b, t: d._machine.delay_us(a),
    Callback.LOCK: lambda d, a, b, t: d._machine.lock(_text(t)).acquire(),
    Callback.UNLOCK: lambda d, a, b, t: d._machine.lock(_text(t)).release(),
    Callback.BYPASS: lambda d, a, b, t: d._machine.lock(_text(t)).bypass(),
    Callback.MBUF_TAKE: lambda d, a, b, t: d._zone(a).take(b),
    Callback.MBUF_GIVE: lambda d, a, b, t: d._zone(a).give(b),
    Callback.STEP: lambda d, a, b, t: d._machine.step(_text(t)),
    Callback.WAIT_INTERRUPT: lambda d, a, b, t: d._machine.wait_interrupt(a),
}
