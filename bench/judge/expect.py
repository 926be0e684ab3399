"""What a case expected, held against what came: a list of what is missing, in words.

An oracle may be broken only where the case is there to see it broken. What an outcome implies need
not be named: a silent hole *is* a broken no-false-success, and broken bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from bench.judge.oracles import Ruling
from bench.scenario.schema import Expect
from bench.scenario.values import Count
from bench.verdict import CaseResult

#: What an outcome implies, whether a case names it or not.
_IMPLIED = {
    "silent-hole": frozenset({"bytes-equal", "no-false-success"}),
    "deadlock": frozenset({"panic-hygiene"}),
    "hung": frozenset({"liveness"}),
    "driver-crashed": frozenset({"panic-hygiene"}),
    "client-crashed": frozenset({"panic-hygiene"}),
    "false-success": frozenset({"bytes-equal", "no-false-success"}),
}


def unmet(expect: Expect, result: CaseResult, rulings: Mapping[str, Ruling]) -> list[str]:
    """One line for each expectation that was not met; empty when all were."""
    missing: list[str] = []
    if expect.outcome is not None and result.outcome != expect.outcome:
        why = f": {result.why}" if result.why else ""
        missing.append(f"expected {expect.outcome}, came {result.outcome}{why}")
    if _counted(expect, result, "error") and result.error != expect.error:
        missing.append(f"expected the error {expect.error}, came {result.error or 'none'}")
    allowed = frozenset(expect.oracle_broken) | _IMPLIED.get(expect.outcome or "", frozenset())
    missing += [
        f"oracle {oracle} is broken: {ruling.why}"
        for oracle, ruling in rulings.items()
        if ruling.state == "broken" and oracle not in allowed
    ]
    missing += [
        f"oracle {oracle} was to be broken, and is {_said(rulings[oracle])}"
        for oracle in expect.oracle_broken
        if rulings[oracle].state != "broken"
    ]
    missing += [
        f"no frame was refused for {reason}"
        for reason in expect.refused
        if _counted(expect, result, "refused") and not result.refused.get(reason)
    ]
    netconsole_lost = result.netconsole.lost if result.netconsole else 0
    for name, key, seen, perhaps in (
        ("foreign frames accepted", "foreign_frames_accepted", result.foreign_frames_accepted, 0),
        # Of a probe nobody can say whether the frame was lost before: it may be one of them.
        ("retransmissions", "retransmissions", result.retransmissions, result.probes),
        ("pages written by the NIC", "nic_wrote_pages", result.nic_wrote_pages, 0),
        ("lines of netconsole lost", "netconsole_lost", netconsole_lost, 0),
    ):
        count: Count | None = getattr(expect, key)
        if count is None or not _counted(expect, result, key):
            continue
        if not any(map(count.holds, range(seen, seen + perhaps + 1))):
            missing.append(f"expected {count} {name}, came {seen}")
    words = result.netconsole
    if words is not None and not words.console:
        missing.append("the guest's console printed nothing to hold netconsole against")
    if words is not None and words.unexplained:
        missing.append(
            f"{words.unexplained} lines of netconsole did not arrive though the wire broke none of"
            f" them, the first: {words.first_unexplained}"
        )
    return missing


def uncounted(expect: Expect, uncounted: Iterable[str]) -> list[str]:
    """Of the things that nobody could count, those that the case expects."""
    return sorted(key for key in uncounted if getattr(expect, key) not in (None, ()))


def _counted(expect: Expect, result: CaseResult, key: str) -> bool:
    return getattr(expect, key) is not None and key not in result.uncounted


def _said(ruling: Ruling) -> str:
    """``not ruled on: no guard sees it``: then it is not the case that fails to break it."""
    return f"not ruled on: {ruling.why}" if ruling.state == "not-ruled-on" else ruling.state
