"""`rope-gpt2 report` makes metrics, plots and page from a run's scores, the same each time, and says in a sentence what is missing."""

import json
from dataclasses import asdict

import pytest
from running import call
from sample_scores import sample_reviews, sample_scores

from rope_gpt2.commands import report as command
from rope_gpt2.errors import InputError
from rope_gpt2.fewshot.metrics import evaluate
from rope_gpt2.fewshot.run_folder import Run

MANIFEST = {"command": ["rope-gpt2", "evaluate"], "options": {"checkpoint": "checkpoints/mini", "data": "data/demo.csv"}}


class MadeUpRun(Run):
    """A run whose reviews are made up."""

    def reviews(self, rows):
        reviews = sample_reviews(self.scores)
        return {row: reviews[row] for row in rows}


@pytest.fixture
def run(tmp_path, monkeypatch):
    made_up = MadeUpRun(sample_scores(), MANIFEST, tmp_path)
    monkeypatch.setattr(command, "read_run", lambda folder: made_up)
    return made_up


def test_the_files_are_written_and_the_verdict_is_printed(run, capsys):
    assert command.report([str(run.folder)]) == 0
    metrics = evaluate(run.scores)
    assert json.loads((run.folder / "metrics.json").read_text()) == json.loads(json.dumps(asdict(metrics)))
    names = {path.relative_to(run.folder).as_posix() for path in run.folder.rglob("*.*")}
    plots = ("accuracy", "spread", "controls", "confusion", "reliability", "calibrations")
    assert names == {"metrics.json", "report.html", *(f"plots/{name}.png" for name in plots)}
    assert "Few-shot report: checkpoints/mini on data/demo.csv" in (run.folder / "report.html").read_text(encoding="utf-8")
    assert metrics.verdict in capsys.readouterr().out


def test_the_same_scores_give_the_same_files(run):
    written = []
    for _ in range(2):
        assert command.report([str(run.folder)]) == 0
        written.append({path: path.read_bytes() for path in run.folder.rglob("*.*")})
    assert written[0] == written[1]


def test_calibrations_can_be_chosen_and_plots_of_another_choice_go(run):
    assert command.report([str(run.folder)]) == 0
    assert command.report([str(run.folder), "--calibration", "batch"]) == 0
    assert {cell["calibration"] for cell in json.loads((run.folder / "metrics.json").read_text())["cells"]} == {"batch"}
    assert not (run.folder / "plots" / "calibrations.png").exists()


@pytest.mark.parametrize("arguments", [[], ["a", "b"], ["a", "--calibration", "magic"], ["a", "--unknown"]])
def test_wrong_options_are_named_in_a_sentence(arguments):
    with pytest.raises(InputError, match="see --help"):
        command.report(arguments)


def test_a_folder_without_a_run_is_named(tmp_path, capsys):
    assert call(["report", str(tmp_path)]) == 2
    assert str(tmp_path) in capsys.readouterr().err
