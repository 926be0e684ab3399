"""Block numbers: they never end, and have 16 bits on the wire.

RFC 1350 does not say what comes after 65535. tftpd-hpa goes on at 0, and so do most; others at 1,
since 0 is the number of the answer to the request; some refuse, and some stop. ``first`` is 0 or 1
here. Block 0 is what the first ACK acknowledges: there is no such block.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

#: The first block whose number is not its own.
TURN: Final = 1 << 16


def on_wire(blocks: NDArray[np.int64], first: int) -> NDArray[np.int64]:
    """The numbers of blocks, from 1: int64 (n,), 0..65535."""
    if first == 0:
        return blocks % TURN
    return (blocks - 1) % (TURN - 1) + 1


def ahead(number: int, acknowledged: int, first: int) -> int:
    """How far the block that an ACK names is ahead of the last acknowledged one: 0 if it is that,
    negative if it is an older one. Right within 32,767 blocks.
    """
    if first == 0:
        around, last = TURN, acknowledged % TURN
    else:
        if number == 0:
            return -acknowledged  # once round, no block has it
        around, last = TURN - 1, (acknowledged - 1) % (TURN - 1) + 1 if acknowledged else 0
    distance = (number - last) % around
    return distance if distance <= around // 2 else distance - around
