"""Datagrams that the kernel has kept together: ``UDP_GRO`` (udp(7), generic receive offload).

Datagrams of one flow that left as one (UDP_SEGMENT), or were put together on their way in, stay
one message up to the socket: one walk through the kernel for up to 64 of them. A control message
(cmsg(3)) says where to cut; the last may be shorter::

    | length 20 | level SOL_UDP | type UDP_GRO | octets of each datagram |

A message without it is one datagram. So a socket that has them merged costs less, and what comes
out of ``cut`` is the same.
"""

from __future__ import annotations

import socket
from typing import Final

import numpy as np
from numpy.typing import NDArray

#: linux/udp.h; the socket module has no names for them.
SOL_UDP: Final = socket.IPPROTO_UDP
UDP_GRO: Final = 104
#: Octets of the longest message, and a few more.
LONGEST: Final = 1 << 16
#: The control message, as the kernel writes it; the padding behind its number is that of cmsg(3).
CONTROL: Final = np.dtype(
    [("length", "=u8"), ("level", "=i4"), ("type", "=i4"), ("size", "=i4"), ("", "=i4")]
)
#: Octets of it that are written.
CONTROL_LENGTH: Final = 20

#: Datagrams, uint8 (n, stride), and their lengths, int64 (n,). A length beyond the stride is that
#: of a datagram which was cut.
Rows = tuple[NDArray[np.uint8], NDArray[np.int64]]


def keep_merged(sock: socket.socket) -> None:
    """Let the socket have datagrams merged. OSError where the kernel does not know how."""
    sock.setsockopt(SOL_UDP, UDP_GRO, 1)


class Cutter:
    """Makes rows of messages. They live until the next call."""

    def __init__(self, rows: int, stride: int) -> None:
        """Memory for so many rows, of at most ``stride`` octets each; more are made as needed."""
        self._stride = stride
        self._room = np.empty(rows * stride, np.uint8)

    def cut(
        self, messages: NDArray[np.uint8], lengths: NDArray[np.int64], each: NDArray[np.int64]
    ) -> Rows:
        """``messages`` uint8 (m, LONGEST), of ``lengths`` octets; ``each`` int64 (m,): octets of a
        datagram in it, 0 for a message that is one datagram.
        """
        each = np.where(each > 0, np.minimum(each, lengths), lengths)
        width = min(int(each.max(initial=0)), self._stride)
        counts = np.maximum(-(-lengths // np.maximum(each, 1)), 1)
        count = int(counts.sum())
        size = count * width
        if size > len(self._room):
            self._room = np.empty(size, np.uint8)
        rows = self._room[:size].reshape(count, width)
        if count == len(lengths):
            rows[:] = messages[:, :width]
            return rows, lengths
        sizes = np.repeat(each, counts)
        ends = np.cumsum(counts)
        sizes[ends - 1] = lengths - (counts - 1) * each
        at = 0
        for message, length, octets, end in zip(
            messages, lengths.tolist(), each.tolist(), ends.tolist(), strict=True
        ):
            whole, rest = divmod(length, octets) if octets else (0, 0)
            kept = min(octets, width)
            rows[at : at + whole, :kept] = message[: whole * octets].reshape(whole, octets)[
                :, :kept
            ]
            if rest:
                kept = min(rest, width)
                rows[end - 1, :kept] = message[whole * octets : whole * octets + kept]
            at = end
        return rows, sizes
