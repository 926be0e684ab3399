"""The words of a command that a table names: which of them are paths, and from where.

One rule for servers and clients. A word that begins with ``./`` or ``../`` is a path from the
folder of the file that holds the table; so is the program, the first word, if there is a slash in
it. Any other program is looked for on the PATH, and any other word is left as it is.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

_HERE: Final = ("./", "../")


def from_folder(argv: Sequence[str], folder: Path | str) -> tuple[str, ...]:
    """The same words, paths made absolute; ``folder`` is the table's."""
    return tuple(
        os.path.abspath(os.path.join(folder, word))
        if word.startswith(_HERE) or (not at and "/" in word)
        else word
        for at, word in enumerate(argv)
    )


def files_in(argv: Sequence[str]) -> list[str]:
    """Those of a table's words, paths made absolute, that are files."""
    return [word for word in argv if os.path.isabs(word) and os.path.isfile(word)]
