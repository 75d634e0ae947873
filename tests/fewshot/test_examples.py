"""Files that are no CSV of reviews end in one line with path, row, column and remedy; what a person may write is forgiven."""

import csv
import re
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rope_gpt2.errors import InputError
from rope_gpt2.fewshot.examples import LABELS, Example, ExampleFile, read_examples, strip_html

HEADER = b"review,sentiment\n"
BROKEN = {
    "an empty file": (b"", ["is empty", "must name the columns review,sentiment"]),
    "a byte order mark alone": (b"\xef\xbb\xbf", ["is empty", "must name the columns review,sentiment"]),
    "a header alone": (HEADER, ["has a header and no rows", "add at least one review"]),
    "a missing column": (b"review,label\nDull.,negative\n", ["header", "column sentiment is missing", "review, label", "once"]),
    "no header": (b"Dull.,negative\nFine.,positive\n", ["header", "column review is missing", "Dull., negative", "once"]),
    "semicolons": (b"review;sentiment\nDull.;negative\n", ["header", "column review is missing", "review;sentiment"]),
    "a doubled column": (b"review,sentiment,Review\nA,negative,B\n", ["header", "column review stands 2 times", "once"]),
    "a line end in a column name": (b'"review\ntext",sentiment\nDull.,negative\n', ["header", "column review is missing"]),
    "an unknown label": (
        HEADER + b"Dull.,negative\nFine.,neutral\n",
        ["row 2 (line 3)", "column sentiment", "'neutral'", "write negative or positive"],
    ),
    "no label": (HEADER + b"Dull.,\n", ["row 1 (line 2)", "column sentiment", "''", "write negative or positive"]),
    "an unknown label below a review of two lines": (
        HEADER + b'"Dull.\nVery.",negative\n\nFine.,"so\nso"\n',
        ["row 2 (line 5)", "column sentiment", r"'so\nso'", "write negative or positive"],
    ),
    "an empty review": (HEADER + b"Dull.,negative\n,positive\n", ["row 2", "column review", "empty review", "delete the row"]),
    "a blank review": (HEADER + b'" \t ",positive\n', ["row 1", "column review", "empty review", "delete the row"]),
    "a review of tags alone": (HEADER + b"<br /><br />,positive\n", ["row 1", "column review", "empty review", "delete the row"]),
    "Latin-1": (HEADER + "Fine.,positive\nTouché.,positive\n".encode("latin-1"), ["line 3", "not UTF-8", "save the file as UTF-8"]),
    "UTF-16": ("review,sentiment\nDull.,negative\n".encode("utf-16"), ["line 1", "not UTF-8", "save the file as UTF-8"]),
    "an unclosed quote": (
        HEADER + b'Fine.,positive\n"Dull.,negative\nBad.,negative\n',
        ["row 2 (line 3)", "broken quoting", "must stand in double quotes"],
    ),
    "an unclosed quote in the header": (b'"review,sentiment\nDull.,negative\n', ["line 1", "broken quoting", "double quotes"]),
    "text after a closing quote": (HEADER + b'"Dull" film.,negative\n', ["row 1 (line 2)", "broken quoting", "must be doubled"]),
    "too few fields": (HEADER + b"Dull.,negative\nFine.\n", ["row 2 (line 3)", "1 columns instead of 2", "double quotes"]),
    "too many fields": (HEADER + b"Long, dull.,negative\n", ["row 1 (line 2)", "3 columns instead of 2", "double quotes"]),
}


def write(folder: Path, content: bytes) -> Path:
    path = folder / "reviews.csv"
    path.write_bytes(content)
    return path


