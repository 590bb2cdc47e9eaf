"""Training by command line, for real: a tiny random model where seconds matter, the bundled one where truth does."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from engine.runs.delete import freed
from engine.runs.folder import Folder

PROJECT = Path(__file__).resolve().parent.parent.parent
APP = [sys.executable, str(PROJECT / "app.py")]


def lathe(*words, **options):
    flags = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    return subprocess.run([*APP, *words, *flags], capture_output=True, text=True, timeout=600)


@pytest.fixture
def rows(workplace):
    """A small dataset: answers of different lengths, one of them far too long."""
    path = workplace / "rows.json"
    made = [{"instruction": f"Say {n}", "output": " ".join([f"number {n}"] * (1 + n % 5))} for n in range(24)]
    path.write_text(json.dumps(made), encoding="utf-8")
    return path


@pytest.fixture
def options(tiny_model, rows):
    return {
        "model_name_or_path": tiny_model, "dataset": rows, "output_dir": "saves/t/lora/run", "num_train_epochs": 2,
        "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "learning_rate": "1e-2",
        "logging_steps": 1, "save_steps": 4,
    }  # fmt: skip


def log_of(folder):
    return [json.loads(line) for line in (Path(folder) / "trainer_log.jsonl").read_text().splitlines()]


def losses(folder):
    return {line["current_steps"]: line["loss"] for line in log_of(folder) if "loss" in line}


def test_a_run_leaves_what_its_users_expect(options, rows, workplace):
    done = lathe("train", **options)
    assert done.returncode == 0, done.stdout + done.stderr
    folder = workplace / options["output_dir"]
    for name in (
        "adapter_model.safetensors", "adapter_config.json", "tokenizer.json", "tokenizer_config.json",
        "trainer_log.jsonl", "training_loss.png", "all_results.json", "train_results.json", "trainer_state.json",
        "training_args.bin", "training_args.yaml", "job.yaml", "state.json", "running_log.txt", "checkpoint-4",
        "RUN.md",
    ):  # fmt: skip
        assert (folder / name).exists(), name
    assert not list(folder.glob("*.tmp")) and not (folder / ".saving").exists()
    lines = [line for line in log_of(folder) if "loss" in line]
    assert [line["current_steps"] for line in lines] == list(range(1, 13))
    assert {"total_steps", "lr", "epoch", "percentage", "elapsed_time", "throughput", "grad_norm"} <= lines[-1].keys()
    assert lines[-1]["loss"] < lines[0]["loss"]
    assert json.loads((folder / "all_results.json").read_text())["train_loss"] > 0
    state = json.loads((folder / "state.json").read_text())
    assert state["status"] == "done" and state["result"]["rows"]["rows"] == 24
    card = (folder / "RUN.md").read_text(encoding="utf-8")
    assert hashlib.sha256(rows.read_bytes()).hexdigest() in card and "**Done**" in card
    assert f"{lines[-1]['loss']:.6g} (12)" in card and "| torch | " in card and "| 24 |" in card

    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(options["model_name_or_path"]), folder)
    assert any(weight.abs().max() > 0 for name, weight in model.named_parameters() if "lora_B" in name)

    before = log_of(folder)
    again = lathe("train", **options)
    assert again.returncode == 2
    assert "overwrite_output_dir" in again.stderr and "Traceback" not in again.stderr
    assert log_of(folder) == before

    replaced = lathe("train", str(folder / "training_args.yaml"), "overwrite_output_dir=true")
    assert replaced.returncode == 0
    assert losses(folder) == pytest.approx({line["current_steps"]: line["loss"] for line in lines})
    (folder / "mine.txt").write_text("mine")
    assert lathe("runs", "delete", str(folder), "--yes").returncode == 0
    assert [path.name for path in folder.iterdir()] == ["mine.txt"]


def test_interrupted_and_resumed_equals_uninterrupted(options, workplace):
    options |= {"num_train_epochs": 40, "save_steps": 1000}  # long enough to be interrupted in the middle
    whole = lathe("train", **options)
    assert whole.returncode == 0, whole.stderr
    expected = losses(options["output_dir"])
    options |= {"output_dir": "saves/t/lora/stopped"}
    flags = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    process = subprocess.Popen(
        [*APP, "train", *flags], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background job ignores it
    )  # fmt: skip
    folder = Path(options["output_dir"])
    deadline = time.time() + 120
    while time.time() < deadline and not ((folder / "trainer_log.jsonl").exists() and losses(folder)):
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=120)
    assert process.returncode == 130
    stopped_at = max(losses(folder))
    assert stopped_at < max(expected) and (folder / f"checkpoint-{stopped_at}").is_dir()
    assert json.loads((folder / "state.json").read_text())["status"] == "stopped"
    resumed = lathe("runs", "resume", "stopped")
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert losses(folder) == expected


def test_killed_is_lost_and_goes_on(options, workplace):
    options |= {"save_steps": 1, "num_train_epochs": 10}
    flags = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    process = subprocess.Popen([*APP, "train", *flags], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    folder = Path(options["output_dir"])
    deadline = time.time() + 120
    while time.time() < deadline and not list(folder.glob("checkpoint-*")):
        time.sleep(0.02)
    os.kill(json.loads((folder / "state.json").read_text())["pid"], signal.SIGKILL)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1 and "resume" in errors
    assert "Lost" in lathe("runs", "list").stdout
    assert max(losses(folder)) < 60
    resumed = lathe("runs", "resume", "run")
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert list(losses(folder)) == list(range(1, 61)), "the curve has a hole"
    assert "Done" in lathe("runs", "list").stdout


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"lora_rnk": 4}, "lora_rank"), ({"learning_rate": "fast"}, "number"), ({"dataset": "identty"}, "identity"),
        ({"model_name_or_path": "models/NoSuchModel"}, "NoSuchModel"), ({"template": "chatmll"}, "chatml"),
        ({"stage": "sftt"}, "sft"), ({"lora_rank": 0}, "lora_rank"), ({"adapter_name_or_path": "nowhere"}, "nowhere"),
    ],
)  # fmt: skip
def test_refused_before_start_in_plain_words(options, change, said):
    refused = lathe("train", **{**options, **change})
    assert refused.returncode == 2
    assert said in refused.stderr and "Traceback" not in refused.stderr
    assert not Path(options["output_dir"]).exists()


def test_broken_rows_are_named_by_line_and_column(options, workplace):
    broken = workplace / "broken.json"
    good, bad = '{"instruction": "a", "output": "b"}', '{"instruction": "a" "output": "b"}'
    broken.write_text(f"[\n{good},\n{bad}\n]", encoding="utf-8")
    refused = lathe("train", **{**options, "dataset": broken})
    assert refused.returncode == 2
    assert "line 3" in refused.stderr and "column 21" in refused.stderr


@pytest.mark.parametrize("method", ["full", "freeze"])
def test_other_methods_save_a_whole_model(options, method, workplace):
    done = lathe("train", **{**options, "finetuning_type": method, "freeze_trainable_layers": 1, "max_steps": 2})
    assert done.returncode == 0, done.stdout + done.stderr
    from transformers import AutoModelForCausalLM

    before = AutoModelForCausalLM.from_pretrained(options["model_name_or_path"]).state_dict()
    after = AutoModelForCausalLM.from_pretrained(options["output_dir"]).state_dict()
    changed = {name for name in before if not before[name].equal(after[name].to(before[name].dtype))}
    if method == "freeze":
        assert changed and all(".layers.1." in name for name in changed)
    else:
        assert any(".layers.0." in name for name in changed) and "model.embed_tokens.weight" in changed
    assert freed(Folder(Path(options["output_dir"]))).stays == (), "a file that a deletion would not know as ours"


def test_the_command_of_this_field_runs_as_it_stands(workplace, bundled_model):
    command = """train --stage sft --do_train True --model_name_or_path models/SmolLM2-135M-Instruct
      --preprocessing_num_workers 16 --finetuning_type lora --template chatml --flash_attn auto --dataset_dir data
      --dataset identity,spo_demo --cutoff_len 2048 --learning_rate 2e-4 --num_train_epochs 3.0 --max_samples 100000
      --per_device_train_batch_size 4 --gradient_accumulation_steps 2 --lr_scheduler_type cosine --max_grad_norm 1.0
      --logging_steps 5 --save_steps 100 --warmup_steps 0 --packing False --report_to none
      --output_dir saves/SmolLM2-135M-Instruct/lora/train_demo --bf16 True --plot_loss True --trust_remote_code False
      --ddp_timeout 180000000 --include_num_input_tokens_seen True --optim adamw_torch
      --lora_rank 8 --lora_alpha 16 --lora_dropout 0 --lora_target all"""
    done = lathe(*command.split(), max_steps=2, logging_steps=1)
    assert done.returncode == 0, done.stdout + done.stderr
    assert Path("saves/SmolLM2-135M-Instruct/lora/train_demo/adapter_model.safetensors").is_file()


def test_encoded_rows_lie_in_the_run_only_while_it_needs_them(options, workplace):
    done = lathe("train", **{**options, "max_steps": 1})
    assert done.returncode == 0, done.stdout + done.stderr
    assert not (workplace / options["output_dir"] / ".rows").exists()


def test_a_streamed_run_goes_on_with_the_rows_that_an_uninterrupted_one_sees(options, workplace):
    """The data is read three times, with a reader of its own; the second run goes on in the middle of the third."""
    options |= {"streaming": True, "max_steps": 18, "save_steps": 14, "buffer_size": 8, "dataloader_num_workers": 4}
    options |= {"val_size": 2, "eval_strategy": "steps", "eval_steps": 9}
    whole = lathe("train", **options)
    assert whole.returncode == 0, whole.stdout + whole.stderr
    folder = workplace / options["output_dir"]
    expected = losses(folder)
    assert list(expected) == list(range(1, 19))
    events = log_of(folder)
    assert [event["facts"]["asked"] for event in events if event.get("warning") == "streaming_one_reader"] == [4]
    assert len([event for event in events if "eval_loss" in event]) >= 2
    rows = json.loads((folder / "state.json").read_text())["result"]["rows"]
    assert rows["rows"] >= 18 * 4 and rows["rows_with_nothing_to_learn"] == 0
    options |= {"output_dir": "saves/t/lora/resumed", "resume_from_checkpoint": folder / "checkpoint-14"}
    resumed = lathe("train", **options)
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert losses(options["output_dir"]) == {step: loss for step, loss in expected.items() if step > 14}
