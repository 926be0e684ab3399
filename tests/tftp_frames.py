"""TFTP's packets on the wire, by scapy's UDP: a client of ours and a server that drew its port."""

from __future__ import annotations

from tests import wire_frames as wf

CLIENT, SERVER = 50001, 40000


def _to_client(payload: bytes, sport: int, src: str = wf.SERVER_MAC) -> bytes:
    return wf.datagram(
        payload,
        sport=sport,
        dport=CLIENT,
        src=src,
        dst=wf.CLIENT_MAC,
        src_ip=wf.SERVER_IP,
        dst_ip=wf.CLIENT_IP,
    )


def _options(options: dict[str, object]) -> bytes:
    return b"".join(f"{name}\0{value}\0".encode() for name, value in options.items())


def wrq(*, sport: int = CLIENT, **options: object) -> bytes:
    return wf.datagram(b"\0\2vmcore\0octet\0" + _options(options), sport=sport, dport=69)


def data(number: int, payload: bytes, *, dport: int = SERVER, sport: int = CLIENT) -> bytes:
    """A block by the 16 bits that it has on the wire."""
    return wf.datagram(b"\0\3" + number.to_bytes(2, "big") + payload, sport=sport, dport=dport)


def oack(*, sport: int = SERVER, src: str = wf.SERVER_MAC, **options: object) -> bytes:
    return _to_client(b"\0\6" + _options(options), sport, src)


def ack(number: int, *, sport: int = SERVER, src: str = wf.SERVER_MAC) -> bytes:
    return _to_client(b"\0\4" + number.to_bytes(2, "big"), sport, src)


def error(code: int, text: str, *, sport: int = SERVER) -> bytes:
    return _to_client(b"\0\5" + code.to_bytes(2, "big") + text.encode() + b"\0", sport)