def refusal(path: Path) -> str:
    """The message, with the path at its head taken off."""
    with pytest.raises(InputError) as caught:
        read_examples(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert len(message.splitlines()) == 1
    return message.removeprefix(str(path))


@pytest.mark.parametrize(("content", "said"), BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_file_is_refused_in_one_line_with_its_place_and_a_remedy(tmp_path, content, said):
    message = refusal(write(tmp_path, content))
    for part in said:
        assert part in message


def test_a_missing_file_is_refused(tmp_path):
    assert "no such file; give the path of a CSV" in refusal(tmp_path / "nowhere.csv")


def test_a_folder_is_refused(tmp_path):
    assert "is a folder, not a file; give the path of a CSV" in refusal(tmp_path)


def test_a_very_long_label_is_shortened_in_the_message(tmp_path):
    assert len(refusal(write(tmp_path, HEADER + b"Dull.," + b"x" * 10_000 + b"\n"))) < 300


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(HEADER + b"Dull.,NEGATIVE\nFine.,Positive\n", id="case of labels"),
        pytest.param(HEADER + b"Dull., negative \nFine.,\tpositive\n", id="space around labels"),
        pytest.param(b" Review ,SENTIMENT\nDull.,negative\nFine.,positive\n", id="case and space of the header"),
        pytest.param(b"\xef\xbb\xbf" + HEADER + b"Dull.,negative\nFine.,positive\n", id="byte order mark"),
        pytest.param(b"id,review,sentiment,source\n7,Dull.,negative,a\n8,Fine.,positive,b\n", id="extra columns"),
        pytest.param(b"sentiment,review\nnegative,Dull.\npositive,Fine.\n", id="order of columns"),
        pytest.param(HEADER + b"\nDull.,negative\n\n\nFine.,positive\n\n", id="blank lines"),
        pytest.param(HEADER.replace(b"\n", b"\r\n") + b"Dull.,negative\r\nFine.,positive\r\n", id="line ends of Windows"),
        pytest.param(HEADER + b"Dull.,negative\nFine.,positive", id="no last line end"),
        pytest.param(b'"review","sentiment"\n"Dull.","negative"\n"Fine.","positive"\n', id="everything quoted"),
    ],
)
def test_what_a_spreadsheet_may_write_is_forgiven(tmp_path, content):
    assert read_examples(write(tmp_path, content)) == [Example(1, "Dull.", "negative"), Example(2, "Fine.", "positive")]


def test_commas_quotes_and_line_breaks_inside_a_quoted_review_are_kept(tmp_path):
    content = HEADER + b'"Long, dull,\nand ""deep"".",negative\n'
    assert read_examples(write(tmp_path, content)) == [Example(1, 'Long, dull,\nand "deep".', "negative")]


@pytest.mark.parametrize("path_type", [str, Path])
def test_a_path_may_be_a_string_or_a_path(tmp_path, path_type):
    assert len(read_examples(path_type(write(tmp_path, HEADER + b"Dull.,negative\n")))) == 1


def test_a_file_with_html_is_cleaned_in_every_row(tmp_path):
    content = HEADER + b"Dull.<br /><br />Very  dull.,negative\nFish &amp; chips,positive\nI <3 this,positive\n"
    ours = [example.review for example in read_examples(write(tmp_path, content))]
    assert ours == ["Dull. Very dull.", "Fish & chips", "I <3 this"]


@pytest.mark.parametrize("review", ["I <3 this", "a < b > c", "Fish &amp; chips", "a  b", "<spoiler> he dies", "x<br", "<abrupt> end"])
def test_a_file_without_html_tags_is_left_as_it_is(tmp_path, review):
    assert read_examples(write(tmp_path, HEADER + f"{review},positive\n".encode()))[0].review == review


@pytest.mark.parametrize(("clean_html", "theirs"), [(True, "Dull. Very & dull"), (False, "Dull.<br />Very &amp; dull")])
def test_html_is_cleaned_or_kept_as_asked(tmp_path, clean_html, theirs):
    path = write(tmp_path, HEADER + b"Dull.<br />Very &amp; dull,negative\n")
    assert read_examples(path, clean_html=clean_html)[0].review == theirs


def test_cleaning_without_a_tag_in_the_file_resolves_entities_when_asked(tmp_path):
    assert read_examples(write(tmp_path, HEADER + b"Fish &amp; chips,positive\n"), clean_html=True)[0].review == "Fish & chips"


@settings(max_examples=60, deadline=None)
@given(st.text(alphabet="<>!/[]-?&;#='\" abr1\n", max_size=12))
@example("so-so <![ to the end")
def test_stripping_html_takes_any_text(text):
    ours = strip_html(text)
    assert ours == " ".join(ours.split())


@settings(max_examples=30, deadline=None)
@given(st.lists(st.text(alphabet="abc .,!é", min_size=1), min_size=1))
def test_stripping_html_only_folds_white_space_where_there_is_no_html(words):
    assert strip_html(" ".join(words)) == " ".join(" ".join(words).split())


