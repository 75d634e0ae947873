"""Texts of others in CSVs that a person may open in a spreadsheet: a cell that begins with one of a few characters is a formula there.

Such a text is written behind an apostrophe, by which spreadsheets know text (CWE-1236; OWASP ASVS 5.0, 1.2.10), and the column `apostrophe`
says 1, so that reading it gives the text as it was, and no apostrophe of a review is ever lost.
"""

MARK = "apostrophe"  # the column
QUOTES = "a review with commas, quotes or line breaks must stand in double quotes, and a quote inside it must be doubled"
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\0", "＝", "＋", "－", "＠")


def guard(text: str) -> tuple[str, str]:
    """A text as it may stand in a spreadsheet, and its mark.

    >>> guard("=1+1"), guard("- dull"), guard("fine"), guard("'tis =")
    (("'=1+1", '1'), ("'- dull", '1'), ('fine', ''), ("'tis =", ''))
    """
    return (f"'{text}", "1") if text.startswith(_FORMULA) else (text, "")


def unguard(text: str, mark: str) -> str:
    """The text that `guard` was given.

    >>> unguard(*guard("=1+1")), unguard("'tis", "")
    ('=1+1', "'tis")
    """
    return text[1:] if mark.strip() == "1" and text.startswith("'") else text
