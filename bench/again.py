"""Our own modules as programs: the command that runs one in a process of its own.

``python -m`` alone looks for a module in the current folder first, and that is the user's: a
``server.py`` there would be run instead of ours. ``-P`` leaves that folder out.
"""

from __future__ import annotations

import sys


def module(name: str, *words: str) -> list[str]:
    """The command of ``python -m name words...``, in this interpreter."""
    return [sys.executable, "-P", "-m", name, *words]
