"""``TftpClient``: a dump client that writes one file by TFTP, over the same NIC drivers as netdump.

It finds the server's MAC, asks to write, sends the dump and its header as one stream
(``stream.py``), and is done when the last block is acknowledged. What may happen on the way is
``transfer.py``; how long anything is waited for, ``patience.py``. This module joins them to the
link: what is due is sent from where it lies, what was heard is handed on.

It keeps the panic's contract as ``NetdumpClient`` does: all it needs is taken from the arena at
boot, it takes mbufs from the panic's zone alone, and knows of time only what it asked DELAY for.

Steps have netdump's names. The write request heralds the dump; the last block closes it.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Final

import numpy as np

from netdump.client import DumpRequest, Report, Step
from netdump.contracts import DebugnetMethods, Mbufs, Memory
from netdump.dumper import DumperInfo, DumpImage, DumpRefused
from netdump.errors import SendFailed
from netdump.tftp.packets import SERVER_PORT, data_headers
from netdump.tftp.patience import Patience
from netdump.tftp.rules import TftpRules
from netdump.tftp.stream import Stream
from netdump.tftp.transfer import State, Transfer
from netdump.udplink import Heard, Tell, UdpLink

#: A packet that is no DATA: its first octets are headers to the NIC, the rest lies in the arena.
_HEAD: Final = 4
#: The longest request (RFC 2347), and the longest ERROR of ours.
_REQUEST_SIZE: Final = 512
_ERROR_SIZE: Final = 256
#: Ports that IANA leaves to be drawn from.
_DYNAMIC: Final = range(49152, 65536)
#: ERRORs to strange ports that one poll may cause.
_MOST_ANSWERS: Final = 8

_STEPS: Final = {
    State.ASKING: Step.HERALD,
    State.SENDING: Step.DATA,
    State.CLOSING: Step.FINISH,
}


class TftpClient:
    """One dump. Make it at boot (it reserves memory), ``dump`` once, in the panic."""

    def __init__(self, rules: TftpRules, memory: Memory, image: DumpImage) -> None:
        self.rules = rules
        self.image = image
        self.stream = Stream(memory, image, rules.blksize)
        self._memory = memory
        self._request_at = memory.reserve(_REQUEST_SIZE, 64)
        self._errors_at = memory.reserve(_MOST_ANSWERS * _ERROR_SIZE, 64)

    def dump(
        self,
        request: DumpRequest,
        nic: DebugnetMethods,
        mbufs: Mbufs,
        delay_us: Callable[[int], None],
        tell: Tell,
    ) -> Report:
        """Send the whole image; never raises for what the peer or the network did."""
        port = self.rules.source_port
        if port is None:
            port = _DYNAMIC[request.draw % len(_DYNAMIC)]
        link = UdpLink(self.rules, request.link, port, nic, self._memory, mbufs, delay_us, tell)
        report = Report(self.rules.name, dump_length=self.image.length, stats=link.stats)
        session = _Session(self, request, link, tell)
        try:
            session.run()
            report.claims_success = True
        except (SendFailed, DumpRefused) as failure:
            report.error = errno.errorcode[failure.errno]
            report.failed_in = session.step
            report.detail = str(failure)
        finally:
            link.close()
        end = Step.DONE if report.claims_success else Step.FAILED
        tell("step", step=end.value, poll=link.stats.polls, error=report.error)
        return report


class _Session:
    """The transfer of one dump over its link."""

    def __init__(self, client: TftpClient, request: DumpRequest, link: UdpLink, tell: Tell) -> None:
        self.step = Step.RESOLVE
        self._client = client
        self._request = request
        self._link = link
        self._tell = tell
        self._stream = client.stream
        rules = client.rules
        self._port = request.link.server_port or SERVER_PORT
        self._patience = Patience(rules)
        self._transfer = Transfer(rules, self._stream.length, link.mtu, link.refuse, tell)

    def run(self) -> None:
        """Raises ``SendFailed`` or ``DumpRefused``."""
        transfer, patience, link = self._transfer, self._patience, self._link
        tell_step = self._say_step
        tell_step(Step.RESOLVE)
        link.open()
        self._stream.begin(self._request.header.pack(), DumperInfo(unlimited=True))
        while not transfer.over:
            tell_step(_STEPS[transfer.state])
            self._send()
            if self._hear(link.poll_udp()):
                patience.progress()
                continue
            delay = patience.delay_us
            link.delay(delay)
            patience.waited(delay)
            if transfer.gap and patience.gap_is_certain:
                transfer.open_window()
            elif patience.ended:
                patience.sends_again()
                transfer.silence()
        self._answer()
        if transfer.failure is not None:
            raise transfer.failure

    def _say_step(self, step: Step) -> None:
        if step is not self.step or step is Step.RESOLVE:
            self.step = step
            self._tell("step", step=step.value, poll=self._link.stats.polls)

    # --- sending ------------------------------------------------------------------------------

    def _send(self) -> None:
        transfer, link = self._transfer, self._link
        request = transfer.request()
        if request is not None:
            again = transfer.asked_before
            taken = self._send_packet(self._port, request, self._client._request_at)
            transfer.sent(taken)
            self._note("WRQ", 0, taken, 1, again and taken)
            return
        blocks = transfer.due()
        if not blocks:
            return
        again = transfer.again(blocks)
        size = transfer.agreed.blksize
        addresses, lengths = self._stream.blocks(blocks.start - 1, len(blocks), size)
        headers = data_headers(transfer.numbers(blocks))
        assert transfer.port is not None, "agreed with a port"
        taken = link.send_udp(transfer.port, headers, addresses, lengths)
        if taken and not again and blocks.start == transfer.acknowledged + 1:
            self._patience.sends_new()
        transfer.sent(taken)
        self._note("DATA", blocks.start, taken, len(blocks), min(again, taken))

    def _send_packet(self, port: int, packet: bytes, at: int) -> int:
        """One that is no DATA, its rest from a place in the arena."""
        rest = np.frombuffer(packet[_HEAD:], np.uint8)
        self._client._memory.buffer[at : at + len(rest)] = rest
        head = np.frombuffer(packet[:_HEAD], np.uint8)[None, :]
        return self._link.send_udp(port, head, np.array([at]), np.array([len(rest)]))

    def _answer(self) -> None:
        """ERRORs to be sent, once: nothing depends on whether they arrive."""
        answers, self._transfer.answers = self._transfer.answers, []
        for slot, (port, error) in enumerate(answers[:_MOST_ANSWERS]):
            at = self._client._errors_at + slot * _ERROR_SIZE
            taken = self._send_packet(port, error[:_ERROR_SIZE], at)
            self._tell("sent", message="ERROR", port=port, frames=taken)

    def _note(self, message: str, first: int, taken: int, of: int, again: int) -> None:
        poll = self._link.stats.polls
        self._tell(
            "sent", message=message, seqno=first, frames=taken, refused=of - taken, poll=poll
        )
        if again:
            self._link.retransmits(again, "no progress")

    # --- receiving ----------------------------------------------------------------------------

    def _hear(self, heard: Heard | None) -> bool:
        """Whether something of what one poll brought is a step forward."""
        if heard is None:
            return False
        frames, rows, got = heard
        stats, mac = self._link.stats, self._link.mac
        before, moved = self._transfer.acknowledged, False
        for row in rows.tolist():
            start = int(got.payload_start[row])
            payload = frames.data[row, start : start + int(got.payload_length[row])].tobytes()
            if self._transfer.hear(int(got.source_port[row]), payload):
                moved = True
                stats.foreign_accepted += frames.data[row, :6].tobytes() != mac
        acknowledged = self._transfer.acknowledged
        if count := acknowledged - before:
            stats.acks += count
            self._tell("acks", first=before + 1, last=acknowledged, count=count, poll=stats.polls)
        self._answer()
        return moved
