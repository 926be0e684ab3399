"""``python -m server``: the dump server by itself.

numpy brings OpenBLAS, which starts a thread a core when it is imported. Nothing here multiplies
matrices, and to start those threads costs more time than all the rest of the start.
"""

from __future__ import annotations

import os
import sys

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
try:
    from server.cli import main

    status = main()
except KeyboardInterrupt:  # before it listens; from then on SIGINT ends it in good order
    status = 130
sys.exit(status)
