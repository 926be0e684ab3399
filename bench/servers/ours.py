"""Kind ``netdump-bench``: our server, as a process behind a TAP, or its core in memory."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path
from typing import Annotated, Final

from pydantic import Field, StrictBool, StrictStr

from bench.heartbeat import GIVEN_UP_S
from bench.kinds import NamespacePlace, ServerKind, SimulatedPlace
from bench.scenario.schema import Size
from bench.scenario.written import KEY
from bench.servers.inprocess import InProcessServer
from bench.servers.process import ServerProcess
from bench.story.stage import CLIENT_IP, CLIENT_MAC
from bench.table import Table
from server.config import ServerConfig
from server.gate import EVERYBODY

#: The largest datagram that our server takes by itself.
_DATAGRAM: Final = 4148


class OurOptions(Table):
    """What our server can be told."""

    rescue: StrictBool = True
    """Holds acks that a stock client would take for those of other frames."""
    strict_finish: StrictBool = True
    """Does not acknowledge FINISHED while the dump has holes."""
    max_dump: Annotated[Size | None, Field(ge=4096)] = None
    """A larger dump is refused; not given: the server's own limit."""

    def config(self) -> ServerConfig:
        """For the core in memory."""
        config = ServerConfig(rescue=self.rescue, strict_finish=self.strict_finish)
        if self.max_dump is None:
            return config
        return ServerConfig(
            rescue=self.rescue, strict_finish=self.strict_finish, max_dump=self.max_dump
        )

    def words(self, mtu: int) -> list[str]:
        """The same on the command line of a server that takes datagrams of this MTU."""
        words = ["--fsync", "none"]
        words += [] if self.rescue else ["--no-rescue"]
        words += [] if self.strict_finish else ["--stock-acks"]
        if self.max_dump is not None:
            words += ["--max-dump", str(self.max_dump)]
        if mtu > _DATAGRAM:
            words += ["--max-datagram", str(mtu)]
        return words


class KeyedOptions(OurOptions):
    """What it can be told where it can be given a file of keys."""

    key: Annotated[StrictStr | None, Field(pattern=KEY)] = None
    """Shared with every client."""
    require_key: StrictBool = False
    """A client that has not proved that it has the key is not served."""
    pin: StrictBool = False
    """Its file of keys names the machine's MAC: no ARP changes that."""

    def config(self) -> ServerConfig:
        keys = {} if self.key is None else {EVERYBODY: bytes.fromhex(self.key)}
        return replace(super().config(), keys=keys, require_key=self.require_key)

    def keyed_words(self, mtu: int, folder: Path) -> list[str]:
        """As ``words``; the keys are in a file in ``folder``."""
        words = self.words(mtu)
        if self.key is not None:
            keys = folder / "keys"
            keys.touch(mode=0o600)
            line = f"{CLIENT_IP} {self.key} {CLIENT_MAC.hex(':')}\n" if self.pin else ""
            keys.write_text(f"{EVERYBODY} {self.key}\n{line}")
            words += ["--key-file", str(keys)]
        return words + (["--require-key"] if self.require_key else [])


def _process(place: NamespacePlace, options: KeyedOptions) -> ServerProcess:
    return ServerProcess(
        place.namespace,
        place.dumpdir,
        place.folder / "server.log",
        bind=place.address,
        options=options.keyed_words(place.mtu, place.folder),
    )


def _in_process(place: SimulatedPlace, options: KeyedOptions) -> InProcessServer:
    if options.pin:
        place.host.pin(IPv4Address(CLIENT_IP).packed, CLIENT_MAC)
    return InProcessServer(place.host, place.dumpdir, config=options.config(), fsync="none")


OURS: Final = ServerKind(
    name="netdump-bench",
    ours=True,
    says="our own server: a process behind a TAP, its core in memory elsewhere",
    options=KeyedOptions,
    in_namespace=_process,
    simulated=_in_process,
    asks=frozenset(KeyedOptions.model_fields),
    patience_s=GIVEN_UP_S,
)
