"""The test vectors of docs/netdump2.md: our code makes them, and reads them.

Another implementation can run the same file. The CRCs in it are held against one that is made bit
by bit, and BLAKE3's against what its authors publish.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from crc32c import crc32c

from netdump import crc
from netdump.digest import Hasher, parse_digest
from netdump.errors import BadAck
from netdump.messages import REASONS, MessageType, pack_headers, parse, parse_block
from netdump.offer import take
from netdump.sack import Sack, parse_sack
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


def test_the_page_shows_the_same_octets() -> None:
    """Its example is four vectors."""
    shown = re.findall(r"(?:^ {4,6}(?:[0-9a-f]{2,8} ?)+$\n?)+", PAGE.split("## Vectors")[1], re.M)
    octets = "".join("".join(shown).split())
    by_name = {m["name"]: m["octets"] for m in (*GOOD, *VECTORS["acks"]) if "name" in m}
    parts = [
        by_name["HERALD that offers all three"],
        by_name["of the HERALD"],
        by_name["VMCORE, the dump's three octets"],
        by_name['FINISHED, with the digest of "abc"'],
    ]
    assert octets == "".join(parts)
