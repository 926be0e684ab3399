"""Frames for the wire's tests, crafted by scapy, which knows nothing of our code."""

from __future__ import annotations

import struct
from typing import Any

from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import ARP, Ether

CLIENT_MAC, SERVER_MAC = "02:00:5e:00:00:02", "02:00:5e:00:10:01"
CLIENT_IP, SERVER_IP = "198.18.0.2", "198.18.0.1"
HERALD, FINISHED, VMCORE, KDH, KEY = 1, 2, 3, 4, 5


def message(kind: int, seqno: int, payload: bytes = b"", offset: int = 0) -> bytes:
    """A client's UDP payload."""
    return struct.pack(">IIQII", kind, seqno, offset, len(payload), 0) + payload


def datagram(
    payload: bytes,
    *,
    dport: int = 20023,
    sport: int = 20024,
    dst: str = SERVER_MAC,
    src: str = CLIENT_MAC,
    src_ip: str = CLIENT_IP,
    dst_ip: str = SERVER_IP,
    **ip: Any,
) -> bytes:
    """An Ethernet frame from the client, unless the arguments say otherwise."""
    head = Ether(dst=dst, src=src) / IP(src=src_ip, dst=dst_ip, id=0, flags="DF", **ip)
    return bytes(head / UDP(sport=sport, dport=dport) / payload)


def vmcore(seqno: int, size: int = 1448, dport: int = 40000) -> bytes:
    """A piece of a dump: its bytes depend on the seqno."""
    payload = bytes((seqno * 7 + i) & 0xFF for i in range(size))
    return datagram(message(VMCORE, seqno, payload, seqno * size), dport=dport)


def ack(seqno: int, sport: int = 40000, dst: str = CLIENT_MAC) -> bytes:
    """A server's ack."""
    return datagram(
        struct.pack(">I", seqno),
        sport=sport,
        dport=20024,
        dst=dst,
        src=SERVER_MAC,
        src_ip=SERVER_IP,
        dst_ip=CLIENT_IP,
    )


def arp_request(target_ip: str = SERVER_IP) -> bytes:
    """The client asks who has an address."""
    return bytes(
        Ether(src=CLIENT_MAC, dst="ff:ff:ff:ff:ff:ff")
        / ARP(op=1, hwsrc=CLIENT_MAC, psrc=CLIENT_IP, pdst=target_ip)
    )


def arp_reply() -> bytes:
    """The client says where it is."""
    return bytes(
        Ether(src=CLIENT_MAC, dst=SERVER_MAC)
        / ARP(op=2, hwsrc=CLIENT_MAC, psrc=CLIENT_IP, hwdst=SERVER_MAC, pdst=SERVER_IP)
    )
