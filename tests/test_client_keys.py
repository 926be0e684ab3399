"""A client that has a key, and our server behind a wire on which others speak, too."""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from netdump.client import Step
from netdump.nak import Reason, meaning, pack_nak
from netdump.profiles import PROFILES
from netdump.sack import Sack
from server.core import NO_SESSION
from tests import client_rig
from tests.client_rig import (
    BROADCAST,
    HERALD,
    SERVER_IP,
    SERVER_MAC,
    STRANGER_MAC,
    Peer,
    Played,
    Sent,
    ack,
    arp,
    ended,
    impatient,
    play,
    reply,
)
from tests.server_rig import CLIENT, Disk, Rig, block

KEY, OTHER_KEY = bytes(range(32)), bytes(range(1, 33))
NETDUMP2 = PROFILES["netdump2"]
HERALD_PORT = 20023
#: Of the HERALD of a client that has drawn 1000: 0 and 1 are others'.
SEQNO = 1002


@dataclass
class Segment(Peer):
    """Our server, at ports 20023 and 40000 plus the session; and what ``attack`` makes others say
    to the client before each answer of the server's, and to each ARP request.
    """

    rig: Rig
    attack: Callable[[bytes], list[bytes]] = lambda frame: []
    recorded: list[bytes] = field(default_factory=list)
    """All that went to the client."""
    heard: list[bytes] = field(default_factory=list)
    """All that the server heard: whole frames."""
    deaf: Callable[[bytes], bool] = lambda frame: False

    def __post_init__(self) -> None:
        super().__init__()

    def hear(self, frame: bytes) -> list[bytes]:
        forged = self.attack(frame)
        if frame[12:14] == b"\x08\x06":
            return [*forged, *self._arp(frame)]
        kind, seqno, offset, _, aux2 = struct.unpack_from(">IIQII", frame, 42)
        port = int.from_bytes(frame[36:38], "big")
        self.sent.append(Sent(frame[:6], port, frame[22], kind, seqno, offset, frame[66:], aux2))
        if frame[:6] != SERVER_MAC or self.deaf(frame):
            return forged
        self.heard.append(frame)
        answers = list(self.answers(port, frame[42:]))
        self.recorded += answers
        return [*forged, *answers]

    def answers(self, port: int, datagram: bytes) -> Iterator[bytes]:
        core = self.rig.core
        if port == HERALD_PORT:
            said = core.herald(CLIENT, datagram, self.rig.now)
            if said is not None:
                own = HERALD_PORT if said.session_id == NO_SESSION else 40000 + said.session_id
                yield reply(said.ack, from_port=own)
            return
        for row in core.receive(port - 40000, *block([datagram]), self.rig.now):
            yield reply(row.tobytes(), from_port=port)

    def stored(self, number: int = 0) -> bytes:
        return self.rig.read(f"vmcore.{CLIENT[0]}.{number}")


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path, keys={"*": KEY}, require_key=True)


def dump(segment: Segment, profile: str = "netdump2", **wanted: object) -> Played:
    return play(replace(PROFILES[profile], **wanted.pop("columns", {})), segment, key=KEY, **wanted)  # type: ignore[arg-type]


def test_a_dump_with_a_key(rig: Rig) -> None:
    segment = Segment(rig)
    done = dump(segment)
    assert done.report.claims_success
    assert segment.stored() == done.image
    heralds = segment.of_kind(HERALD)
    assert [sent.aux2 for sent in heralds] == [0x4E443227, 0x4E445027]
    assert len({sent.offset for sent in heralds}) == 1
    assert not any(sent.aux2 for sent in segment.sent[2:])
    assert max(map(len, segment.heard)) == 1514, "a full frame, and no longer"
    assert rig.core.refused == {}
    assert done.report.stats.refused == {}


@pytest.mark.parametrize("mtu", [580, 1500, 9000])
def test_its_frames_have_the_size_of_the_wire(rig: Rig, mtu: int) -> None:
    segment = Segment(rig)
    done = dump(segment, mtu=mtu)
    assert done.report.claims_success
    assert max(map(len, segment.heard)) == 14 + mtu


