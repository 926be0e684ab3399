"""Whose fault it was: our own mistake and the peer's are different types.

A dumping kernel must go on whatever a peer sends, so code that reads from the wire catches
``PeerError`` and counts its ``reason``. A ``LocalError`` means that the caller broke a rule of
ours; nobody should catch it to go on.

Every class names its ``reason``: short, fixed, made for counters and verdicts. The message is for
people: what, where, what to do. ``evidence`` holds the first octets of what was refused.
"""

from __future__ import annotations

import errno
from typing import ClassVar

#: How much of a refused datagram an exception keeps: enough for every header of ours.
EVIDENCE_SIZE = 64


class NetdumpError(Exception):
    """Anything that this package raises on purpose."""

    reason: ClassVar[str] = "netdump"

    def __init__(self, message: str, evidence: bytes = b"") -> None:
        super().__init__(message)
        self.evidence = bytes(evidence[:EVIDENCE_SIZE])

    def __str__(self) -> str:
        text = super().__str__()
        return f"{text} [{self.evidence.hex()}]" if self.evidence else text


class LocalError(NetdumpError):
    """Our mistake: an argument or a state that this side should never have produced."""

    reason = "local"


class PeerError(NetdumpError):
    """Their mistake: octets from outside that break the protocol."""

    reason = "peer"


class SendFailed(PeerError):
    """The peer, or the way to it, did not take what was sent. ``errno`` is the kernel's."""

    reason = "send-failed"

    def __init__(self, code: int, why: str) -> None:
        super().__init__(f"{errno.errorcode[code]}: {why}")
        self.errno = code


class MalformedMessage(PeerError):
    """A UDP payload that is no netdump message."""

    reason = "malformed-message"


class Runt(MalformedMessage):
    """Shorter than the 24-octet header."""

    reason = "runt"


class LengthMismatch(MalformedMessage):
    """The header's length is not that of the payload which arrived."""

    reason = "length-mismatch"


class TooLong(MalformedMessage):
    """More octets than the receiver takes: cut on its way in."""

    reason = "datagram-too-long"


class UnknownType(MalformedMessage):
    """A message type outside 1..5."""

    reason = "unknown-type"


class BadCrc(MalformedMessage):
    """The CRC32C in a message's header is not that of its octets."""

    reason = "crc"


class BadTag(MalformedMessage):
    """The tag of a message of an authenticated session is wrong."""

    reason = "tag"


class BadChallenge(MalformedMessage):
    """A challenge that is not the answer to our HERALD, or was made without the key."""

    reason = "challenge"


class BadNak(MalformedMessage):
    """A NAK that is not about this dump."""

    reason = "nak"


class BadProof(MalformedMessage):
    """A proof that can't be read."""

    reason = "bad-proof"


class BadHeraldPath(MalformedMessage):
    """A HERALD whose payload is no safe relative directory path."""

    reason = "bad-herald-path"


class BadAck(MalformedMessage):
    """An acknowledgement that is neither four octets nor a selective one."""

    reason = "bad-ack"


class AckOfUnsent(MalformedMessage):
    """An acknowledgement of messages that were never sent."""

    reason = "ack-future"


class MalformedTftp(PeerError):
    """A UDP payload that is no TFTP packet."""

    reason = "malformed-tftp"


class MalformedHeader(PeerError):
    """A kernel dump header (KDH) that can't be believed."""

    reason = "malformed-kdh"


class KdhLength(MalformedHeader):
    """Not 512 octets."""

    reason = "kdh-length"


class KdhMagic(MalformedHeader):
    """Neither a kernel dump's magic nor a text dump's."""

    reason = "kdh-magic"


class KdhVersion(MalformedHeader):
    """A layout that is none of versions 1 to 4."""

    reason = "kdh-version"


class KdhParity(MalformedHeader):
    """The 128 words do not XOR to zero."""

    reason = "kdh-parity"


class MalformedKey(PeerError):
    """The key block of an encrypted dump (EKCD) that can't be used."""

    reason = "malformed-key"


class EkcdLength(MalformedKey):
    """Not a whole block."""

    reason = "key-length"


class EkcdCipher(MalformedKey):
    """A cipher that is not known."""

    reason = "key-cipher"


class EkcdKeySize(MalformedKey):
    """An encrypted key of no octets, or of more than there can be."""

    reason = "key-size"


class EkcdPadding(MalformedKey):
    """It goes on behind its encrypted key."""

    reason = "key-padding"


class EkcdWrongKey(MalformedKey):
    """The private key does not open it."""

    reason = "key-wrong"


class MalformedStream(PeerError):
    """Compressed octets that can't be decompressed."""

    reason = "malformed-stream"


class MalformedArp(PeerError):
    """An ARP packet that is not one of Ethernet and IPv4."""

    reason = "malformed-arp"


class ArpShort(MalformedArp):
    """Fewer octets than an Ethernet header and 28."""

    reason = "arp-short"


class ArpProtocol(MalformedArp):
    """Not about IPv4 addresses (or not ARP at all)."""

    reason = "arp-protocol"


class ArpLength(MalformedArp):
    """Address lengths other than 6 and 4, which a stock client would copy by unchecked."""

    reason = "arp-length"


class ArpOperation(MalformedArp):
    """Neither a request nor a reply."""

    reason = "arp-operation"
