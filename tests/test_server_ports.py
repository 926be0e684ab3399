"""Who has bound a UDP port, as the kernel's own tables tell."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from bench.servers.ports import is_bound

TABLE = """  sl  local_address rem_address   st tx_queue rx_queue
   1: {} 07 00000000:00000000 00:00000000 00000000     0        0 12 2 0 0
"""


@pytest.mark.skipif(sys.byteorder != "little", reason="the table is of a little-endian machine")
@pytest.mark.parametrize(
    ("file", "line", "bound"),
    [
        ("udp", "010012C6:4E37 00000000:0000", True),
        ("udp", "00000000:4E37 00000000:0000", True),
        ("udp", "020012C6:4E37 00000000:0000", False),
        ("udp", "010012C6:4E38 00000000:0000", False),
        ("udp", "010012C6:4E37 020012C6:4E38", False),
        ("udp6", "0" * 32 + ":4E37 " + "0" * 32 + ":0000", True),
        ("udp6", "0000000000000000FFFF0000010012C6:4E37 " + "0" * 32 + ":0000", True),
    ],
)
def test_the_kernels_table_tells_who_listens(
    file: str, line: str, bound: bool, tmp_path: Path
) -> None:
    (tmp_path / "udp").write_text(TABLE.format("00000000:0000 00000000:0000"))
    (tmp_path / file).write_text(TABLE.format(line))
    assert is_bound(tmp_path, "198.18.0.1", 20023) is bound
