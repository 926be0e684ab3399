"""The kernel dump header: its layout by hand, its parity, and what is not believed."""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netdump.errors import KdhLength, KdhMagic, KdhParity, KdhVersion, LocalError, MalformedHeader
from netdump.kdh import KDH_SIZE, TEXT_MAGIC, KernelDumpHeader, parity_ok, parse_kdh

PROPERTY = settings(max_examples=150)

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


#: Where the older layouts differ: field, offset, octets.
OLDER: dict[int, list[tuple[int, str | bytes]]] = {
    1: [
        (48, "000000004cb4f680"),
        (56, "00001000"),
        (60, b"dying"),
        (124, b"FreeBSD 8"),
        (316, b"p"),
    ],
    2: [
        (48, "000000004cb4f680"),
        (56, "00000800 00001000"),
        (64, b"dying"),
        (128, b"FreeBSD 8"),
        (320, b"p"),
    ],
    3: [
        (48, "99aabbccddeeff00 000000004cb4f680"),
        (64, "00000800 00001000 01"),
        (73, b"dying"),
        (137, b"FreeBSD 8"),
        (329, b"p"),
    ],
}


@pytest.mark.parametrize("version", OLDER)
def test_a_header_of_an_older_version_is_read_by_its_own_layout(version: int) -> None:
    by_hand = bytearray(KDH_SIZE)
    by_hand[0:19] = b"FreeBSD Kernel Dump"
    by_hand[20:24] = b"i386"
    by_hand[32:40] = bytes([0, 0, 0, version, 0, 0, 0, 2])
    by_hand[40:48] = bytes.fromhex("1122334455667788")
    for offset, what in OLDER[version]:
        octets = bytes.fromhex(what) if isinstance(what, str) else what
        by_hand[offset : offset + len(octets)] = octets
    parity = 0
    for (word,) in struct.iter_unpack(">I", bytes(by_hand)):
        parity ^= word
    by_hand[508:512] = parity.to_bytes(4, "big")
    expected = KernelDumpHeader(
        dumplength=0x1122334455667788,
        dumptime=1286928000,
        hostname="dying",
        versionstring="FreeBSD 8",
        panicstring="p",
        dumpextent=0x99AABBCCDDEEFF00 if version == 3 else 0,
        compression=1 if version == 3 else 0,
        dumpkeysize=2048 if version > 1 else 0,
        architecture="i386",
        version=version,
    )
    assert parse_kdh(bytes(by_hand)) == expected
    assert expected.pack() == bytes(by_hand)


def test_a_text_fills_the_field_that_its_version_has() -> None:
    for version, width in {1: 192, 2: 188, 3: 179, 4: 175}.items():
        header = replace(HEADER, panicstring="p" * 200, version=version)
        assert parse_kdh(header.pack()).panicstring == "p" * (width - 1)


def test_there_is_no_header_of_version_5() -> None:
    with pytest.raises(LocalError, match="no header of version 5"):
        replace(HEADER, version=5).pack()


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
        (put(HEADER.pack(), 32, b"\0\0\0\0"), KdhVersion),
        (put(HEADER.pack(), 32, b"\0\0\0\5"), KdhVersion),
        (put(HEADER.pack(), 32, b"\0\0\0\1"), KdhParity),
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


@given(
    octets=st.binary(min_size=512, max_size=512),
    version=st.one_of(st.integers(0, 5), st.integers(0, 2**32 - 1)),
    magic=st.sampled_from([b"FreeBSD Kernel Dump\0", b"FreeBSD Text Dump\0\0\0", b"X" * 20]),
)
@PROPERTY
def test_a_header_of_any_version_is_read_or_refused_by_the_typed_error(
    octets: bytes, version: int, magic: bytes
) -> None:
    wire = magic + octets[20:32] + version.to_bytes(4, "big") + octets[36:508]
    parity = 0
    for (word,) in struct.iter_unpack(">I", wire):
        parity ^= word
    wire += parity.to_bytes(4, "big")
    try:
        header = parse_kdh(wire)
    except MalformedHeader:
        assert magic[0] != ord("F") or version not in range(1, 5)
    else:
        assert header.version == version
        assert header.dumplength == int.from_bytes(wire[40:48], "big")
        f"{header.hostname}{header.versionstring}{header.panicstring}".encode()
    with pytest.raises(MalformedHeader):
        parse_kdh(wire[:508] + bytes(b ^ 0x80 for b in wire[508:]))


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
    version=st.integers(1, 4),
)
@PROPERTY
def test_whatever_is_packed_has_parity_and_reads_back(
    texts: tuple[str, str, str], numbers: tuple[int, int, int], version: int
) -> None:
    header = KernelDumpHeader(*numbers[:2], *texts, dumpextent=numbers[2], version=version)
    wire = header.pack()
    assert len(wire) == KDH_SIZE
    assert parity_ok(wire)
    again = parse_kdh(wire)
    extent = numbers[2] if version >= 3 else 0
    assert (again.dumplength, again.dumptime, again.dumpextent) == (*numbers[:2], extent)
    if len(texts[0].encode("utf-8", "backslashreplace")) < 64:
        assert again.hostname == texts[0].encode("utf-8", "backslashreplace").decode()
