"""Keys, tags, and what opens a session: whatever is changed in them, nobody believes it.

The octets themselves are in tests/vectors, and test_vectors.py runs them.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from netdump.errors import BadChallenge, BadProof
from netdump.keys import Opening, Secret, SessionKeys, tag
from netdump.messages import REASONS, Message, MessageType, pack_headers, parse
from netdump.offer import AUTHENTICATION, DIGEST, SELECTIVE_ACKS
from netdump.opening import (
    CHALLENGE_SIZE,
    FACTS_MAX,
    MOST_OFFERED,
    PROOF,
    PROOF_SIZE,
    Facts,
    Prover,
    is_challenge,
    is_proof,
    pack_challenge,
    parse_proof,
)
from netdump.tags import parse_tagged, tagged
from tests.server_rig import block

KEY, OTHER_KEY = bytes(range(32)), bytes(range(1, 33))
CLIENT = bytes([198, 18, 0, 2])
NONCE, SERVER_NONCE = bytes(range(8)), bytes(range(16))
OFFER = AUTHENTICATION | DIGEST | SELECTIVE_ACKS
WORD = (0x4E443200 | OFFER).to_bytes(4, "big")
FACTS = Facts(1 << 20, "amd64", "victim", "page fault")
HERALD = Message(MessageType.HERALD, 1000, int.from_bytes(NONCE, "big"), b"lab\0", 0x4E443227)
OPENING = Opening(CLIENT, HERALD.pack(), WORD, SERVER_NONCE)


def prover(**other: bytes) -> Prover:
    made = Prover(other.get("key", KEY), other.get("client", CLIENT), NONCE, FACTS)
    octets = other.get("herald", HERALD.pack())
    made.heralded(octets[:24], octets[24:])
    return made


def the_proof() -> Message:
    octets = SERVER_NONCE + Secret(KEY).proof(OPENING, FACTS.pack()) + FACTS.pack() + b"lab\0"
    return replace(HERALD, payload=octets, aux2=PROOF | 0x27)


def flipped(octets: bytes, bit: int) -> bytes:
    changed = bytearray(octets)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def test_both_ends_come_to_the_same_keys() -> None:
    ours = prover()
    ours.challenged(pack_challenge(Secret(KEY), OPENING, HERALD.seqno), 0x27)
    keys = Secret(KEY).session(parse_proof(the_proof(), CLIENT, OFFER).opening)
    assert ours.unseal(keys.seal(b"an ack")) == b"an ack"
    assert ours.keys == keys


def test_a_challenge_with_any_bit_changed_is_refused() -> None:
    good = pack_challenge(Secret(KEY), OPENING, HERALD.seqno)
    assert len(good) == CHALLENGE_SIZE
    assert prover().challenged(good, 0x27)
    for bit in range(24, 8 * len(good)):  # before that it is no challenge at all
        ours = prover()
        with pytest.raises(BadChallenge):
            ours.challenged(flipped(good, bit), 0x27)
        assert ours.unseal(Secret(KEY).session(OPENING).seal(b"an ack")) is None
    assert not any(is_challenge(flipped(good, bit)) for bit in range(24))


@pytest.mark.parametrize(
    "other",
    [
        {"key": OTHER_KEY},
        {"client": bytes([198, 18, 0, 3])},
        {"herald": replace(HERALD, seqno=1001).pack()},
        {"herald": replace(HERALD, offset=HERALD.offset ^ 1).pack()},
        {"herald": replace(HERALD, payload=b"").pack()},
        {"herald": replace(HERALD, aux2=0x4E443225).pack()},
    ],
    ids=str,
)
def test_a_challenge_for_another_herald_is_refused(other: dict[str, bytes]) -> None:
    with pytest.raises(BadChallenge):
        prover(**other).challenged(pack_challenge(Secret(KEY), OPENING, HERALD.seqno), 0x27)


def test_a_challenge_that_takes_what_was_not_offered_is_refused() -> None:
    good = pack_challenge(Secret(KEY), OPENING, HERALD.seqno)
    with pytest.raises(BadChallenge):
        prover().challenged(good, AUTHENTICATION | SELECTIVE_ACKS)
    bare = replace(OPENING, word=(0x4E443205).to_bytes(4, "big"))
    with pytest.raises(BadChallenge):  # it would go on without tags
        prover().challenged(pack_challenge(Secret(KEY), bare, HERALD.seqno), 0x27)


def test_a_proof_with_any_bit_changed_proves_nothing() -> None:
    good = the_proof().pack()
    assert parse_proof(parse(good), CLIENT, OFFER).holds(Secret(KEY))
    for bit in [*range(32, 128), *range(160, 8 * len(good))]:  # without type and length
        message = parse(flipped(good, bit))
        if not is_proof(message.aux2):
            continue
        with suppress(BadProof):
            assert not parse_proof(message, CLIENT, OFFER).holds(Secret(KEY)), bit
    assert not parse_proof(the_proof(), bytes([198, 18, 0, 3]), OFFER).holds(Secret(KEY))
    assert not parse_proof(the_proof(), CLIENT, OFFER & ~DIGEST).holds(Secret(KEY))
    assert not parse_proof(the_proof(), CLIENT, OFFER).holds(Secret(OTHER_KEY))


def test_each_session_has_keys_of_its_own() -> None:
    openings = [
        OPENING,
        replace(OPENING, nonce=bytes(16)),
        replace(OPENING, client_ip=bytes(4)),
        replace(OPENING, word=b"ND2\x21"),
        replace(OPENING, herald=replace(HERALD, offset=7).pack()),
    ]
    keys = [Secret(KEY).session(opening) for opening in openings]
    keys.append(Secret(OTHER_KEY).session(OPENING))
    each = {key for pair in keys for key in (pair.to_server, pair.to_client)}
    assert len(each) == 2 * len(keys)


def test_the_latest_challenges_are_remembered_and_no_more() -> None:
    ours = prover()
    openings = [replace(OPENING, nonce=bytes([i] * 16)) for i in range(MOST_OFFERED + 1)]
    for opening in (*openings, openings[-1]):  # one that comes again takes nobody's place
        ours.challenged(pack_challenge(Secret(KEY), opening, HERALD.seqno), 0x27)
    first, second, *_ = (Secret(KEY).session(opening) for opening in openings)
    assert ours.unseal(first.seal(b"an ack")) is None
    assert ours.unseal(second.seal(b"an ack")) == b"an ack"
    last = Secret(KEY).session(openings[-1])
    assert ours.unseal(last.seal(b"an ack")) is None, "the first ack has chosen"


@given(st.binary(max_size=400))
def test_no_octets_are_a_proof(payload: bytes) -> None:
    message = replace(HERALD, payload=payload, aux2=PROOF | 0x27)
    try:
        proof = parse_proof(message, CLIENT, OFFER)
    except BadProof:
        return
    assert proof.told + proof.path == payload[PROOF_SIZE:]
    assert not proof.holds(Secret(KEY))


@given(st.integers(0, 2**64 - 1), *(st.text(max_size=300) for _ in range(3)), st.binary())
def test_facts_are_bounded_and_come_back(
    length: int, architecture: str, host: str, panic: str, path: bytes
) -> None:
    facts = Facts(length, architecture, host, panic)
    octets = facts.pack()
    assert len(octets) <= FACTS_MAX
    payload = bytes(PROOF_SIZE) + octets + path
    proof = parse_proof(replace(HERALD, payload=payload, aux2=PROOF), CLIENT, OFFER)
    assert (proof.facts.length, proof.path, proof.facts.pack()) == (length, path, octets)
    told = proof.facts.architecture, proof.facts.hostname, proof.facts.panicstring
    for text, whole in zip(told, (architecture, host, panic), strict=True):
        assert whole.replace("\0", "").startswith(text)


@given(
    st.lists(st.binary(max_size=120), max_size=6),
    st.integers(0, 130),
    st.binary(min_size=32, max_size=32),
)
def test_no_octets_are_a_message_with_a_tag(
    datagrams: list[bytes], stride: int, key: bytes
) -> None:
    """Whatever comes, however it is cut on its way in: refused, never raised."""
    found = parse_tagged(*block(datagrams, stride), key)
    assert len(found) == len(datagrams)
    assert found.reasons.all()


@given(
    st.lists(st.binary(max_size=100), min_size=1, max_size=6),
    st.integers(0, 2**63 - 1),
    st.data(),
)
def test_a_message_with_any_bit_changed_is_refused(
    payloads: list[bytes], offset: int, data: st.DataObject
) -> None:
    count = len(payloads)
    lengths = np.array([len(payload) for payload in payloads])
    heads = pack_headers(MessageType.VMCORE, np.arange(count), [offset] * count, lengths)
    memory = np.frombuffer(b"".join(payloads) + b"\0", np.uint8)
    rows = tagged(KEY, heads, memory, np.cumsum(lengths) - lengths, lengths)
    datagrams = [row.tobytes() + payload for row, payload in zip(rows, payloads, strict=True)]
    assert not parse_tagged(*block(datagrams), KEY).reasons.any()
    assert parse_tagged(*block(datagrams), OTHER_KEY).reasons.all()
    which = data.draw(st.integers(0, count - 1))
    bit = data.draw(st.integers(0, 8 * len(datagrams[which]) - 1))
    datagrams[which] = flipped(datagrams[which], bit)
    found = parse_tagged(*block(datagrams), KEY).reasons
    assert [bool(code) for code in found] == [row == which for row in range(count)]
    assert REASONS[found[which]] in ("tag", "length-mismatch", "unknown-type")


@given(st.binary(max_size=100))
def test_an_ack_is_for_one_direction_of_one_session(ack: bytes) -> None:
    keys = SessionKeys(KEY, OTHER_KEY)
    sealed = keys.seal(ack)
    assert keys.unseal(sealed) == ack
    assert SessionKeys(OTHER_KEY, KEY).unseal(sealed) is None
    assert keys.unseal(ack + tag(KEY, ack)) is None
    assert keys.unseal(sealed[:-1]) is None
