"""For the judge's tests: what memory held, and what of it is stored."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.judge.compare import Comparison, Image, Stored, compare

MEMORY = bytes(range(1, 251)) * 40
"""10,000 bytes without a zero: a hole in it shows."""


def octets(data: bytes) -> NDArray[np.uint8]:
    return np.frombuffer(data, np.uint8)


def compared(stored: bytes, memory: bytes = MEMORY) -> Comparison:
    return compare(Image([octets(memory)]), on_disk(stored))


def on_disk(data: bytes) -> Stored:
    """A file of these bytes, without a name."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        return Stored(Path(file.name))


def with_hole(start: int, end: int) -> bytes:
    return MEMORY[:start] + bytes(end - start) + MEMORY[end:]


HOLED = with_hole(1448, 2896)
WRONG = MEMORY[:100] + b"\xff\xfe" + MEMORY[102:]
