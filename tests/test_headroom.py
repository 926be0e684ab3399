"""What a run needs is known before it starts, and what there is for it is found out rightly."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.errors import MachineLacks
from bench.footprint import Footprint, footprint, largest
from bench.headroom import (
    Room,
    available,
    group_room,
    lies_in_memory,
    memory_groups,
    memory_room,
    require_room,
)
from bench.scenario import expand_cases, parse_scenario
from bench.tiers import MIB

V1 = "35 31 0:32 / /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory\n"
V2 = "30 23 0:27 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
OTHERS = (
    "23 1 0:21 / / rw - overlay overlay rw\n"
    "32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu\n"
)

STORY = """\
title = "x"
why = "y"
tiers = ["tap", "qemu", "sim"]
[machine]
memory = "{mib} MiB"
[[case]]
profile = "netdump2"
expect = {{ outcome = "complete" }}
"""


def folders(cgroup: str, mountinfo: str) -> list[str]:
    return [str(folder) for folder, _ in memory_groups(cgroup, mountinfo)]


def test_our_group_and_all_above_it_may_limit_us_in_either_version() -> None:
    assert folders("0::/a/b\n", OTHERS + V2) == [
        "/sys/fs/cgroup/a/b",
        "/sys/fs/cgroup/a",
        "/sys/fs/cgroup",
    ]
    both = "9:name=systemd:/s\n4:cpu,memory:/a\n1:cpuset:/c\n0::/\n"
    assert memory_groups(both, V1 + OTHERS + V2) == [
        (PurePosixPath("/sys/fs/cgroup/memory/a"), 1),
        (PurePosixPath("/sys/fs/cgroup/memory"), 1),
        (PurePosixPath("/sys/fs/cgroup"), 2),
    ]


@pytest.mark.parametrize(
    ("own", "top", "wanted"),
    [
        ("/docker/1f", "/docker/1f", ["/cg"]),  # a container that sees its own group as the top
        ("/docker/1f/x", "/docker/1f", ["/cg/x", "/cg"]),
        ("/docker/1fa", "/docker/1f", ["/cg"]),  # another's, whose name begins as ours
        ("/../outside", "/", ["/cg"]),  # above what a namespace of groups shows
        ("/", "/", ["/cg"]),
    ],
)
def test_a_container_sees_the_groups_from_somewhere_on(
    own: str, top: str, wanted: list[str]
) -> None:
    mount = f"30 23 0:27 {top} /cg rw - cgroup2 cgroup2 rw\n"
    assert folders(f"0::{own}\n", mount) == wanted


def test_a_blank_in_a_mount_point_is_read_as_the_kernel_writes_it() -> None:
    assert folders("0::/\n", "30 23 0:27 / /my\\040groups rw - cgroup2 none rw\n") == ["/my groups"]


@pytest.mark.parametrize("text", ["", "max\n", "9223372036854771712\n", "nonsense", "-1"])
def test_a_group_without_a_limit_has_no_room_to_tell(text: str) -> None:
    assert group_room(text, "100\n", "", "active_file") is None


@given(
    limit=st.integers(0, 1 << 50),
    used=st.integers(0, 1 << 50),
    cache=st.integers(0, 1 << 50),
    shmem=st.integers(0, 1 << 50),
)
def test_what_the_kernel_gives_back_is_room(limit: int, used: int, cache: int, shmem: int) -> None:
    stat = f"anon 1\nshmem {shmem}\nactive_file {cache}\nxactive_file 7\nactive_filex 7\n"
    room = group_room(f"{limit}\n", f"{used}\n", stat, r"(?:in)?active_file|slab_reclaimable")
    assert room == max(0, limit - max(0, used - cache))


@given(st.text(), st.text())
def test_any_text_is_read_without_an_error(one: str, other: str) -> None:
    available(one)
    memory_groups(one, other)
    memory_groups("0::/a\n" + one, V2 + other)
    group_room(one, other, one, "x")


@pytest.mark.parametrize("version", [1, 2])
def test_the_tightest_of_all_limits_is_found(version: int, tmp_path: Path) -> None:
    """A machine of files: 900 MiB free, its outer group has 500 left, its own 700."""
    limit, usage, cache = {
        1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        2: ("memory.max", "memory.current", "inactive_file"),
    }[version]
    top = Path("sys/fs/cgroup/memory" if version == 1 else "sys/fs/cgroup")
    texts = {
        Path("proc/meminfo"): f"MemTotal: 9 kB\nMemAvailable:   {900 << 10} kB\n",
        Path("proc/self/cgroup"): "4:memory:/a/b\n" if version == 1 else "0::/a/b\n",
        Path("proc/self/mountinfo"): OTHERS + (V1 if version == 1 else V2),
        top / "a/b" / limit: f"{800 * MIB}\n",
        top / "a/b" / usage: f"{100 * MIB}\n",
        top / "a" / limit: f"{1000 * MIB}\n",
        top / "a" / usage: f"{800 * MIB}\n",
        top / "a/memory.stat": f"anon 1\n{cache} {300 * MIB}\n",
    }
    for path, text in texts.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    rooms = memory_room(tmp_path)
    assert [room.free // MIB for room in rooms] == [900, 700, 500]
    needed = Footprint("sim", "netdump2", memory=501 * MIB - 1, addresses=0)
    says = rf"needs 501 MiB of memory, and there are 500 MiB: .*/{top}/a is limited \({limit}\)"
    with pytest.raises(MachineLacks, match=says) as caught:
        require_room(needed, rooms, [])
    assert "\n" not in str(caught.value)
    require_room(replace(needed, memory=500 * MIB), rooms, [])


def test_what_nothing_limits_is_not_refused() -> None:
    require_room(Footprint("sim", "x", 1 << 60, 1 << 60), [], [])
    with pytest.raises(MachineLacks, match="9 MiB of addresses, and there are 8 MiB: why"):
        require_room(Footprint("sim", "x", 0, 9 * MIB), [], [Room(8 * MIB, "why")])


@pytest.mark.parametrize("mib", [256, 1024])
@pytest.mark.parametrize(
    ("tier", "times", "more"), [("sim", 1.5, 150), ("tap", 1.5, 150), ("qemu", 2.5, 300)]
)
def test_no_run_needs_more_than_the_marks(tier: str, times: float, more: int, mib: int) -> None:
    (case,) = expand_cases(parse_scenario(STORY.format(mib=mib), "x", "x"))
    needed = footprint(case, tier)
    assert mib * MIB < needed.memory <= times * mib * MIB + more * MIB
    assert largest([case], tier) == needed
    assert largest([], tier) is None


def test_small_frames_a_folder_in_memory_and_runs_at_the_same_time_cost_more() -> None:
    text = STORY.format(mib=256)
    (case,) = expand_cases(parse_scenario(text, "x", "x"))
    plain = footprint(case, "tap").memory
    (small,) = expand_cases(parse_scenario(text + "[nic]\nmtu = 576\n", "x", "x"))
    frames = 256 * MIB // (576 - 52) - 256 * MIB // 1448
    assert footprint(small, "tap").memory == plain + frames * 181
    # Measured, an ack a frame: a dump of 256 MiB with its capture, and one of 16 MiB.
    assert footprint(case, "tap", folder_in_memory=True).memory >= plain + 268_439_552 + 52_010_352
    (few,) = expand_cases(parse_scenario(STORY.format(mib=16), "x", "x"))
    more = footprint(few, "tap", folder_in_memory=True).memory - footprint(few, "tap").memory
    assert more >= 16_781_312 + 19_353_616
    together = largest([case], "tap", at_once=3)
    assert together is not None
    assert (together.memory, together.runs) == (3 * plain, 3)
    with pytest.raises(MachineLacks, match=r", 3 at a time, needs .*: why; lower -j, raise that,"):
        require_room(together, [Room(2 * plain, "why")], [])


def test_a_folder_lies_in_memory_where_the_topmost_mount_does(tmp_path: Path) -> None:
    mounts = tmp_path / "proc/self/mountinfo"
    mounts.parent.mkdir(parents=True)
    mounts.write_text(
        "1 0 8:1 / / rw - ext4 /dev/sda rw\n"
        "2 1 0:3 / /run\\040s rw shared:9 - tmpfs tmpfs rw\n"
        "3 2 8:2 / /run\\040s/disk rw - ext4 /dev/sdb rw\n"
        "4 1 0:5 / /both rw - ext4 /dev/sdc rw\n"
        "5 4 0:6 / /both rw - tmpfs tmpfs rw\n"
    )
    in_memory = ["/run s", "/run s/x", "/both/x"]
    assert [f for f in in_memory if lies_in_memory(Path(f), tmp_path)] == in_memory
    assert not [f for f in ("/", "/run", "/run s/disk/x") if lies_in_memory(Path(f), tmp_path)]
    assert not lies_in_memory(Path("/"), tmp_path / "nowhere")


# --- played ---------------------------------------------------------------------------------------


def run(tmp_path: Path, mib: int, before: str) -> subprocess.CompletedProcess[str]:
    """The command, in a shell that does something ``before``."""
    story = tmp_path / "story.toml"
    story.write_text(STORY.format(mib=mib))
    command = (
        f'{before}; exec "{sys.executable}" -m bench run --tier sim --runs "{tmp_path}/runs"'
        f' "{story}"'
    )
    return subprocess.run(
        ["sh", "-c", command],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[1],
        timeout=120,
        check=False,
    )


@pytest.fixture
def group() -> Iterator[Path]:
    """A control group of 192 MiB of our own."""
    folder: Path | None = None
    texts = [Path("/proc/self", name).read_text() for name in ("cgroup", "mountinfo")]
    groups = memory_groups(*texts)
    for above, version in groups:
        limit = {1: "memory.limit_in_bytes", 2: "memory.max"}[version]
        folder = Path(above) / f"netdump-bench-test-{os.getpid()}"
        try:
            folder.mkdir()
        except OSError:
            continue
        try:
            (folder / limit).write_text(f"{192 * MIB}\n")
            yield folder
            return
        except OSError:
            continue
        finally:
            folder.rmdir()
    pytest.skip(
        "no control group can be made here that limits memory;"
        " cure: run as root where /sys/fs/cgroup is writable and has the memory controller"
    )


def test_a_run_beyond_its_control_group_is_refused_in_one_line(tmp_path: Path, group: Path) -> None:
    enter = f'echo $$ > "{group}/cgroup.procs"'
    done = run(tmp_path, 256, enter)
    assert done.returncode == 3, done
    (line,) = done.stderr.splitlines()
    assert re.search(r"needs \d+ MiB of memory, and there are 1\d\d MiB: the control group", line)
    assert group.name in line
    assert not (tmp_path / "runs").exists(), "nothing was started"
    done = run(tmp_path, 16, enter)
    assert done.returncode == 0, done.stderr


def test_a_run_beyond_its_address_space_is_refused_in_one_line(tmp_path: Path) -> None:
    done = run(tmp_path, 1024, "ulimit -v 1900000")
    assert done.returncode == 3, done
    (line,) = done.stderr.splitlines()
    assert re.search(r"MiB of addresses, and there are [\d,]+ MiB: .*ulimit -v", line)
    assert not (tmp_path / "runs").exists()
