"""What is found in a log, against the same file read whole and by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.errors import UserError
from engine.runs import log
from engine.runs.folder import Folder
from engine.runs.log import read_part, search
from engine.runs.record import update_state
from terminal.runs import runs


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "BLOCK_BYTES", 7)
    monkeypatch.setattr(log, "BLOCKS_A_LOOK", 3)


def whole(folder: Folder, text: str) -> log.Found:
    """Look until all has been read; no look may read more than it is allowed."""
    before = search(folder, text)
    while not before.is_whole:
        found = search(folder, text)
        assert before.read_bytes < found.read_bytes <= before.read_bytes + log.BLOCK_BYTES * log.BLOCKS_A_LOOK
        before = found
    return before


def lines_of(found: log.Found) -> list[int]:
    return [hit.line for hit in found.hits]


def test_hits_across_block_borders_are_those_of_the_whole_file(folder, small_blocks):
    lines = [f"step {number} loss" + (" Überlauf" if number % 3 == 0 else "") for number in range(40)]
    folder.log.write_text("\n".join(lines) + "\n", encoding="utf-8")
    expected = [number for number, line in enumerate(lines, 1) if "berlauf" in line]
    found = whole(folder, "üBERLAUF")
    assert lines_of(found) == expected and found.count == len(expected)
    assert [hit.text for hit in found.hits] == [lines[number - 1] for number in expected]
    assert whole(folder, "nowhere").count == 0


def test_line_ends_of_windows_and_bytes_that_are_no_text(folder, small_blocks):
    folder.log.write_bytes(b"one\r\ntwo needle\r\n\xff\xfe needle \xc3\r\n\r\nlast needle")
    found = whole(folder, "needle")
    assert lines_of(found) == [2, 3, 5]
    assert [hit.text for hit in found.hits] == ["two needle", "\ufffd\ufffd needle \ufffd", "last needle"]


@pytest.mark.parametrize("block_bytes", range(1, 30))
def test_of_a_line_that_rewrites_itself_the_last_form_counts(folder, monkeypatch, block_bytes):
    monkeypatch.setattr(log, "BLOCK_BYTES", block_bytes)
    folder.log.write_bytes(b"a\n 10% old\r 50% old\r100% new\r\nb\n 1% old\r 2% new")
    assert lines_of(whole(folder, "old")) == []
    assert [(hit.line, hit.text) for hit in whole(folder, "new").hits] == [(2, "100% new"), (4, " 2% new")]


def test_a_growing_log_is_read_on_and_one_written_anew_from_its_start(folder, small_blocks):
    folder.log.write_text("a needle\nnee")
    assert lines_of(whole(folder, "needle")) == [1]
    with folder.log.open("a") as file:
        file.write("dle\nneedle 3")
    assert lines_of(whole(folder, "needle")) == [1, 2, 3]
    with folder.log.open("a") as file:
        file.write(" grows\n")
    found = whole(folder, "needle")
    assert found.hits[-1] == (3, "needle 3 grows") and found.count == 3
    folder.log.write_text("x\n" * 50 + "one needle\n")  # longer than it was before
    assert lines_of(whole(folder, "needle")) == [51]
    folder.log.write_text("no\n")
    assert whole(folder, "needle").count == 0
    folder.log.unlink()
    assert search(folder, "needle") == ((), 0, 0, 0)


def test_all_hits_are_counted_and_the_last_kept(folder):
    folder.log.write_text("".join(f"hit {number}\n" for number in range(1, 1301)))
    found = whole(folder, "hit")
    assert found.count == 1300 and lines_of(found) == list(range(801, 1301))


def test_a_line_without_end_takes_no_memory_without_end(folder, monkeypatch):
    monkeypatch.setattr(log, "BLOCK_BYTES", 64)
    monkeypatch.setattr(log, "LONGEST_LINE", 100)
    folder.log.write_bytes(b"x" * 90 + b" needle " + b"y" * 1000 + b" late\n" + b"z" * 500 + b" needle\nneedle\n")
    assert lines_of(whole(folder, "needle")) == [1, 3]
    assert whole(folder, "late").count == 0
    assert all(len(reader._tail) <= 101 for reader in log._searches.values())


def test_all_who_seek_the_same_share_one_reading(folder, small_blocks):
    folder.log.write_text("needle\n" * 20)
    first = search(folder, "Needle")
    assert not first.is_whole and search(folder, "nEEDLE").read_bytes == 2 * first.read_bytes


def test_a_part_begins_with_a_line_and_a_place_is_kept(folder):
    folder.log.write_text("".join(f"line {number}\n" for number in range(100)))
    part = read_part(folder, 40)
    assert part.text.startswith("line ") and part.text.endswith("line 99\n")
    assert folder.log.read_bytes()[part.begin - 1 : part.begin] == b"\n"
    with folder.log.open("a") as file:
        file.write("more\n")
    assert read_part(folder, 1000, part.begin).text == part.text + "more\n"


def test_the_terminal_prints_the_end_and_the_hits(folder, capsys):
    update_state(folder, kind="train", status="done", started_at=1.0, finished_at=2.0)
    folder.log.write_text("".join(f"line {number}\n" for number in range(1, 101)))
    name = str(folder.path)
    assert runs(["log", name, "--lines", "2", "--follow"], "en") == 0
    assert capsys.readouterr().out == "line 99\nline 100\n"
    assert runs(["log", "--search=LINE 9", name], "en") == 0
    told = capsys.readouterr().out.splitlines()
    assert told[:-1] == ["9: line 9", *(f"{number}: line {number}" for number in range(90, 100))]
    assert "11" in told[-1]
    folder.log.write_text("python app.py train --lora_rank=8\n")
    assert runs(["log", name, "--search", "--lora_rank=8"], "en") == 0
    assert runs(["log", name, "--search", "gone"], "en") == 1
    with pytest.raises(UserError, match="whole number"):
        runs(["log", name, "--lines", "some"], "en")
