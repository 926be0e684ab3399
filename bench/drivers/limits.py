"""What a driver that is not ours may use, in C or in Python, before it counts as hung."""

from __future__ import annotations

from typing import Final

#: What a function may use between two callbacks: seconds of CPU; and, if it uses none, turns of
#: waiting. A pause of the whole machine is one turn.
CPU_S: Final = 5.0
TURN_S: Final = 0.25
TURNS: Final = 240
#: Callbacks of one call. A thousand polls of a status bit are many.
CALLBACKS: Final = 200_000
