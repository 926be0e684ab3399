"""The verdict for people: what happened and why, in the words of this field.

The reader knows netdump, and not this project. So a case says first how it ended and whether that
was expected; then what was sent, what the wire did, what was refused or swallowed, where bytes
differ, and what the panicked kernel used. A line that would say "nothing" is left out. Runs of one
sweep are told as one.

It builds plain paragraphs, a label and a text each, wrapped here to at most 100 columns; rich adds
colour on a terminal and nothing elsewhere.
"""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from bench.judge.oracles import ORACLES
from bench.repeat import Repeated, differences, rows
from bench.scenario.values import show_ranges, show_size
from bench.tiers import ROWS
from bench.verdict import NOT_JUDGED, OUTCOMES, CaseResult, RunResult
from bench.wire.actions import ACTIONS
from bench.wire.bystanders import TRICKS

WIDTH: Final = 100
_LABEL: Final = 11  # columns of a label, with the space after it
_INDENT: Final = 2

_PLURALS: Final = {"silent-hole": "silent holes", "deadlock": "deadlocks"}

#: Why a frame may be refused, for those reasons whose name does not say it all.
REFUSALS: Final = {
    "destination-mac": "addressed to another MAC",
    "ethertype": "neither IPv4 nor ARP",
    "ip-checksum": "damaged IP header",
    "udp-checksum": "damaged on the way",
    "ip-length": "cut short",
    "udp-length": "cut short",
    "runt": "cut short",
    "ip-source": "not from the server",
    "ip-destination": "to another IP address",
    "ip-protocol": "not UDP",
    "udp-port": "to another port",
    "ack-late": "acks of what was acknowledged before",
    "ack-future": "acks of what was never sent",
    "ack-port": "acks from a port that is not the server's",
    "ack-before-herald": "acks before the server answered",
    "arp-stranger": "ARP replies of hosts that were not asked for",
    "arp-not-for-us": "ARP requests for other hosts",
    "arp-unasked": "ARP replies that came unasked",
    "out-of-mbufs": "no buffer left to send with",
}


@dataclass(frozen=True, slots=True)
class Paragraph:
    """A label in the margin and a text; ``style`` is rich's, for the first line."""

    label: str
    text: str
    style: str = ""


BLANK: Final = Paragraph("", " ")


def print_verdict(result: RunResult, console: Console) -> None:
    """Print a run's verdict; nothing of it is wider than 100 columns, save paths and commands."""
    width = min(WIDTH, console.width) if console.is_terminal else WIDTH
    for paragraph in paragraphs(result):
        _print(paragraph, console, max(width, 40))


def paragraphs(result: RunResult) -> Iterator[Paragraph]:
    """The whole verdict, in order."""
    end = "PASSED" if result.passed else "NOT AS EXPECTED"
    head = f"{result.scenario}: {end}, on tier {result.tier}, seed {result.seed}"
    yield Paragraph("", head, _style(result.passed))
    if result.why_this_tier:
        yield Paragraph("tier", result.why_this_tier)
    yield Paragraph("", f"{result.title}.", "bold")
    yield Paragraph("why", result.why)
    if result.guest is not None:
        yield Paragraph("guest", f"{result.guest}.")
    for name, part in result.parts.items():
        yield Paragraph(name, f"{part['words']}, instead of the scenario's own")
    yield Paragraph("story", " ".join(result.story.split()))
    yield BLANK
    for _, group in groupby(result.cases, key=lambda case: case.group or case.name):
        runs = list(group)
        if len(runs) > 1 or runs[0].sweep_over:
            yield from _sweep(runs, result.tier)
        else:
            yield from _case(runs[0], result.tier)
        yield BLANK
    for left_out in result.not_played:
        yield Paragraph("left out", left_out)
    yield from _oracles(result.cases)
    if result.run_folder:
        yield Paragraph("folder", result.run_folder)
    yield Paragraph("replay", result.replay)


def print_repeated(found: Repeated, console: Console) -> None:
    """Print what came of many runs: a row for each kind, and how the others are odd."""
    head = f"{found.scenario}: {_count(len(found.trials), 'run')}, "
    head += "all alike" if found.alike else f"NOT alike: {len(found.kinds)} kinds"
    console.print(Text(head, _style(found.alike)), soft_wrap=True)
    table = Table(box=None, pad_edge=False)
    for name in ("runs", "seeds", "outcomes", "median s"):
        table.add_column(name, justify="right" if name in ("runs", "median s") else "left")
    for row in rows(found):
        table.add_row(*map(Text, row))
    console.print(table)
    for line in differences(found):
        console.print(Text(line), soft_wrap=True)


