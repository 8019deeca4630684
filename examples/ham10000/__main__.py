"""Entry point of ``python -m examples.ham10000``."""

import sys

from examples.ham10000.cli import main

sys.exit(main())
