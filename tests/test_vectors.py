"""The test vectors of docs/netdump2.md: our code makes them, and reads them.

Another implementation can run the same file. The CRCs in it are held against one that is made bit
by bit, and BLAKE3's against what its authors publish.
"""

from __future__ import annotations

import errno
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from blake3 import blake3
from crc32c import crc32c

from netdump import crc
from netdump.digest import Hasher, parse_digest
from netdump.errors import BadAck, BadNak
from netdump.keys import Opening, Secret, SessionKeys
from netdump.messages import REASONS, MessageType, pack_headers, parse, parse_block
from netdump.nak import MEANS, is_nak, pack_nak, parse_nak
from netdump.offer import take
from netdump.opening import Facts, Prover, pack_challenge, parse_proof
from netdump.sack import Sack, parse_sack
from netdump.tags import parse_tagged, tagged
from tests.by_hand import crc_by_hand
from tests.server_rig import block

VECTORS: dict[str, Any] = json.loads(
    (Path(__file__).parent / "vectors" / "netdump2.json").read_text()
)
PAGE = (Path(__file__).parent.parent / "docs" / "netdump2.md").read_text()
GOOD = [m for m in VECTORS["messages"] if "refused" not in m]
REFUSED = [m for m in VECTORS["messages"] if "refused" in m]
HERALD = 1


def reasons(octets: bytes) -> list[str]:
    """Why a server that took the CRC refuses a message; none if it does not."""
    data, lengths = block([octets])
    found = parse_block(data, lengths)
    crc.refuse_wrong(found, data)
    return [REASONS[code] for code in found.reasons.tolist() if code]


@pytest.mark.parametrize("vector", VECTORS["crc32c"], ids=lambda v: v["is"])
def test_crc32c(vector: dict[str, str]) -> None:
    octets = bytes.fromhex(vector["octets"])
    assert f"{crc32c(octets):08x}" == vector["is"] == f"{crc_by_hand(octets):08x}"


def test_the_published_values_are_among_them() -> None:
    """RFC 3720 B.4, and the README of BLAKE3's reference implementation."""
    assert {"e3069283", "8a9136aa", "62a8ab43", "46dd794e"} <= {v["is"] for v in VECTORS["crc32c"]}
    published = "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"
    assert published in {v["is"] for v in VECTORS["blake3"]}


@pytest.mark.parametrize("vector", VECTORS["blake3"], ids=lambda v: v["is"][:8])
def test_blake3_in_pieces(vector: dict[str, str]) -> None:
    octets = bytes.fromhex(vector["octets"])
    hasher = Hasher()
    for at in range(0, len(octets), 100):
        hasher.update(octets[at : at + 100])
    assert hasher.digest().value.hex() == vector["is"]
    assert hasher.digest().length == len(octets)


@pytest.mark.parametrize("vector", GOOD, ids=lambda v: v["name"])
def test_messages_that_are_good(vector: dict[str, Any]) -> None:
    octets, payload = bytes.fromhex(vector["octets"]), bytes.fromhex(vector["payload"])
    word = int(vector["word"], 16)
    message = parse(octets)
    assert (message.type, message.seqno) == (vector["type"], vector["seqno"])
    assert (message.offset, message.payload) == (vector["offset"], payload)
    assert message.aux2 == word
    assert reasons(octets) == []
    heads = pack_headers(message.type, [message.seqno], [message.offset], [len(payload)], word)
    if message.type != MessageType.HERALD:
        heads[:, 20:] = 0xAA
        memory = np.frombuffer(b"before" + payload + b"behind", np.uint8)
        crc.put(heads, memory, np.array([6]), np.array([len(payload)]))
        assert word == crc_by_hand(octets[:20] + bytes(4) + octets[24:])
    assert heads.tobytes() + payload == octets


@pytest.mark.parametrize("vector", REFUSED, ids=lambda v: v["name"])
def test_messages_that_are_refused(vector: dict[str, Any]) -> None:
    assert reasons(bytes.fromhex(vector["octets"])) == [vector["refused"]]


