"""The client's transfer and our server, face to face: no NIC, no time, and a wire of lists."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bench.servers.tftp.config import TftpConfig
from bench.servers.tftp.core import TftpCore
from bench.servers.tftp.folder import Folder
from netdump.tftp.packets import data_headers
from netdump.tftp.rules import TftpRules
from netdump.tftp.transfer import Transfer

REQUESTS = 69
MTU = 1500
_FIRST = 40000


class Pair:
    """A file of so many octets, its two ends, and what is on the way between them."""

    def __init__(
        self, folder: Path, length: int, rules: TftpRules, config: TftpConfig | None = None
    ) -> None:
        config = config or TftpConfig()
        self.folder = folder
        self.file = np.random.default_rng(length).integers(0, 256, length, np.uint8)
        self.transfer = Transfer(rules, length, MTU)
        self.server = TftpCore(config, Folder(folder, config))
        self.to_server: list[tuple[int, bytes]] = []
        """(port, datagram)"""
        self.to_client: list[tuple[int, bytes]] = []
        self.sendings: dict[int, int] = {}
        """Block -> how often it was sent."""

    # --- the client ---------------------------------------------------------------------------

    def send(self, room: int = 1 << 16) -> None:
        """What is due, as far as a NIC has room."""
        transfer = self.transfer
        request = transfer.request()
        if request is not None and room:
            self.to_server.append((REQUESTS, request))
            transfer.sent(1)
        blocks = transfer.due()[:room]
        if blocks:
            port = transfer.port
            assert port is not None
            rows = data_headers(transfer.numbers(blocks))
            size = transfer.agreed.blksize
            for block, head in zip(blocks, rows, strict=True):
                payload = self.file[(block - 1) * size : block * size].tobytes()
                self.to_server.append((port, head.tobytes() + payload))
                self.sendings[block] = self.sendings.get(block, 0) + 1
            transfer.sent(len(blocks))
        answers, transfer.answers = transfer.answers, []
        self.to_server += answers

    def client_hears(self, which: int, keep: bool = False) -> bool:
        """One of the datagrams to the client; it may come again. Whether it is a step forward."""
        port, datagram = self.to_client[which] if keep else self.to_client.pop(which)
        return self.transfer.hear(port, datagram)

    # --- the server ---------------------------------------------------------------------------

    def server_hears(self, which: int, keep: bool = False) -> None:
        """One of the datagrams to the server."""
        port, datagram = self.to_server[which] if keep else self.to_server.pop(which)
        if port == REQUESTS:
            answer = self.server.herald(("client", 1), datagram, 0.0)
            if answer is not None:
                self.to_client.append((_FIRST + answer.session_id, answer.ack))
            return
        row = np.frombuffer(datagram, np.uint8)[None, :]
        acks = self.server.receive(port - _FIRST, row, np.array([len(datagram)]), 0.0)
        self.to_client += [(port, ack.tobytes()) for ack in acks]

    # --- both ---------------------------------------------------------------------------------

    def skip_to(self, block: int) -> None:
        """Agree, and be as if all up to that block had been stored and acknowledged."""
        self.send()
        self.server_hears(0)
        self.client_hears(0)
        transfer, session = self.transfer, self.server._sessions[1].session
        assert session is not None
        session._upload.write(self.file[: block * transfer.agreed.blksize].tobytes())
        session.last = block
        transfer._base = transfer._sent_to = block + 1
        transfer.open_window()

    def stored(self) -> bytes | None:
        """The file that the server calls whole."""
        path = self.folder / "vmcore"
        return path.read_bytes() if path.exists() else None

    def so_far(self) -> bytes:
        """What it has of one that is not."""
        path = self.folder / "vmcore.partial"
        return path.read_bytes() if path.exists() else b""
