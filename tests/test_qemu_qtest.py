"""qtest against a machine that is a dictionary: posted writes, answers in pieces, bad news."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guest.qemu import qtest as qtest_module
from guest.qemu.errors import QemuGone, QtestRefused
from guest.qemu.qtest import MAX_POSTED, Qtest
from tests.patience import HANG_S, SOON_S

Answer = Callable[[str], bytes]
#: A machine that has seen no command for so long waits for its answers to be read.
QUIET_S = 0.05


class Registers:
    """Answers as QEMU does, and remembers what it was told."""

    def __init__(self) -> None:
        self.values: dict[int, int] = {}
        self.heard: list[str] = []

    def __call__(self, command: str) -> bytes:
        self.heard.append(command)
        what, *words = command.split()
        numbers = [int(word, 16) for word in words]
        if what in ("writel", "outl"):
            self.values[numbers[0]] = numbers[1]
            return b"OK\n"
        if what in ("readl", "inl"):
            return f"OK 0x{self.values.get(numbers[0], 0):016x}\n".encode()
        return b"FAIL Unknown command '" + what.encode() + b"'\n"


def lines_of(end: socket.socket) -> Iterator[str]:
    """Commands as they come in; ends when the other side hangs up, or when it hangs."""
    end.settimeout(HANG_S)
    buffer = b""
    try:
        while more := end.recv(65536):
            buffer += more
            *lines, buffer = buffer.split(b"\n")
            yield from (line.decode() for line in lines)
    except OSError:
        return


@contextmanager
def machine(answer: Answer, cuts: Iterable[int] = ()) -> Iterator[Qtest]:
    """A client of a machine that answers every command; its answers are cut up as told."""
    ours, theirs = socket.socketpair()

    def serve() -> None:
        sizes = iter(cuts)
        for command in lines_of(theirs):
            said = answer(command)
            while said:
                size = next(sizes, len(said))
                theirs.sendall(said[:size])
                said = said[size:]

    thread = threading.Thread(target=serve)
    thread.start()
    client = Qtest(ours)
    try:
        yield client
    finally:
        client.close()
        thread.join(HANG_S)
        theirs.close()
    assert not thread.is_alive()


# --- what is asked, what is posted ----------------------------------------------------------------

operations = st.lists(
    st.tuples(st.sampled_from("wr"), st.integers(0, 3), st.integers(0, 2**32 - 1))
)


@settings(max_examples=50)
@given(operations, st.lists(st.integers(1, 9), max_size=60))
def test_reads_see_the_writes_before_them_however_the_answers_are_cut(
    todo: list[tuple[str, int, int]], cuts: list[int]
) -> None:
    values = dict.fromkeys(range(4), 0)
    with machine(Registers(), cuts) as qtest:
        for what, place, value in todo:
            if what == "w":
                qtest.writel(place, value)
                values[place] = value
            else:
                assert qtest.readl(place) == values[place]
        qtest.flush()
        assert qtest.commands == len(todo)


def test_ports_and_memory_have_words_of_their_own() -> None:
    registers = Registers()
    registers.values[0xCFC] = 0xFEED
    with machine(registers) as qtest:
        qtest.outl(0xCF8, 0x80001000)
        assert qtest.inl(0xCFC) == 0xFEED
        qtest.write(0x1000, b"\xfa\xf4")
        with pytest.raises(QtestRefused, match=r"Unknown command 'write'"):
            qtest.flush()
    assert registers.heard == ["outl 0xcf8 0x80001000", "inl 0xcfc", "write 0x1000 0x2 0xfaf4"]


def test_a_write_waits_for_nobody_until_too_many_are_under_way() -> None:
    ours, theirs = socket.socketpair()
    under_way, answered = [], 0

    def hold_answers_back() -> None:
        """Answer only when the client has stopped to send: it waits now."""
        nonlocal answered
        theirs.settimeout(QUIET_S)
        buffer = b""
        while answered < 150:
            try:
                buffer += theirs.recv(65536)
            except TimeoutError:
                count = buffer.count(b"\n") - answered
                if count:
                    under_way.append(count)
                    theirs.sendall(b"OK\n" * count)
                    answered += count

    thread = threading.Thread(target=hold_answers_back, daemon=True)
    with theirs:
        qtest = Qtest(ours)
        began = time.monotonic()
        for number in range(MAX_POSTED - 1):
            qtest.writel(number, 0)  # nobody is there to answer, and nobody has to be
        assert time.monotonic() - began < SOON_S
        thread.start()
        for number in range(150 - MAX_POSTED + 1):
            qtest.writel(number, 0)
        qtest.flush()
        thread.join(HANG_S)
        qtest.close()
    assert answered == 150
    assert max(under_way) == MAX_POSTED


# --- bad news -------------------------------------------------------------------------------------


def test_a_refused_write_is_told_by_name_and_the_next_answer_is_its_own() -> None:
    registers = Registers()

    def refuse_one(command: str) -> bytes:
        return b"FAIL no such place\n" if command == "writel 0xbad 0x1" else registers(command)

    with machine(refuse_one) as qtest:
        qtest.writel(0x10, 7)
        qtest.writel(0xBAD, 1)
        qtest.writel(0x20, 8)
        with pytest.raises(QtestRefused, match=r"writel 0xbad 0x1.*FAIL no such place"):
            qtest.readl(0x10)
        assert qtest.readl(0x20) == 8
        assert qtest.readl(0x10) == 7


@pytest.mark.parametrize("said", [b"OK\n", b"OK 0xfoo\n", b"OK twelve\n", b"\xff\xfe\n", b"\n"])
def test_an_answer_that_makes_no_sense_is_a_refusal_that_shows_it(said: bytes) -> None:
    with machine(lambda _: said) as qtest, pytest.raises(QtestRefused, match=r"readl 0x8"):
        qtest.readl(8)


@pytest.mark.parametrize("last_words", [b"", b"O", b"OK 0x0000"])
def test_an_end_in_mid_answer_is_qemu_gone(last_words: bytes) -> None:
    ours, theirs = socket.socketpair()
    qtest = Qtest(ours)
    qtest.writel(0, 1)
    theirs.sendall(b"OK\n" + last_words)
    theirs.shutdown(socket.SHUT_WR)
    with pytest.raises(QemuGone, match=r"readl 0x8"):
        qtest.readl(8)
    theirs.close()
    with pytest.raises(QemuGone):
        qtest.readl(8)
    qtest.close()
    with pytest.raises(QemuGone):
        qtest.readl(8)


@pytest.mark.parametrize("trickle", [b"", b"O", b"OK\nO"])
def test_a_machine_that_says_nothing_or_never_ends_its_line_is_not_waited_for(
    trickle: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(qtest_module, "ANSWER_TIMEOUT_S", 0.1)
    ours, theirs = socket.socketpair()
    with theirs:
        qtest = Qtest(ours)
        theirs.sendall(trickle)
        began = time.monotonic()
        qtest.writel(0, 1)
        with pytest.raises(QemuGone, match="did not answer"):
            qtest.readl(4)
        assert time.monotonic() - began < SOON_S
        qtest.close()


def test_a_machine_that_does_not_even_listen_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(qtest_module, "ANSWER_TIMEOUT_S", 0.1)
    ours, theirs = socket.socketpair()
    with theirs:
        qtest = Qtest(ours)
        began = time.monotonic()
        with pytest.raises(QemuGone, match="no longer takes"):
            qtest.write(0, bytes(1 << 20))  # more than the socket holds
        assert time.monotonic() - began < SOON_S
        qtest.close()