# --- one run --------------------------------------------------------------------------------------


def _case(case: CaseResult, tier: str) -> Iterator[Paragraph]:
    verdict = "as expected" if case.met else f"NOT as expected ({case.expected or 'nothing'})"
    yield _headline(case.met, f"{_called(case)}: {case.outcome.replace('-', ' ')}, {verdict}")
    yield from _missing(case.unmet)
    end = OUTCOMES.get(case.outcome, "")
    if case.error:
        end = end.removesuffix(".") + f": {case.error}."
    yield Paragraph("end", _sentences(end, case.why))
    if case.outcome in NOT_JUDGED:
        return
    yield Paragraph("sent", _sent(case, tier))
    yield from _disturbed([case])
    yield from _wire([case])
    yield from _refused(case.refused)
    yield from _swallowed(case)
    yield from _last_words(case)
    yield from _difference(case)
    yield from _panic_context([case])
    yield from _broken([case])
    yield from _not_ruled_on([case])
    for note in case.notes[:5]:
        yield Paragraph("note", note)


def _called(case: CaseResult) -> str:
    """``netdump2, polled``; a case with a name of its own keeps it."""
    name = case.group or case.name
    called = name if name.startswith(case.profile) else f"{name} ({case.profile})"
    return f"{called}, {case.mode}" if case.mode else called


def _headline(met: bool, text: str) -> Paragraph:
    return Paragraph("ok" if met else "WRONG", text, _style(met))


def _style(met: bool) -> str:
    return "bold green" if met else "bold red"


def _sent(case: CaseResult, tier: str) -> str:
    clock = "virtual seconds" if ROWS[tier].virtual else "s"
    text = f"{show_size(case.dump_bytes)} in {case.seconds:.3g} {clock}"
    if case.outcome not in ("complete", "silent-hole"):
        text = f"of {show_size(case.dump_bytes)} not all; it ended after {case.seconds:.3g} {clock}"
    elif case.seconds > 0:
        text += f" ({case.dump_bytes / case.seconds / 1e6:.3g} MB/s)"
    text += f", {_on_the_wire(case.frames, case.retransmissions)}"
    if case.probes:
        text += f", {_count(case.probes, 'probe')}"
    if case.selective_acks:
        text += f", {_count(case.selective_acks, 'selective ack')} back"
    return f"{text}."


def _on_the_wire(frames: int, again: int) -> str:
    return f"{_count(frames, 'frame')} on the wire" + (
        f", {again:,} of them sent again" * bool(again)
    )


def _disturbed(cases: list[CaseResult]) -> Iterator[Paragraph]:
    """A run in real time whose bench was kept from the CPU: what is slow may be slow for that."""
    disturbed = [case for case in cases if case.paused_s]
    if disturbed:
        longest = max(case.longest_pause_s for case in disturbed)
        runs = f"{len(disturbed)} of {len(cases)} runs: " * (len(cases) > 1)
        what = f"{runs}the bench did not get the CPU for {longest:.1f} s at once,"
        what += f" {sum(case.paused_s for case in disturbed):.1f} s in all. Rates and times mean"
        yield Paragraph("disturbed", f"{what} little here.", "yellow")


def _wire(cases: Iterable[CaseResult]) -> Iterator[Paragraph]:
    """What befell frames on the way, and who else was heard."""
    deeds: Counter[str] = Counter()
    for case in cases:
        deeds.update(case.wire)
    befell = [f"{n:,} {ACTIONS[name].makes}" for name, n in deeds.items() if n and name in ACTIONS]
    heard = [f"{n:,} {TRICKS[name].heard}" for name, n in deeds.items() if n and name in TRICKS]
    told = [f"{', '.join(befell)}"] * bool(befell) + [f"heard {', '.join(heard)}"] * bool(heard)
    if told:
        yield Paragraph("wire", f"{'; '.join(told)}.")


def _refused(refused: dict[str, int]) -> Iterator[Paragraph]:
    told = [
        f"{count:,} {reason}" + (f" ({REFUSALS[reason]})" if reason in REFUSALS else "")
        for reason, count in sorted(refused.items(), key=lambda item: (-item[1], item[0]))
        if count
    ]
    if told:
        yield Paragraph("refused", f"{', '.join(told)}.")


