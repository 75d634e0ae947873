"""Places that cannot be written to or hold something else, and folders that hold no run."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq
from reliability.refusals import Bad, Content

# a command up to the place that it writes to
WRITERS = {
    "evaluate --output": "evaluate --checkpoint model --shots 0 --limit 2 --output",
    "predict --predictions.output": "predict --config fit.yaml --ckpt_path last.ckpt --data.predict data/demo.csv --data.limit 2 "
    "--data.shots 0 --predictions.output",
    "label --output": "label --checkpoint model --text data/demo.csv --limit 20 --min-confidence 0.5 --output",
    "length --output": "length --checkpoint model --text data/demo.csv --lengths 1 --windows apart --attention-windows 0 --output",
    "length --plot": "length --checkpoint model --text data/demo.csv --output out/length.json --plot",
    "convert": "convert to-gpt-neox model",
    "compare --output": "compare run same_run --output",
    "fit --trainer.default_root_dir": "fit --config fit.yaml --trainer.default_root_dir",
    "fit --export.folder": "fit --config fit.yaml --export.folder",
    "fit --data.cache_dir": "fit --config fit.yaml --data.text data/demo.csv --data.cache_dir",
}
LONG = "x" * 300
PLACES = {"below a file": "data/demo.csv/inside.png", "with a name that is too long": f"{LONG}.png", "in /proc": "/proc/nowhere/inside.png"}


def _copied(change: Callable[[Path], object]) -> Callable[[Path], None]:
    """A copy of a finished run, changed."""

    def make(path: Path) -> None:
        shutil.copytree(path.parent / "run", path)
        change(path)

    return make


def _cut(name: str) -> Callable[[Path], None]:
    return _copied(lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:60]))


def _without(name: str) -> Callable[[Path], None]:
    return _copied(lambda folder: (folder / name).unlink())


def _not_finite(folder: Path) -> None:
    path = folder / "scores.parquet"
    table = pq.read_table(path)
    place = table.schema.get_field_index("logprob_positive")
    nothing = pc.divide(pc.multiply(table["logprob_positive"], 0.0), 0.0).cast("float32")
    pq.write_table(table.set_column(place, "logprob_positive", nothing), path)


def _folder_for(name: str) -> Callable[[Path], None]:
    """A folder where a file of the run should go."""

    def change(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        (folder / name).mkdir()
        (folder / name / "kept").write_text("kept")

    return _copied(change)


RUNS: dict[str, tuple[Content | None, str]] = {
    "that is missing": (None, "holds no finished run"),
    "that is a file": ("a run\n", "holds no finished run"),
    "that is empty": (Path.mkdir, "holds no finished run (manifest.json is missing)"),
    "without scores": (_without("scores.parquet"), "scores.parquet is missing"),
    "without conditions": (_without("conditions.json"), "conditions.json is missing"),
    "with scores cut off": (_cut("scores.parquet"), "its files are damaged"),
    "with reviews cut off": (_cut("reviews.parquet"), "its files are damaged"),
    "with conditions cut off": (_cut("conditions.json"), "its files are damaged"),
    "with a manifest cut off": (_cut("manifest.json"), "its files are damaged"),
    "with a manifest that is a list": (_copied(lambda folder: (folder / "manifest.json").write_text("[]")), "its files are damaged"),
    "with conditions that are a list": (_copied(lambda folder: (folder / "conditions.json").write_text("[]")), "its files are damaged"),
    "with scores of another run": (
        _copied(lambda folder: (folder / "conditions.json").write_text(json.dumps({"conditions": [], "content_free": [], "generated": 0}))),
        "its files are damaged",
    ),
    "with scores that are no numbers": (_copied(_not_finite), "label log-probabilities"),
    "with text for scores": (_copied(lambda folder: (folder / "scores.parquet").write_text("scores")), "its files are damaged"),
}
# (of which nothing is half written, but what stood before may be gone)
OTHER_PLAN = {"out/.partial/plan.json": json.dumps({"shots": [7]})}
RESUME = f"{WRITERS['evaluate --output']} out --resume"


def _rows() -> list[Bad]:
    rows = [
        Bad(f"{writer}: a place {name}", f"{command} {place}", (("demo.csv", LONG, "/proc")[number],))
        for writer, command in WRITERS.items()
        for number, (name, place) in enumerate(PLACES.items())
    ]
    for name, (content, said) in RUNS.items():
        files = {} if content is None else {"bad": content}
        rows.append(Bad(f"report: a run {name}", "report bad", ("bad", said), files))
        rows.append(Bad(f"compare: a run {name}", "compare run bad", ("bad",), files))
    return rows


ROWS = [
    *_rows(),
    Bad("evaluate --output: a file", f"{WRITERS['evaluate --output']} data/demo.csv", ("--output data/demo.csv: is a file",)),
    Bad("predict --predictions.output: a folder", f"{WRITERS['predict --predictions.output']} data", ("data: is a folder",)),
    Bad("label --output: a folder", f"{WRITERS['label --output']} data", ("data: is a folder", "--output")),
    Bad("length --output: a folder", f"{WRITERS['length --output']} data", ("data: is a folder", "--output")),
    Bad("compare --output: a folder", f"{WRITERS['compare --output']} data", ("--output data: is a folder",)),
    Bad(
        "compare --output: a file of a run",
        f"{WRITERS['compare --output']} run/metrics.json",
        ("--output run/metrics.json: is a file of a run",),
    ),
    Bad("convert: a folder of other things", f"{WRITERS['convert']} data", ("data: exists and is no model folder",)),
    Bad("convert: a folder onto itself", f"{WRITERS['convert']} model", ("model: is source and target at once",)),
    Bad(
        "fit --export.folder: a folder of other things", f"{WRITERS['fit --export.folder']} data", ("data: exists and is no model folder",)
    ),
    Bad(
        "fit --export.folder: a file", f"{WRITERS['fit --export.folder']} data/demo.csv", ("data/demo.csv: exists and is no model folder",)
    ),
    Bad("evaluate --resume: a run of other options", RESUME, ("out was begun with another", "give the same options"), OTHER_PLAN),
    Bad("evaluate --resume: a plan cut off", RESUME, ("out", "plan.json"), {"out/.partial/plan.json": '{"shots"'}),
    Bad("evaluate --resume: a plan that is a list", RESUME, ("out", "plan.json"), {"out/.partial/plan.json": "[]"}),
    Bad(
        "evaluate --output: a .partial of another program",
        f"{WRITERS['evaluate --output']} out",
        ("its .partial is none of this package's",),
        {"out/.partial/kept": "kept"},
    ),
    Bad("compare: a run that is not finished", "compare run out", ("out: its run is not finished",), OTHER_PLAN),
    Bad("report: no place for the metrics", "report bad", ("bad/metrics.json: cannot be written",), {"bad": _folder_for("metrics.json")}),
]
