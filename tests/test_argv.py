"""Paths in a command that a table names: one rule for servers and clients."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.clients.command import COMMAND as CLIENT
from bench.clients.command import ClientCommand
from bench.errors import BadInput
from bench.servers.command import CommandOptions
from bench.servers.manners import filled
from tests.command_rig import Played

Words = Callable[[list[str], Path], list[str]]


def servers(argv: list[str], base: Path) -> list[str]:
    options = CommandOptions.model_validate({"argv": argv}, context={"base": base})
    return filled(options.argv, "198.18.0.1", "/dumps", 20023)


def clients(argv: list[str], base: Path) -> list[str]:
    options: Any = CLIENT.options.model_validate({"argv": argv}, context={"base": base})
    return options.filled({"memory": "/memory"})  # type: ignore[no-any-return]


@pytest.mark.parametrize("words", [servers, clients])
def test_what_begins_with_a_dot_and_a_slash_is_from_the_tables_folder(
    words: Words, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = tmp_path / "a {memory} b"
    (base / "bin").mkdir(parents=True)
    monkeypatch.chdir("/")
    for program in ("bin/tool", "./bin/tool"):
        (base / "bin" / "tool").symlink_to(sys.executable)
        argv = [program, "./one", "../two", "three/four", "--x=./five", "."]
        rest = [str(base / "one"), str(tmp_path / "two"), "three/four", "--x=./five", "."]
        assert words(argv, base) == [str(base / "bin" / "tool"), *rest]
        (base / "bin" / "tool").unlink()
    assert words(["sh", "x"], base)[1:] == ["x"]


@pytest.mark.parametrize("words", [servers, clients])
@pytest.mark.parametrize("program", ["bin/none", "./none", "/none", "no-such-program-here"])
def test_a_program_that_is_not_there_is_bad_input(
    words: Words, program: str, tmp_path: Path
) -> None:
    with pytest.raises((BadInput, ValueError), match=Path(program).name):
        words([program], tmp_path)


@pytest.mark.tap
def test_a_client_that_is_not_there_is_bad_input_and_no_failure_of_its(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no such program") as told:
        Played(tmp_path)(["./none", "{memory}"])
    assert told.value.status == 2


def test_without_a_file_words_are_as_they_are() -> None:
    options = ClientCommand.model_validate({"argv": ["./tool", "./x", "{memory}"]})
    assert options.argv == ("./tool", "./x", "{memory}")
