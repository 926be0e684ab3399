"""The netdump client: what a panicked kernel runs to get its memory out.

Theory. debugnet_connect finds the peer and heralds the dump; the dump core then hands over the
image in pieces; a 512-byte kernel dump header says how long it is; FINISHED closes. Everything that
may happen in which order is the table ``STEPS``; a step either succeeds or ends the dump with an
errno. There is no abort message in the protocol: a client that gives up just goes silent. A server
that gives up can say so to a client that has a key (``nak.py``).

The order differs by version: since FreeBSD 12 the header comes last, since its length is known only
then; since 14 an encrypted dump's key block before the data (``ekcd.py``); the 2010 patch made the
write at offset 0 the header, and let the disk format's trailing copy through as the last data
("footer").

What a caller learns is ``Report``. Stock netdump returns success even when FINISHED, or the last
flush before it, was never acknowledged (netdump_client.c, the ``virtual == NULL`` case):
``Profile.reports_unfinished`` is that column.

All memory the client uses (a 64 KiB buffer, the image's header page, the table of a sliding window,
the ring of a dump that is compressed or encrypted) is taken from the panic arena when it is made,
at boot. It reads no clock: it counts polls.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from netdump.contracts import DebugnetMethods, Mbufs, Memory
from netdump.digest import Hasher
from netdump.dumper import MAX_IO_SIZE, DumperInfo, DumpImage, DumpRefused, Piece
from netdump.dumpon import KernelCrypto
from netdump.errors import BadChallenge, LocalError, SendFailed
from netdump.flight import memory_for
from netdump.kdh import KernelDumpHeader
from netdump.keys import CLIENT_NONCE_SIZE
from netdump.link import DebugnetLink
from netdump.messages import HERALD_PATH_MAX, MessageType
from netdump.offer import AUTHENTICATION, DIGEST
from netdump.opening import LEAST_MTU, Facts, Prover, proof_mtu
from netdump.outbound import Outbound, check_together
from netdump.profiles import Profile
from netdump.ring import RING_SIZE, fragments
from netdump.sliding import SlidingWindow
from netdump.udplink import LinkConfig, LinkStats, Tell
from netdump.window import StopAndWait, fragment, in_whole_messages


class Step(Enum):
    """Where the client stands. The values are what the event log and the verdict say."""

    RESOLVE = "find the server's MAC"
    HERALD = "herald the dump"
    KEY = "send the key block"
    DATA = "send memory"
    HEADER = "send the kernel dump header"
    FINISH = "close the dump"
    DONE = "done"
    FAILED = "failed"


#: The order of the steps, by ``Profile.header``; a step that fails leads to FAILED. KEY is taken by
#: who encrypts. Header and key come in the order of FreeBSD 14.
STEPS: Final[dict[str, tuple[Step, ...]]] = {
    "last": (Step.RESOLVE, Step.HERALD, Step.KEY, Step.DATA, Step.HEADER, Step.FINISH),
    "first": (Step.RESOLVE, Step.HERALD, Step.HEADER, Step.DATA, Step.FINISH),
}


#: Where in the client's buffer the facts of a proof lie, behind the HERALD's path.
_FACTS_AT: Final = HERALD_PATH_MAX
#: What FreeBSD's netdump_start does before it says that it dumps.
_CONNECTING: Final = (Step.RESOLVE, Step.HERALD)


@dataclass(frozen=True, slots=True)
class DumpRequest:
    """What dumpon(8) and the panic say. ``draw`` is 32 bits of the machine's entropy, ``nonce`` 64
    more; ``key`` is what client and server share, 32 octets, if they do. ``crypto``: with what the
    dump is encrypted, of a profile that does.
    """

    link: LinkConfig
    header: KernelDumpHeader
    path: str = ""
    draw: int = 0
    nonce: bytes = bytes(CLIENT_NONCE_SIZE)
    key: bytes | None = field(default=None, repr=False)
    crypto: KernelCrypto | None = None


@dataclass(slots=True)
class Report:
    """What the caller of the dump learns, and what a debugger could have counted."""

    profile: str
    claims_success: bool = False
    error: str | None = None
    """errno's name, as the kernel's caller sees it."""
    failed_in: Step | None = None
    detail: str = ""
    dump_length: int = 0
    stats: LinkStats = field(default_factory=LinkStats)


class DumpClient(Protocol):
    """A dump client in the dying kernel: ours, or anybody's who speaks through a driver."""

    @property
    def image(self) -> DumpImage:
        """What it is to dump."""
        ...

    def dump(
        self,
        request: DumpRequest,
        nic: DebugnetMethods,
        mbufs: Mbufs,
        delay_us: Callable[[int], None],
        tell: Tell,
    ) -> Report:
        """Send it all, once; never raises for what the peer or the network did."""
        ...


