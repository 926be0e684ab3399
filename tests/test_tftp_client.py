"""The TFTP client against our server, and against what servers and wires do to it."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest

from bench.servers.tftp.config import TftpConfig
from netdump.client import Step
from netdump.tftp.options import asked
from netdump.tftp.packets import Request, parse
from netdump.tftp.rules import TftpRules
from tests.client_rig import Pool
from tests.tftp_rig import (
    TFTP_PORT,
    TRANSFER_PORT,
    Datagram,
    Played,
    Server,
    ack,
    block,
    error,
    oack,
    opcode,
    play,
)

HASTY = TftpRules(retries=3)
WINDOWED = TftpRules(windowsize=16)


def is_stored(done: Played, folder: Path) -> bool:
    return (folder / "vmcore").read_bytes() == done.whole


@pytest.mark.parametrize("rules", [TftpRules(), WINDOWED, TftpRules(options=False)])
def test_a_dump_gets_through(tmp_path: Path, rules: TftpRules) -> None:
    done = play(Server(tmp_path), rules)
    assert done.report.claims_success, done.report.detail
    assert is_stored(done, tmp_path)
    assert done.report.stats.retransmissions == 0
    size = rules.blksize if rules.options else 512
    assert len(done.peer.data()) == len(done.whole) // size + 1
    assert done.report.stats.acks == len(done.peer.data())


def test_the_request_says_what_will_come(tmp_path: Path) -> None:
    done = play(Server(tmp_path), TftpRules(file="victim.core", windowsize=16, timeout=3))
    asked = parse(done.peer.heard[0][1])
    assert isinstance(asked, Request)
    assert (done.peer.heard[0][0], asked.file, asked.mode) == (TFTP_PORT, b"victim.core", "octet")
    size = str(len(done.whole))
    assert asked.options == {
        "blksize": "1428",
        "tsize": size,
        "windowsize": "16",
        "timeout": "3",
    }


def test_the_client_speaks_from_one_drawn_port_or_the_one_it_was_given(tmp_path: Path) -> None:
    """A firewall may know one port only."""
    done = play(Server(tmp_path))
    assert len(done.peer.client_ports) == 1
    assert min(done.peer.client_ports) >= 49152
    done = play(Server(tmp_path), TftpRules(source_port=2000))
    assert done.peer.client_ports == {2000}


@pytest.mark.parametrize("lowered", [8, 512, 1000])
def test_a_server_may_lower_the_block(tmp_path: Path, lowered: int) -> None:
    done = play(
        Server(tmp_path, TftpConfig(blksize=lowered, windowsize=2)), WINDOWED, segments=[(0, 8192)]
    )
    assert done.report.claims_success
    assert is_stored(done, tmp_path)
    assert {len(data) - 4 for data in done.peer.data()[:-1]} == {lowered}


def test_a_server_that_refuses_options_is_asked_without(tmp_path: Path) -> None:
    done = play(Server(tmp_path, TftpConfig(refuses_options=True)))
    assert done.report.claims_success
    assert is_stored(done, tmp_path)
    assert {len(data) - 4 for data in done.peer.data()[:-1]} == {512}
    assert done.report.stats.retransmissions == 0


@pytest.mark.parametrize(
    "options",
    [
        {"blksize": 1429},
        {"blksize": 7},
        {"blksize": "many"},
        {"windowsize": 17},
        {"windowsize": 0},
        {"multicast": 1},
        {"timeout": 1},
    ],
)
def test_an_answer_that_was_not_asked_for_is_refused(options: dict[str, int | str]) -> None:
    done = play(lambda port, _: [oack(options)] if port == TFTP_PORT else [], WINDOWED)
    assert (done.report.error, done.report.failed_in) == ("ENOTSUP", Step.HERALD)
    assert next(iter(options)) in done.report.detail
    assert done.peer.errors() == [(TRANSFER_PORT, 8)]
    assert not done.peer.data()


def test_an_mtu_lowers_the_block_and_no_frame_is_a_fragment(tmp_path: Path) -> None:
    done = play(Server(tmp_path), TftpRules(blksize=8192), mtu=1500)
    assert done.report.claims_success
    assert is_stored(done, tmp_path)
    assert max(done.peer.lengths) == 1500


def test_blocks_that_no_frame_holds_are_refused() -> None:
    """A server that knows no options wants 512 octets, and this MTU holds 468."""
    done = play(lambda port, _: [ack(0)] if port == TFTP_PORT else [], mtu=500)
    assert done.report.error == "ENOTSUP"
    assert "an MTU of 500 holds 468" in done.report.detail
    assert not done.peer.data()


def test_a_duplicate_ack_never_doubles_the_traffic(tmp_path: Path) -> None:
    """The Sorcerer's Apprentice: each ACK comes twice, from the first on."""
    for rules in (TftpRules(), WINDOWED):
        server = Server(tmp_path)

        def twice(port: int, payload: bytes, server: Server = server) -> list[Datagram]:
            return 2 * server(port, payload)

        done = play(twice, rules)
        assert done.report.claims_success
        assert is_stored(done, tmp_path)
        assert len(done.peer.data()) == len(done.whole) // 1428 + 1
        assert done.report.stats.refused["ack-late"] > 10 / rules.windowsize


