"""How fast supervised fine-tuning is, in how much memory and at which loss: Lathe, a plain loop, and another program.

    python benchmarks/sft.py --dataset FILE.json [--examples 160] [--plain] [--peer PATH_TO_llamafactory-cli]

The same command for all (LoRA of rank 8 on all linear layers, 4 examples × 2 micro-batches, cutoff 1024), one after the
other, on the bundled model. ``--plain`` also runs transformers' own Trainer on padded batches of the same examples in
the same order. Tokens are those of the rows; padding does not count. On a CPU without instructions for bfloat16 the
peer is given a float32 copy of the model: it would compute in bfloat16 otherwise, at about a hundredth of the speed.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(PROJECT))

from engine.catalog.devices import cpu  # noqa: E402

MODEL = PROJECT / "models" / "SmolLM2-135M-Instruct"
SHARED = {
    "stage": "sft", "do_train": "true", "finetuning_type": "lora", "lora_rank": "8", "lora_target": "all",
    "template": "smollm2", "cutoff_len": "1024", "learning_rate": "1e-4", "num_train_epochs": "1",
    "per_device_train_batch_size": "4", "gradient_accumulation_steps": "2", "lr_scheduler_type": "cosine",
    "max_grad_norm": "1.0", "logging_steps": "1", "save_steps": "1000", "plot_loss": "true", "report_to": "none",
    "overwrite_output_dir": "true", "include_num_input_tokens_seen": "true",
}  # fmt: skip


@dataclass
class Outcome:
    """What one run took. Times in seconds; ``ready_s`` from the command to the end of the first step."""

    name: str
    wall_s: float
    ready_s: float
    train_s: float
    peak_bytes: int
    losses: list[float]


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--dataset", type=Path, required=True, help="rows in alpaca's format")
    arguments.add_argument("--examples", type=int, default=160)
    arguments.add_argument("--plain", action="store_true")
    arguments.add_argument("--peer", type=Path, help="path of llamafactory-cli")
    arguments.add_argument("--rounds", type=int, default=1, help="times that each is run, in alternation")
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        data = work / "data"
        data.mkdir()
        shutil.copy(given.dataset, data / "rows.json")
        (data / "dataset_info.json").write_text(json.dumps({"rows": {"file_name": "rows.json"}}))
        options = {**SHARED, "dataset": "rows", "dataset_dir": str(data), "max_samples": str(given.examples)}
        outcomes: list[Outcome] = []
        for _ in range(given.rounds):
            tokens, outcome = run_lathe(options, work)
            outcomes.append(outcome)
            if given.plain:
                outcomes.append(run_plain(options, work))
            if given.peer:
                outcomes.append(run_peer(given.peer, options, work))
    report(outcomes, tokens)


def run_lathe(options: dict[str, str], work: Path) -> tuple[int, Outcome]:
    output = work / "lathe"
    command = [sys.executable, str(PROJECT / "app.py"), "train", *flags(options), "--output_dir", str(output)]
    command += ["--model_name_or_path", str(MODEL)]
    outcome = watched("Lathe", command, output, lambda: has_stepped(output))
    tokens = json.loads((output / "all_results.json").read_text("utf-8"))["num_input_tokens_seen"]
    return tokens, outcome


def run_peer(program: Path, options: dict[str, str], work: Path) -> Outcome:
    model = MODEL
    if not cpu().has_fast_bfloat16:
        model = work / "float32"
        if not model.is_dir():
            copy_in_float32(model)
    output = work / "peer"
    command = [str(program), "train", *flags(options), "--output_dir", str(output), "--model_name_or_path", str(model)]
    return watched("LLaMA-Factory", command, output, lambda: has_stepped(output))


def run_plain(options: dict[str, str], work: Path) -> Outcome:
    output = work / "plain"
    given = {**options, "output_dir": str(output), "model_name_or_path": str(MODEL)}
    output.mkdir(exist_ok=True)
    (output / "options.json").write_text(json.dumps(given))
    command = [sys.executable, __file__.replace("sft.py", "sft_plain.py"), str(output)]
    return watched("plain loop", command, output, lambda: has_stepped(output))


def flags(options: dict[str, str]) -> list[str]:
    return [word for name, value in options.items() for word in (f"--{name}", value)]


def has_stepped(output: Path) -> bool:
    """Whether the first step is done: both programs then write a line into a file of the same name."""
    log = output / "trainer_log.jsonl"
    return log.is_file() and '"current_steps"' in log.read_text("utf-8")


def watched(name: str, command: list[str], output: Path, has_begun: Callable[[], bool]) -> Outcome:
    """Run a command to its end, with the largest memory that it and its children ever held together."""
    import psutil

    shutil.rmtree(output, ignore_errors=True) if name != "plain loop" else None
    print(f"{name} …", file=sys.stderr, flush=True)
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "DISABLE_VERSION_CHECK": "1"}
    printed = output.parent / f"{output.name}.log"
    began = time.monotonic()
    with printed.open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment, cwd=output.parent)
        parent, ready_s, peak = psutil.Process(process.pid), 0.0, 0
        while process.poll() is None:
            peak = max(peak, held(parent))
            if not ready_s and has_begun():
                ready_s = time.monotonic() - began
            time.sleep(0.5 if ready_s else 0.1)  # to look costs a part of a core
    wall_s = time.monotonic() - began
    if process.returncode:
        sys.exit(f"{name} failed:\n{printed.read_text('utf-8', errors='replace')[-3000:]}")
    results = json.loads((output / "train_results.json").read_text("utf-8"))
    lines = [json.loads(line) for line in (output / "trainer_log.jsonl").read_text("utf-8").splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    return Outcome(name, wall_s, ready_s, results["train_runtime"], peak, losses)


def held(parent) -> int:
    """Bytes in memory of a process and of those it started, wherever these have gone since."""
    import psutil

    total = 0
    for process in psutil.process_iter(["pid"]):
        try:
            if process == parent or process.environ().get(MARK) == MARK_VALUE:
                total += process.memory_info().rss
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return total


MARK, MARK_VALUE = "LATHE_BENCHMARK", str(os.getpid())
os.environ[MARK] = MARK_VALUE  # inherited: so the worker of a run, which is a session of its own, is found


def copy_in_float32(target: Path) -> None:
    """Args: target: folder of the copy."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32).save_pretrained(target)
    AutoTokenizer.from_pretrained(MODEL).save_pretrained(target)


def report(outcomes: list[Outcome], tokens: int) -> None:
    print(f"\n{cpu().name}, {cpu().cores} cores; {tokens} tokens\n")
    print("| | real tokens/s | training | whole command | first step done | peak memory | last loss |")
    print("|---|---|---|---|---|---|---|")
    for each in outcomes:
        print(
            f"| {each.name} | {tokens / each.train_s:.0f} | {each.train_s:.0f} s | {each.wall_s:.0f} s | "
            f"{each.ready_s:.1f} s | {each.peak_bytes / 1e9:.2f} GB | {each.losses[-1]:.4f} |"
        )
    ours = outcomes[0]
    for each in outcomes[1:]:
        if each.name == ours.name:
            continue
        apart = max((abs(a - b) for a, b in zip(ours.losses, each.losses, strict=False)), default=0.0)
        print(
            f"\nAgainst {each.name}: {each.train_s / ours.train_s:.2f} × the tokens/s, the whole command in "
            f"1/{each.wall_s / ours.wall_s:.2f} of its time, {ours.peak_bytes / each.peak_bytes:.2f} × its memory; "
            f"largest difference of a logged loss {apart:.4f}."
        )


if __name__ == "__main__":
    main()
