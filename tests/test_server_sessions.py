"""Sessions: what comes again changes nothing, and silence ends them."""

from __future__ import annotations

from netdump.kdh import KernelDumpHeader
from server.life import State
from tests.server_rig import (
    CLIENT,
    FINAL,
    HEADER,
    HOST,
    IMAGE,
    KERNEL,
    PARTIAL,
    Rig,
    finished,
    frames,
    herald,
    kdh,
    seqnos,
    vmcore,
)

# -- repetition changes nothing --------------------------------------------------------------------


def test_everything_twice_changes_nothing_also_after_the_end(rig: Rig) -> None:
    session = rig.open()
    parts = [*frames(IMAGE, 2), kdh(900, HEADER)]
    assert rig.say(session, *parts, *parts) == seqnos(parts) * 2
    assert rig.say(session, finished(901), finished(901)) == [901, 901]
    before = rig.files(), rig.info()
    everything = [*parts, finished(901)]
    assert rig.say(session, *everything) == seqnos(everything)
    assert (rig.files(), rig.info()) == before
    assert rig.read(FINAL) == IMAGE


def test_of_two_copies_with_different_bytes_the_last_is_kept(rig: Rig) -> None:
    session = rig.open()
    rig.say(session, *frames(IMAGE, 2), kdh(900, HEADER))
    assert rig.say(session, vmcore(2, 0, b"!" * 1448)) == [2]
    assert "rewritten" in rig.events
    assert rig.core.sessions[session].dump.vmcore.rewritten == 1
    assert rig.say(session, finished(901)) == [901]
    assert rig.read(FINAL) == b"!" * 1448 + IMAGE[1448:]


def test_after_the_end_a_copy_with_different_bytes_gets_silence(rig: Rig) -> None:
    session = rig.open()
    parts = frames(IMAGE, 2)
    assert rig.dump(session, IMAGE, HEADER, 2)
    other = vmcore(4, 2896, b"!" * 1448)
    copies = [*parts[:2], other, *parts[3:9]]
    assert rig.say(session, *copies) == [2, 3, *range(5, 11)]
    assert rig.core.refused["after-the-end"] == 1
    assert rig.read(FINAL) == IMAGE
    beyond = [vmcore(5, offset, b"x" * 9) for offset in (len(IMAGE) - 8, 1 << 63, (1 << 64) - 9)]
    assert rig.say(session, *beyond) == []


def test_a_second_different_header_is_refused(rig: Rig) -> None:
    session = rig.open()
    assert rig.say(session, kdh(2, HEADER), kdh(3, KernelDumpHeader(dumplength=1))) == [2]
    assert rig.core.refused["second-header"] == 1


def test_a_repeated_herald_before_data_is_the_same_session(rig: Rig) -> None:
    session = rig.open(KERNEL)
    for _ in range(50):
        reply = rig.core.herald(CLIENT, herald(), rig.now)
        assert reply is not None
        assert (reply.session_id, reply.fresh) == (session, False)
    assert len(rig.core.sessions) == 1


def test_a_drawn_herald_repeated_in_mid_dump_is_the_same_session(rig: Rig) -> None:
    session = rig.open()
    rig.say(session, *frames(IMAGE, 2))
    assert rig.open() == session


def test_a_herald_in_mid_dump_disturbs_nothing_until_data_follows_it(rig: Rig) -> None:
    session = rig.open(KERNEL)
    parts = frames(IMAGE, 2)
    rig.say_in_batches(session, parts[:92], 46)
    offer = rig.open(KERNEL)
    assert offer != session
    rig.say_in_batches(session, parts[92:], 46)
    assert rig.say(session, kdh(900, HEADER)) == [900]
    assert rig.say(session, finished(901)) == [901]
    assert rig.read(FINAL) == IMAGE
    rig.now = 600.0
    assert offer in rig.core.tick(rig.now)
    names = [f"{kind}.{HOST}.0" for kind in ("info", "manifest", "vmcore")]
    names += [f"bounds.{HOST}", f"info.{HOST}.last", f"vmcore.{HOST}.last"]
    assert rig.files() == sorted(names)


def test_a_machine_that_boots_and_dies_again_ends_its_first_dump(rig: Rig) -> None:
    first = rig.open(KERNEL)
    rig.say_in_batches(first, frames(IMAGE, 2)[:92], 46)
    second = rig.open(KERNEL)
    assert rig.dump(second, IMAGE, HEADER)
    assert rig.core.sessions[first].state is State.INCOMPLETE
    assert rig.info(0)[-1].startswith("Dump incomplete: client started again; the dump header")
    assert PARTIAL in rig.files()
    assert rig.read(f"vmcore.{HOST}.1") == IMAGE


def test_heralds_of_one_address_are_bounded(rig: Rig) -> None:
    for seqno in range(100, 200):
        rig.open(seqno)
    assert [session.herald.seqno for session in rig.core.sessions.values()] == [196, 197, 198, 199]
    assert len(rig.core.tick(rig.now)) == 96
    assert not rig.core.refused
    assert "incomplete" not in rig.events  # a forger fills no log


# -- time ------------------------------------------------------------------------------------------


def test_a_silent_client_is_given_up_and_its_session_lingers_then_goes(rig: Rig) -> None:
    session = rig.open()
    rig.say(session, *frames(IMAGE, 2)[:10])
    rig.now = 599.0
    assert rig.core.tick(rig.now) == []
    rig.now = 600.0
    assert rig.core.tick(rig.now) == []
    assert rig.info()[-1].startswith(
        "Dump incomplete: client timed out; the dump header is missing"
    )
    assert rig.say(session, *frames(IMAGE, 2)[:1]) == []
    rig.now = 700.0
    assert rig.core.tick(rig.now) == [session]
    assert not rig.core.sessions


def test_a_complete_session_answers_late_copies_for_the_hold_time(rig: Rig) -> None:
    session = rig.open()
    assert rig.dump(session, IMAGE, HEADER, 2)
    rig.now = 59.0
    assert rig.core.tick(rig.now) == []
    assert rig.say(session, finished(12)) == [12]
    rig.now = 118.0
    assert rig.core.tick(rig.now) == []
    rig.now = 119.0
    assert rig.core.tick(rig.now) == [session]


def test_a_stopping_server_finishes_its_info_files(rig: Rig) -> None:
    session = rig.open()
    rig.say(session, *frames(IMAGE, 2)[:10])
    rig.open(KERNEL)
    rig.core.stop()
    assert rig.info()[-1].startswith("Dump incomplete: server stopped")
