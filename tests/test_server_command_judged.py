"""Somebody's server, by command: questioned, and judged."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from bench.progress import Silent
from bench.runner import run_scenario
from bench.scenario import parse_scenario
from bench.servers.command import CommandOptions
from bench.verdict import CaseResult
from tests.foreign import (
    GOOD_SERVER,
    HASTY_SERVER,
    HERE,
    SERVER_STORY,
    SERVERS,
    example_server,
    server_command,
)


def served_by(wanted: CommandOptions) -> str:
    """The keys of a scenario's table."""
    words = wanted.model_dump(exclude_defaults=True)
    return "\n".join(f"{key} = {json.dumps(value)}" for key, value in words.items())


class TestJudged:
    pytestmark = pytest.mark.tap

    def played(
        self, folder: Path, wanted: CommandOptions, profile: str = "netdump2", more: str = ""
    ) -> CaseResult:
        text = SERVER_STORY.format(profile=profile, more=more, server=served_by(wanted))
        result = run_scenario(
            parse_scenario(text, "made", "made.toml"),
            tier="tap",
            why_this_tier="",
            seed=1,
            run_folder=folder,
            progress=Silent(),
        )
        (case,) = result.cases
        return case

    @pytest.mark.parametrize("profile", ["netdump2", "freebsd-14"])
    def test_a_good_server_of_a_page_is_held_to_be_one(self, profile: str, tmp_path: Path) -> None:
        case = self.played(tmp_path, GOOD_SERVER, profile)
        assert case.met, case.unmet
        assert case.selective_acks == 0, "a stock server takes no offer"
        held = {name for name, state in case.oracles.items() if state == "held"}
        assert {"bytes-equal", "no-false-success", "ack-means-kept", "server-safety"} <= held
        assert case.oracle_reasons["idempotence"].startswith("a stock server takes")

    def test_one_that_acknowledges_first_is_caught(self, tmp_path: Path) -> None:
        case = self.played(tmp_path, HASTY_SERVER, more=', oracle_broken = "ack-means-kept"')
        assert case.met, case.unmet
        assert "were not on the disk when they had been" in case.oracle_reasons["ack-means-kept"]
        assert case.oracles["bytes-equal"] == "held"

    @pytest.mark.parametrize(
        ("value", "state"),
        [("payload", "held"), ("bytes(length) if self.complete else payload", "broken")],
    )
    def test_the_same_bytes_written_again_are_no_change(
        self, value: str, state: str, tmp_path: Path
    ) -> None:
        """Of a server that says it is idempotent."""
        text = (SERVERS / "write_then_ack.py").read_text()
        for old, new in (
            ("if kind == VMCORE and not self.complete:", "if kind == VMCORE:"),
            ("self.keep(offset, payload)", f"self.keep(offset, {value})"),
            ("elif not (kind == VMCORE and self.complete):", "else:"),
            ("if dump is None or dump.came:", "if dump is None:"),
        ):
            assert old in text
            text = text.replace(old, new)
        (tmp_path / "server.py").write_text(text)
        wanted = example_server(tmp_path / "server.py").model_copy(update={"protocol": "netdump2"})
        case = self.played(tmp_path / "run", wanted)
        assert case.oracles["idempotence"] == state, case.oracle_reasons

    def test_one_that_has_more_to_do_when_it_has_acknowledged_is_let_finish(
        self, tmp_path: Path
    ) -> None:
        """It works meanwhile, and its folder stays the same: that is not the end of its work."""
        text = (SERVERS / "write_then_ack.py").read_text()
        late = [
            "        self.acknowledge(seqno)",
            "        note = os.path.join(os.path.dirname(self.name), 'note')",
            "        if kind == FINISHED and not os.path.exists(note):",
            "            until = time.thread_time() + 0.3",
            "            while time.thread_time() < until: pass",
            "            open(note, 'w').write('all')",
        ]
        for old, new in (
            ("        self.acknowledge(seqno)", "\n".join(late)),
            ("import sys", "import sys\nimport time"),
            ("if dump is None or dump.came:", "if dump is None:"),
        ):
            assert old in text
            text = text.replace(old, new, 1)
        (tmp_path / "server.py").write_text(text)
        wanted = example_server(tmp_path / "server.py").model_copy(update={"protocol": "netdump2"})
        case = self.played(tmp_path / "run", wanted)
        assert case.oracles["idempotence"] == "held", case.oracle_reasons
        assert case.outcome == "complete"

    def test_one_that_names_its_dump_when_it_is_whole_need_not_say_what_it_is_before(
        self, tmp_path: Path
    ) -> None:
        for program in ("write_then_ack", "ack_then_write"):  # the second is made of the first
            text = (SERVERS / f"{program}.py").read_text()
            text = text.replace('self.name + ".part"', 'self.name.replace("dump.", "tmp-")')
            (tmp_path / f"{program}.py").write_text(text)
        words = (sys.executable, tmp_path / "write_then_ack.py", *HERE)
        case = self.played(tmp_path / "good", server_command(*words, finished="dump.*"))
        assert case.met, case.unmet
        assert case.oracles["ack-means-kept"] == "held"
        words = (sys.executable, tmp_path / "ack_then_write.py", *HERE)
        case = self.played(tmp_path / "hasty", server_command(*words, finished="dump.*"))
        assert "were not on the disk" in case.oracle_reasons["ack-means-kept"]

    def test_a_footer_that_a_stock_server_keeps_is_not_held_against_it(
        self, tmp_path: Path
    ) -> None:
        text = (SERVERS / "write_then_ack.py").read_text()
        # As netdumpd: whatever came is complete.
        text = text.replace("not end or came != end", "False")
        text = text.replace("os.ftruncate(self.file, end)", "pass")
        (tmp_path / "server.py").write_text(text)
        case = self.played(
            tmp_path / "run",
            example_server(tmp_path / "server.py"),
            "patch-2010",
            ', oracle_broken = "panic-hygiene"',
        )
        assert case.met, case.unmet
        assert case.oracles["bytes-equal"] == "held"

    def test_a_kernels_last_words_are_no_defect_of_a_server_that_prints_them(
        self, tmp_path: Path
    ) -> None:
        text = (SERVERS / "write_then_ack.py").read_text()
        head, tail = text.split("            (self.promised,) =")
        prints = "            print(payload[320:495].split(b'\\0')[0].decode(), flush=True)\n"
        (tmp_path / "server.py").write_text(f"{head}{prints}            (self.promised,) ={tail}")
        panic = "thread 'swapper' panicked at kernel/mm.rs:7"
        case = self.played(
            tmp_path / "run",
            example_server(tmp_path / "server.py"),
            more=f'}}\nmachine = {{ panic = "{panic}" ',
        )
        assert panic in (tmp_path / "run" / "server.log").read_text()
        assert case.met, case.unmet

    def test_one_that_does_not_come_up_is_that_cases_verdict_and_no_others(
        self, tmp_path: Path
    ) -> None:
        bad = server_command("/bin/sh", "-c", "echo no disk; kill -SEGV $$")
        names = 'finished = "dump.*", unfinished = "dump.*.part"'
        table = f"argv = {json.dumps(GOOD_SERVER.argv)}, {names}"
        case = f'[[case]]\nname = "good"\nprofile = "netdump2"\nserver = {{ {table} }}\n'
        case += 'expect = { outcome = "complete" }\n'
        text = SERVER_STORY.format(profile="netdump2", more="", server=served_by(bad)) + case
        result = run_scenario(
            parse_scenario(text, "made", "made.toml"),
            tier="tap",
            why_this_tier="",
            seed=1,
            run_folder=tmp_path,
            progress=Silent(),
        )
        down, good = result.cases
        assert good.met, good.unmet
        assert (down.outcome, down.met, result.not_judged) == ("server-down", False, False)
        assert down.oracles["server-safety"] == "broken"
        why = "it did not come up: the server was killed by SIGSEGV: no disk"
        assert down.oracle_reasons["server-safety"] == why
        assert f"oracle server-safety is broken: {why}" in down.unmet

    def test_one_that_dies_in_mid_dump_is_told(self, tmp_path: Path) -> None:
        text = (SERVERS / "write_then_ack.py").read_text()
        text = text.replace(
            "        if len(payload) != length:\n",
            "        if len(self.came) == 99:\n            os.abort()\n"
            "        if len(payload) != length:\n",
        )
        (tmp_path / "server.py").write_text(text)
        case = self.played(tmp_path / "run", example_server(tmp_path / "server.py"))
        assert case.outcome == "failed"
        assert "the server was killed by SIGABRT" in case.oracle_reasons["server-safety"]
        assert case.oracles["ack-means-kept"] == "held"
