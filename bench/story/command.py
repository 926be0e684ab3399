"""A client that is somebody else's program, on the machine's end of the wire.

No machine of ours dies here. Memory is a file, grown from the seed as a synthetic machine's is; the
program gets it, an interface and some addresses, and what it sends passes what our own client's
frames pass::

    program - interface - (our descriptor) - LatePeer - Bystanders - Faults - wire - host - server

Its word is its exit status: 0 claims that the server has all of it, anything else that it has not.
One that still runs when its time is over is killed, and is out of time.

What its dump must be. A client that dumps memory may put headers before it: the kernel dump header
says how long the dump is, and what it is longer than memory is headers, at most ``MOST_HEADERS``.
Those are held against what the witness saw sent, and the rest against the file. A client that dumps
something of its own is held against the witness alone, who saw its messages before any fault did;
what it promised and never sent is a hole. What a client sends in IP fragments the witness has not
seen: those headers, or all that is the client's own, are then not ruled on.

Nobody sees into the program. So what only a guard could have seen is not ruled on.
"""

from __future__ import annotations

import select
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import numpy as np

from bench.clients.command import ClientCommand
from bench.clients.machine_end import MachineEnd, Place, open_machine_end
from bench.clients.program import ClientProgram
from bench.judge.compare import Expected, Image
from bench.judge.evidence import in_pieces
from bench.judge.sent import SentBytes
from bench.scenario.schema import ResolvedCase
from bench.story.stage import CLIENT_IP, CLIENT_MAC, Stage
from bench.story.told import Tell, Told
from bench.wire.tap import InterfaceDown, TapWire
from guest.synthetic import contents
from netdump.client import Report
from netdump.messages import HERALD_PORT

#: Of a dump that is longer than memory: the most that headers may take.
MOST_HEADERS: Final = 1 << 20
#: The longest that nothing is done while nothing arrives, ms: a wire may hold frames back.
IDLE_MS: Final = 1
#: Batches that a client may leave behind when it ends: more than its interface's queue holds.
_MOST_LEFT: Final = 100

_NOBODY: Final = "the client is a program of its own: no guard and no NIC of ours sees what it does"
UNSEEN: Final[Mapping[str, str]] = {"panic-hygiene": _NOBODY, "device-truth": _NOBODY}
#: What a case may expect to be counted, and only our own client counts.
UNCOUNTED: Final = frozenset({"error", "foreign_frames_accepted", "refused", "nic_wrote_pages"})


