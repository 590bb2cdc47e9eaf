"""Predicted against measured peak memory, for configurations that differ in one thing each; prints a Markdown table.

    python benchmarks/preflight.py [--only TEXT] [--work FOLDER] [--results FILE]

Each configuration is a run of ``preflight --smoke``: two real steps on the longest rows in a worker of its own, whose
largest resident size the system keeps. Results are kept in a file, so that an interrupted benchmark goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import time
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(PROJECT))

from engine.catalog.devices import devices, memory_text  # noqa: E402
from engine.catalog.memory import Estimate, RowLengths, estimate  # noqa: E402
from engine.catalog.shape import shape_of  # noqa: E402
from engine.options.command import parse  # noqa: E402
from engine.options.jobs import PreflightJob  # noqa: E402
from engine.runs.preflight import device_of  # noqa: E402
from engine.runs.read import read_state  # noqa: E402
from engine.runs.start import start  # noqa: E402

BUNDLED = "models/SmolLM2-135M-Instruct"
SHAPES = {
    "tiny": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4},
    "small": {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 8, "num_attention_heads": 8},
}
LORA = {"finetuning_type": "lora", "lora_rank": 8, "disable_gradient_checkpointing": True}
FULL = {"finetuning_type": "full", "disable_gradient_checkpointing": True}
FREEZE = {"finetuning_type": "freeze", "disable_gradient_checkpointing": True}
AGAIN = {"disable_gradient_checkpointing": False}


def case(
    model: str, rows: int, cutoff: int, method: dict[str, Any], accumulated: int = 1, **more: Any
) -> dict[str, Any]:
    return {
        "model_name_or_path": model, "per_device_train_batch_size": rows, "cutoff_len": cutoff,
        "gradient_accumulation_steps": accumulated, **method, **more,
    }  # fmt: skip


CASES = (
    case(BUNDLED, 4, 128, LORA),
    case(BUNDLED, 4, 256, LORA),
    case("small", 8, 256, LORA),
    case("small", 8, 256, FULL),
    case(BUNDLED, 8, 128, LORA, lora_rank=64),
    case(BUNDLED, 4, 256, {**LORA, **AGAIN}),
    case(BUNDLED, 2, 128, FULL),
    case(BUNDLED, 4, 128, FREEZE),
    case(BUNDLED, 1, 512, LORA),
    case("small", 8, 256, {**FULL, **AGAIN}),
    case("small", 16, 256, LORA, lora_rank=64),
    case(BUNDLED, 4, 256, {**FULL, **AGAIN}),
    case(BUNDLED, 4, 128, LORA, accumulated=2),
    case(BUNDLED, 1, 128, FULL, optim="adafactor"),
    case(BUNDLED, 4, 128, FREEZE, freeze_trainable_layers=15),
    case("small", 32, 64, FREEZE, freeze_trainable_layers=4),
    case("tiny", 4, 256, LORA),
    case("tiny", 32, 512, FULL),
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--work", type=Path, default=Path("/tmp/lathe-preflight"))
    parser.add_argument("--results", type=Path, help="default: results.jsonl in --work")
    parser.add_argument("--limit_s", type=float, default=float("inf"), help="start no case after so many seconds")
    given = parser.parse_args()
    results, began = given.results or given.work / "results.jsonl", time.monotonic()
    given.work.mkdir(parents=True, exist_ok=True)
    os.chdir(given.work)
    for name in ("data", "models"):
        if not Path(name).exists():
            Path(name).symlink_to(PROJECT / name)
    make_rows(Path("rows.jsonl"))
    done = read_results(results)
    for each in CASES:
        name = name_of(each)
        if name in done or given.only not in name or time.monotonic() - began > given.limit_s:
            continue
        done[name] = measure(each)
        with results.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"name": name, **done[name]}) + "\n")
        print(name, memory_text(done[name]["peak_memory_bytes"]), flush=True)
    print_table(done)
    return 0


def name_of(each: dict[str, Any]) -> str:
    method = each["finetuning_type"]
    if method == "lora":
        method += f" r{each['lora_rank']}"
    elif method == "freeze":
        method += f" {each.get('freeze_trainable_layers', 2)}"
    if "optim" in each:
        method += f" {each['optim']}"
    model = Path(each["model_name_or_path"]).name
    again = "off" if each["disable_gradient_checkpointing"] else "on"
    rows = f"{each['per_device_train_batch_size']}×{each['gradient_accumulation_steps']}"
    return f"{model} | {method} | {rows} | {each['cutoff_len']} | {again}"


def job_of(each: dict[str, Any]) -> PreflightJob:
    model = each["model_name_or_path"]
    values = {**each, "model_name_or_path": str(make_model(model)) if model in SHAPES else model}
    values |= {"dataset": "rows.jsonl", "smoke": True}
    return parse(PreflightJob, [f"--{name}={value}" for name, value in values.items()]).job


def measure(each: dict[str, Any]) -> dict[str, Any]:
    """What two steps took: peak, lengths of the rows."""
    folder = start(job_of(each), owner_pid=os.getpid())
    while not (state := read_state(folder)).has_ended:
        time.sleep(0.2)
    if state.status != "done":
        raise SystemExit(f"{folder.path}: {state.status} {state.error}")
    longest = state.result["lengths"]
    longest["longest"] = longest["longest"][:64]
    return {**state.result["measured"], "lengths": longest}


def predict(each: dict[str, Any], measured: dict[str, Any]) -> Estimate:
    job = job_of(each)
    lengths = RowLengths.from_plain(measured["lengths"])
    return estimate(job, shape_of(job.model_name_or_path), device_of(job, devices()), lengths)


def print_table(done: dict[str, dict[str, Any]]) -> None:
    print("\n| Model | Method | Batch × accumulation | Tokens a row | Checkpointing | Predicted | Measured | Off by |")
    print("| --- | --- | ---: | ---: | --- | ---: | ---: | ---: |")
    for each in CASES:
        name = name_of(each)
        if name not in done:
            continue
        found, peak = predict(each, done[name]), done[name]["peak_memory_bytes"]
        off = found.peak_bytes / peak - 1
        print(f"| {name} | {memory_text(found.peak_bytes)} | {memory_text(peak)} | {100 * off:+.1f} % |")


def read_results(path: Path) -> dict[str, dict[str, Any]]:
    if not path.is_file():
        return {}
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return {line["name"]: line for line in lines}


def make_rows(path: Path, rows: int = 200, words: int = 1500) -> None:
    """Rows that are longer than every cutoff here; no two begin alike."""
    if path.exists():
        return
    chance = random.Random(0)
    known = ("river", "stone", "paper", "lamp", "green", "walk", "seven", "north", "quiet", "bread", "glass", "early")
    with path.open("w", encoding="utf-8") as file:
        for _ in range(rows):
            asked = " ".join(chance.choices(known, k=20))
            answer = " ".join(chance.choices(known, k=words))
            file.write(json.dumps({"instruction": asked, "output": answer}) + "\n")


def make_model(name: str) -> Path:
    """A Llama of one of ``SHAPES`` with random weights and the bundled model's tokenizer."""
    folder = Path(f"random-{name}")
    if not (folder / "config.json").is_file():
        from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

        tokenizer = AutoTokenizer.from_pretrained(BUNDLED)
        config = LlamaConfig(
            vocab_size=len(tokenizer), num_key_value_heads=4, max_position_embeddings=2048, tie_word_embeddings=True,
            bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, **SHAPES[name],
        )  # fmt: skip
        LlamaForCausalLM(config).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return folder


if __name__ == "__main__":
    sys.exit(main())