def test_a_wire_too_small_for_a_tag_is_told(rig: Rig) -> None:
    done = dump(Segment(rig), mtu=579)
    assert ended(done) == ("EMSGSIZE", Step.HERALD)


@pytest.mark.parametrize("lost", range(8))
def test_whatever_is_lost_of_the_opening_is_made_good(rig: Rig, lost: int) -> None:
    """The messages of it, to and fro, one after the other; from 4 on all of them before that."""
    segment = Segment(rig)
    plain = segment.answers
    count = iter(range(1000))

    def answers(port: int, datagram: bytes) -> Iterator[bytes]:
        def is_lost() -> bool:
            number = next(count)
            return number == lost if lost < 4 else number < lost

        if not is_lost():
            for one in plain(port, datagram):
                if not is_lost():
                    yield one

    segment.answers = answers  # type: ignore[method-assign]
    done = dump(segment)
    assert done.report.claims_success
    assert segment.stored() == done.image


def test_another_key_is_no_key(rig: Rig) -> None:
    segment = Segment(rig)
    done = play(impatient("netdump2"), segment, key=OTHER_KEY)
    assert ended(done) == ("EACCES", Step.HERALD)
    assert done.report.stats.refused["challenge"] > 0
    assert rig.files() == []


@pytest.mark.parametrize("required", [True, False])
def test_a_stock_server(required: bool) -> None:
    """The client goes on with it only if it is allowed to; it sees a stock client."""
    peer = Peer()
    done = play(impatient("netdump2", key_is_required=required), peer, key=KEY)
    if required:
        assert ended(done) == ("ETIMEDOUT", Step.HERALD)
        assert done.report.stats.refused["ack-tag"] > 0
    else:
        assert done.report.claims_success
        assert peer.kinds() == [HERALD, client_rig.VMCORE, client_rig.KDH, client_rig.FINISHED]


@pytest.mark.parametrize("required", [True, False])
def test_our_server_without_the_key(tmp_path: Path, required: bool) -> None:
    segment = Segment(Rig(tmp_path))
    done = play(impatient("netdump2", key_is_required=required), segment, key=KEY)
    if required:
        assert ended(done) == ("ETIMEDOUT", Step.HERALD)
    else:
        assert done.report.claims_success
        assert segment.stored() == done.image
        assert segment.sent[-1].aux2, "with a CRC, then"


@pytest.mark.parametrize("name", ["patch-2010", "freebsd-14"])
def test_a_stock_client_has_no_use_for_a_key(name: str) -> None:
    peer = Peer()
    assert play(PROFILES[name], peer, key=KEY).report.claims_success
    assert peer.sent[0].offset == peer.sent[0].aux2 == 0


# -- forged ----------------------------------------------------------------------------------------

Attack = Callable[[bytes], list[bytes]]


def _seqno(frame: bytes) -> int:
    return int.from_bytes(frame[46:50], "big")


def _sack(bits: int, tag: bytes) -> Attack:
    """That says that all is kept."""

    def attack(frame: bytes) -> list[bytes]:
        said = Sack(_seqno(frame) + 1, (), bits).pack() + tag
        return [reply(said, from_port=port) for port in (HERALD_PORT, 40001, 39999)]

    return attack


def _challenge(frame: bytes) -> list[bytes]:
    said = b"NDC\x25" + frame[46:50] + bytes(16) + bytes(16)
    return [reply(said, from_port=HERALD_PORT)]


