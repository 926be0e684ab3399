"""What a verdict keeps of the files of its parts, and what a replay says of those that changed."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from bench import cli
from bench.part_files import changed, digests
from bench.put_in import with_parts
from bench.scenario import load_scenario, parse_scenario
from tests.foreign import PIO, SERVERS, made

DRIVER = "from nic_models.e1000.driver import E1000Driver\nclass Mine(E1000Driver):\n    pass\n"


def sha256(path: Path | str) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


@pytest.mark.sim
def test_a_replay_names_each_file_that_is_another_one_now_and_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    driver = tmp_path / "driver.py"
    driver.write_text(DRIVER)
    made(tmp_path, 'driver = "driver.py:Mine"')
    words = ["--quiet", "--json", "--runs", str(tmp_path / "runs")]
    assert cli.main(["run", str(tmp_path / "made.toml"), "--tier", "sim", *words]) == 0
    verdict = json.loads(capsys.readouterr().out)
    assert verdict["parts"] == {"files": {str(driver): sha256(driver)}}
    assert cli.main(["replay", verdict["run_folder"], *words]) == 0
    assert capsys.readouterr().err == ""
    driver.write_text(f"{DRIVER}# mended\n")
    assert cli.main(["replay", verdict["run_folder"], *words]) == 0
    assert capsys.readouterr().err == (
        f"netdump-bench: {driver} has changed since that run: this is not the same run any more\n"
    )


def test_what_was_put_in_by_its_table_is_known_by_its_program(tmp_path: Path) -> None:
    for path in (SERVERS / "write-then-ack.toml", SERVERS / "write_then_ack.py"):
        shutil.copy(path, tmp_path)
    words = {"server": str(tmp_path / "write-then-ack.toml"), "nic": PIO}
    scenario = with_parts(load_scenario("clean-dump"), words)  # type: ignore[arg-type]
    nic, program = PIO.partition(":")[0], str(tmp_path / "write_then_ack.py")
    assert digests(scenario) == {nic: sha256(nic), program: sha256(program)}


def test_a_library_a_client_and_a_kind_of_a_file_are_known_and_what_is_on_the_path_is_not(
    tmp_path: Path,
) -> None:
    (tmp_path / "a {b}").mkdir()
    here = tmp_path / "a {b}"
    library, client = here / "driver.so", here / "client.py"
    library.write_bytes(b"\x7fELF")
    client.touch()
    text = (
        'title = "t"\nwhy = "w"\ntiers = ["tap"]\n[[case]]\nexpect = { outcome = "complete" }\n'
        'client = { kind = "command", argv = ["sh", "./client.py", "{memory}"] }\n'
        '[[case]]\nprofile = "netdump2"\nexpect = { outcome = "complete" }\n'
        'nic = { driver = "driver.so" }\nserver = { kind = "server.py:MINE" }\n'
    )
    kind = here / "server.py"
    kind.write_text("from bench.servers.ours import OURS as MINE\n")
    found = digests(parse_scenario(text, "made", str(here / "made.toml")))
    assert found == {str(path): sha256(path) for path in (client, library, kind)}
    client.write_text("another")
    library.unlink()
    assert changed(found) == [str(client), str(library)]


def test_a_scenario_of_registered_parts_has_none() -> None:
    assert digests(load_scenario("clean-dump")) == {}
