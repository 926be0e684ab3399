"""The whole table, and the page that it makes: docs/e1000-differences.md."""

from __future__ import annotations

from typing import Final

from bench.truth import arrival, delivery, registers, transmit
from bench.truth.differences import VERSION, Row

ROWS: Final[tuple[Row, ...]] = (*registers.ROWS, *transmit.ROWS, *arrival.ROWS, *delivery.ROWS)

_PARTS: Final = (
    ("Registers", registers.ROWS),
    ("Transmission", transmit.ROWS),
    ("Reception: which frames, and when", arrival.ROWS),
    ("Reception: what is written and counted", delivery.ROWS),
)

_HEAD: Final = """\
# Our e1000 and QEMU's

Generated from `bench/truth/` by `python -m bench.truth --document`; do not edit.

Random traces of registers, descriptors and frames are played on `nic_models/e1000/device.py` and
on the e1000 (82540EM) of QEMU {version}. After every step both must agree on TDH, RDH, ICR, the
interrupt line, memory and the frames that left; every register is compared at the end of each
trace. Each row below is a difference that the comparison knows, and each is a test: without the
row its story differs, with it, it does not (`tests/test_device_truth.py`). A difference that no
row explains fails.

Sections are those of Intel's 8254x Software Developer's Manual (317453).
"""

_TAIL: Final = """\
## Time

QEMU's line rises at most every 128 us, its receiver is deaf for a second after each write of RCTL,
and a link takes half a second to come up; a frame leaves inside the write of TDT. In ours all of
this takes no time, on the infinitely fast wire that the comparison uses. The rig lets QEMU's
virtual time run until its timers have fired, so only the end of each step is compared, never the
way there: bugs of timing are not found here.

## Out of scope

Not compared, for ours does not model it: MDIC and the PHY, EECD, VLANs (CTRL.VME, tagged frames),
extended descriptors and every offload, flow control and wake-up beyond their registers, loopback,
bad frames (RCTL.SBP on frames that are damaged), the EEPROM's words 3 to 63. QEMU's own registers
that the model has not (LEDCTL, diagnostics, the other statistics) are not read.

Neither are addresses compared at which a PC has something else than memory: 0xA0000 to 0xFFFFF, and
2 GiB to 4 GiB. Data and rings of a trace that reach there are left out by the rows about memory.
"""


def document() -> str:
    """The page."""
    lines = [_HEAD.format(version=f"{VERSION[0]}.{VERSION[1]}")]
    for title, rows in _PARTS:
        lines += [
            f"## {title}\n",
            "| row | situation | 8254x SDM | ours | QEMU | strays | in the comparison |",
            "|---|---|---|---|---|---|---|",
        ]
        for row in rows:
            cells = (
                f"`{row.name}`",
                row.situation,
                row.manual,
                row.ours,
                row.qemu,
                row.strays,
                row.accounted,
            )
            lines.append("| " + " | ".join(cells) + " |")
        lines.append("")
    return "\n".join([*lines, _TAIL])
