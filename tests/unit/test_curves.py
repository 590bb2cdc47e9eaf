"""Curves against plain lists: every window, spikes, values that are no numbers, resumed runs, torn and growing logs."""

from __future__ import annotations

import csv
import json
import math
import random
import threading
import time
from array import array
from dataclasses import replace
from pathlib import Path

import pytest

from engine.runs import progress as progress_module
from engine.runs import read
from engine.runs.curves import SETTLED, Curve, rows, write_csv
from engine.runs.folder import Folder
from engine.runs.progress import Progress, Watch, glance, watch
from engine.runs.read import read_events
from engine.runs.record import update_state


def same(one, other) -> bool:
    return len(one) == len(other) and all(
        a[0] == b[0] and (a[1] == b[1] or (math.isnan(a[1]) and math.isnan(b[1])))
        for a, b in zip(one, other, strict=True)
    )


def series(seed: int, count: int, odd: float) -> list[tuple[float, float]]:
    chance = random.Random(seed)
    step, points = 0, []
    for _ in range(count):
        step += chance.choice((0, 1, 1, 5))
        value = chance.gauss(0, 1) * (1000 if chance.random() < 0.001 else 1)
        if chance.random() < odd:
            value = chance.choice((math.nan, math.inf, -math.inf))
        points.append((float(step), value))
    return points


@pytest.mark.parametrize("count", [0, 1, 3, 4, 15, 16, 17, 999, 1000, 1001, 4096, 70_001])
@pytest.mark.parametrize("odd", [0, 0.01, 1])
def test_a_view_is_part_of_the_window_and_has_its_ends(count, odd):
    points = series(count, count, odd)
    curve = Curve(points)
    chance = random.Random(count)
    assert same(list(curve), points)
    for number in range(40):
        first, last = sorted((chance.uniform(-5, 2 * count), chance.uniform(-5, 2 * count)))
        window = (None, None) if not number else (first, last)
        most = chance.choice((8, 50, 1000))
        inside = [each for each in points if window[0] is None or first <= each[0] <= last]
        seen = curve.view(*window, most)
        assert len(seen) <= most
        if len(inside) <= most:
            assert same(seen, inside)
            continue
        left = iter(map(repr, inside))
        assert all(repr(each) in left for each in seen), "not a part of the window in its order"
        assert same([seen[0], seen[-1]], [inside[0], inside[-1]])
        finite = [value for _, value in inside if math.isfinite(value)]
        shown = [value for _, value in seen if math.isfinite(value)]
        assert (min(finite, default=0), max(finite, default=0)) == (min(shown, default=0), max(shown, default=0))
        assert any(not math.isfinite(value) for _, value in seen) == (len(finite) < len(inside))


def test_a_spike_of_one_step_among_a_million_is_in_every_view():
    spike, fall, hole = 654_321, 654_399, 700_001
    curve = Curve()
    for step in range(1_000_000):
        curve.append(step, {spike: 9.0, fall: -9.0, hole: math.nan}.get(step, step % 7 / 10))
    for width in (10**6, 10**5, 10**4, 999, 300):
        seen = curve.view(spike - width * 0.4, spike + width * 0.6)
        assert len(seen) <= 1000 and (spike, 9.0) in seen
        assert (fall, -9.0) in seen
        assert any(step == hole for step, _ in seen) == (hole < spike + width * 0.6)
    assert curve.view(spike, spike + 999) == [each for each in list(curve)[spike : spike + 1000]]
    assert (curve.greatest, curve.least) == ((spike, 9.0), (fall, -9.0))
    assert (curve.first, curve.last) == ((0, 0.0), (999_999, 999_999 % 7 / 10))


