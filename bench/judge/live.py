"""The disk while the dump runs: what a server has acknowledged must be there *now*.

If the server died at this instant, the file is all that would be left of it. So at some acks,
spread over the run, what they acknowledge is read back from the file under way and compared with
memory: a server that acknowledges first and writes later is caught in the act.

That file need not have the name of a dump yet: which files may hold it the server's names say.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

from bench.judge.compare import Expected
from bench.judge.witness import Witness

#: Batches of acks between two looks, looks in a run, and acks of a batch that are looked up.
_EVERY: Final = 4
_MOST: Final = 64
_ACKS: Final = 4
#: Listings of the folder before a frame counts as missing.
_LISTINGS: Final = 3


class LiveDisk:
    """Looks at a server's dumps as acks pass by; see ``missing``."""

    def __init__(
        self, places: Callable[[], list[Path]], watch: Witness, expected: Expected
    ) -> None:
        """``places``: the files that may hold them now."""
        self.looks = 0
        """Acknowledged frames that were looked for."""
        self.missing = 0
        """Of these, those that were not on the disk."""
        self._places = places
        self._watch = watch
        self._expected = expected
        self._batches = 0
        self._last: list[Path] = []
        """Where the last frame was found. The next one mostly is there: no listing is needed."""

    def look(self) -> None:
        """Called after each batch from the server's side."""
        acks = self._watch.latest_acks
        if not len(acks):
            return
        self._batches += 1
        if self._batches % _EVERY != 1 or self.looks >= _MOST * _ACKS:
            return
        # The first may have been kept for long; of the last, a hasty server has the least.
        some = [*acks[: _ACKS // 2].tolist(), *acks[-_ACKS // 2 :].tolist()]
        for message in dict.fromkeys(some):
            extent = self._watch.extent(message)
            if extent is not None:
                self.looks += 1
                self.missing += not self._is_kept(*extent)

    def _is_kept(self, offset: int, length: int) -> bool:
        want = self._expected.read(offset, offset + length).tobytes()
        # The server may be giving the file its final name just now: then look again.
        return _holder(self._last, offset, want) is not None or any(
            self._is_listed(offset, want) for _ in range(_LISTINGS)
        )

    def _is_listed(self, offset: int, want: bytes) -> bool:
        holder = _holder(self._places(), offset, want)
        if holder is None:
            return False
        self._last = [holder]
        return True


def _holder(places: list[Path], offset: int, want: bytes) -> Path | None:
    """The first of these files that has it."""
    for path in places:
        try:
            with path.open("rb") as file:
                file.seek(offset)
                if file.read(len(want)) == want:
                    return path
        except FileNotFoundError:
            continue
    return None
