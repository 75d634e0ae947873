"""`rope-gpt2 report` makes metrics, plots and page from a run's scores, the same each time, and says in a sentence what is missing."""

import errno
import json
import os
from dataclasses import asdict

import pytest
from running import call
from sample_scores import sample_reviews, sample_scores

from rope_gpt2.commands import report as command
from rope_gpt2.errors import InputError
from rope_gpt2.fewshot.metrics import evaluate
from rope_gpt2.fewshot.plots import draw_plots
from rope_gpt2.fewshot.run_folder import PLOT_NAMES, Run

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


# Only what is its own.


def test_the_plots_that_are_known_are_all_that_can_be_drawn():
    assert tuple(plot.name for plot in draw_plots(evaluate(sample_scores()))) == PLOT_NAMES


def test_without_pages_those_of_an_earlier_report_go(run):
    command.write_report(run)
    command.write_report(run, pages=False)
    assert [path.name for path in run.folder.iterdir()] == ["metrics.json"]


@pytest.mark.parametrize("pages", [False, True])
def test_files_of_someone_else_stay(run, pages):
    command.write_report(run)
    theirs = [run.folder / name for name in ("plots/mine.png", "plots/notes/accuracy.png", "plots/accuracy.svg", "notes.html")]
    for path in theirs:
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine")
    command.write_report(run, ["none"], pages=pages)
    assert all(path.read_text() == "mine" for path in theirs)
    assert (run.folder / "plots" / "accuracy.png").exists() == pages
    assert not (run.folder / "plots" / "calibrations.png").exists()


def test_a_page_that_someone_else_wrote_stays_where_none_is_written(run):
    (run.folder / "report.html").write_text("<title>Report on something else</title>")
    command.write_report(run, pages=False)
    assert (run.folder / "report.html").read_text() == "<title>Report on something else</title>"


# What is printed and what is refused.


def test_names_with_brackets_are_printed_as_they_are(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "a[" / "b]"  # a[/b]: markup that was never opened
    folder.mkdir(parents=True)
    options = {"checkpoint": "c[/d]", "data": "[red]e"}
    monkeypatch.setattr(command, "read_run", lambda path: MadeUpRun(sample_scores(), {"options": options}, folder))
    assert command.report([str(folder)]) == 0
    printed = capsys.readouterr().out
    assert f"plots/ in {folder}" in printed
    assert "c[/d] on [red]e" in printed


@pytest.mark.parametrize("name", ["metrics.json", "report.html"])
def test_a_folder_where_a_file_should_stand_is_named(run, capsys, name):
    (run.folder / name / "inside").mkdir(parents=True)
    assert call(["report", str(run.folder)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"error: {run.folder / name}: cannot be written (Is a directory); mend that, then run rope-gpt2 report {run.folder}" == line
    assert (run.folder / name / "inside").is_dir()


def test_a_file_where_the_folder_of_plots_should_stand_is_named(run):
    (run.folder / "plots").write_text("mine")
    with pytest.raises(InputError, match=r"plots: cannot be written \(.*\)"):
        command.write_report(run)
    assert (run.folder / "plots").read_text() == "mine"


@pytest.mark.parametrize(
    ("name", "code"), [("metrics.json", errno.EROFS), ("report.html", errno.EACCES), ("plots/accuracy.png", errno.ENOSPC)]
)
def test_a_write_that_fails_is_a_sentence(run, monkeypatch, name, code):
    replace = os.replace

    def fail(source, target):
        if str(target).endswith(name):
            raise OSError(code, os.strerror(code), str(source))
        replace(source, target)

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(InputError, match=os.strerror(code)) as caught:
        command.write_report(run)
    assert str(caught.value).startswith(f"{run.folder / name.split('/')[0]}: cannot be written (")
    assert len(str(caught.value).splitlines()) == 1


def test_an_earlier_report_stands_where_nothing_can_be_written(run, monkeypatch):
    command.write_report(run)
    before = {path: path.read_bytes() for path in run.folder.rglob("*.*")}

    def fail(*_):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(InputError):
        command.write_report(run, ["batch"])
    assert {path: path.read_bytes() for path in run.folder.rglob("*.*")} == before
