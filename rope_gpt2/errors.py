"""The one error that a user causes and can mend: the commands print it as a sentence and exit with code 2."""


class InputError(ValueError):
    """What is wrong with something that the user gave: which rule, which value, what to do.

    A message names the path, and where it can the row and the column, and ends in the remedy.
    """
