"""The kernel dump header: its layout by hand, its parity, and what is not believed."""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netdump.errors import KdhLength, KdhMagic, KdhParity, KdhVersion, LocalError, MalformedHeader
from netdump.kdh import KDH_SIZE, TEXT_MAGIC, KernelDumpHeader, parity_ok, parse_kdh

PROPERTY = settings(max_examples=150, deadline=None)

HEADER = KernelDumpHeader(
    dumplength=0x1122334455667788,
    dumptime=1286928000,
    hostname="dying.example.net",
    versionstring="FreeBSD 14.1-RELEASE\n",
    panicstring="page fault",
    dumpextent=0x99AABBCCDDEEFF00,
    compression=2,
    dumpkeysize=4096,
)


def put(data: bytes, offset: int, octets: bytes) -> bytes:
    return data[:offset] + octets + data[offset + len(octets) :]


def test_every_field_lies_where_kerneldump_h_puts_it() -> None:
    by_hand = bytearray(KDH_SIZE)
    by_hand[0:19] = b"FreeBSD Kernel Dump"
    by_hand[20:25] = b"amd64"
    by_hand[32:40] = bytes.fromhex("00000004 00000002")
    by_hand[40:48] = bytes.fromhex("1122334455667788")
    by_hand[48:56] = (1286928000).to_bytes(8, "big")
    by_hand[56:64] = bytes.fromhex("00001000 00001000")
    by_hand[64:81] = b"dying.example.net"
    by_hand[128:149] = b"FreeBSD 14.1-RELEASE\n"
    by_hand[320:330] = b"page fault"
    by_hand[495] = 2
    by_hand[496:504] = bytes.fromhex("99aabbccddeeff00")
    parity = 0
    for (word,) in struct.iter_unpack(">I", bytes(by_hand)):
        parity ^= word
    by_hand[508:512] = parity.to_bytes(4, "big")
    assert HEADER.pack() == bytes(by_hand)
    assert parse_kdh(bytes(by_hand)) == HEADER


def test_texts_are_cut_as_strlcpy_cuts_them() -> None:
    wire = KernelDumpHeader(
        dumplength=0, hostname="h" * 100, versionstring="v" * 192, panicstring="p" * 200
    ).pack()
    assert wire[64:128] == b"h" * 63 + b"\0"
    assert wire[128:320] == b"v" * 190 + b"\n\0"
    assert wire[320:495] == b"p" * 174 + b"\0"


def test_a_version_string_that_just_fits_is_not_cut() -> None:
    assert parse_kdh(replace(HEADER, versionstring="v" * 191).pack()).versionstring == "v" * 191


def test_a_text_dump_has_a_header_of_its_own_name() -> None:
    text = replace(HEADER, magic=TEXT_MAGIC)
    assert parse_kdh(text.pack()) == text


@pytest.mark.parametrize(
    ("octets", "error"),
    [
        (b"", KdhLength),
        (HEADER.pack()[:-1], KdhLength),
        (HEADER.pack() + b"\0", KdhLength),
        (put(HEADER.pack(), 0, b"Cleared Kernel Dump"), KdhMagic),
        (put(HEADER.pack(), 32, b"\0\0\0\1"), KdhVersion),
        (put(HEADER.pack(), 504, b"\0\0\0\1"), KdhParity),
    ],
)
def test_an_unbelievable_header_is_refused(octets: bytes, error: type[MalformedHeader]) -> None:
    with pytest.raises(error) as caught:
        parse_kdh(octets)
    assert caught.value.reason.startswith("kdh-")


def test_a_number_that_does_not_fit_is_our_own_mistake() -> None:
    with pytest.raises(LocalError, match="dumplength"):
        replace(HEADER, dumplength=2**64).pack()


def test_a_hostile_host_name_comes_out_printable() -> None:
    wire = put(HEADER.pack(), 64, b"\xff\xfe")
    wire = put(wire, 504, bytes(a ^ b for a, b in zip(wire[64:68], b"dyin", strict=True)))
    assert parse_kdh(wire).hostname.startswith("\\xff\\xfe")


@given(bit=st.integers(0, KDH_SIZE * 8 - 1))
@PROPERTY
def test_no_single_flipped_bit_passes(bit: int) -> None:
    wire = bytearray(HEADER.pack())
    wire[bit // 8] ^= 1 << bit % 8
    assert not parity_ok(bytes(wire))
    with pytest.raises(MalformedHeader):
        parse_kdh(bytes(wire))


@given(octets=st.one_of(st.binary(max_size=600), st.binary(min_size=512, max_size=512)))
@PROPERTY
def test_arbitrary_octets_are_refused_by_the_typed_error(octets: bytes) -> None:
    with pytest.raises(MalformedHeader):
        parse_kdh(octets)


@given(body=st.binary(min_size=468, max_size=468))
@PROPERTY
def test_a_header_with_arbitrary_fields_and_right_parity_is_read(body: bytes) -> None:
    wire = HEADER.pack()[:36] + body + bytes(8)
    parity = 0
    for (word,) in struct.iter_unpack(">I", wire):
        parity ^= word
    header = parse_kdh(wire[:508] + parity.to_bytes(4, "big"))
    header.hostname.encode()
    assert header.dumplength == int.from_bytes(body[4:12], "big")


@given(
    texts=st.tuples(*[st.text(st.characters(exclude_characters="\0"), max_size=80)] * 3),
    numbers=st.tuples(*[st.integers(0, 2**64 - 1)] * 3),
)
@PROPERTY
def test_whatever_is_packed_has_parity_and_reads_back(
    texts: tuple[str, str, str], numbers: tuple[int, int, int]
) -> None:
    header = KernelDumpHeader(*numbers[:2], *texts, dumpextent=numbers[2])
    wire = header.pack()
    assert len(wire) == KDH_SIZE
    assert parity_ok(wire)
    again = parse_kdh(wire)
    assert (again.dumplength, again.dumptime, again.dumpextent) == numbers
    if len(texts[0].encode("utf-8", "backslashreplace")) < 64:
        assert again.hostname == texts[0].encode("utf-8", "backslashreplace").decode()
