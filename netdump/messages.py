"""The netdump messages: a 24-octet header and a payload one way, a 4-octet ack the other.

Client to server, all integers big-endian, no holes (FreeBSD sys/net/debugnet.h,
``struct debugnet_msg_hdr``)::

     0      4      8              16      20      24
     | type | seqno |    offset    | length | aux2 | payload ...

* ``offset`` is the place of the payload in the file of that type (the vmcore, the key).
* ``length`` counts the payload alone. With UDP's own length it is the only check there is in the
  stock protocol: the header has no magic, no version, no session and no checksum.
* ``aux2`` is 0 for netdump; NetGDB, the other user of debugnet, puts its version there. In our
  client's HERALD it is an offer (``offer.py``), in its other messages a checksum (``crc.py``), if
  the server took that.

Server to client: the seqno that it accepted, as one u32. No type, no error, no window.

Two rules hold everything below:

1. Whatever octets arrive, they are parsed or refused by a ``MalformedMessage``. The batch
   functions never raise on octets; they give each row a reason.
2. Sequence numbers and offsets are taken modulo 2**32 and 2**64 when packed, as C does.

The functions on single messages serve servers, tests and odd traffic; those on batches the data
path.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import ArrayLike, NDArray

from netdump.errors import (
    BadAck,
    BadCrc,
    BadHeraldPath,
    BadTag,
    LengthMismatch,
    LocalError,
    Runt,
    TooLong,
    UnknownType,
)


class MessageType(IntEnum):
    """What a client's message carries."""

    HERALD = 1  # opens a session; payload empty, or a directory path with its NUL
    FINISHED = 2  # ends it; empty
    VMCORE = 3  # dump octets at `offset`
    KDH = 4  # the 512-octet kernel dump header
    EKCD_KEY = 5  # a piece of the encrypted key block


#: Where a server listens for HERALDs. All that follows goes to the port its first ack came from.
HERALD_PORT = 20023
#: The client's only port, for every message both ways.
CLIENT_PORT = 20024

HEADER_SIZE = 24
ACK_SIZE = 4
#: The longest path of a HERALD, with its NUL.
HERALD_PATH_MAX = 1024

#: The header as a numpy record.
HEADER = np.dtype(
    [("type", ">u4"), ("seqno", ">u4"), ("offset", ">u8"), ("length", ">u4"), ("aux2", ">u4")]
)
_HEADER = struct.Struct(">IIQII")
_ACK = struct.Struct(">I")

_FIRST_TYPE, _LAST_TYPE = min(MessageType), max(MessageType)

#: What the numbers in ``Block.reasons`` mean. The order is the order of the tests; the last two
#: are ``crc.py``'s and ``tags.py``'s.
REASONS = (
    "good",
    TooLong.reason,
    Runt.reason,
    LengthMismatch.reason,
    UnknownType.reason,
    BadCrc.reason,
    BadTag.reason,
)
_GOOD, _LONG, _RUNT, _LENGTH, _TYPE, _CRC, _TAG = range(len(REASONS))


@dataclass(frozen=True, slots=True)
class Message:
    """One client message."""

    type: MessageType
    seqno: int
    offset: int
    payload: bytes = b""
    aux2: int = 0

    def pack(self) -> bytes:
        """The UDP payload. Raises LocalError where a field does not fit its width."""
        try:
            head = _HEADER.pack(self.type, self.seqno, self.offset, len(self.payload), self.aux2)
        except struct.error as error:
            raise LocalError(
                f"message {self.type!r}, seqno {self.seqno}, offset {self.offset}, aux2 "
                f"{self.aux2}: {error}; seqno and aux2 are u32, offset is u64"
            ) from error
        return head + self.payload


def parse(datagram: bytes) -> Message:
    """The message in a UDP payload. Raises Runt, LengthMismatch or UnknownType."""
    if len(datagram) < HEADER_SIZE:
        raise Runt(
            f"datagram of {len(datagram)} octets: a message has at least {HEADER_SIZE}", datagram
        )
    number, seqno, offset, length, aux2 = _HEADER.unpack_from(datagram)
    if length != len(datagram) - HEADER_SIZE:
        raise LengthMismatch(
            f"header promises {length} octets of payload, {len(datagram) - HEADER_SIZE} came: "
            "was the datagram cut by too small a receive buffer?",
            datagram,
        )
    if not _FIRST_TYPE <= number <= _LAST_TYPE:
        raise UnknownType(
            f"message type {number} is not in {_FIRST_TYPE:d}..{_LAST_TYPE:d}", datagram
        )
    return Message(MessageType(number), seqno, offset, bytes(datagram[HEADER_SIZE:]), aux2)


def pack_headers(
    type: int | ArrayLike,
    seqnos: ArrayLike,
    offsets: ArrayLike,
    lengths: ArrayLike,
    aux2: int | ArrayLike = 0,
) -> NDArray[np.uint8]:
    """Headers for a batch: uint8 (n, 24), contiguous. ``lengths`` are those of the payloads."""
    fields = np.asarray(seqnos)
    rows = np.empty(len(fields), HEADER)
    rows["type"] = type
    rows["seqno"] = fields
    rows["offset"] = offsets
    rows["length"] = lengths
    rows["aux2"] = aux2
    return rows.view(np.uint8).reshape(-1, HEADER_SIZE)


