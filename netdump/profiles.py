"""Client profiles: one client, a table of behaviours; a profile is a row.

Each column is a decision that some version of the client took differently. A remark of the 2010
review, or a defect proven since, is one column, so it can be seen to fail in one row and to hold in
another. ``client.py``, ``link.py`` and ``window.py`` read the columns; none of them asks for a
profile by name.

Sources: ``patch-2010`` is the patch under review on freebsd-net, October 2010; ``freebsd-14`` is
sys/net/debugnet.c, debugnet_inet.c and sys/netinet/netdump/netdump_client.c; ``netdump2`` is ours.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final, Literal

from netdump.arp import HARDWARE_ETHERNET, HARDWARE_LAX
from netdump.compress import Compression
from netdump.ekcd import Encryption
from netdump.inet import Checks
from netdump.offer import CRC32C, DIGEST, SELECTIVE_ACKS


@dataclass(frozen=True, slots=True)
class Profile:
    """A row of the table. Counts are polls and rounds, times are microseconds of DELAY."""

    name: str

    # -- the link ----------------------------------------------------------------------------
    checks: Checks
    """What is verified of a received frame before it is believed."""
    arp_hardware_types: frozenset[int]
    arp_targets: Literal["server, then gateway", "gateway only"]
    arp_retries: int
    later_arp_replies_count: bool
    """A reply that comes when the MAC is known already replaces it (FreeBSD 12 and 13.0)."""
    ttl: int
    ack_port_is_checked: bool
    """Acks must come from the port that acknowledged the HERALD, and only that ack fixes it."""
    selective_acks: bool
    """The HERALD offers them (``sack.py``); a server that does not know them changes nothing."""
    message_crc: bool
    """It offers a CRC32C of each message (``crc.py``), too. Needs selective acks."""
    dump_digest: bool
    """It offers a digest of the dump in FINISHED (``digest.py``), too. Needs selective acks."""
    key_is_required: bool
    """If it has a key (``opening.py``), it dumps to no server that does not show that it has it."""

    # -- waiting -----------------------------------------------------------------------------
    polls: int
    """Polls without progress before a retransmission round."""
    retries: int
    """Rounds without progress before ETIMEDOUT."""
    poll_delay_us: int

    # -- the window --------------------------------------------------------------------------
    window: Literal["stop-and-wait", "sliding"]
    window_frames: int
    """The most frames between the first that is not acknowledged and the last sent. Stop-and-wait
    has none: a 64 KiB chunk decides."""
    ack_bits: Literal["int32", "exact"]
    """"int32": the bitmap is made of shifted plain ints, so fragment 32+k aliases fragment k."""
    first_seqno: Literal["one", "drawn"]
    """"drawn": from the machine's entropy, so an off-path sender can't guess the acks."""

    # -- the dump ----------------------------------------------------------------------------
    mbufs: Literal["ordinary", "pool"]
    header: Literal["first", "last"]
    footer: bool
    """A second copy of the header follows the data, as on disk."""
    unlimited_is_size_zero: bool
    copies_to_buffer: bool
    """Chunks are copied to a static 64 KiB buffer and sent from there."""
    connect_errors_are_einval: bool
    """Whatever kept the client from its server reaches the caller as EINVAL (netdump_start)."""
    reports_unfinished: bool
    """A FINISHED that nobody acknowledged reaches the caller as an error."""
    compression: Compression | None = None
    """dumpon's -z or -Z (``compress.py``)."""
    encryption: Encryption | None = None
    """dumpon's -k and -C (``ekcd.py``)."""

    @property
    def transforms(self) -> bool:
        """What is sent is not what memory holds."""
        return self.compression is not None or self.encryption is not None

    @property
    def offer(self) -> int:
        """The bits of what its HERALD offers; 0: it offers nothing, as stock clients."""
        if not self.selective_acks:
            return 0
        return SELECTIVE_ACKS | CRC32C * self.message_crc | DIGEST * self.dump_digest


_FREEBSD_14: Final = Profile(
    name="freebsd-14",
    checks=Checks(ip_checksum=False, udp_checksum=False),
    arp_hardware_types=frozenset({HARDWARE_ETHERNET}),
    arp_targets="server, then gateway",
    arp_retries=3,
    later_arp_replies_count=False,
    ttl=255,
    ack_port_is_checked=False,
    selective_acks=False,
    message_crc=False,
    dump_digest=False,
    key_is_required=True,
    polls=2000,
    retries=10,
    poll_delay_us=500,
    window="stop-and-wait",
    window_frames=64,
    ack_bits="int32",
    first_seqno="one",
    mbufs="pool",
    header="last",
    footer=False,
    unlimited_is_size_zero=True,
    copies_to_buffer=True,
    connect_errors_are_einval=True,
    reports_unfinished=False,
)

_PATCH_2010: Final = replace(
    _FREEBSD_14,
    name="patch-2010",
    checks=Checks(
        destination_mac=False, reject_options=False, ip_checksum=False, udp_checksum=False
    ),
    arp_hardware_types=HARDWARE_LAX,
    arp_targets="gateway only",
    later_arp_replies_count=True,
    ttl=32,
    polls=10000,
    mbufs="ordinary",
    header="first",
    footer=True,
    connect_errors_are_einval=False,
)

_NETDUMP2: Final = replace(
    _FREEBSD_14,
    name="netdump2",
    checks=Checks(),
    ack_port_is_checked=True,
    selective_acks=True,
    message_crc=True,
    dump_digest=True,
    arp_retries=15,  # 3 s, as stock: a NIC just taken over, or its switch, may be deaf that long
    polls=200,
    retries=50,
    poll_delay_us=1000,  # fewer, larger bursts; the ring holds 6 ms of gigabit
    window="sliding",
    window_frames=32768,  # what that takes, and why: sliding.py
    ack_bits="exact",
    first_seqno="drawn",
    unlimited_is_size_zero=False,
    copies_to_buffer=False,
    connect_errors_are_einval=False,
    reports_unfinished=True,
)

PROFILES: Final = MappingProxyType({row.name: row for row in (_PATCH_2010, _FREEBSD_14, _NETDUMP2)})
