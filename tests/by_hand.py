"""CRC32C as its definition says it, bit by bit: it shares nothing with the code that is tested."""

from __future__ import annotations


def crc_by_hand(octets: bytes) -> int:
    """RFC 3720 B.4: reflected, first value and last XOR all ones."""
    crc = 0xFFFFFFFF
    for octet in octets:
        crc ^= octet
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF
