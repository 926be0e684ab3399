#!/usr/bin/env python3
"""A dump server with a defect: it acknowledges what it has only in memory, and writes later.

    ack_then_write.py ADDRESS PORT FOLDER

All else is write_then_ack.py. While all goes well the dump is as good. Kill the server in mid-dump,
and what it had acknowledged, and not yet written, is lost; the client will never send it again. The
oracle ack-means-kept sees it, and need not even wait for the kill: it looks at the disk while the
dump runs.
"""

import sys

from write_then_ack import Dump, serve

AT_ONCE = 1 << 20


class LateDump(Dump):
    """Keeps a MiB in memory before it writes."""

    def __init__(self, *args):
        super().__init__(*args)
        self.waiting = []

    def keep(self, offset, payload):
        self.waiting.append((offset, payload))
        if sum(len(payload) for _, payload in self.waiting) >= AT_ONCE:
            self.write()

    def write(self):
        for offset, payload in self.waiting:
            super().keep(offset, payload)
        self.waiting = []

    def finish(self):
        self.write()
        return super().finish()


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]), sys.argv[3], LateDump)
