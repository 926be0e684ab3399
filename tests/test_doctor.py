"""The doctor: everything is tried, nothing makes it fall over, and each lack has its cure."""

from __future__ import annotations

import io
import json

from rich.console import Console

from bench.doctor import CHECKS, Check, as_json, examine, healthy, print_findings
from bench.wire.contracts import Capability


def good() -> Capability:
    return Capability(True, "1.2 [x]")


def bad() -> Capability:
    return Capability(False, "not installed", "apt-get install it")


def broken() -> Capability:
    raise OSError("the check itself broke down")


TABLE = (
    Check("python", "everything", good, required=True),
    Check("tun device", "tier tap", bad),
    Check("kvm", "tier qemu", broken),
)


def test_a_check_that_breaks_down_is_one_that_failed() -> None:
    findings = examine(TABLE)
    assert [finding.ok for finding in findings] == [True, False, False]
    assert findings[2].found == "OSError: the check itself broke down"
    assert healthy(findings), "only what is required makes a machine unfit"
    assert not healthy(examine((Check("numpy", "everything", bad, required=True),)))


def test_each_lack_comes_with_its_cure_and_no_cure_comes_without() -> None:
    out = io.StringIO()
    print_findings(examine(TABLE), Console(file=out, width=100))
    text = out.getvalue()
    assert "ok       python              everything: 1.2 [x]" in text
    assert "missing  tun device          tier tap: not installed" in text
    assert "cure: apt-get install it" in text
    assert text.count("cure:") == 1
    assert max(map(len, text.splitlines())) <= 100


def test_the_findings_are_json() -> None:
    document = json.loads(json.dumps(as_json(examine(TABLE))))
    assert document["ok"] is True
    assert document["checks"][1] == {
        "name": "tun device",
        "ok": False,
        "found": "not installed",
        "enables": "tier tap",
        "cure": "apt-get install it",
        "required": False,
    }


def test_this_machine_can_be_examined() -> None:
    findings = examine(tuple(check for check in CHECKS if check.name in ("python", "numpy", "kvm")))
    assert [finding.ok for finding in findings[:2]] == [True, True]