class NetdumpClient:
    """One dump. Make it at boot (it reserves memory), ``dump`` once, in the panic."""

    def __init__(self, profile: Profile, memory: Memory, image: DumpImage) -> None:
        """``image``: what is to be dumped of ``memory``.

        Raises DumpRefused, as dumpon would, if the profile can't be.
        """
        check_together(profile.compression, profile.encryption)
        if profile.transforms and (profile.header == "first" or profile.footer):
            why = "a dump that is compressed or encrypted has its header last, and no footer"
            raise DumpRefused(errno.EOPNOTSUPP, why)
        self.profile = profile
        self.image = image
        self._memory = memory
        self._buffer_at = memory.reserve(MAX_IO_SIZE, 4096)
        self._window_memory = np.empty(0, np.uint8)
        if profile.window == "sliding":
            size = memory_for(profile.window_frames)
            at = memory.reserve(size, 8)
            self._window_memory = memory.buffer[at : at + size]
            self._ring_at = memory.reserve(RING_SIZE, 8) if profile.transforms else 0

    def dump(
        self,
        request: DumpRequest,
        nic: DebugnetMethods,
        mbufs: Mbufs,
        delay_us: Callable[[int], None],
        tell: Tell,
    ) -> Report:
        """Send the whole image; never raises for what the peer or the network did."""
        if (request.crypto and request.crypto.encryption) != self.profile.encryption:
            raise LocalError(
                f"encryption: {self.profile.encryption}, and the key for it go together"
            )
        # 0 and 1 are taken: the userland tool starts at 0 and the stock kernel at 1.
        first = 1 if self.profile.first_seqno == "one" else 2 + request.draw % (2**31)
        prover = self._prover(request)
        link = DebugnetLink(
            self.profile,
            request.link,
            nic,
            self._memory,
            mbufs,
            delay_us,
            tell,
            first,
            prover,
            self._buffer_at + _FACTS_AT,
        )
        session = _Session(self, request, link, first, prover)
        report = Report(self.profile.name, dump_length=self.image.length, stats=link.stats)
        step = Step.RESOLVE
        try:
            for step in STEPS[self.profile.header]:
                if step is Step.KEY and request.crypto is None:
                    continue
                tell("step", step=step.value, poll=link.stats.polls)
                session.ACTIONS[step](session)
            report.claims_success = True
        except (SendFailed, DumpRefused) as failure:
            report.error = errno.errorcode[failure.errno]
            if step in _CONNECTING and self.profile.connect_errors_are_einval:
                report.error = "EINVAL"
            report.failed_in = step
            report.detail = str(failure)
            if step is Step.FINISH and not self.profile.reports_unfinished:
                report.claims_success = True
                report.error = None
        finally:
            link.close()
        end = Step.DONE if report.claims_success else Step.FAILED
        tell("step", step=end.value, poll=link.stats.polls, error=report.error)
        return report

    def _prover(self, request: DumpRequest) -> Prover | None:
        """Of a client that has a key, and can offer to use it."""
        if request.key is None or not self.profile.offer:
            return None
        header = request.header
        facts = Facts(self.image.length, header.architecture, header.hostname, header.panicstring)
        return Prover(request.key, request.link.client_ip, request.nonce, facts)


