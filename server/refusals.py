"""What a server refuses, by its name: for the counters, the log and the info files.

The protocol has no way to say no, so a client whose dump is refused sees silence, and its operator
must find the reason on the server. So each refusal has a short fixed *reason*, for counters, and a
sentence, which the log (``Refusals``) and the info file of the dump (``Named``) show.

Strings that came over the wire are escaped here, before they reach a terminal.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from netdump.errors import (
    BadCrc,
    BadTag,
    KdhLength,
    KdhMagic,
    KdhParity,
    KdhVersion,
    LengthMismatch,
    MalformedHeader,
    NetdumpError,
    Runt,
    TooLong,
    UnknownType,
)
from netdump.kdh import KDH_VERSION, KernelDumpHeader, parse_kdh
from server.config import ServerConfig
from server.infofile import escape
from server.limiter import OTHERS, RateLimiter

#: Told of what happens: a short fixed name and fields fit for JSON.
OnEvent = Callable[[str, Mapping[str, Any]], None]

#: Characters of an error's message: log lines are bounded, and an info file keeps to one block.
_LONGEST: Final = 200
BEYOND: Final = "beyond-max-dump"
#: Refusals that leave a dump without its header: the client goes on only after an ack.
_COSTS_THE_HEADER: Final = frozenset(
    {
        *(kind.reason for kind in (KdhLength, KdhMagic, KdhVersion, KdhParity)),
        TooLong.reason,
        BEYOND,
    }
)
_MALFORMED: Final = {
    Runt.reason: "datagrams shorter than a message's header came and were refused",
    LengthMismatch.reason: "messages whose length is not what they say came and were refused",
    UnknownType.reason: "messages of no known type came and were refused",
    BadCrc.reason: "messages whose CRC32C is wrong came, damaged on their way, and were refused",
    BadTag.reason: "messages whose tag is wrong came, from who has not the key, and were refused",
}


@dataclass(frozen=True, slots=True)
class Refusal:
    """One thing that was refused. What came over the wire is escaped in ``message``."""

    reason: str
    message: str
    header: KernelDumpHeader | None = None
    """A kernel dump header of another version: shown, not believed."""

    def fields(self) -> dict[str, Any]:
        """For an event."""
        told: dict[str, Any] = {"reason": self.reason, "message": self.message}
        if (header := self.header) is not None:
            told |= {
                "version": header.version,
                "architecture": escape(header.architecture),
                "length": header.dumplength,
                "hostname": escape(header.hostname),
                "panic": escape(header.panicstring),
            }
        return told


SECOND_HEADER: Final = Refusal(
    "second-header", "a second kernel dump header came that is not the first, and was refused"
)
NO_DIGEST: Final = Refusal(
    "finished-digest", "a FINISHED without the digest that was agreed upon came and was refused"
)
NO_HERALD: Final = Refusal(
    "not-a-herald", "messages that are no HERALDs came to the HERALDs' port and were refused"
)
KEYLESS: Final = Refusal(
    "no-key", "a HERALD of a client without a key came and was refused (--require-key)"
)


class Refusals:
    """A server's: counts each, and tells it with its client, as often as a log can bear."""

    def __init__(self, on_event: OnEvent) -> None:
        self.counts: Counter[str] = Counter()
        """By reason."""
        self._on_event = on_event
        self._limiter: RateLimiter[tuple[str, Mapping[str, Any]]] = RateLimiter()
        self._now = 0.0

    def advance(self, now: float) -> None:
        """The time is ``now``, seconds: tell what was left out and is due."""
        self._now = now
        for key, (kind, fields), left_out in self._limiter.due(now):
            self._told_late(key, kind, fields, left_out)

    def finish(self) -> None:
        """The server stops: tell what was left out and would have been told later."""
        for key, (kind, fields), left_out in self._limiter.rest():
            self._told_late(key, kind, fields, left_out)

    def refuse(
        self, client: tuple[str, int], refusal: Refusal, count: int = 1, **fields: Any
    ) -> None:
        """Count it, and tell it or leave it out."""
        self.counts[refusal.reason] += count
        self.tell("refused", client, count, **fields, **refusal.fields())

    def _told_late(
        self, key: Hashable, kind: str, fields: Mapping[str, Any], left_out: int
    ) -> None:
        if key is OTHERS:
            fields = {**fields, "client": "others"}
        self._on_event(kind, {**fields, "left_out": left_out})

    def tell(self, kind: str, client: tuple[str, int], count: int = 1, **fields: Any) -> None:
        """An event that a client can bring about as often as it likes."""
        fields = {"client": f"{client[0]}:{client[1]}", **fields}
        key = client[0], kind, fields.get("reason")
        if self._limiter.admit(key, (kind, fields), self._now, count):
            self._on_event(kind, fields)


