"""Token caches, runs and reviews of a stranger run no code: not when read, nor in a spreadsheet, nor on the page."""

import csv
import json
import pickle
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from browser import start_browser
from hypothesis import given
from hypothesis import strategies as st
from reliability.strangers import Attack, edit
from running import call

from rope_gpt2.corpus.documents import read_documents
from rope_gpt2.corpus.token_cache import TokenCache
from rope_gpt2.fewshot.examples import read_examples
from rope_gpt2.training.pseudo_labels import write_labelled

# caches and runs


def test_a_token_cache_maps_numbers_alone(tmp_path: Path, marker: Path):
    contents = {"tokens": np.arange(4, dtype=np.uint16), "offsets": np.array([0, 4]), "hashes": np.zeros((1, 2), np.uint64)}
    for name, content in contents.items():
        (tmp_path / f"{name}.bin").write_bytes(content.tobytes())
    meta = {"documents": 1, "tokens": 4, "dtype": "uint16", "excluded": 0}
    (tmp_path / "meta.json").write_text(json.dumps(meta))
    assert TokenCache(tmp_path).document(0).tolist() == [0, 1, 2, 3]
    for dtype in ("object", "O", "V8", "float64", ["uint16"]):  # "object" would take what stands in the file for addresses of objects
        edit(tmp_path / "meta.json", dtype=dtype)
        with pytest.raises(ValueError, match="is no whole token cache"):
            TokenCache(tmp_path)
    edit(tmp_path / "meta.json", dtype="uint16")
    np.save(tmp_path / "tokens.npy", np.array([Attack(marker)], dtype=object), allow_pickle=True)
    (tmp_path / "tokens.npy").replace(tmp_path / "tokens.bin")
    with pytest.raises(ValueError, match="bytes instead of"):
        TokenCache(tmp_path)


@pytest.mark.parametrize("name", ["scores.parquet", "content_free.parquet", "reviews.parquet", "conditions.json", "manifest.json"])
def test_a_run_of_a_stranger_runs_no_code(name: str, runs: Path, marker: Path, tmp_path: Path, refused):
    run = shutil.copytree(runs / "run", tmp_path / "run")
    (run / name).write_bytes(pickle.dumps(Attack(marker)))
    assert str(run) in refused("report", str(run))
    assert str(run) in refused("compare", str(run), str(runs / "other_run"))


def test_a_pickled_type_in_a_parquet_file_is_never_unpickled(runs: Path, marker: Path, tmp_path: Path):
    run = shutil.copytree(runs / "run", tmp_path / "run")
    hidden = {b"ARROW:extension:name": b"arrow.py_extension_type", b"ARROW:extension:metadata": pickle.dumps(Attack(marker))}
    for name in ("scores.parquet", "content_free.parquet", "reviews.parquet"):
        table = pq.read_table(run / name)
        fields = [field.with_metadata(hidden) for field in table.schema]
        pq.write_table(table.cast(pa.schema(fields)), run / name)
    assert call(["compare", str(run), str(runs / "run"), "--calibration", "batch"]) in (0, 2)


# spreadsheets

FORMULAS = ["=cmd|' /C calc'!A0", "+1+1", "-2+3", "@SUM(1)", "\t=1+1", "\r=1+1", '=HYPERLINK("http://x";"y")', "＝1+1"]
OTHERS = ["fine;=1+1", "'tis =1", "'=1 as it stood", "a,\n=1+1", 'he said "=1"', "'", "plain"]


def test_a_labelled_csv_starts_no_formula_and_reads_back_as_it_was(tmp_path: Path):
    path = tmp_path / "labelled.csv"
    write_labelled([(text, "positive", 1.0) for text in (*FORMULAS, *OTHERS)], path)
    for delimiter in ",;":
        with path.open(encoding="utf-8", newline="") as file:
            cells = [cell for row in csv.reader(file, delimiter=delimiter) for cell in row]
        assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@", "\t", "\r", "\n", "＝"))]
    assert [example.review for example in read_examples(path, clean_html=False)] == [*FORMULAS, *OTHERS]
    assert list(read_documents(str(path))) == [text.strip() for text in (*FORMULAS, *OTHERS)]


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1).filter(str.strip))
def test_any_text_survives_a_labelled_csv(tmp_path_factory, text: str):
    path = tmp_path_factory.getbasetemp() / "any.csv"
    write_labelled([(text, "negative", 0.9)], path)
    assert [example.review for example in read_examples(path, clean_html=False)] == [text]


