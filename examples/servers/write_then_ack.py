#!/usr/bin/env python3
"""A dump server on one page: it writes a message down, and then acknowledges it.

    write_then_ack.py ADDRESS PORT FOLDER

The stock protocol. A client's message is 24 octets, big-endian, and its payload: type, seqno,
offset in the dump, length of the payload, nothing. The answer is the seqno, 4 octets. HERALDs come
to the known port. Each is answered from a new socket, and all that follows goes there: that is how
a client learns the port. The answers go to the client's port 20024.

A dump is dump.N.part until its FINISHED; then it is dump.N. FINISHED is acknowledged only if as
many bytes came as the kernel dump header promises: silence is the one "no" of this protocol.
"""

import os
import selectors
import socket
import struct
import sys

HEADER = struct.Struct(">IIQII")
HERALD, FINISHED, VMCORE, KDH = 1, 2, 3, 4
CLIENT_PORT = 20024
DUMPLENGTH_AT = 40  # in the kernel dump header: a 64-bit number


class Dump:
    """One dump of one client."""

    def __init__(self, folder, number, server, client):
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        self.socket.bind((server, 0))
        self.socket.connect((client, CLIENT_PORT))
        self.name = os.path.join(folder, f"dump.{number}")
        self.file = os.open(self.name + ".part", os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        self.came = {}  # offset -> length
        self.promised = None
        self.complete = False

    def acknowledge(self, seqno):
        self.socket.send(struct.pack(">I", seqno))

    def hear(self, datagram):
        kind, seqno, offset, length, _ = HEADER.unpack_from(datagram)
        payload = datagram[HEADER.size :]
        if len(payload) != length:
            return
        if kind == VMCORE and not self.complete:
            self.keep(offset, payload)
            self.came[offset] = length
        elif kind == KDH and length >= 512:
            (self.promised,) = struct.unpack_from(">Q", payload, DUMPLENGTH_AT)
        elif kind == FINISHED:
            if not self.complete and not self.finish():
                return
        elif not (kind == VMCORE and self.complete):
            return
        self.acknowledge(seqno)

    def keep(self, offset, payload):
        os.pwrite(self.file, payload, offset)

    def finish(self):
        end = self.promised or 0
        came = sum(min(length, end - at) for at, length in self.came.items() if at < end)
        if not end or came != end:
            return False
        os.ftruncate(self.file, end)  # the client of 2010 sends a footer behind the dump
        os.rename(self.name + ".part", self.name)
        self.complete = True
        return True

    def close(self):
        self.socket.close()
        os.close(self.file)


def serve(address, port, folder, kind=Dump):
    """Until a signal ends it: it owes the disk nothing."""
    heralds = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    heralds.bind((address, port))
    selector = selectors.DefaultSelector()
    selector.register(heralds, selectors.EVENT_READ)
    dumps, number = {}, 0  # client -> its dump
    while True:
        for key, _ in selector.select():
            try:
                datagram, (client, _) = key.fileobj.recvfrom(9216)
            except ConnectionRefusedError:  # the client is gone
                continue
            if len(datagram) < HEADER.size:
                continue
            if key.data:
                key.data.hear(datagram)
            elif HEADER.unpack_from(datagram)[0] == HERALD:
                dump = dumps.get(client)
                if dump is None or dump.came:  # with nothing in it yet, this HERALD is a copy
                    if dump:
                        selector.unregister(dump.socket)
                        dump.close()
                    dumps[client] = dump = kind(folder, number, address, client)
                    selector.register(dump.socket, selectors.EVENT_READ, dump)
                    number += 1
                dump.acknowledge(HEADER.unpack_from(datagram)[1])


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]), sys.argv[3])
