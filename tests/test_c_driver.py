"""A driver of C: it plays as ours do, and each of its defects is named. Built here, with cc."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from bench.drivers.child import _Driver, _Kernel
from bench.drivers.symbols import NotElf, read_symbols
from bench.errors import BadInput
from bench.nic_check.checks import CHECKS
from bench.nic_check.command import check_one, subject_of
from bench.scenario import load_scenario
from tests.foreign import C_DRIVER, ROOT, Build, assert_all_met, c_builder, made, play, with_nic
from tests.patience import HANG_S
from tests.qemu_rig import wait_until_gone

POLLED = C_DRIVER / "e1000_polled.c"
LIVING = ROOT / "tests" / "c" / "living.c"

TIERS = [
    pytest.param("sim", marks=pytest.mark.sim),
    pytest.param("tap", marks=pytest.mark.tap),
    pytest.param("qemu", marks=pytest.mark.qemu),
]

HOLLOW = ROOT / "tests" / "c" / "hollow.c"

#: What it does where a test says nothing else.
PLAIN = {
    "INIT": "0",
    "TRANSMIT": "return count",
    "POLL": "",
    "VERSION": "NB_VERSION",
    "SIZE": "sizeof(struct nb_driver)",
    "WHICH_POLL": "poll_",
    "WHICH_SEND": "0",
}


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    return c_builder(tmp_path_factory.mktemp("c"))


def hollow(build: Build, **parts: str) -> Path:
    return build(HOLLOW, *(f"-D{name}={value}" for name, value in (PLAIN | parts).items()))


# --- it plays -------------------------------------------------------------------------------------


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("name", ["clean-dump", "lossy-wire"])
def test_the_right_driver_passes(tmp_path: Path, build: Build, name: str, tier: str) -> None:
    scenario = with_nic(load_scenario(name), driver=str(build(POLLED)))
    assert_all_met(play(scenario, tmp_path, tier))


@pytest.mark.sim
def test_a_run_on_sim_is_a_pure_function_of_scenario_and_seed(tmp_path: Path, build: Build) -> None:
    scenario = made(tmp_path, f'driver = "{build(POLLED)}"', machine='load = "heavy"')
    for folder in ("a", "b"):
        assert_all_met(play(scenario, tmp_path / folder))
    for name in ("events.jsonl", "wire.pcapng"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


@pytest.mark.sim
@pytest.mark.parametrize("source", [POLLED, LIVING])
@pytest.mark.parametrize("check", CHECKS)
def test_it_keeps_the_contract(build: Build, check: str, source: Path) -> None:
    library = build(source, "-DCHATTY") if source is LIVING else build(source)
    finding = check_one(subject_of("e1000", str(library), Path()), check)
    assert finding.ok, finding.broken


@pytest.mark.sim
def test_a_panic_strikes_in_the_midst_of_its_ordinary_life(tmp_path: Path, build: Build) -> None:
    machine = 'panic_during = "transmit"\npanic_at = "arm TX descriptor"'
    scenario = made(tmp_path, f'driver = "{build(LIVING)}"', machine=machine)
    (case,) = play(scenario, tmp_path / "run")
    assert case.met, case.unmet
    assert any("'arm TX descriptor'" in note for note in case.notes)
    assert case.panic_context is not None
    assert case.panic_context.locks_held_by_stopped_cpus > 0


@pytest.mark.sim
def test_a_stopped_cpus_lock_is_a_deadlock_and_who_wants_it_is_named(
    tmp_path: Path, build: Build
) -> None:
    machine = 'panic_during = "transmit"\npanic_at = "arm TX descriptor"'
    scenario = made(tmp_path, f'driver = "{build(LIVING)}"\nmode = "locked"', machine=machine)
    (case,) = play(scenario, tmp_path / "run")
    assert case.outcome == "deadlock"
    assert "em0:tx, held by stopped CPU" in case.oracle_reasons["panic-hygiene"]
    assert "(enter+" in case.oracle_reasons["panic-hygiene"] or "(em_event+" in str(case.violations)


@pytest.mark.sim
def test_it_leaves_no_process_behind(tmp_path: Path, build: Build) -> None:
    scenario = made(tmp_path, f'driver = "{build(POLLED)}"')
    assert_all_met(play(scenario, tmp_path / "run"))
    own = f"/proc/{os.getpid()}/task/{os.getpid()}/children"
    children = Path(own).read_text().split()
    commands = [Path(f"/proc/{child}/cmdline").read_bytes() for child in children]
    assert not [command for command in commands if b"bench.drivers.child" in command]


@pytest.mark.sim
@pytest.mark.parametrize("then", ["", "_exit(3)", "abort()", "for (;;)"])
def test_what_it_forks_ends_with_it(tmp_path: Path, build: Build, then: str) -> None:
    """Its parent prints the child's number; the child would stay for ever."""
    poll = (
        "static int n; if (n++) return; int p = fork(); while (!p) pause();"
        f' printf("%d ", p); {then}'
    )
    play(made(tmp_path, f'driver = "{hollow(build, POLL=poll)}"'), tmp_path / "run")
    (child,) = (tmp_path / "run" / "driver.log").read_text().split()
    assert wait_until_gone(int(child), HANG_S)