def test_predictions_hold_names_and_numbers_of_this_package_alone(runs: Path):
    with (runs / "run" / "predictions.csv").open(encoding="utf-8", newline="") as file:
        cells = {cell for row in csv.reader(file) for cell in row}
    assert not [cell for cell in cells if not re.fullmatch(r"[a-z_0-9]+|-?\d+(\.\d+)?(e-?\d+)?", cell)]


# the page

HOSTILE = (
    "<script>window.pwned = 'script'</script>",
    "<img src=x onerror=\"window.pwned = 'img'\">",
    "<svg onload=\"window.pwned = 'svg'\"><animate onbegin=\"window.pwned = 'animate'\" attributeName=x dur=1s></svg>",
    "<a id=link href=\"javascript:window.pwned = 'link'\" autofocus onfocus=\"window.pwned = 'focus'\">here</a>",
    "</script></style></title></textarea></template><script>window.pwned = 'closed'</script>",
    "<iframe srcdoc=\"<script>parent.pwned = 'frame'</script>\"></iframe><object data=x></object><base href=//127.0.0.1:9/>",
    "<meta http-equiv=refresh content='0;url=javascript:window.pwned=1'><link rel=stylesheet href=//127.0.0.1:9/x.css>",
    "{{ 7 * 191 }} {% raw %} ${7 * 191} #{7 * 191} [[constructor.constructor('window.pwned = 1')()]]",
    "\"-->]]></q></pre></details><script>window.pwned = 'quote'</script>' onmouseover='window.pwned = 2' \u202e\u0000",
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """One browser for this file."""
    yield from start_browser(tmp_path_factory.mktemp("profile"))


@pytest.mark.slow
def test_what_a_review_or_a_name_holds_never_runs_in_the_report(browser, fitted: Path, tmp_path: Path):
    data = tmp_path / "<img src=x onerror=pwned=3>.csv"
    with data.open("w", encoding="utf-8", newline="") as file:  # each under both labels: one of the two is a mistake, and shown
        csv.writer(file).writerows(
            [("review", "sentiment"), *((f"{text} {n}", label) for n, text in enumerate(HOSTILE) for label in ("negative", "positive"))]
        )
    template = "<svg onload=pwned=4>{text} </script>: {label}\\n"
    arguments = ["--checkpoint", str(fitted / "pretrained"), "--data", str(data), "--template", template, "--shots", "0", "--seeds", "1"]
    assert call(["evaluate", *arguments, "--output", str(tmp_path / "output")]) == 0
    text = (tmp_path / "output" / "report.html").read_text(encoding="utf-8")
    assert text.lower().count("<script") == text.lower().count("</script") == 1
    assert "1337" not in re.sub(r"\d{5,}|\d\.\d+", "", text)  # of 7 * 191
    browser.get((tmp_path / "output" / "report.html").as_uri())
    browser.execute_script("document.querySelectorAll('details').forEach((one) => one.open = true)")
    shown = browser.execute_script("return document.body.innerText")
    assert "{{ 7 * 191 }}" in shown
    assert "window.pwned = 'script'" in shown
    assert browser.execute_script("return window.pwned === undefined && document.title.startsWith('Few-shot report')")
    strange = (
        "iframe, object, base, img, a[href^=javascript], link[rel=stylesheet], meta[http-equiv=refresh], [onload], [onerror], [onfocus]"
    )
    assert browser.execute_script("return document.querySelectorAll(arguments[0]).length", strange) == 0
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    fetched = {event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"}
    assert not [url for url in fetched if not url.startswith(("file:", "data:", "chrome"))]