ATTACKS: dict[str, Attack] = {
    "stock acks": lambda frame: [ack(_seqno(frame)), ack(_seqno(frame), from_port=40001)],
    "acks without a tag": _sack(0x25, b""),
    "acks that take no tags": _sack(0x07, b""),
    "acks with zeros for a tag": _sack(0x25, bytes(16)),
    "challenges": _challenge,
    "challenges that are cut": lambda frame: [one[:-20] for one in _challenge(frame)],
    "ARP replies": lambda frame: [arp(2, STRANGER_MAC, SERVER_IP)],
    "ARP replies from many": lambda frame: (
        [arp(2, b"\x02\0\0\0\x77" + bytes([n]), SERVER_IP) for n in range(40)]
        if frame[:6] in (SERVER_MAC, BROADCAST)
        else []
    ),
    "ARP requests": lambda frame: [arp(1, STRANGER_MAC, SERVER_IP)],
    "NAKs": lambda frame: [
        reply(pack_nak(0x25, seqno, Reason.DISK_FULL) + bytes(16), from_port=port)
        for seqno in (_seqno(frame), SEQNO)
        for port in (HERALD_PORT, 40001)
    ],
    "NAKs without a tag": lambda frame: [
        reply(pack_nak(0x25, SEQNO, Reason.DISK_FULL), from_port=40001)
    ],
    "empty datagrams": lambda frame: [reply(b"", from_port=40001)],
}


@pytest.mark.parametrize("name", ATTACKS)
def test_forged_frames_change_nothing(rig: Rig, name: str) -> None:
    segment = Segment(rig, ATTACKS[name])
    done = dump(segment)
    assert done.report.claims_success
    assert segment.stored() == done.image
    assert done.report.stats.retransmissions == 0, "nor do they slow it"
    assert {sent.to_mac for sent in segment.sent if sent.kind != HERALD} == {SERVER_MAC}


@pytest.mark.parametrize("name", ATTACKS)
def test_a_forger_alone_is_no_server(name: str) -> None:
    attack = ATTACKS[name]
    peer = Peer(lambda sent: attack(bytes(46) + sent.seqno.to_bytes(4, "big") + bytes(40)))
    done = play(impatient("netdump2"), peer, key=KEY)
    error = "EACCES" if name == "challenges" else "ETIMEDOUT"
    assert ended(done) == (error, Step.HERALD)


def test_without_a_key_a_forged_ack_is_a_hole(tmp_path: Path) -> None:
    """What the key is for. The forger need not hear: he says that all up to a seqno is kept."""
    lost = iter([False] * 20 + [True] * 3)
    segment = Segment(
        Rig(tmp_path),
        lambda frame: [reply(Sack(_seqno(frame) + 1, (), 0x07).pack(), from_port=40001)],
        deaf=lambda frame: next(lost, False),
    )
    done = play(impatient("netdump2"), segment)
    assert done.report.claims_success, "the forger has acknowledged FINISHED, too"
    assert not (segment.rig.folder / f"vmcore.{CLIENT[0]}.0").exists()

    lost = iter([False] * 20 + [True] * 3)
    keyed = tmp_path / "keyed"
    keyed.mkdir()
    segment = Segment(
        Rig(keyed, keys={"*": KEY}), _sack(0x25, bytes(16)), deaf=lambda frame: next(lost, False)
    )
    done = dump(segment)
    assert done.report.claims_success
    assert segment.stored() == done.image


def test_who_answers_arp_first_is_not_believed_for_that(rig: Rig) -> None:
    def attack(frame: bytes) -> list[bytes]:
        return [arp(2, STRANGER_MAC, SERVER_IP)] if frame[12:14] == b"\x08\x06" else []

    segment = Segment(rig, attack)
    done = dump(segment)
    assert done.report.claims_success
    assert done.report.stats.retransmissions == 0
    assert segment.stored() == done.image
    assert segment.sent[0].to_mac == STRANGER_MAC, "it was asked"
    without = Segment(Rig(rig.folder), attack)
    assert ended(play(impatient("netdump2"), without)) == ("ETIMEDOUT", Step.HERALD)


def _said_by(mac: bytes, frame: bytes) -> bytes:
    """The same, as if another host had sent it."""
    return frame[:6] + mac + frame[12:]


def _is_challenge(frame: bytes) -> bool:
    return frame[42:45] == b"NDC"


class Echo(Segment):
    """A stranger says again what the server has said, from a MAC of his own."""

    def __init__(
        self, rig: Rig, mac: bytes, again: Callable[[bytes], bool], lost: Callable[[bytes], bool]
    ) -> None:
        """``lost``: which of the server's frames the client does not hear itself."""
        super().__init__(rig)
        self.mac, self.again, self.lost = mac, again, lost

    def answers(self, port: int, datagram: bytes) -> Iterator[bytes]:
        for frame in super().answers(port, datagram):
            if not self.lost(frame):
                yield frame
            if self.again(frame):
                yield _said_by(self.mac, frame)


