"""TFTP's packets against scapy's layers, which share no line with ours."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers import tftp
from scapy.packet import Raw

from netdump.errors import LocalError, MalformedTftp
from netdump.tftp import packets
from netdump.tftp.packets import Ack, Data, Error, Oack, Opcode, Request, parse

WORDS = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=20)
OPTIONS = st.dictionaries(WORDS.map(str.lower), WORDS, max_size=5)
BLOCKS = st.integers(0, 0xFFFF)


def scapys_options(options: dict[str, str]) -> list[tftp.TFTP_Option]:
    return [tftp.TFTP_Option(oname=name, value=value) for name, value in options.items()]


@given(file=WORDS, options=OPTIONS)
def test_a_write_request_is_what_scapy_makes(file: str, options: dict[str, str]) -> None:
    ours = packets.pack_request(file.encode(), options)
    theirs = tftp.TFTP(op=2) / tftp.TFTP_WRQ(filename=file, mode="octet")
    if options:
        theirs = theirs / tftp.TFTP_Options(options=scapys_options(options))
    assert ours == bytes(theirs)
    assert parse(ours) == Request(Opcode.WRQ, file.encode(), "octet", options)


@given(options=OPTIONS)
def test_an_oack_is_what_scapy_makes(options: dict[str, str]) -> None:
    ours = packets.pack_oack(options)
    theirs = tftp.TFTP(op=6) / tftp.TFTP_OACK()
    theirs = theirs / tftp.TFTP_Options(options=scapys_options(options))
    assert ours == bytes(theirs)
    assert parse(ours) == Oack(options), "an empty one, too"


@given(block=BLOCKS, payload=st.binary(max_size=600))
def test_data_and_acks_are_scapys(block: int, payload: bytes) -> None:
    data = bytes(tftp.TFTP(op=3) / tftp.TFTP_DATA(block=block) / Raw(payload))
    assert packets.pack_data(block, payload) == data
    assert packets.data_headers([block])[0].tobytes() + payload == data
    assert parse(data) == Data(block, payload)
    ack = bytes(tftp.TFTP(op=4) / tftp.TFTP_ACK(block=block))
    assert packets.pack_ack(block) == ack
    assert parse(ack) == Ack(block)


@given(code=BLOCKS, text=WORDS)
def test_errors_are_scapys(code: int, text: str) -> None:
    error = bytes(tftp.TFTP(op=5) / tftp.TFTP_ERROR(errorcode=code, errormsg=text))
    # scapy leaves the NUL out, as some servers do; RFC 1350 has it.
    assert packets.pack_error(code, text).rstrip(b"\0") == error.rstrip(b"\0")
    assert packets.pack_error(code, text)[-1:] == b"\0"
    assert parse(error) == Error(code, text)


@given(st.binary(max_size=80))
def test_any_octets_are_a_packet_or_refused(datagram: bytes) -> None:
    try:
        found = parse(datagram)
    except MalformedTftp:
        return
    if isinstance(found, Data):
        assert packets.pack_data(found.block, found.payload) == datagram
    if isinstance(found, Ack):
        assert datagram.startswith(packets.pack_ack(found.block))


@given(blocks=st.lists(BLOCKS, max_size=20))
def test_a_window_of_headers_is_that_of_each(blocks: list[int]) -> None:
    rows = packets.data_headers(blocks)
    assert [row.tobytes() for row in rows] == [packets.pack_data(block, b"") for block in blocks]


@pytest.mark.parametrize(
    ("datagram", "says"),
    [
        (b"\0\4\0", "the shortest"),
        (b"\0\7\0\0", "opcode 7"),
        (b"\0\2vmcore\0octet", "does not end with NUL"),
        (b"\0\2vmcore\0octet\0blksize\0", "has no value"),
        (b"\0\6blksize\000512\0BLKSIZE\000512\0", "comes twice"),
    ],
)
def test_what_is_malformed_is_told(datagram: bytes, says: str) -> None:
    with pytest.raises(MalformedTftp, match=says):
        parse(datagram)


def test_an_option_is_the_same_in_capitals() -> None:
    assert parse(b"\0\6BLKSIZE\0001428\0") == Oack({"blksize": "1428"})


def test_what_a_hostile_server_says_stays_one_printable_line() -> None:
    error = parse(b"\0\5\0\3no room\n\x1b[2J\xff\0")
    assert str(error) == r'ERROR 3 (disk full): "no room\x0a\x1b[2J\xff"'


@pytest.mark.parametrize("text", ["-1", "1.0", "", "0x10", "²", "1" * 40])
def test_only_decimal_is_a_number(text: str) -> None:
    assert packets.decimal(text) is None


def test_a_nul_in_a_file_name_is_our_mistake() -> None:
    with pytest.raises(LocalError):
        packets.pack_request(b"vm\0core", {})