def _swallowed(case: CaseResult) -> Iterator[Paragraph]:
    count = case.foreign_frames_accepted
    if count:
        what = f"{_count(count, 'frame')} addressed to another MAC: the client believed them."
        yield Paragraph("swallowed", what, "yellow")


def _last_words(case: CaseResult) -> Iterator[Paragraph]:
    words = case.netconsole
    if words is not None:
        what = f"{words.arrived} of the {words.console} lines that the console printed from the"
        what += f" crash on arrived by netconsole ({_count(words.sent, 'frame')} sent)"
        if words.lost:
            explained = words.lost - words.unexplained
            what += f"; the wire explains {explained} of the {words.lost} that did not"
        yield Paragraph("netconsole", f"{what}.", "yellow" if words.unexplained else "")


def _difference(case: CaseResult) -> Iterator[Paragraph]:
    if case.holes:
        ends = ", ".join(f"{h.start:#x}..{h.end:#x}" for h in case.holes[:3])
        more = f" and {len(case.holes) - 3:,} more" if len(case.holes) > 3 else ""
        size = case.hole_bytes or sum(h.end - h.start for h in case.holes)
        what = f"{_count(len(case.holes), 'hole')} of {_count(size, 'byte')}, at {ends}{more}."
        yield Paragraph("holes", what, "yellow")
    first = case.first_difference
    if first:
        at = f"offset {first.offset:#x}"
        if first.physical_address is not None:
            at += f" (physical address {first.physical_address:#x})"
        what = f"first at {at}: memory held {_hex(first.expected)}, the dump has "
        yield Paragraph("differs", f"{what}{_hex(first.stored) or 'nothing'}.", "yellow")


def _hex(octets: str) -> str:
    """Eight bytes of it."""
    return " ".join(octets[i : i + 2] for i in range(0, min(len(octets), 16), 2))


def _panic_context(cases: list[CaseResult]) -> Iterator[Paragraph]:
    """The worst over the runs; of most stories there is one."""
    contexts = [case.panic_context for case in cases if case.panic_context is not None]
    if not contexts:
        return
    buffers = max(c.pool_high_water for c in contexts)
    size = max(c.pool_size for c in contexts)
    bypassed = max(c.locks_bypassed for c in contexts)
    owned = max(c.locks_held_by_stopped_cpus for c in contexts)
    text = f"at most {buffers:,}" + (f" of {size:,}" * bool(size)) + " pool buffers in use; "
    text += f"{_count(max(c.polls for c in contexts), 'poll')}; "
    text += f"{_count(max(c.interrupts for c in contexts), 'interrupt')}; "
    text += f"locks bypassed {_count(bypassed, 'time')}"
    text += f", {owned:,} of them held by a stopped CPU" * bool(owned)
    yield Paragraph("panic", f"{text}.")


def _broken(cases: list[CaseResult]) -> Iterator[Paragraph]:
    """Why oracles are broken, save for what the lines above say; one run speaks for a sweep."""
    told: dict[str, str] = {}
    for case in cases:
        for oracle in ORACLES:
            if case.oracles.get(oracle) == "broken" and not (
                oracle == "bytes-equal" and case.holes
            ):
                told.setdefault(oracle, case.oracle_reasons.get(oracle, ""))
    for name, why in told.items():
        yield Paragraph("broken", f"{name}: {why}" if why else name, "yellow")


def _not_ruled_on(cases: list[CaseResult]) -> Iterator[Paragraph]:
    """What could not be seen, and so is not said to have held; those of one reason together."""
    told: dict[str, dict[str, None]] = {}
    for case in cases:
        for oracle in ORACLES:
            if case.oracles.get(oracle) == "not-ruled-on":
                told.setdefault(case.oracle_reasons.get(oracle, ""), {})[oracle] = None
    for why, oracles in told.items():
        yield Paragraph("unruled", f"not ruled on: {', '.join(oracles)}: {why}")
    if keys := dict.fromkeys(key for case in cases for key in case.uncounted):
        what = f"not counted, and so not asked for: {', '.join(keys)}"
        yield Paragraph("uncounted", f"{what}. Only our own client counts that.")


def _missing(unmet: Iterable[str]) -> Iterator[Paragraph]:
    for what in unmet:
        yield Paragraph("missing", what, "red")


# --- a sweep --------------------------------------------------------------------------------------