def test_the_digest_in_finished() -> None:
    (finished,) = [m for m in GOOD if m["type"] == MessageType.FINISHED]
    digest = parse_digest(bytes.fromhex(finished["payload"]))
    hasher = Hasher()
    hasher.update(b"abc")
    assert digest == hasher.digest()
    assert digest.pack().hex() == finished["payload"]
    for place in (3, 7):
        other = bytearray(digest.pack())
        other[place] ^= 2
        assert parse_digest(bytes(other)) is None
    assert parse_digest(b"") is None


@pytest.mark.parametrize("vector", VECTORS["acks"], ids=lambda v: v["name"])
def test_acks(vector: dict[str, Any]) -> None:
    octets = bytes.fromhex(vector["octets"])
    if "refused" in vector:
        with pytest.raises(BadAck):
            parse_sack(octets)
        assert vector["refused"] == BadAck.reason
        return
    ranges = tuple((first, end) for first, end in vector["ranges"])
    ack = Sack(vector["next"], ranges, int(vector["taken"], 16))
    assert ack.pack() == octets
    assert parse_sack(octets) == ack


@pytest.mark.parametrize("vector", VECTORS["answers"], ids=lambda v: v["offer"])
def test_what_a_server_takes_of_an_offer(vector: dict[str, str]) -> None:
    assert take(int(vector["offer"], 16)) == int(vector["taken"], 16)


@pytest.mark.parametrize("vector", VECTORS["answers_with_key"], ids=lambda v: v["offer"])
def test_what_a_server_takes_of_one_whose_key_it_has(vector: dict[str, str]) -> None:
    assert take(int(vector["offer"], 16), has_key=True) == int(vector["taken"], 16) & 0xFF


def test_blake3_with_a_key() -> None:
    """The first of each list is in the test vectors of BLAKE3's authors."""
    for vector in VECTORS["blake3_keyed"]:
        octets, key = bytes.fromhex(vector["octets"]), bytes.fromhex(vector["key"])
        assert blake3(octets, key=key).hexdigest() == vector["is"]
    for vector in VECTORS["blake3_derive_key"]:
        hasher = blake3(bytes.fromhex(vector["octets"]), derive_key_context=vector["context"])
        assert hasher.hexdigest() == vector["is"]
    published = VECTORS["blake3_keyed"][0]["is"], VECTORS["blake3_derive_key"][0]["is"]
    assert published == (
        "92b2b75604ed3c761f9d6f62392c8a9227ad0ea3f09573e783f1498a4ed60d26",
        "2cc39783c223154fea8dfb7c1b1660f2ac2dcbd1c1de8277b0b0dd39b7e50d7d",
    )


@pytest.mark.parametrize("vector", VECTORS["openings"], ids=lambda v: v["name"])
def test_openings(vector: dict[str, Any]) -> None:
    """Both sides make the same octets, and the page's formulas do."""
    got = {name: bytes.fromhex(value) for name, value in vector.items() if name in _OCTETS}
    opening = Opening(got["client"], got["herald"], got["taken"], got["nonce"])
    texts = (vector["architecture"], vector["hostname"], vector["panic"])
    facts = Facts(vector["length"], *texts)
    secret, herald = Secret(got["key"]), parse(got["herald"])
    assert pack_challenge(secret, opening, herald.seqno) == got["challenge"]

    prover = Prover(got["key"], got["client"], herald.offset.to_bytes(8, "big"), facts)
    prover.heralded(got["herald"][:24], got["herald"][24:])
    said = prover.challenged(got["challenge"], herald.aux2 & 0xFF)
    assert got["proof"][24:] == said + facts.pack() + herald.payload

    proof = parse_proof(parse(got["proof"]), got["client"], got["taken"][3])
    assert proof.holds(secret)
    assert (proof.facts, proof.path, proof.opening) == (facts, herald.payload, opening)
    assert secret.session(opening) == SessionKeys(got["to_server"], got["to_client"])

    own = blake3(got["key"], derive_key_context=VECTORS["blake3_derive_key"][1]["context"]).digest()
    both = got["client"] + got["herald"] + got["taken"] + got["nonce"]
    assert got["challenge"][24:] == blake3(b"C" + both, key=own).digest(16)
    assert got["proof"][40:56] == blake3(b"P" + both + proof.told, key=own).digest(16)
    assert got["to_server"] + got["to_client"] == blake3(b"S" + both, key=own).digest(64)


