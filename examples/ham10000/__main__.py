"""Entry point of ``python -m examples.ham10000``."""

import signal
import sys

try:
    from examples.ham10000.cli import main

    code = main()
except KeyboardInterrupt:  # before the command has begun
    code = 128 + signal.SIGINT
sys.exit(code)
