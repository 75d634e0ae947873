"""Few-shot accuracy of a checkpoint on a CSV: `python evaluate.py --help`."""

import sys

from rope_gpt2_command import main

if __name__ == "__main__":
    sys.exit(main("evaluate"))
