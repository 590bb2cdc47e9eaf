"""A corpus of broken files: each gives exactly one precise message, and nothing that was registered before is lost.

How much memory a broken file may take is tested in ``test_rows``.
"""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

import pytest

from engine.catalog.checks import problems_on_disk
from engine.catalog.conversations import row_faults
from engine.catalog.datasets import Entry, find_entry, read_rows, registered
from engine.catalog.entry import Columns, entry_from
from engine.catalog.pages import page_of_rows
from engine.catalog.register import register
from engine.catalog.rows import rows_and_faults
from engine.errors import UserError
from engine.options.jobs import TrainJob
from tests.unit.test_datasets import ROW, refused

GOOD = json.dumps(ROW).encode()
DEEP = b'[{"a": ' + b"[" * 100_000

FILES = {
    # a list in JSON
    "cut off in a text.json": (b"[" + GOOD + b', {"a": "tex', "dataset_truncated", {"line": 1}),
    "cut off behind a row.json": (b"[\n" + GOOD + b",\n", "dataset_truncated", {"line": 3, "column": 1}),
    "cut off in a letter.json": (b'[{"a": "\xc3', "dataset_truncated", {"line": 1, "column": 9}),
    "not closed.json": (b'[\n{"a": "1"}\n', "dataset_truncated", {"line": 3, "column": 1}),
    "only a bracket.json": (b"[", "dataset_truncated", {"line": 1, "column": 2}),
    "comma missing.json": (b'[{"a": "1"}\n{"a": "2"}]', "dataset_line", {"line": 2, "column": 1}),
    "comma too many.json": (b'[{"a": "1"},\n]', "dataset_line", {"line": 2, "column": 1}),
    "comma at the start.json": (b'[,{"a": "1"}]', "dataset_line", {"line": 1, "column": 2}),
    "colon missing.json": (b'[{"a": "1"},\n {"a" "2"}]', "dataset_line", {"line": 2, "column": 7}),
    "quote missing.json": (b'[{"a": "1}, {"a": "2"}]', "dataset_line", {"line": 1}),
    "single quotes.json": (b"[{'a': '1'}]", "dataset_line", {"line": 1, "column": 3}),
    "line break in a text.json": (b'[{"a": "1\n2"}]', "dataset_line", {"line": 1, "column": 10}),
    "wrong escape.json": (b'[{"a": "\\x41"}]', "dataset_line", {"line": 1, "column": 9}),
    "a comment.json": (b'[ // rows\n{"a": "1"}]', "dataset_line", {"line": 1, "column": 3}),
    "nested wrongly.json": (b'[{"a": ["1"}]', "dataset_line", {"line": 1, "column": 12}),
    "a list in a list.json": (b'[[{"a": "1"}]]', "dataset_row.no_object", {"row": 1, "found": "list"}),
    "nested too deep.json": (DEEP, "dataset_line", {"line": 1, "column": 2}),
    "closed twice.json": (b'[{"a": "1"}]]', "dataset_line", {"line": 1, "column": 13}),
    "two lists.json": (b'[{"a": "1"}]\n[{"a": "2"}]', "dataset_line", {"line": 2, "column": 1}),
    "NaN.json": (b'[{"a": "NaN", "b": NaN}]', "dataset_line", {"line": 1, "column": 20, "detail": "NaN"}),
    "infinite.json": (b'[{"a": 1},\n{"b": -Infinity}]', "dataset_line", {"line": 2, "column": 7}),
    "a number without end.json": (b'[{"a": ' + b"1" * 5000 + b"}]", "dataset_line", {"line": 1, "column": 2}),
    "a number for a row.json": (b'[{"a": "1"}, 5]', "dataset_row.no_object", {"row": 2, "found": "int"}),
    "null for a row.json": (b"[null]", "dataset_row.no_object", {"row": 1, "found": "NoneType"}),
    "a key twice.json": (
        b'[{"a": "1"},\n {"b": 1, "b": 2}]',
        "dataset_key_twice",
        {"line": 2, "column": 2, "key": "b"},
    ),
    "half a character.json": (b'[{"a": "\\ud83d \\ude00"}]', "dataset_surrogate", {"column": 9, "found": "\\ud83d"}),
    "no row.json": (b" [ ] ", "dataset_empty", {}),
    # one mapping
    "wrapped.json": (b'{"data": [' + GOOD + b"]}", "dataset_wrapped", {"key": "data"}),
    "wrapped and spread.json": (
        b'{\n "v": "1",\n "items": [\n' + GOOD + b"\n]\n}",
        "dataset_wrapped",
        {"key": "items"},
    ),
    "one row spread.json": (json.dumps(ROW, indent=2).encode(), "dataset_one_mapping", {"keys": ", ".join(ROW)}),
    # one object a line
    "empty.jsonl": (b"", "dataset_empty", {}),
    "blank.jsonl": (b"\n \r\n\t\n", "dataset_empty", {}),
    "cut off.jsonl": (GOOD + b'\n{"a": "2"', "dataset_line", {"line": 2, "column": 10}),
    "cut off, and more rows.jsonl": (GOOD + b'\r\n{"a": "2"\r\n' + GOOD, "dataset_line", {"line": 2, "column": 10}),
    "cut off in a text.jsonl": (
        GOOD + b'\n{"a": "2\n' + GOOD,
        "dataset_line",
        {"line": 2, "column": 7, "detail": "Unterminated string starting at"},
    ),
    "a comma at the end.jsonl": (b'{"a": "1"},\n', "dataset_line", {"line": 1, "column": 11}),
    "two on a line.jsonl": (GOOD + b'\n{"a": "1"}{"a": "2"}', "dataset_line", {"line": 2, "column": 11}),
    "a text for a row.jsonl": (GOOD + b'\n"text"', "dataset_row.no_object", {"row": 2, "found": "str"}),
    "a web page.jsonl": (b"<!DOCTYPE html>\n", "dataset_line", {"line": 1, "column": 1}),
    "half a character.jsonl": (b'\n{"a": "\\udc00"}', "dataset_surrogate", {"line": 2, "column": 8}),
    # encodings
    "UTF-16.json": (f"[{GOOD.decode()}]".encode("utf-16"), "dataset_utf16", {}),
    "UTF-16 without mark.jsonl": (GOOD.decode().encode("utf-16-le"), "dataset_utf16", {}),
    "UTF-16 big.csv": ("\ufeffa,b\n1,2".encode("utf-16-be"), "dataset_utf16", {}),
    "Latin-1.jsonl": (GOOD + b'\n{"a": "\xe9t\xe9"}', "dataset_not_utf8", {"line": 2, "column": 8}),
    "Latin-1.json": (b'[{"a": "1"},\n{"a": "\xc3\xa9\xe9"}]', "dataset_not_utf8", {"line": 2, "column": 9}),
    "Latin-1.txt": (b"one\ntw\xf6\n", "dataset_not_utf8", {"line": 2, "column": 3}),
    "Latin-1.csv": (b'a,b\n"x\ny\xe9",2', "dataset_not_utf8", {"line": 3, "column": 2}),
    "packed.jsonl": (gzip.compress(GOOD * 50, mtime=0), "dataset_utf16", {}),
    "a picture.json": (b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR", "dataset_utf16", {}),
    # tables
    "empty.csv": (b"", "dataset_empty", {}),
    "only names.csv": (b"a,b\r\n", "dataset_empty", {}),
    "a field too many.csv": (b"a,b\n1,2\n1,2,3\n", "dataset_csv_fields", {"line": 3, "found": 3, "expected": 2}),
    "a field too few.csv": (b'a,b\n"1\n",2\n1\n', "dataset_csv_fields", {"line": 4, "found": 1, "expected": 2}),
    "a name twice.csv": (b"a,a\n1,2\n", "dataset_line", {"line": 1}),
    "a name missing.csv": (b",a\n0,1\n", "dataset_line", {"line": 1}),
    "a quote open.csv": (b'a,b\n1,"2\n3,4\n', "dataset_line", {"line": 3}),
    "a quote inside.csv": (b'a,b\n1,2\n"say "hi"",2\n', "dataset_line", {"line": 3}),
    # files of types
    "cut off.parquet": (b"PAR1 but cut off", "dataset_arrow", {}),
    "empty.parquet": (b"", "dataset_arrow", {}),
    "text.parquet": (GOOD, "dataset_arrow", {}),
    "cut off.arrow": (b"ARROW1 but cut off", "dataset_arrow", {}),
    "empty.arrow": (b"", "dataset_arrow", {}),
    # kinds of file
    "sheet.xlsx": (b"PK", "dataset_suffix", {"suffix": ".xlsx"}),
    "rows": (GOOD, "dataset_suffix", {"suffix": ""}),
    "rows 🙂 of mine.json": (b"[", "dataset_truncated", {"line": 1}),
}
"""Name of the file → what it holds, and the key and facts of the one message."""


def test_the_corpus_is_large_enough():
    assert len(FILES) >= 40


@pytest.mark.parametrize("name", FILES)
def test_a_broken_file_gives_one_precise_message(tmp_path, name):
    content, key, facts = FILES[name]
    path = tmp_path / name
    path.write_bytes(content)
    error = refused(key, read_rows, Entry("x", path))
    assert {fact: error.facts[fact] for fact in facts} == facts
    assert str(path) in error.text()
    assert "\n" not in error.text().strip()
    try:
        faults = [row for _, row in rows_and_faults(path) if isinstance(row, UserError)]
    except UserError as whole:
        faults = [whole]
    assert [(fault.key, fault.facts) for fault in faults] == [(key, error.facts)]


@pytest.mark.parametrize("name", FILES)
def test_a_page_of_a_broken_file_shows_the_same(tmp_path, name):
    content, key, facts = FILES[name]
    (tmp_path / name).write_bytes(content)
    try:
        rows, total = page_of_rows(Entry("x", tmp_path / name), 0, 100)
    except UserError as error:
        assert error.key == key
        return
    faults = [row for _, row in rows if isinstance(row, UserError)]
    assert [fault.key for fault in faults] == [key]
    assert {fact: faults[0].facts[fact] for fact in facts} == facts
    assert total == len(rows)


@pytest.mark.parametrize("name", FILES)
def test_a_broken_file_among_the_registered_harms_no_other(tmp_path, name):
    """The others are found, and a new one can still be registered."""
    (tmp_path / name).write_bytes(FILES[name][0])
    (tmp_path / "good.json").write_bytes(b"[" + GOOD + b"]")
    info = {"broken": {"file_name": name}, "good": {"file_name": "good.json"}}
    (tmp_path / "dataset_info.json").write_text(json.dumps(info), encoding="utf-8")
    assert list(read_rows(find_entry(tmp_path, "good"))) == [(1, ROW)]
    register(tmp_path, "new", {"file_name": "good.json"})
    assert list(registered(tmp_path)) == ["broken", "good", "new"]
    assert json.loads((tmp_path / "dataset_info.json").read_text(encoding="utf-8"))["broken"] == {"file_name": name}


def test_a_broken_first_row_is_seen_before_the_start(tmp_path):
    (tmp_path / "rows.json").write_bytes(b"[{]")
    (tmp_path / "dataset_info.json").write_text('{"x": {"file_name": "rows.json"}, "far": {"hf_hub_url": "me/data"}}')
    job = TrainJob(model_name_or_path=str(tmp_path), dataset=["x", "far"], dataset_dir=str(tmp_path))
    problems = [problem for problem in problems_on_disk(job) if problem.option == "dataset"]
    assert [(problem.key, problem.facts["line"]) for problem in problems] == [("dataset_line", 1)]


# ---- paths that lead elsewhere


def test_paths_that_are_no_file(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "link.json").symlink_to(tmp_path / "gone.json")
    (tmp_path / "loop.json").symlink_to(tmp_path / "loop.json")
    os.mkfifo(tmp_path / "pipe.json")
    for name, key in {
        "folder": "dataset_folder_empty", "link.json": "dataset_file_missing", "loop.json": "dataset_file_missing",
        "pipe.json": "dataset_file_missing", "gone.json": "dataset_file_missing",
    }.items():  # fmt: skip
        refused(key, read_rows, Entry("x", tmp_path / name))


@pytest.mark.parametrize(
    "name", ["link.json", "../outside.json", "inner/../../outside.json", "way out/outside.json", "all"]
)
def test_no_registered_name_leads_out_of_its_folder(tmp_path, name):
    folder = tmp_path / "data"
    (folder / "all").mkdir(parents=True)
    (folder / "inner").mkdir()
    outside = tmp_path / "outside.json"
    outside.write_bytes(b"[" + GOOD + b"]")
    (folder / "link.json").symlink_to(outside)
    (folder / "all" / "link.json").symlink_to(outside)
    (folder / "way out").symlink_to(tmp_path)
    entry = entry_from("x", {"file_name": name}, folder)
    refused("dataset_outside", read_rows, entry)
    refused("dataset_outside", page_of_rows, entry, 0, 3)
    refused("dataset_outside", register, folder, "x", {"file_name": name})
    assert not (folder / "dataset_info.json").exists()


def test_an_unreadable_file(tmp_path, monkeypatch):
    path = tmp_path / "rows.json"
    path.write_bytes(b"[" + GOOD + b"]")

    def denied(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", denied)
    assert "Permission denied" in refused("file_unreadable", read_rows, Entry("x", path)).text()


# ---- rows of which each is JSON, but not all are alike


def test_rows_of_mixed_shapes_are_told_apart_one_by_one(tmp_path):
    rows = [ROW, {"messages": []}, {**ROW, "output": 5}, {"instruction": ["x"], "output": None}, {}, ROW]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    entry = Entry("x", tmp_path / "rows.json", columns=Columns())
    found = [[fault.key.split(".")[1] for fault in row_faults(row, entry, n)] for n, row in read_rows(entry)]
    missing = "column_missing"
    assert found == [[], [missing, missing], ["not_text"], ["not_text", missing], [missing, missing], []]
