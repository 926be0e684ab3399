"""What a frame is to a dying kernel, for a whole batch at once: netdump's, or netconsole's.

The client always speaks from UDP port 20024 and is always spoken to there (FreeBSD
sys/netinet/netdump/netdump.h), whatever port the server's side uses; so the two port fields tell
the direction, and a client's message carries its type in the first word of its payload. IPv4
options and fragments never occur in the protocol and count as other.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from netdump.messages import CLIENT_PORT, MessageType
from nic_models.frames import Frames

#: Names of the kinds; a kind's code is its index here.
KINDS: Final = (
    *("other", "arp", "herald", "finished", "vmcore", "kdh", "key", "ack"),
    "netconsole",
)
CODE: Final = {name: code for code, name in enumerate(KINDS)}
#: What a client tells its server.
MESSAGES: Final = [CODE[kind] for kind in ("herald", "finished", "vmcore", "kdh", "key")]

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

_WORDS: Final = 23  # big-endian 16-bit words up to the end of the message type, byte 46
_ETHERTYPE, _IP_VERSION, _IP_FRAGMENT, _IP_PROTOCOL = 6, 7, 10, 11
_UDP_SOURCE, _UDP_DESTINATION, _TYPE_HIGH, _TYPE_LOW = 17, 18, 21, 22


def classify(frames: Frames) -> NDArray[np.uint8]:
    """Kind codes, uint8 (n,), of a batch of Ethernet frames of either direction."""
    if not len(frames):
        return np.zeros(0, np.uint8)
    words = leading_words(frames, _WORDS)
    ethertype = words[:, _ETHERTYPE]
    udp = (
        (ethertype == 0x0800)
        & (words[:, _IP_VERSION] >> 8 == 0x45)
        & (words[:, _IP_FRAGMENT] & 0x3FFF == 0)
        & (words[:, _IP_PROTOCOL] & 0xFF == 17)
        & (frames.lengths >= 42)
    )
    message = udp & (words[:, _UDP_SOURCE] == CLIENT_PORT) & (frames.lengths >= 46)
    number = np.where(words[:, _TYPE_HIGH] == 0, words[:, _TYPE_LOW], np.uint16(_BEYOND))
    kinds = np.where(message, _BY_TYPE[np.minimum(number, _BEYOND)], np.uint8(CODE["other"]))
    kinds[udp & (words[:, _UDP_DESTINATION] == CLIENT_PORT)] = CODE["ack"]
    source, destination = NETCONSOLE_PORTS
    to_console = (words[:, _UDP_SOURCE] == source) & (words[:, _UDP_DESTINATION] == destination)
    kinds[udp & to_console] = CODE["netconsole"]
    kinds[(ethertype == 0x0806) & (frames.lengths >= 42)] = CODE["arp"]
    return kinds


def leading_words(frames: Frames, count: int) -> NDArray[np.uint16]:
    """The first ``count`` big-endian 16-bit words of each frame, uint16 (n, count), zero padded.

    Bytes past a frame's length are not cleared: check the length before believing a word.
    """
    head = frames.data[:, : 2 * count]
    if head.shape[1] < 2 * count:
        head = np.pad(head, ((0, 0), (0, 2 * count - head.shape[1])))
    head = np.ascontiguousarray(head)
    return head.view(">u2").astype(np.uint16)
