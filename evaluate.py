"""Few-shot accuracy of a checkpoint on a CSV: `python evaluate.py --help`."""

import sys

try:
    from rope_gpt2.commands.main import main
except KeyboardInterrupt:  # while torch and transformers are read, for some seconds
    print("interrupted", file=sys.stderr)
    sys.exit(130)

if __name__ == "__main__":
    sys.exit(main(["evaluate", *sys.argv[1:]]))
