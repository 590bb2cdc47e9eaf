"""Turning pages: the same rows as by reading on, wherever the page lies, and without reading all of it again."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from engine.catalog import pages
from engine.catalog.datasets import Entry
from engine.catalog.pages import page_of_rows, search_rows
from engine.catalog.rows import rows_and_faults
from engine.errors import UserError
from tests.unit.test_datasets import refused
from tests.unit.test_rows import written

ROWS = [{"n": str(number), "text": "Zeile\n“é” 🙂 " * (number % 7)} for number in range(1000)]
FILES = ["a.json", "a.jsonl", "a.csv", "a.parquet", "stream.arrow", "file.arrow", "a.txt", "broken.jsonl", "cut.json"]


@pytest.fixture(autouse=True)
def _small_steps(monkeypatch):
    monkeypatch.setattr(pages, "AHEAD_BYTES", 0)
    monkeypatch.setattr(pages, "_indexes", type(pages._indexes)())


def file_of(folder: Path, name: str) -> Path:
    if name == "a.txt":
        (folder / name).write_text("\n\n".join(row["n"] for row in ROWS))
    elif name == "broken.jsonl":
        lines = [json.dumps(row) if number % 50 else "{broken" for number, row in enumerate(ROWS)]
        (folder / name).write_text("\n".join(lines))
    elif name == "cut.json":
        (folder / name).write_text(json.dumps(ROWS, indent=1)[:-30])
    else:
        return written(folder, name, ROWS)
    return folder / name


def same(rows) -> list:
    """Errors compare by what they say."""
    return [(number, str(row) if isinstance(row, UserError) else row) for number, row in rows]


@pytest.mark.parametrize("name", FILES)
def test_a_page_holds_what_reading_on_would_come_to(tmp_path, name):
    path = file_of(tmp_path, name)
    all_rows = same(rows_and_faults(path))
    assert len(all_rows) == 1000
    for start in (0, 700, 1, 63, 64, 65, 333, 995, 0):
        rows, total = page_of_rows(Entry("x", path), start, 10)
        assert same(rows) == all_rows[start : start + 10]
        assert total in (None, 1000)
    assert page_of_rows(Entry("x", path), 2000, 10) == ([], 1000)
    assert page_of_rows(Entry("x", path), 0, 1)[1] == 1000, "once known, the number stays known"


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.csv", "a.txt"])
def test_a_page_reads_no_more_than_it_needs(tmp_path, name, monkeypatch):
    path = file_of(tmp_path, name)
    entry = Entry("x", path)
    read = [0]
    reading_of = pages.places_and_rows

    def counted(*arguments):
        for each in reading_of(*arguments):
            read[0] += 1
            yield each

    monkeypatch.setattr(pages, "places_and_rows", counted)
    assert page_of_rows(entry, 0, 10)[1] is None, "the end has not been looked for"
    page_of_rows(entry, 900, 10)
    monkeypatch.setattr(pages._FileIndex, "_scan", lambda *_: pytest.fail("what was noted is looked for again"))
    read[0] = 0
    page_of_rows(entry, 850, 10)
    assert read[0] <= 10 + pages.NOTED_ROWS


def test_the_number_of_rows_of_a_small_file_is_known_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(pages, "AHEAD_BYTES", 2**20)
    assert page_of_rows(Entry("x", file_of(tmp_path, "a.jsonl")), 0, 3)[1] == 1000


def test_notes_are_few(tmp_path):
    path = file_of(tmp_path, "a.jsonl")
    page_of_rows(Entry("x", path), 990, 10)
    (index,) = pages._indexes.values()
    assert len(index._files[0]._places) <= 1000 // pages.NOTED_ROWS + 2


def test_long_rows_are_noted_more_often(tmp_path, monkeypatch):
    monkeypatch.setattr(pages, "NOTED_BYTES", 100)
    path = written(tmp_path, "a.jsonl", [{"text": "x" * 200}] * 20)
    page_of_rows(Entry("x", path), 19, 1)
    (index,) = pages._indexes.values()
    assert len(index._files[0]._places) == 20


def test_a_folder_is_turned_through_as_one(tmp_path):
    for name in ("a.json", "b.jsonl", "c.csv", "d.parquet"):
        written(tmp_path, name, ROWS[:100])
    (tmp_path / "bb.json").write_bytes(b"\xff\xfe")
    all_rows = same(rows_and_faults(tmp_path))
    assert len(all_rows) == 401
    for start in (0, 95, 199, 200, 201, 305, 396):
        assert same(page_of_rows(Entry("x", tmp_path), start, 10)[0]) == all_rows[start : start + 10]
    assert page_of_rows(Entry("x", tmp_path), 395, 10)[1] == 401


def test_the_first_page_of_many_files_looks_at_the_first_ones_only(tmp_path):
    for name in ("a.jsonl", "b.jsonl", "c.jsonl"):
        written(tmp_path, name, ROWS[:100])
    assert page_of_rows(Entry("x", tmp_path), 0, 3)[1] is None
    (index,) = pages._indexes.values()
    assert [file.count > 0 for file in index._files] == [True, False, False]


def test_a_file_that_has_changed_is_looked_at_anew(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"n": 1}\n{"n": 2}')
    assert page_of_rows(Entry("x", path), 1, 1) == ([(2, {"n": 2})], 2)
    path.write_text('{"n": 100}')
    assert page_of_rows(Entry("x", path), 0, 10) == ([(1, {"n": 100})], 1)


def test_several_may_turn_pages_at_once(tmp_path):
    path = file_of(tmp_path, "a.json")
    starts = [number * 37 % 1000 for number in range(60)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda start: page_of_rows(Entry("x", path), start, 5)[0], starts))
    assert [rows[0][0] for rows in found] == [start + 1 for start in starts]


def test_what_is_behind_the_end_of_a_list_is_never_taken_for_rows(tmp_path):
    (tmp_path / "a.json").write_text('[{"n": 1}] {"n": 2}, {"n": 3}]')
    assert page_of_rows(Entry("x", tmp_path / "a.json"), 0, 0) == ([], 2)  # the look ahead ends at the fault
    for start, keys in ((0, [None, "dataset_line"]), (1, ["dataset_line"]), (2, [])):
        rows, total = page_of_rows(Entry("x", tmp_path / "a.json"), start, 5)
        assert ([getattr(row, "key", None) for _, row in rows], total) == (keys, 2)


def test_an_empty_dataset_has_no_page(tmp_path):
    (tmp_path / "a.json").write_text("[]")
    refused("dataset_empty", page_of_rows, Entry("x", tmp_path / "a.json"), 0, 3)


@pytest.mark.parametrize("name", ["a.json", "a.csv", "a.parquet", "broken.jsonl"])
def test_search(tmp_path, name):
    entry = Entry("x", file_of(tmp_path, name))
    found = [number for number, row in rows_and_faults(entry.path) if isinstance(row, dict) and "77" in row["n"]]
    assert [number for number, _ in search_rows(entry, "77", 0, 100)] == found
    assert [number for number, _ in search_rows(entry, "77", found[2], 2)] == found[3:5]
    assert search_rows(entry, "zEILE\n“É” 🙂", 500, 1)[0][0] > 500
    assert search_rows(entry, "nowhere", 0, 5) == []


def test_search_looks_at_values_however_deep_they_lie(tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps({"a": [{"b": 'say "hi"\\'}], "c": 12.5, "d": None, "key": True}))
    entry = Entry("x", tmp_path / "a.jsonl")
    assert [bool(search_rows(entry, text, 0, 1)) for text in ('"hi"\\', "12.5", "True", "key", "none")] == [
        True, True, True, False, False,
    ]  # fmt: skip
