"""Legacy descriptors of the 82540EM, each with two faces.

A descriptor is 16 little-endian bytes in memory, and means one thing when software has written it
and the silicon reads it (the *read* face), another when the silicon has written it back (the
*write-back* face):

    TX  8254x SDM 3.3.3     0-7      8-9     10   11   12   13   14-15
        read                address  length  CSO  CMD  -    CSS  special
        write-back          (as read)                  STA
    RX  8254x SDM 3.2.3     0-7      8-9     10-11     12      13      14-15
        read                address  -       -         -       -       -
        write-back          (kept)   length  checksum  STATUS  ERRORS  special

Two rules. The transmit write-back touches one byte, STA, and only where RS is set (3.4.2, with
TXDCTL.WTHRESH = 0). The receive write-back touches bytes 8 to 15 of every descriptor it uses; what
the silicon leaves in bytes 0 to 7 is the address it read.

Fresh rings are poisoned with 0xFF: an engine that fetches a descriptor nobody wrote then asks
for an address that no machine has, and is seen.
"""

from __future__ import annotations

from enum import IntFlag
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

#: Bytes a descriptor.
SIZE: Final = 16

#: RDLEN and TDLEN count in units of this many descriptors. 8254x SDM 13.4.27, 13.4.38.
RING_GRANULE: Final = 8

#: What fresh rings and buffers are filled with.
POISON: Final = 0xFF

#: A legacy transmit descriptor's length field is 16 bits, but the silicon takes at most this from
#: one descriptor. 8254x SDM 3.3.3.1.
TX_LENGTH_MAX: Final = 16288


class TX_CMD(IntFlag):
    """Legacy transmit command byte, 8254x SDM 3.3.3.1."""

    EOP = 0x01  # last descriptor of its frame
    IFCS = 0x02  # insert the FCS; read in the last descriptor
    IC = 0x04  # insert a checksum at CSO; not modelled
    RS = 0x08  # report status: write DD back
    DEXT = 0x20  # not a legacy descriptor; not modelled
    VLE = 0x40
    IDE = 0x80  # delay the interrupt


class TX_STA(IntFlag):
    """Legacy transmit status nibble, 8254x SDM 3.3.3.2."""

    DD = 0x01  # done: the data is in the transmit FIFO, not yet on the wire
    EC = 0x02
    LC = 0x04


class RX_STATUS(IntFlag):
    """Receive status byte, 8254x SDM 3.2.3.1."""

    DD = 0x01
    EOP = 0x02
    IXSM = 0x04  # ignore the checksum bits
    VP = 0x08
    UDPCS = 0x10
    TCPCS = 0x20
    IPCS = 0x40
    PIF = 0x80  # passed inexact (hash) filter only


class RX_ERRORS(IntFlag):
    """Receive errors byte, 8254x SDM 3.2.3.2; valid with EOP and DD."""

    CE = 0x01
    SE = 0x02
    SEQ = 0x04
    CXE = 0x10
    TCPE = 0x20
    IPE = 0x40
    RXE = 0x80


#: A frame with any of these is bad (CE | SE | SEQ | CXE | RXE).
RX_ERRORS_FRAME: Final = 0x97

TX_READ: Final = np.dtype(
    [
        ("address", "<u8"),
        ("length", "<u2"),
        ("cso", "u1"),
        ("cmd", "u1"),
        ("sta", "u1"),
        ("css", "u1"),
        ("special", "<u2"),
    ]
)

TX_WRITEBACK: Final = np.dtype(
    {
        "names": ["cmd", "sta"],
        "formats": ["u1", "u1"],
        "offsets": [11, 12],
        "itemsize": SIZE,
    }
)

RX_READ: Final = np.dtype(
    {
        "names": ["address", "rest"],
        "formats": ["<u8", "<u8"],
        "offsets": [0, 8],
        "itemsize": SIZE,
    }
)

RX_WRITEBACK: Final = np.dtype(
    {
        "names": ["length", "checksum", "status", "errors", "special"],
        "formats": ["<u2", "<u2", "u1", "u1", "<u2"],
        "offsets": [8, 10, 12, 13, 14],
        "itemsize": SIZE,
    }
)


def view(buffer: NDArray[np.uint8], base: int, count: int, face: np.dtype[Any]) -> NDArray[Any]:
    """``count`` descriptors from byte ``base`` of a flat uint8 buffer, seen through ``face``.

    A view: what is written through it lands in the buffer. Both faces of one ring may be held at
    once. ``base`` needs no alignment.

    Raises:
        ValueError: the ring does not lie within the buffer.
    """
    end = base + count * SIZE
    if base < 0 or count < 0 or end > buffer.size:
        raise ValueError(
            f"descriptor ring [{base:#x}, {end:#x}) is not within memory of {buffer.size:#x} bytes:"
            " check the ring's base and length"
        )
    return buffer[base:end].view(face)