@pytest.mark.parametrize("mac", [STRANGER_MAC, bytes.fromhex("0180c2000001"), bytes(6)])
def test_a_challenge_said_again_by_a_stranger_does_not_take_the_proof(rig: Rig, mac: bytes) -> None:
    segment = Echo(rig, mac, _is_challenge, lambda _: False)
    done = dump(segment)
    assert done.report.claims_success
    assert done.report.stats.retransmissions == 0
    assert segment.stored() == done.image
    proofs = [sent.to_mac for sent in segment.sent if sent.aux2 >> 8 == 0x4E4450]
    assert proofs == ([SERVER_MAC, mac] if mac == STRANGER_MAC else [SERVER_MAC])


@pytest.mark.parametrize("before", [False, True])
def test_copies_of_a_challenge_from_many_macs_do_not_push_the_server_out(
    rig: Rig, before: bool
) -> None:
    """As many as one poll brings: the proof is for whom ARP has named, too."""

    class Crowd(Segment):
        def answers(self, port: int, datagram: bytes) -> Iterator[bytes]:
            for frame in super().answers(port, datagram):
                crowd = [_said_by(b"\x02\0\0\0\x77" + bytes([n]), frame) for n in range(40)]
                crowd = crowd if _is_challenge(frame) else []
                yield from [*crowd, frame] if before else [frame, *crowd]

    segment = Crowd(rig)
    done = dump(segment)
    assert done.report.claims_success
    assert done.report.stats.retransmissions == 0
    assert segment.stored() == done.image
    proofs = [sent for sent in segment.sent if sent.aux2 >> 8 == 0x4E4450]
    assert len(proofs) == 9


@pytest.mark.parametrize("nth", [0, 1, 5])
def test_a_lost_ack_that_a_stranger_says_again_does_not_take_the_dump(rig: Rig, nth: int) -> None:
    acks = iter(range(1000))
    number = [-1]

    def is_ack(frame: bytes) -> bool:
        return frame[34:36] != HERALD_PORT.to_bytes(2, "big")

    def lost(frame: bytes) -> bool:
        number[0] = next(acks) if is_ack(frame) else -1
        return number[0] == nth

    segment = Echo(rig, STRANGER_MAC, lambda _: number[0] == nth, lost)
    done = dump(segment)
    assert done.report.claims_success
    assert segment.stored() == done.image
    astray = [sent for sent in segment.sent if sent.to_mac == STRANGER_MAC]
    assert len(astray) <= 300, "a window, or less, until the server is heard again"
    assert astray or nth, "else nothing was tried"


def test_a_hole_and_then_copies_in_place_of_acks_do_not_keep_the_dump(rig: Rig) -> None:
    """While the server's ``next`` stands at a hole none of its answers moves it; they must bring
    the dump back all the same. (So it went a window in three seconds, and a run was "hung".)
    """
    holes = {SEQNO + 10}
    acks = iter(range(10**6))

    class Gap(Echo):
        def hear(self, frame: bytes) -> list[bytes]:
            seqno = int.from_bytes(frame[46:50], "big")
            if frame[12:14] == b"\x08\0" and frame[:6] == SERVER_MAC and seqno in holes:
                holes.remove(seqno)
                return []
            return super().hear(frame)

    def lost(frame: bytes) -> bool:
        """The acks of the hole's window, each of which the stranger says again."""
        return not _is_challenge(frame) and 5 < next(acks) < 60

    segment = Gap(rig, STRANGER_MAC, lambda frame: not _is_challenge(frame), lost)
    done = dump(segment)
    assert done.report.claims_success
    assert segment.stored() == done.image
    assert not holes
    astray = [sent for sent in segment.sent if sent.to_mac == STRANGER_MAC]
    assert len(astray) <= 64


