"""The steps of the guide are ticked by what there is now: a model, a dataset, a run, and what the chat holds."""

from __future__ import annotations

import fcntl
import json
import time

import pytest

from engine.options.command import job_from
from engine.options.jobs import ChatJob, TrainJob
from engine.runs.folder import SAVES, Folder
from engine.runs.record import update_state, write_job
from webui import live
from webui.guide import _is_away, steps_of

MODEL = "models/SmolLM2-135M-Instruct"


def made(kind, name, job, **state):
    folder = Folder(SAVES / name)
    folder.path.mkdir(parents=True, exist_ok=True)
    write_job(folder, job, "en")
    update_state(folder, kind=kind, started_at=time.time(), **state)
    live.forget_list()
    return folder


def ticked(run=None, path=MODEL, datasets=("identity",)):
    live.forget_list()
    return [step.is_done for step in steps_of(path, datasets, run, "en")]


@pytest.fixture
def trained(workplace, bundled_model):
    """A training that has ended well."""
    job = job_from(TrainJob, {"dataset": "identity"}).job
    run = made("train", "m/lora/train_1", job, status="done", finished_at=time.time())
    (run.path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": MODEL}))
    return run


def test_what_is_chosen(workplace, bundled_model):
    assert ticked() == [True, True, False, False]
    assert ticked(path="", datasets=()) == [False] * 4
    assert ticked(path="/nowhere/at/all") == [False, True, False, False]
    acts = [step.can_act for step in steps_of("/nowhere/at/all", ["identity"], None, "en")]
    assert acts == [True, True, False, False], "nothing is started without a model"


def test_a_training_that_has_ended_well(trained):
    assert ticked(trained) == [True, True, True, False]
    assert steps_of(MODEL, ["identity"], trained, "en")[3].can_act
    update_state(trained, status="failed", error={"key": "disk_full", "facts": {"detail": "x"}})
    assert ticked(trained) == [True, True, False, False]


def test_a_chat_that_holds_what_was_trained(trained):
    for adapters, is_it in (("", False), (str(SAVES / "m/lora/other"), False), (str(trained.path), True)):
        asked = {"model_name_or_path": MODEL, "adapter_name_or_path": adapters}
        chat = made("chat", "chat/chat_1", job_from(ChatJob, asked).job, status="running")
        with chat.lock.open("wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            assert ticked(trained)[3] is is_it
    assert not ticked(trained)[3], "its worker is gone"


def test_who_is_shown_the_guide(trained):
    assert not _is_away(None) and not _is_away({"is_away": None}) and not _is_away({"is_away": False})
    assert _is_away({"is_away": True})
    made("train", "m/lora/train_2", job_from(TrainJob, {"dataset": "identity"}).job, status="done")
    assert _is_away(None) and _is_away({"is_away": None}), "two trainings have ended well here"
    assert not _is_away({"is_away": False}), "it was called"