def test_what_comes_from_elsewhere_changes_nothing(tmp_path: Path) -> None:
    """A second transfer that a doubled request began, or somebody who is no server at all."""
    server = Server(tmp_path)

    def with_another(port: int, payload: bytes) -> list[Datagram]:
        noise = [ack(5, 666), error(3, "no", 667)] if opcode(payload) == 3 else []
        return [*noise, *server(port, payload)]

    done = play(with_another)
    assert done.report.claims_success
    assert is_stored(done, tmp_path)
    assert set(done.peer.errors()) == {(666, 5)}, "and no ERROR is answered"
    assert done.report.stats.refused["tftp-port"] == 2 * len(done.peer.data())


def test_a_disk_that_fills_up_is_told_with_code_and_text(tmp_path: Path) -> None:
    done = play(Server(tmp_path, TftpConfig(room=100_000)))
    assert not done.report.claims_success
    assert (done.report.error, done.report.failed_in) == ("ENOSPC", Step.DATA)
    assert 'ERROR 3 (disk full): "No space left on device"' in done.report.detail
    assert "with 70 of " in done.report.detail
    assert [path.name for path in tmp_path.iterdir()] == ["vmcore.partial"]


@pytest.mark.parametrize(
    ("existing", "there", "fails"),
    [
        ("overwrite", True, None),
        ("refuse", True, "EEXIST"),
        ("refuse", False, None),
        ("required", False, "ENOENT"),
        ("required", True, None),
    ],
)
def test_a_file_that_is_there_or_is_not(
    tmp_path: Path, existing: str, there: bool, fails: str | None
) -> None:
    if there:
        (tmp_path / "vmcore").write_bytes(b"an older one")
    done = play(Server(tmp_path, TftpConfig(existing=existing)))  # type: ignore[arg-type]
    assert done.report.error == fails
    assert done.report.claims_success == (fails is None)
    if fails is None:
        assert is_stored(done, tmp_path)
    elif there:
        assert (tmp_path / "vmcore").read_bytes() == b"an older one"


def test_nobody_answers() -> None:
    done = play(lambda _port, _payload: [], HASTY)
    assert (done.report.error, done.report.failed_in) == ("ETIMEDOUT", Step.HERALD)
    assert done.report.detail == "ETIMEDOUT: the write request was not answered in 4 rounds"
    assert len(done.peer.heard) == 4
    assert done.report.stats.retransmissions == 3
    assert 10_000_000 < done.delayed_us < 12_000_000  # 1, 2, 4 and 4 s


def test_a_server_that_dies_is_waited_for_and_then_given_up(tmp_path: Path) -> None:
    server = Server(tmp_path)

    def dies(port: int, payload: bytes) -> list[Datagram]:
        return server(port, payload) if opcode(payload) != 3 or block(payload) < 50 else []

    done = play(dies)
    assert (done.report.error, done.report.failed_in) == ("ETIMEDOUT", Step.DATA)
    assert done.report.detail == (
        "ETIMEDOUT: no ACK in 16 rounds, with 49 of 118 blocks acknowledged"
    )
    assert done.delayed_us < 60_000_000


def test_a_lost_last_ack_is_no_success_and_says_what_is_known(tmp_path: Path) -> None:
    server = Server(tmp_path)

    def without_the_last(port: int, payload: bytes) -> list[Datagram]:
        answers = server(port, payload)
        return answers if opcode(payload) != 3 or block(payload) < 118 else []

    done = play(without_the_last, HASTY)
    assert is_stored(done, tmp_path), "the server is done, and the client can't know"
    assert not done.report.claims_success
    assert (done.report.error, done.report.failed_in) == ("ETIMEDOUT", Step.FINISH)
    assert "all 118 blocks were sent, and 117 acknowledged" in done.report.detail
    assert "the client can't know" in done.report.detail
    assert len(done.peer.data()) == 118 + 3


