"""Whatever ends a fit, a predict or an evaluate before its time: the same command, taken up again, ends as if nothing had been.

Twenty random moments of each command, five with each fault; `ROPE_GPT2_FAULT_SEED` chooses others.
"""

import json
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest
import torch
from reliability.faults import FAULTS, FULL_DISK, SEED, Command, Disk, Tally, random_shares, small_disk
from running import DEMO
from safetensors.torch import load_file
from test_interrupted_training import fit_options

from rope_gpt2.training.checkpoints import load_checkpoint

MOMENTS = 5  # of each command, with each fault
STEPS = 36  # of a fit
OLD = "the predictions of an earlier run\n"
EVALUATE = ["--shots", "0", "2", "--seeds", "2", "--limit", "120", "--no-report", "--precision", "32-true", "--device", "cpu", "--resume"]


@dataclass(frozen=True)
class Work:
    """A command whose end is known.

    Attributes:
        arguments: of the command that writes into a folder, or goes on with what it finds there.
        check: after a fault: nothing half written stands under its final name.
        result: what the command leaves at its end; two results are the same if they are equal.
    """

    arguments: Callable[[Path], list[str]]
    check: Callable[[Path], None]
    result: Callable[[Path], object]


def newest(folder: Path) -> Path | None:
    """The last checkpoint of the run that was started last and wrote one."""
    found = sorted(folder.glob("version_*/checkpoints/last.ckpt"), key=lambda path: int(path.parts[-3].removeprefix("version_")))
    return found[-1] if found else None


def fit_arguments(folder: Path) -> list[str]:
    """A fit of a few dozen steps that goes on from the newest checkpoint."""
    options = fit_options("episodes", folder / "runs", trainer__max_steps=str(STEPS), trainer__val_check_interval="12")
    found = newest(folder / "runs")
    return [*options, f"--ckpt_path={found}"] if found else options


def check_fit(folder: Path) -> None:
    """Every checkpoint and every exported folder can be read."""
    for path in folder.glob("runs/version_*/checkpoints/*.ckpt"):
        assert torch.load(path, weights_only=True)["state_dict"]
    for path in folder.glob("runs/version_*/pretrained"):
        load_checkpoint(str(path))


def fit_result(folder: Path) -> dict[str, bytes]:
    """Weights that the run that was started last exported, which are those of the last step."""
    version = max(int(path.name.removeprefix("version_")) for path in (folder / "runs").glob("version_*"))
    exported = load_file(folder / "runs" / f"version_{version}" / "pretrained" / "model.safetensors")
    saved = torch.load(newest(folder / "runs") or "", weights_only=True)
    assert saved["global_step"] == STEPS
    assert all(torch.equal(saved["state_dict"][f"model.{name}"], tensor) for name, tensor in exported.items())
    return {name: tensor.numpy().tobytes() for name, tensor in exported.items()}


def predictions_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file() and not path.name.startswith(".")}


def check_predictions(folder: Path) -> None:
    """What stood there before, or all of the rows."""
    text = (folder / "predictions.csv").read_text()
    assert text == OLD or len(text.splitlines()) == 1 + 2 * 456


def files_of(folder: Path) -> dict[str, bytes | object]:
    """Of a run of evaluate; of its manifest what does not tell of time."""
    files: dict[str, bytes | object] = {path.name: path.read_bytes() for path in (folder / "run").iterdir() if path.is_file()}
    return files | {"manifest.json": json.loads((folder / "run" / "manifest.json").read_text())["plan"]}


def check_run(folder: Path) -> None:
    """Whatever stands there is whole: no manifest without the scores that belong to it."""
    run = folder / "run"
    if (run / "manifest.json").is_file():
        assert {"scores.parquet", "predictions.csv", "conditions.json", "reviews.parquet"} <= {path.name for path in run.iterdir()}
    if (run / "predictions.csv").is_file():
        assert len((run / "predictions.csv").read_text().splitlines()) == 1 + 120 * 3


