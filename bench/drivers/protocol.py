"""What the bench and the process with a C driver say to each other. Stdlib only.

One SOCK_SEQPACKET socket; a message is one packet: a head of fixed size, and text where it has
some. It is strictly question and answer, and questions nest like the calls of one thread:

    bench                               child
    CALL transmit           ->          the library's function runs
                            <-  ASK     it uses a callback (read a register, take a lock)
    ANSWER value            ->          the callback returns
                            <-  DONE    the function returns

While the child waits for an ANSWER it takes a CALL, too: an interrupt handler runs on top of what
it interrupted, and so does the panic path. Where a panic strikes inside a callback, its ANSWER
never comes: that code stands still for ever, and what the panic calls runs above it on the same
stack. So a stopped CPU's C code is stopped as it would be, and its locks stay as they are.

    WHERE                   ->          while the child waits for an ANSWER: which function asked?
                            <-  DONE    offset in the library, or -1
                            <-  STORE   a store to memory that the panic has closed; wants an ANSWER
                            <-  DIES    a signal, or exit: the last message

The first message is a DONE of the child: whether the library lives an ordinary life, where mailbox
and memory lie in its address space; and as text where its methods are (``PLACES``), and what it
calls itself.

Frames never pass the socket. They lie in the *mailbox*, memory that both sides map: as an array of
``struct nb_frame`` with the headers behind it on their way to the library, and in rows of
``ROW`` bytes with their lengths in front on their way back.
"""

from __future__ import annotations

import signal
import struct
from enum import IntEnum
from typing import Final, NamedTuple


class Kind(IntEnum):
    """Of a message; the first byte."""

    CALL = 1
    ANSWER = 2
    WHERE = 3
    ASK = 4
    DONE = 5
    STORE = 6
    DIES = 7


class Method(IntEnum):
    """What a CALL wants; ``code`` of the message. Arguments and result are in its numbers."""

    INIT = 1  # -> 0; a negative errno
    MAC = 2  # -> six bytes, big-endian; a negative errno
    LINK_UP = 3
    EVENT = 4  # 1 = start
    TRANSMIT = 5  # frames in the mailbox -> how many were taken
    POLL = 6  # budget -> frames in the mailbox
    ATTACH = 7  # -> 0; a negative errno
    SEND = 8  # as TRANSMIT
    INTERRUPT = 9  # -> frames in the mailbox
    PANIC = 10  # from here on memory outside [a, b) is closed


class Callback(IntEnum):
    """What an ASK wants; ``code`` of the message. The order is that of ``struct nb_kernel``."""

    READ8 = 1
    READ16 = 2
    READ32 = 3
    WRITE8 = 4
    WRITE16 = 5
    WRITE32 = 6
    ALLOC = 7  # size, align -> physical address
    RESERVE = 8
    DELAY = 9
    LOCK = 10  # text: its name
    UNLOCK = 11
    BYPASS = 12
    MBUF_TAKE = 13  # zone, count
    MBUF_GIVE = 14
    STEP = 15  # text
    WAIT_INTERRUPT = 16  # microseconds
    RECEIVE = 17  # never asked: the child does it


#: NB_VERSION of netdump_bench.h.
VERSION: Final = 1
#: ``enum nb_zone``.
ORDINARY, PANIC_POOL, SENT = range(3)
#: The child's exit status where the library can't be used; what it printed says why.
UNUSABLE: Final = 99
#: The signal that asks a library that does not come back where it is.
ASK_WHERE: Final = signal.SIGUSR1
#: A library that ends with exit has died of no signal.
EXITED: Final = 0

_HEAD: Final = struct.Struct("<BB6xqqq")
#: Offsets of the library's methods, in the order of ``METHODS``; -1 where it has none.
METHODS: Final = tuple(method for method in Method if method is not Method.PANIC)
PLACES: Final = struct.Struct(f"<{len(METHODS)}q")
#: Bytes of a name that are told.
NAME: Final = 100
#: No message is longer.
LONGEST: Final = 4096


class Message(NamedTuple):
    """``code``: Method or Callback, or the signal of a DIES; numbers and text as it wants them."""

    kind: int
    code: int = 0
    a: int = 0
    b: int = 0
    c: int = 0
    text: bytes = b""

    def pack(self) -> bytes:
        kind, code, a, b, c, text = self
        return _HEAD.pack(kind, code, a, b, c) + text[: LONGEST - _HEAD.size]


def unpack(packet: bytes) -> Message:
    kind, code, a, b, c = _HEAD.unpack_from(packet)
    return Message(kind, code, a, b, c, packet[_HEAD.size :])


#: Bytes of the mailbox: room for frames each way.
TO_LIBRARY: Final = 1 << 20
FROM_LIBRARY: Final = 4 << 20
MAILBOX: Final = TO_LIBRARY + FROM_LIBRARY
#: struct nb_frame: two pointers, a physical address, two lengths.
FRAME: Final = struct.Struct("<QQQII")


def row_of(mtu: int) -> int:
    """Bytes of a row: its length in 8 bytes, then the frame; a VLAN tag is let in."""
    return 8 + (-(-(mtu + 18) // 64)) * 64


def rows_of(mtu: int) -> int:
    """Received frames that the mailbox holds."""
    return FROM_LIBRARY // row_of(mtu)
