"""What a frame is to a dying kernel, for a whole batch at once: netdump's, netconsole's, TFTP's.

The client always speaks from UDP port 20024 and is always spoken to there (FreeBSD
sys/netinet/netdump/netdump.h), whatever port the server's side uses; so the two port fields tell
the direction, and a client's message carries its type in the first word of its payload. IPv4
options and fragments never occur in the protocol and count as other. A client with a kernel's stack
may make them all the same: ``are_pieces`` notices.

TFTP has no port but the server's 69, where a WRQ goes: what follows is between two ports that the
ends draw (RFC 1350, 4). So it is told by opcode and size, between ports that may be drawn.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from bench.wire.contracts import Direction
from netdump.messages import CLIENT_PORT, MessageType
from nic_models.frames import Frames

#: Names of the kinds; a kind's code is its index here.
KINDS: Final = (
    *("other", "arp", "herald", "finished", "vmcore", "kdh", "key", "ack"),
    "netconsole",
    *("wrq", "data", "oack", "error"),
)
CODE: Final = {name: code for code, name in enumerate(KINDS)}
#: Kinds that travel one way only.
ONLY: Final[dict[str, Direction]] = {
    **dict.fromkeys(("herald", "finished", "vmcore", "kdh", "key", "netconsole"), "to-server"),
    **dict.fromkeys(("wrq", "data"), "to-server"),
    **dict.fromkeys(("ack", "oack"), "to-client"),
}
#: Codes of the kinds that carry the dump.
DATA: Final = (CODE["vmcore"], CODE["data"])

#: Message type on the wire -> kind; what lies beyond the last type is other.
_BEYOND: Final = max(MessageType) + 1
_BY_TYPE: Final = np.zeros(_BEYOND + 1, np.uint8)
_BY_TYPE[MessageType.HERALD] = CODE["herald"]
_BY_TYPE[MessageType.FINISHED] = CODE["finished"]
_BY_TYPE[MessageType.VMCORE] = CODE["vmcore"]
_BY_TYPE[MessageType.KDH] = CODE["kdh"]
_BY_TYPE[MessageType.EKCD_KEY] = CODE["key"]

#: Where a Linux kernel's netconsole sends from and to, unless it is told otherwise
#: (Documentation/networking/netconsole.rst).
NETCONSOLE_PORTS: Final = (6665, 6666)

#: Where a TFTP server is first spoken to.
TFTP_PORT: Final = 69
#: Ports below are never drawn for a transfer.
_FIRST_DRAWN: Final = 1024
#: TFTP's opcode -> kind, and the least and the most that such a UDP datagram is long (RFC 1350, 5;
#: RFC 2347). A WRQ is told by its port, too.
_TFTP: Final = {
    3: (CODE["data"], 12, 0xFFFF),
    4: (CODE["ack"], 12, 12),
    5: (CODE["error"], 12, 0xFFFF),
    6: (CODE["oack"], 10, 0xFFFF),
}
_WRQ: Final = 2

_WORDS: Final = 23  # big-endian 16-bit words up to the end of the message type, byte 46
_ETHERTYPE, _UDP_SOURCE, _UDP_DESTINATION, _UDP_LENGTH, _OPCODE, _TYPE_LOW = 6, 17, 18, 19, 21, 22
#: Word -> (the bits that matter, what they are): IPv4 without options, no fragment, UDP.
_UDP: Final = {6: (0xFFFF, 0x0800), 7: (0xFF00, 0x4500), 10: (0x3FFF, 0), 11: (0xFF, 17)}
_MESSAGE: Final = _UDP | {17: (0xFFFF, CLIENT_PORT), 21: (0xFFFF, 0)}
_ACK: Final = _UDP | {18: (0xFFFF, CLIENT_PORT)}
#: The same with options or in fragments, as far as it can be said of all of them.
_ANY_UDP: Final = {6: (0xFFFF, 0x0800), 7: (0xF000, 0x4000), 11: (0xFF, 17)}
_UDP_SIZE, _MESSAGE_SIZE, _ARP_SIZE = 42, 46, 42
_IP_END: Final = 34

Pattern = tuple[slice, NDArray[np.uint16], NDArray[np.uint16]]


def _pattern(of: dict[int, tuple[int, int]]) -> Pattern:
    """Such a table for all rows at once: which words, their bits that matter, what they are."""
    span = range(min(of), max(of) + 1)
    masks, values = zip(*(of.get(word, (0, 0)) for word in span), strict=True)
    return slice(span.start, span.stop), np.array(masks, np.uint16), np.array(values, np.uint16)


_IS_UDP, _IS_MESSAGE, _IS_ACK = _pattern(_UDP), _pattern(_MESSAGE), _pattern(_ACK)
_IS_ANY_UDP: Final = _pattern(_ANY_UDP)


def classify(frames: Frames) -> NDArray[np.uint8]:
    """Kind codes, uint8 (n,), of a batch of Ethernet frames of either direction."""
    kinds = np.zeros(len(frames), np.uint8)
    if not len(frames):
        return kinds
    words = leading_words(frames, _WORDS)
    which, kind = _messages(words, frames.lengths)
    kinds[which] = kind[which]
    udp = _matches(words, _IS_UDP) & (frames.lengths >= _UDP_SIZE)
    kinds[udp & (words[:, _UDP_DESTINATION] == CLIENT_PORT)] = CODE["ack"]
    source, destination = NETCONSOLE_PORTS
    to_console = (words[:, _UDP_SOURCE] == source) & (words[:, _UDP_DESTINATION] == destination)
    kinds[udp & to_console] = CODE["netconsole"]
    kinds[(words[:, _ETHERTYPE] == 0x0806) & (frames.lengths >= _ARP_SIZE)] = CODE["arp"]
    rest = udp & (kinds == CODE["other"]) & (frames.lengths >= _MESSAGE_SIZE)
    if rest.any():
        kinds[rest] = _tftp(words[rest])
    return kinds


def _tftp(words: NDArray[np.uint16]) -> NDArray[np.uint8]:
    """What UDP datagrams would be as TFTP, uint8 (n,)."""
    kinds = np.zeros(len(words), np.uint8)
    opcode, length = words[:, _OPCODE], words[:, _UDP_LENGTH]
    ports = words[:, [_UDP_SOURCE, _UDP_DESTINATION]]
    drawn = ((ports >= _FIRST_DRAWN) | (ports == TFTP_PORT)).all(axis=1)
    for code, (kind, least, most) in _TFTP.items():
        kinds[drawn & (opcode == code) & (length >= least) & (length <= most)] = kind
    kinds[(opcode == _WRQ) & (words[:, _UDP_DESTINATION] == TFTP_PORT)] = CODE["wrq"]
    return kinds


def are_messages(frames: Frames) -> NDArray[np.bool_]:
    """Which of them are what a client tells its server, bool (n,): by port and by type."""
    which, kind = _messages(leading_words(frames, _WORDS), frames.lengths)
    theirs: NDArray[np.bool_] = which & (kind != CODE["other"])
    return theirs


def are_acks(frames: Frames) -> NDArray[np.bool_]:
    """Which of them ``classify`` calls acks, bool (n,)."""
    words = leading_words(frames, _WORDS)
    return _matches(words, _IS_ACK) & (frames.lengths >= _UDP_SIZE)


def are_pieces(frames: Frames) -> NDArray[np.bool_]:
    """Which of them are UDP that can't be read here, bool (n,): IP fragments, or IP options."""
    words = leading_words(frames, _WORDS)
    odd = ((words[:, 10] & 0x3FFF) != 0) | ((words[:, 7] & 0x0F00) != 0x0500)
    pieces: NDArray[np.bool_] = odd & _matches(words, _IS_ANY_UDP)
    return pieces & (frames.lengths >= _IP_END)


def _messages(
    words: NDArray[np.uint16], lengths: NDArray[np.int64]
) -> tuple[NDArray[np.bool_], NDArray[np.uint8]]:
    """Which come from a client's port; and what kind each would be, going by its type alone."""
    which = _matches(words, _IS_MESSAGE) & (lengths >= _MESSAGE_SIZE)
    return which, _BY_TYPE[np.minimum(words[:, _TYPE_LOW], _BEYOND)]


def _matches(words: NDArray[np.uint16], pattern: Pattern) -> NDArray[np.bool_]:
    where, masks, values = pattern
    found: NDArray[np.bool_] = ((words[:, where] & masks) == values).all(axis=1)
    return found


def leading_words(frames: Frames, count: int) -> NDArray[np.uint16]:
    """The first ``count`` big-endian 16-bit words of each frame, uint16 (n, count), zero padded.

    Bytes past a frame's length are not cleared: check the length before believing a word.
    """
    head = frames.data[:, : 2 * count]
    if head.shape[1] < 2 * count:
        head = np.pad(head, ((0, 0), (0, 2 * count - head.shape[1])))
    head = np.ascontiguousarray(head)
    return head.view(">u2").astype(np.uint16)