_OCTETS = [
    "key",
    "client",
    "herald",
    "taken",
    "nonce",
    "challenge",
    "proof",
    "to_server",
    "to_client",
]


@pytest.mark.parametrize("vector", VECTORS["tagged"], ids=lambda v: v["name"])
def test_messages_with_a_tag(vector: dict[str, Any]) -> None:
    octets, key = bytes.fromhex(vector["octets"]), bytes.fromhex(vector["key"])
    data, lengths = block([octets])
    (code,) = parse_tagged(data, lengths, key).reasons.tolist()
    if "refused" in vector:
        assert REASONS[code] == vector["refused"]
        return
    assert not code
    payload = bytes.fromhex(vector["payload"])
    heads = pack_headers(vector["type"], [vector["seqno"]], [vector["offset"]], [len(payload)])
    memory = np.frombuffer(b"before" + payload + b"behind", np.uint8)
    made = tagged(key, heads, memory, np.array([6]), np.array([len(payload)]))
    assert made.tobytes() + payload == octets
    assert octets[24:40] == blake3(octets[:24] + payload, key=key).digest(16)


@pytest.mark.parametrize("vector", VECTORS["sealed"], ids=lambda v: v["name"])
def test_acks_with_a_tag(vector: dict[str, Any]) -> None:
    octets, key = bytes.fromhex(vector["octets"]), bytes.fromhex(vector["key"])
    keys = SessionKeys(b"\0" * 32, key)
    if "refused" in vector:
        assert keys.unseal(octets) is None
        return
    ack = bytes.fromhex(vector["ack"])
    assert (keys.seal(ack), keys.unseal(octets)) == (octets, ack)
    assert octets[-16:] == blake3(ack, key=key).digest(16)


@pytest.mark.parametrize("vector", VECTORS["naks"], ids=lambda v: v["name"])
def test_naks(vector: dict[str, Any]) -> None:
    octets, keys = (
        bytes.fromhex(vector["octets"]),
        SessionKeys(bytes(32), bytes.fromhex(vector["key"])),
    )
    assert is_nak(octets)
    said = keys.unseal(octets)
    if vector.get("refused") == "nak-tag":
        assert said is None
        return
    assert said is not None
    if "refused" in vector:
        with pytest.raises(BadNak):
            parse_nak(said, 1000)
        assert vector["refused"] == BadNak.reason
        return
    assert parse_nak(said, vector["seqno"]) == vector["reason"]
    assert keys.seal(pack_nak(0x25, vector["seqno"], vector["reason"])) == octets


def test_the_page_says_what_every_nak_means() -> None:
    rows = re.findall(r"^\| (\d+) \| [^|]+ \| ([A-Z]+) \|$", PAGE.split("## NAK")[1], re.M)
    means = {str(int(reason)): errno.errorcode[code] for reason, (code, _) in MEANS.items()}
    assert dict(rows) == means


def shown(after: str) -> str:
    """The hex digits of the page's example behind a heading."""
    part = PAGE.split(after)[1].split("\n## ")[0]
    found = re.findall(r"(?:^ {4,6}(?:[0-9a-f]{2,8} ?)+$\n?)+", part, re.M)
    return "".join("".join(found).split())


def test_the_page_shows_the_same_octets() -> None:
    """Its examples are vectors."""
    by_name = {m["name"]: m["octets"] for m in (*GOOD, *VECTORS["acks"]) if "name" in m}
    parts = [
        by_name["HERALD that offers all three"],
        by_name["of the HERALD"],
        by_name["VMCORE, the dump's three octets"],
        by_name['FINISHED, with the digest of "abc"'],
    ]
    opened = VECTORS["openings"][0]
    parts += [opened[part] for part in ("herald", "challenge", "proof")]
    by_name = {m["name"]: m["octets"] for m in (*VECTORS["tagged"], *VECTORS["sealed"])}
    parts += [by_name["of the HERALD"], by_name["VMCORE, the dump's three octets"]]
    assert shown("## Vectors") == "".join(parts)
