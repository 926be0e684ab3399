"""When a server has done with what has reached it: seen from outside."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest

from bench.servers.rest import at_rest
from tests.patience import until

#: It hears datagrams. One that says ``work`` makes it work until it finds another; ``thread``,
#: ``child``: a thread or a child of its own works for ever.
_HEARER = """
import os, select, socket, sys, threading
def work():
    while True: pass
hearer = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
hearer.bind(("127.0.0.1", 0))
print(hearer.getsockname()[1], flush=True)
while True:
    word = hearer.recv(100)
    if word == b"work":
        while not select.select([hearer], [], [], 0)[0]: pass
    elif word == b"thread":
        threading.Thread(target=work, daemon=True).start()
    elif word == b"child" and os.fork() == 0:
        work()
"""


@pytest.fixture
def hearer() -> Iterator[tuple[int, Callable[[bytes], None]]]:
    """Its pid, and what says a word to it."""
    with subprocess.Popen(
        [sys.executable, "-c", _HEARER], stdout=subprocess.PIPE, start_new_session=True
    ) as child:
        try:
            assert child.stdout is not None
            port = int(child.stdout.readline())
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as speaker:

                def say(word: bytes) -> None:
                    speaker.sendto(word, ("127.0.0.1", port))

                yield child.pid, say
        finally:
            os.killpg(child.pid, signal.SIGKILL)


Hearer = tuple[int, Callable[[bytes], None]]


def test_one_that_waits_for_a_message_is_at_rest(hearer: Hearer) -> None:
    until(lambda: at_rest(hearer[0]), "it waits")
    assert all(at_rest(hearer[0]) for _ in range(100))


def test_one_with_something_to_read_is_not(hearer: Hearer) -> None:
    """It has not been given a CPU since that came: it can't be awake."""
    pid, say = hearer
    until(lambda: at_rest(pid), "it waits")
    os.kill(pid, signal.SIGSTOP)
    until(lambda: at_rest(pid), "it has stopped")
    say(b"nothing")
    assert not any(at_rest(pid) for _ in range(20))
    os.kill(pid, signal.SIGCONT)
    until(lambda: at_rest(pid), "it has read that")


@pytest.mark.parametrize("who", [b"work", b"thread", b"child"])
def test_one_that_works_is_not_nor_with_a_thread_or_a_child_that_does(
    hearer: Hearer, who: bytes
) -> None:
    pid, say = hearer
    until(lambda: at_rest(pid), "it waits")
    say(who)
    end = time.monotonic() + 0.2
    while time.monotonic() < end:
        assert not at_rest(pid)


def test_between_a_datagrams_arrival_and_the_end_of_the_work_there_is_no_gap(
    hearer: Hearer,
) -> None:
    """Woken, reading, working: whatever of it a look meets."""
    pid, say = hearer
    for _ in range(200):
        until(lambda: at_rest(pid), "it waits")
        say(b"work")
        assert not at_rest(pid)
        say(b"enough")
