"""Where tables are printed."""

import os
import sys

from rich.console import Console

WIDE = 140  # columns in a file or a pipe, which have no width of their own; 80 would cut figures


def stdout_console() -> Console:
    """Standard output, as wide as the terminal, as `COLUMNS` says, or `WIDE`."""
    return Console(width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else WIDE)
