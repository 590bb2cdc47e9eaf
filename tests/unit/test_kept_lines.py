"""Lines of an evaluation that was killed anywhere: whole batches count, the rest is done anew; the end is the same."""

from __future__ import annotations

import json

import pytest

from engine.work.kept_lines import KeptLines

BATCHES = [[3, 1], [0, 4], [2]]


def line(index: int) -> dict:
    return {"index": index, "predict": f"answer {index}\u2028 with a line's end of its own"}


def go_on(path) -> list[list[int]]:
    """Do what is open and finish. Returns the batches that were done."""
    kept = KeptLines(path, BATCHES)
    done = kept.open_batches
    for batch in done:
        kept.add([line(index) for index in batch])
    kept.finish(kept.lines)
    return done


@pytest.fixture
def whole(tmp_path):
    path = tmp_path / "whole.jsonl"
    assert go_on(path) == BATCHES
    return path.read_bytes()


def test_in_the_end_lines_stand_in_the_order_of_the_rows(whole):
    assert [json.loads(each)["index"] for each in whole.decode().split("\n")[:-1]] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("cut", range(0, 420, 7))
def test_wherever_it_was_killed_it_ends_the_same(tmp_path, whole, cut):
    path = tmp_path / "killed.jsonl"
    kept = KeptLines(path, BATCHES)
    for batch in BATCHES:
        kept.add([line(index) for index in batch])
    written = path.read_bytes()[:cut]
    path.write_bytes(written)
    lines = written.count(b"\n") + (written[-1:] == b"}")
    left = BATCHES if lines < 2 else BATCHES[1:] if lines < 4 else BATCHES[2:] if lines < 5 else []
    assert go_on(path) == left
    assert path.read_bytes() == whole


def test_what_is_finished_is_not_done_again(tmp_path, whole):
    path = tmp_path / "whole.jsonl"
    assert go_on(path) == [] and path.read_bytes() == whole
