"""``netdump-bench check-nic``: play the checks, one line each."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.drivers.contain import SiliconBroke
from bench.drivers.errors import DriverCrashed, DriverHangs
from bench.errors import BenchError
from bench.foreign import ENDS
from bench.nic_check.checks import CHECKS
from bench.nic_check.rig import Broken, Subject
from bench.parts import absolute_name, check_driver, is_library, nic_family
from guest.kernel.guard import place


@dataclass(frozen=True, slots=True)
class Finding:
    """What came of one check."""

    check: str
    says: str
    """What is promised, in a sentence."""
    broken: str = ""
    """What was expected and what came; empty where it is kept."""

    @property
    def ok(self) -> bool:
        return not self.broken

    def __str__(self) -> str:
        word = "ok" if self.ok else "broken"
        return f"{word:<8}{self.check:<12}{self.broken or self.says}"

    def as_json(self) -> dict[str, Any]:
        return {"check": self.check, "says": self.says, "ok": self.ok, "broken": self.broken}


def subject_of(family: str, driver: str | None, base: Path) -> Subject:
    """What is to be checked, by its names. Raises ``BadInput``."""
    if driver is not None:
        check_driver(driver, base)
        driver = str(Path(base, driver)) if is_library(driver) else absolute_name(driver, base)
    return Subject(nic_family(family, base), driver, absolute_name(family, base))


def check(subject: Subject) -> Iterator[Finding]:
    """All checks, in order; a check that can't go on is broken."""
    for name in CHECKS:
        yield check_one(subject, name)


def check_one(subject: Subject, name: str) -> Finding:
    """One of them."""
    promise = CHECKS[name]
    says = (promise.__doc__ or "").strip()
    says = " ".join(says.split())
    try:
        promise(subject)
    except Broken as broken:
        return Finding(name, says, str(broken))
    except SiliconBroke as error:
        return Finding(name, says, f"expected a card that lives, came {error}")
    except BenchError:
        raise
    except (DriverCrashed, DriverHangs) as error:
        return Finding(name, says, f"expected a driver that lives, came {error}")
    except ENDS as error:  # the family's own, or its driver's
        came = traceback.format_exception_only(error)[-1].strip()
        return Finding(name, says, f"expected no exception, came {came} ({_where(error)})")
    return Finding(name, says)


def _where(error: BaseException) -> str:
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return place(frame.filename, frame.lineno or 0, frame.name)
