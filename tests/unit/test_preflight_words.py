"""What the preflight offers and says: remedies that are remedies, disk, and no number without its assumption."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from engine.catalog import cheaper
from engine.catalog.cheaper import changes
from engine.catalog.devices import Device
from engine.catalog.disk import disk_use, total_steps
from engine.catalog.memory import (
    Row,
    RowLengths,
    estimate,
)  # fmt: skip
from engine.options.jobs import PreflightJob, TrainJob
from engine.options.rules import problems_of
from engine.runs import known_lengths as known
from engine.runs.preflight import Answer, device_of, preflight
from engine.runs.preflight_words import assumption_words, change_options, verdict_words
from tests.unit.house import PROJECT
from tests.unit.test_memory_estimate import GIGABYTE, LARGE, SMALL, a100, cpu, job, t4

# --- remedies ---


@pytest.fixture
def with_bitsandbytes(monkeypatch):
    monkeypatch.setattr(cheaper, "has_bitsandbytes", lambda: True)


def test_nothing_is_offered_where_all_is_well():
    assert changes(job(), SMALL, cpu(64 * GIGABYTE)) == ()


@pytest.mark.parametrize(
    ("values", "shape", "device"),
    [
        ({}, LARGE, t4()),
        ({"cutoff_len": 4096, "per_device_train_batch_size": 16}, LARGE, t4()),
        ({"finetuning_type": "full"}, SMALL, t4(3 * GIGABYTE)),
        ({"finetuning_type": "full"}, LARGE, a100()),
        ({"finetuning_type": "freeze", "freeze_trainable_layers": 16}, LARGE, a100()),
        ({"disable_gradient_checkpointing": True}, SMALL, cpu(4 * GIGABYTE)),
        ({"per_device_train_batch_size": 32, "cutoff_len": 8192}, SMALL, cpu(16 * GIGABYTE)),
        ({"finetuning_type": "full", "nproc_per_node": 4}, LARGE, a100()),
    ],
)
def test_each_remedy_makes_it_fit_and_can_be_typed(with_bitsandbytes, values, shape, device):
    asked = job(**values)
    assert estimate(asked, shape, device).verdict != "fits"
    found = changes(asked, shape, device)
    assert 1 <= len(found) <= 3
    for change in found:
        changed = TrainJob.from_values({**asked.values(), **change.values})
        assert estimate(changed, shape, device).verdict == "fits", change.values
        assert [problem for problem in problems_of(changed) if not problem.is_warning] == [], change.values
        assert len(change.costs) >= 1


def test_what_costs_only_time_comes_first(with_bitsandbytes):
    found = changes(job(disable_gradient_checkpointing=True), SMALL, cpu(4 * GIGABYTE))
    assert [change.costs for change in found] == [("checkpointing",), ("batch",), ("cutoff",)]
    assert found[1].values == {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 8}


def test_an_effective_batch_stays_what_it_is(with_bitsandbytes):
    for rows in (6, 7, 32):
        asked = job(per_device_train_batch_size=rows, gradient_accumulation_steps=2, cutoff_len=8192)
        for change in changes(asked, SMALL, cpu(9 * GIGABYTE)):
            if "per_device_train_batch_size" in change.values:
                product = change.values["per_device_train_batch_size"] * change.values["gradient_accumulation_steps"]
                assert product == rows * 2


def test_seven_billion_on_a_t4_go_in_four_bits(with_bitsandbytes):
    found = changes(job(per_device_train_batch_size=1), LARGE, t4())
    assert any(change.values.get("quantization_bit") in ("8", "4") for change in found)
    assert all("pure_bf16" not in change.values for change in found)  # a T4 has none


def test_without_bitsandbytes_none_of_it_is_offered(monkeypatch):
    monkeypatch.setattr(cheaper, "has_bitsandbytes", lambda: False)
    found = changes(job(finetuning_type="full"), LARGE, a100())
    assert not any({"quantization_bit"} & change.values.keys() or "8bit" in str(change.values) for change in found)


# --- disk ---


def test_disk_counts_checkpoints_that_are_kept():
    device, lengths = cpu(64 * GIGABYTE), RowLengths.of([Row(100, 50, 100)] * 800)

    def used(**values):
        asked = job(per_device_train_batch_size=4, gradient_accumulation_steps=2, save_steps=100, **values)
        return disk_use(asked, estimate(asked, SMALL, device, lengths), lengths, free_bytes=GIGABYTE)

    assert total_steps(job(), lengths) == 300
    assert (used().checkpoints, used(save_total_limit=2).checkpoints, used(save_strategy="no").checkpoints) == (3, 2, 0)
    assert used().merged_bytes > 0
    full = used(finetuning_type="full")
    assert full.checkpoint_bytes == pytest.approx(12 * SMALL.parameters, rel=0.02)
    assert not full.is_enough
    assert total_steps(job(), None) is None


# --- what is said, and where it comes from ---


def test_no_number_without_its_assumption():
    device = t4()
    answer = Answer(job(), estimate(job(), SMALL, device), None, (), None, None, None)
    told = "\n".join([verdict_words(answer, "en"), *assumption_words(answer, "en")])
    for needed in ("cutoff_len", "1,024", "Tesla T4", "15.0 GB free", "float16", "cuda:0"):
        assert needed in told


def test_a_remedy_is_printed_as_it_is_typed(with_bitsandbytes):
    found = changes(job(disable_gradient_checkpointing=True), SMALL, cpu(4 * GIGABYTE))
    assert change_options(found[0]) == "disable_gradient_checkpointing=False"
    assert change_options(found[1]) == "per_device_train_batch_size=1 gradient_accumulation_steps=8"


def test_the_gpu_that_has_the_least_free_decides():
    gpus = [Device("cuda", "A", 10, 9, 0, (8, 0)), Device("cuda", "B", 10, 4, 1, (8, 0))]
    assert device_of(job(devices="0,1"), [cpu(99), *gpus]).name == "B"
    assert device_of(job(devices="0"), [cpu(99), *gpus]).name == "A"
    assert device_of(job(), [cpu(99), *gpus]).name == "A"
    assert device_of(job(), [cpu(99)]).name == "a CPU"


def test_a_model_that_is_nowhere_has_no_estimate(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    answer = preflight(job(model_name_or_path="somebody/something"), [cpu(GIGABYTE)])
    assert answer.estimate is None
    assert "somebody/something" in verdict_words(answer, "en")


def test_lengths_that_were_counted_before_are_used_again(tmp_path, monkeypatch):
    """For the same rows only, as long as their file is the same, and no cutoff hides how long they are."""
    from engine.runs.folder import Folder
    from engine.runs.record import update_state, write_job

    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.jsonl").write_text('{"instruction": "a", "output": "b"}\n')
    asked = {"dataset": "rows.jsonl", "cutoff_len": 100}
    folder = Folder(Path("saves/SmolLM2-135M-Instruct/preflight/preflight_1"))
    folder.path.mkdir(parents=True)
    write_job(folder, PreflightJob.from_values(asked), "en")
    lengths = RowLengths.of([Row(100, 40, 100)])
    started = (tmp_path / "rows.jsonl").stat().st_mtime + 10
    update_state(folder, kind="preflight", status="done", started_at=started, result={"lengths": lengths.plain()})

    def found(**values):
        return known.known_lengths(TrainJob.from_values({**asked, **values}))

    assert found() == found(lora_rank=64) == found(cutoff_len=50) == lengths
    assert found(cutoff_len=200) is None  # the row may be longer than 100
    assert found(template="qwen") is None
    assert found(max_samples=3) is None
    update_state(folder, started_at=started - 20)
    assert found() is None


def test_the_answer_needs_no_torch():
    code = "import sys, terminal.preflight; print([m for m in ('torch', 'numpy') if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=PROJECT,
        check=True,
    )  # fmt: skip
    assert done.stdout.strip() == "[]"