# --- its defects ----------------------------------------------------------------------------------


@pytest.mark.sim
@pytest.mark.parametrize("profile", ["netdump2", "freebsd-14"])
@pytest.mark.parametrize(
    ("defect", "outcome", "oracle", "told"),
    [
        ("WAIT_FOR_INTERRUPT", "complete", "panic-hygiene", r"interrupt: .*\(em_transmit\+"),
        ("STRAY_STORE", None, "panic-hygiene", r"store-outside-arena: .* 0x5000 \(em_poll\+"),
        (
            "WILD_STORE",
            "driver-crashed",
            "panic-hygiene",
            r"SIGSEGV at address 0xdead0000 in its poll: em_poll\+",
        ),
        ("HANG", "hung", "liveness", r"em_transmit \(.*\) does not come back, in em_transmit\+"),
        ("FORGET_RECLAIM", "failed", "panic-hygiene", r"never-reclaimed: .*\(em_transmit \("),
    ],
)
def test_a_defect_is_named(
    tmp_path: Path,
    build: Build,
    profile: str,
    defect: str,
    outcome: str | None,
    oracle: str,
    told: str,
) -> None:
    library = build(POLLED, f"-D{defect}")
    scenario = made(tmp_path, f'driver = "{library}"', profile=profile, memory="4 MiB")
    (case,) = play(scenario, tmp_path / "run")
    assert outcome in (None, case.outcome)
    assert case.oracles[oracle] == "broken"
    assert re.search(told, case.oracle_reasons[oracle]), case.oracle_reasons


@pytest.mark.parametrize("tier", TIERS[1:])
@pytest.mark.parametrize(
    ("defect", "says"),
    [("WILD_STORE", "SIGSEGV at address 0xdead0000"), ("STRAY_STORE", "store-outside-arena")],
)
def test_a_defect_is_named_on_real_tiers_too(
    tmp_path: Path, build: Build, tier: str, defect: str, says: str
) -> None:
    library = build(POLLED, f"-D{defect}")
    scenario = made(tmp_path, f'driver = "{library}"')
    (case,) = play(scenario, tmp_path / "run", tier)
    assert says in case.oracle_reasons["panic-hygiene"]
    assert "em_poll+" in case.oracle_reasons["panic-hygiene"]


@pytest.mark.sim
def test_without_symbols_an_offset_is_told(tmp_path: Path, build: Build) -> None:
    library = build(POLLED, "-DWILD_STORE", "-s", "-fvisibility=hidden")
    exported = build(POLLED, "-DWILD_STORE", "-s")
    (case,) = play(made(tmp_path, f'driver = "{exported}"'), tmp_path / "run")
    assert f"in its poll: {exported.name}+0x" in case.why
    with pytest.raises(BadInput, match="exports no netdump_bench_driver"):
        play(made(tmp_path, f'driver = "{library}"'), tmp_path / "hidden")


@pytest.mark.sim
@pytest.mark.parametrize(
    ("parts", "told"),
    [
        ({"POLL": "abort()"}, r"SIGABRT in its poll: poll_\+"),
        ({"POLL": "exit(3)"}, r"the library called exit\(3\) in its poll: poll_\+"),
        ({"POLL": "_exit(4)"}, r"exit status 4 in its poll"),
        (
            {"POLL": 'puts("I am lost"); raise(SIGILL)'},
            r"SIGILL in its poll: poll_.*printed: I am lost",
        ),
        ({"POLL": "kill(getpid(), SIGKILL)"}, r"SIGKILL in its poll"),
        ({"TRANSMIT": "return count + 1"}, r"transmit \(.*\): it says that it took 2 frames of 1"),
        (
            {"POLL": "for (int i = 0; i < 2000; i++) k->receive(k->ctx, k->memory, 60)"},
            r"poll_ \(.*\): it handed 2000 frames up, and its budget was 1000",
        ),
        ({"POLL": "k->mbuf_give(k->ctx, NB_SENT, 9999)"}, r"9999 buffers given back.*\(poll_"),
        ({"POLL": "k->mbuf_give(k->ctx, 7, 1)"}, r"no zone of buffers 7 \(poll_"),
        ({"POLL": 'k->unlock(k->ctx, "x")'}, r"releases x, which is free \(poll_"),
        ({"POLL": "k->read8(k->ctx, 0)"}, r"a read of 8 bits at 0x0.*\(poll_"),
    ],
)
def test_how_it_dies_is_told(
    tmp_path: Path, build: Build, parts: dict[str, str], told: str
) -> None:
    library = hollow(build, **parts)
    (case,) = play(made(tmp_path, f'driver = "{library}"'), tmp_path / "run")
    assert case.outcome == "driver-crashed"
    assert re.search(told, case.why), case.why


