"""Rows of files: the same rows from every kind of file, numbered, one at a time, whatever the file is called."""

from __future__ import annotations

import csv
import io
import json
import tracemalloc
from itertools import islice
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.catalog import json_rows, places
from engine.catalog.datasets import Entry, read_rows
from engine.catalog.rows import rows_and_faults, rows_of
from engine.errors import UserError
from tests.unit.test_datasets import ROW, refused

ROWS = [ROW, {"instruction": "Überlege, “wie”\n\tes geht: 你好 🙂", "input": "", "output": 'a,b;"c"'}]


def written(folder: Path, name: str, rows: list[dict] = ROWS) -> Path:
    path = folder / name
    if path.suffix == ".json":
        path.write_text(json.dumps(rows, ensure_ascii=False, indent=2), encoding="utf-8")
    elif path.suffix == ".jsonl":
        path.write_text("\n\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    elif path.suffix == ".csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    else:
        pyarrow = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        table = pyarrow.Table.from_pylist(rows)
        if path.suffix == ".parquet":
            parquet.write_table(table, path, row_group_size=300)
        else:
            new = pyarrow.ipc.new_stream if "stream" in name else pyarrow.ipc.new_file
            with new(str(path), table.schema) as writer:
                writer.write_table(table, max_chunksize=300)
    return path


def kinds(path: Path) -> list:
    """The rows, and the keys of what is no row."""
    return [row.key if isinstance(row, UserError) else row for _, row in rows_and_faults(path)]


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.csv", "a.parquet", "stream.arrow", "file.arrow"])
def test_every_kind_of_file_gives_the_same_rows(tmp_path, name):
    assert list(read_rows(Entry("x", written(tmp_path, name)))) == list(enumerate(ROWS, start=1))


def test_the_content_decides_between_a_list_and_lines(tmp_path):
    (tmp_path / "lines.json").write_text('\n{"a": "1"}\n{"a": "2"}\n')
    (tmp_path / "list.jsonl").write_text(' [{"a": "1"},\n{"a": "2"}]')
    for name in ("lines.json", "list.jsonl"):
        assert list(rows_of(tmp_path / name)) == [(1, {"a": "1"}), (2, {"a": "2"})]


def test_text_is_one_row_a_line(tmp_path):
    (tmp_path / "a.txt").write_text("Erste\n\n  zweite \n", encoding="utf-8")
    assert list(rows_of(tmp_path / "a.txt")) == [(1, {"text": "Erste"}), (2, {"text": "  zweite "})]


def test_a_folder_is_read_file_by_file_and_numbered_on(tmp_path):
    """What describes the rows is none of them."""
    files = {"b 🙂.jsonl": '{"a": "3"}', "a.json": '[{"a": "1"}, {"a": "2"}]', "notes.md": "x"}
    for name, rows in {**files, "dataset_info.json": "{}", "state.json": "{}", ".hidden.json": "[]"}.items():
        (tmp_path / name).write_text(rows)
    assert list(rows_of(tmp_path)) == [(1, {"a": "1"}), (2, {"a": "2"}), (3, {"a": "3"})]


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.csv"])
def test_a_byte_order_mark_is_no_fault(tmp_path, name):
    path = written(tmp_path, name)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert [row for _, row in rows_of(path)] == ROWS


@pytest.mark.parametrize(("name", "content"), [("a.jsonl", '{"a": "1"}\n{"a": "2"}\n'), ("a.json", '[{"a": "1"}, ')])
def test_rows_are_read_one_at_a_time(tmp_path, name, content):
    """What comes after the rows that are asked for is not even looked at."""
    (tmp_path / name).write_text(content + "broken")
    assert next(rows_of(tmp_path / name)) == (1, {"a": "1"})


def test_a_long_csv_field(tmp_path):
    (tmp_path / "a.csv").write_text("a\n" + "x" * 300_000)
    assert len(next(rows_of(tmp_path / "a.csv"))[1]["a"]) == 300_000


def test_half_a_row_of_a_table_is_no_row_but_a_pair_of_halves_is_a_character(tmp_path):
    (tmp_path / "a.jsonl").write_text(r'{"a": "\ud83d\ude42 \\ud83d"}' + "\n" + r'{"a": "\ude42\ud83d"}')
    assert kinds(tmp_path / "a.jsonl") == [{"a": "🙂 \\ud83d"}, "dataset_surrogate"]


def test_reading_goes_on_behind_a_broken_line(tmp_path):
    good = {"a": "1"}
    (tmp_path / "a.jsonl").write_bytes(b'{"a": "1"}\n{"a" 1}\n{"a": "\xe9"}\n{"a": NaN}\n[1]\n{"a": "1"}')
    not_json = ["dataset_line", "dataset_not_utf8", "dataset_line", "dataset_row.no_object"]
    assert kinds(tmp_path / "a.jsonl") == [good, *not_json, good]
    (tmp_path / "a.txt").write_bytes(b"1\n\xe9\n\n1\n")
    assert kinds(tmp_path / "a.txt") == [{"text": "1"}, "dataset_not_utf8", {"text": "1"}]
    (tmp_path / "a.csv").write_bytes(b'a\n1\n1,2\n\xe9\n"1"2"\n\n"1\n\xe9\n"\n1\n')
    broken = ["dataset_csv_fields", "dataset_not_utf8", "dataset_line", "dataset_not_utf8"]
    assert kinds(tmp_path / "a.csv") == [good, *broken, good]


@pytest.mark.parametrize("first", ["# exported 2024", "oops", "null", "oops {", '{"a": "1"', '{"a":\n"1"}'])
def test_rows_are_read_on_behind_a_first_line_that_is_none(tmp_path, first):
    """One mapping over several lines is a file of its own kind only if it is all there is."""
    (tmp_path / "a.jsonl").write_text(f'{first}\n{{"a": "1"}}\n{{"a": "2"}}\n')
    found = kinds(tmp_path / "a.jsonl")
    assert found[-2:] == [{"a": "1"}, {"a": "2"}]
    assert set(found[:-2]) <= {"dataset_line", "dataset_row.no_object"} and len(found) == 3 + first.count("\n")


def test_a_list_is_read_on_as_long_as_its_elements_can_be_told_apart(tmp_path):
    (tmp_path / "a.json").write_text('[{"a": "1"}, 5, {"a": NaN}, {"a": 1, "a": 2}, {"a": "1"}, {"a" 1}, {"a": "1"}]')
    faults = ["dataset_row.no_object", "dataset_line", "dataset_key_twice"]
    assert kinds(tmp_path / "a.json") == [{"a": "1"}, *faults, {"a": "1"}, "dataset_line"]


def test_a_folder_is_read_on_behind_a_broken_file(tmp_path):
    (tmp_path / "a.json").write_text('[{"a": 1}')
    (tmp_path / "b.json").write_bytes(b"\xff\xfe")
    (tmp_path / "c.json").write_text('[{"a": 2}]')
    numbers = [number for number, _ in rows_and_faults(tmp_path)]
    assert (numbers, kinds(tmp_path)) == ([1, 2, 3, 4], [{"a": 1}, "dataset_truncated", "dataset_utf16", {"a": 2}])


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**20), 10**20) | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)


