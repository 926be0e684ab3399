"""A case of a file, with every override merged and every part found.

A part's own options are read by its own table, which is known only when the case's ``kind`` is. So
they are looked at twice: each table of the file by itself, which finds all that is written wrong
and blames its very line (``options_problems``); and merged, which finds what is missing.

A part that the user puts in for the scenario's own (``Replaced``) keeps what the scenario asks of
that part, where the new one knows the word; where it does not, the case is not played with it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path as FilePath
from typing import Any, Final, TypeVar

from pydantic import ValidationError

from bench.errors import BadInput
from bench.kinds import REFERENCE, Kind, Replaced
from bench.parts import (
    CLIENTS,
    MACHINES,
    SERVERS,
    Shelf,
    absolute_name,
    check_driver,
    is_library,
    nic_family,
)
from bench.scenario import combinations
from bench.scenario.explain import explain
from bench.scenario.positions import Path
from bench.scenario.schema import (
    Case,
    Client,
    Document,
    Expect,
    Machine,
    Nic,
    Part,
    Replaceable,
    ResolvedCase,
    Server,
)
from bench.table import PartTable, Table
from nic_models.family import NicFamily

_T = TypeVar("_T", bound=Table)
_P = TypeVar("_P", bound=PartTable)
_S = TypeVar("_S", Machine, Server, Client)

#: Tables of a file that name a part, what they hold in common, and where their parts are.
SECTIONS: Final[dict[str, tuple[type[PartTable], Shelf[Any]]]] = {
    "machine": (Machine, MACHINES),
    "server": (Server, SERVERS),
    "client": (Client, CLIENTS),
}


class Wrong(Exception):
    """Parts that are none, or lack an option; (key, what is wrong) of each."""

    def __init__(self, *problems: tuple[Path, str]) -> None:
        super().__init__()
        self.problems = problems


# --- what is written wrong ------------------------------------------------------------------------


def options_problems(raw: Mapping[str, Any], base: FilePath) -> list[tuple[Path, str]]:
    """What is wrong with the options of a file's parts; ``raw`` is what TOML made of it."""
    found: list[tuple[Path, str]] = []
    cases = raw.get("case")
    for name, (common, shelf) in SECTIONS.items():
        table = raw.get(name, {})
        kind = _kind_of(table, common.model_fields["kind"].default)
        found += _problems((name,), table, kind, common, shelf, base)
        for number, case in enumerate(cases if isinstance(cases, list) else []):
            own = case.get(name, {}) if isinstance(case, dict) else {}
            path = ("case", number, name)
            found += _problems(path, own, _kind_of(own, kind), common, shelf, base)
    return found


def _kind_of(table: Any, default: str) -> str:
    kind = table.get("kind", default) if isinstance(table, dict) else default
    return kind if isinstance(kind, str) and kind else default


def _problems(
    path: Path,
    table: Any,
    kind: str,
    common: type[PartTable],
    shelf: Shelf[Any],
    base: FilePath,
) -> Iterator[tuple[Path, str]]:
    if not isinstance(table, dict):
        return  # the grammar says so
    try:
        part = shelf.find(kind, base)
    except BadInput as error:
        if "kind" in table:
            yield (*path, "kind"), str(error)
        return
    own = {key: value for key, value in table.items() if key not in common.model_fields}
    try:
        part.options.model_validate(own, context={"base": base})
    except ValidationError as error:
        for detail in error.errors(include_url=False):
            if detail["type"] != "missing":  # it may stand in another table
                where, says = explain(detail, part.options, common.model_fields)
                yield (*path, *where), says


# --- merging --------------------------------------------------------------------------------------


def merged(base: _T, override: _T) -> _T:
    return base.model_copy(
        update={name: getattr(override, name) for name in override.model_fields_set}
    )


def merged_part(base: _P, override: _P) -> _P:
    """The same; options of one kind say nothing to another."""
    if "kind" in override.model_fields_set and override.kind != base.kind:
        base = _common(base)
    return base.model_copy(
        update={name: getattr(override, name) for name in override.model_fields_set}
    )


def _common(table: _P) -> _P:
    fields = type(table).model_fields
    return type(table)(
        **{name: getattr(table, name) for name in table.model_fields_set if name in fields}
    )


def resolve_case(
    document: Document,
    case: Case,
    number: int,
    name: str,
    group: str,
    base: FilePath,
    replaced: Mapping[Replaceable, Replaced],
) -> ResolvedCase:
    """Raises ``Wrong``, or of what was put in ``BadInput``."""
    machine = merged_part(document.machine, case.machine)
    server = merged_part(document.server, case.server)
    client = merged_part(document.client, case.client)
    nic = _at_home(merged(document.nic, case.nic), base)
    client_part = _part("client", client, base)
    server_part = _part("server", server, base)
    expect = case.expect
    family: NicFamily | None = None
    reasons: list[str] = []
    for section, instead in replaced.items():
        reasons += _about_its_own(case, section, base)
        with _blaming(section, instead):
            if section == "nic":
                nic, family, strange = _other_nic(nic, instead)
            elif section == "server":
                server, strange = _put_in(server, instead, base)
                server_part = _part(section, server, instead.base)
                strange += [] if server.present else ["it has no server"]
            else:
                client, strange = _put_in(client, instead, base)
                client_part = _part(section, client, instead.base)
                if not client_part.kind.profiles and case.profile not in (None, REFERENCE):
                    strange.append(f"it is about the profile {case.profile}")
        reasons += strange
        if section != "nic" and expect.retransmissions is not None:
            expect = _without_exact_count(expect)
    if client_part.kind.profiles and case.profile is None:
        raise Wrong((("case", number, "profile"), "is missing, and has no default"))
    try:
        family = family or nic_family(nic.model, base)
    except BadInput as error:
        own = "model" in case.nic.model_fields_set
        raise Wrong(((*(("case", number) if own else ()), "nic", "model"), str(error))) from None
    if nic.driver is not None:
        try:
            check_driver(nic.driver, base)
        except BadInput as error:
            raise Wrong((("nic", "driver"), str(error))) from None
    made = ResolvedCase(
        name=name,
        group=group,
        profile=case.profile if client_part.kind.profiles and case.profile else client.kind,
        machine=machine,
        nic=nic,
        network=merged(document.network, case.network),
        server=server,
        client=client,
        wire=merged(document.wire, case.wire),
        expect=expect,
        machine_part=_part("machine", machine, base),
        server_part=server_part,
        client_part=client_part,
        family=family,
        sweep_over=case.sweep.over if case.sweep else None,
        forbidden=reasons[0] if reasons else "",
    )
    return made if reasons or not replaced else _as_rules_allow(made)


