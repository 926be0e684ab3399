"""A server that has keys: who is served, and what forged and recorded messages do to it."""

from __future__ import annotations

import errno
import itertools
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from netdump.digest import Digest
from netdump.kdh import KernelDumpHeader
from netdump.messages import MessageType
from netdump.nak import Reason, parse_nak
from netdump.opening import Facts
from netdump.sack import Sack
from server.core import NO_SESSION, HeraldReply, ServerCore, rank
from server.folder import DumpFolder
from server.gate import MOST_SPENT, SLOT, BadKeys, parse_keys
from server.life import State
from server.refusals import KEYLESS
from tests.keyed_rig import KEY, OFFER, OTHER_KEY, TAKEN, KeyedClient
from tests.server_rig import (
    CLIENT,
    DRAWN,
    FINAL,
    HEADER,
    HOST,
    IMAGE,
    PARTIAL,
    Disk,
    Rig,
    block,
    finished,
    frames,
    herald,
    kdh,
    vmcore,
)

KEYS = {"*": KEY}
STRANGER = ("198.18.0.66", 20024)


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path, keys=KEYS)


def state(rig: Rig, session: int) -> State:
    return rig.core.sessions[session].state


def answer(rig: Rig, datagram: bytes, client: tuple[str, int] = CLIENT) -> bytes | None:
    reply = rig.core.herald(client, datagram, rig.now)
    return None if reply is None else reply.ack


# -- what is served --------------------------------------------------------------------------------


def test_a_dump_with_a_key(rig: Rig) -> None:
    client = KeyedClient(rig, path=b"")
    session = client.open()
    assert client.dump(session)
    assert rig.read(FINAL) == IMAGE
    told = json.loads(rig.read(f"manifest.{HOST}.0"))
    assert told["protocol"] == {
        "name": "netdump2",
        "crc32c": False,
        "digest": True,
        "authenticated": True,
    }
    assert told["announced"]["hostname"] == "lab1"
    assert (
        "the tag of each message: all came from a client that has the key, undamaged"
        in (told["verified"])
    )
    assert not [said for said in told["not_verified"] if "proved" in said]
    assert rig.core.refused == {}


def test_the_path_of_a_herald_with_a_key(rig: Rig) -> None:
    (rig.folder / "lab").mkdir()
    client = KeyedClient(rig, path=b"lab\0")
    assert client.dump(client.open())
    assert rig.read(f"lab/{FINAL}") == IMAGE


def test_what_breaks_off_says_whose_it_was(rig: Rig) -> None:
    client = KeyedClient(rig, facts=Facts(1 << 30, "riscv", "lab\x1b1", "it \N{SKULL} died"))
    session = client.open()
    client.say(session, *client.messages()[:3])
    rig.now += rig.core.config.idle
    rig.core.tick(rig.now)
    info = rig.info()
    assert "Announced: 1073741824 bytes of lab\\x1b1 (riscv), by a client that has the key" in info
    assert "Announced Panic String: it \N{SKULL} died" in info
    assert info[-1].startswith("Dump incomplete: client timed out")
    assert json.loads(rig.read(f"manifest.{HOST}.0"))["announced"]["length"] == 1 << 30


def test_clients_without_a_key_are_served_unless_the_server_demands_one(tmp_path: Path) -> None:
    for name in ("lax", "strict"):
        (tmp_path / name).mkdir()
    lax = Rig(tmp_path / "lax", keys=KEYS)
    strict = Rig(tmp_path / "strict", keys=KEYS, require_key=True)
    for offer in (0, 0x4E443207):
        assert answer(lax, herald(DRAWN, offer=offer)) is not None
        assert answer(strict, herald(DRAWN, offer=offer)) is None
    assert lax.dump(lax.open(), IMAGE, HEADER)
    assert strict.core.refused == {"no-key": 2}
    assert not strict.core.sessions
    client = KeyedClient(strict)
    assert client.dump(client.open())


