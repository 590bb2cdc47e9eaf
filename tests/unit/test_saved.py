"""What is said of a run's checkpoints, where the run would go on, and every reason why it cannot."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from engine.errors import Refused, UserError
from engine.options.jobs import ExportJob, TrainJob
from engine.runs.checkpoints import MANIFEST, seal
from engine.runs.folder import SAVES, Folder
from engine.runs.queue import submit
from engine.runs.record import append_line, update_state, write_job
from engine.runs.repeat import repeated_job
from engine.runs.resume import checkpoint_problem, point_of, resumed_job, why_not_resumable
from engine.runs.saved import contents, saved, verify
from engine.runs.saved_words import outlook, standing_of
from terminal.runs import runs

FILES = ("adapter_config.json", "adapter_model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth")
LOSSES = {10: (2.0, 1.5), 20: (1.0, 0.5), 30: (0.7, 0.9)}


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def a_run(name: str = "m/lora/one", status: str = "stopped", steps=(10, 20, 30), **options) -> Folder:
    folder = Folder(SAVES / name)
    folder.path.mkdir(parents=True)
    write_job(folder, TrainJob(dataset=("identity",), output_dir=str(folder.path), **options), "en")
    update_state(folder, kind="train", status=status, started_at=1.0, finished_at=2.0)
    for step in steps:
        checkpoint(folder, step)
    return folder


def checkpoint(folder: Folder, step: int, names=FILES, best: int | None = None, seals: bool = True) -> Path:
    path = folder.path / f"checkpoint-{step}"
    path.mkdir()
    for name in names:
        (path / name).write_bytes(f"{name} of {step}".encode() * 50)
    history = [
        line for at, (loss, scored) in LOSSES.items() if at <= step
        for line in ({"step": at - 1, "loss": loss}, {"step": at, "eval_loss": scored})
    ]  # fmt: skip
    (path / "trainer_state.json").write_text(json.dumps({"log_history": history, "best_global_step": best}))
    if seals:
        seal(path)
    return path


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def key_of(refused) -> str:
    return refused.value.key


def test_each_checkpoint_says_what_it_holds_and_what_it_scored():
    folder = a_run()
    found = saved(folder)
    assert [each.step for each in found] == [10, 20, 30]
    assert [(each.loss, each.eval_loss) for each in found] == list(LOSSES.values())
    assert {each.holds for each in found} == {("adapter", "optimizer", "scheduler", "random")}
    assert [each.is_latest for each in found] == [False, False, True]
    assert [each.is_best for each in found] == [False, True, False], "by the loss in evaluation"
    sizes = [sum(path.stat().st_size for path in each.path.iterdir()) for each in found]
    assert [each.size_bytes for each in found] == sizes
    assert found[0].saved_at == (found[0].path / MANIFEST).stat().st_mtime
    checkpoint(folder, 40, best=10)
    assert [each.step for each in saved(folder) if each.is_best] == [10], "as the training itself has counted"


@pytest.mark.parametrize(
    ("names", "holds", "ranks"),
    [
        (["model.safetensors", "optimizer.pt", "scheduler.pt", "scaler.pt", "rng_state_0.pth", "rng_state_1.pth"],
         ("weights", "optimizer", "scheduler", "random", "scaler"), 2),
        (["model-00001-of-00002.safetensors", "model.safetensors.index.json"], ("weights",), 0),
        (["pytorch_model_fsdp_0/__0_0.distcp", "optimizer_0/__0_0.distcp"], ("weights", "optimizer"), 0),
        (["global_step30/zero_pp_rank_0.pt", "rng_state.pth"], ("weights", "optimizer", "scheduler", "random"), 1),
        (["adapter_config.json", "adapter_model.safetensors"], ("adapter",), 0),
        (["config.json", "model_card.md"], (), 0),
    ],
)  # fmt: skip
def test_contents_are_told_by_their_names(names, holds, ranks):
    assert contents(tuple(names)) == (holds, ranks)


def test_what_is_damaged_is_named_and_what_was_read_is_remembered_until_it_changes():
    folder = a_run()
    flip(folder.path / "checkpoint-20" / "optimizer.pt")
    (folder.path / "checkpoint-30" / "rng_state.pth").unlink()
    assert "(checkpoint-30)" in outlook(folder, None, "en").text, "it is said that it will be replaced"
    foreign = checkpoint(folder, 5, seals=False)
    before = saved(folder)
    assert [standing_of(each) for each in before] == ["foreign", "complete", "complete", "damaged"]
    assert before[3].damaged == "rng_state.pth" and before[2].is_latest, "the last one that is intact"
    assert [verify(each.path) for each in before] == [None, None, "optimizer.pt", "rng_state.pth"]
    after = saved(folder)
    assert [standing_of(each) for each in after] == ["foreign", "verified", "damaged", "damaged"]
    assert after[2].damaged == "optimizer.pt" and after[1].is_latest
    flip(folder.path / "checkpoint-20" / "optimizer.pt")  # as it was, at another time
    os.utime(folder.path / "checkpoint-20" / "optimizer.pt", (5, 5))
    assert standing_of(saved(folder)[2]) == "complete"
    manifest = folder.path / "checkpoint-10" / MANIFEST
    listed = json.loads(manifest.read_text())
    listed["optimizer.pt"][1] = None
    manifest.write_text(json.dumps(listed))
    verify(manifest.parent)
    assert standing_of(saved(folder)[1]) == "partly_verified"
    for content in ("[]", "{", '{"log_history": [3]}', '{"log_history": [{"step": "a", "loss": 1}]}', "[" * 100_000):
        (foreign / "trainer_state.json").write_text(content)
        assert saved(folder)[0].loss is None


# Going on


def test_the_latest_goes_on_in_its_folder_and_an_earlier_one_in_another():
    folder = a_run(lora_rank=5)
    job = resumed_job(folder)
    assert (job.output_dir, job.resume_from_checkpoint, job.lora_rank) == (str(folder.path), "true", 5)
    assert resumed_job(folder, 30) == job and "step 30" in outlook(folder, 30, "en").text
    branch = resumed_job(folder, 10)
    assert (branch.output_dir, branch.resume_from_checkpoint) == (None, str(folder.path / "checkpoint-10"))
    assert point_of(folder, 10).is_branch and folder.name in outlook(folder, 10, "en").text
    with pytest.raises(UserError) as refused:
        resumed_job(folder, 25)
    assert key_of(refused) == "resume.no_such_checkpoint" and "10, 20, 30" in refused.value.text()
    with pytest.raises(Refused) as refused:
        submit(resumed_job(folder))
    assert "dataset" in {problem.option for problem in refused.value.problems}, "there is no data folder here"


def test_a_damaged_one_is_refused_with_its_file_and_the_nearest_that_is_intact_to_the_last_byte():
    folder = a_run(steps=(10, 20, 30, 50))
    flip(folder.path / "checkpoint-30" / "optimizer.pt")
    flip(folder.path / "checkpoint-20" / "scheduler.pt")
    assert [each.damaged for each in saved(folder)] == [None] * 4, "their sizes are right"
    with pytest.raises(UserError) as refused:
        resumed_job(folder, 30)
    assert key_of(refused) == "resume.damaged"
    assert (refused.value.facts["file"], refused.value.facts["nearest"]) == ("optimizer.pt", 10)
    for step in (10, 50):
        (folder.path / f"checkpoint-{step}" / "optimizer.pt").unlink()
    with pytest.raises(UserError) as refused:
        resumed_job(folder, 50)
    assert key_of(refused) == "resume.damaged_all"
    assert point_of(folder).checkpoint is None and "step 0" in outlook(folder, None, "en").text
    assert resumed_job(folder).resume_from_checkpoint == "true", "it begins anew"


def test_a_run_that_was_built_on_another_ones_checkpoint_goes_on_from_there_until_it_has_its_own():
    old = a_run("m/lora/old")
    base = str(old.path / "checkpoint-10")
    folder = a_run("m/lora/new", steps=(), resume_from_checkpoint=base)
    job = resumed_job(folder)
    assert (job.output_dir, job.resume_from_checkpoint) == (str(folder.path), base) and point_of(folder).step == 10
    append_line(
        folder.events, {"attempt": {"options": {"resume_from_checkpoint": base}, "versions": {}, "machine": []}}
    )
    checkpoint(folder, 20)
    job = resumed_job(folder)
    assert job.resume_from_checkpoint == "true"
    write_job(folder, job, "en")
    assert repeated_job(folder).job.resume_from_checkpoint == base, "it did not begin at step 0"
    (folder.path / "checkpoint-20" / "optimizer.pt").unlink()
    assert resumed_job(folder).resume_from_checkpoint == base
    (old.path / "checkpoint-10" / "scheduler.pt").unlink()
    assert why_not_resumable(folder)[0] == "resume.base_gone"


@pytest.mark.parametrize(
    ("state", "key"),
    [
        ({"status": "queued"}, "resume.waits"),
        ({"kind": "export"}, "resume_only_training"),
        ({"status": "done"}, "resume.longer"),
        ({"status": "lost"}, None),
        ({"status": "failed"}, None),
    ],
)
def test_every_reason_has_its_sentence(state, key):
    folder = a_run()
    update_state(folder, **state)
    reason = why_not_resumable(folder)
    assert (reason and reason[0]) == key
    view = outlook(folder, None, "en")
    assert (view.point is None) == bool(key) and ("Cannot" in view.text) == bool(key)


def test_options_that_cannot_be_read_any_more_are_a_reason(capsys):
    folder = a_run()
    folder.job.write_text(folder.job.read_text().replace("lora_rank: 8", "lora_rank: eight"))
    reason, facts = why_not_resumable(folder)
    assert reason == "resume.job_unreadable" and "lora_rank" in facts["detail"]
    for content in ("", "{", "kind: train"):
        folder.job.write_text(content)
        assert why_not_resumable(folder)[0] == "resume.job_unreadable"
    folder.job.unlink()
    assert why_not_resumable(folder)[0] == "resume.job_unreadable"


def test_a_finished_run_can_be_gone_on_with_from_an_earlier_one_only_and_weights_alone_are_told():
    folder = a_run(status="done")
    text = outlook(folder, None, "en").text
    assert "checkpoint-30" in text and "num_train_epochs" in text
    assert resumed_job(folder, 20).output_dir is None
    assert why_not_resumable(a_run("m/lora/bare", "done", ()))[0] == "resume_finished"
    light = a_run("m/lora/light", steps=())
    checkpoint(light, 10, ("adapter_config.json", "adapter_model.safetensors"))
    assert "weights only" in outlook(light, None, "en").text


def test_a_job_that_would_delete_later_checkpoints_is_refused():
    folder = a_run()
    given = {"dataset": ("identity",), "output_dir": str(folder.path)}
    earlier = str(folder.path / "checkpoint-20")

    def key(**further) -> str | None:
        problem = checkpoint_problem(TrainJob(**{**given, **further}))
        return problem and problem.key

    assert key(resume_from_checkpoint=earlier) == "resume.later_lost"
    assert key(resume_from_checkpoint=f"./{earlier}") == "resume.later_lost"
    assert key(resume_from_checkpoint=earlier, output_dir="elsewhere") is None
    assert key(resume_from_checkpoint=earlier, output_dir=None) is None
    assert key(resume_from_checkpoint=str(folder.path / "checkpoint-30")) is None
    assert key(resume_from_checkpoint=earlier, overwrite_output_dir=True) == "resume.overwritten"
    assert key(resume_from_checkpoint="gone/checkpoint-3") == "checkpoint_missing"
    (folder.path / "checkpoint-20" / "optimizer.pt").unlink()
    assert key(resume_from_checkpoint=earlier) == "checkpoint_damaged"
    assert key(resume_from_checkpoint="true") is None and key() is None
    assert checkpoint_problem(ExportJob()) is None


# The terminal


def test_checkpoints_in_the_terminal(capsys):
    folder = a_run()
    flip(folder.path / "checkpoint-20" / "optimizer.pt")
    assert runs(["checkpoints", "one"], "en") == 0
    told = capsys.readouterr().out
    assert told.count("not yet read") == 3 and "goes on from step 30" in told
    assert runs(["checkpoints", "one", "--verify", "--json"], "en") == 1
    rows = json.loads(capsys.readouterr().out)
    assert [row["damaged"] for row in rows] == [None, "optimizer.pt", None]
    assert [row["is_verified"] for row in rows] == [True, False, True]
    for arguments, key in (
        (["resume", "one", "--checkpoint", "20"], "resume.damaged"),
        (["resume", "--checkpoint=checkpoint-20", "one"], "resume.damaged"),
        (["resume", "one", "--checkpoint", "last"], "resume.no_such_checkpoint"),
        (["resume", "one", "--checkpoint"], "flag_without_value"),
        (["resume"], "run_name_missing"),
        (["checkpoints", "one", "--what"], "unexpected_word"),
    ):
        with pytest.raises(UserError) as refused:
            runs(arguments, "en")
        assert key_of(refused) == key