@pytest.mark.parametrize("odd", [0, 0.2])
def test_forgetting_and_going_on_is_as_if_it_had_never_been(odd):
    points = series(3, 5000, odd)
    chance = random.Random(1)
    curve, kept = Curve(), []
    for part in range(0, 5000, 500):
        for step, value in points[part : part + 500]:
            curve.append(step, value)
            kept.append((step, value))
        curve.smoothed()
        if part % 1000:
            continue
        at = kept[chance.randrange(len(kept))][0]
        curve.forget_after(at)
        kept = [each for each in kept if each[0] <= at]
        again = Curve(kept)
        assert curve == again
        assert repr(curve.view(most=50)) == repr(again.view(most=50))
        assert curve.smoothed() == again.smoothed()
    curve.append(kept[10][0], 5.0)
    assert [each for each in curve][-1] == (kept[10][0], 5.0)


@pytest.mark.parametrize("count", [1, 5, 100, SETTLED - 1, SETTLED, SETTLED + 1, 3000])
def test_the_smoothed_line_is_the_field_s_rule_however_it_grew(count):
    values = [math.sin(number) + number / 100 for number in range(count)]
    curve = Curve()
    for number, value in enumerate(values):
        curve.append(number, value)
        if number % 37 == 0:
            curve.smoothed()
    weight = 1.8 * (1 / (1 + 2.718281828459045 ** (-0.05 * count)) - 0.5)
    expected = values[:1]
    for value in values[1:]:
        expected.append(expected[-1] * weight + value * (1 - weight))
    found = [value for _, value in curve.smoothed()]
    assert found == pytest.approx(expected, rel=1e-9)


def test_many_points_at_once_are_those_points_one_by_one():
    chance, one_by_one, at_once = random.Random(9), Curve(), Curve()
    points = series(4, 3000, 0.002)
    while points:
        part, points = points[: (count := chance.randint(0, 40))], points[count:]
        at_once.extend([step for step, _ in part], [value for _, value in part])
        for step, value in part:
            one_by_one.append(step, value)
        assert same(at_once.view(most=50), one_by_one.view(most=50))
    assert at_once == one_by_one and at_once.greatest == one_by_one.greatest


def test_nothing_that_is_no_number_enters_the_smoothed_line():
    curve = Curve([(1, math.nan), (2, 1.0), (3, math.inf), (4, 2.0)])
    assert [step for step, _ in curve.smoothed()] == [2, 4]
    assert Curve([(1, math.nan)]).least is None and len(Curve([(1, math.nan)]).smoothed()) == 0


def run_folder(tmp_path: Path) -> Folder:
    folder = Folder(tmp_path / "saves" / "m" / "lora" / "run")
    folder.path.mkdir(parents=True)
    update_state(folder, kind="train", status="done", started_at=1, finished_at=2)
    return folder


def line(step: int, **values) -> str:
    return json.dumps({"current_steps": step, "total_steps": 99, "elapsed_time": "0:00:01", **values}) + "\n"


def test_a_log_that_grows_is_torn_and_goes_on_from_earlier(tmp_path, monkeypatch):
    monkeypatch.setattr(read, "BLOCK_BYTES", 200)  # so that a block ends within lines
    folder = run_folder(tmp_path)
    with folder.events.open("a") as log:
        for step in range(1, 21):
            log.write(line(step, loss=step / 3, **{"rewards/margins": 1.5}))
        log.write(line(21, loss=7.0)[:30])
    progress = watch(folder)
    assert list(progress.curves["loss"]) == [(step, step / 3) for step in range(1, 21)]
    assert (progress.step, progress.total_steps, progress.loss) == (20, 99, 20 / 3)
    with folder.events.open("a") as log:
        log.write(
            "\n" + json.dumps({"resumed_at": 15, "long": "x" * 1000}) + "\n" + line(16, loss=math.nan, eval_loss=2)
        )
        log.write(line(17, loss=None, lr=1e-4, throughput=12.5, memory_bytes=10**9))
    progress = watch(folder)
    assert [step for step, _ in progress.curves["loss"]] == list(range(1, 17))
    assert math.isnan(progress.loss) and len(progress.curves["rewards/margins"]) == 15
    latest = {name: curve.last for name, curve in progress.curves.items() if name != "loss"}
    assert latest == {
        "rewards/margins": (15, 1.5), "eval_loss": (16, 2), "learning_rate": (17, 1e-4), "throughput": (17, 12.5),
        "memory_bytes": (17, 1e9),
    }  # fmt: skip


