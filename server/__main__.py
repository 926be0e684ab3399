"""``python -m server``: the dump server by itself."""

from __future__ import annotations

import sys

try:
    from server.cli import main

    status = main()
except KeyboardInterrupt:  # before it listens; from then on SIGINT ends it in good order
    status = 130
sys.exit(status)
