"""The plots of the page, as SVG: made of ``Results``, and the same each time.

matplotlib draws them; only ``make shootout`` needs it. Text stays text, ids are hashed with a
salt of ours, and there is no date. Each file says which results it was made of, so that a plot
of others is seen without drawing it (``made_of``).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from bench.shootout.field import BY_LOSS, BY_ROUND_TRIP, CLEAN, CONTESTANTS, Condition
from bench.shootout.page import PLOTS, WRONG
from bench.shootout.play import Results

_SETTINGS: Final = {
    "svg.hashsalt": "netdump-bench",
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
}
_MADE_OF: Final = "made of the results with SHA-256 "
#: A contestant's marker and colour (Okabe and Ito's, which colour-blind people can tell apart).
_LOOKS: Final = (
    ("s", "#999999"),
    ("D", "#e69f00"),
    ("o", "#0072b2"),
    ("v", "#d55e00"),
    ("^", "#cc79a7"),
    ("P", "#009e73"),
)


def digest(results: Results) -> str:
    """Of all that a plot could show."""
    return hashlib.sha256(results.as_text().encode()).hexdigest()


def made_of(svg: str) -> str:
    """The digest of the results that a plot was made of; empty where it does not say."""
    found = re.search(re.escape(_MADE_OF) + "([0-9a-f]{64})", svg)
    return found[1] if found else ""


def draw(results: Results, folder: Path) -> list[Path]:
    """All plots, into ``folder``. ``ImportError`` where there is no matplotlib."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    loss, trip, cost = PLOTS
    with matplotlib.rc_context(_SETTINGS):
        made = {
            loss: _rates(pyplot, results, BY_LOSS, [one.loss for one in BY_LOSS], "frames lost"),
            trip: _rates(
                pyplot,
                results,
                BY_ROUND_TRIP,
                [f"{one.round_trip_us / 1000:g} ms" for one in BY_ROUND_TRIP],
                "round trip",
            ),
            cost: _costs(pyplot, results),
        }
        for name, figure in made.items():
            about = {"Date": None, "Creator": None, "Description": _MADE_OF + digest(results)}
            figure.savefig(folder / name, format="svg", metadata=about)
            pyplot.close(figure)
            _without_trailing_blanks(folder / name)
    return [folder / name for name in made]


def _rates(
    pyplot: Any, results: Results, conditions: Sequence[Condition], ticks: list[str], what: str
) -> Any:
    """MB/s, a line for each contestant; a dump that is wrong has a hollow marker, one that failed
    none.
    """
    figure, axes = pyplot.subplots(figsize=(8, 4.5), layout="constrained")
    for one, (marker, colour) in zip(CONTESTANTS, _LOOKS, strict=True):
        row = [results.cells[one.name][str(condition)] for condition in conditions]
        done = [(x, c) for x, c in enumerate(row) if c.outcome in ("complete", *WRONG)]
        axes.plot([x for x, _ in done], [c.rate for _, c in done], color=colour, label=one.name)
        for x, cell in done:
            face = "white" if cell.outcome in WRONG else colour
            axes.plot(x, cell.rate, marker, color=colour, markerfacecolor=face, markersize=7)
    axes.set_yscale("log")
    axes.set_xticks(range(len(ticks)), ticks)
    axes.set_xlabel(what)
    axes.set_ylabel("MB/s (hollow: the dump is wrong)")
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    return figure


def _costs(pyplot: Any, results: Results) -> Any:
    names = [one.name for one in CONTESTANTS]
    colours = [colour for _, colour in _LOOKS]
    bars = {
        "packets/MiB": [results.cells[name][str(CLEAN)].packets_per_mib for name in names],
        "lines of code": [results.code[name].own for name in names],
        "bytes reserved": [results.code[name].reserved for name in names],
    }
    figure, panels = pyplot.subplots(1, 3, figsize=(10, 3), layout="constrained", sharey=True)
    for axes, (what, values) in zip(panels, bars.items(), strict=True):
        axes.barh(names, values, color=colours)
        axes.set_title(what)
    panels[-1].set_xscale("log")
    panels[0].invert_yaxis()
    return figure


def _without_trailing_blanks(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    path.write_text("\n".join(line.rstrip() for line in lines) + "\n", encoding="utf-8")