@settings(max_examples=30, deadline=None)
@given(
    pairs=st.lists(
        st.tuples(st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(lambda text: text.strip()), st.sampled_from(LABELS)),
        min_size=1,
    ),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
)
@example([("\x00", "negative"), ("a\rb", "positive"), ("a\r\nb\n", "negative"), ('"', "positive"), ("\ufeff", "negative")], 0)
def test_whatever_the_csv_module_writes_is_read_back(tmp_path_factory, pairs, quoting):
    path = tmp_path_factory.getbasetemp() / "round_trip.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, quoting=quoting)
        writer.writerow(("review", "sentiment"))
        writer.writerows(pairs)
    theirs = [Example(row, review, sentiment) for row, (review, sentiment) in enumerate(pairs, start=1)]
    assert read_examples(path, clean_html=False) == theirs


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=60).map(lambda content: HEADER + content))
def test_any_bytes_are_read_or_refused_in_one_line(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "bytes.csv"
    path.write_bytes(content)
    ours, refused = [], ""
    try:
        ours = read_examples(path)
    except InputError as error:
        refused = str(error)
    assert bool(ours) != bool(refused)
    assert not refused or re.fullmatch(re.escape(str(path)) + "[^\n]*;[^\n]*", refused)
    assert all(example.review.strip() and example.sentiment in LABELS for example in ours)


def test_a_file_is_read_anew_by_every_iteration(tmp_path):
    path = write(tmp_path, HEADER + b"Dull.<br/>,negative\nFine.,positive\n")
    file = ExampleFile(path)
    assert len(file) == 2
    assert list(file) == list(file) == read_examples(path) == [Example(1, "Dull.", "negative"), Example(2, "Fine.", "positive")]
    first, second = iter(file), iter(file)
    assert next(first) == next(second)


@pytest.mark.parametrize(("limit", "rows"), [(0, 3), (1, 1), (2, 2), (3, 3), (9, 3)])
def test_a_limit_takes_the_first_rows(tmp_path, limit, rows):
    file = ExampleFile(write(tmp_path, HEADER + b"a,negative\nb,positive\nc,negative\n"), limit=limit)
    assert len(file) == len(list(file)) == rows
    assert [example.row for example in file] == list(range(1, rows + 1))


@pytest.mark.parametrize("line", [b"x,unknown\n", b",negative\n", b'"x\n', b"a,b,c\n", b"\xe9,negative\n"])
def test_rows_behind_the_limit_are_checked_too(tmp_path, line):
    path = write(tmp_path, HEADER + b"a,negative\nb,positive\n" + line)
    with pytest.raises(InputError, match=r"reviews\.csv"):
        ExampleFile(path, limit=1)


def test_a_tag_behind_the_limit_cleans_the_rows_before_it(tmp_path):
    """Whether a file holds HTML is a property of the file."""
    path = write(tmp_path, HEADER + b"a &amp; b,negative\nb<br/>,positive\n")
    assert [example.review for example in ExampleFile(path, limit=1)] == ["a & b"]


def test_reading_a_large_file_takes_no_memory_of_its_size(tmp_path):
    path = write(tmp_path, HEADER + b"".join(b"a review of some length %d,negative\n" % row for row in range(20_000)))
    tracemalloc.start()
    rows = sum(1 for _ in ExampleFile(path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert rows == 20_000
    assert peak < 200_000  # bytes; the file has 800,000


def test_a_confidence_is_read_where_it_is_asked_for(tmp_path):
    path = write(tmp_path, b"review,Confidence,sentiment\nDull.,0.75,negative\nFine.,1,positive\n")
    assert [example.confidence for example in read_examples(path)] == [1.0, 1.0]
    assert read_examples(path, confidence=True) == [Example(1, "Dull.", "negative", 0.75), Example(2, "Fine.", "positive", 1.0)]


@pytest.mark.parametrize("field", ["", "sure", "nan", "1.01", "-0.1", "75 %"])
def test_a_confidence_that_is_no_probability_is_refused(tmp_path, field):
    path = write(tmp_path, f"review,sentiment,confidence\nFine.,positive,1\nDull.,negative,{field}\n".encode())
    with pytest.raises(InputError, match=r"row 2 \(line 3\), column confidence: .*from 0 to 1"):
        read_examples(path, confidence=True)


def test_a_missing_column_of_confidences_is_refused(tmp_path):
    with pytest.raises(InputError, match="column confidence is missing"):
        read_examples(write(tmp_path, HEADER + b"Dull.,negative\n"), confidence=True)
