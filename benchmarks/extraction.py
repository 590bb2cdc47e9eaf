"""How well does fine-tuning teach extraction? Micro-F1 of triples: base, base + adapter, merged, and as GGUF.

Every model is asked through the same chat that the page uses, greedily. Prints a Markdown table.

    python benchmarks/extraction.py [--limit N] [--work DIR] [key=value …]     (options for training)
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from engine.catalog.answer_scores import Hits, triple_hits, triples  # noqa: E402
from engine.options.jobs import ChatJob  # noqa: E402
from engine.runs import chat  # noqa: E402

MODEL = "models/SmolLM2-135M-Instruct"
TRAINING = {
    "dataset": "identity,spo_demo", "template": "chatml", "finetuning_type": "lora", "lora_rank": 16,
    "learning_rate": 1e-3, "num_train_epochs": 1, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 2,
    "lr_scheduler_type": "cosine", "warmup_steps": 0.03, "logging_steps": 5, "save_steps": 1000,
}  # fmt: skip
LONGEST_ANSWER = 160
"""Tokens; the longest right answer has 139."""
EXACT = {"infer_dtype": "float32"}
"""So that a difference between base + adapter and merged is one of the merge, and not of rounding while answering."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--limit", type=int, default=None, help="rows of the held-out set (default: all)")
    parser.add_argument("--work", default="saves/extraction", help="folder for what is made")
    parser.add_argument("--test", default="data/spo_demo_test.json")
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--skip-base", action="store_true")
    parser.add_argument("training", nargs="*", metavar="key=value")
    asked = parser.parse_args()
    rows = json.loads((ROOT / asked.test).read_text(encoding="utf-8"))[: asked.limit]
    work = Path(asked.work)
    adapter, merged, gguf = str(work / "adapter"), str(work / "merged"), str(work / "merged-q8_0.gguf")

    table = []
    if not asked.skip_base:
        table.append(("base model", *score({"model_name_or_path": asked.model}, rows)))
    options = {**TRAINING, **dict(pair.split("=", 1) for pair in asked.training)}
    seconds = run("train", model_name_or_path=asked.model, output_dir=adapter, overwrite_output_dir=True, **options)
    table.append(
        ("base + adapter", *score({"model_name_or_path": asked.model, "adapter_name_or_path": adapter, **EXACT}, rows))
    )
    run("export", model_name_or_path=asked.model, adapter_name_or_path=adapter, export_dir=merged)
    table.append(("merged", *score({"model_name_or_path": merged, **EXACT}, rows)))
    run("gguf", model_name_or_path=merged, outfile=gguf, outtype="q8_0")
    table.append(("q8_0 GGUF", *score({"gguf": gguf}, rows)))

    print(f"\nTraining took {seconds / 60:.1f} minutes, start-up included. Held-out sentences: {len(rows)}.\n")
    print("| model | micro-F1 | precision | recall | valid JSON | tokens/s |")
    print("|---|---|---|---|---|---|")
    for name, f1, precision, recall, valid, speed in table:
        print(f"| {name} | {f1:.3f} | {precision:.3f} | {recall:.3f} | {valid:.0%} | {speed:.0f} |")


def run(command: str, **options: object) -> float:
    """One command of Lathe's; seconds it took."""
    started = time.monotonic()
    flags = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    subprocess.run([sys.executable, str(ROOT / "app.py"), command, *flags], check=True)
    return time.monotonic() - started


def score(model: dict[str, str], rows: list[dict]) -> tuple[float, float, float, float, float]:
    """Micro-F1, precision and recall of exact (subject, predicate, object) triples; share of valid JSON; tokens/s."""
    folder = chat.load(ChatJob.from_values(model))
    hits = Hits()
    valid = tokens = 0
    seconds = 0.0
    try:
        chat.wait_until_ready(folder, timeout_s=300)
        for row in rows:
            prompt = f"{row['instruction']}\n{row['input']}"
            messages = [{"role": "user", "content": prompt}]
            pieces = list(chat.answer(folder, messages, do_sample=False, max_new_tokens=LONGEST_ANSWER))
            predicted = "".join(piece.text for piece in pieces)
            valid += triples(predicted) is not None
            hits += triple_hits(predicted, triples(row["output"]))
            tokens += pieces[-1].tokens
            seconds += pieces[-1].seconds
    finally:
        chat.unload(folder)
    print(f"{model}: F1 {hits.f1:.3f}", flush=True)
    return hits.f1, hits.precision, hits.recall, valid / len(rows), tokens / seconds if seconds else 0.0


if __name__ == "__main__":
    main()
