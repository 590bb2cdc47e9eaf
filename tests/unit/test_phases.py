"""How far, how fast and how much longer a part of a run takes, as its events tell it."""

from __future__ import annotations

import fcntl
import json
from pathlib import Path

import pytest

from engine.runs.folder import Folder
from engine.runs.phases import Phase, phase_facts, told
from engine.runs.progress import watch
from engine.runs.record import update_state


def phase_of(*events: dict) -> Phase:
    phase = None
    for event in events:
        phase = told(event, phase)
    return phase


def at(time: float, current: int | None = None, name: str = "downloading", **facts) -> dict:
    counted = {} if current is None else {"current": current}
    return {"phase": name, "time": time, **counted, **facts}


def test_speed_and_time_left_are_those_since_the_part_began():
    phase = phase_of(
        at(90.0, name="unpacking"), at(100.0, 20_000_000, total=100_000_000, unit="bytes"),
        at(110.0, 60_000_000, total=100_000_000, unit="bytes"),
    )  # fmt: skip
    assert phase.rate == 4_000_000  # what was there at its beginning is not counted
    assert phase.remaining_s(110.0) == 10.0
    assert phase.remaining_s(113.0) == 7.0
    assert phase.remaining_s(200.0) is None  # what was expected has not come: nothing more can be said
    assert phase_facts(phase, "en", now=112.0) == [
        "Downloading the model 60 MB / 100 MB", "4.0 MB/s", "about 0:00:08 left",
    ]  # fmt: skip


def test_what_counts_anew_has_begun_anew():
    phase = phase_of(at(0.0, 0, total=9), at(9.0, 9, total=9), at(10.0, 1, total=9), at(12.0, 5, total=9))
    assert phase.rate == 2.0
    assert phase.remaining_s(12.0) == 2.0


@pytest.mark.parametrize("events", [
    [at(50.0)], [at(50.0, 0, total=5)], [at(50.0, 3, total=5)], [{"phase": "downloading"}],
    [at(50.0, 1, total=5), at(50.0, 2, total=5)],
])  # fmt: skip
def test_where_the_time_left_cannot_be_known_the_time_so_far_is_told(events):
    phase = phase_of(*events)
    assert phase.rate is None and phase.remaining_s(60.0) is None
    assert phase_facts(phase, "en", now=62.0)[1:] == (["0:00:12 so far in this part"] if "time" in events[0] else [])


def test_rows_without_an_end_tell_how_many_and_how_fast():
    phase = phase_of(at(10.0, name="checking"), at(20.0, 12_000, name="checking", unit="rows"))
    assert phase_facts(phase, "en", now=20.0) == ["Checking the rows 12,000", "1,200/s", "0:00:10 so far in this part"]


def test_a_run_is_read_with_the_speed_of_what_it_does(tmp_path: Path):
    folder = Folder(tmp_path / "run")
    folder.path.mkdir()
    update_state(folder, kind="train", status="running", started_at=1.0)
    lines = [at(10.0, 0, name="encoding", total=100), at(14.0, 40, name="encoding", total=100)]
    folder.events.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    with folder.lock.open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # its worker lives
        assert watch(folder).phase.rate == 10.0
