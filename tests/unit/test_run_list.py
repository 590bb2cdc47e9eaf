"""The list of runs: what it says of each, from the end of its log only; filter and sort, as functions and typed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from engine.errors import UserError
from engine.options.jobs import TrainJob
from engine.runs.folder import Folder
from engine.runs.listing import Listed, filtered, last_step, listed, ordered
from engine.runs.record import about, write_job
from terminal.run_list import list_them


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def made(name: str, *lines: str, **state) -> Folder:
    folder = Folder(Path("saves") / name)
    folder.path.mkdir(parents=True)
    folder.state.write_text(json.dumps({"kind": "train", "status": "done", **state}), encoding="utf-8")
    folder.events.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return folder


def step(number: int, **values) -> str:
    return json.dumps({"current_steps": number, "total_steps": 40, **values})


def row(name: str, **facts) -> Listed:
    return Listed(**{"folder": Folder(Path(name)), "name": name, "kind": "train", "status": "done", **facts})


def test_a_run_is_listed_with_what_its_state_and_the_end_of_its_log_say():
    told = {"model": "m/Smol", "method": "lora", "datasets": ["poems", "facts"]}
    made("a", step(1, loss=3.0), step(8, loss=2.5), step(9), '{"cur', started_at=100.0, finished_at=160.0, about=told)
    (found,) = listed("train")
    assert (found.step, found.total_steps, found.loss, found.progress) == (9, 40, 2.5, 9 / 40)
    assert (found.model, found.method, found.datasets) == ("m/Smol", "lora", ("poems", "facts"))
    assert (found.started, found.duration) == (100.0, 60.0)
    assert listed("export") == []


@pytest.mark.parametrize("silent", [0, 1, 500, 3000])
def test_the_last_loss_is_found_however_far_before_the_end_it_lies(silent):
    lines = [step(1, loss=9.0), step(2, loss=1.25), *(step(3 + number) for number in range(silent))]
    assert last_step(made("a", *lines)) == {"step": 2 + silent, "total_steps": 40, "loss": 1.25}


def test_a_long_log_is_not_read_as_a_whole(monkeypatch):
    """Its beginning is no text at all, and holds a step that must not be seen."""
    folder = made("a", step(7, loss=0.5))
    folder.events.write_bytes(b"\xff" * 500_000 + b"\n" + step(7, loss=0.5).encode() + b"\n")
    taken = []
    monkeypatch.setattr("engine.runs.listing._facts", lambda block, is_whole: taken.append(len(block)) or {"loss": 1})
    last_step(folder)
    assert sum(taken) < 10_000


def test_a_run_of_an_earlier_version_is_described_by_its_job():
    job = TrainJob(model_name_or_path="old/Model", dataset=["poems"], finetuning_type="full")
    write_job(made("a"), job, "en")
    (found,) = listed()
    assert (found.model, found.method, found.datasets) == ("old/Model", "full", ("poems",))
    assert about(job) == {"model": "old/Model", "method": "full", "datasets": ("poems",)}


def test_a_job_file_that_cannot_be_read_leaves_the_run_in_the_list():
    made("a").job.write_text("options: [", encoding="utf-8")
    assert [(found.name, found.model) for found in listed()] == [("a", "")]


def test_a_filter_takes_every_word_in_any_case_and_place():
    rows = [row("one", model="Smol", datasets=("poems",)), row("two", model="Smol", status="failed"), row("three")]
    assert [each.name for each in filtered(rows, "POEMS smol")] == ["one"]
    assert [each.name for each in filtered(rows, "smol")] == ["one", "two"]
    assert [each.name for each in filtered(rows, statuses=["failed", "lost"])] == ["two"]
    assert filtered(rows, kinds=["export"]) == []


@pytest.mark.parametrize(("is_reversed", "names"), [(False, "b a"), (True, "a b")])
def test_what_has_no_value_comes_last_in_both_directions(is_reversed, names):
    rows = [row("none"), row("a", loss=2.0), row("nan", loss=float("nan")), row("b", loss=1.0)]
    assert [each.name for each in ordered(rows, "loss", is_reversed)] == [*names.split(), "none", "nan"]


def test_typed_words_and_flags_narrow_and_sort(capsys):
    made("good", step(2, loss=2.0))
    made("better", step(2, loss=1.0))
    made("worse", step(2, loss=0.5), status="failed")
    assert list_them(["--status", "done", "--sort=loss", "--json"], "en") == 0
    assert [each["name"] for each in json.loads(capsys.readouterr().out)] == ["better", "good"]
    list_them(["wor"], "en")
    assert capsys.readouterr().out.splitlines()[-1] == "1 of 3 runs"


@pytest.mark.parametrize("arguments", [["--sort", "colour"], ["--colour"], ["--status"]])
def test_what_is_not_known_is_refused(arguments):
    with pytest.raises(UserError):
        list_them(arguments, "en")