def test_copies_of_all_acks_take_nothing(rig: Rig) -> None:
    segment = Echo(rig, STRANGER_MAC, lambda frame: not _is_challenge(frame), lambda _: False)
    done = dump(segment)
    assert done.report.claims_success
    assert done.report.stats.retransmissions == 0
    assert {sent.to_mac for sent in segment.sent} == {SERVER_MAC}


def test_who_has_been_challenged_rightly_has_the_right_key(rig: Rig) -> None:
    """Then silence, and a forged challenge beside: the key is not what is wrong."""

    class Mute(Segment):
        def answers(self, port: int, datagram: bytes) -> Iterator[bytes]:
            yield from (one for one in super().answers(port, datagram) if _is_challenge(one))

    def attack(frame: bytes) -> list[bytes]:
        return [] if frame[12:14] == b"\x08\x06" else _challenge(frame)

    done = play(impatient("netdump2"), Mute(rig, attack), key=KEY)
    assert ended(done) == ("ETIMEDOUT", Step.HERALD)


@pytest.mark.parametrize(("mtu", "path", "fits"), [(580, 300, True), (580, 600, False)])
def test_a_proof_is_one_message_with_its_path(rig: Rig, mtu: int, path: int, fits: bool) -> None:
    segment = Segment(rig)
    done = play(NETDUMP2, segment, key=KEY, mtu=mtu, path="x" * path)
    assert max(map(len, segment.heard), default=0) <= 14 + mtu
    if fits:
        assert done.report.claims_success
    else:
        assert ended(done) == ("EMSGSIZE", Step.HERALD)
        assert "with the path in it" in done.report.detail


def test_a_quiet_server_is_told_again_whose_the_client_s_address_is(rig: Rig) -> None:
    """Somebody may have told it another MAC."""
    quiet = iter([False] * 90 + [True] * 40)
    segment = Segment(rig, deaf=lambda frame: next(quiet, False))
    done = dump(segment)
    assert done.report.claims_success
    assert done.report.stats.probes
    assert len(segment.asked) == 1 + done.report.stats.probes


# -- the server says no ----------------------------------------------------------------------------


class NakSegment(Segment):
    """Whatever the client says after a while, the server answers so."""

    def __init__(self, rig: Rig, nak: Callable[[bytes], bytes]) -> None:
        super().__init__(rig)
        self.nak = nak

    def answers(self, port: int, datagram: bytes) -> Iterator[bytes]:
        if len(self.heard) > 20:
            (session,) = self.rig.core.sessions.values()
            assert session.herald.keys is not None
            yield reply(session.herald.keys.seal(self.nak(datagram)), from_port=port)
        else:
            yield from super().answers(port, datagram)


@pytest.mark.parametrize("reason", [*Reason, 99])
def test_a_nak_ends_the_dump_at_once_and_says_why(rig: Rig, reason: int) -> None:
    segment = NakSegment(rig, lambda _: pack_nak(0x25, SEQNO, reason))  # type: ignore[arg-type]
    done = dump(segment)
    code, why = meaning(reason)
    assert ended(done) == (errno.errorcode[code], Step.DATA)
    assert why in done.report.detail
    assert done.report.stats.polls < 20


def test_a_nak_about_another_herald_is_refused(rig: Rig) -> None:
    segment = NakSegment(rig, lambda _: pack_nak(0x25, SEQNO + 1, Reason.BUSY))
    done = play(impatient("netdump2"), segment, key=KEY)
    assert ended(done) == ("ETIMEDOUT", Step.DATA)
    assert done.report.stats.refused["nak"] > 0


def test_a_nak_of_an_earlier_dump_is_refused(rig: Rig) -> None:
    first = NakSegment(rig, lambda _: pack_nak(0x25, SEQNO, Reason.BUSY))
    assert ended(dump(first)) == ("EBUSY", Step.DATA)
    second = Segment(rig, lambda frame: first.recorded)
    done = dump(second, nonce=b"another!", segments=SMALL)
    assert done.report.claims_success
    assert done.report.stats.refused["nak-tag"] > 0


