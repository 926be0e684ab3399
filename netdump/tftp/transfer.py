"""A write-only TFTP transfer as a state machine: datagrams and silence in, what is due out.

    state     what is out                   OACK     ACK       ERROR     other     silence
    ASKING    the write request             agree    begin     refused   -         ask again
    SENDING   blocks, the last not yet      -        advance   abort     -         the window again
    CLOSING   blocks, the last among them   -        advance   abort     -         the window again
    DONE      nothing: the last block is acknowledged
    FAILED    nothing: ``failure`` says why

``TABLE`` is that table; a dash is refused, and counted. It obeys these rules:

* Blocks have numbers from 1 that never end; only on the wire they have 16 bits. After 65535 comes
  what was agreed, 0 or 1 (``options.py``).
* *No Sorcerer's Apprentice* (RFC 1123 4.2.3.1). An ACK causes a sending only by naming a block that
  no ACK before it named, so each does so once; the same ACK again changes nothing. What nothing but
  a repeated ACK could tell, that the first block of a window was lost, silence tells later.
* An ACK that names a part of the window (RFC 7440) says that the rest was lost, or that it is to
  come: some servers acknowledge each block. So the rest is sent again when no further ACK has come
  for half a round trip (``gap``).
* The server's *transfer port* is where the first OACK or ACK came from (RFC 1350 section 4). From
  then on a datagram from another port is answered by ERROR 5 and changes nothing; an ERROR is not
  answered. An ERROR to the request may come from anywhere: no port is known yet.
* An ERROR 8 to a request with options makes it a request without (RFC 2347), once.
* The first block whose number is 0 again ends its window, unless the server has said that it goes
  on there. One that goes on at 1 drops it, and would take the block after it, number 1, for it:
  the file would lack a block, and both would call it done.
* The *last ACK*: a server that sent it has done its part, and may be gone. If it is lost the client
  can't know. It sends the last window again, as often as any other; then it says just that.

Here is no wire, no memory and no time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from netdump.errors import MalformedTftp, SendFailed
from netdump.tftp import failures
from netdump.tftp.numbers import TURN, ahead, on_wire
from netdump.tftp.options import Agreed, Refused, agree, asked
from netdump.tftp.packets import (
    Ack,
    Code,
    Error,
    Oack,
    Packet,
    pack_error,
    pack_request,
    parse,
)
from netdump.tftp.rules import TftpRules
from netdump.udplink import Tell


class State(Enum):
    ASKING = "herald the dump"
    SENDING = "send memory"
    CLOSING = "close the dump"
    DONE = "done"
    FAILED = "failed"


class Transfer:
    """One file. Ask what is ``due``, say what was ``sent``, tell what was heard, until ``over``."""

    def __init__(
        self,
        rules: TftpRules,
        length: int,
        mtu: int,
        refuse: Callable[[str, int], None] = lambda _reason, _count: None,
        tell: Tell = lambda _what, **_evidence: None,
    ) -> None:
        """``length`` octets are to be written."""
        self.state = State.ASKING
        self.failure: SendFailed | None = None
        self.port: int | None = None
        """The server's, of this transfer."""
        self.agreed = Agreed()
        self.blocks = 0
        """How many there are, when it is agreed how long they are."""
        self.gap = False
        """A part of the window was acknowledged, and nothing since."""
        self.answers: list[tuple[int, bytes]] = []
        """(port, ERROR) to be sent, once, besides what is due."""
        self._rules = rules
        self._length = length
        self._mtu = mtu
        self._refuse = refuse
        self._tell = tell
        self._wanted: dict[str, str] = asked(rules, length, mtu)
        self._request_due = True
        self.asked_before = 0
        """Whether the request was sent before."""
        self._turns_unsure = False
        self._rounds = 0
        self._taken = 0  # by the NIC, since the latest silence
        self._base = 1  # the first block that is not acknowledged
        self._next = 1  # the next one to send
        self._end = 1  # the one after the window
        self._sent_to = 1  # the one after all that were ever sent

    @property
    def over(self) -> bool:
        return self.state in (State.DONE, State.FAILED)

    @property
    def acknowledged(self) -> int:
        """The last block that is, from 1; 0 where none is."""
        return self._base - 1

    # --- what is due --------------------------------------------------------------------------

    def request(self) -> bytes | None:
        """The write request, where it is due."""
        if not self._request_due:
            return None
        return pack_request(self._rules.file.encode(), self._wanted)

    def due(self) -> range:
        """The blocks to send now, from 1."""
        if self.state is State.ASKING or self.over:
            return range(0)
        return range(self._next, self._end)

    def again(self, blocks: range) -> int:
        """How many of these were sent before."""
        return max(0, min(blocks.stop, self._sent_to) - blocks.start)

    def sent(self, count: int) -> None:
        """The NIC took so many of what was due, from the front."""
        self._taken += count
        if self.state is State.ASKING:
            self._request_due = self._request_due and not count
            self.asked_before |= count
            return
        self._next += count
        self._sent_to = max(self._sent_to, self._next)
        if self._sent_to > self.blocks:
            self.state = State.CLOSING

    def numbers(self, blocks: range) -> NDArray[np.int64]:
        """Their numbers on the wire."""
        return on_wire(np.arange(blocks.start, blocks.stop), self.agreed.rollover)

    # --- what comes in ------------------------------------------------------------------------

    def hear(self, port: int, datagram: bytes) -> bool:
        """Something from a port of the server's; whether it is a step forward."""
        if self.over:
            return False
        try:
            packet = parse(datagram)
        except MalformedTftp as error:
            packet, reason = None, error.reason
        if self.port is not None and port != self.port:
            self._refuse("tftp-port", 1)
            if not isinstance(packet, Error):
                self._answer(port, Code.UNKNOWN_TRANSFER, UNKNOWN_TRANSFER)
            return False
        if packet is None:
            self._refuse(reason, 1)
            return False
        step = TABLE[self.state].get(type(packet))
        if step is None:
            self._refuse("tftp-unasked", 1)
            return False
        moved = step(self, port, packet)
        if moved:
            self._rounds = 0
        return moved

    def _agree(self, port: int, packet: Oack) -> bool:
        self._tell("tftp-oack", port=port, options=dict(packet.options))
        return self._begin_with(port, packet.options)

    def _begin(self, port: int, packet: Ack) -> bool:
        if packet.block:
            self._refuse("tftp-unasked", 1)
            return False
        return self._begin_with(port, {})

    def _begin_with(self, port: int, given: Mapping[str, str]) -> bool:
        self.port = port
        self._tell("server-port", port=port)
        try:
            self.agreed = agree(self._rules, self._wanted, given, self._mtu)
        except Refused as refusal:
            self._answer(port, Code.OPTIONS, str(refusal))
            return self._fail(failures.answer_refused(str(refusal)))
        self.blocks = self._length // self.agreed.blksize + 1
        self._turns_unsure = not self.agreed.rollover and "rollover" not in given
        self.state = State.SENDING
        self._request_due = False
        self.open_window()
        return True

    def _advance(self, _port: int, packet: Ack) -> bool:
        step = ahead(packet.block, self.acknowledged, self.agreed.rollover)
        if not 0 < step < self._sent_to - self.acknowledged:
            self._refuse("ack-future" if step > 0 else "ack-late", 1)
            return False
        self._base += step
        if self._base > self.blocks:
            self.state = State.DONE
        elif self._base >= self._end:
            self.open_window()
        else:
            self._next = max(self._next, self._base)
            self.gap = True
        return True

    def _refused(self, _port: int, error: Error) -> bool:
        if error.code == Code.OPTIONS and self._wanted:
            self._tell("tftp-no-options", said=str(error))
            self._wanted = {}
            self._request_due = True
            self.asked_before = 0
            return True
        return self._fail(failures.request_refused(error))

    def _abort(self, _port: int, error: Error) -> bool:
        closing = self.state is State.CLOSING
        return self._fail(failures.ended_by(error, self.acknowledged, self.blocks, closing))

    # --- what does not come -------------------------------------------------------------------

    def silence(self) -> None:
        """Nothing came for as long as one waits: send again what is out, or give up."""
        self._rounds += 1
        if self._rounds > self._rules.retries:
            self._give_up()
            return
        self._taken = 0
        if self.state is State.ASKING:
            self._request_due = True
        else:
            self.open_window()

    def open_window(self) -> None:
        """It begins at the first block that is not acknowledged, sent before or not."""
        self.gap = False
        self._next = self._base
        self._end = min(self._base + self.agreed.windowsize, self.blocks + 1)
        if self._turns_unsure and self._base <= TURN < self._end:
            self._end = TURN + 1

    def _give_up(self) -> None:
        rounds, acknowledged = self._rounds, self.acknowledged
        if not self._taken:
            self._fail(failures.nic_stuck(acknowledged, self.blocks))
        elif self.state is State.ASKING:
            self._fail(failures.not_answered(rounds))
        elif self.state is State.CLOSING:
            self._fail(failures.not_closed(rounds, acknowledged, self.blocks))
        else:
            why = failures.not_acknowledged(rounds, acknowledged, self.blocks, self.agreed)
            self._fail(why)

    def _answer(self, port: int, code: Code, text: str) -> None:
        self.answers.append((port, pack_error(code, text)))

    def _fail(self, failure: SendFailed) -> bool:
        self.state = State.FAILED
        self.failure = failure
        return True


#: What an answer from another port than the transfer's is told.
UNKNOWN_TRANSFER: Final = "this transfer is with another port"

#: State -> packet -> what is done. What is missing is refused.
TABLE: Final[Mapping[State, Mapping[type[Packet], Callable[[Transfer, int, Any], bool]]]] = {
    State.ASKING: {Oack: Transfer._agree, Ack: Transfer._begin, Error: Transfer._refused},
    State.SENDING: {Ack: Transfer._advance, Error: Transfer._abort},
    State.CLOSING: {Ack: Transfer._advance, Error: Transfer._abort},
}
