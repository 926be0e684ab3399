"""Kind ``tftp``: our TFTP server, its core in the memory of a simulated host."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import Field, StrictBool, StrictInt

from bench.kinds import ServerKind, SimulatedPlace
from bench.scenario.schema import Size
from bench.servers import ServerProtocol
from bench.servers.inprocess import Simulated
from bench.servers.names import DumpNames
from bench.servers.simhost.host import SimHost
from bench.servers.tftp.config import TftpConfig
from bench.servers.tftp.core import TftpCore
from bench.servers.tftp.folder import PARTIAL, Folder, MakeUpload, Upload
from bench.table import Table
from netdump.tftp.packets import SERVER_PORT

#: What it leaves.
NAMES: Final = DumpNames(
    finished=re.compile(r".+"), unfinished=re.compile(r".+" + re.escape(PARTIAL))
)
#: How long its sessions live without a word, with some room.
_PATIENCE_S: Final = 10.0


class TftpOptions(Table):
    """How it differs from another: a row of ``TftpConfig``."""

    options: StrictBool = True
    """Answers options (RFC 2347); without, blocks have 512 bytes, one at a time."""
    refuses_options: StrictBool = False
    """Answers a request with options by ERROR 8."""
    blksize: Annotated[StrictInt, Field(ge=8, le=65464)] = 65464
    """The longest block: what is more is lowered."""
    windowsize: Annotated[StrictInt, Field(ge=1, le=65535)] = 64
    """The most blocks in flight: what is more is lowered."""
    rollover: Literal["0", "1", "refused"] = "0"
    """The block number after 65535; "refused": the upload ends there."""
    knows_rollover: StrictBool = True
    """Takes tftp-hpa's option that asks for it."""
    existing: Literal["overwrite", "refuse", "required"] = "overwrite"
    """What becomes of a file that is there, or, if required, is not."""
    room: Annotated[Size | None, Field(ge=0)] = None
    """Its disk is full after so many bytes; not given: when it is."""

    def config(self) -> TftpConfig:
        rollovers: dict[str, Literal[0, 1] | None] = {"0": 0, "1": 1, "refused": None}
        return TftpConfig(
            options=self.options,
            refuses_options=self.refuses_options,
            blksize=self.blksize,
            windowsize=self.windowsize,
            rollover=rollovers[self.rollover],
            knows_rollover=self.knows_rollover,
            existing=self.existing,
            room=self.room,
        )


class SimulatedTftp(Simulated):
    """A ``DumpServer``."""

    protocol: ServerProtocol = "tftp"
    names = NAMES
    port = SERVER_PORT

    def __init__(
        self,
        host: SimHost,
        dumpdir: Path,
        config: TftpConfig | None = None,
        *,
        upload: MakeUpload = Upload,
    ) -> None:
        """``upload`` makes each file: the place for a disk that lies."""
        super().__init__(host, dumpdir)
        self._config = config or TftpConfig()
        self._upload = upload
        self.core: TftpCore | None = None
        """The living server; None between two lives."""

    @property
    def running(self) -> bool:
        return self.core is not None

    def _bring_up(self) -> TftpCore:
        self.core = TftpCore(self._config, Folder(self.dumpdir, self._config, self._upload))
        return self.core

    def _finish(self) -> None:
        """Nothing: it promises no more than what lies there."""

    def _drop(self) -> None:
        if self.core is not None:
            self.core.stop()
        self.core = None


def _simulated(place: SimulatedPlace, options: TftpOptions) -> SimulatedTftp:
    return SimulatedTftp(place.host, place.dumpdir, options.config())


TFTP: Final = ServerKind(
    name="tftp",
    ours=True,
    says="our TFTP server, in memory: takes files, and differs as stock ones do",
    options=TftpOptions,
    simulated=_simulated,
    transport=lambda _options: "tftp",
    patience_s=_PATIENCE_S,
)