def test_a_full_disk_is_told_at_once(tmp_path: Path) -> None:
    rig = Rig(tmp_path, Disk(tmp_path, room=50_000), keys={"*": KEY})
    done = dump(Segment(rig))
    assert ended(done) == ("ENOSPC", Step.DATA)
    assert done.report.stats.polls < 20


def test_a_dump_that_is_too_large_is_not_begun(tmp_path: Path) -> None:
    segment = Segment(Rig(tmp_path, keys={"*": KEY}, max_dump=1 << 16))
    done = dump(segment)
    assert ended(done) == ("EFBIG", Step.HERALD)
    assert len(segment.sent) == 2
    assert segment.rig.files() == []


def test_damage_on_the_disk_is_told_at_once(rig: Rig) -> None:
    segment = Segment(rig)

    def rot(frame: bytes) -> list[bytes]:
        if frame[45:46] == bytes([client_rig.FINISHED]):
            path = segment.rig.folder / f"vmcore.{CLIENT[0]}.0.partial"
            octets = bytearray(path.read_bytes())
            octets[-1] ^= 1
            path.write_bytes(octets)
        return []

    segment.attack = rot
    done = dump(segment)
    assert ended(done) == ("EBADMSG", Step.FINISH)
    assert done.report.stats.polls < 50


# -- recorded --------------------------------------------------------------------------------------


@pytest.mark.parametrize("same_draw", [True, False])
def test_what_was_recorded_of_an_earlier_dump_changes_nothing(rig: Rig, same_draw: bool) -> None:
    """Also where the client has drawn the same seqno, as one without entropy may."""
    first = Segment(rig)
    assert dump(first).report.claims_success
    rig.now += 3600
    rig.core.tick(rig.now)
    count = len(rig.files())

    second = Segment(rig)

    def attack(frame: bytes) -> list[bytes]:
        for old in first.heard:
            port = int.from_bytes(old[36:38], "big")
            for session in {port, *(40000 + number for number in rig.core.sessions)}:
                if port == HERALD_PORT or session != port:
                    assert not list(second.answers(session, old[42:])) or old in first.heard[:1]
        return first.recorded

    second.attack = attack
    done = dump(second, draw=1000 if same_draw else 2000, nonce=b"another!", segments=SMALL)
    assert done.report.claims_success
    assert second.stored(1) == done.image
    assert done.report.stats.retransmissions == 0
    assert done.report.stats.refused["ack-tag"] > 0
    assert done.report.stats.refused["challenge"] > 0
    assert len(rig.files()) == count + 3, "one more dump, with info and manifest"


SMALL = [(4096, 16 << 10)]


def test_what_was_recorded_of_this_dump_changes_nothing(rig: Rig) -> None:
    segment = Segment(rig)

    def attack(frame: bytes) -> list[bytes]:
        for old in list(segment.heard):
            port = int.from_bytes(old[36:38], "big")
            list(Segment.answers(segment, port, old[42:]))
        return list(segment.recorded)

    segment.attack = attack
    done = dump(segment, segments=SMALL)
    assert done.report.claims_success
    assert done.report.stats.retransmissions == 0
    assert segment.stored() == done.image
    assert len(rig.core.sessions) == 1
    assert len(rig.files()) == 6


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_acks_and_challenges_with_a_bit_changed(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """They come before each right one, with right checksums."""
    rig = Rig(tmp_path_factory.mktemp("dumps"), keys={"*": KEY})
    segment = Segment(rig)
    plain = segment.answers

    def answers(port: int, datagram: bytes) -> Iterator[bytes]:
        for frame in plain(port, datagram):
            length = int.from_bytes(frame[38:40], "big") - 8
            said = bytearray(frame[42 : 42 + length])
            bit = data.draw(st.integers(0, 8 * len(said) - 1))
            said[bit // 8] ^= 1 << bit % 8
            yield reply(bytes(said), from_port=int.from_bytes(frame[34:36], "big"))
            yield frame

    segment.answers = answers  # type: ignore[method-assign]
    done = dump(segment, segments=SMALL)
    assert done.report.claims_success
    assert segment.stored() == done.image
    assert sum(done.report.stats.refused.values()) >= len(segment.heard)