def test_a_server_without_this_clients_key_takes_the_rest_of_its_offer(tmp_path: Path) -> None:
    rig = Rig(tmp_path, keys={STRANGER[0]: KEY})
    assert answer(rig, KeyedClient(rig).herald) == Sack(DRAWN + 1, (), 0x07).pack()
    KeyedClient(rig, address=STRANGER).open()


def test_each_address_has_its_own_key(tmp_path: Path) -> None:
    rig = Rig(tmp_path, keys={HOST: KEY, "*": OTHER_KEY})
    KeyedClient(rig).open()
    KeyedClient(rig, OTHER_KEY, STRANGER).open()


def test_a_dump_that_would_be_too_large_is_refused_before_it_begins(tmp_path: Path) -> None:
    rig = Rig(tmp_path, keys=KEYS, max_dump=1 << 20)
    client = KeyedClient(rig, facts=Facts((1 << 20) + 1))
    assert no(client, client.send_proof()) == Reason.TOO_LARGE
    assert rig.core.refused == {"beyond-max-dump": 1}
    assert not rig.core.sessions
    KeyedClient(rig, facts=Facts(1 << 20)).open()


# -- what is refused, and told ---------------------------------------------------------------------


def no(client: KeyedClient, said: HeraldReply | bytes | None) -> int:
    """The reason of a NAK."""
    if isinstance(said, HeraldReply):
        assert (said.session_id, said.fresh) == (NO_SESSION, False)
        said = said.ack
    assert said is not None
    octets = client.prover.unseal(said)
    assert octets is not None, "a wrong tag"
    assert octets[:4] == b"NDN" + bytes([TAKEN])
    return parse_nak(octets, client.seqno)


def told(client: KeyedClient, session: int, *datagrams: bytes) -> int:
    (said,) = client.rig.core.receive(session, *block(datagrams), client.rig.now)
    return no(client, said.tobytes())


def test_what_is_wrong_is_told_to_each_message_but_to_nobody_without_the_key(
    tmp_path: Path,
) -> None:
    disk = Disk(tmp_path, room=5000)
    rig = Rig(tmp_path, disk, keys=KEYS)
    client = KeyedClient(rig)
    session = client.open()
    parts = client.messages()
    assert client.say(session, parts[0])
    assert told(client, session, *parts[1:9]) == Reason.DISK_FULL
    for _ in range(2):
        assert told(client, session, parts[2]) == Reason.DISK_FULL
    forged = vmcore(client.seqno + 3, 0, b"x" * 100)
    assert client.say(session, forged) is None
    disk.fails = errno.EIO
    again = KeyedClient(rig, nonce=bytes(8))
    second = again.open()
    assert told(again, second, again.messages()[0]) == Reason.DISK_ERROR


def test_a_client_without_a_key_is_told_nothing(tmp_path: Path) -> None:
    rig = Rig(tmp_path, Disk(tmp_path, room=100), keys=KEYS)
    assert rig.say(rig.open(), vmcore(DRAWN + 1, 0, b"x" * 1000)) == []


def test_a_dump_that_was_given_up_is_told_so(rig: Rig) -> None:
    client = KeyedClient(rig)
    session = client.open()
    parts = client.messages()
    client.say(session, parts[0])
    rig.now += rig.core.config.idle
    rig.core.tick(rig.now)
    assert told(client, session, parts[1]) == Reason.ENDED


def test_a_header_that_is_not_taken_is_told_so(rig: Rig) -> None:
    client = KeyedClient(rig)
    session = client.open()
    old = KernelDumpHeader(dumplength=4096, version=1).pack()
    message = client.message(MessageType.KDH, 1, 0, old)
    assert told(client, session, message) == Reason.REFUSED


def test_data_beyond_the_largest_dump_are_told_so(tmp_path: Path) -> None:
    rig = Rig(tmp_path, keys=KEYS, max_dump=1 << 20)
    client = KeyedClient(rig)
    session = client.open()
    message = client.message(MessageType.VMCORE, 1, 1 << 20, b"x")
    assert told(client, session, message) == Reason.TOO_LARGE


