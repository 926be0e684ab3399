"""Parts by their names: found by their entry points, ours like anybody else's.

group                     what an entry is
netdump_bench.nics        a ``nic_models.family.NicFamily``
"""

from __future__ import annotations

from functools import cache
from importlib.metadata import entry_points
from typing import Final

from nic_models.family import NicFamily

NICS: Final = "netdump_bench.nics"
#: What a scenario has that names none.
DEFAULT_NIC: Final = "e1000"


@cache
def nic_family(name: str) -> NicFamily:
    """The family of that name; the grammar has refused a name that is none."""
    (entry,) = entry_points(group=NICS, name=name)
    family: NicFamily = entry.load()
    return family
