"""The NIC families whose model can be compared with QEMU's device."""

from __future__ import annotations

from bench.errors import BadInput
from bench.parts import NICS, nic_family
from nic_models.differential.contract import Differential
from nic_models.family import OnQemu


def comparable(name: str) -> tuple[Differential, OnQemu]:
    """What the family of that name offers for the comparison.

    Raises:
        BadInput: there is no such family, or it can't be compared.
    """
    family = nic_family(name)
    if family.differential is None or family.on_qemu is None:
        lacks = "device on QEMU" if family.on_qemu is None else "differential"
        others = ", ".join(comparables()) or "none"
        raise BadInput(f"NIC {name!r} has no {lacks} to compare; these can be compared: {others}")
    return family.differential(), family.on_qemu


def comparables() -> list[str]:
    """The names of all that can be compared."""
    families = map(nic_family, NICS.names())
    return [
        family.name
        for family in families
        if family.differential is not None and family.on_qemu is not None
    ]
