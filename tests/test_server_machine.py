"""Whatever anybody sends, in whatever order: the server's promises hold.

Several clients, each with its own true image, send good and bad messages; copies of old ones come
again; time passes; the disk fills up; the server is killed, and another comes up over its folder.
After each step:

* nothing raises;
* every acknowledged byte is in a file, as it was first sent;
* no file is outside the dump folder, or has a name that the server doesn't give;
* sessions, and with them sockets, are bounded, and so are open files;
* what a session has acknowledged it acknowledges again, while it runs or is complete, in whatever
  life of the server.
"""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from numpy.typing import NDArray

from netdump.kdh import KernelDumpHeader
from netdump.messages import Message, MessageType
from netdump.sack import OFFER, parse_sack
from server.config import ServerConfig
from server.core import ServerCore
from server.folder import DumpFolder
from server.life import State
from server.store import FileStore, Store
from tests.server_rig import Disk, block, finished, herald, image_of, kdh, vmcore

CLIENTS = [("198.18.0.2", 20024), ("198.18.0.3", 20024), ("198.18.0.3", 1024)]
UNIT = 1448
UNITS = 12
#: The last frame is shorter, as at the end of a stock client's chunk.
LENGTH = UNIT * (UNITS - 1) + 100
IMAGES = [image_of(LENGTH, seed) for seed in range(len(CLIENTS))]
NAMES = re.compile(
    r"(vmcore|vmcore_encrypted|info|key|bounds|manifest|journal)\.198\.18\.0\.[23]"
    r"(\.last|\.[0-9]+(\.gz|\.zst|\.partial)?)?"
)
u32, u64 = st.integers(0, (1 << 32) - 1), st.integers(0, (1 << 64) - 1)

hostile = st.one_of(
    st.binary(max_size=80),
    st.builds(
        lambda kind, seqno, offset, payload, aux2: Message(
            kind, seqno, offset, payload, aux2
        ).pack(),
        st.sampled_from(MessageType),
        st.one_of(u32, st.integers(0, 20)),
        st.one_of(u64, st.integers(0, 40000)),
        st.one_of(st.binary(max_size=60), st.sampled_from([b"lab\0", b"../..\0", bytes(512)])),
        st.sampled_from([0, OFFER]),
    ),
)


def wrapped(seqno: int) -> int:
    """As a client's own counter of 32 bits has it."""
    return seqno & 0xFFFFFFFF


