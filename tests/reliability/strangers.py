"""Code that a stranger's file may hold, and what the tests that hand it over share."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

CODE = """
from pathlib import Path
Path({marker!r}).touch()
from transformers import PreTrainedConfig, PreTrainedTokenizerFast, PreTrainedModel
class StrangeConfig(PreTrainedConfig):
    model_type = "strange"
class StrangeModel(PreTrainedModel):
    config_class = StrangeConfig
class StrangeTokenizer(PreTrainedTokenizerFast):
    pass
"""


class Attack:
    """What unpickling turns into a file: code of a stranger would be no harder."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Path]]:
        return Path.touch, (self.marker,)


def evaluate(checkpoint: Path) -> list[str]:
    """The command on a few demo sentences, which writes beside the checkpoint."""
    output = str(checkpoint.parent / "output")
    return ["evaluate", "--checkpoint", str(checkpoint), "--limit", "4", "--shots", "0", "--no-report", "--output", output]


def edit(path: Path, **changes: Any) -> None:
    """Change fields of a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