def test_a_digest_that_is_not_the_files_is_told_so(rig: Rig) -> None:
    client = KeyedClient(rig)
    session = client.open()
    *parts, _ = client.messages()
    client.say(session, *parts)
    other = Digest(len(IMAGE), bytes(32)).pack()
    finished_so = client.message(MessageType.FINISHED, 1 + len(parts), 0, other)
    assert told(client, session, finished_so) == Reason.DAMAGED


def test_a_server_that_ends_says_so_to_those_that_can_believe_it(rig: Rig) -> None:
    client = KeyedClient(rig)
    session = client.open()
    client.say(session, client.messages()[0])
    rig.open(client=STRANGER)
    done = KeyedClient(rig, nonce=bytes(8), address=("198.18.0.9", 20024))
    assert done.dump(done.open())
    ((number, said),) = rig.core.farewells()
    assert number == session
    assert no(client, said) == Reason.SHUTTING_DOWN


# -- opening ---------------------------------------------------------------------------------------


def test_heralds_alone_cost_nothing(rig: Rig) -> None:
    """However many there are, of whomever: nothing is kept of them."""
    for number in range(300):
        address = (f"198.18.{number % 7}.{number % 200 + 1}", 1024 + number)
        nonce = number.to_bytes(8, "big")
        KeyedClient(rig, address=address, seqno=number, nonce=nonce).challenge()
    assert not rig.core.sessions
    assert rig.files() == []
    assert rig.core._gate._spent == {}


def test_a_proof_comes_again_and_means_the_same_session(rig: Rig) -> None:
    client = KeyedClient(rig)
    proof = client.proof()
    first = client.send_proof(proof)
    assert first is not None
    assert first.fresh
    for _ in range(3):
        again = client.send_proof(proof)
        assert again is not None
        assert (again.session_id, again.fresh, again.ack) == (first.session_id, False, first.ack)
    client.heard(first.ack)
    assert client.dump(first.session_id)
    rig.now += 3 * SLOT  # its nonce is old by now
    late = client.send_proof(proof)
    assert late is not None
    assert (late.session_id, late.fresh) == (first.session_id, False)
    assert client.heard(late.ack).covers(client.seqno)


def test_a_lost_proof_is_made_good_by_another_challenge(rig: Rig) -> None:
    client = KeyedClient(rig)
    client.proof()
    rig.now += SLOT
    client.open()
    assert len(rig.core.sessions) == 1


@pytest.mark.parametrize("late", [0, SLOT - 1, SLOT])
def test_a_nonce_is_good_for_so_long(rig: Rig, late: float) -> None:
    client = KeyedClient(rig)
    proof = client.proof()
    rig.now += late
    assert client.send_proof(proof) is not None


@pytest.mark.parametrize("late", [2 * SLOT, 1000 * SLOT])
def test_a_nonce_is_good_for_no_longer(rig: Rig, late: float) -> None:
    client = KeyedClient(rig)
    proof = client.proof()
    rig.now += late
    assert client.send_proof(proof) is None
    assert rig.core.refused == {"proof-stale": 1}


def test_a_proof_for_another_life_of_the_server_opens_nothing(rig: Rig) -> None:
    client = KeyedClient(rig)
    proof = client.proof()
    rig.core = ServerCore(
        rig.core.config, DumpFolder(str(rig.folder), "none"), secret=bytes(31) + b"\1"
    )
    assert client.send_proof(proof) is None
    assert rig.core.refused == {"proof-stale": 1}
    client.open()


def test_a_nonce_opens_one_session(rig: Rig) -> None:
    """Even when that is forgotten: whoever has recorded it all can't have it stored twice."""
    client = KeyedClient(rig)
    proof = client.proof()
    reply = client.send_proof(proof)
    assert reply is not None
    rig.core.abandon(reply.session_id)
    assert client.send_proof(proof) is None
    assert rig.core.refused == {"proof-stale": 1}


