"""Errors that the commands print as a sentence: what a user can mend (exit code 2), and what this package is to blame for (1)."""


class InputError(ValueError):
    """What is wrong with something that the user gave: which rule, which value, what to do.

    A message names the path, and where it can the row and the column, and ends in the remedy.
    """


class VerificationError(RuntimeError):
    """The fast path to a score gave another one than the plain path."""
