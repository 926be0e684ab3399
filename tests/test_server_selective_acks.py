"""Selective acks, as the server sends them to a client that offers them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from netdump.kdh import KernelDumpHeader
from netdump.sack import Sack, Scoreboard
from tests.server_rig import (
    CLIENT,
    DRAWN,
    KERNEL,
    Disk,
    Rig,
    block,
    finished,
    frames,
    herald,
    image_of,
    kdh,
    vmcore,
)

OFFER = 0x4E443201


def offered(rig: Rig, seqno: int = DRAWN, offer: int = OFFER) -> tuple[int, bytes]:
    reply = rig.core.herald(CLIENT, herald(seqno, offer=offer), rig.now)
    assert reply is not None
    return reply.session_id, reply.ack


def told(rig: Rig, session: int, *datagrams: bytes) -> list[list[int]]:
    """The acks of one batch as words, read by hand."""
    acks = rig.core.receive(session, *block(datagrams), rig.now)
    return [np.frombuffer(row.tobytes(), ">u4").tolist() for row in acks]


def test_a_client_that_offers_it_gets_one_ack_for_a_batch(rig: Rig) -> None:
    session, ack = offered(rig, seqno=100)
    assert ack.hex(" ", 4) == "4e443201 00000065"
    image = image_of(10 * 1448)
    parts = frames(image, 101)
    assert told(rig, session, *parts[:4]) == [[OFFER, 105]]
    assert told(rig, session, *parts[6:8], parts[9]) == [[OFFER, 105, 107, 109, 110, 111]]
    assert told(rig, session, parts[5], parts[6]) == [[OFFER, 105, 106, 109, 110, 111]]
    assert told(rig, session, finished(112)) == [], "there are holes: silence"
    assert told(rig, session, parts[4], parts[8]) == [[OFFER, 111]]
    assert told(rig, session, kdh(111, KernelDumpHeader(dumplength=len(image)))) == [[OFFER, 112]]
    assert told(rig, session, finished(112)) == [[OFFER, 113]]
    assert rig.read("vmcore.198.18.0.2.0") == image
    assert told(rig, session, finished(112)) == [[OFFER, 113]], "late copies too"


def test_a_boot_that_begins_anew_hears_of_its_new_dump_only(rig: Rig) -> None:
    """What the old session would say of messages, the client has not sent (again) yet."""
    first, ack = offered(rig, seqno=100)
    assert offered(rig, seqno=100) == (first, ack), "before data it is the same"
    image = image_of(5 * 1448)
    told(rig, first, *frames(image, 101))
    second, again = offered(rig, seqno=100)
    assert second != first
    assert again == ack == bytes.fromhex("4e443201 00000065")
    assert told(rig, second, *frames(image, 101)) == [[OFFER, 106]]
    assert rig.info()[-1].startswith("Dump incomplete: client started again")


def test_a_stray_frame_far_ahead_is_kept_and_stops_nobody(rig: Rig) -> None:
    """The client has not sent it, and believes the rest."""
    session, _ = offered(rig, seqno=100)
    board = Scoreboard(100)
    parts = frames(image_of(20 * 1448), 101)
    board.sent(list(range(100, 111)))
    told(rig, session, vmcore(300, 40 * 1448, b"stray"))
    (words,) = told(rig, session, *parts[:10])
    assert words == [OFFER, 111, 300, 301]
    assert board.read(Sack(words[1], ((300, 301),))).tolist() == list(range(100, 111))


def test_what_is_not_kept_is_not_in_a_selective_ack(tmp_path: Path) -> None:
    disk = Disk(tmp_path, room=3 * 1448)
    rig = Rig(tmp_path, disk)
    session, _ = offered(rig, seqno=100)
    parts = frames(image_of(10 * 1448), 101)
    assert told(rig, session, *parts[:2]) == [[OFFER, 103]]
    assert told(rig, session, *parts[2:]) in ([], [[OFFER, 104]])


@pytest.mark.parametrize("offer", [0, 1, OFFER ^ 1, OFFER - 1, 0x2515F095])
def test_any_other_word_in_a_herald_means_stock_acks(rig: Rig, offer: int) -> None:
    session, ack = offered(rig, seqno=7777, offer=offer)
    assert ack == (7777).to_bytes(4, "big")
    assert rig.say(session, vmcore(7778, 0, b"x" * 10), vmcore(7779, 10, b"y")) == [7778, 7779]


def test_a_server_with_stock_acks_does_not_read_the_offer(tmp_path: Path) -> None:
    _, ack = offered(Rig(tmp_path, strict_finish=False), seqno=7777)
    assert ack == (7777).to_bytes(4, "big")


def test_a_client_that_offers_it_needs_no_rescue_whatever_its_first_seqno(rig: Rig) -> None:
    session, _ = offered(rig, seqno=KERNEL)
    (first, *_) = frames(image_of(1 << 16), KERNEL + 1)
    assert told(rig, session, first) == [[OFFER, 3]], "not held"


def test_a_forged_offer_costs_a_stock_client_nothing(rig: Rig) -> None:
    """A HERALD with the seqno that every FreeBSD kernel begins with is easily forged."""
    forged, _ = offered(rig, seqno=KERNEL)
    session, ack = offered(rig, seqno=KERNEL, offer=0)
    assert ack == b"\0\0\0\1", "in the only form that it knows"
    assert session != forged
    assert offered(rig, seqno=KERNEL, offer=0) == (session, ack)
    image = image_of(100_000)
    assert rig.dump(session, image, KernelDumpHeader(dumplength=len(image)))


def test_seqnos_may_begin_anew_in_mid_dump(rig: Rig) -> None:
    session, _ = offered(rig, seqno=0xFFFFFFFD)
    parts = [
        vmcore(n & 0xFFFFFFFF, k, b"x") for k, n in enumerate(range(0xFFFFFFFE, (1 << 32) + 4))
    ]
    assert told(rig, session, *parts[:3]) == [[OFFER, 1]]
    assert told(rig, session, *parts[4:]) == [[OFFER, 1, 2, 4]]