def test_the_nonces_that_are_remembered_are_bounded(tmp_path: Path) -> None:
    rig = Rig(tmp_path, keys=KEYS)
    gate = rig.core._gate
    gate._spent = {number.to_bytes(16, "big"): 1 for number in range(MOST_SPENT)}
    client = KeyedClient(rig)
    assert no(client, client.send_proof()) == Reason.BUSY
    rig.now += 2 * SLOT
    KeyedClient(rig).open()
    assert len(gate._spent) == 1


def test_a_nonce_whose_session_got_no_socket_is_as_good_as_before(rig: Rig) -> None:
    """And the client is told: silence would cost it all its tries."""
    client = KeyedClient(rig)
    proof = client.proof()
    reply = client.send_proof(proof)
    assert reply is not None
    nak = rig.core.no_socket(reply.session_id)
    assert nak is not None
    told = client.prover.unseal(nak)
    assert told is not None
    assert parse_nak(told, client.seqno) == Reason.BUSY
    assert not rig.core.sessions
    opened = client.send_proof(proof)
    assert opened is not None
    assert opened.session_id != NO_SESSION


def test_what_was_recorded_of_a_session_that_never_had_data_ends_no_later_one(rig: Rig) -> None:
    """Its messages went astray, and somebody has them; then the machine dumps again."""
    old = KeyedClient(rig, nonce=b"first..1")
    recorded, earlier = old.open(), old.messages()[0]
    rig.now += 30
    new = KeyedClient(rig, nonce=b"second.2", seqno=DRAWN + 9)
    session = new.open()
    old.say(recorded, earlier)
    assert session in rig.core.sessions
    assert new.dump(session)


def test_a_later_session_of_a_client_with_a_key_ends_the_earlier_one(rig: Rig) -> None:
    old = KeyedClient(rig, nonce=b"first..1")
    first = old.open()
    old.say(first, old.messages()[0])
    new = KeyedClient(rig, nonce=b"second.2", seqno=DRAWN + 9)
    new.say(new.open(), new.messages()[0])
    assert rig.core.sessions[first].state is State.INCOMPLETE


def test_an_address_that_has_a_key_of_its_own_is_served_with_it_alone(tmp_path: Path) -> None:
    """Else a forger's dump is the host's latest one."""
    rig = Rig(tmp_path, keys={CLIENT[0]: KEY, "*": OTHER_KEY})
    assert rig.core.herald(CLIENT, herald(7), rig.now) is None
    assert rig.core.refused == {KEYLESS.reason: 1}
    assert rig.core.herald(STRANGER, herald(7), rig.now) is not None


def test_of_what_waits_at_the_heralds_port_proofs_come_first_and_offers_next(rig: Rig) -> None:
    client = KeyedClient(rig)
    waiting = [herald(7), client.herald, b"", client.proof(), bytes(24)]
    assert sorted(waiting, key=rank) == [client.proof(), client.herald, herald(7), b"", bytes(24)]


def test_a_herald_with_a_path_that_none_may_have_is_not_answered(rig: Rig) -> None:
    """A tag costs as much as what it covers is long."""
    longest = KeyedClient(rig, path=b"a" * 1023 + b"\0")
    longest.challenge()
    client = KeyedClient(rig, path=b"a" * 1024 + b"\0")
    assert rig.core.herald(client.address, client.herald, rig.now) is None


