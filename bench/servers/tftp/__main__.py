"""``python -m bench.servers.tftp FOLDER``."""

import sys

from bench.servers.tftp.shell import main

sys.exit(main())
