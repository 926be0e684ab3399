"""Captures are valid pcapng: by a block walk of our own, and by scapy's reader."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.utils import RawPcapNgReader

from bench.capture.pcapng import PcapngWriter
from nic_models.frames import Frames


def blocks_of(raw: bytes) -> list[tuple[int, bytes]]:
    """Walk the file as the specification says: type, length, body, the same length again."""
    blocks, at = [], 0
    while at < len(raw):
        kind, size = struct.unpack_from("<II", raw, at)
        assert size % 4 == 0
        assert struct.unpack_from("<I", raw, at + size - 4) == (size,)
        blocks.append((kind, raw[at + 8 : at + size - 4]))
        at += size
    assert at == len(raw)
    return blocks


def options_of(raw: bytes) -> dict[int, bytes]:
    options: dict[int, bytes] = {}
    at = 0
    while True:
        code, size = struct.unpack_from("<HH", raw, at)
        if code == 0:
            assert at + 4 == len(raw)
            return options
        options[code] = raw[at + 4 : at + 4 + size]
        at += 4 + size + -size % 4


def captured(snaplen: int = 0) -> tuple[io.BytesIO, PcapngWriter]:
    file = io.BytesIO()
    return file, PcapngWriter(file, snaplen=snaplen)


def test_a_file_starts_with_a_section_and_one_interface() -> None:
    file, _ = captured(snaplen=128)
    (section, head), (interface, body) = blocks_of(file.getvalue())
    assert section == 0x0A0D0D0A
    assert struct.unpack_from("<IHHq", head) == (0x1A2B3C4D, 1, 0, -1)
    assert interface == 1
    assert struct.unpack_from("<HHI", body) == (1, 0, 128)
    assert options_of(body[8:])[9] == b"\x09"


def test_direction_comment_and_nanoseconds_are_kept() -> None:
    file, writer = captured()
    moment = 0x1_0000_0007
    writer.write("to-server", Frames.of([b"a" * 60, b"b" * 61], moment), {1: "dropped: 1 % loss"})
    writer.write("to-client", Frames.of([b"c" * 60], moment + 1))
    packets = blocks_of(file.getvalue())[2:]
    seen = []
    for kind, body in packets:
        assert kind == 6
        _, high, low, kept, original = struct.unpack_from("<5I", body)
        assert kept == original
        options = options_of(body[20 + kept + -kept % 4 :])
        seen.append(((high << 32) + low - moment, options))
    assert seen == [
        (0, {2: b"\x02\0\0\0"}),
        (0, {1: b"dropped: 1 % loss", 2: b"\x02\0\0\0"}),
        (1, {2: b"\x01\0\0\0"}),
    ]
    assert writer.frames == 3


def test_scapy_reads_back_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "wire.pcapng"
    frames = [bytes([i]) * size for i, size in enumerate((60, 60, 1514, 61, 62, 63, 60))]
    with path.open("wb") as file:
        PcapngWriter(file).write(
            "to-server", Frames.of(frames, 1_500_000_001), {3: "bit 7 flipped"}
        )
    with RawPcapNgReader(str(path)) as reader:
        packets = list(reader)
    assert [data for data, _ in packets] == frames
    meta = packets[3][1]
    stamp = (meta.tshigh << 32) + meta.tslow
    assert (stamp, meta.tsresol) == (1_500_000_001, 10**9)
    comments = getattr(meta, "comments", None) or [getattr(meta, "comment", None)]
    assert comments == [b"bit 7 flipped"]


def test_a_snaplen_cuts_what_is_kept_and_not_what_is_told() -> None:
    file, writer = captured(snaplen=10)
    writer.write("to-server", Frames.of([b"x" * 60, b"y" * 4]))
    sizes = [struct.unpack_from("<II", body, 12) for _, body in blocks_of(file.getvalue())[2:]]
    assert sizes == [(10, 60), (4, 4)]


@settings(max_examples=100)
@given(
    st.lists(st.binary(max_size=90), max_size=12),
    st.dictionaries(st.integers(0, 11), st.text(max_size=20)),
    st.integers(0, 12),
)
def test_batches_leave_no_trace_in_the_file(
    frames: list[bytes], notes: dict[int, str], cut: int
) -> None:
    whole, one = captured()
    parts, two = captured()
    batch = Frames.of(frames, 77)
    notes = {i: note for i, note in notes.items() if i < len(frames)}
    one.write("to-client", batch, notes)
    two.write("to-client", batch.take(slice(0, cut)), {i: n for i, n in notes.items() if i < cut})
    rest = {i - cut: n for i, n in notes.items() if i >= cut}
    two.write("to-client", batch.take(slice(cut, None)), rest)
    assert whole.getvalue() == parts.getvalue()
    assert [
        body[20 : 20 + len(f)]
        for (_, body), f in zip(blocks_of(whole.getvalue())[2:], frames, strict=True)
    ] == frames


def test_a_negative_snaplen_is_refused() -> None:
    with pytest.raises(ValueError, match="snaplen -1"):
        PcapngWriter(io.BytesIO(), snaplen=-1)