@pytest.mark.parametrize("seqno", [0, 1, DRAWN, 0xFFFFFFFF])
def test_a_proof_with_any_octet_changed_opens_nothing(tmp_path: Path, seqno: int) -> None:
    rig = Rig(tmp_path, keys=KEYS, require_key=True)
    client = KeyedClient(rig, seqno=seqno)
    proof = client.proof()
    for at, bit in itertools.product(range(len(proof)), (0, 7)):
        changed = bytearray(proof)
        changed[at] ^= 1 << bit
        reply = rig.core.herald(CLIENT, bytes(changed), rig.now)
        assert reply is None or reply.session_id == NO_SESSION, (at, bit)
    assert rig.core.herald((HOST, 20025), proof, rig.now) is None, "another port"
    assert rig.core.herald(("198.18.0.3", 20024), proof, rig.now) is None, "another address"
    assert not rig.core.sessions
    reply = client.send_proof(proof)
    assert reply is not None


@pytest.mark.parametrize("key", [OTHER_KEY, bytes(32)])
def test_a_client_with_another_key_opens_nothing(rig: Rig, key: bytes) -> None:
    """Nor does it believe the challenge; here it proves all the same."""
    theirs, ours = KeyedClient(rig, key), KeyedClient(rig)
    proof = bytearray(ours.proof())
    opening = rig.core._gate.prove(CLIENT, _parsed(bytes(proof))).opening
    proof[40:56] = theirs.prover._secret.proof(opening, ours.prover.facts)
    assert theirs.send_proof(bytes(proof)) is None
    assert rig.core.refused == {"proof-tag": 1}


def _parsed(octets: bytes):  # type: ignore[no-untyped-def]
    from netdump.messages import parse

    return parse(octets)


# -- a session under attack ------------------------------------------------------------------------

Forgery = Callable[[KeyedClient, int], bytes]
FORGERIES: dict[str, Forgery] = {
    "stock data": lambda c, n: vmcore(c.seqno + n, 0, b"\xee" * 1432),
    "data with zeros for a tag": lambda c, n: (
        vmcore(c.seqno + n, 0, b"\xee" * 1432)[:24] + bytes(16) + b"\xee" * 1432
    ),
    "a stock header": lambda c, n: kdh(c.seqno + n, KernelDumpHeader(dumplength=4096)),
    "a stock FINISHED": lambda c, n: finished(c.seqno + n),
    "a HERALD": lambda c, n: herald(c.seqno),
    "the session's own HERALD": lambda c, n: c.herald,
    "nothing": lambda c, n: b"",
    "half a header": lambda c, n: bytes(12),
    "a long one": lambda c, n: bytes(9000),
}


