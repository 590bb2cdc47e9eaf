"""How long a merge takes and how much memory: of the bundled model, and of a generated model of several shards.

    python benchmarks/merge.py [--gigabytes 2] [--shard 0.5] [--rounds 3]

Each is ``python app.py export`` as a user types it, with an adapter of rank 16 on all linear layers. Memory is the
largest sum, over the command and all processes below it, looked at 50 times a second: of anonymous pages, which nobody
can take away, and of file pages, which are those of libraries (weights are read, not mapped). A page that processes
share counts once: of anonymous pages each process's part (PSS), of file pages those of the process that has most. The
size of a shard is that of the generated files and of ``export_size``; the model is stored in bfloat16, and so is what
is merged.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

PROJECT = Path(__file__).resolve().parent.parent
BUNDLED = PROJECT / "models" / "SmolLM2-135M-Instruct"
INTERVAL_S = 0.02
RANK = 16


@dataclass
class Taken:
    """What one command took: at each moment, anonymous and file bytes."""

    wall_s: float
    samples: list[tuple[int, int]]

    def peaks(self) -> str:
        sides = (sum, lambda each: each[0], lambda each: each[1])
        total, anonymous, file = (max(map(of, self.samples)) / 1e6 for of in sides)
        return f"peak {total:.0f} MB: anonymous {anonymous:.0f} MB, file {file:.0f} MB"


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--gigabytes", type=float, default=2.0, help="size of the generated model")
    arguments.add_argument(
        "--shard", type=float, default=0.5, help="GB in each of its files, and of the merged model's"
    )
    arguments.add_argument("--rounds", type=int, default=3, help="the quickest counts")
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory() as place:
        os.chdir(place)
        write_adapter(BUNDLED, Path("adapter"))
        report("bundled model", BUNDLED, Path("adapter"), 5.0, given.rounds)
        write_model(Path("large"), given.gigabytes * 1e9, given.shard * 1e9)
        write_adapter(Path("large"), Path("large-adapter"))
        report(
            f"{given.gigabytes:g} GB in shards of {given.shard:g}", Path("large"), Path("large-adapter"), given.shard, 1
        )


def report(name: str, base: Path, adapter: Path, shard: float, rounds: int) -> None:
    taken = min((export(base, adapter, shard) for _ in range(rounds)), key=lambda each: each.wall_s)
    print(f"{name:28} {taken.wall_s:6.1f} s   {taken.peaks()}", flush=True)


def export(base: Path, adapter: Path, shard: float) -> Taken:
    out = Path("out")
    shutil.rmtree(out, ignore_errors=True)
    shutil.rmtree("saves", ignore_errors=True)
    command = [
        sys.executable, str(PROJECT / "app.py"), "export", "--model_name_or_path", str(base),
        "--adapter_name_or_path", str(adapter), "--export_dir", str(out), "--export_size", str(shard),
    ]  # fmt: skip
    begin = time.time()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    samples = []
    while process.poll() is None:
        sizes = list(resident(process.pid))
        if sizes:
            samples.append((sum(each[0] for each in sizes), max(each[1] for each in sizes)))
        time.sleep(INTERVAL_S)
    wall_s = time.time() - begin
    if process.returncode:
        raise SystemExit(process.returncode)
    return Taken(wall_s, samples)


def resident(pid: int) -> Iterator[tuple[int, int]]:
    """Anonymous and file pages of a process and of all below it."""
    try:
        processes = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    for each in processes:
        try:
            found = [
                re.search(rf"^{name}:\s+(\d+) kB", (Path("/proc") / str(each.pid) / file).read_text(), re.MULTILINE)
                for file, name in (("smaps_rollup", "Pss_Anon"), ("status", "RssFile"))
            ]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if all(found):
            yield 1024 * int(found[0][1]), 1024 * int(found[1][1])


def shapes(folder: Path) -> dict[str, tuple[int, int]]:
    """The linear layers of a model folder, (out, in) each."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    narrow = hidden // config["num_attention_heads"] * config["num_key_value_heads"]
    attention = {"q": (hidden, hidden), "k": (narrow, hidden), "v": (narrow, hidden), "o": (hidden, hidden)}
    forward = {"gate": (inner, hidden), "up": (inner, hidden), "down": (hidden, inner)}
    sizes = {f"self_attn.{name}_proj": size for name, size in attention.items()}
    sizes |= {f"mlp.{name}_proj": size for name, size in forward.items()}
    layers = range(config["num_hidden_layers"])
    return {f"model.layers.{layer}.{name}": size for layer in layers for name, size in sizes.items()}


def write_model(folder: Path, size_bytes: float, shard_bytes: float) -> None:
    """A Llama with random weights in bfloat16, as many layers as make the size, written file by file."""
    import torch
    from safetensors.torch import save_file

    folder.mkdir()
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 2048, "intermediate_size": 5632,
        "num_attention_heads": 16, "num_key_value_heads": 4, "num_hidden_layers": 1, "vocab_size": 32000,
        "tie_word_embeddings": False, "rms_norm_eps": 1e-5, "max_position_embeddings": 2048, "dtype": "bfloat16",
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    per_layer = 2 * sum(math.prod(shape) for shape in shapes(folder).values())
    ends = 2 * 2 * 32000 * 2048
    config["num_hidden_layers"] = max(1, round((size_bytes - ends) / per_layer))
    (folder / "config.json").write_text(json.dumps(config))
    sizes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (32000, 2048)}
    sizes |= {f"{name}.weight": shape for name, shape in shapes(folder).items()}
    for layer in range(config["num_hidden_layers"]):
        sizes |= {
            f"model.layers.{layer}.{name}.weight": (2048,) for name in ("input_layernorm", "post_attention_layernorm")
        }
    sizes |= {"model.norm.weight": (2048,), "lm_head.weight": (32000, 2048)}
    files: list[list[str]] = [[]]
    filled = 0
    for name, shape in sizes.items():
        if filled + 2 * math.prod(shape) > shard_bytes and files[-1]:
            files.append([])
            filled = 0
        files[-1].append(name)
        filled += 2 * math.prod(shape)
    weight_map = {}
    random = torch.Generator().manual_seed(0)
    for number, names in enumerate(files):
        file = f"model-{number + 1:05d}-of-{len(files):05d}.safetensors"
        tensors = {
            name: torch.ones(sizes[name], dtype=torch.bfloat16)
            if len(sizes[name]) == 1
            else torch.randn(sizes[name], generator=random, dtype=torch.bfloat16).mul_(0.02)
            for name in names
        }
        save_file(tensors, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(names, file)
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def write_adapter(base: Path, folder: Path) -> None:
    """An adapter in peft's file format, with random numbers in both halves."""
    import torch
    from safetensors.torch import save_file

    folder.mkdir()
    random = torch.Generator().manual_seed(1)
    tensors = {}
    for name, (rows, columns) in shapes(base).items():
        a = torch.randn(RANK, columns, generator=random) / math.sqrt(columns)
        tensors[f"base_model.model.{name}.lora_A.weight"] = a
        tensors[f"base_model.model.{name}.lora_B.weight"] = 0.02 * torch.randn(rows, RANK, generator=random)
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    modules = sorted({name.rsplit(".", 1)[1] for name in shapes(base)})
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": RANK,
        "lora_alpha": 2 * RANK,
        "target_modules": modules,
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))


if __name__ == "__main__":
    main()