def _sweep(runs: list[CaseResult], tier: str) -> Iterator[Paragraph]:
    first = runs[0]
    met = all(run.met for run in runs)
    each = f"{_count(len(runs), 'run')}, one for each {(first.sweep_over or '').replace('-', ' ')}"
    verdict = "all as expected" if met else f"{sum(not r.met for r in runs)} NOT as expected"
    yield _headline(met, f"{_called(first)}: {each}, {verdict}")
    for run in [r for r in runs if not r.met][:3]:
        yield from _missing(f"at {run.sweep_value}: {text}" for text in run.unmet)
    outcomes: dict[str, list[CaseResult]] = {}
    for run in runs:
        outcomes.setdefault(run.outcome, []).append(run)
    for outcome, those in outcomes.items():
        name = outcome.replace("-", " ") if len(those) == 1 else _PLURALS.get(outcome, outcome)
        where = show_ranges(r.sweep_value for r in those if r.sweep_value is not None)
        text = f"{len(those)} {name}" + (f" at {where}" * (len(outcomes) > 1)) + "."
        yield Paragraph("end", _sentences(text, OUTCOMES.get(outcome, "")))
    total = sum(run.seconds for run in runs)
    clock = "virtual seconds" if ROWS[tier].virtual else "s"
    frames, again = sum(r.frames for r in runs), sum(r.retransmissions for r in runs)
    size = f"{show_size(first.dump_bytes)} a run, {total:.3g} {clock} in all"
    yield Paragraph("sent", f"{size}, {_on_the_wire(frames, again)}.")
    yield from _disturbed(runs)
    yield from _wire(runs)
    example = next((run for run in runs if run.first_difference or run.holes), None)
    if example is not None:
        for found in _difference(example):
            text = f"run {example.sweep_value}, for example: {found.text}"
            yield Paragraph(found.label, text, found.style)
    yield from _panic_context(runs)
    yield from _broken(runs)
    yield from _not_ruled_on(runs)


# --- the end --------------------------------------------------------------------------------------


def _oracles(cases: list[CaseResult]) -> Iterator[Paragraph]:
    """One line: what held in every case it applied to, what did not, and where, and what nobody
    could see.
    """
    held: list[str] = []
    unruled: list[str] = []
    nowhere: list[str] = []
    broken: list[str] = []
    for oracle in ORACLES:
        states = [case.oracles.get(oracle, "not-applicable") for case in cases]
        if "broken" in states:
            who = dict.fromkeys(
                case.group or case.name
                for case, state in zip(cases, states, strict=True)
                if state == "broken"
            )
            broken.append(f"{oracle} ({', '.join(who)})")
        elif "held" in states:
            held.append(oracle)
        elif "not-ruled-on" not in states:
            nowhere.append(oracle)
        if "not-ruled-on" in states:
            some = [c for c, s in zip(cases, states, strict=True) if s == "not-ruled-on"]
            names = ", ".join(dict.fromkeys(case.group or case.name for case in some))
            unruled.append(oracle if len(some) == len(cases) else f"{oracle} ({names})")
    parts = [f"held: {', '.join(held)}"] if held else []
    parts += [f"broken: {', '.join(broken)}"] if broken else []
    parts += [f"not ruled on: {', '.join(unruled)}"] if unruled else []
    parts += [f"not applicable: {', '.join(nowhere)}"] if nowhere else []
    if parts:
        yield Paragraph("oracles", "; ".join(parts) + ".")


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _sentences(*texts: str) -> str:
    return " ".join(
        text if text.endswith((".", "!", "?")) else f"{text}." for text in texts if text
    )


def _print(paragraph: Paragraph, console: Console, width: int) -> None:
    """Label and text side by side; a blank line for BLANK, nothing where there is no text."""
    headline = paragraph.label in ("ok", "WRONG")
    margin = " " * (_INDENT + _LABEL) if paragraph.label else ""
    body = textwrap.wrap(paragraph.text, width - len(margin), break_on_hyphens=False)
    if paragraph.label in ("folder", "replay"):
        body = [paragraph.text] * bool(paragraph.text)  # to be copied in one piece
    for number, line in enumerate(body):
        text = Text()
        if paragraph.label:
            label = f"{paragraph.label if number == 0 else '':<{_LABEL}}"
            text.append(f"{' ' * _INDENT}{label}", paragraph.style if headline else "dim")
        text.append(line, paragraph.style)
        console.print(text, soft_wrap=True, highlight=False)
    if paragraph is BLANK:
        console.print()
