"""Kind ``profile``: our client, as one of the rows of ``netdump/profiles``, through a driver."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Final, Literal

from pydantic import Field, StrictBool, StrictInt, StrictStr

from bench.heartbeat import GIVEN_UP_S
from bench.kinds import ClientKind
from bench.scenario import written
from bench.table import Table
from netdump.opening import FACTS_MAX, LEAST_MTU, PROOF_SIZE
from netdump.profiles import PROFILES, Profile

if TYPE_CHECKING:
    from bench.scenario.schema import ResolvedCase

#: IPv4, UDP and netdump headers.
_HEADERS: Final = 52
#: Of a client that has a key: the most that stands before the path in its proof.
_PROOF: Final = PROOF_SIZE + FACTS_MAX


class ProfileOptions(Table):
    """Overrides of the profile's own numbers."""

    polls: Annotated[StrictInt | None, Field(ge=1, le=1_000_000)] = None
    """Polls without progress before frames are sent again."""
    retries: Annotated[StrictInt | None, Field(ge=0, le=10_000)] = None
    """How often that is done without progress before the client gives up."""
    window: Annotated[StrictInt | None, Field(ge=1, le=65_536)] = None
    """The most frames in flight, of a client with a sliding window."""
    header: Literal["first", "last"] | None = None
    """When the kernel dump header goes: before the data, or behind them."""
    footer: StrictBool | None = None
    """Send a second copy of the header after the data: it lets a server confirm the tail."""
    selective_acks: StrictBool | None = None
    """Offer to take one ack for many frames; only our server takes the offer."""
    message_crc: StrictBool | None = None
    """Offer a CRC32C of each message; only our server takes it."""
    dump_digest: StrictBool | None = None
    """Offer a digest of the dump; only our server takes it."""
    key: Annotated[StrictStr | None, Field(pattern=written.KEY)] = None
    """Shared with the server: it proves that it has it, and each message has a tag."""
    key_is_required: StrictBool | None = None
    """With a key it dumps to no server that does not show that it has it, too."""
    encryption: Literal["aes-256-cbc", "chacha20"] | None = None
    """The dump is encrypted, for a key pair of the bench's; its header goes last."""
    compression: Literal["gzip", "zstd"] | None = None
    """The dump is compressed, before it is encrypted; not with aes-256-cbc."""
    path: Annotated[str, written.PATH] | None = None
    """Below the server's folder: where the dump is to go."""


def _of(case: ResolvedCase) -> ProfileOptions:
    options: ProfileOptions = case.client_part.options
    return options


def profile_of(case: ResolvedCase) -> Profile:
    """The case's row of the profile table, with its overrides."""
    row = PROFILES[case.profile]
    wanted = _of(case)
    if wanted.polls is not None:
        row = replace(row, polls=wanted.polls)
    if wanted.retries is not None:
        row = replace(row, retries=wanted.retries)
    if wanted.window is not None:
        row = replace(row, window_frames=wanted.window)
    if wanted.header is not None:
        row = replace(row, header=wanted.header)
    if wanted.footer is not None:
        row = replace(row, footer=wanted.footer)
    if wanted.selective_acks is not None:
        row = replace(row, selective_acks=wanted.selective_acks)
    if wanted.message_crc is not None:
        row = replace(row, message_crc=wanted.message_crc)
    if wanted.dump_digest is not None:
        row = replace(row, dump_digest=wanted.dump_digest)
    if wanted.key_is_required is not None:
        row = replace(row, key_is_required=wanted.key_is_required)
    if wanted.encryption is not None:
        row = replace(row, encryption=wanted.encryption)
    if wanted.compression is not None:
        row = replace(row, compression=wanted.compression)
    return row


def _before_path(case: ResolvedCase) -> int:
    return _HEADERS + (_PROOF if _of(case).key is not None else 0)


def _needs_header_last(name: str) -> Callable[[ResolvedCase], bool]:
    """Does a case want what is sent by clients alone whose header goes last, and nowhere else?"""

    def asked(case: ResolvedCase) -> bool:
        row = profile_of(case)
        return getattr(_of(case), name) is not None and (row.header == "first" or row.footer)

    return asked


def _is_asked_in_vain(name: str) -> Callable[[ResolvedCase], bool]:
    """Does a case want what is not offered without selective acks, and those neither?"""

    def asked(case: ResolvedCase) -> bool:
        return bool(getattr(_of(case), name)) and not profile_of(case).selective_acks

    return asked


PROFILE: Final = ClientKind(
    name="profile",
    says="our client, as the profile that each case names",
    options=ProfileOptions,
    rules=(
        (
            ("client", "path"),
            lambda c: len((_of(c).path or "").encode()) + 1 > c.nic.mtu - _before_path(c),
            "with its NUL it does not fit one HERALD at this nic.mtu",
        ),
        (
            ("client", "key"),
            lambda c: _of(c).key is not None and not profile_of(c).selective_acks,
            "is proved by a client with selective acks only",
        ),
        (
            ("client", "key"),
            lambda c: _of(c).key is not None and c.nic.mtu < LEAST_MTU,
            f"needs a nic.mtu of {LEAST_MTU} at least: a tag and the kernel dump header",
        ),
        (
            ("client", "selective_acks"),
            lambda c: bool(_of(c).selective_acks) and PROFILES[c.profile].window != "sliding",
            "the stock clients' bitmap can't take them: they are for netdump2",
        ),
        *(
            (("client", name), _is_asked_in_vain(name), "is offered with selective acks only")
            for name in ("message_crc", "dump_digest")
        ),
        (
            ("client", "compression"),
            lambda c: bool(_of(c).compression) and _of(c).encryption == "aes-256-cbc",
            "aes-256-cbc can't encrypt a compressed dump (EOPNOTSUPP), chacha20 can",
        ),
        *(
            (("client", name), _needs_header_last(name), "needs the header last, and no footer")
            for name in ("encryption", "compression")
        ),
    ),
    profile=profile_of,
    profiles=True,
    asks=frozenset(
        {
            *("header", "footer", "selective_acks", "message_crc", "dump_digest"),
            *("key", "key_is_required", "path", "encryption", "compression"),
        }
    ),
    tunes=frozenset({"polls", "retries", "window"}),
    patience_s=GIVEN_UP_S,
)