class _Session:
    """The actions of ``STEPS`` and the sequence numbers they share."""

    def __init__(
        self,
        client: NetdumpClient,
        request: DumpRequest,
        link: DebugnetLink,
        first_seqno: int,
        prover: Prover | None,
    ) -> None:
        self._client = client
        self._prover = prover
        self._profile = client.profile
        self._request = request
        self._link = link
        self._memory = client._memory
        self._buffer_at = client._buffer_at
        profile = client.profile
        # A HERALD is one message, and always waited for: only its ack tells the server's port. That
        # a stock server takes a second one for another dump is a reason not to hurry with it.
        self._messages = StopAndWait(link, profile, first_seqno)
        self._window: SlidingWindow | None = None
        if profile.window == "sliding":
            memory = client._window_memory
            self._window = SlidingWindow(link, profile, memory, first_seqno + 1)
        self._used = 0  # of the buffer, by small messages
        self._hasher = Hasher()
        self._crypto = None if request.crypto is None else request.crypto.next()
        self._outbound: Outbound | None = None
        self._info = DumperInfo(
            unlimited=not profile.unlimited_is_size_zero,
            size_zero_is_unlimited=profile.unlimited_is_size_zero,
        )

    def _put(self, payload: bytes, beyond: int = 0) -> int:
        """Place a small payload in the arena's buffer; its physical address.

        Behind the last one: copies of that, which were sent before its ack came, may still lie in
        the NIC's ring. The stock client has one place for all, and a late NIC sends a mixture.
        """
        start = beyond or self._used
        at = self._buffer_at + start
        self._memory.buffer[at : at + len(payload)] = np.frombuffer(payload, np.uint8)
        if self._window is not None:  # HERALD, header, FINISHED: some 7 KiB of 64 at the most
            self._used = start + len(payload)
        return at

    def resolve(self) -> None:
        self._link.open()

    def herald(self) -> None:
        path = self._request.path
        payload = path.encode() + b"\0" if path else b""
        if self._prover is not None:
            least = max(LEAST_MTU, proof_mtu(len(self._prover.facts) + len(payload)))
            if self._link.mtu < least:
                raise SendFailed(
                    errno.EMSGSIZE,
                    f"with a key the MTU is {least} at least, for the kernel dump header and the"
                    f" proof, with the path in it, are one message each: {self._link.mtu}",
                )
            self._put(self._prover.facts + payload, _FACTS_AT)
        try:
            self._messages.send(MessageType.HERALD, 0, self._put(payload), len(payload))
        except SendFailed as failure:
            wrong = self._link.stats.refused[BadChallenge.reason]
            if failure.errno == errno.ETIMEDOUT and wrong and not self._prover_was_challenged():
                why = "who answers the HERALD has not this key: another server's, or a stranger"
                raise SendFailed(errno.EACCES, why) from failure
            raise
        if self._window is not None:
            round_trip = self._messages.round_trip
            if round_trip is not None and self._link.taken & AUTHENTICATION:
                round_trip //= 2  # a challenge and an ack were waited for
            self._window.knows(round_trip)

    def _prover_was_challenged(self) -> bool:
        """By somebody who has the key."""
        return self._prover is not None and self._prover.challenges > 0

    def _send(self, kind: MessageType, offset: int, payload: bytes) -> None:
        """One message, until it is acknowledged."""
        at = self._put(payload)
        if self._window is None:
            self._messages.send(kind, offset, at, len(payload))
        else:
            size = self._link.payload_size
            self._window.send(kind, [fragment(offset, at, len(payload), size)])

    def key(self) -> None:
        """The key block, in as many messages as it takes."""
        assert self._crypto is not None, "else there is no such step"
        self._send(MessageType.EKCD_KEY, 0, self._crypto.block.pack())

    def data(self) -> None:
        if self._profile.transforms:
            self._outbound = Outbound(self._profile.compression, self._crypto, self._digest)
        if self._window is None:
            self._flush_by_flush()
        else:
            self._slide(self._window)
        if self._profile.footer:
            self._send(MessageType.VMCORE, self._client.image.length, self._header())

    def _slide(self, window: SlidingWindow) -> None:
        """Straight from memory: nothing that is dumped changes while it is in flight. What is not
        as memory has it goes by the ring."""
        size = self._link.payload_size
        if self._outbound is not None:
            octets, memory = self._outbound.octets(self._views()), self._memory.buffer
            ring_at = self._client._ring_at
            tables = fragments(octets, memory, ring_at, size, lambda: window.kept)
        else:
            pieces = in_whole_messages(self._pieces(), size)
            tables = (fragment(p.offset, p.address, p.length, size) for p in pieces)
        window.send(MessageType.VMCORE, tables)

    def _views(self) -> Iterator[memoryview]:
        """What is dumped, in order."""
        for piece in self._client.image.pieces(self._info):
            yield _bytes_of(self._memory.buffer, piece).data

    def _pieces(self) -> Iterator[Piece]:
        """The same, digested before it is sent."""
        for piece in self._client.image.pieces(self._info):
            self._digest(_bytes_of(self._memory.buffer, piece).data)
            yield piece

    def _digest(self, octets: memoryview) -> None:
        """They are the next of the dump as it will be stored."""
        if self._link.taken & DIGEST:
            self._hasher.update(octets)

    def _flush_by_flush(self) -> None:
        """netdump_dumper: pieces gather in the 64 KiB buffer, which goes out when it is full."""
        for offset, length in self._buffered():
            self._messages.send(MessageType.VMCORE, offset, self._buffer_at, length)

    def _buffered(self) -> Iterator[tuple[int, int]]:
        start = fill = 0
        memory = self._memory.buffer
        for offset, octets in self._written():
            if fill and (fill + len(octets) > MAX_IO_SIZE or start + fill != offset):
                yield start, fill
                fill = 0
            if not fill:
                start = offset
            at = self._buffer_at + fill
            memory[at : at + len(octets)] = octets
            fill += len(octets)
        if fill:
            yield start, fill

    def _written(self) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        """What the dump core writes: offsets, and up to 64 KiB each."""
        if self._outbound is None:
            for piece in self._pieces():
                yield piece.offset, _bytes_of(self._memory.buffer, piece)
            return
        offset = 0
        for octets in self._outbound.octets(self._views()):
            yield offset, np.frombuffer(octets, np.uint8)
            offset += len(octets)

    def _header(self) -> bytes:
        plain = self._request.header
        return (plain if self._outbound is None else self._outbound.header(plain)).pack()

    def header(self) -> None:
        self._send(MessageType.KDH, 0, self._header())

    def finish(self) -> None:
        digest = self._hasher.digest().pack() if self._link.taken & DIGEST else b""
        self._send(MessageType.FINISHED, 0, digest)

    ACTIONS: Final[dict[Step, Callable[[_Session], None]]] = {
        Step.RESOLVE: resolve,
        Step.HERALD: herald,
        Step.KEY: key,
        Step.DATA: data,
        Step.HEADER: header,
        Step.FINISH: finish,
    }


def _bytes_of(memory: NDArray[np.uint8], piece: Piece) -> NDArray[np.uint8]:
    return memory[piece.address : piece.address + piece.length]
