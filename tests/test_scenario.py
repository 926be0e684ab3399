"""Scenario files: what is right is read, and what is wrong is explained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.scenario import (
    ScenarioError,
    expand_cases,
    list_scenarios,
    load_scenario,
    only_profile,
    parse_scenario,
    with_values,
)
from bench.scenario.positions import Path as KeyPath
from bench.scenario.positions import index_positions
from bench.scenario.values import (
    Count,
    parse_chance,
    parse_count,
    parse_every,
    parse_ranges,
    parse_rate,
    parse_size,
    show_ranges,
    show_size,
)

HEAD = 'title = "A"\nwhy = "B"\n'
CASE = '[[case]]\nprofile = "netdump2"\nexpect = { outcome = "complete" }\n'


def problems(text: str) -> list[str]:
    with pytest.raises(ScenarioError) as caught:
        parse_scenario(text, "x", "x.toml")
    return caught.value.problems


# --- the stories that come with the bench ---------------------------------------------------------


def test_the_stories_are_there_and_read_well() -> None:
    names = list_scenarios()
    assert set(names) >= {
        "ack-alias-hole",
        "arp-gateway",
        "clean-dump",
        "lock-held-panic",
        "lossy-wire",
        "mbuf-starvation",
        "no-server",
        "panic-mid-transmit",
        "promisc-panic",
        "nmi-panic",
        "sysrq-panic",
        "oom-panic",
        "netconsole-panic",
        "takeover-live-rings",
        "qemu-dies-mid-dump",
        "guest-resets-mid-dump",
    }
    for name in names:
        scenario = load_scenario(name)
        assert scenario.name == name
        kinds = {case.machine.kind for case in expand_cases(scenario)}
        assert ("sim" in scenario.tiers) == ("synthetic" in kinds), "played without privileges"
        runs = expand_cases(scenario)
        assert len({run.name for run in runs}) == len(runs) > 0


def test_the_alias_story_expects_28_holes_of_46_and_none_where_somebody_helps() -> None:
    runs = expand_cases(load_scenario("ack-alias-hole"))
    assert len(runs) == 3 * 46
    stock, rescued, ours = runs[:46], runs[46:92], runs[92:]
    holes = [r.sweep_value for r in stock if r.expect.outcome == "silent-hole"]
    assert holes == [46 + k for k in (*range(14), *range(32, 46))]
    assert not stock[0].server_part.options.rescue
    assert rescued[0].server_part.options.rescue
    assert {r.expect.outcome for r in (*rescued, *ours)} == {"complete"}
    assert [r.wire.fault[0].index for r in stock] == [(46 + i,) for i in range(46)]


# --- defaults, overrides, sweeps ------------------------------------------------------------------


def test_a_short_file_plays_the_plain_story() -> None:
    (run,) = expand_cases(parse_scenario(HEAD + CASE, "x", "x.toml"))
    assert (run.machine.memory, run.machine.arena, run.machine.cpus) == (16 << 20, 4 << 20, 4)
    assert (run.nic.model, run.nic.mode, run.nic.rate) == ("e1000", "polled", 10**9)
    assert run.server.present
    assert not run.wire.fault
    assert run.machine_part.options.panic_at is None


def test_a_case_overrides_only_what_it_names() -> None:
    text = HEAD + (
        '[machine]\nmemory = "1 MiB"\ncpus = 2\n'
        '[[case]]\nprofile = "freebsd-14"\nmachine = { memory = "2 MiB" }\n'
        "server = { rescue = false }\n"
        'expect = { outcome = "complete" }\n' + CASE
    )
    first, second = expand_cases(parse_scenario(text, "x", "x.toml"))
    assert (first.machine.memory, first.machine.cpus) == (2 << 20, 2)
    assert (first.server_part.options.rescue, first.server_part.options.strict_finish) == (
        False,
        True,
    )
    assert (second.machine.memory, second.server_part.options.rescue) == (1 << 20, True)


def test_a_sweep_over_panic_steps_waits_for_the_runner_to_count_them() -> None:
    text = HEAD + (
        '[machine]\npanic_during = "transmit"\n'
        '[[case]]\nprofile = "netdump2"\nsweep = { over = "panic-step", values = "every" }\n'
        'expect = { outcome = "failed", at = "1..2", otherwise = "complete" }\n'
    )
    (case,) = expand_cases(parse_scenario(text, "x", "x.toml"))
    assert (case.sweep_over, case.sweep_value) == ("panic-step", None)
    runs = with_values(case, range(4))
    assert [run.machine_part.options.panic_at for run in runs] == [0, 1, 2, 3]
    assert [run.expect.outcome for run in runs] == ["complete", "failed", "failed", "complete"]
    assert runs[0].name == "netdump2-panic-step-000"
    assert {run.group for run in runs} == {"netdump2"}


def test_two_cases_of_one_profile_get_names_of_their_own() -> None:
    runs = expand_cases(parse_scenario(HEAD + CASE + CASE, "x", "x.toml"))
    assert [run.name for run in runs] == ["netdump2", "netdump2-2"]
    assert [run.group for run in runs] == ["netdump2", "netdump2 (2)"]


def test_one_profile_can_be_played_alone_and_an_absent_one_is_refused() -> None:
    scenario = load_scenario("clean-dump")
    assert [run.profile for run in expand_cases(only_profile(scenario, "patch-2010"))] == [
        "patch-2010"
    ]
    with pytest.raises(ScenarioError, match="no case for the profile"):
        only_profile(load_scenario("lossy-wire"), "patch-2010")


def test_what_is_expected_reads_like_a_sentence() -> None:
    scenario = load_scenario("promisc-panic")
    said = [str(run.expect) for run in expand_cases(scenario)]
    assert said[0] == "complete, 0 foreign frames accepted, refuses destination-mac"
    assert "more than 0 foreign frames accepted" in said[2]


# --- mistakes -------------------------------------------------------------------------------------


def test_every_mistake_is_told_with_file_line_key_and_the_nearest_right_spelling() -> None:
    text = (
        'title = "A"\n'
        'whhy = "B"\n'
        'tiers = ["tap", "simm"]\n'
        "[machine]\n"
        'memory = "16 MB"\n'
        'cpus = "4"\n'
        "[nic]\n"
        'mode = "pollled"\n'
        "[[wire.fault]]\n"
        'does = "dorp"\n'
        "chance = true\n"
        "[[case]]\n"
        'profile = "netdump3"\n'
        'expect = { outcome = "fine", at = "5..1" }\n'
    )
    told = "\n".join(problems(text))
    for line in (
        "x.toml:1: why: is missing, and has no default",
        'x.toml:2: whhy: unknown key; did you mean "why"?',
        "x.toml:3: tiers[2]: 'simm' is none of tap, qemu, sim; did you mean \"sim\"?",
        "x.toml:5: machine.memory: '16 MB' is not a size",
        "x.toml:6: machine.cpus: wants a whole number, not '4'",
        "x.toml:8: nic.mode: 'pollled' is none of polled, locked; did you mean \"polled\"?",
        "x.toml:10: wire.fault[1].does: 'dorp' is none of",
        "x.toml:11: wire.fault[1].chance: True is not a chance",
        "x.toml:13: case[1].profile: 'netdump3' is none of patch-2010, freebsd-14, netdump2",
        "x.toml:14: case[1].expect.at: the range 5..1 runs backwards",
    ):
        assert line in told


def test_mistakes_come_in_the_order_of_lines() -> None:
    told = problems(HEAD + "[nic]\nrate = 5\nmode = 5\n[machine]\ncpus = 0\n" + CASE)
    assert [int(line.split(":")[1]) for line in told] == [4, 5, 7]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a = ", "x.toml:1: at its end: not TOML: Invalid value"),
        ("a = 1\nb == 2\n", "x.toml:2:4: not TOML: Invalid value"),
        ("a = 1\na = 2\n", "x.toml:2:6: not TOML: Cannot overwrite a value"),
    ],
)
def test_broken_toml_is_told_with_its_place(text: str, says: str) -> None:
    assert problems(text) == [says]


IMPOSSIBLE: list[tuple[str, str, str]] = [
    ("chance and index", '[[wire.fault]]\ndoes = "drop"\n' + CASE, "exactly one of chance and"),
    (
        "an ack to the server",
        '[[wire.fault]]\ndoes = "drop"\nkind = "ack"\ndirection = "to-server"\nindex = 0\n' + CASE,
        "no ack frame ever travels to-server",
    ),
    (
        "a HERALD to the client",
        '[[wire.fault]]\ndoes = "drop"\nkind = "herald"\ndirection = "to-client"\nindex = 0\n'
        + CASE,
        "no herald frame ever travels to-client",
    ),
    (
        "a delay without a time",
        '[[wire.fault]]\ndoes = "delay"\nindex = 0\n' + CASE,
        "x.toml:3: wire.fault[1]: delay needs delay_us",
    ),
    (
        "a delayed loss",
        '[[wire.fault]]\ndoes = "drop"\nindex = 0\ndelay_us = 5\n' + CASE,
        "x.toml:6: wire.fault[1].delay_us: is for delay: drop has no use for it",
    ),
    (
        "overtaken by a delay",
        '[[wire.fault]]\ndoes = "delay"\nindex = 0\ndelay_us = 5\nby_frames = 1\n' + CASE,
        "x.toml:7: wire.fault[1].by_frames: is for reorder: delay has no use for it",
    ),
    (
        "half a duplicate",
        '[[wire.fault]]\ndoes = "duplicate"\nindex = 0\nlength = 60\n' + CASE,
        "x.toml:6: wire.fault[1].length: is for truncate: duplicate has no use for it",
    ),
    (
        "a cut behind the end",
        '[[wire.fault]]\ndoes = "truncate"\nindex = 0\nlength = 1514\n' + CASE,
        "x.toml:6: wire.fault[1].length: cuts nothing: at this nic.mtu no frame is longer",
    ),
    (
        "a cut behind the end of one case's frames",
        CASE + 'wire = { fault = [ { does = "truncate", index = 0, length = 1000 } ] }\n'
        "nic = { mtu = 900 }\n",
        "x.toml:6: case[1].wire.fault[1].length: cuts nothing: at this nic.mtu no frame is longer",
    ),
    ("a CPU too far", "[machine]\ncpus = 2\npanic_cpu = 2\n" + CASE, "no such CPU"),
    (
        "selective acks for a stock client",
        CASE.replace("netdump2", "freebsd-14") + "client = { selective_acks = true }\n",
        "the stock clients' bitmap can't take them",
    ),
    ("steps of idleness", "[machine]\npanic_at = 3\n" + CASE, "a machine at idle has no steps"),
    (
        "no work to panic in",
        '[machine]\nload = "none"\npanic_during = "transmit"\n' + CASE,
        "there is no such work",
    ),
    (
        "success without a server",
        "[server]\npresent = false\n" + CASE,
        "there is no server, so no dump is claimed",
    ),
    (
        "a sweep with nothing to lose",
        CASE + 'sweep = { over = "lost-frame", values = "0..3" }\n',
        "there is no frame to lose",
    ),
    (
        "a sweep that loses by chance",
        '[[wire.fault]]\ndoes = "drop"\nchance = "1 %"\n'
        + CASE
        + 'sweep = { over = "lost-frame", values = "0..3" }\n',
        "that must drop by index",
    ),
    (
        "a sweep of idleness",
        CASE + 'sweep = { over = "panic-step", values = "every" }\n',
        "a sweep over panic steps needs work",
    ),
    (
        "at without a sweep",
        CASE.replace("}", ', at = "3", otherwise = "failed" }'),
        "at needs a sweep",
    ),
    ("at alone", CASE.replace("}", ', at = "3" }'), "at and otherwise come together"),
    ("an error of success", CASE.replace("}", ', error = "EIO" }'), "reports no error"),
    ("no expectation", CASE.replace('outcome = "complete"', ""), "expects nothing"),
]


@pytest.mark.parametrize(("text", "says"), [row[1:] for row in IMPOSSIBLE])
def test_keys_that_are_impossible_together_are_refused(text: str, says: str) -> None:
    told = problems(HEAD + text)
    assert any(says in line for line in told), told


def test_an_override_that_is_impossible_is_blamed_on_its_case() -> None:
    text = HEAD + "[machine]\ncpus = 2\n" + CASE + "machine = { panic_cpu = 4 }\n"
    assert problems(text) == [
        "x.toml:8: case[1].machine.panic_cpu: no such CPU: they are numbered from 0"
        " and machine.cpus counts them"
    ]


def test_an_unknown_name_brings_the_nearest_one() -> None:
    with pytest.raises(ScenarioError, match='"promsc-panic"; did you mean "promisc-panic"'):
        load_scenario("promsc-panic")


def test_a_file_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match=r"nowhere\.toml: No such file"):
        load_scenario(tmp_path / "nowhere.toml")
    (tmp_path / "latin.toml").write_bytes(b'title = "A"\nwhy = "\xe9"\n')
    with pytest.raises(ScenarioError, match=r"latin\.toml:2: not UTF-8"):
        load_scenario(tmp_path / "latin.toml")


def test_a_scenario_can_be_any_toml_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(HEAD + CASE)
    scenario = load_scenario(str(path))
    assert (scenario.name, scenario.text) == ("mine", HEAD + CASE)


# --- units ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parse", "written", "means"),
    [
        (parse_size, "16 MiB", 16 << 20),
        (parse_size, "1.5KiB", 1536),
        (parse_size, 4096, 4096),
        (parse_rate, "1 Gbit/s", 10**9),
        (parse_rate, "2.5 Gbit/s", 2_500_000_000),
        (parse_chance, "1 %", 0.01),
        (parse_chance, 0.25, 0.25),
        (parse_chance, 1, 1.0),
        (parse_every, "3 frames", 3),
        (parse_every, "1 frame", 1),
        (parse_ranges, "0..2, 7", (0, 1, 2, 7)),
        (parse_ranges, 5, (5,)),
        (parse_ranges, [7, 5, 5], (5, 7)),
        (parse_count, 0, Count(0)),
        (parse_count, ">0", Count(0, more=True)),
    ],
)
def test_units_mean_what_they_say(parse: Any, written: object, means: object) -> None:
    assert parse(written) == means


@pytest.mark.parametrize(
    ("parse", "written"),
    [
        (parse_size, "16 MB"),
        (parse_size, "0.3 B"),
        (parse_size, True),
        (parse_size, -1),
        (parse_rate, "0 bit/s"),
        (parse_rate, 10),
        (parse_chance, "101 %"),
        (parse_chance, 0),
        (parse_chance, "nan"),
        (parse_every, 3),
        (parse_every, "0 frames"),
        (parse_ranges, "3..1"),
        (parse_ranges, []),
        (parse_ranges, "0..99999999999"),
        (parse_ranges, 1.5),
        (parse_count, "<3"),
        (parse_count, True),
    ],
)
def test_bad_units_are_refused(parse: Any, written: object) -> None:
    with pytest.raises(ValueError, match=r"is not a|more than|backwards|stands for"):
        parse(written)


@given(st.sets(st.integers(0, 300), min_size=1))
def test_ranges_survive_being_written_and_read(numbers: set[int]) -> None:
    assert parse_ranges(show_ranges(numbers)) == tuple(sorted(numbers))


@given(st.integers(0, 1 << 40))
def test_sizes_are_shown_within_a_decimal(count: int) -> None:
    number, unit = show_size(count).split()
    factor = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}[unit]
    assert abs(float(number) * factor - count) <= 0.051 * factor


# --- positions ------------------------------------------------------------------------------------


def test_positions_know_the_line_of_every_key() -> None:
    text = (
        "# a comment with [brackets] and = signs\n"
        'a = """\n'
        "b = 1 # no key\n"
        '"""\n'
        "c.d = [1, # one\n"
        "  2,\n"
        "]\n"
        "[t]\n"
        "'quoted key' = { x = 1, y = [ { z = '}' } ] }\n"
        "[[t.list]]\n"
        "k = 2020-01-01\n"
        "[[t.list]]\n"
        "k = 1\n"
        "[t.list.sub]\n"
        "s = -1e5\n"
    )
    lines = index_positions(text).lines
    expected: dict[KeyPath, int] = {
        ("a",): 2,
        ("c", "d"): 5,
        ("c", "d", 1): 6,
        ("t",): 8,
        ("t", "quoted key", "x"): 9,
        ("t", "quoted key", "y", 0, "z"): 9,
        ("t", "list", 0, "k"): 11,
        ("t", "list", 1, "k"): 13,
        ("t", "list", 1, "sub", "s"): 15,
    }
    assert {path: lines.get(path) for path in expected} == expected
    assert ("b",) not in lines


_values = st.recursive(
    st.one_of(st.integers(), st.booleans(), st.text(max_size=8), st.floats(allow_nan=False)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.from_regex(r"[a-z]{1,4}", fullmatch=True), inner, max_size=3),
    ),
    max_leaves=6,
)


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str):
        safe = "".join(
            f"\\U{ord(c):08x}" if c in '"\\' or not c.isprintable() else c for c in value
        )
        return f'"{safe}"'
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    assert isinstance(value, dict)
    return "{ " + ", ".join(f"{key} = {_toml(v)}" for key, v in value.items()) + " }"


@settings(max_examples=100)
@given(st.dictionaries(st.sampled_from(["title", "why", "case", "nic", "wire", "zzz"]), _values))
def test_whatever_a_file_says_it_is_read_or_refused_with_lines(document: dict[str, Any]) -> None:
    text = "".join(f"{key} = {_toml(value)}\n" for key, value in document.items())
    told = problems(text)  # none of these is a whole scenario
    assert told
    assert all(line.startswith("x.toml:") for line in told)