@pytest.mark.parametrize("name", FORGERIES)
def test_forged_messages_do_nothing(rig: Rig, name: str) -> None:
    client = KeyedClient(rig)
    session = client.open()
    parts = client.messages()
    forge = FORGERIES[name]
    for number, part in enumerate(parts[:-1], 1):
        rig.now += 0.001
        assert client.say(session, *(forge(client, number) for _ in range(3))) is None
        assert client.say(session, forge(client, number), part, forge(client, number + 1))
    heard = rig.core.sessions[session].last_heard
    rig.now += 100
    assert client.say(session, forge(client, len(parts))) is None
    assert rig.core.sessions[session].last_heard == heard, "no sign of life"
    assert client.say(session, parts[-1]) == Sack(client.seqno + 1 + len(parts), (), TAKEN)
    assert rig.read(FINAL) == IMAGE
    assert sum(rig.core.refused.values()) == 5 * (len(parts) - 1) + 1


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_what_was_recorded_changes_nothing(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """In this session, in any order, at any time; and all of an earlier one."""
    rig = Rig(tmp_path_factory.mktemp("dumps"), keys=KEYS, hold=5.0)
    old = KeyedClient(rig, nonce=bytes(8))
    old_proof = old.proof()
    reply = old.send_proof(old_proof)
    assert reply is not None
    old.heard(reply.ack)
    small = IMAGE[: 20 * 1432]
    header = KernelDumpHeader(dumplength=len(small), hostname="lab1")
    recorded = [old.herald, old_proof, *old.messages(small, header)]
    assert old.dump(reply.session_id, small, header)
    if data.draw(st.booleans()):
        rig.now += 100
        rig.core.tick(rig.now)

    client = KeyedClient(rig, nonce=bytes(range(8)))
    proof = client.proof()
    reply = client.send_proof(proof)
    assert reply is not None
    client.heard(reply.ack)
    session = reply.session_id
    image = small[::-1]
    parts = client.messages(image, header)
    recorded += [client.herald, proof]
    files = None
    for part in parts:
        for again in data.draw(st.lists(st.sampled_from(recorded), max_size=5)):
            rig.core.receive(session, *block([again]), rig.now)
            said = rig.core.herald(CLIENT, again, rig.now)
            assert said is None or not said.fresh
        assert client.say(session, part) is not None
        recorded.append(part)
        files = files or rig.files()
    final = f"vmcore.{HOST}.1"
    assert rig.read(final) == image
    assert rig.read(FINAL) == small
    before = {name: rig.read(name) for name in rig.files()}
    rig.core.receive(session, *block(recorded), rig.now)
    assert before == {name: rig.read(name) for name in rig.files()}
    assert len(rig.core.sessions) <= 2


def test_what_was_recorded_is_no_sign_of_life(rig: Rig) -> None:
    """Else a dump whose client has died would keep its place for ever."""
    client = KeyedClient(rig)
    session = client.open()
    parts = client.messages()[:5]
    client.say(session, *parts)
    for _ in range(10):
        rig.now += rig.core.config.idle / 4
        if session in rig.core.sessions and state(rig, session) is State.RECEIVING:
            assert client.say(session, *parts) == Sack(client.seqno + 6, (), TAKEN)
        rig.core.tick(rig.now)
    assert session not in rig.core.sessions
    assert rig.files() == [f"bounds.{HOST}", f"info.{HOST}.0", f"manifest.{HOST}.0", PARTIAL]


def test_a_client_without_a_key_does_not_end_a_dump_with_one(rig: Rig) -> None:
    """It speaks from the client's address and port, guesses the port of its session, and dumps."""
    client = KeyedClient(rig)
    session = client.open()
    parts = client.messages()
    client.say(session, *parts[:5])
    other = rig.open()
    rig.say(other, *frames(IMAGE, 1)[:5])
    assert state(rig, other) is State.RECEIVING
    assert state(rig, session) is State.RECEIVING
    for part in parts[5:]:
        assert client.say(session, part)
    assert state(rig, session) is State.COMPLETE
    again = KeyedClient(rig, nonce=bytes(8))
    assert again.say(again.open(), again.messages()[0])
    assert state(rig, other) is State.INCOMPLETE, "but one with a key ends it"


def test_offers_without_a_key_do_not_push_out_one_with_a_key(tmp_path: Path) -> None:
    rig = Rig(tmp_path, keys=KEYS, max_clients=6)
    session = KeyedClient(rig).open()
    for number in range(50):
        rig.now += 20
        address = CLIENT if number % 2 else (f"198.18.1.{number}", 20024)
        rig.core.herald(address, herald(DRAWN + number), rig.now)
    assert state(rig, session) is State.OFFERED
    assert len(rig.core.sessions) <= 6


def test_running_dumps_without_a_key_make_room_for_one_with_a_key(tmp_path: Path) -> None:
    rig = Rig(tmp_path, keys=KEYS, max_clients=3)
    for number in range(3):
        address = (f"198.18.1.{number}", 20024)
        rig.say(rig.open(client=address), vmcore(2, 0, b"x"))
    stranger = ("198.18.1.9", 20024)
    assert rig.core.herald(stranger, herald(DRAWN), rig.now) is None
    sessions = [
        KeyedClient(rig, nonce=bytes([n] * 8), address=(f"198.18.2.{n}", 1)) for n in range(3)
    ]
    for client in sessions:
        client.say(client.open(), client.messages()[0])
    assert [s.state for s in rig.core.sessions.values()] == [State.RECEIVING] * 3
    assert all(s.authenticated for s in rig.core.sessions.values())
    last = KeyedClient(rig, address=stranger)
    assert no(last, last.send_proof()) == Reason.BUSY
    assert rig.core.refused["too-many-clients"] == 2
    assert rig.core._gate._spent.keys() != {}


def test_a_refused_proof_may_come_again(tmp_path: Path) -> None:
    """It has opened nothing: when there is room the same one is good."""
    rig = Rig(tmp_path, keys=KEYS, max_clients=1)
    first = KeyedClient(rig, address=STRANGER)
    session = first.open()
    first.say(session, first.messages()[0])
    client = KeyedClient(rig)
    proof = client.proof()
    told = client.send_proof(proof)
    assert told is not None
    assert told.session_id == NO_SESSION
    rig.core.abandon(session)
    opened = client.send_proof(proof)
    assert opened is not None
    assert opened.session_id != NO_SESSION


def test_acks_name_what_is_missing_and_have_a_tag(rig: Rig) -> None:
    client = KeyedClient(rig)
    session = client.open()
    parts = client.messages()
    assert client.say(session, *parts[3:6]) == Sack(
        client.seqno + 1, ((client.seqno + 4, client.seqno + 7),), TAKEN
    )


def test_the_longest_ack_is_no_longer_than_the_longest_message(rig: Rig) -> None:
    client = KeyedClient(rig)
    session = client.open()
    parts = [
        client.message(MessageType.VMCORE, 1 + 2 * n, 4096 * n, b"x" * 1000) for n in range(400)
    ]
    (ack,) = rig.core.receive(session, *block(parts[1:]), rig.now)
    assert len(ack.tobytes()) == len(parts[0]) == 1040
    assert ack.dtype == np.uint8


def test_with_stock_acks_nobody_s_offer_is_read(tmp_path: Path) -> None:
    rig = Rig(tmp_path, strict_finish=False, keys=KEYS)
    assert answer(rig, herald(DRAWN, offer=OFFER)) == DRAWN.to_bytes(4, "big")


# -- files of keys ---------------------------------------------------------------------------------


def test_a_file_of_keys() -> None:
    text = f"# a comment\n\n198.18.0.2 {KEY.hex()}  # the lab's\n* {OTHER_KEY.hex().upper()}\n"
    assert parse_keys(text) == ({HOST: KEY, "*": OTHER_KEY}, {})
    text += f"198.18.0.3 {KEY.hex()} 02:00:5e:00:00:Fe"
    keys, macs = parse_keys(text)
    assert (len(keys), macs) == (3, {"198.18.0.3": bytes.fromhex("02005e0000fe")})


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no key in it"),
        ("198.18.0.2\n", "line 1 of the keys is not ADDRESS"),
        (f"\nhost {KEY.hex()}", "line 2 of the keys: 'host' is no IPv4 address"),
        (f"* {KEY.hex()[:-1]}", "line 1 of the keys is not"),
        (f"* {KEY.hex()} 02:00:5e:00:00:fe", "line 1 of the keys is not"),
        (f"198.18.0.2 {KEY.hex()} more", "line 1 of the keys: 'more' is no MAC"),
        (f"198.18.0.2 {KEY.hex()} 01:00:5e:00:00:fe", "'01:00:5e:00:00:fe' is no MAC"),
        (f"198.18.0.2 {KEY.hex()} 00:00:00:00:00:00", "is no MAC of a host"),
        (f"198.18.0.2 {KEY.hex()} 02:00:5e:00:00:fe 1", "line 1 of the keys is not"),
        (f"* {KEY.hex()}\n* {KEY.hex()}", "line 2 of the keys: \\* has one already"),
    ],
)
def test_a_file_of_keys_that_is_none(text: str, says: str) -> None:
    with pytest.raises(BadKeys, match=says) as caught:
        parse_keys(text)
    assert KEY.hex()[:16] not in str(caught.value), "keys are not shown"
