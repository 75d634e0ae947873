"""Looking whether a file can be written."""

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from rope_gpt2.errors import InputError
from rope_gpt2.training.whole_files import check_writable


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no files without a name")
def test_nothing_stands_in_the_folder_while_it_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Or a command that is killed at that moment would leave it there."""
    seen: list[list[str]] = []
    temporary_file = tempfile.TemporaryFile

    def look(*arguments: Any, **options: Any) -> Any:
        file = temporary_file(*arguments, **options)
        seen.append(os.listdir(tmp_path))
        return file

    monkeypatch.setattr(tempfile, "TemporaryFile", look)
    check_writable(tmp_path / "run.csv", "--output")
    assert seen == [[]]


def test_too_long_a_name_is_told(tmp_path: Path):
    with pytest.raises(InputError, match=r"cannot be written \(File name too long\); choose another --output"):
        check_writable(tmp_path / ("x" * 250), "--output")


def test_missing_folders_are_not_left(tmp_path: Path):
    check_writable(tmp_path / "new" / "folder" / "run.csv", "--output")
    assert not list(tmp_path.iterdir())
