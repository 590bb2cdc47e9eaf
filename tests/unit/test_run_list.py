"""The list of runs: what it says of each, from the end of its log only; filter and sort, as functions and typed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from engine.errors import UserError
from engine.options.jobs import TrainJob
from engine.runs.folder import Folder
from engine.runs.listing import Listed, filtered, last_step, listed, ordered
from engine.runs.record import about, update_state, write_job
from engine.runs.summary import size_on_disk, summary
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


@pytest.mark.parametrize(
    "arguments", [["--sort", "colour"], ["--colour"], ["--status"], ["--status=dnoe"], ["--kind", "train,x"]]
)
def test_what_is_not_known_is_refused(arguments):
    with pytest.raises(UserError):
        list_them(arguments, "en")


# A summary in the state


def test_a_run_with_a_summary_of_its_end_is_listed_without_its_log(monkeypatch):
    kept = {"finished_at": 160.0, "step": 7, "total_steps": 7, "loss": 0.5, "best_eval_loss": 0.75, "size_bytes": 99}
    made("a", "no log at all", started_at=100.0, finished_at=160.0, summary=kept)
    monkeypatch.setattr("engine.runs.listing.last_step", lambda folder: pytest.fail("the log was read"))
    (found,) = listed()
    assert (found.step, found.loss, found.best_eval_loss, found.size_bytes) == (7, 0.5, 0.75, 99)


def test_a_summary_of_an_earlier_end_is_not_taken_for_the_present():
    kept = {"finished_at": 50.0, "step": 7, "total_steps": 7, "loss": 0.5, "best_eval_loss": 0.75, "size_bytes": 99}
    made("a", step(9, loss=0.25), started_at=100.0, finished_at=160.0, summary=kept)
    (found,) = listed()
    assert (found.step, found.loss, found.best_eval_loss) == (9, 0.25, 0.75)
    assert found.size_bytes != 99


def test_a_summary_says_what_the_whole_log_says():
    losses = [{"loss": 3.0}, {"eval_loss": 2.0}, {"loss": 2.5}, {"eval_loss": 1.5}, {"eval_loss": 9.0}]
    folder = made("a", *(step(2 + number, **values) for number, values in enumerate(losses)), started_at=1.0)
    (folder.path / "checkpoint-4").mkdir()
    (folder.path / "checkpoint-4" / "weights").write_bytes(b"x" * 5000)
    (folder.path / "elsewhere").symlink_to("/")
    told = summary(folder, 160.0)
    (folder.path / "elsewhere").unlink()
    size = sum(path.stat().st_size for path in folder.path.rglob("*") if path.is_file())
    assert told == {
        "finished_at": 160.0, "step": 6, "total_steps": 40, "loss": 2.5, "best_eval_loss": 1.5, "size_bytes": size,
    }  # fmt: skip
    update_state(folder, finished_at=160.0, summary=told)
    (found,) = listed()
    assert (found.step, found.loss, found.best_eval_loss, found.size_bytes) == (6, 2.5, 1.5, size)


def test_the_size_of_a_run_without_a_summary_is_that_of_its_files():
    folder = made("a", step(1))
    before = size_on_disk(folder)
    (folder.path / "more").write_bytes(b"x" * 777)
    assert size_on_disk(folder) == before + 777


def test_what_is_listed_as_json_is_json_to_every_reader(capsys):
    made("a", step(2, loss=float("nan")))
    list_them(["--json"], "en")
    (found,) = json.loads(capsys.readouterr().out, parse_constant=lambda word: pytest.fail(word))
    assert found["loss"] is None


def test_a_table_is_as_wide_as_its_letters(capsys):
    about = {"model": "模型", "method": "lora", "datasets": ["诗"]}
    made("a/一", step(2, loss=2.0), about=about)
    made("b", step(2, loss=2.0), started_at=1.0, finished_at=62.0, about=about)
    list_them([], "zh")
    lines = capsys.readouterr().out.splitlines()
    width = lambda text: sum(2 if ord(letter) > 0x2E80 else 1 for letter in text)  # noqa: E731
    assert len({width(line[: line.index("模型")]) for line in lines}) == 1  # the head of that column is the same word
    assert "0:01:01" in "\n".join(lines)
