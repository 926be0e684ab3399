"""What a played case left behind, gathered from all sides and trusted from none.

Memory at the panic comes from the machine, the stored bytes from the disk, what was said from the
wire, the rest from the guard. First what can only be seen while the server lives; and, when it has
been killed, what is left of its files.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.judge import contents
from bench.judge.compare import Expected, PartlyKnown, Stored, compare
from bench.judge.live import LiveDisk
from bench.judge.oracles import Evidence
from bench.judge.undo import compare_undone, key_file
from bench.judge.witness import Witness
from bench.servers import CannotCount, DumpServer, ServerProtocol
from bench.servers.names import files_in
from bench.story.stage import Stage
from bench.story.told import Told
from nic_models.frames import Frames

#: Files up to this are kept in memory to be compared.
_SMALL: Final = 1 << 16
#: Copies of the first message that a replay begins with.
_FIRSTS: Final = 8
#: Of a sample that is sent one by one, the last ones and every n-th of those before are.
_LAST: Final = 6
_EVERY: Final = 8
#: The time between two looks at a folder.
_LOOK_US: Final = 5_000


@dataclass(frozen=True, slots=True)
class _Again:
    """What a protocol promises of a message that comes again."""

    descriptors: int
    """Those that ``_FIRSTS`` copies of the first message may cost."""
    begins: str = ""
    """Why only the first is sent again, when the disk has been read: it begins another dump."""
    in_place: bool = False
    """That dump takes the place of the one that is there, which is put aside before."""


#: By ``DumpServer.protocol``.
_AGAIN: Final[Mapping[ServerProtocol, _Again]] = {
    # One offer of a session: a socket and a folder.
    "netdump2": _Again(2),
    # A whole dump, with its dump, info and key.
    "stock": _Again(4, "a stock server takes a HERALD that comes again for another dump"),
    # A transfer each: a thread, or a process with what that has open besides.
    "tftp": _Again(
        8 * _FIRSTS,
        "TFTP has no session: a WRQ that comes again is another transfer to the same file",
        in_place=True,
    ),
}


@dataclass(frozen=True, slots=True)
class _Large:
    """A file that is not kept in memory."""

    size: int
    written_ns: int


#: Of a dump folder: name -> what is there, or where a link leads.
Listing = Mapping[str, str | _Large]


def gather(
    told: Told, stage: Stage, watch: Witness, disk: LiveDisk, expected: Expected
) -> Evidence:
    """All that can be seen while the server lives."""
    report, machine = told.report, told.machine
    seen = Evidence(
        claims_success=report.claims_success,
        gave_up=report.detail,
        deadlock=told.deadlock,
        out_of_time=told.out_of_time,
        driver_crashed=told.crashed,
        client_crashed=told.client_crashed,
        lost=told.lost,
        acked=watch.acknowledged(),
        live_looks=disk.looks,
        live_missing=disk.missing,
        expected=expected if told.image is None else told.image,
        sent=told.sent,
        violations=[] if machine is None else machine.guard.summary(),
        # A machine that was reset writes what it likes.
        memory_changes=[] if told.lost or machine is None else machine.memory_changes(),
        unseen=told.unseen,
        unknown=told.unknown,
        server_present=stage.server is not None,
    )
    if watch.pieces:
        seen.in_pieces = in_pieces(watch.pieces)
        seen.unseen = {**seen.unseen, "ack-means-kept": seen.in_pieces}
    server = stage.server
    before = _settled(stage)
    strangers: list[str] = []
    if server is not None:
        strangers = server.names.strangers(Path(name).name for name in before)
        if any(dump.complete for dump in server.stored()):
            again = _AGAIN[server.protocol]
            if again.begins:  # see first, then ask
                read_disk(seen, stage, watch, told)
            with _put_aside(server, stage) if again.in_place else nullcontext():
                _ask_again(seen, server, stage, watch, before)
            seen.not_idempotent = again.begins
    seen.server_trouble = [
        *stage.server_trouble(_texts(told.header)),
        *(f"left a file of no known kind: {name}" for name in strangers),
        *_claims(watch),
    ]
    return seen


def _texts(header: bytes) -> list[str]:
    """What a kernel dump header says in words: its strings end with zeros."""
    return [part.decode(errors="replace") for part in header.split(b"\0") if part]


def _ask_again(
    seen: Evidence, server: DumpServer, stage: Stage, watch: Witness, before: Listing
) -> None:
    """Send messages of a complete dump once more: what do they change, and what do they cost?

    A server to which that is another dump is sent the first message alone: what that costs is held
    against it, and nothing else.
    """
    sample = watch.sample()
    again = _AGAIN[server.protocol]
    another = bool(again.begins)
    if another:
        sample = dict(list(sample.items())[:1])
    # Ours writes nothing that it has: of its large files it is enough when they were written last.
    may_write = not another and server.names.others is None
    large = [name for name, what in before.items() if may_write and isinstance(what, _Large)]
    known = {name: seal for name in large if (seal := _digest(server.dumpdir / name))}
    descriptors = _descriptors(server, seen)
    replayed, seen.replay_unanswered = _say_again(stage, watch, sample)
    if descriptors is not None and server.running:
        leaked = (_descriptors(server, seen) or descriptors) - descriptors
        if leaked > again.descriptors:
            stage.trouble.append(f"{_FIRSTS} copies of {watch.first} cost {leaked} descriptors")
    if another:
        return
    seen.replayed = replayed
    after = _settled(stage)

    def same(name: str) -> bool:
        one, two = before.get(name), after.get(name)
        if not (isinstance(one, _Large) and isinstance(two, _Large) and name in known):
            return one == two
        return one == two or _digest(server.dumpdir / name) == known[name]

    seen.replay_changed = sorted(name for name in {*before, *after} if not same(name))


@contextmanager
def _put_aside(server: DumpServer, stage: Stage) -> Iterator[None]:
    """The dumps lie elsewhere meanwhile: what is made in their place is not evidence.

    They come back when the server has been killed, as it is at the end of each run: it may not
    have got to all that it was sent before.
    """
    aside = stage.folder / "aside"
    aside.mkdir()
    dumps = [dump.path for dump in server.stored()]
    for number, path in enumerate(dumps):
        path.rename(aside / str(number))
    try:
        yield
    finally:
        server.kill()
        for number, path in enumerate(dumps):
            (aside / str(number)).replace(path)
        aside.rmdir()


def _descriptors(server: DumpServer, seen: Evidence) -> int | None:
    try:
        return server.fd_count()
    except CannotCount as unknown:
        seen.not_counted = str(unknown)
        return None


def _say_again(stage: Stage, watch: Witness, sample: Mapping[int, bytes]) -> tuple[int, int]:
    """Send messages to the server once more, the first many times; how many messages those were,
    and how many of them were not acknowledged.

    A selective ack answers for all that came before it too. So there some of them are sent one by
    one, each when the one before has been answered; that one's answer can be for nothing else.
    """
    messages = list(sample.items())
    heralds, others = messages[:1], messages[1:]
    if watch.selective:
        parts = [[one] for one in [*others[:-_LAST:_EVERY], *others[-_LAST:]]]
    else:
        parts = [others]
    parts.insert(0, heralds * _FIRSTS)  # an impatient client's have cost a descriptor each
    said = unanswered = 0
    for part in parts:
        said += len(dict(part))
        unanswered = _unanswered(stage, watch, part) if part else 0
        if unanswered:
            break  # one is enough for a ruling, and each costs a long wait
    return said, unanswered


def _unanswered(stage: Stage, watch: Witness, messages: list[tuple[int, bytes]]) -> int:
    wanted = {seqno for seqno, _ in messages}

    def all_answered(heard: Frames) -> bool:
        return watch.answered(heard, wanted) == wanted

    heard = stage.play_again([frame for _, frame in messages], all_answered)
    return len(wanted - watch.answered(heard, wanted))


def in_pieces(count: int) -> str:
    """Why the witnesses have not seen all that was sent: so many frames of ``are_pieces``."""
    return (
        f"{count:,} frames of the client's were IP fragments, or had IP options: the witness on the"
        " wire does not put them together, and can't tell what was sent"
    )


def _read_key(seen: Evidence, watch: Witness, dump: Path, sent: bytes) -> None:
    """Is the key block beside it, as far as it was acknowledged?"""
    offsets, lengths = (column.tolist() for column in watch.acknowledged_key())
    kept = key_file(dump) or b""
    seen.acked_key = len(offsets)
    seen.missing_key = sum(
        kept[at : at + length] != sent[at : at + length]
        for at, length in zip(offsets, lengths, strict=True)
    )


def read_disk(seen: Evidence, stage: Stage, watch: Witness, told: Told) -> None:
    """What is left now that the server has been killed; or what was there when we looked before."""
    server = stage.server
    if server is None or seen.expected is None or seen.stored is not None:
        return
    dumps = server.stored()
    if not dumps:
        seen.other_files = sorted(path.name for path in stage.places())
        return
    latest = dumps[-1]
    seen.stored = Stored(latest.path)
    seen.stored_as = latest.path.name
    seen.is_final = latest.complete
    end = seen.expected.length
    behind = seen.stored.read(end, end + len(told.footer) + 1).tobytes()
    # Our server cuts the footer off when the dump is complete; a stock one keeps it.
    keeps = server.protocol != "netdump2" or not seen.is_final
    if keeps and told.footer and behind == told.footer:
        seen.stored.length = end
    if told.coding is not None and told.coding.crypto is not None:
        _read_key(seen, watch, latest.path, told.coding.crypto.block.pack())
    if told.coding is not None and told.sent is not None:
        seen.holes_are_frames = told.coding.keeps_places
        seen.comparison, seen.not_undone = compare_undone(
            seen.expected, told.sent, seen.stored, latest.path, told.coding
        )
        return
    known = seen.expected
    if told.unknown:
        known = PartlyKnown(known, seen.stored, told.unknown)
    seen.comparison = compare(known, seen.stored)
    seen.comparison.add_holes(told.never_sent)


def _settled(stage: Stage) -> Listing:
    """What lies in the dump folder when its server has done with all that it was sent, or when it
    has had its time for that (``settle_us``).

    A folder that looks the same twice does not show that: between a dump's final name and its
    manifest a server may wait for its disk, or for a CPU. So it has to be asleep as well.
    """
    folder = stage.dumpdir if stage.server is None else stage.server.dumpdir
    found = _listing(folder)
    for _ in range(stage.settle_us // _LOOK_US):
        stage.clock.delay_us(_LOOK_US)
        rests = stage.server_rests()
        before, found = found, _listing(folder)
        if rests and before == found:
            break
    return found


def _digest(path: Path) -> bytes:
    """Of its contents; of what can't be read, nothing."""
    try:
        return contents.digest(path)
    except OSError:
        return b""


def _listing(folder: Path) -> Listing:
    """What lies in a folder, and in those below it."""
    found: dict[str, str | _Large] = {}
    for path in files_in(folder):
        name = str(path.relative_to(folder))
        try:
            status = path.lstat()
            if path.is_symlink():
                found[name] = f"-> {path.readlink()}"
            elif status.st_size > _SMALL:
                found[name] = _Large(status.st_size, status.st_mtime_ns)
            else:
                found[name] = path.read_bytes().hex()
        except FileNotFoundError:
            continue  # renamed meanwhile
    return found


def _claims(watch: Witness) -> list[str]:
    count = 0 if watch.pieces else watch.never_sent
    return [f"acknowledged what was never sent, {count} times"] if count else []
