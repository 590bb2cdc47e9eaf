"""``preflight``: it predicts, tries two steps, keeps nothing of them, and finds what would stop a training."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from engine.catalog import memory
from engine.runs.folder import Folder
from engine.runs.read import read_state
from engine.work import head, packed
from engine.work.row_lengths import row_lengths

PROJECT = Path(__file__).resolve().parent.parent.parent


def lathe(*words):
    command = [sys.executable, str(PROJECT / "app.py"), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def only_run() -> Folder:
    (path,) = Path("saves").glob("*/preflight/preflight_*")
    return Folder(path)


def test_two_steps_are_measured_and_nothing_of_them_is_kept(workplace, tiny_model):
    words = ["--model_name_or_path", tiny_model, "--dataset", "identity", "--per_device_train_batch_size", "2"]
    shown = lathe("preflight", *words, "--smoke")
    assert shown.returncode == 0, shown.stderr
    assert "It fits" in shown.stdout and "Measured on" in shown.stdout and "All 51 steps" in shown.stdout

    folder = only_run()
    result = read_state(folder).result
    took = result["measured"]
    assert 200e6 < took["peak_memory_bytes"] < 3e9
    assert len(took["losses"]) == 2 and all(8 < loss < 14 for loss in took["losses"])  # ln(49152) is 10.8
    assert took["tokens"] == sum(row[0] for row in result["lengths"]["longest"][:4])
    left = {path.name for path in folder.path.iterdir()}
    assert not [name for name in left if name.startswith(("checkpoint", "adapter", "model", ".rows"))], left

    again = lathe("preflight", *words)  # the lengths are known by now: no worker is started
    assert again.returncode == 0 and "Counted" in again.stdout and "Measured on" in again.stdout
    only_run()


def test_without_counting_the_answer_comes_at_once_and_says_what_it_assumes(workplace, tiny_model):
    words = ["--model_name_or_path", tiny_model, "--dataset", "identity", "--count_lengths", "false"]
    shown = lathe("preflight", *words, "--cutoff_len", "777")
    assert shown.returncode == 0, shown.stderr
    assert "Assumed" in shown.stdout and "777" in shown.stdout
    assert not Path("saves").exists()


def test_what_cannot_fit_is_refused_with_remedies(workplace, tiny_model):
    words = ["--model_name_or_path", tiny_model, "--dataset", "identity", "--count_lengths", "false"]
    too_much = ["--per_device_train_batch_size", "1024", "--cutoff_len", "131072"]
    shown = lathe("preflight", *words, *too_much)
    assert shown.returncode == 1
    assert "does not fit" in shown.stdout and "per_device_train_batch_size=" in shown.stdout


def test_a_loss_that_is_no_number_is_found(workplace, tiny_model, tmp_path):
    import torch
    from transformers import AutoModelForCausalLM

    broken = tmp_path / "broken"
    shutil.copytree(tiny_model, broken)
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    with torch.no_grad():
        model.model.norm.weight.fill_(float("nan"))
    model.save_pretrained(broken)
    shown = lathe("preflight", "--model_name_or_path", broken, "--dataset", "identity", "--smoke")
    assert shown.returncode == 1
    assert "nan" in shown.stderr.lower() or "not a number" in shown.stderr, shown.stderr


def test_the_estimate_knows_the_engine_s_own_sizes():
    assert memory.LOGIT_PIECE_BYTES == head.PIECE_BYTES
    assert memory.SHARED_FROM == packed.SHARED_FROM


@pytest.mark.parametrize("packing", [False, True])
def test_lengths_are_those_of_the_rows_that_are_trained_on(workplace, tiny_model, packing):
    from engine.options.jobs import PreflightJob
    from engine.runs.record import Recorder
    from engine.work.dataset import prepare
    from engine.work.load import load_tokenizer

    job = PreflightJob.from_values(
        {"dataset": "identity", "model_name_or_path": str(tiny_model), "packing": packing, "cutoff_len": 300}
    )
    Path("run").mkdir()
    rows = prepare(job, load_tokenizer(tiny_model, job), Recorder(Folder(Path("run")))).train
    found = row_lengths(rows)
    examples = [rows[index] for index in range(len(rows))]
    assert found.rows == len(rows)
    assert found.longest[0].tokens == max(len(each.input_ids) for each in examples)
    assert found.longest[0].learned <= found.longest[0].tokens
    if not packing:
        assert found.tokens == sum(len(each.input_ids) for each in examples)
        beginning = examples[0].input_ids[: found.shared]
        assert beginning and all(each.input_ids[: found.shared] == beginning for each in examples)
