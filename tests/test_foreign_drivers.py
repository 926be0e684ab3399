"""Drivers and cards of somebody's own file: they play, and what is wrong with them is told."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest

from bench import cli
from bench.errors import BadInput
from bench.parts import load_part
from bench.scenario import load_scenario
from tests.foreign import EXAMPLES, PIO, assert_all_met, made, play, with_memory, with_nic

TIERS = [
    pytest.param("sim", marks=pytest.mark.sim),
    pytest.param("tap", marks=pytest.mark.tap),
]
DRIVERS = EXAMPLES / "drivers"


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("name", ["clean-dump", "lossy-wire"])
def test_a_card_without_dma_passes(tmp_path: Path, name: str, tier: str) -> None:
    """On a small machine: each word of a frame is an access to a register."""
    small = with_memory(load_scenario(name), 1 << 20)
    assert_all_met(play(with_nic(small, model=PIO), tmp_path, tier))


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("file", ["pio-nic/pio-nic.toml", "drivers/wrong-drivers.toml"])
def test_the_examples_come_to_what_they_say(tmp_path: Path, file: str, tier: str) -> None:
    assert_all_met(play(load_scenario(EXAMPLES / file), tmp_path, tier))


@pytest.mark.qemu
def test_a_foreign_driver_drives_qemus_card_too(tmp_path: Path) -> None:
    driver = f"{DRIVERS}/waits_for_interrupt.py:WaitsForInterrupt"
    (case,) = play(made(tmp_path, f'driver = "{driver}"'), tmp_path / "run", "qemu")
    assert case.outcome == "complete"
    assert "waits_for_interrupt.py" in case.oracle_reasons["panic-hygiene"]


@pytest.mark.sim
@pytest.mark.parametrize("profile", ["netdump2", "freebsd-14"])
@pytest.mark.parametrize(
    ("driver", "rule"),
    [
        ("waits_for_interrupt.py:WaitsForInterrupt", "interrupt: "),
        ("forgets_to_reclaim.py:ForgetsToReclaim", "never-reclaimed: "),
    ],
)
def test_each_wrong_driver_is_named_with_its_rule_and_line(
    tmp_path: Path, driver: str, rule: str, profile: str
) -> None:
    text = f'driver = "{DRIVERS}/{driver}"'
    (case,) = play(made(tmp_path, text, profile=profile, memory="4 MiB"), tmp_path / "run")
    told = case.oracle_reasons["panic-hygiene"]
    file = driver.partition(":")[0]
    line = next(
        number
        for number, source in enumerate((DRIVERS / file).read_text().splitlines(), 1)
        if ("wait_interrupt(" if "waits" in file else "def transmit") in source
    )
    assert told.startswith(rule)
    assert f"examples/drivers/{file}:{line} transmit" in told


@pytest.mark.sim
def test_our_own_driver_is_not_accused_with_a_full_ring(tmp_path: Path) -> None:
    scenario = made(tmp_path, "tx_ring = 16", profile="netdump2")
    (case,) = play(scenario, tmp_path / "run")
    assert_all_met([case])
    assert not case.violations


# --- what is wrong with a driver ------------------------------------------------------------------

HEAD = "from nic_models.e1000.driver import E1000Driver\n"


def wrong(tmp_path: Path, body: str) -> str:
    """[nic] driver = a class of that body."""
    (tmp_path / "wrong.py").write_text(f"{HEAD}class Wrong(E1000Driver):\n{body}\n")
    return 'driver = "wrong.py:Wrong"'


@pytest.mark.sim
@pytest.mark.parametrize(
    ("body", "told"),
    [
        (
            "    def poll(self, budget):\n        return [][1]",
            "in its poll: IndexError: list index out of range ({file}:4 poll)",
        ),
        (
            "    def event(self, what):\n        self._softc.mmio.read8(0)",
            "a read of 8 bits at 0x0: registers are of 32 bits here ({file}:4 event)",
        ),
        (
            "    def transmit(self, batch):\n        self.tx_zone.give(99999)",
            "99999 buffers given back to the panic pool",
        ),
        (
            "    def poll(self, budget):\n        return []",
            "poll gives list, and should give Frames",
        ),
        (
            "    def poll(self, budget):\n        raise SystemExit(0)",
            "in its poll: SystemExit: 0 ({file}:4 poll)",
        ),
        ("    def transmit(self, batch):\n        return -1", "it took -1 frames of 1"),
        ("    mac = 'em0'", "mac is 'em0', and should be 6 bytes"),
    ],
)
def test_a_driver_that_raises_has_crashed(tmp_path: Path, body: str, told: str) -> None:
    (case,) = play(made(tmp_path, wrong(tmp_path, body)), tmp_path / "run")
    assert case.outcome == "driver-crashed"
    assert told.format(file=tmp_path / "wrong.py") in case.why
    assert case.oracles["panic-hygiene"] == "broken"


@pytest.mark.sim
@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("    def attach(self):\n        1 / 0", "in its attach: ZeroDivisionError"),
        (
            "    def __init__(self, *a, **k):\n        raise ValueError('no')",
            "__init__: ValueError",
        ),
        ("    def __new__(cls, *a, **k):\n        return 7", "is no Driver: it has no mac, mtu"),
    ],
)
def test_one_that_fails_before_the_panic_ends_its_run_alone(
    tmp_path: Path, body: str, told: str
) -> None:
    (case,) = play(made(tmp_path, wrong(tmp_path, body)), tmp_path / "run")
    assert case.outcome == "driver-crashed"
    assert "In ordinary life, before the panic" in case.why
    assert told in case.why
    assert not case.met


@pytest.mark.sim
@pytest.mark.parametrize(
    ("body", "told"),
    [
        (
            "    def poll(self, budget):\n        while True: pass",
            "its poll does not come back, in {file}:4 poll: 5 s of CPU without a callback",
        ),
        (
            "    def attach(self):\n"
            "        while True:\n"
            "            try: sum(range(9))\n"
            "            except Exception: pass",
            "its attach does not come back, in {file}:",
        ),
        (
            "    def __init__(self, mmio, *rest, **named):\n        self._mmio = mmio\n"
            "        super().__init__(mmio, *rest, **named)\n"
            "    def transmit(self, batch):\n"
            "        while True: self._mmio.read32(8)",
            "its transmit does not come back: 200,000 callbacks",
        ),
    ],
)
def test_a_driver_that_does_not_come_back_hangs(tmp_path: Path, body: str, told: str) -> None:
    (case,) = play(made(tmp_path, wrong(tmp_path, body)), tmp_path / "run")
    assert case.outcome == "hung"
    assert told.format(file=tmp_path / "wrong.py") in case.why
    assert case.oracles["liveness"] == "broken"


@pytest.mark.sim
def test_one_that_sleeps_for_ever_hangs_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.watchdog.TURNS", 8)
    body = "    def poll(self, budget):\n        import time; time.sleep(10**6)"
    (case,) = play(made(tmp_path, wrong(tmp_path, body)), tmp_path / "run")
    assert case.outcome == "hung"
    assert "wrong.py:4 poll: no callback in 2 s" in case.why


@pytest.mark.sim
def test_a_card_that_does_not_come_back_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "card.py").write_text(
        "from dataclasses import replace\n"
        "from nic_models.e1000.device import E1000Device\n"
        "from nic_models.e1000.family import E1000\n"
        "class Card(E1000Device):\n"
        "    def transmit(self, now_ns):\n        while True: pass\n"
        "CARD = replace(E1000, silicon=Card)\n"
    )
    with pytest.raises(BadInput, match=r"CARD: its transmit does not come back, in .*card\.py:6 "):
        play(made(tmp_path, 'model = "card.py:CARD"'), tmp_path / "run")


@pytest.mark.sim
def test_ctrl_c_in_a_driver_ends_the_bench(tmp_path: Path) -> None:
    body = "    def poll(self, budget):\n        raise KeyboardInterrupt"
    with pytest.raises(KeyboardInterrupt):
        play(made(tmp_path, wrong(tmp_path, body)), tmp_path / "run")


@pytest.mark.sim
def test_a_case_may_expect_a_crash(tmp_path: Path) -> None:
    scenario = made(tmp_path, wrong(tmp_path, "    def poll(self, budget):\n        return [][1]"))
    text = scenario.text.replace('"complete"', '"driver-crashed"')
    (tmp_path / "expects.toml").write_text(text)
    assert_all_met(play(load_scenario(tmp_path / "expects.toml"), tmp_path / "run"))


@pytest.mark.sim
@pytest.mark.parametrize(
    ("raised", "told"), [("KeyError(now_ns)", "KeyError: .*"), ("SystemExit(0)", "SystemExit: 0 ")]
)
def test_a_card_that_raises_is_one_line(tmp_path: Path, raised: str, told: str) -> None:
    (tmp_path / "card.py").write_text(
        "from dataclasses import replace\n"
        "from nic_models.e1000.device import E1000Device\n"
        "from nic_models.e1000.family import E1000\n"
        "class Card(E1000Device):\n"
        "    def transmit(self, now_ns): "
        f"raise {raised}\n"
        "CARD = replace(E1000, silicon=Card)\n"
    )
    with pytest.raises(BadInput, match=rf"card\.py:CARD: {told}.*card\.py:5 transmit\)"):
        play(made(tmp_path, 'model = "card.py:CARD"'), tmp_path / "run")


# --- what can't be loaded -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("nic", "says"),
    [
        ('model = "none.py:X"', r"nic\.model: .*none\.py: no such file"),
        ('model = "part.py:PARD"', r'nic\.model: .*has no PARD; did you mean "PART"\?'),
        ('model = "part.py:PART"', r"nic\.model: it is a int, where a family of NICs has to be"),
        ('model = "syntax.py:X"', r"nic\.model: .*syntax\.py: line 2: SyntaxError"),
        ('driver = "raises.py:X"', r"nic\.driver: .*raises\.py: line 3: KeyError: 'seven'"),
        ('driver = "leaves.py:X"', r"nic\.driver: .*leaves\.py: line 1: SystemExit: 4"),
        ('driver = "part.py:PART"', r"nic\.driver: .*is no driver: it is a int"),
        ('driver = "e1000"', r"nic\.driver: .*write FILE\.py:CLASS, or a shared library FILE\.so"),
        ('driver = "none.so"', r"nic\.driver: .*none\.so: no such file"),
    ],
)
def test_what_can_t_be_loaded_is_told_with_file_line_and_key(
    tmp_path: Path, nic: str, says: str
) -> None:
    (tmp_path / "part.py").write_text("PART = 7\n")
    (tmp_path / "syntax.py").write_text("X = 1\nX = = 2\n")
    (tmp_path / "raises.py").write_text("def f():\n    pass\nX = {}['seven']\n")
    (tmp_path / "leaves.py").write_text("raise SystemExit(4)\n")
    with pytest.raises(BadInput, match=says) as refused:
        made(tmp_path, nic)
    assert str(refused.value).count("\n") == 0


def test_a_part_finds_the_files_beside_it(tmp_path: Path) -> None:
    (tmp_path / "beside_it.py").write_text("VALUE = int\n")
    (tmp_path / "two_files.py").write_text("from beside_it import VALUE\n")
    assert load_part("two_files.py:VALUE", tmp_path, "driver") is int


def test_two_folders_may_have_files_of_the_same_name(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder / "inner").mkdir(parents=True)
        (tmp_path / folder / "common.py").write_text(
            f"import late\ndef early(): return '{folder}', late.LATE\n"
        )
        (tmp_path / folder / "late.py").write_text(f"LATE = '{folder} later'\n")
        (tmp_path / folder / "inner" / "deep.py").write_text(f"DEEP = '{folder} deep'\n")
        (tmp_path / folder / "part.py").write_text(
            "import common\n"
            "def lazy():\n"
            "    import inner.deep\n"
            "    from inner import deep\n"
            "    from late import LATE\n"
            "    import json.decoder\n"
            "    assert deep is inner.deep and json.decoder\n"
            "    return common.early(), LATE, deep.DEEP\n"
        )
    path = list(sys.path)
    made_by = {f: load_part("part.py:lazy", tmp_path / f, "driver") for f in ("a", "b")}
    for f, lazy in made_by.items():
        assert lazy() == ((f, f"{f} later"), f"{f} later", f"{f} deep")
    assert sys.path == path
    assert not {"common", "late", "inner"} & set(sys.modules)


def test_a_part_beside_a_folder_of_our_name_gets_ours(tmp_path: Path) -> None:
    (tmp_path / "netdump.py").write_text("1 / 0\n")
    (tmp_path / "part.py").write_text(
        "import netdump.client\nfrom dataclasses import dataclass\n"
        "@dataclass\nclass Part:\n    client: 'netdump.client.Report'\n"
    )
    assert load_part("part.py:Part", tmp_path, "driver").__name__ == "Part"


def test_a_card_that_qemu_has_not_is_not_played_there(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"made\.toml:3: tiers\[3\]: .*qemu: QEMU has no pio"):
        made(tmp_path, f'model = "{PIO}"')


@pytest.mark.sim
def test_a_run_is_replayed_where_its_parts_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """On a small machine: 1 MiB twice, word by word, costs 12 s of CPU. On a busy host that took
    551 s, and pytest's bound is 600 s."""
    shutil.copy(EXAMPLES / "pio-nic" / "pio_nic.py", tmp_path)
    text = (EXAMPLES / "pio-nic" / "pio-nic.toml").read_text()
    small = text.replace('"1 MiB"', '"64 KiB"').replace('"heavy"', '"light"')
    (tmp_path / "pio-nic.toml").write_text(small)
    words = ["run", str(tmp_path / "pio-nic.toml"), "--tier", "sim", "--json", "--quiet"]
    assert cli.main([*words, "--runs", str(tmp_path / "runs")]) == 0
    folder = json.loads(capsys.readouterr().out)["run_folder"]
    assert cli.main(["replay", folder, "--quiet", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["same"]
    assert told["files_same"]
