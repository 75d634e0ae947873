"""What jsonargparse says of a wrong option → one short sentence; what it says in other words is passed on as it is."""

import re

# of an option of the data module, among all that it could have been
_OF_DATA = re.compile(r"^Parser key \"data\":.*?Problem with given class_path '([\w.]+)': (.*?) - Expected a <class 'NoneType'>")
_DATA_MODULE = re.compile(r"^Parser key \"data\":.*Given value: (\S+)$")
_KEY = re.compile(r"^Parser key \"([\w.]+)\": (.*)$")
_UNION = re.compile(r"Does not validate against any of the Union subtypes Subtypes: \[(.*?)\] Errors: ")  # of types, the reason of each
_ONE_TYPE = re.compile(r"^Expected a (.*?)\. Got value: ")
_VALUE = re.compile(r"(?:Given|Got) value: (.*)$")
_TYPES = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "a word",
    "list": "a list",
    "dict": "options by name",
    "NoneType": "null",
}


def option_sentence(message: str) -> str:
    r"""What is wrong with an option; of one of a data module without the list of what else it could have been.

    >>> option_sentence("Parser key \"model.n_embd\": Expected a <class 'int'>. Got value: wide")
    "model.n_embd must be a whole number, got 'wide'; see --help"
    """
    line = one_line(message)
    if found := _OF_DATA.search(line):
        path, reason = found.groups()
        name = path.rpartition(".")[2]
        for pattern, words in (
            (r"^Option '(.+?)' is not accepted.*", rf"{name} has no option data.\1"),
            (r"^unrecognized arguments: --(\S+?)[= ].*", rf"{name} has no option data.\1"),
            (r"^the following arguments are required: ", f"{name} needs data."),
        ):
            reason, count = re.subn(pattern, words, reason)
            if count:
                return f"{reason}; see --data.help {name}"
        if key := _KEY.search(reason):
            return f"{_wrong_value(f'data.{key[1]}', key[2])}; see --data.help {name}"
        return f"--data {path}: {reason}; give --data SentimentDataModule or CorpusDataModule"
    if wrong := _DATA_MODULE.search(line):
        return f"--data {wrong[1]} is no data module; give SentimentDataModule or CorpusDataModule"
    if key := _KEY.search(line):
        return f"{_wrong_value(key[1], key[2])}; see --help"
    return f"{line}; see --help"


def one_line(text: str) -> str:
    """The text with single spaces for all white space."""
    return " ".join(text.split())


def _wrong_value(name: str, reason: str) -> str:
    found = _UNION.search(reason) or _ONE_TYPE.search(reason)
    kinds = _kinds(found[1]) if found else []
    if not kinds:
        return f"{name}: {reason}"
    value = _VALUE.search(reason)
    return (
        f"{name} must be {' or '.join(kinds) if len(kinds) < 3 else 'one of ' + ', '.join(kinds)}{f', got {value[1]!r}' if value else ''}"
    )


def _kinds(types: str) -> list[str]:
    """The types that an option takes, in words: a type's own, a class by its name, or the values of a Literal.

    >>> _kinds("<class 'int'>, list[str], <class 'NoneType'>"), _kinds("typing.Literal['adamw', 'muon'], <class 'pathlib.Path'>")
    (['a whole number', 'a list', 'null'], ['adamw', 'muon', 'a Path'])
    """
    kinds: list[str] = []
    for found in re.finditer(r"Literal\[(?P<values>.*?)\]|<class '(?:\w+\.)*(?P<name>\w+)'>|\b(?P<generic>list|dict)\[[^]]*\]", types):
        name = found["name"] or found["generic"]
        if name:
            kinds.append(_TYPES.get(name, f"a {name}"))
        else:
            kinds += [value.strip().strip("'\"") for value in found["values"].split(",")]
    return list(dict.fromkeys(kinds))
