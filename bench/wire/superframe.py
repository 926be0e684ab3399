"""Super-frames: many UDP datagrams of one flow through a TAP in one system call.

A TAP with ``IFF_VNET_HDR`` prefixes each frame with a virtio-net header (virtio 1.2, 5.1.6). Its
``GSO_UDP_L4`` says: this is one large UDP datagram; cut it into datagrams of ``gso_size`` bytes.
Writing 44 frames that way costs what one does, and a receiver without UDP_GRO gets 44 ordinary
datagrams. The kernel sends the same way when a program uses UDP_SEGMENT.

The one rule is honesty: the kernel computes the checksums of what it cuts, so it would mend a
frame that a fault has broken, and complete a header that a client built wrongly. Frames are
therefore merged only if each of them, by itself, is exactly what the kernel will make of it: same
addresses, ports, TTL and flags as its neighbour, lengths that agree with each other, both checksums
right. Only the IP identification may differ. Every other frame goes out alone, byte for byte.
"""

from __future__ import annotations

import struct
from typing import Final

import numpy as np
from numpy.typing import NDArray

from bench.wire.contracts import MINIMUM_FRAME, WireError
from bench.wire.kinds import leading_words
from netdump.checksum import row_sums
from netdump.inet import ETHERNET_SIZE, HEADERS_SIZE, IP_SIZE, PROTOCOL_UDP, UDP_SIZE
from nic_models.frames import Frames

#: flags, gso_type, hdr_len, gso_size, csum_start, csum_offset; a TAP takes the host's byte order.
VNET_HEADER: Final = struct.Struct("=BBHHHH")
VNET_DTYPE: Final = np.dtype(
    [
        ("flags", "u1"),
        ("gso_type", "u1"),
        ("hdr_len", "=u2"),
        ("gso_size", "=u2"),
        ("csum_start", "=u2"),
        ("csum_offset", "=u2"),
    ]
)
NEEDS_CSUM: Final = 1
GSO_NONE: Final = 0
GSO_UDP_L4: Final = 5

#: Datagrams in one super-frame: UDP_MAX_SEGMENTS is 64 in the oldest kernels that know them.
MAX_SEGMENTS: Final = 64
MAX_PACKET: Final = 0xFFFF

_UDP_AT: Final = ETHERNET_SIZE + IP_SIZE
_UDP_CHECKSUM: Final = 6
_WORDS: Final = HEADERS_SIZE // 2
_IP_LENGTH, _IP_ID, _IP_FRAGMENT, _IP_PROTOCOL, _IP_CHECK = 8, 9, 10, 11, 12
_UDP_LENGTH, _UDP_CHECK = 19, 20
#: Words that all frames of a super-frame share: MACs, type, version and TOS, fragment bits, TTL and
#: protocol, addresses, ports.
_SHARED: Final = np.zeros(_WORDS, np.uint16)
_SHARED[[*range(8), _IP_FRAGMENT, _IP_PROTOCOL, *range(13, 19)]] = 0xFFFF