def long_log(chance: random.Random, steps: range) -> str:
    """Lines of several layouts, as they come: figures that are no numbers, evaluations, phases, warnings, texts."""
    said = [json.dumps({"phase": "loading", "current": 1, "total": 2}) + "\n"]
    for step in steps:
        loss = chance.choice([math.nan, math.inf, None, 3, chance.random(), chance.random(), chance.random()])
        said.append(line(step, loss=loss, lr=chance.random(), **{"rewards/margins": chance.random(), "note": "x"}))
        if step % 7 == 0:
            said.append(line(step, eval_loss=chance.random()))
        if step % 50 == 0:
            said.append(json.dumps({"warning": f"w{step % 3}", "facts": {"step": step % 3}}) + "\n")
        if step % 90 == 0:
            said.append(json.dumps({"resumed_at": step - 5}) + "\n")
    return "".join(said)


def plainly_read(text: str) -> dict[str, list[tuple[float, float]]]:
    """The same curves from a loop over all lines."""
    names = {"loss": "loss", "eval_loss": "eval_loss", "lr": "learning_rate", "rewards/margins": "rewards/margins"}
    curves: dict[str, list[tuple[float, float]]] = {}
    for event in map(json.loads, text.splitlines()):
        for name in names.keys() & event.keys():
            if event[name] is not None:
                curves.setdefault(names[name], []).append((event["current_steps"], event[name]))
        if "resumed_at" in event:
            curves = {name: [at for at in points if at[0] <= event["resumed_at"]] for name, points in curves.items()}
    return curves


def facts(progress: Progress) -> Progress:
    """For comparisons: a last loss that is no number does not equal itself."""
    return replace(progress, loss=None)


def as_bits(points) -> bytes:
    return array("d", [number for point in points for number in point]).tobytes()


def test_a_log_that_is_read_in_slices_gives_what_a_plain_loop_gives(tmp_path, monkeypatch):
    monkeypatch.setattr(read, "BLOCK_BYTES", 1500)
    folder = run_folder(tmp_path)
    text = long_log(random.Random(3), range(1, 1000))
    folder.events.write_text(text + '{"current_steps": 1000, "lo')  # a torn last line
    whole, sliced, shares = Watch(folder).update(), Watch(folder), []
    ahead, between = sliced._ahead, []
    monkeypatch.setattr(sliced, "_ahead", lambda early: between.append(sliced._latest) or ahead(early))
    while not shares or shares[-1] < 1:
        progress = sliced.glance(0)
        shares.append(progress.share_read)
        expected = plainly_read(text)
        assert (progress.step, progress.total_steps) == (999, 99), "its end is known from the beginning"
        for name, curve in progress.curves.items():  # as far as it is read
            assert len(curve) <= len(expected[name]) + 5
    assert not any(seen and seen.is_read for seen in between), "what others take meanwhile"
    assert len(shares) > 50 and shares == sorted(shares) and shares[0] < 0.1
    for seen in (whole, progress):
        assert {name: as_bits(curve) for name, curve in seen.curves.items()} == {
            name: as_bits(points) for name, points in plainly_read(text).items()
        }
    assert facts(progress) == facts(whole) and whole.is_read and len(whole.warnings) == 3
    least = min(value for _, value in plainly_read(text)["learning_rate"])
    assert progress.curves["learning_rate"].least[1] == least
    with folder.events.open("a") as log:
        log.write('ss": 0.5}\n')
    assert sliced.glance(0).curves["loss"].last == (1000, 0.5)