@dataclass(frozen=True, slots=True)
class Block:
    """The headers of a batch of datagrams, one element a datagram.

    ``types``, ``seqnos``, ``aux2`` int64; ``offsets`` uint64, exact; ``lengths`` int64, of the
    payload, octets. ``reasons`` uint8: 0 is good, else an index of ``REASONS``. In a refused row
    the other fields are what was found, or 0 for a runt, and mean nothing.
    """

    types: NDArray[np.int64]
    seqnos: NDArray[np.int64]
    offsets: NDArray[np.uint64]
    lengths: NDArray[np.int64]
    aux2: NDArray[np.int64]
    reasons: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.reasons)

    def refused(self) -> dict[str, int]:
        """How many rows were refused, by reason; reasons that did not occur are left out."""
        return count_reasons(self.reasons, REASONS)

    def take(self, which: slice | NDArray[np.intp]) -> Block:
        """Some of the rows."""
        return Block(
            types=self.types[which],
            seqnos=self.seqnos[which],
            offsets=self.offsets[which],
            lengths=self.lengths[which],
            aux2=self.aux2[which],
            reasons=self.reasons[which],
        )


def count_reasons(codes: NDArray[np.uint8], names: tuple[str, ...]) -> dict[str, int]:
    """Rows a reason, for codes of which 0 means good."""
    if not codes.any():
        return {}
    counts = np.bincount(codes, minlength=len(names)).tolist()
    return {name: count for name, count in zip(names[1:], counts[1:], strict=True) if count}


def parse_block(data: NDArray[np.uint8], lengths: NDArray[np.int64]) -> Block:
    """The headers of datagrams that lie in the rows of ``data``, uint8 (n, stride).

    A row longer than the stride was cut on its way in, and is refused as too long.
    """
    count, stride = data.shape
    lengths = np.asarray(lengths, np.int64)
    whole = lengths >= HEADER_SIZE
    if stride < HEADER_SIZE or not whole.all():
        padded = np.zeros((count, HEADER_SIZE), np.uint8)
        width = min(stride, HEADER_SIZE)
        padded[:, :width] = data[:, :width]
        padded[~whole] = 0
        heads = padded
    else:
        heads = np.ascontiguousarray(data[:, :HEADER_SIZE])
    rows = heads.view(HEADER).reshape(count)
    types = rows["type"].astype(np.int64)
    promised = rows["length"].astype(np.int64)
    reasons = np.zeros(count, np.uint8)
    unknown = (types < _FIRST_TYPE) | (types > _LAST_TYPE)
    other = promised != lengths - HEADER_SIZE  # so is a runt's
    cut = lengths > stride
    if (unknown | other | cut).any():
        # The first test has the last word: write the reasons in reverse order.
        reasons[unknown] = _TYPE
        reasons[other] = _LENGTH
        reasons[~whole] = _RUNT
        reasons[cut] = _LONG
    return Block(
        types=types,
        seqnos=rows["seqno"].astype(np.int64),
        offsets=rows["offset"].astype(np.uint64),
        lengths=promised,
        aux2=rows["aux2"].astype(np.int64),
        reasons=reasons,
    )


def pack_acks(seqnos: ArrayLike) -> NDArray[np.uint8]:
    """Acks for a batch: uint8 (n, 4)."""
    return np.asarray(seqnos).astype(">u4").view(np.uint8).reshape(-1, ACK_SIZE)


def parse_ack(payload: bytes) -> int:
    """The seqno that a server acknowledges. Raises BadAck unless the payload is four octets."""
    if len(payload) != ACK_SIZE:
        raise BadAck(f"ack of {len(payload)} octets: it has exactly {ACK_SIZE}", payload)
    (seqno,) = _ACK.unpack(payload)
    return int(seqno)


def parse_acks(
    data: NDArray[np.uint8],
    lengths: NDArray[np.int64],
    starts: int | NDArray[np.int64] = 0,
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Acks that lie in the rows of ``data``, uint8 (n, stride), each from column ``starts`` on.

    Returns seqnos, int64 (n,), and which rows are acks at all, bool (n,): those whose payload
    (``lengths``, octets) is exactly four. The seqno of any other row is 0.
    """
    count, stride = data.shape
    starts = np.broadcast_to(np.asarray(starts, np.int64), (count,))
    good = (np.asarray(lengths) == ACK_SIZE) & (starts >= 0) & (starts <= stride - ACK_SIZE)
    seqnos = np.zeros(count, np.int64)
    if not good.any():
        return seqnos, good
    which = np.flatnonzero(good)
    columns = starts[which]
    if (columns == columns[0]).all():
        first = int(columns[0])
        octets = data[which, first : first + ACK_SIZE]
    else:
        octets = data[which[:, None], columns[:, None] + np.arange(ACK_SIZE)]
    seqnos[which] = np.ascontiguousarray(octets).view(">u4")[:, 0]
    return seqnos, good


def herald_path(payload: bytes) -> str:
    """The directory that a HERALD asks for, relative to the server's own; "" if it asks for none.

    FreeBSD sends the path with its NUL, 1024 octets at most. The rest is a server's prudence:
    relative, no "..", nothing unprintable. Raises BadHeraldPath.
    """
    if not payload:
        return ""
    fault = ""
    path = ""
    if len(payload) > HERALD_PATH_MAX:
        fault = f"is {len(payload)} octets long, more than {HERALD_PATH_MAX}"
    elif payload[-1] != 0:
        fault = "does not end with NUL"
    else:
        try:
            path = payload[:-1].decode("utf-8")
        except UnicodeDecodeError as error:
            raise BadHeraldPath(f"herald path is not UTF-8: {error}", payload) from error
        if "\0" in path:
            fault = "holds a NUL"
        elif not path.isprintable():
            fault = "holds characters that can't be printed"
        elif path.startswith("/"):
            fault = "is absolute"
        elif ".." in path.split("/"):
            fault = 'leaves the dump folder by ".."'
    if fault:
        raise BadHeraldPath(f"herald path {fault}: refuse the session", payload)
    return path
