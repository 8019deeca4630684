"""Entry point of ``python -m examples.ham10000``."""

import signal
import sys

try:
    from examples.ham10000.cli import main
except KeyboardInterrupt:  # importing takes seconds
    sys.exit(128 + signal.SIGINT)

sys.exit(main())