@pytest.fixture
def works(fitted: Path) -> dict[str, Work]:
    """The commands, by name."""
    checkpoint = ["--ckpt_path", str(fitted / "checkpoints" / "last.ckpt"), "--trainer.accelerator", "cpu", "--data.pool", str(DEMO)]
    predict = ["predict", *checkpoint, "--data.predict", str(DEMO), "--data.shots", "2", "--data.seeds", "2"]
    predict += ["--trainer.enable_progress_bar", "false"]
    return {
        "fit": Work(fit_arguments, check_fit, fit_result),
        "predict": Work(lambda folder: [*predict, "--predictions.output", f"{folder}/predictions.csv"], check_predictions, predictions_of),
        "evaluate": Work(
            lambda folder: ["evaluate", "--checkpoint", str(fitted / "pretrained"), *EVALUATE, "--output", f"{folder}/run"],
            check_run,
            files_of,
        ),
    }


def prepare(folder: Path) -> None:
    """Nothing but an earlier run's predictions."""
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    (folder / "predictions.csv").write_text(OLD)


def check_same(work: Work, folder: Path, expected: object, tally: Tally) -> None:
    """The result of the undisturbed run; rows of it that are lost are counted."""
    result = work.result(folder)
    if isinstance(expected, dict) and isinstance(result, dict):
        rows = {name: Counter(of.get("predictions.csv", b"").splitlines()) for name, of in (("all", expected), ("found", result))}
        tally.rows_lost += (rows["all"] - rows["found"]).total()
    assert result == expected


def check_disturbed(work: Work, fault: str, shares: list[float], disk: Disk, log: Path, tally: Tally) -> None:
    """Fault after fault, each into what the one before left, until the command ends, and again until `MOMENTS` faults have come."""
    folder = disk.folder
    command = Command(lambda: work.arguments(folder), log, disk, tally)
    prepare(folder)
    ended, seconds = command.run()
    assert ended.code == 0, ended.text
    expected = work.result(folder)
    prepare(folder)
    for share in shares:
        if tally.faults == MOMENTS:
            break
        saved = list(folder.glob("runs/version_*/checkpoints/last.ckpt"))
        ended_early = command.disturb(fault, share * seconds) is None
        tally.moments.append(f"{share * seconds:.2f} of {seconds:.2f} s" + (" (had ended)" if ended_early else ""))
        work.check(folder)
        assert all(path.is_file() for path in saved)  # the last good checkpoint survives
        if ended_early:
            check_same(work, folder, expected, tally)
            prepare(folder)
    last, _ = command.run()
    assert last.code == 0, last.text
    check_same(work, folder, expected, tally)


def disturb(work: Work, fault: str, shares: list[float], folder: Path, record: Callable[[str, object], None]) -> None:
    tally = Tally()
    try:
        with small_disk(folder / "disk", megabytes=24) as disk:
            check_disturbed(work, fault, shares, disk, folder / "log", tally)
            if fault == FULL_DISK:
                tally.moments.append("a tmpfs of 24 MiB" if disk.is_own else "no tmpfs can be mounted here: RLIMIT_FSIZE")
    finally:
        print(f"seed {SEED}, {fault}: {'; '.join(tally.moments)}")
        for key in ("faults", "rows_lost", "hangs"):
            record(key, asdict(tally)[key])


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", ["fit", "predict", "evaluate"])
def test_whatever_ends_it_a_command_that_is_taken_up_again_ends_as_if_nothing_had_been(
    name: str, fault: str, works: dict[str, Work], tmp_path: Path, record_property
):
    disturb(works[name], fault, random_shares(f"{name} {fault}", 4 * MOMENTS), tmp_path, record_property)


def test_a_full_disk_ends_an_evaluation_with_a_sentence_and_then_it_goes_on(works: dict[str, Work], tmp_path: Path, record_property):
    disturb(works["evaluate"], FULL_DISK, [0.7], tmp_path, record_property)
