"""Going on after memory ran out: what changes, what does not, and how sizes are read out of errors."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.errors import Refused, UserError
from engine.options.jobs import TrainJob
from engine.runs.folder import Folder
from engine.runs.killed import kills_for_memory
from engine.runs.read import read_state
from engine.runs.record import update_state, write_job
from engine.runs.retry import ran_out_of_memory, retried_job
from engine.words import words
from engine.work.shortage import is_shortage, shortage

FACTS = {"step": 7, "asked": "1 GB", "free": "1 GB", "total": "2 GB", "used": "1 GB", "device": "CPU", "detail": ""}


@pytest.fixture
def failed(tmp_path):
    def make(error: str | None = "out_of_memory", **options) -> Folder:
        folder = Folder(tmp_path / "run")
        folder.path.mkdir(exist_ok=True)
        given = {"model_name_or_path": "models/m", "dataset": "identity", "output_dir": "elsewhere", **options}
        write_job(folder, TrainJob.from_values(given), "en")
        said = {"key": error, "facts": FACTS} if error else None
        update_state(folder, kind="train", status="failed", error=said)
        return folder

    return make


@pytest.mark.parametrize(
    ("batch", "accumulation", "expected"),
    [(8, 1, (4, 2)), (2, 4, (1, 8)), (3, 2, (1, 6)), (6, 1, (3, 2)), (25, 1, (5, 5)), (7, 3, (1, 21))],
)
def test_the_micro_batch_shrinks_and_the_step_keeps_its_rows(failed, batch, accumulation, expected):
    options = {"per_device_train_batch_size": batch, "gradient_accumulation_steps": accumulation, "lora_rank": 5}
    folder = failed(**options)
    job, changes = retried_job(folder)
    assert (job.per_device_train_batch_size, job.gradient_accumulation_steps) == expected
    assert expected[0] * expected[1] == batch * accumulation
    assert changes.keys() == {"per_device_train_batch_size", "gradient_accumulation_steps"}
    assert (job.lora_rank, job.output_dir, job.resume_from_checkpoint) == (5, str(folder.path), "true")


def test_a_single_row_is_next_trained_with_checkpointing_and_then_nothing_is_cheaper(failed):
    folder = failed(per_device_train_batch_size=1)
    job, changes = retried_job(folder)
    assert changes == {"disable_gradient_checkpointing": False} and job.disable_gradient_checkpointing is False
    assert job.cutoff_len == TrainJob.model_fields["cutoff_len"].default, "rows are not shortened in silence"
    folder = failed(per_device_train_batch_size=1, disable_gradient_checkpointing=False, cutoff_len=1000)
    with pytest.raises(UserError) as refused:
        retried_job(folder)
    assert refused.value.key == "retry.nothing_cheaper" and "cutoff_len=500" in refused.value.text()
    assert retried_job(folder, ["cutoff_len=500"]).job.cutoff_len == 500


def test_what_is_said_is_done_and_no_more(failed):
    job, changes = retried_job(failed(), ["--learning_rate", "2e-5", "adam_beta2=0.98"])
    assert changes == {"learning_rate": 2e-5, "adam_beta2": 0.98}
    assert (job.per_device_train_batch_size, job.training_arguments["adam_beta2"]) == (4, 0.98)
    for wrong in ("lora_rnk=4", "lora_rank=0"):
        with pytest.raises(Refused):
            retried_job(failed(), [wrong])


def test_another_failure_needs_another_remedy(failed):
    folder = failed("disk_full")
    assert not ran_out_of_memory(folder)
    with pytest.raises(UserError) as refused:
        retried_job(folder)
    assert refused.value.key == "retry.memory_sufficed" and refused.value.text()
    assert retried_job(folder, ["lora_rank=4"]).job.lora_rank == 4
    update_state(folder, status="done", error=None)
    with pytest.raises(UserError) as refused:
        retried_job(folder)
    assert refused.value.key == "resume_finished"


def test_a_lost_run_is_explained_by_the_systems_count_only_where_it_rose(failed):
    folder = failed(None)
    count = kills_for_memory()
    for before, expected in ((count, None), (None, None), ((count or 0) + 5, None), ((count or 0) - 2, 2)):
        update_state(folder, status="running", kills_before=before)
        state = read_state(folder)
        assert state.status == "lost"
        if count is not None:
            assert (state.error or {}).get("facts", {}).get("count") == expected
    if count is not None:
        assert ran_out_of_memory(folder)
        assert "2 processes" in words(f"errors.{state.error['key']}", "en", **state.error["facts"])


def test_without_the_systems_count_nothing_is_claimed(tmp_path):
    assert kills_for_memory(tmp_path) is None
    (Path(tmp_path) / "vmstat").write_text("nr_free_pages 5\noom_kill 3\n")
    assert kills_for_memory(tmp_path) == 3


@pytest.mark.parametrize(
    ("text", "asked"),
    [
        ("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 14.58 GiB", "2.1 GB"),
        ("[enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to "
         "allocate 40265318400 bytes. Error code 12 (Cannot allocate memory)", "40.3 GB"),
        ("Unable to allocate 512. MiB for an array with shape (1,)", "537 MB"),
        ("std::bad_alloc", "?"),
    ],
)  # fmt: skip
def test_sizes_are_read_out_of_errors(text, asked):
    error = RuntimeError(text)
    assert is_shortage(error)
    found = shortage(error)
    assert found["asked"] == asked and found["free"].endswith("B") and found["total"].endswith("GB")
    assert "{" not in words("errors.out_of_memory", "en", step=3, **found)


def test_other_errors_are_no_shortage():
    assert is_shortage(MemoryError()) and not is_shortage(ValueError("a shape is wrong"))