def test_a_server_that_is_done_and_has_forgotten_is_not_taken_for_one_that_failed(
    tmp_path: Path,
) -> None:
    """Its last ACK was lost; the last block, sent again, belongs to no transfer that it knows."""
    server = Server(tmp_path)
    done: list[bytes] = []

    def forgets(port: int, payload: bytes) -> list[Datagram]:
        if done:
            return [error(5, "Unknown transfer ID", port)]
        answers = server(port, payload)
        if opcode(payload) == 3 and block(payload) == 118:
            done.append(payload)
            return []
        return answers

    played = play(forgets)
    assert is_stored(played, tmp_path)
    assert (played.report.error, played.report.failed_in) == ("ECONNRESET", Step.FINISH)
    assert "the client can't know" in played.report.detail


def test_a_last_ack_that_is_lost_once_is_had_again(tmp_path: Path) -> None:
    server = Server(tmp_path)
    lost: list[bytes] = []

    def loses_it(port: int, payload: bytes) -> list[Datagram]:
        answers = server(port, payload)
        if opcode(payload) == 3 and block(payload) == 118 and not lost:
            lost.append(payload)
            return []
        return answers

    done = play(loses_it)
    assert lost
    assert done.report.claims_success
    assert is_stored(done, tmp_path)


@pytest.mark.parametrize("chance", [0.01, 0.1, 0.3])
@pytest.mark.parametrize("rules", [TftpRules(), WINDOWED, replace(WINDOWED, windowsize=7)])
def test_losses_both_ways_cost_time_and_no_bytes(
    tmp_path: Path, chance: float, rules: TftpRules
) -> None:
    server = Server(tmp_path)
    dice = random.Random(11)

    def loses(port: int, payload: bytes) -> list[Datagram]:
        if dice.random() < chance:
            return []
        return [answer for answer in server(port, payload) if dice.random() >= chance]

    done = play(loses, rules)
    assert done.report.claims_success, done.report.detail
    assert is_stored(done, tmp_path)
    assert done.report.stats.retransmissions > 0


def test_a_lost_block_of_a_window_is_sent_again_before_the_wait_is_over(tmp_path: Path) -> None:
    """The server's ACK of the block before it says so (RFC 7440)."""
    server = Server(tmp_path)
    seen: set[int] = set()

    def loses_twenty(port: int, payload: bytes) -> list[Datagram]:
        if opcode(payload) == 3 and block(payload) == 20 and 20 not in seen:
            seen.add(20)
            return []
        return server(port, payload)

    done = play(loses_twenty, WINDOWED)
    assert done.report.claims_success
    assert is_stored(done, tmp_path)
    assert done.report.stats.retransmissions == 32 - 19
    assert done.delayed_us < 5_000


def test_a_server_that_acknowledges_each_block_of_a_window_doubles_nothing(tmp_path: Path) -> None:
    server = Server(tmp_path, TftpConfig(windowsize=1))

    def says_sixteen(port: int, payload: bytes) -> list[Datagram]:
        if port == TFTP_PORT:
            return [
                (p, oack({"blksize": 1428, "windowsize": 16})[1]) for p, _ in server(port, payload)
            ]
        return server(port, payload)

    done = play(says_sixteen, WINDOWED)
    assert done.report.claims_success
    assert len(done.peer.data()) == 118


def test_a_rollover_is_asked_for_where_blocks_as_small_as_it_asks_for_get_there() -> None:
    assert asked(TftpRules(blksize=8, rollover=1), 1 << 20, 1500)["rollover"] == "1"
    assert "rollover" not in asked(TftpRules(blksize=32), 1 << 20, 1500)
    assert asked(TftpRules(), 1 << 26, 1500)["rollover"] == "0"


def test_a_ring_or_a_pool_that_is_small_is_a_pause(tmp_path: Path) -> None:
    for limits in ({"ring": 3}, {"pool": Pool(9)}):
        done = play(Server(tmp_path), WINDOWED, **limits)
        assert done.report.claims_success
        assert is_stored(done, tmp_path)


def test_a_nic_that_takes_nothing_more_is_enobufs(tmp_path: Path) -> None:
    done = play(Server(tmp_path), HASTY, sticks_after=60)
    assert (done.report.error, done.report.failed_in) == ("ENOBUFS", Step.DATA)


def test_a_nic_without_a_link_is_enetdown(tmp_path: Path) -> None:
    done = play(Server(tmp_path), link=False)
    assert (done.report.error, done.report.failed_in) == ("ENETDOWN", Step.RESOLVE)
