"""What a scenario says of a server by command, and what of that can't be played."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from bench.errors import BadInput
from bench.scenario import parse_scenario
from bench.servers.command import CommandOptions
from bench.servers.manners import filled
from tests.foreign import SERVER_STORY, SERVERS, server_command


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("", "argv: is missing"),
        ("argv = []", "argv"),
        ('argv = ["cat", "{adress}"]', r"no place is named adress; did you mean .address.\? \(\{a"),
        ('argv = ["/no/such/netdumpd"]', "'/no/such/netdumpd': there is no such program"),
        ('argv = ["./mine"]', "/here/mine': there is no such program"),
        ('argv = ["cat", 5]', "wants a string in quotes"),
        ('argv = ["cat"]\nfinished = []', "finished"),
        ('argv = ["cat"]\nfinished = "a/b"', "'a/b' is no pattern for the name of a file"),
        ('argv = ["cat"]\nready = "("', "'\\(' is no regular expression"),
        ('argv = ["cat"]\nuser = "no-such-user"', "no user is named 'no-such-user'"),
        ('argv = ["cat"]\nprotocol = "ftp"', "'ftp' is none of stock, netdump2, tftp"),
        ('argv = ["cat"]\nenvironment = { A = 1 }', "wants a string in quotes"),
    ],
)
def test_what_can_not_be_played_is_told_with_its_place(options: str, says: str) -> None:
    text = SERVER_STORY.format(profile="netdump2", more="", server=options)
    with pytest.raises(BadInput, match=says) as failure:
        parse_scenario(text, "made", "/here/made.toml")
    assert re.match(r"/here/made.toml:\d+: server", str(failure.value))


def test_a_client_and_a_server_that_speak_two_protocols_are_never_played() -> None:
    text = SERVER_STORY.format(
        profile="netdump2", more="", server='argv = ["cat"]\nprotocol = "tftp"'
    )
    says = "a profile client speaks netdump, a command server tftp"
    with pytest.raises(BadInput, match=says):
        parse_scenario(text, "made", "/here/made.toml")


def test_other_braces_stay_as_they_are() -> None:
    wanted = server_command("cat", '{"json": {}}', "{address}:{port}")
    assert filled(wanted.argv, "198.18.0.1", "x", 9)[1:] == ['{"json": {}}', "198.18.0.1:9"]


@pytest.mark.parametrize("path", sorted(SERVERS.glob("*.toml")), ids=lambda path: path.stem)
def test_an_examples_table_is_one(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = tomllib.loads(path.read_text())["server"]
    assert table.pop("kind") == "command"
    if path.stem == "netdumpd":  # which this machine need not have
        monkeypatch.setattr("bench.servers.command.shutil.which", lambda name: name)
    options = CommandOptions.model_validate(table, context={"base": SERVERS})
    assert [word for word in options.argv if word.endswith(".py")] == [
        str(SERVERS / f"{path.stem.replace('-', '_')}.py")
    ] * (path.stem != "netdumpd")
