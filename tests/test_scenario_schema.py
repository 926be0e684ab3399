"""The grammar as JSON Schema: what the loader takes it takes, and what is misshapen it refuses."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from bench import cli
from bench.judge.oracles import ORACLES
from bench.machines.linux import LinuxOptions
from bench.scenario import HOME, ScenarioError, list_scenarios, parse_scenario
from bench.scenario.editor import json_schema, tables_in
from bench.scenario.resolve import SECTIONS
from bench.scenario.schema import Document, Nic
from bench.scenario.values import (
    RATE_UNITS,
    SIZE_UNITS,
    parse_chance,
    parse_count,
    parse_every,
    parse_path,
    parse_ranges,
    parse_rate,
    parse_size,
    parse_step,
    parse_sweep,
    show_every,
    show_rate,
)
from bench.scenario.written import (
    CHANCE,
    COUNT,
    EVERY,
    PATH,
    RANGES,
    RATE,
    SIZE,
    STEP,
    SWEEP,
    Bounds,
    Written,
    between,
)
from bench.tiers import PROBES, ROWS
from bench.verdict import OUTCOMES
from bench.wire.actions import ACTIONS, ETHERNET_HEADER, LONGEST_FRAME, SETTINGS
from bench.wire.bystanders import TRICKS
from guest.linux.crash import TRIGGERS
from netdump.profiles import PROFILES
from tests.patience import HANG_S

SCHEMA = json_schema()
VALIDATOR = Draft202012Validator(SCHEMA)

HEAD = 'title = "A"\nwhy = "B"\n'
CASE = '[[case]]\nprofile = "netdump2"\nexpect = { outcome = "complete" }\n'
FAULT = '[[wire.fault]]\ndoes = "drop"\n'
OTHER = '[[wire.bystander]]\nsends = "arp-spoof"\n'


def accepts(text: str) -> bool:
    return bool(VALIDATOR.is_valid(tomllib.loads(text)))


# --- files ----------------------------------------------------------------------------------------


def test_it_is_a_json_schema_of_the_draft_that_it_names() -> None:
    assert SCHEMA["$schema"] == Draft202012Validator.META_SCHEMA["$id"]
    Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("name", list_scenarios())
def test_every_scenario_of_the_bench_is_valid(name: str) -> None:
    errors = VALIDATOR.iter_errors(tomllib.loads((HOME / f"{name}.toml").read_text()))
    assert [f"{error.json_path}: {error.message}" for error in errors] == []


def changed(key: str, value: str) -> str:
    """A whole file in which one key of ``expect`` is written otherwise."""
    return HEAD + CASE.replace("}", f", {key} = {value} }}")


#: (what is wrong, a file, what the loader says). The shape is wrong: a key by itself.
WRONG: list[tuple[str, str, str]] = [
    # unknown keys
    ("a key at the top", HEAD + "tier = 1\n" + CASE, "tier: unknown key"),
    ("a key of a table", HEAD + "[nic]\nmodde = 1\n" + CASE, "nic.modde: unknown key"),
    ("a table", HEAD + "[machin]\ncpus = 1\n" + CASE, "machin: unknown key"),
    ("a key of a fault", HEAD + FAULT + "index = 1\ndelay = 5\n" + CASE, "delay: unknown key"),
    ("a key of a case", HEAD + CASE + "seed = 1\n", "case[1].seed: unknown key"),
    ("a key of an override", HEAD + CASE + "nic = { ring = 8 }\n", "ring: unknown key"),
    ("a key of what is expected", changed("outcom", '"lost"'), "outcom: unknown key"),
    # missing keys
    ("no title", 'why = "B"\n' + CASE, "title: is missing"),
    ("no why", 'title = "A"\n' + CASE, "why: is missing"),
    ("no case", HEAD, "case: is missing"),
    ("no profile", HEAD + "[[case]]\nexpect = {}\n", "profile: is missing"),
    ("no expect", HEAD + '[[case]]\nprofile = "netdump2"\n', "expect: is missing"),
    ("a fault without a deed", HEAD + "[[wire.fault]]\nindex = 0\n" + CASE, "does: is missing"),
    ("a silent bystander", HEAD + '[[wire.bystander]]\nevery = "1 frame"\n' + CASE, "sends: is"),
    ("a sweep of nothing", HEAD + CASE + 'sweep = { over = "panic-step" }\n', "values: is missing"),
    # wrong types
    ("a number for a text", "title = 1\n" + 'why = "B"\n' + CASE, "title: wants a string"),
    ("a text for a number", HEAD + '[machine]\ncpus = "4"\n' + CASE, "cpus: wants a whole number"),
    ("a fraction", HEAD + "[machine]\ncpus = 4.5\n" + CASE, "cpus: wants a whole number"),
    ("true for a number", HEAD + "[machine]\ncpus = true\n" + CASE, "cpus: wants a whole number"),
    ("a number for a switch", HEAD + "[nic]\npromiscuous = 1\n" + CASE, "wants true or false"),
    ("a text for a switch", HEAD + '[nic]\npromiscuous = "yes"\n' + CASE, "wants true or false"),
    ("a text for a table", HEAD + 'nic = "e1000"\n' + CASE, "nic: wants a table"),
    ("a text for a list", HEAD + 'tiers = "sim"\n' + CASE, "tiers: wants a list"),
    ("a table for a list of tables", HEAD + '[case]\nprofile = "netdump2"\n', "case: wants a list"),
    ("a number for a choice", HEAD + "[nic]\nmode = 5\n" + CASE, "5 is none of"),
    ("a list for a choice", HEAD + '[nic]\nmode = ["locked"]\n' + CASE, "is none of"),
    ("a date for a text", HEAD + "story = 2010-10-08\n" + CASE, "story: wants a string"),
    ("numbers for reasons", changed("refused", "[1]"), "wants a string"),
    # out of range
    ("no CPU", HEAD + "[machine]\ncpus = 0\n" + CASE, "greater than or equal to 1"),
    ("too many CPUs", HEAD + "[machine]\ncpus = 257\n" + CASE, "less than or equal to 256"),
    ("a negative CPU", HEAD + "[machine]\npanic_cpu = -1\n" + CASE, "greater than or equal to 0"),
    ("an odd ring", HEAD + "[nic]\ntx_ring = 12\n" + CASE, "multiple of 8"),
    ("a huge ring", HEAD + "[nic]\nrx_ring = 4104\n" + CASE, "less than or equal to 4096"),
    ("a tiny MTU", HEAD + "[nic]\nmtu = 575\n" + CASE, "greater than or equal to 576"),
    ("little memory", HEAD + "[machine]\nmemory = 4096\n" + CASE, "or equal to 65536"),
    ("little memory, in words", HEAD + '[machine]\nmemory = "63 KiB"\n' + CASE, "equal to 65536"),
    ("much memory", HEAD + '[machine]\nmemory = "65 GiB"\n' + CASE, "less than or equal to"),
    ("more than much", HEAD + '[machine]\nmemory = "64.5 GiB"\n' + CASE, "less than or equal to"),
    ("half a page of memory", HEAD + "[machine]\nmemory = 67584\n" + CASE, "multiple of 4096"),
    ("a dump of nothing", HEAD + '[server]\nmax_dump = "3 KiB"\n' + CASE, "or equal to 4096"),
    ("a dump of a byte", HEAD + "[server]\nmax_dump = 1\n" + CASE, "or equal to 4096"),
    ("an empty list", "tiers = []\n" + HEAD + CASE, "tiers: is empty"),
    ("no case at all", "case = []\n" + HEAD, "case: is empty"),
    ("an empty title", 'title = ""\nwhy = "B"\n' + CASE, "title: string should have at least 1"),
    ("a long title", f'title = "{"A" * 91}"\nwhy = "B"\n' + CASE, "at most 90 characters"),
    ("a strange host", HEAD + '[machine]\nhostname = "a b"\n' + CASE, "hostname: string should"),
    ("a foreign host", HEAD + '[machine]\nhostname = "größe"\n' + CASE, "hostname: string should"),
    ("overtaken by none", HEAD + FAULT + "index = 1\nby_frames = 0\n" + CASE, "or equal to 1"),
    ("overtaken by all", HEAD + FAULT + "index = 1\nby_frames = 4097\n" + CASE, "equal to 4096"),
    ("no delay", HEAD + FAULT + "index = 1\ndelay_us = 0\n" + CASE, "greater than or equal to 1"),
    ("a long delay", HEAD + FAULT + "index = 1\ndelay_us = 10000001\n" + CASE, "to 10000000"),
    ("a time in words", HEAD + FAULT + 'index = 1\ndelay_us = "2 ms"\n' + CASE, "a whole number"),
    ("half a header", HEAD + FAULT + "index = 1\nlength = 13\n" + CASE, "or equal to 14"),
    ("a giant", HEAD + FAULT + "index = 1\nlength = 9015\n" + CASE, "or equal to 9014"),
    ("latency", HEAD + "[network]\nlatency_us = -1\n" + CASE, "greater than or equal to 0"),
    # unknown choices
    ("a tier", HEAD + 'tiers = ["tap", "simm"]\n' + CASE, "'simm' is none of tap, qemu, sim; did"),
    ("a mode", HEAD + '[nic]\nmode = "pollled"\n' + CASE, 'did you mean "polled"?'),
    ("a deed", HEAD + FAULT.replace("drop", "dorp") + "index = 1\n" + CASE, "is none of drop, dup"),
    ("a direction", HEAD + FAULT + 'direction = "up"\nindex = 1\n' + CASE, "to-client, both"),
    ("a kind", HEAD + FAULT + 'kind = "acks"\nindex = 1\n' + CASE, 'did you mean "ack"?'),
    ("a bystander", HEAD + OTHER.replace("spoof", "spoofs") + CASE, 'did you mean "arp-spoof"?'),
    ("a profile", HEAD + CASE.replace("dump2", "dump3"), "'netdump3' is none of patch-2010, free"),
    ("an outcome", HEAD + CASE.replace("complete", "fine"), "'fine' is none of complete, silent"),
    (
        "no outcome to wish for",
        HEAD + CASE.replace("complete", "disturbed"),
        "'disturbed' is none of",
    ),
    ("an oracle", changed("oracle_broken", '"livness"'), 'did you mean "liveness"?'),
    ("an oracle of two", changed("oracle_broken", '["liveness", "luck"]'), "'luck' is none of"),
    ("a sweep", HEAD + CASE + 'sweep = { over = "tiers", values = 1 }\n', "'tiers' is none of"),
    ("a card", HEAD + '[nic]\nmodel = "ne2000"\n' + CASE, 'no family of NICs is named "ne2000"'),
    # spellings
    ("MB for MiB", HEAD + '[machine]\nmemory = "16 MB"\n' + CASE, "is not a size"),
    ("a negative size", HEAD + "[machine]\nmemory = -65536\n" + CASE, "is not a size"),
    ("true memory", HEAD + "[machine]\nmemory = true\n" + CASE, "is not a size"),
    ("a bare rate", HEAD + "[nic]\nrate = 1000000000\n" + CASE, "is not a line rate"),
    ("no rate", HEAD + '[nic]\nrate = "0.0 Gbit/s"\n' + CASE, "more than 0 bit/s"),
    ("bytes a second", HEAD + '[nic]\nrate = "1 GB/s"\n' + CASE, "is not a line rate"),
    ("no chance", HEAD + FAULT + "chance = 0\n" + CASE, "is not a chance"),
    ("a true chance", HEAD + FAULT + "chance = true\n" + CASE, "True is not a chance"),
    ("more than certain", HEAD + FAULT + 'chance = "101 %"\n' + CASE, "is not a chance"),
    ("no chance in percent", HEAD + FAULT + 'chance = "0.00 %"\n' + CASE, "is not a chance"),
    ("a chance without a sign", HEAD + FAULT + 'chance = "1"\n' + CASE, "is not a chance"),
    ("a bare pace", HEAD + OTHER + "every = 3\n" + CASE, "is not a pace"),
    ("never", HEAD + OTHER + 'every = "0 frames"\n' + CASE, "is not a pace"),
    ("a negative place", HEAD + FAULT + "index = -1\n" + CASE, "is not a list of numbers"),
    ("no place", HEAD + FAULT + "index = []\n" + CASE, "an empty list of numbers"),
    ("a place in words", HEAD + FAULT + 'index = "first"\n' + CASE, "is not a list of numbers"),
    ("places in words", HEAD + FAULT + 'index = ["5, 6"]\n' + CASE, "is not a list of numbers"),
    ("fewer", changed("retransmissions", '"<3"'), "is not an expected count"),
    ("a true count", changed("retransmissions", "true"), "is not an expected count"),
    ("an error in words", changed("error", '"timeout"'), "error: string should match"),
    ("a step before the first", HEAD + "[machine]\npanic_at = -1\n" + CASE, "is not a step"),
    ("a step without a name", HEAD + '[machine]\npanic_at = ""\n' + CASE, "is not a step"),
    ("all", HEAD + CASE + 'sweep = { over = "panic-step", values = "all" }\n', "is not a sweep"),
    ("an absolute path", HEAD + '[client]\npath = "/etc"\n' + CASE, "relative path"),
    ("a path upwards", HEAD + '[client]\npath = "a/../../b"\n' + CASE, "relative path"),
    ("a long path", HEAD + f'[client]\npath = "{"a" * 1024}"\n' + CASE, "at most 1023 bytes"),
]


@pytest.mark.parametrize(("text", "says"), [row[1:] for row in WRONG], ids=[r[0] for r in WRONG])
def test_what_has_the_wrong_shape_is_refused_by_the_loader_and_by_the_schema(
    text: str, says: str
) -> None:
    with pytest.raises(ScenarioError) as caught:
        parse_scenario(text, "x", "x.toml")
    assert any(says in line for line in caught.value.problems), caught.value.problems
    assert not accepts(text)


#: What the loader takes, each key in one of its other spellings.
RIGHT = [
    HEAD + CASE,
    HEAD + '[machine]\nmemory = 1048576\narena = "0.5 MiB"\n' + CASE,
    HEAD + '[machine]\nmemory = " 1.5MiB "\n[server]\nmax_dump = "1 GiB"\n' + CASE,
    HEAD + '[nic]\nrate = "2.5 Gbit/s"\n' + CASE,
    HEAD + FAULT + "chance = 1\n" + CASE,
    HEAD + FAULT + 'chance = "100 %"\n' + CASE,
    HEAD + FAULT + "index = [5, 7]\n" + CASE,
    HEAD + FAULT + 'index = ["0..3", 7]\nkind = "other"\n' + CASE,
    HEAD + FAULT.replace("drop", "reorder") + "index = 1\nby_frames = 4096\n" + CASE,
    HEAD + FAULT.replace("drop", "delay") + "index = 1\ndelay_us = 1\n" + CASE,
    HEAD + FAULT.replace("drop", "truncate") + "index = 1\nlength = 14\n" + CASE,
    HEAD + OTHER + 'every = "1 frame"\n' + CASE,
    HEAD + '[client]\npath = ""\n' + CASE,
    HEAD + '[client]\npath = "a..b/...//.c/."\n' + CASE,
    HEAD + '[machine]\npanic_during = "transmit"\npanic_at = "write TDT"\n' + CASE,
    changed("oracle_broken", '"liveness"'),
    changed("oracle_broken", "[]"),
    changed("retransmissions", '"> 0"'),
    HEAD + FAULT + "index = 1\n" + CASE + 'sweep = { over = "lost-frame", values = "5, 40" }\n',
]


@pytest.mark.parametrize("text", RIGHT)
def test_what_the_loader_takes_the_schema_takes(text: str) -> None:
    parse_scenario(text, "x", "x.toml")
    assert accepts(text)


def test_what_only_does_not_fit_together_is_no_matter_of_shape() -> None:
    for text in (HEAD + FAULT + CASE, HEAD + "[machine]\npanic_cpu = 9\n" + CASE):
        with pytest.raises(ScenarioError):
            parse_scenario(text, "x", "x.toml")
        assert accepts(text)


# --- spellings ------------------------------------------------------------------------------------

_numbers = st.from_regex(r"[0-9]{1,8}(\.[0-9]{1,4})?", fullmatch=True)
_spaces = st.sampled_from(["", " ", "\t "])
_units = st.sampled_from([*SIZE_UNITS, *RATE_UNITS, "%", "frames", "frame", "MB", ""])
_quantities = st.builds("{}{}{}{}{}".format, _spaces, _numbers, _spaces, _units, _spaces)
_ranges = st.from_regex(r"\s?[0-9]{1,3}(\.\.[0-9]{1,3})?( ?, ?[0-9]{1,3}){0,2}", fullmatch=True)
_paths = st.text("./ab\0\n", max_size=8)
_values = st.one_of(
    _quantities,
    _ranges,
    _paths,
    st.integers(-2, 1 << 40),
    st.floats(allow_nan=False),
    st.booleans(),
    st.text(max_size=6),
    st.sampled_from(["every", ">0", "> 3", "<0"]),
    st.lists(st.one_of(st.integers(-1, 9), _ranges), max_size=3),
)

#: What parses, how the schema says it, and whether the schema says all of it.
SPELLINGS: list[tuple[Any, Written, bool]] = [
    (parse_size, SIZE, False),
    (parse_rate, RATE, False),
    (parse_chance, CHANCE, True),
    (parse_every, EVERY, True),
    (parse_ranges, RANGES, False),
    (parse_sweep, SWEEP, False),
    (parse_count, COUNT, True),
    (parse_step, STEP, True),
    (parse_path, PATH, True),
]


def as_in_toml(value: object) -> bool:
    """JSON has one kind of number: it takes 5.0 for 5, which TOML tells apart."""
    inside = value if isinstance(value, list) else [value]
    return not any(isinstance(one, float) and one.is_integer() for one in inside)


@given(_values.filter(as_in_toml))
@example("٣ MiB")
@example("100.00000000000000000001 %")
@example("0.000 %")
@example("a/..")
@example("..\n")
def test_a_spelling_that_the_parser_takes_is_in_the_schema(value: object) -> None:
    for parse, written, whole in SPELLINGS:
        valid = Draft202012Validator(written.as_json(Bounds())).is_valid(value)
        try:
            parse(value)
        except ValueError:
            assert not (whole and valid), (parse.__name__, value)
        else:
            assert valid, (parse.__name__, value)


@given(st.integers(0, 1 << 20), st.sampled_from([*SIZE_UNITS]), st.sampled_from(["", ".5", ".25"]))
@example(64, "GiB", "")
@example(63, "KiB", "")
@example(63, "KiB", ".5")
@example(64, "GiB", ".5")
def test_a_size_in_words_has_the_bounds_that_it_has_in_bytes(
    number: int, unit: str, fraction: str
) -> None:
    least, most = 64 << 10, 64 << 30
    text = f"{number}{fraction} {unit}"
    valid = Draft202012Validator(SIZE.as_json(Bounds(least, most))).is_valid(text)
    if unit == "B" and fraction:
        assert not valid
        return
    bytes_ = parse_size(text)
    # A fraction is compared by the whole numbers that it lies between.
    rough = SIZE_UNITS[unit] if fraction else 0
    if least <= bytes_ <= most:
        assert valid
    elif not least - rough < bytes_ < most + rough or not fraction:
        assert not valid


@given(st.integers(0, 3000), st.integers(0, 3000), st.integers(0, 40_000))
def test_a_pattern_of_numbers_is_of_those_between_both_ends(a: int, b: int, number: int) -> None:
    least, most = min(a, b), max(a, b)
    assert bool(re.fullmatch(between(least, most), str(number))) == (least <= number <= most)
    assert bool(re.fullmatch(between(least), f"00{number}")) == (least <= number)


@pytest.mark.parametrize("rate", [1, 1500, 10**6, 2_500_000_000, 10**10])
def test_a_rate_and_a_pace_are_shown_as_a_file_writes_them(rate: int) -> None:
    assert parse_rate(show_rate(rate)) == rate
    assert parse_every(show_every(rate)) == rate


# --- what an editor shows -------------------------------------------------------------------------


def tables() -> list[tuple[str, dict[str, Any]]]:
    return [("Document", SCHEMA), *SCHEMA["$defs"].items()]


def test_no_table_takes_a_key_that_it_does_not_have() -> None:
    kinds = [
        shelf.find(name, Path()).options for _, shelf in SECTIONS.values() for name in shelf.names()
    ]
    below = [table for options in kinds for table in tables_in(options) if table is not options]
    known = {model.__name__ for model in (*tables_in(Document), *below)}
    assert {name for name, _ in tables()} == known
    parts = {common.__name__ for common, _ in SECTIONS.values()}
    for name, table in tables():
        assert (table["additionalProperties"] is False) != (name in parts), name


@pytest.mark.parametrize(
    ("table", "sound"),
    [
        ("[server]\nrescue = false\n", True),
        ('[server]\nkind = "netdump-bench"\nrescue = false\n', True),
        ('[server]\nkind = "mine.py:SERVER"\nwords = 3\n', True),
        ("[server]\nwords = 3\n", False),
        ('[server]\nkind = "netdump-bench"\nwords = 3\n', False),
        ('[server]\nkind = "netdump-bench"\npresent = 3\n', False),
        ('[machine]\ncrash = "nmi"\n', False),
        ('[machine]\nkind = "linux"\ncrash = "nmi"\n', True),
        ('[machine]\nkind = "linux"\nzero_pages = true\n', False),
        ('[machine]\nkind = "linus"\n', False),
    ],
)
def test_a_part_takes_the_keys_of_its_kind_and_no_other(table: str, sound: bool) -> None:
    document = tomllib.loads(HEAD + table + CASE)
    assert Draft202012Validator(SCHEMA).is_valid(document) == sound


def test_every_key_is_described_in_prose() -> None:
    bare = [
        f"{name}.{key}"
        for name, table in tables()
        for key, said in table["properties"].items()
        if not said.get("description") or "``" in said["description"]
    ]
    assert bare == []


def test_every_default_is_spelled_as_a_file_may_spell_it() -> None:
    shown = 0
    for _, table in tables():
        for said in table["properties"].values():
            if "default" in said:
                shown += 1
                check = Draft202012Validator({**said, "$defs": SCHEMA["$defs"]})
                assert check.is_valid(said["default"]), said
    assert shown > 20
    machine = SCHEMA["$defs"]["Machine"]["properties"]
    assert (machine["memory"]["default"], machine["arena"]["default"]) == ("16 MiB", "4 MiB")
    assert SCHEMA["$defs"]["Nic"]["properties"]["rate"]["default"] == "1 Gbit/s"


def test_toml_knows_no_null_and_neither_does_the_schema() -> None:
    assert '"null"' not in json.dumps(SCHEMA)


def test_the_command_prints_it_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["schema"]) == 0
    told = capsys.readouterr()
    assert json.loads(told.out) == SCHEMA
    assert told.out.endswith("}\n")
    assert told.err == ""


# --- a closed list stands once --------------------------------------------------------------------


def choices(table: str, key: str) -> list[str]:
    said = SCHEMA["$defs"][table]["properties"][key] if table else SCHEMA["properties"][key]
    while "enum" not in said:
        said = said["items"] if "items" in said else said["anyOf"][0]
    found: list[str] = said["enum"]
    return found


def test_the_choices_are_the_rows_of_the_tables_that_do_it() -> None:
    assert choices("", "tiers") == list(ROWS)
    assert choices("Case", "profile") == list(PROFILES)
    assert choices("Fault", "does") == list(ACTIONS)
    assert choices("Bystander", "sends") == list(TRICKS)
    assert choices("Expect", "oracle_broken") == list(ORACLES)
    assert set(choices("Expect", "outcome")) < set(OUTCOMES)
    assert choices("Expect", "otherwise") == choices("Expect", "outcome")


def test_lists_that_stand_twice_say_the_same() -> None:
    assert set(PROBES) == set(ROWS), "a tier is found out, and is played"
    assert set(get_args(LinuxOptions.model_fields["crash"].annotation)) == set(TRIGGERS), (
        "a guest is crashed by"
    )
    (mtu,) = [mark.le for mark in Nic.model_fields["mtu"].metadata if hasattr(mark, "le")]
    assert mtu + ETHERNET_HEADER == LONGEST_FRAME


def test_a_setting_of_an_action_is_a_key_of_a_fault_within_the_same_bounds() -> None:
    keys = SCHEMA["$defs"]["Fault"]["properties"]
    for name, fits in SETTINGS.items():
        assert (keys[name]["minimum"], keys[name]["maximum"]) == (fits.least, fits.most)
    assert {row.setting for row in ACTIONS.values() if row.setting} == set(SETTINGS)


def test_a_row_that_is_added_is_a_word_of_the_grammar() -> None:
    code = (
        "from dataclasses import replace\n"
        "from bench.wire import actions\n"
        "actions.ACTIONS['drip'] = replace(actions.ACTIONS['drop'], note='dripped')\n"
        "from bench.scenario import parse_scenario\n"
        "from bench.scenario.editor import json_schema\n"
        "assert 'drip' in json_schema()['$defs']['Fault']['properties']['does']['enum']\n"
        f"text = {HEAD + FAULT.replace('drop', 'drip') + 'index = 1' + chr(10) + CASE!r}\n"
        "assert parse_scenario(text, 'x', 'x').document.wire.fault[0].does == 'drip'\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=HANG_S)