def mergeable_runs(frames: Frames) -> list[tuple[int, int]]:
    """Cut a batch into runs [start, stop): each is one super-frame, or a single frame.

    In a run all frames have one length, but for the last, which may be shorter.
    """
    count = len(frames)
    lengths = frames.lengths
    if count < 2:
        return [(i, i + 1) for i in range(count)]
    words = leading_words(frames, _WORDS)
    shared = ~((words[1:] ^ words[:-1]) & _SHARED).any(axis=1)
    joins = shared & (lengths[1:] <= lengths[:-1])
    # A shorter frame ends its run, so it cannot be joined from the right as well.
    joins[1:] &= ~(lengths[1:-1] < lengths[:-2]) | ~joins[:-1]
    if not joins.any():
        return [(i, i + 1) for i in range(count)]
    sound = _sound(frames, words)
    joins &= sound[1:] & sound[:-1]
    starts = np.flatnonzero(np.concatenate([[True], ~joins])).tolist()
    runs = []
    for start, stop in zip(starts, [*starts[1:], count], strict=True):
        payload = max(1, int(lengths[start]) - HEADERS_SIZE)
        most = min(MAX_SEGMENTS, (MAX_PACKET - IP_SIZE - UDP_SIZE) // payload)
        runs += [(at, min(at + most, stop)) for at in range(start, stop, most)]
    return runs


def _sound(frames: Frames, words: NDArray[np.uint16]) -> NDArray[np.bool_]:
    """Which frames are UDP datagrams in which the kernel could find nothing to mend."""
    lengths = frames.lengths
    wide = words.astype(np.int64)
    ip_length, udp_length = wide[:, _IP_LENGTH], wide[:, _UDP_LENGTH]
    good: NDArray[np.bool_] = (
        (lengths > HEADERS_SIZE)
        & (lengths <= frames.data.shape[1])
        & (words[:, 6] == 0x0800)
        & (words[:, 7] >> 8 == 0x45)
        & (words[:, _IP_FRAGMENT] & 0xBFFF == 0)
        & (words[:, _IP_PROTOCOL] & 0xFF == PROTOCOL_UDP)
        & (ip_length == lengths - ETHERNET_SIZE)
        & (udp_length == ip_length - IP_SIZE)
        & (words[:, _UDP_CHECK] != 0)
        & (wide[:, 7:17].sum(axis=1) % 0xFFFF == 0)
    )
    starts = np.full(len(frames), _UDP_AT, np.int64)
    sums = row_sums(frames.data, starts, (lengths - _UDP_AT) * good)
    sums += wide[:, 13:17].sum(axis=1) + PROTOCOL_UDP + udp_length
    good &= sums % 0xFFFF == 0
    return good


def merge(frames: Frames, start: int, stop: int, into: bytearray) -> int:
    """Build the super-frame of a run, virtio-net header first, in ``into``; its size, bytes."""
    length = int(frames.lengths[start])
    last = int(frames.lengths[stop - 1])
    each = length - HEADERS_SIZE
    full = stop - start - (last < length)
    payload = full * each + (last - HEADERS_SIZE if last < length else 0)
    at = VNET_HEADER.size
    size = at + HEADERS_SIZE + payload
    VNET_HEADER.pack_into(
        into, 0, NEEDS_CSUM, GSO_UDP_L4, HEADERS_SIZE, each, _UDP_AT, _UDP_CHECKSUM
    )
    out = np.frombuffer(into, np.uint8)
    out[at : at + HEADERS_SIZE] = frames.data[start, :HEADERS_SIZE]
    body = at + HEADERS_SIZE
    bulk = out[body : body + full * each].reshape(full, each)
    bulk[:] = frames.data[start : start + full, HEADERS_SIZE:length]
    if last < length:
        out[body + full * each : size] = frames.data[stop - 1, HEADERS_SIZE:last]

    ip = at + ETHERNET_SIZE
    udp_length = UDP_SIZE + payload
    struct.pack_into(">H", into, ip + 2, IP_SIZE + udp_length)
    struct.pack_into(">H", into, ip + 10, 0)
    ip_sum = sum(struct.unpack_from(">10H", into, ip))
    struct.pack_into(">H", into, ip + 10, ~_fold(ip_sum) & 0xFFFF)
    # NEEDS_CSUM: the field holds the sum of the pseudo-header, not complemented.
    pseudo = sum(struct.unpack_from(">4H", into, ip + 12)) + PROTOCOL_UDP + udp_length
    udp = ip + IP_SIZE
    struct.pack_into(">HH", into, udp + 4, udp_length, _fold(pseudo))
    return size


def split(header: NDArray[np.void], frame: NDArray[np.uint8]) -> tuple[Frames, NDArray[np.void]]:
    """Cut a super-frame that the kernel has sent into the frames it stands for.

    ``header`` is its virtio-net header (``VNET_DTYPE``, one element), ``frame`` its bytes, uint8
    (size,). As the kernel would, each frame's IP identification is one more than that of the frame
    before. The UDP checksums stay for ``complete_checksums``: hence a header for each frame.
    """
    each = int(header["gso_size"][0])
    if header["gso_type"][0] != GSO_UDP_L4 or header["csum_start"][0] != _UDP_AT or not each:
        raise WireError(
            f"the TAP gave a super-frame {header!r}: only UDP without IP options was offered to "
            "the kernel; report this with the kernel's version"
        )
    payload = frame[HEADERS_SIZE:]
    count = -(-len(payload) // each)
    whole = len(payload) // each
    sizes = np.full(count, each, np.int64)
    sizes[-1] = len(payload) - (count - 1) * each
    data = np.zeros((count, max(HEADERS_SIZE + each, MINIMUM_FRAME)), np.uint8)
    data[:, :HEADERS_SIZE] = frame[:HEADERS_SIZE]
    data[:whole, HEADERS_SIZE : HEADERS_SIZE + each] = payload[: whole * each].reshape(whole, each)
    if whole < count:
        data[-1, HEADERS_SIZE : HEADERS_SIZE + sizes[-1]] = payload[whole * each :]

    words = data[:, :HEADERS_SIZE].view(">u2")
    common = words[0].tolist()
    udp_lengths = UDP_SIZE + sizes
    ip_lengths = IP_SIZE + udp_lengths
    ids = (common[_IP_ID] + np.arange(count)) & 0xFFFF
    addresses = sum(common[13:17])
    ip_sums = common[7] + sum(common[10:12]) + addresses + ip_lengths + ids
    words[:, _IP_LENGTH] = ip_lengths
    words[:, _IP_ID] = ids
    words[:, _IP_CHECK] = (0xFFFF - ip_sums % 0xFFFF) % 0xFFFF
    words[:, _UDP_LENGTH] = udp_lengths
    words[:, _UDP_CHECK] = (addresses + PROTOCOL_UDP + udp_lengths) % 0xFFFF
    single = header.copy()
    single["gso_type"] = GSO_NONE
    return Frames(data, HEADERS_SIZE + sizes, np.zeros(count, np.int64)), single.repeat(count)


def complete_checksums(frames: Frames, headers: NDArray[np.void]) -> None:
    """Finish, in place, the checksums that the kernel left to the hardware (NEEDS_CSUM).

    ``headers`` are the frames' virtio-net headers (``VNET_DTYPE``). The field to fill holds the
    pseudo-header's sum, so the sum from ``csum_start`` to the end is all there is to add.
    """
    which = np.flatnonzero(headers["flags"] & NEEDS_CSUM)
    if not len(which):
        return
    starts = headers["csum_start"][which].astype(np.int64)
    fields = starts + headers["csum_offset"][which]
    inside = (fields + 2 <= frames.lengths[which]) & (starts % 2 == 0)
    which, starts, fields = which[inside], starts[inside], fields[inside]
    sums = row_sums(frames.data[which], starts, frames.lengths[which] - starts)
    checks = 0xFFFF - sums % 0xFFFF
    frames.data[which, fields] = checks >> 8
    frames.data[which, fields + 1] = checks & 0xFF


def _fold(total: int) -> int:
    while total > 0xFFFF:
        total = (total >> 16) + (total & 0xFFFF)
    return total