@given(
    st.lists(st.dictionaries(st.text(max_size=4), VALUES, max_size=3), min_size=1, max_size=6),
    st.booleans(),
    st.sampled_from([None, 0, 2]),
    st.integers(1, 40),
)
def test_a_list_is_read_as_by_python_however_the_window_cuts_it(tmp_path_factory, rows, ascii_only, indent, chunk):
    """Checked against ``json.loads`` with windows of a few bytes."""
    path = tmp_path_factory.mktemp("rows") / "a.json"
    path.write_text(json.dumps(rows, ensure_ascii=ascii_only, indent=indent), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_rows, "CHUNK_BYTES", chunk)
        assert [row for _, row in rows_of(path)] == json.loads(path.read_text(encoding="utf-8"))


@given(st.text('[]{}",:0aN\\ \n', max_size=25), st.integers(1, 6))
def test_what_is_no_list_of_objects_to_python_is_none_here(tmp_path_factory, text, chunk):
    """Every row that is given out comes before the first fault, and there is a fault if Python sees one."""
    path = tmp_path_factory.mktemp("rows") / "a.json"
    path.write_text("[" + text)
    try:
        expected = json.loads("[" + text, parse_constant=lambda name: {}[name])
    except (ValueError, KeyError):
        expected = None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_rows, "CHUNK_BYTES", chunk)
        found = list(rows_and_faults(path)) if expected != [] else []
    faults = [row for _, row in found if isinstance(row, UserError)]
    if expected is None:
        assert faults
    elif all(isinstance(row, dict) for row in expected):
        assert [row for _, row in found] == expected or {fault.key for fault in faults} == {"dataset_key_twice"}
    else:
        assert len(found) == len(expected)


@pytest.mark.parametrize("chunk", range(1, 8))
def test_a_number_that_the_window_cuts_is_one_value(tmp_path, monkeypatch, chunk):
    monkeypatch.setattr(json_rows, "CHUNK_BYTES", chunk)
    (tmp_path / "a.json").write_text('[1234567890, {"a": 1}]')
    assert kinds(tmp_path / "a.json") == ["dataset_row.no_object", {"a": 1}]