def test_a_log_written_anew_while_it_is_read_starts_over(tmp_path, monkeypatch):
    monkeypatch.setattr(read, "BLOCK_BYTES", 1500)
    folder = run_folder(tmp_path)
    folder.events.write_text(long_log(random.Random(1), range(1, 500)))
    watched = Watch(folder)
    assert not watched.glance(0).is_read
    anew = long_log(random.Random(2), range(1, 900)).replace("loading", "reading")  # longer than what was read
    folder.events.write_text(anew)
    while not (progress := watched.glance(0)).is_read:
        pass
    assert as_bits(progress.curves["loss"]) == as_bits(plainly_read(anew)["loss"])
    assert facts(progress) == facts(Watch(folder).update())


def test_who_looks_while_another_reads_does_not_wait(tmp_path, monkeypatch):
    monkeypatch.setattr(read, "BLOCK_BYTES", 1500)
    folder = run_folder(tmp_path)
    folder.events.write_text(long_log(random.Random(1), range(1, 500)))
    watched, is_reading, may_go_on = Watch(folder), threading.Event(), threading.Event()
    known = watched.glance(0)

    def slow(*arguments):
        is_reading.set()
        assert may_go_on.wait(60)
        return read_events(*arguments)

    monkeypatch.setattr(progress_module, "read_events", slow)
    reader = threading.Thread(target=watched.update)
    reader.start()
    assert is_reading.wait(60)
    update_state(folder, status="failed", error={"key": "disk_full", "facts": {}})
    seen = watched.glance(0)  # for ever, if it waited
    assert (seen.status, seen.step, seen.share_read) == ("failed", known.step, known.share_read)
    may_go_on.set()
    reader.join()
    assert watched.glance(0).is_read


def test_what_was_glanced_at_is_read_to_its_end_by_itself(tmp_path, monkeypatch):
    monkeypatch.setattr(read, "BLOCK_BYTES", 1500)
    monkeypatch.setattr(progress_module, "SLICE_S", 0)
    monkeypatch.setattr(progress_module, "REST_S", 0.001)
    folder = run_folder(tmp_path)
    folder.events.write_text(long_log(random.Random(1), range(1, 500)))
    assert not glance(folder).is_read
    deadline = time.monotonic() + 60
    while progress_module._unread:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert facts(glance(folder)) == facts(watch(folder))


def test_the_csv_is_the_log(tmp_path):
    folder = run_folder(tmp_path)
    written: dict[int, dict[str, float]] = {}
    chance = random.Random(5)
    with folder.events.open("a") as log:
        for step in range(0, 3000, 3):
            written[step] = {"loss": chance.random(), "grad_norm": math.inf if step == 600 else chance.expovariate(1)}
            log.write(line(step, **written[step]))
            if step % 30 == 0:
                written[step]["eval_loss"] = chance.random()
                log.write(line(step, eval_loss=written[step]["eval_loss"]))
    write_csv(watch(folder).curves, tmp_path / "out.csv")
    with (tmp_path / "out.csv").open(newline="") as file:
        read_back = {
            int(row.pop("step")): {name: float(value) for name, value in row.items() if value}
            for row in csv.DictReader(file)
        }
    assert read_back == written
    assert [path.name for path in tmp_path.iterdir() if "out" in path.name] == ["out.csv"]


def test_rows_that_were_told_are_not_told_again_and_equal_steps_all_come():
    curves = {"loss": Curve([(1, 1.0), (1, 2.0), (3, 3.0)]), "eval_loss": Curve([(2, 9.0), (3, 8.0)])}
    assert list(rows(curves)) == [
        (1, {"loss": 1.0}), (1, {"loss": 2.0}), (2, {"eval_loss": 9.0}), (3, {"loss": 3.0, "eval_loss": 8.0}),
    ]  # fmt: skip
    assert list(rows(curves, {"loss": 3, "eval_loss": 1})) == [(3, {"eval_loss": 8.0})]
