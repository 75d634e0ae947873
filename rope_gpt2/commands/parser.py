"""What the commands' parsers share."""

import argparse
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from rope_gpt2.errors import InputError


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    """Shows defaults that say something: no None, no False of a switch."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default is None or action.default is False else super()._get_help_string(action)


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one sentence, where argparse prints its usage first; shows defaults in the help."""

    def __init__(self, **options: Any) -> None:
        super().__init__(formatter_class=_Help, allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; see --help")

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]  # overloads
        """As argparse, which takes the last of a list that is given twice: that a part of what was asked for does not run is told."""
        for action in self._actions:
            given = [part for part in args or () for name in action.option_strings if part == name or part.startswith(f"{name}=")]
            if action.nargs == "+" and len(given) > 1:
                print(f"{action.option_strings[-1]} is given {len(given)} times: the last counts; give all values at once", file=sys.stderr)
        return super().parse_known_args(args, namespace)
