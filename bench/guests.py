"""The Linux guest of a scenario: whether it has one, which kernel it boots, what is told of that.

A kernel that the user names belongs to the scenario, as the profile does that he asks for; so it
reaches each case without a word in between. What is wrong with it is bad input, and is told before
anything is downloaded, installed or built.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.assemble import playable
from bench.errors import BadInput, MachineLacks
from bench.parts import NICS, nic_family
from bench.scenario import ResolvedCase, Scenario, expand_cases
from bench.tiers import ROWS
from bench.verdict import Guest, RunResult
from guest.linux.initramfs import GuestNic, Nics
from guest.linux.sources import KernelChoice
from nic_models.family import NicFamily


def guests(scenario: Scenario) -> list[ResolvedCase]:
    """The cases of it whose machine boots a Linux kernel."""
    return [case for case in expand_cases(scenario) if case.machine_part.kind.takes_kernel]


def tier_of_guests(scenario: Scenario) -> str:
    """The tier that plays them, of the scenario's own if there is one."""
    (case, *_) = guests(scenario)
    return next(tier for tier in (*scenario.tiers, *ROWS) if playable(case, tier))


def with_kernel(
    scenario: Scenario, kernel: Path | None, modules: Path | None, tier: str | None
) -> Scenario:
    """The same story, its guests with this kernel; None is the distribution's.

    Raises:
        BadInput: it can't be played with that kernel.
        MachineLacks: there is no busybox, and no apt to fetch one.
    """
    if kernel is None:
        if modules is not None:
            raise BadInput(
                f"--modules {modules} is the folder of a kernel: name that with --kernel"
            )
        return scenario
    if not guests(scenario):
        raise BadInput(f"--kernel is for a Linux guest, and {scenario.name} has none")
    if tier in ROWS and not any(playable(case, tier) for case in guests(scenario)):
        raise BadInput(
            f"--kernel is for a Linux guest, and tier {tier} plays none:"
            f" take {tier_of_guests(scenario)}"
        )
    choice = KernelChoice(kernel.absolute(), None if modules is None else modules.absolute())
    _check(choice, guest_nics(*(case.family for case in guests(scenario))))
    return replace(scenario, kernel=choice)


def guest_nics(*families: NicFamily) -> Nics:
    """What an image is to have for guests with NICs of these families: the modules of every
    registered one that QEMU has, too."""
    there = list(families)
    for name in NICS.names():
        with suppress(BadInput):  # one that can't be loaded is told of where it is named
            there.append(nic_family(name))
    known = {
        GuestNic(on_qemu.vendor, on_qemu.pci_device, on_qemu.modules)
        for on_qemu in (family.on_qemu for family in there)
        if on_qemu is not None
    }
    needed = [name for one in families if one.on_qemu for name in one.on_qemu.modules]
    return Nics(tuple(sorted(known)), tuple(dict.fromkeys(needed)))


def _check(choice: KernelChoice, nics: Nics) -> None:
    from guest.linux.image import cached_image
    from guest.linux.ownkernel import BadChoice, examine
    from guest.linux.packages import busybox_can_be_had
    from guest.linux.sources import SourceUnavailable

    try:
        if cached_image(choice=choice, nics=nics) is not None:
            return
        examine(choice, nics, whole=True)
    except BadChoice as error:
        raise BadInput(str(error)) from None
    except OSError as error:
        raise MachineLacks(f"the cache of guest images: {error}") from None
    try:
        busybox_can_be_had()
    except SourceUnavailable as error:
        raise MachineLacks(f"no Linux guest: {error}") from None


def booted(scenario: Scenario) -> Guest | None:
    """What the guests of a scenario that was just played have booted."""
    cases = [case for case in guests(scenario) if not case.forbidden]
    families = [case.family for case in cases if case.family.on_qemu is not None]
    if not families:
        return None
    from guest.linux.image import guest_image

    image = guest_image(choice=scenario.kernel, nics=guest_nics(families[0]))
    named = scenario.kernel
    return Guest(
        image.release,
        image.source,
        image.sha256,
        None if named is None else str(named.kernel),
        None if named is None or named.modules is None else str(named.modules),
    )


def sound_guest(guest: Any) -> bool:
    """Whether a verdict has it as ``run`` writes it."""
    if guest is None:
        return True
    texts = ("release", "source", "sha256", "kernel", "modules")
    return isinstance(guest, dict) and all(
        isinstance(guest.get(key), str) or (guest.get(key) is None and key in ("kernel", "modules"))
        for key in texts
    )


def as_played(scenario: Scenario, guest: dict[str, Any] | None, folder: Path) -> Scenario:
    """The scenario of a run folder with the kernel that was named then.

    Raises:
        BadInput: that kernel can't be played any more.
    """
    if guest is None or guest["kernel"] is None:
        return scenario
    modules = None if guest["modules"] is None else Path(guest["modules"])
    try:
        return with_kernel(scenario, Path(guest["kernel"]), modules, None)
    except BadInput as error:
        raise BadInput(f"{folder} was played with a kernel of its own: {error}") from None


def another_kernel(guest: dict[str, Any] | None, result: RunResult) -> str:
    """Where a replay's guests booted another kernel than the run's: a sentence about it."""
    now = result.guest
    if guest is None or now is None or guest["sha256"] == now.sha256:
        return ""
    return (
        f"Its guest was Linux {guest['release']}, {guest['source']};"
        f" this time it was another kernel, {now}"
    )
