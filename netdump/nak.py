"""How a server says no (docs/netdump2.md, *NAK*).

The stock protocol knows no way but silence, and a client that hears nothing waits: seconds, or
minutes. A NAK ends it at once, with a reason::

     0               4       8        12    16    32
     | NDN + taken   | seqno | reason | 0   | tag |

``seqno`` is the HERALD's. A NAK always has a tag. Without one it would be what a stranger needs to
end a dump, so a client without a key never believes any, and is never sent any.
"""

from __future__ import annotations

import errno
import struct
from enum import IntEnum
from typing import Final

from netdump.errors import BadNak
from netdump.keys import TAG_SIZE

#: "NDN", and no bit.
NAK: Final = 0x4E44_4E00
_NAK: Final = struct.Struct(">IIII")
NAK_SIZE: Final = _NAK.size


class Reason(IntEnum):
    """Why a dump is refused, or ends."""

    DISK_FULL = 1
    DISK_ERROR = 2
    TOO_LARGE = 3
    BUSY = 4
    """Running dumps take all places."""
    SHUTTING_DOWN = 5
    ENDED = 6
    """The server has given it up, or the client has begun another."""
    DAMAGED = 7
    """What is stored is not what the client's digest says."""
    REFUSED = 8
    """A kernel dump header that the server does not take."""


#: What a client's caller is told, and what a person reads.
MEANS: Final[dict[int, tuple[int, str]]] = {
    Reason.DISK_FULL: (errno.ENOSPC, "its disk is full"),
    Reason.DISK_ERROR: (errno.EIO, "its disk refuses"),
    Reason.TOO_LARGE: (errno.EFBIG, "the dump is larger than it takes"),
    Reason.BUSY: (errno.EBUSY, "other dumps take all its places"),
    Reason.SHUTTING_DOWN: (errno.ESHUTDOWN, "it shuts down"),
    Reason.ENDED: (errno.ECONNRESET, "it has given this dump up"),
    Reason.DAMAGED: (errno.EBADMSG, "what it has stored is not what was sent"),
    Reason.REFUSED: (errno.EINVAL, "it does not take such a kernel dump header"),
}
#: Of a reason that a later server may have.
_UNKNOWN: Final = errno.ECONNABORTED


def is_nak(payload: bytes) -> bool:
    """Going by its length and its first three octets."""
    return len(payload) == NAK_SIZE + TAG_SIZE and payload[:3] == NAK.to_bytes(4, "big")[:3]


def pack_nak(taken: int, seqno: int, reason: Reason) -> bytes:
    """16 octets; the tag is still to come."""
    return _NAK.pack(NAK | taken, seqno, reason, 0)


def parse_nak(octets: bytes, seqno: int) -> int:
    """The reason, known or not. Raises BadNak if it is not about the HERALD of that seqno."""
    _, theirs, reason, _ = _NAK.unpack(octets)
    if theirs != seqno:
        raise BadNak(f"a NAK of seqno {theirs}: the HERALD's is {seqno}", octets)
    return int(reason)


def meaning(reason: int) -> tuple[int, str]:
    """errno, and words."""
    return MEANS.get(reason, (_UNKNOWN, f"its reason is number {reason}"))


def disk_reason(code: int) -> Reason:
    """For an errno of the server's disk."""
    if code in (errno.ENOSPC, errno.EDQUOT):
        return Reason.DISK_FULL
    return Reason.TOO_LARGE if code == errno.EFBIG else Reason.DISK_ERROR