@pytest.mark.sim
@pytest.mark.parametrize(
    ("parts", "told"),
    [
        ({"POLL": "for (;;) k->read32(k->ctx, 8)"}, r"poll_ .*200,000 callbacks, .*poll_\+"),
        ({"POLL": "for (;;) k->delay(k->ctx, 100000)"}, r"budget of 3600 s is used up"),
    ],
)
def test_a_loop_of_callbacks_ends(
    tmp_path: Path, build: Build, parts: dict[str, str], told: str
) -> None:
    library = hollow(build, **parts)
    (case,) = play(made(tmp_path, f'driver = "{library}"'), tmp_path / "run")
    assert case.outcome == "hung"
    assert case.oracles["liveness"] == "broken"
    assert re.search(told, case.why), case.why


@pytest.mark.sim
@pytest.mark.parametrize(
    ("parts", "told"),
    [
        ({"VERSION": "7"}, "version 7 of netdump_bench.h, and this bench has version 1"),
        ({"SIZE": "8"}, "its struct nb_driver has 8 bytes"),
        ({"WHICH_POLL": "0"}, "lacks poll"),
        ({"WHICH_SEND": "transmit"}, "it has send: attach, send and interrupt come together"),
    ],
)
def test_a_library_that_is_none_is_one_line(
    tmp_path: Path, build: Build, parts: dict[str, str], told: str
) -> None:
    library = hollow(build, **parts)
    with pytest.raises(BadInput, match=told) as refused:
        play(made(tmp_path, f'driver = "{library}"'), tmp_path / "run")
    assert "\n" not in str(refused.value)


@pytest.mark.sim
def test_an_init_that_fails_ends_the_run_with_its_errno(tmp_path: Path, build: Build) -> None:
    library = hollow(build, INIT="12")
    (case,) = play(made(tmp_path, f'driver = "{library}"'), tmp_path / "run")
    assert case.outcome == "driver-crashed"
    assert "init (" in case.why
    assert "Cannot allocate memory (12)" in case.why


def test_what_is_no_library_is_refused(tmp_path: Path) -> None:
    text = tmp_path / "text.so"
    text.write_text("not a library")
    with pytest.raises(NotElf):
        read_symbols(text)
    with pytest.raises(BadInput, match=r"text\.so is no shared library"):
        play(made(tmp_path, 'driver = "text.so"'), tmp_path / "run")


def test_a_library_that_is_not_there_is_told_with_file_line_and_key(tmp_path: Path) -> None:
    says = r"made\.toml:9: nic\.driver: .*none\.so: no such file; build it first"
    with pytest.raises(BadInput, match=says):
        made(tmp_path, 'driver = "none.so"')


# --- the interface --------------------------------------------------------------------------------


def test_the_example_compiles_without_a_warning(tmp_path: Path, build: Build) -> None:
    build(POLLED)  # skips where there is no compiler
    command = ["cc", "-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-fsyntax-only"]
    done = subprocess.run([*command, POLLED], capture_output=True, text=True, timeout=HANG_S)
    assert (done.returncode, done.stderr) == (0, "")


def test_both_sides_of_the_interface_have_the_same_layout(tmp_path: Path, build: Build) -> None:
    """The structs of C, and those of ctypes: member by member."""
    build(POLLED)  # skips where there is no compiler
    layouts = {"nb_kernel": _Kernel, "nb_driver": _Driver}
    members = [(struct, field[0]) for struct in layouts for field in layouts[struct]._fields_]
    prints = "".join(
        f'printf("%zu\\n", offsetof(struct {struct}, {name}));\n' for struct, name in members
    )
    head = '#include "netdump_bench.h"\n#include <stdio.h>\n'
    source, program = tmp_path / "layout.c", tmp_path / "layout"
    source.write_text(f"{head}int main(void) {{\n{prints}}}\n")
    command = ["cc", f"-I{C_DRIVER}", "-o", str(program), str(source)]
    subprocess.run(command, check=True, timeout=HANG_S)
    told = subprocess.run([program], check=True, capture_output=True, text=True, timeout=HANG_S)
    expected = [getattr(layouts[struct], name).offset for struct, name in members]
    assert list(map(int, told.stdout.split())) == expected


@pytest.mark.sim
def test_a_crash_while_it_is_loaded_is_told(tmp_path: Path, build: Build) -> None:
    source = tmp_path / "eager.c"
    source.write_text(
        "__attribute__((constructor)) static void boom(void) { *(volatile int *)8 = 1; }\n"
    )
    (case,) = play(made(tmp_path, f'driver = "{build(source)}"'), tmp_path / "run")
    assert case.outcome == "driver-crashed"
    assert "SIGSEGV" in case.why
