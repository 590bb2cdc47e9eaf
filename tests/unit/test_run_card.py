"""A run's card says what its folder holds: in every language, with and without what is not known, and nothing else."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import pytest
import yaml

from engine.catalog.digests import BLOCK_BYTES, WHOLE_BYTES, data_facts, file_digest, model_facts
from engine.catalog.versions import git_state, versions
from engine.options.command import parse
from engine.options.jobs import GgufJob, TrainJob
from engine.runs.card import card, section_of, without_places
from engine.runs.facts import read_facts
from engine.runs.folder import SAVES, Folder
from engine.runs.record import Recorder, append_line, update_state, write_job
from engine.words import LANGUAGES
from engine.work.model_card import trained_by
from engine.work.run_card import tell_attempt, tell_files, tell_models, write_card
from terminal.runs import runs

JOB = {
    "model_name_or_path": "owner/model", "dataset": "rows.json", "lora_rank": 5, "seed": 7, "adam_beta2": 0.97,
    "output_dir": "saves/m/lora/one",
}  # fmt: skip


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def run() -> Folder:
    """A run that has ended well, as its worker would have told it."""
    folder = Folder(SAVES / "m" / "lora" / "one")
    folder.path.mkdir(parents=True)
    job = TrainJob.from_values(JOB)
    write_job(folder, job, "en")
    recorder = Recorder(folder)
    model, rows = Path("somewhere/model"), Path("rows.json")
    model.mkdir(parents=True)
    (model / "config.json").write_text("{}")
    rows.write_text('[{"instruction": "a", "output": "b"}]')
    tell_attempt(job, recorder)
    tell_models(job, model, recorder)
    from engine.catalog.datasets import find_entry

    tell_files(find_entry(Path("data"), "rows.json"), job, recorder)
    recorder.event(dataset_rows={"dataset": "rows.json", "rows": 41, "learned_tokens": 1234})
    recorder.event(current_steps=1, total_steps=2, loss=3.25)
    recorder.event(current_steps=2, total_steps=2, loss=2.125, eval_loss=2.5)
    result = {"metrics": {"train_loss": 2.6875}, "peak_memory_bytes": 99}
    update_state(folder, kind="train", status="done", started_at=1e9, finished_at=1e9 + 3723, result=result)
    return folder


def blocks(text: str, name: str) -> list[str]:
    return re.findall(rf"```{name}\n(.*?)\n```", text, re.DOTALL)


def test_it_holds_all_that_is_needed_to_do_it_again(run):
    text = card(run)
    (command,), (options,) = blocks(text, "sh"), blocks(text, "yaml")
    words = command.replace("\\\n", "").split()[3:]
    assert parse(TrainJob, words).job == TrainJob.from_values(JOB)
    assert yaml.safe_load(options) == TrainJob.from_values(JOB).values()
    assert hashlib.sha256(Path("rows.json").read_bytes()).hexdigest() in text
    assert model_facts(Path("somewhere/model"))["sha256"] in text
    assert all(shown in text for shown in ("| 41 |", "1234", "Seed: 7", "3.25 (1)", "2.125 (2)", "2.5 (2)", "2.6875"))
    assert all(f"| {name} | {number} |" in text for name, number in versions().items())
    assert "1:02:03" in text and "Done" in text
    if state := git_state():
        assert state["commit"] in text


def test_the_folder_that_was_chosen_for_it_is_among_its_options(run):
    write_job(run, TrainJob.from_values({**JOB, "output_dir": None}), "en")
    text = card(run)
    assert yaml.safe_load(blocks(text, "yaml")[0])["output_dir"] == str(run.path)
    assert "output_dir" not in blocks(text, "sh")[0], "the command is the one that was given"


@pytest.mark.parametrize("language", LANGUAGES)
def test_it_is_there_in_every_language_and_says_the_same(run, language):
    def figures(text):
        return re.findall(r"\d+(?:\.\d+)?", text)

    assert sorted(figures(card(run, language))) == sorted(figures(card(run, "en")))


@pytest.mark.parametrize("status", ["failed", "stopped"])
def test_it_is_written_before_anybody_reads_of_the_end(run, status):
    update_state(run, status="running", finished_at=None, result=None)
    error = {"key": "out_of_memory_early", "facts": dict.fromkeys(("asked", "free", "total", "used", "device"), "1 GB")}
    error["facts"]["detail"] = "x"
    write_card(Recorder(run), status=status, finished_at=1e9 + 60, error=error if status == "failed" else None)
    text = run.card.read_text(encoding="utf-8")
    assert {"failed": "Failed", "stopped": "Stopped"}[status] in text and "0:01:00" in text
    assert ("Memory ran out" in text) == (status == "failed")
    assert [path.name for path in run.path.iterdir() if path.name.startswith("RUN")] == ["RUN.md"]


def test_a_card_that_cannot_be_written_costs_only_the_card(run, capsys):
    run.job.write_text("kind: [")
    write_card(Recorder(run), status="done", finished_at=1.0)
    assert not run.card.exists() and "Traceback" in capsys.readouterr().err


def test_jobs_of_other_kinds_leave_none_but_are_shown(capsys):
    folder = Folder(SAVES / "m" / "gguf" / "two")
    folder.path.mkdir(parents=True)
    write_job(folder, GgufJob(model_name_or_path="m", outfile="x.gguf"), "en")
    update_state(folder, kind="gguf", status="running", started_at=1e9)
    write_card(Recorder(folder), status="done", finished_at=1e9)
    assert not folder.card.exists()
    assert runs(["show", "two"], "en") == 0
    assert "x.gguf" in capsys.readouterr().out


def test_a_killed_run_has_its_card_too_and_nobody_writes_to_its_folder(run, capsys):
    update_state(run, status="running", finished_at=None, result=None)
    with run.events.open("ab") as file:
        file.write(b'{"model": {"ro')
    before = {path: path.read_bytes() for path in run.path.iterdir()}
    assert runs(["show", "one"], "en") == 0
    shown = capsys.readouterr().out
    assert "Lost" in shown and "2.125 (2)" in shown and "Seed: 7" in shown
    assert {path: path.read_bytes() for path in run.path.iterdir()} == before


def test_of_a_run_that_failed_at_once_it_says_what_is_known():
    folder = Folder(SAVES / "m" / "lora" / "early")
    folder.path.mkdir(parents=True)
    write_job(folder, TrainJob.from_values(JOB), "en")
    update_state(
        folder, kind="train", status="failed", started_at=1.0, finished_at=2.0, error={"key": "gone", "facts": {}}
    )
    text = card(folder)
    assert "gone" in text and "lora_rank: 5" in text and "SHA-256" not in text


def test_what_changed_between_attempts_is_said(run):
    recorder = Recorder(run)
    tell_attempt(
        TrainJob.from_values({**JOB, "per_device_train_batch_size": 1, "resume_from_checkpoint": "true"}), recorder
    )
    recorder.event(resumed_at=2)
    assert [each.get("from_step") for each in read_facts(run).attempts] == [None, 2]
    lines = [line for line in card(run).splitlines() if line.startswith("2. ")]
    assert len(lines) == 1 and "at step 2" in lines[0] and "per_device_train_batch_size: 4 → 1" in lines[0]
    assert "resume_from_checkpoint" not in lines[0]


def test_a_long_log_is_passed_over(run):
    for step in range(3, 200):
        append_line(run.events, {"current_steps": step, "model": "not one"})
    assert set(read_facts(run).models) == {"model_name_or_path"}


def test_the_merged_models_card_carries_the_facts_and_no_place(run, tmp_path):
    home = tmp_path / "home of somebody"
    values = {
        **JOB, "model_name_or_path": str(home / "base"), "dataset": f"{home}/rows.json,identity",
        "resume_from_checkpoint": str(home / "old"), "deepspeed": str(home / "ds.json"),
    }  # fmt: skip
    write_job(run, TrainJob.from_values(values), "en")
    tell_attempt(TrainJob.from_values(values), Recorder(run))
    Recorder(run).event(dataset_files={"dataset": f"{home}/rows.json", "files": 1, "bytes": 1, "sha256": "ab" * 32})
    (run.path / "checkpoint-2").mkdir()
    text = trained_by([run.path, run.path / "checkpoint-2", Path("no/run")])
    assert text.count("\n## How one was trained") == 2 and text.count("checkpoint of step 2") == 1
    assert "home of somebody" not in text and str(tmp_path) not in text
    assert all(shown in text for shown in ("lora_rank: 5", "2.6875", "ab" * 32, "rows.json,identity", "ds.json"))
    assert "seed: 7" in text and "# Lathe" not in text.splitlines()
    assert section_of(run) in text


def test_a_hubs_name_is_no_place():
    job = without_places(
        TrainJob.from_values({**JOB, "dataset": ["a/b/c.json", "identity"], "output_dir": "saves/x/y"})
    )
    assert (job.model_name_or_path, job.dataset, job.output_dir) == ("owner/model", ("c.json", "identity"), "y")


def test_digests_follow_the_content_and_nothing_else(tmp_path):
    one, other = tmp_path / "a.json", tmp_path / "b.json"
    one.write_bytes(b"x" * 10)
    other.write_bytes(b"x" * 10)
    assert (
        data_facts([one])
        == data_facts([other])
        == {"files": 1, "bytes": 10, "sha256": hashlib.sha256(b"x" * 10).hexdigest()}
    )
    both = data_facts([one, other])
    other.write_bytes(b"x" * 9 + b"y")
    assert data_facts([one, other]) != both and data_facts([one, other]) != data_facts([other, one])
    assert data_facts([one], is_read=False) == {"files": 1, "bytes": 10, "sha256": None}


def test_a_models_digest_sees_its_weights_and_passes_over_its_logs(tmp_path):
    large = tmp_path / "model.safetensors"
    large.write_bytes(bytes(WHOLE_BYTES + 5 * BLOCK_BYTES))
    before = model_facts(tmp_path)
    (tmp_path / "trainer_log.jsonl").write_text("new")
    (tmp_path / "README.md").write_text("new")
    assert model_facts(tmp_path) == before and before["bytes"] == WHOLE_BYTES + 5 * BLOCK_BYTES
    for place in (0, WHOLE_BYTES + 5 * BLOCK_BYTES - 1):
        content = bytearray(large.stat().st_size)
        content[place] = 1
        large.write_bytes(content)
        assert model_facts(tmp_path)["sha256"] != before["sha256"]
    large.write_bytes(b"small")
    small = model_facts(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    assert model_facts(tmp_path)["sha256"] != small["sha256"]
    assert file_digest(large) == hashlib.sha256(b"small").hexdigest()


def test_the_events_are_plain_json(run):
    assert all(json.loads(line) for line in run.events.read_text(encoding="utf-8").splitlines())
