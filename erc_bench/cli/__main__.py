"""``python -m erc_bench.cli``."""

import sys

from erc_bench.cli import main

sys.exit(main())