class CommandStory:
    """One case with such a client: ``boot``, ``live``, ``dump``, in that order."""

    emulator = None

    def __init__(
        self, case: ResolvedCase, stage: Stage, seed: int, tell: Tell, command: ClientCommand
    ) -> None:
        self._case = case
        self._stage = stage
        self._seed = seed
        self._tell = tell
        self._command = command
        self._memory = np.empty(0, np.uint8)
        self._file: Path = (stage.folder / "memory").absolute()
        server = stage.server
        self._sent = SentBytes(stage.folder, "stock" if server is None else server.protocol)
        self._unheard = 0

    # -- before ------------------------------------------------------------------------------

    def boot(self) -> None:
        """Memory, and the machine's end of the wire. ``BadInput``, ``MachineLacks``."""
        stage, wanted = self._stage, self._case.machine
        self._command.filled(dict.fromkeys(self._values("", ""), ""))  # is there such a program?
        # A machine of another kind may not know that it could have none.
        zeros = getattr(self._case.machine_part.options, "zero_pages", True)
        self._memory = np.empty(wanted.memory, np.uint8)
        contents.fill(self._memory, self._seed, zero_pages=zeros)
        stage.closing.callback(self._file.unlink, missing_ok=True)
        self._memory.tofile(self._file)
        self._file.chmod(0o444)
        place = Place(
            mac=CLIENT_MAC,
            mtu=self._case.nic.mtu,
            address=CLIENT_IP,
            gateway=stage.gateway_ip,
            stack=self._command.stack,
        )
        self._end: MachineEnd = open_machine_end(place, stage.clock, stage.closing)

    def live(self) -> str:
        """It has no ordinary life."""
        return "before its client was started"

    def sent(self, expected: Expected) -> Expected:
        return expected

    def expected(self) -> Expected:
        """While it runs, what it acknowledged is held against what it sent."""
        return self._sent

    def give_back(self) -> None:
        self._memory = np.empty(0, np.uint8)
        self._sent.close()

    # -- the client --------------------------------------------------------------------------

    def dump(self, _struck: str) -> Told:
        stage, command = self._stage, self._command
        told = Told(None, None, Report(self._case.profile), unseen=UNSEEN, uncounted=UNCOUNTED)
        argv = command.filled(self._values(self._end.interface, str(self._file)))
        program = ClientProgram(
            argv,
            stage.folder / "client.log",
            environment=command.environment,
            user=command.user,
        )
        stage.closing.callback(program.kill)
        self._tell("client starts", command=argv)
        began = stage.clock.now_ns()
        reads = self._file if command.dumps == "memory" else None
        program.start(self._end.inside.run, reads)
        if (late := self._play(program)) is None:
            ended = program.end()
            self._tell("client ended", status=ended.status, last_line=ended.last_line)
            told.report.claims_success = ended.claims_success
            told.report.detail = "" if ended.claims_success else str(ended)
        else:
            program.kill()
            told.out_of_time = late
        told.seconds = (stage.clock.now_ns() - began) / 1e9
        self._settle(told)
        return told

    def _values(self, interface: str, memory: str) -> dict[str, str]:
        stage = self._stage
        port = HERALD_PORT if stage.server is None else stage.server.address[1]
        return {
            "interface": interface,
            "mac": CLIENT_MAC.hex(":"),
            "mtu": str(self._case.nic.mtu),
            "address": CLIENT_IP,
            "gateway": stage.gateway_ip or "",
            "server": stage.server_ip,
            "port": str(port),
            "memory": memory,
        }

    def _play(self, program: ClientProgram) -> str | None:
        """Carry frames until it ends; why it was out of time, if it was."""
        stage, seconds = self._stage, self._command.seconds
        budgets = [stage.budget]
        if seconds is not None:
            budgets.append(stage.budget.part(seconds * 10**9))
        ends = select.poll()  # select(2) knows no descriptor beyond 1023
        for wire in (self._end.wire, stage.bare_wire):
            if isinstance(wire, TapWire):
                ends.register(wire, select.POLLIN)
        while program.look():
            now = stage.clock.now_ns()
            for budget in budgets:
                if budget.used_up(now):
                    return str(budget)
            if not self._turn():
                ends.poll(IDLE_MS)
        for _ in range(_MOST_LEFT):  # what it had sent when it ended
            if not self._turn():
                break
        return None

    def _turn(self) -> bool:
        """Both directions once; whether the client has sent anything, or will hear anything."""
        stage, wire = self._stage, self._end.wire
        out = wire.receive()
        if len(out):
            self._sent.observe(out)
            stage.wire.send(out)
        stage.far_end(stage.clock.now_ns())
        got = stage.wire.receive()
        if len(got):
            self._sent.heard(got)
            try:
                wire.send(got)
            except InterfaceDown:  # it is root of its network, and may do that
                self._unheard += len(got)
        return bool(len(out) or len(got))

    # -- after -------------------------------------------------------------------------------

    def _settle(self, told: Told) -> None:
        """What its dump must be, now that the witness has seen all of it."""
        sent, memory = self._sent, self._memory
        told.report.stats.retransmissions = sent.repeats
        told.report.stats.frames_sent = sent.messages
        told.header = sent.header
        told.footer = sent.header  # the patch of 2010 sends it behind the data, too
        promised = sent.length if sent.promised is None else sent.promised
        if self._command.dumps == "memory":
            headers = promised - len(memory) if sent.header else 0
            headers = headers if 0 < headers <= MOST_HEADERS else 0
            told.unknown = headers if sent.pieces else 0
            before = np.zeros(headers, np.uint8) if sent.pieces else sent.read(0, headers)
            told.image = Image([before, memory])
            told.notes += [f"It put {headers:,} bytes of headers before memory."] * bool(headers)
        else:
            told.never_sent = sent.never_sent(promised)
            told.image = _Cut(sent, promised)
            told.notes.append("Its dump is held against what it sent: no memory of it is known.")
        told.sent = _Cut(sent, min(promised, sent.length))
        if sent.pieces and (self._command.dumps == "own" or not sent.header):
            told.never_sent, told.unknown = [], promised
            says = in_pieces(sent.pieces)
            oracles = ("bytes-equal", "no-false-success", "no-false-failure")
            told.unseen = {**told.unseen, **dict.fromkeys(oracles, says)}
        if sent.not_kept:
            beyond = f"{sent.not_kept:,} messages were more than the witness keeps"
            told.unseen = {**told.unseen, "bytes-equal": beyond, "ack-means-kept": beyond}
        if sent.has_headers and not sent.header and sent.messages:
            told.notes.append("It sent no kernel dump header.")
        if self._unheard:
            told.notes.append(
                f"Its interface was down: it heard nothing of {self._unheard:,} frames."
            )


class _Cut:
    """What was sent, up to the end of the dump."""

    def __init__(self, sent: SentBytes, length: int) -> None:
        self.length = length
        self._sent = sent

    def read(self, start: int, end: int) -> np.typing.NDArray[np.uint8]:
        found = np.zeros(max(min(end, self.length) - start, 0), np.uint8)
        read = self._sent.read(start, start + len(found))
        found[: len(read)] = read
        return found