class Named:
    """What one dump was refused, in words for its info file: of each reason the first."""

    def __init__(self) -> None:
        self.by_reason: dict[str, Refusal] = {}

    def add(self, refusal: Refusal) -> bool:
        """True if it is the first of its reason."""
        return self.by_reason.setdefault(refusal.reason, refusal) is refusal

    @property
    def sentences(self) -> list[str]:
        return [refusal.message for refusal in self.by_reason.values()]

    @property
    def header(self) -> KernelDumpHeader | None:
        """The first one of another version."""
        refusal = self.by_reason.get(KdhVersion.reason)
        return refusal.header if refusal else None

    @property
    def costs_the_header(self) -> bool:
        """Is a refusal the cause, if no header was taken?"""
        return not _COSTS_THE_HEADER.isdisjoint(self.by_reason)


def judge_header(octets: bytes, config: ServerConfig) -> KernelDumpHeader | Refusal:
    """The kernel dump header in ``octets``, or why no dump is judged by it here."""
    try:
        header = parse_kdh(octets)
    except MalformedHeader as error:
        why = f"a kernel dump header came and was refused: {_said(error)}"
        return Refusal(error.reason, why)
    if header.version != KDH_VERSION:
        return Refusal(
            KdhVersion.reason,
            f"a kernel dump header of version {header.version} came and was refused: only version "
            f"{KDH_VERSION} (FreeBSD 12 and later) is taken",
            header,
        )
    if header.dumplength > config.max_dump:
        return Refusal(
            BEYOND,
            f"a kernel dump header that promises {header.dumplength} bytes came and was refused: "
            f"beyond --max-dump, {config.max_dump} bytes; raise it",
        )
    return header


def not_proved(error: NetdumpError) -> Refusal:
    """A proof that opens nothing."""
    return Refusal(error.reason, f"{_said(error)} came and was refused")


def folder_refused(error: NetdumpError) -> Refusal:
    """The folder that a HERALD asks for."""
    return Refusal(
        "herald-path",
        f"the folder that the client asks for: {_said(error)}; the dump goes to the dump folder",
    )


def no_store(error: NetdumpError) -> Refusal:
    """The dump folder itself."""
    return Refusal(error.reason, f"a HERALD came and was refused: {_said(error)}")


def too_many_clients(config: ServerConfig) -> Refusal:
    return Refusal(
        "too-many-clients",
        "a HERALD came and was refused: running dumps take all of --max-clients, "
        f"{config.max_clients}",
    )


def announces_too_much(length: int, config: ServerConfig) -> Refusal:
    return Refusal(
        BEYOND,
        f"a client that announces {length} bytes came and was refused: beyond --max-dump, "
        f"{config.max_dump} bytes; raise it",
    )


def beyond_max_dump(config: ServerConfig) -> Refusal:
    return Refusal(
        BEYOND,
        f"data beyond --max-dump, {config.max_dump} bytes, came and were refused; raise it",
    )


def malformed(reason: str, limit: int, longest: int, config: ServerConfig) -> Refusal:
    """For the reason of a ``MalformedMessage``. ``limit``: most octets a datagram may have here;
    ``longest``: the most that came.
    """
    if reason != TooLong.reason:
        return Refusal(reason, _MALFORMED[reason])
    takes, cure = (
        ("--max-datagram", "raise it")
        if config.strict_finish
        else ("--stock-acks takes", "so it is with netdumpd")
    )
    return Refusal(
        reason,
        f"frames longer than {takes} came and were refused: {longest} octets came, at most "
        f"{limit} are taken; {cure}",
    )


def _said(error: NetdumpError) -> str:
    """An error's message, without its evidence. The middle of a long one may be a path."""
    text = escape(str(error.args[0]))
    return (
        text if len(text) <= _LONGEST else f"{text[: _LONGEST // 2]} ... {text[-_LONGEST // 2 :]}"
    )
