"""``make shootout``: plays it, and writes page, results and plots.

python -m bench.shootout [--into docs] [--page-only]
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from pathlib import Path
from typing import Final

from bench.clock import RealClock
from bench.shootout import play
from bench.shootout.page import NAME, page
from bench.shootout.play import Results
from bench.shootout.plots import draw

DOCS: Final = Path(__file__).parents[2] / "docs"


def main() -> int:
    parser = argparse.ArgumentParser(prog="make shootout ARGS=...", description=__doc__)
    parser.add_argument("--into", type=Path, default=DOCS, help="the folder (docs)")
    parser.add_argument(
        "--page-only", action="store_true", help="of the results that lie there; play nothing"
    )
    wanted = parser.parse_args()
    if importlib.util.find_spec("matplotlib") is None:
        print("matplotlib is missing: `make shootout` installs it", file=sys.stderr)
        return 3
    clock, began = RealClock(), RealClock().now_ns()

    def tell(line: str) -> None:
        print(f"{(clock.now_ns() - began) / 1e9:6.1f} s  {line}", file=sys.stderr, flush=True)

    found = wanted.into / f"{NAME}.json"
    if wanted.page_only:
        results = Results.of_text(found.read_text(encoding="utf-8"))
    else:
        results = play.play(tell=tell)
        found.write_text(results.as_text(), encoding="utf-8")
    plots = draw(results, wanted.into)
    document = wanted.into / f"{NAME}.md"
    document.write_text(page(results), encoding="utf-8")
    for path in (found, *plots, document):
        tell(f"wrote {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