class Server(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.outside = tempfile.TemporaryDirectory()
        self.folder = Path(self.outside.name) / "dumps"
        self.folder.mkdir()
        (self.folder / "lab").mkdir()
        self.disk = Disk(self.folder, room=UNIT * UNITS * 6, bite=5000)
        self.config = ServerConfig(max_clients=6, max_offers=2, max_dump=1 << 16, max_intervals=8)
        self.stores: list[FileStore] = []
        self.ports = 0
        self.core = ServerCore(self.config, self.open_store)
        self.now = 0.0
        self.sockets: dict[int, int] = {}  # session -> client's number
        self.foreign: set[int] = set()  # sessions with bytes that no image has
        self.acked: dict[int, dict[int, bytes]] = {}  # session -> offset -> true bytes
        self.said: list[tuple[int, bytes]] = []
        self.base_fds = len(os.listdir("/proc/self/fd"))

    def teardown(self) -> None:
        self.core.stop()
        self.outside.cleanup()

    def open_store(self, client: tuple[str, int], path: str) -> Store:
        self.stores.append(self.disk(client, path))
        return self.stores[-1]

    def opened(self, session: int, who: int) -> None:
        self.sockets[session] = who
        if not self.core.sessions[session].local[0]:
            self.ports += 1
            self.core.has_socket(session, ("198.18.0.1", 40000 + self.ports))

    def send(self, session: int, datagrams: list[bytes]) -> list[int]:
        acks = self.core.receive(session, *block(datagrams), self.now)
        self.said += [(session, datagram) for datagram in datagrams]
        return self.named(acks, datagrams)

    def base(self, session: int) -> int:
        """The seqno of a client's first message after its HERALD."""
        known = self.core.sessions.get(session)
        return 1 + (known.herald.seqno if known else 1)

    def named(self, acks: NDArray[np.uint8], datagrams: list[bytes]) -> list[int]:
        """Those seqnos of the datagrams that the acks name, in either form."""
        seqnos = dict.fromkeys(int.from_bytes(d[4:8], "big") for d in datagrams)
        if acks.shape[1] == 4:
            assert len(acks) == 0 or acks.dtype == np.uint8
            return [int(n) for n in np.ascontiguousarray(acks).view(">u4").ravel()]
        assert len(acks) == 1, "selective: one for a batch"
        sack = parse_sack(acks.tobytes())
        return [seqno for seqno in seqnos if sack.covers(seqno)]

    # -- clients that mean well --------------------------------------------------------------

    @rule(
        who=st.integers(0, 2),
        seqno=st.sampled_from([0, 1, 7777]),
        path=st.booleans(),
        offer=st.sampled_from([0, OFFER, 77]),
    )
    def sends_a_herald(self, who: int, seqno: int, path: bool, offer: int) -> None:
        datagram = herald(seqno, "lab" if path else "", offer)
        reply = self.core.herald(CLIENTS[who], datagram, self.now)
        if reply is not None:
            assert reply.fresh == (reply.session_id not in self.sockets)
            self.opened(reply.session_id, who)

    @precondition(lambda self: self.sockets)
    @rule(data=st.data(), first=st.integers(0, UNITS - 1), count=st.integers(1, UNITS))
    def sends_data(self, data: st.DataObject, first: int, count: int) -> None:
        self.data_of(data.draw(st.sampled_from(sorted(self.sockets))), first, count)

    def data_of(self, session: int, first: int, count: int) -> None:
        image = IMAGES[self.sockets[session]]
        units = range(first, min(first + count, UNITS))
        base = self.base(session)
        batch = [
            vmcore(wrapped(base + n), n * UNIT, image[n * UNIT : (n + 1) * UNIT]) for n in units
        ]
        for ack in self.send(session, batch):
            if session in self.foreign:
                continue
            offset = wrapped(ack - base) * UNIT
            self.acked.setdefault(session, {})[offset] = image[offset : offset + UNIT]

    @precondition(lambda self: self.sockets)
    @rule(data=st.data())
    def ends_its_dump(self, data: st.DataObject) -> None:
        self.end_of(data.draw(st.sampled_from(sorted(self.sockets))))

    def end_of(self, session: int) -> bool:
        """Whether the server has confirmed it."""
        base = self.base(session)
        self.send(session, [kdh(wrapped(base + UNITS), KernelDumpHeader(dumplength=LENGTH))])
        if not self.send(session, [finished(wrapped(base + UNITS + 1))]):
            return False
        state = self.core.sessions[session]
        assert state.state is State.COMPLETE
        assert session in self.foreign or state.dump.vmcore.coverage.holes(LENGTH) == []
        return True

    # -- and all the others ------------------------------------------------------------------

    @precondition(lambda self: self.said)
    @rule(data=st.data())
    def an_old_frame_comes_again(self, data: st.DataObject) -> None:
        session, datagram = data.draw(st.sampled_from(self.said[-40:]))
        files = self.contents() if self.ended(session) else None
        self.core.receive(session, *block([datagram]), self.now)
        assert files is None or files == self.contents()

    @precondition(lambda self: self.sockets)
    @rule(data=st.data(), datagrams=st.lists(hostile, max_size=6))
    def somebody_sends_rubbish(self, data: st.DataObject, datagrams: list[bytes]) -> None:
        session = data.draw(st.sampled_from(sorted(self.sockets)))
        # The bytes that rubbish claims are no longer the client's own.
        before = self.core.sessions.get(session)
        free = before is None or before.state is not State.COMPLETE
        self.send(session, datagrams)
        if free:
            self.foreign.add(session)
            self.acked.pop(session, None)

    @rule(datagram=hostile, who=st.integers(0, 2))
    def the_herald_port_hears_rubbish(self, datagram: bytes, who: int) -> None:
        reply = self.core.herald(CLIENTS[who], datagram, self.now)
        if reply is not None:
            self.opened(reply.session_id, who)

    @rule()
    def the_server_is_killed_and_comes_up_again(self) -> None:
        """Nobody's dump is lost that had begun; offers are."""
        before = dict(self.core.sessions)
        for store in self.stores:
            store.close()
        self.core = ServerCore(self.config, self.open_store)
        folder = DumpFolder(str(self.folder), "none")
        left = list(folder.left_behind(self.core.not_resumed))
        self.stores = [store for store, _ in left]
        self.core.take_up(left, folder.machine.boot, self.now)
        folder.close()
        after = {one.local: number for number, one in self.core.sessions.items()}
        lives = {n: after[one.local] for n, one in before.items() if one.local in after}
        for number, old in before.items():
            parts = self.acked.get(number)
            if parts and old.state in (State.RECEIVING, State.COMPLETE):
                new = self.core.sessions[lives[number]]
                assert new.acks.spans() == old.acks.spans()
                covers = new.dump.vmcore.coverage.covers
                assert all(covers(at, at + len(octets)) for at, octets in parts.items())
        self.sockets = {lives[n]: who for n, who in self.sockets.items() if n in lives}
        self.foreign = {lives[n] for n in self.foreign if n in lives}
        self.acked = {lives[n]: parts for n, parts in self.acked.items() if n in lives}
        self.said = [(lives[n], datagram) for n, datagram in self.said if n in lives]

    @rule(seconds=st.sampled_from([0.1, 1.0, 14.0, 16.0, 70.0, 601.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        for session in self.core.tick(self.now):
            assert session not in self.core.sessions
            self.sockets.pop(session, None)
            self.acked.pop(session, None)

    @rule(room=st.sampled_from([0, 3000, 1 << 30]))
    def the_disk_changes(self, room: int) -> None:
        self.disk.room = room

    # -- what holds --------------------------------------------------------------------------

    def ended(self, session: int) -> bool:
        known = self.core.sessions.get(session)
        return known is None or not known.state.running

    def contents(self) -> dict[str, bytes]:
        return {str(p): p.read_bytes() for p in self.folder.rglob("*") if p.is_file()}

    @invariant()
    def every_acknowledged_byte_is_on_the_disk(self) -> None:
        for session, parts in self.acked.items():
            if session not in self.core.sessions or not parts:
                continue
            name = self.core.sessions[session].dump.name
            copies = [
                path.read_bytes()
                for path in self.folder.rglob("vmcore*")
                if path.name in (name, f"{name}.partial")
            ]
            assert any(
                all(copy[at : at + len(octets)] == octets for at, octets in parts.items())
                for copy in copies
            ), f"session {session}: acknowledged bytes are not in {name}"

    @invariant()
    def nothing_is_written_elsewhere(self) -> None:
        assert os.listdir(self.outside.name) == ["dumps"]
        for path in self.folder.rglob("*"):
            assert path.name == "lab" or NAMES.fullmatch(path.name), path

    @invariant()
    def sessions_and_files_are_bounded(self) -> None:
        assert len(self.core.sessions) <= self.config.max_clients
        assert len(os.listdir("/proc/self/fd")) <= self.base_fds + 5 * self.config.max_clients
        for session in self.core.sessions.values():
            assert len(session.dump.vmcore.coverage) <= self.config.max_intervals

    @invariant()
    def what_was_acknowledged_is_acknowledged_again(self) -> None:
        for session, parts in self.acked.items():
            known = self.core.sessions.get(session)
            if known is None or known.state not in (State.RECEIVING, State.COMPLETE) or not parts:
                continue
            offset, octets = next(iter(parts.items()))
            seqno = wrapped(self.base(session) + offset // UNIT)
            again = [vmcore(seqno, offset, octets)]
            acks = self.core.receive(session, *block(again), self.now)
            assert self.named(acks, again) == [seqno]


def test_a_dump_whose_sequence_numbers_begin_anew_in_its_middle_is_stored_like_any_other() -> None:
    for offer in (0, OFFER):
        server = Server()
        server.sends_a_herald(0, wrapped(-UNITS // 2), False, offer)
        (session,) = server.sockets
        server.data_of(session, 0, UNITS)
        assert sorted(server.acked[session]) == [n * UNIT for n in range(UNITS)]
        server.what_was_acknowledged_is_acknowledged_again()
        assert server.end_of(session)
        server.every_acknowledged_byte_is_on_the_disk()
        server.teardown()


TestServerMachine = Server.TestCase
TestServerMachine.settings = settings(
    max_examples=50,
    stateful_step_count=25,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