@given(st.lists(st.tuples(st.text(max_size=5), st.text(max_size=5)), min_size=1, max_size=5))
def test_a_table_is_read_as_by_python(tmp_path_factory, records):
    """What csv.writer has written is read back, with quotes and line breaks."""
    path = tmp_path_factory.mktemp("rows") / "a.csv"
    text = io.StringIO(newline="")
    csv.writer(text, quoting=csv.QUOTE_ALL).writerows([("a", "b"), *records])
    path.write_bytes(text.getvalue().encode())
    if "\0" in text.getvalue()[:256]:
        refused("dataset_utf16", rows_of, path)
    else:
        assert [tuple(row.values()) for _, row in rows_of(path)] == records


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.csv"])
def test_memory_does_not_grow_with_the_file(tmp_path, name):
    path = written(tmp_path, name, [{"a": "x" * 500, "b": str(number)} for number in range(20_000)])
    assert path.stat().st_size > 10_000_000
    next(rows_of(path))
    tracemalloc.start()
    count = sum(1 for _ in rows_of(path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 20_000
    assert peak < 3_000_000


@pytest.mark.parametrize(
    ("name", "before", "place"),
    [
        ("a.jsonl", b'{"a": "1"}\n{"a": "', {"line": 2, "column": 1}),
        ("a.json", b'{"a": "', {"line": 1, "column": 1}),
        ("b.json", b'[{"a": "1"}, {"a": "', {"line": 1, "column": 14}),
        ("a.csv", b'a\n1\n"', {"line": 3, "column": 1}),
        ("b.csv", b"a\n1\n", {"line": 3, "column": 1}),
        ("a.txt", b"1\n", {"line": 2, "column": 1}),
    ],
)
def test_a_row_without_end_is_refused_before_it_fills_the_memory(tmp_path, monkeypatch, name, before, place):
    monkeypatch.setattr(places, "LIMIT_BYTES", 4 * 2**20)
    fault, peak = endless(tmp_path / name, before, 20)
    assert {name: fault.facts[name] for name in place} == place
    assert peak < 4 * places.LIMIT_BYTES


def test_200_megabytes_on_one_line(tmp_path):
    fault, peak = endless(tmp_path / "a.json", b'{"text": "', 200)
    assert fault.facts["limit"] == 64
    assert peak < 4 * places.LIMIT_BYTES


def endless(path: Path, before: bytes, megabytes: int) -> tuple[UserError, int]:
    """The one fault of a file that holds a row of so many megabytes, and how much memory it took to find it."""
    with path.open("wb") as file:
        file.write(before)
        for _ in range(megabytes):
            file.write(b"x" * 2**20)
        file.write(b'"}\n')
    tracemalloc.start()
    faults = [row for _, row in rows_and_faults(path) if isinstance(row, UserError)]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    path.unlink()
    assert [fault.key for fault in faults] == ["dataset_row_too_long"]
    return faults[0], peak


def test_a_quote_that_is_never_closed_does_not_swallow_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(places, "LIMIT_BYTES", 1000)
    (tmp_path / "a.csv").write_text('a\n1\n"2\n' + "3\n" * 10_000)
    assert [type(row) for _, row in islice(rows_and_faults(tmp_path / "a.csv"), 5)] == [dict, UserError]


def test_lines_that_are_too_long_hold_up_no_other(tmp_path, monkeypatch):
    monkeypatch.setattr(places, "LIMIT_BYTES", 50)
    (tmp_path / "a.jsonl").write_text('{"a": "1"}\n{"a": "' + "x" * 3_000_000 + '"}\n{"a": "1"}\n')
    assert kinds(tmp_path / "a.jsonl") == [{"a": "1"}, "dataset_row_too_long", {"a": "1"}]


def test_missing_files_and_empty_folders(tmp_path):
    refused("dataset_file_missing", rows_of, tmp_path / "a.json")
    refused("dataset_folder_empty", rows_of, tmp_path)


def test_a_text_in_a_table_of_types_that_is_none(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    texts = pyarrow.array([b"good", b"\xff\xfe", b"good"]).view(pyarrow.string())
    parquet.write_table(pyarrow.table({"text": texts}), tmp_path / "a.parquet")
    assert kinds(tmp_path / "a.parquet") == [{"text": "good"}, "dataset_arrow", {"text": "good"}]


@pytest.mark.parametrize("suffix", ["parquet", "arrow"])
def test_keys_that_arrow_adds_to_other_calls_are_not_there(tmp_path, suffix):
    """One call has a city, the other a day: as a table both have both, and one of each would be learned as null."""
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    rows = [
        {"calls": [{"arguments": {"city": "Bern"}}], "tools": None},
        {"calls": [{"arguments": {"day": 1}}], "tools": None},
    ]
    table = pyarrow.Table.from_pylist(rows)
    path = tmp_path / f"a.{suffix}"
    if suffix == "parquet":
        parquet.write_table(table, path)
    else:
        with pyarrow.ipc.new_file(str(path), table.schema) as writer:
            writer.write_table(table)
    assert [row for _, row in rows_of(path)] == rows
