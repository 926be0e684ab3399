"""Kind ``clumsy``: our client, as kind ``profile`` is it, with a defect that a footer might catch.

    miscounts   its kernel dump header promises so many bytes more than there are (or fewer)
    leftover    behind its dump lie so many bytes of an earlier one, which was longer; where it
                sends a footer they end with that dump's own

It is no registered kind, for nobody has such a client: a scenario names it by its file. What is
played with it is ``bench/arrangements.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Final, Literal

import numpy as np
from pydantic import Field, StrictInt

from bench.clients.profile import PROFILE, ProfileOptions, profile_of
from bench.kinds import ClientKind
from bench.scenario.schema import Size
from netdump.client import DumpRequest, NetdumpClient, Report
from netdump.contracts import DebugnetMethods, Mbufs, Memory
from netdump.dumper import MAX_IO_SIZE, DumperInfo, DumpImage, Piece
from netdump.kdh import KDH_SIZE, KernelDumpHeader
from netdump.profiles import Profile
from netdump.udplink import Tell

if TYPE_CHECKING:
    from bench.scenario.schema import ResolvedCase

_OLD: Final = 0x5A
_BLOCK: Final = 4096


class ClumsyOptions(ProfileOptions):
    """What is wrong with it."""

    miscounts: Annotated[StrictInt, Field(ge=-(1 << 20), le=1 << 20)] = 0
    """So many bytes more are promised than there are."""
    leftover: Annotated[Size, Field(ge=0, le=MAX_IO_SIZE, multiple_of=_BLOCK)] = 0
    """So many bytes of another dump follow."""


@dataclass(frozen=True, slots=True)
class Clumsy:
    """A ``ClientProfile``: a row, and what is wrong."""

    row: Profile
    miscounts: int
    leftover: int

    @property
    def name(self) -> str:
        return self.row.name

    @property
    def mbufs(self) -> Literal["ordinary", "pool"]:
        return self.row.mbufs

    @property
    def footer(self) -> bool:
        return self.row.footer


class _Trailing(DumpImage):
    """An image, behind which an earlier and longer one shows."""

    def __init__(self, image: DumpImage, memory: Memory, leftover: int, *, footer: bool) -> None:
        vars(self).update(vars(image))
        self._left = leftover
        self._left_at = memory.reserve(leftover, _BLOCK)
        old = np.full(leftover, _OLD, np.uint8)
        if footer:
            length = image.length + leftover - KDH_SIZE
            header = KernelDumpHeader(length, dumpextent=length, panicstring="an earlier one")
            old[-KDH_SIZE:] = np.frombuffer(header.pack(), np.uint8)
        memory.buffer[self._left_at : self._left_at + leftover] = old

    def pieces(self, info: DumperInfo) -> Iterator[Piece]:
        yield from super().pieces(info)
        yield Piece(self.length, self._left_at, self._left)


class ClumsyClient(NetdumpClient):
    """A ``DumpClient``."""

    def __init__(self, clumsy: Clumsy, memory: Memory, image: DumpImage) -> None:
        if clumsy.leftover:
            image = _Trailing(image, memory, clumsy.leftover, footer=clumsy.footer)
        super().__init__(clumsy.row, memory, image)
        self._miscounts = clumsy.miscounts

    def dump(
        self,
        request: DumpRequest,
        nic: DebugnetMethods,
        mbufs: Mbufs,
        delay_us: Callable[[int], None],
        tell: Tell,
    ) -> Report:
        length = request.header.dumplength + self._miscounts
        header = replace(request.header, dumplength=length, dumpextent=length)
        return super().dump(replace(request, header=header), nic, mbufs, delay_us, tell)


def _clumsy(case: ResolvedCase) -> Clumsy:
    options: ClumsyOptions = case.client_part.options
    return Clumsy(profile_of(case), options.miscounts, options.leftover)


CLUMSY: Final = ClientKind(
    name="clumsy",
    says="our client, with a header or data that are not right",
    options=ClumsyOptions,
    rules=PROFILE.rules,
    profile=_clumsy,
    make=ClumsyClient,
    profiles=True,
    patience_s=PROFILE.patience_s,
)
