"""Links for the tests of windows: wires in memory that lose what they are told to lose."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from netdump.flight import memory_for
from netdump.messages import MessageType
from netdump.profiles import PROFILES, Profile
from netdump.sliding import SlidingWindow
from netdump.window import fragment

MSS = 1448

#: Says what becomes of the n-th transmission of a seqno: does it arrive, does its ack?
Fate = Callable[[int, int], tuple[bool, bool]]


class LossyLink:
    """A link whose peer acknowledges what arrives, one poll later."""

    payload_size = MSS

    def __init__(self, fate: Fate, ring: int = 10_000) -> None:
        self._fate = fate
        self._ring = ring
        self._acks: list[int] = []
        self.kept: set[int] = set()
        self.sent: Counter[int] = Counter()
        self.in_flight: set[int] = set()
        self.most_in_flight = 0
        self.polls = 0
        self.refused: Counter[str] = Counter()
        self.resent = 0
        self.probed = 0

    def send(self, kind: MessageType, fragments: NDArray[np.void]) -> int:
        taken = fragments[: self._ring]
        for seqno in taken["seqno"].tolist():
            nth = self.sent[seqno]
            self.sent[seqno] += 1
            self.in_flight.add(seqno)
            self.most_in_flight = max(self.most_in_flight, len(self.in_flight))
            arrives, ack_arrives = self._fate(seqno, nth)
            if arrives:
                self.kept.add(seqno)
                if ack_arrives:
                    self._acks.append(seqno)
        return len(taken)

    def poll(self) -> NDArray[np.int64]:
        self.polls += 1
        acks, self._acks = self._acks, []
        self.in_flight -= set(acks)
        return np.array(acks, np.int64)

    def delay(self) -> None:
        pass

    def refuse(self, reason: str, count: int = 1) -> None:
        if count:
            self.refused[reason] += count

    def retransmits(self, count: int, why: str) -> None:
        self.resent += count

    def goes_elsewhere(self) -> None:
        """There is nobody else on this link."""

    def probes(self, count: int) -> None:
        self.probed += count


class Path:
    """A way of so many frames a tick, with a round trip, and a queue before its slowest line."""

    def __init__(self, rate: int, round_trip: int, queue: int) -> None:
        self.rate, self.round_trip, self.room = rate, round_trip, queue
        self.now = 0
        self.overflowed = 0
        self.passed = 0
        self._queue: deque[tuple[PathLink, int]] = deque()

    def enter(self, link: PathLink, seqno: int) -> None:
        if len(self._queue) >= self.room:
            self.overflowed += 1
        else:
            self._queue.append((link, seqno))

    def tick(self) -> None:
        self.now += 1
        for _ in range(min(self.rate, len(self._queue))):
            link, seqno = self._queue.popleft()
            self.passed += 1
            link.arrives(seqno, self.now + self.round_trip - 1)


class PathLink(LossyLink):
    """One sender's link over a path. ``wait``, at a tick's end, lets the others have their turn."""

    def __init__(self, path: Path, fate: Fate, wait: Callable[[], None] | None = None) -> None:
        super().__init__(fate)
        self._path = path
        self._wait = wait or path.tick
        self._due: deque[tuple[int, int]] = deque()

    def send(self, kind: MessageType, fragments: NDArray[np.void]) -> int:
        for seqno in fragments["seqno"].tolist():
            self.sent[seqno] += 1
            self._path.enter(self, seqno)
        return len(fragments)

    def arrives(self, seqno: int, due: int) -> None:
        arrives, ack_arrives = self._fate(seqno, self.sent[seqno] - 1)
        if arrives:
            self.kept.add(seqno)
            if ack_arrives:
                self._due.append((due, seqno))

    def poll(self) -> NDArray[np.int64]:
        self.polls += 1
        acks = []
        while self._due and self._due[0][0] <= self._path.now:
            acks.append(self._due.popleft()[1])
        return np.array(acks, np.int64)

    def delay(self) -> None:
        self._wait()


def profile(name: str, **columns: object) -> Profile:
    return replace(PROFILES[name], **{"polls": 5, **columns})  # type: ignore[arg-type]


def lose_once(*seqnos: int) -> Fate:
    return lambda seqno, nth: (not (seqno in seqnos and nth == 0), True)


def window_over(link: LossyLink, row: Profile, first: int = 100) -> SlidingWindow:
    memory = np.zeros(memory_for(row.window_frames), np.uint8)
    return SlidingWindow(link, row, memory, first)


def slide(link: LossyLink, row: Profile, count: int, first: int = 100) -> SlidingWindow:
    window = window_over(link, row, first)
    window.send(MessageType.VMCORE, iter([fragment(0, 0, count * MSS, MSS)]))
    return window
