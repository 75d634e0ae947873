"""How the scripts of this folder end."""

import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from rope_gpt2.errors import InputError


def run_script(main: Callable[[Sequence[str]], int]) -> NoReturn:
    """Run a script on its command line; bad input is one sentence and exit code 2, as in `rope_gpt2.commands.main`."""
    try:
        sys.exit(main(sys.argv[1:]))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
