"""Kind ``command``: a client that is somebody else's program, on the machine's end of the wire.

``argv`` is the program and its arguments. In each of them ``{name}`` stands for what the run
decides:

    {interface}  {mac}  {mtu}       the machine's end of the wire
    {address}  {gateway}            its IPv4 address, and its gateway's; "" where there is none
    {server}  {port}                where HERALDs go
    {memory}                        the path of a file: the memory that is to be dumped

``{{`` and ``}}`` are braces. No shell reads it. Which words are paths, and from where,
``bench/argv`` says.

What the client *dumps* decides what its stored dump is held against: ``memory``, the file, behind
whatever headers it puts before it; or something of its ``own``, which only the witness on the wire
has seen. ``bench/story/command`` has the rules.
"""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Mapping
from string import Formatter
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from pydantic import AfterValidator, Field, StrictBool, StrictInt, StrictStr, ValidationInfo

from bench.argv import files_in, from_folder
from bench.errors import BadInput
from bench.kinds import ClientKind
from bench.spelling import nearest
from bench.table import Table

if TYPE_CHECKING:
    from bench.scenario.schema import ResolvedCase
    from bench.story.command import CommandStory
    from bench.story.stage import Stage
    from bench.story.told import Tell

#: What a template may ask for.
NAMES: Final = ("interface", "mac", "mtu", "address", "gateway", "server", "port", "memory")


def _template(argv: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
    for argument in argv:
        _names(argument)
    base = (info.context or {}).get("base")
    if base is None:
        return argv
    # A brace in the folder's own name is one.
    return from_folder(argv, os.path.abspath(base).replace("{", "{{").replace("}", "}}"))


def _names(argument: str) -> list[str]:
    """The names in one argument of a template. Raises ``ValueError``."""
    names: list[str] = []
    for _, name, form, conversion in Formatter().parse(argument):
        if name is None:
            continue
        if name not in NAMES or form or conversion:
            known = ", ".join(f"{{{one}}}" for one in NAMES)
            raise ValueError(
                f'in "{argument}" {{{name}}} stands for nothing{nearest(name, NAMES)}; there are'
                f" {known}, and {{{{ is a brace"
            )
        names.append(name)
    return names


class ClientCommand(Table):
    """What to start, and as whom."""

    argv: Annotated[tuple[StrictStr, ...], Field(min_length=1), AfterValidator(_template)]
    """The program, and its arguments."""
    dumps: Literal["memory", "own"] = "memory"
    """The memory that it is given, or something of its own."""
    stack: StrictBool = False
    """The kernel has the client's address and routes: for a client that uses ordinary sockets. Else
    the kernel is silent on that interface, and the client makes its own frames.
    """
    environment: Annotated[dict[str, StrictStr], Field(default_factory=dict)]
    """Added to ours."""
    user: Annotated[StrictStr, Field(min_length=1)] | None = None
    """A user's name or number; not given: who plays the scenario."""
    seconds: Annotated[StrictInt, Field(ge=1, le=3600)] | None = None
    """How long it may run; not given: as long as any run of the tier."""

    def __str__(self) -> str:
        return shlex.join(self.argv)

    @property
    def asks_for(self) -> set[str]:
        """The names in its template."""
        return {name for argument in self.argv for name in _names(argument)}

    @property
    def files(self) -> list[str]:
        """Those of its words that are files."""
        return files_in([word.format() for word in self.argv if not _names(word)])

    def filled(self, values: Mapping[str, str]) -> list[str]:
        """The arguments of one run; ``values`` has all ``NAMES``. ``BadInput`` where there is no
        such program.
        """
        program, *arguments = [argument.format_map(values) for argument in self.argv]
        found = shutil.which(program, path=self.environment.get("PATH"))
        if found is None:
            where = "there is no such program" if "/" in program else "not on the PATH"
            raise BadInput(f"the client {program}: {where}, or it may not be executed")
        return [found, *arguments]


def _of(case: ResolvedCase) -> ClientCommand:
    options: ClientCommand = case.client_part.options
    return options


def _machine(case: ResolvedCase, option: str, plain: Any) -> bool:
    """Whether the machine is to have something that only its own code would notice."""
    return bool(getattr(case.machine_part.options, option, plain) != plain)


def _story(case: ResolvedCase, stage: Stage, seed: int, tell: Tell) -> CommandStory:
    from bench.story.command import CommandStory

    return CommandStory(case, stage, seed, tell, _of(case))


COMMAND: Final = ClientKind(
    name="command",
    says="a program of yours, on the machine's end of the wire",
    transport=None,
    options=ClientCommand,
    files=lambda options: options.files,
    rules=(
        (
            ("client", "argv"),
            lambda c: _of(c).dumps == "memory" and "memory" not in _of(c).asks_for,
            'it is to dump memory, and never names it: add "{memory}", or set dumps to "own"',
        ),
        (
            ("machine", "lost"),
            lambda c: c.machine.lost is not None,
            "the client is a program, and no machine of ours is lost with it",
        ),
        (
            ("machine", "flips"),
            lambda c: c.machine.flips is not None,
            "the client is a program, and no machine of ours has what it sends",
        ),
        (
            ("nic", "mode"),
            lambda c: c.nic.mode != "polled",
            "the client is a program, and takes no lock of our driver's",
        ),
        (
            ("machine", "panic_during"),
            lambda c: _machine(c, "panic_during", "idle") or c.sweep_over == "panic-step",
            "the client is a program: no work of the machine's is interrupted",
        ),
        (
            ("machine", "starve_mbufs"),
            lambda c: _machine(c, "starve_mbufs", False),
            "the client is a program, and has an allocator of its own",
        ),
    ),
    story=_story,
    hosts=frozenset({"namespace"}),
    drives=False,
)
