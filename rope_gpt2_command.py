"""The command `rope-gpt2`, and what `train.py` and `evaluate.py` run.

It stands beside the package, as whatever stands in it reads torch and transformers first, for some seconds in which Ctrl-C may come.
"""

import sys


def main(*first: str) -> int:
    """Run `rope_gpt2.commands.main` on the command line, `first` before its words, and return the exit code: 130 when interrupted."""
    try:
        from rope_gpt2.commands.main import main as run

        return run([*first, *sys.argv[1:]])
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
