"""``python -m server``: the dump server by itself."""

from __future__ import annotations

import sys

from server.cli import main

sys.exit(main())
