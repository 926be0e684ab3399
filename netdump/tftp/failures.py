"""How a transfer ends without success: an errno for the kernel's caller, and a line for people."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from netdump.errors import SendFailed
from netdump.tftp.numbers import TURN
from netdump.tftp.options import Agreed
from netdump.tftp.packets import Code, Error

#: What an ERROR is to the kernel's caller; what is not here is EPROTO.
ERRNO: Final[Mapping[int, int]] = MappingProxyType(
    {
        Code.NOT_FOUND: errno.ENOENT,
        Code.ACCESS: errno.EACCES,
        Code.DISK_FULL: errno.ENOSPC,
        Code.UNKNOWN_TRANSFER: errno.ECONNRESET,
        Code.EXISTS: errno.EEXIST,
        Code.NO_USER: errno.EACCES,
        Code.OPTIONS: errno.EOPNOTSUPP,
    }
)
_PERHAPS_DONE: Final = (
    "If only the last ACK was lost the server has the whole file: the client can't know"
)


def answer_refused(why: str) -> SendFailed:
    """The server's answer to the request can't be agreed to."""
    return SendFailed(errno.EOPNOTSUPP, f"the server's answer was refused: {why}")


def request_refused(error: Error) -> SendFailed:
    return SendFailed(_errno(error), f"the server refuses the file: {error}")


def ended_by(error: Error, acknowledged: int, blocks: int, closing: bool) -> SendFailed:
    """In mid-transfer; ``closing``: the last block had been sent."""
    why = f"the server ended the transfer {_how_far(acknowledged, blocks)}: {error}"
    if closing and error.code == Code.UNKNOWN_TRANSFER:
        why += f". {_PERHAPS_DONE}"
    return SendFailed(_errno(error), why)


def nic_stuck(acknowledged: int, blocks: int) -> SendFailed:
    return SendFailed(errno.ENOBUFS, f"the NIC took no frame more {_how_far(acknowledged, blocks)}")


def not_answered(rounds: int) -> SendFailed:
    return SendFailed(errno.ETIMEDOUT, f"the write request was not answered in {rounds} rounds")


def not_acknowledged(rounds: int, acknowledged: int, blocks: int, agreed: Agreed) -> SendFailed:
    """Before the last block was sent."""
    why = f"no ACK in {rounds} rounds, {_how_far(acknowledged, blocks)}"
    if 0 <= acknowledged + 1 - TURN <= agreed.windowsize:
        why += (
            f"; after 65535 block numbers went on at {agreed.rollover}, which this server may not"
            " do"
        )
    return SendFailed(errno.ETIMEDOUT, why)


def not_closed(rounds: int, acknowledged: int, blocks: int) -> SendFailed:
    """After it."""
    return SendFailed(
        errno.ETIMEDOUT,
        f"all {blocks} blocks were sent, and {acknowledged} acknowledged; no ACK of the last came"
        f" in {rounds} rounds. {_PERHAPS_DONE}",
    )


def _how_far(acknowledged: int, blocks: int) -> str:
    return f"with {acknowledged} of {blocks} blocks acknowledged"


def _errno(error: Error) -> int:
    return ERRNO.get(error.code, errno.EPROTO)
