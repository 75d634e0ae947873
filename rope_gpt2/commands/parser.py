"""What the commands' parsers share."""

import argparse
from typing import Any, NoReturn

from rope_gpt2.errors import InputError


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one sentence, where argparse prints its usage first; shows defaults in the help."""

    def __init__(self, **options: Any) -> None:
        super().__init__(formatter_class=argparse.ArgumentDefaultsHelpFormatter, allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; see --help")