def _as_rules_allow(case: ResolvedCase) -> ResolvedCase:
    """The scenario is none the worse for what the parts can't be together: such a case is left
    out.
    """
    if case.client_part.kind.story is not None and case.expect.nic_wrote_pages is not None:
        return replace(case, forbidden="it is about the machine's NIC, and this client has none")
    for path, says in combinations.settings(case):
        return replace(case, forbidden=f"{'.'.join(map(str, path))}: {says}")
    return case


def _about_its_own(case: Case, section: Replaceable, base: FilePath) -> list[str]:
    """Why a case is nothing without its own part, as it says or as its own table shows."""
    if section in case.fixed:
        return [f"its {section} can't be replaced"]
    if section == "nic":
        own = {"model", "driver"} & case.nic.model_fields_set
    else:
        table = case.server if section == "server" else case.client
        kind: Kind = SECTIONS[section][1].find(table.kind, base)
        own = table.model_fields_set - {"present", *kind.asks, *kind.tunes}
    return [f"it is about a {section} of its own"] if own else []


def _without_exact_count(expect: Expect) -> Expect:
    """How often frames are sent again depends on a server's and a client's pace, unless the wire
    loses some."""
    count = expect.retransmissions
    return (
        expect
        if count is None or count.more
        else expect.model_copy(update={"retransmissions": None})
    )


def _other_nic(own: Nic, instead: Replaced) -> tuple[Nic, NicFamily, list[str]]:
    """The table with another card or driver in it, and what of the case's own that changes."""
    other = _at_home(Nic.model_validate(dict(instead.table)), instead.base)
    asked = own.model_fields_set & other.model_fields_set - {"model", "driver"}
    strange = [
        f"it sets nic.{key} = {getattr(own, key)!r}"
        for key in sorted(asked)
        if getattr(own, key) != getattr(other, key)
    ]
    if "model" in other.model_fields_set:  # a driver is for its own card
        own = own.model_copy(update={"driver": None})
    nic = merged(own, other)
    return nic, nic_family(nic.model, instead.base), strange


def _at_home(nic: Nic, base: FilePath) -> Nic:
    """The same, with its driver's path from the root."""
    if nic.driver is None:
        return nic
    home = str(FilePath(base, nic.driver)) if is_library(nic.driver) else None
    return nic.model_copy(update={"driver": home or absolute_name(nic.driver, base)})


def _part(section: str, table: PartTable, base: FilePath) -> Part[Any]:
    kind: Kind = SECTIONS[section][1].find(table.kind, base)
    try:
        options = kind.options.model_validate(table.model_extra or {}, context={"base": base})
    except ValidationError as error:
        details = [explain(d, kind.options) for d in error.errors(include_url=False)]
        raise Wrong(*(((section, *where), says) for where, says in details)) from None
    return Part(kind, options)


def _put_in(own: _S, instead: Replaced, base: FilePath) -> tuple[_S, list[str]]:
    """The table with another part in it, and what the case asks of its own that this one is not.
    ``base``: where the own one's paths start.
    """
    new = type(own).model_validate(dict(instead.table))
    section = type(own).__name__.lower()
    kind: Kind = SECTIONS[section][1].find(new.kind, instead.base)
    asks = SECTIONS[section][1].find(own.kind, base).asks
    asked = {key: value for key, value in (own.model_extra or {}).items() if key in asks}
    carried: dict[str, Any] = {}
    strange: list[str] = []
    for key, value in asked.items():
        if key in instead.table or key in kind.by_nature:
            has = instead.table.get(key, kind.by_nature.get(key))
            if has != value:
                strange.append(f"it sets {section}.{key} = {value!r}, and this one has {has!r}")
        elif key in kind.options.model_fields:
            carried[key] = value
        else:
            strange.append(f"it sets {section}.{key}, which kind {kind.name} has not")
    return _common(own).model_copy(update={**carried, **dict(instead.table)}), strange


class _blaming:
    """What is wrong with a part that was put in is the command line's."""

    def __init__(self, section: str, instead: Replaced) -> None:
        self._whose = f"--{section} {instead.words}"

    def __enter__(self) -> None: ...

    def __exit__(self, _type: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, Wrong):
            path, says = error.problems[0]
            raise BadInput(f"{self._whose}: {'.'.join(map(str, path))}: {says}") from None
        if isinstance(error, ValidationError):
            path, says = explain(error.errors(include_url=False)[0], Nic)
            raise BadInput(f"{self._whose}: {'.'.join(map(str, path))}: {says}") from None
        if isinstance(error, BadInput):
            raise BadInput(f"{self._whose}: {error}") from None
