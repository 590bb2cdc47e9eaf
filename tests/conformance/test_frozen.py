"""Frozen layers come out of a training as they went in, bit for bit, whatever format the device computes in."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from engine.catalog.devices import Device
from engine.options.jobs import TrainJob
from engine.runs.folder import Folder
from engine.runs.record import Recorder, update_state, write_job
from engine.work import train

FAST = Device("cpu", "a CPU that multiplies bfloat16", cores=1, flags=frozenset({"avx512_bf16"}))


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return {name: each for file in sorted(folder.glob("model*.safetensors")) for name, each in load_file(file).items()}


@pytest.mark.parametrize("stored", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shards", [False, True], ids=["one file", "two files"])
def test_frozen_weights_are_the_base_s_own(workplace, tiny_model, monkeypatch, stored, shards):
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=stored)
    model.save_pretrained("base", max_shard_size="8MB" if shards else "5GB")
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained("base")
    monkeypatch.setattr(train, "usable_device", lambda recorder, ranks: FAST)
    values = {
        "model_name_or_path": "base", "dataset": "identity", "finetuning_type": "freeze", "freeze_trainable_layers": 1,
        "max_steps": 2, "learning_rate": 1e-3, "plot_loss": False, "output_dir": "saves/frozen",
    }  # fmt: skip
    job, folder = TrainJob.from_values(values), Folder(Path("saves/frozen"))
    folder.path.mkdir(parents=True)
    write_job(folder, job, "en")
    update_state(folder, kind="train", status="running")
    train.run(job, Recorder(folder))

    before, after = tensors(Path("base")), tensors(folder.path)
    assert before.keys() == after.keys()
    trained = {name for name in before if ".layers.1." in name}
    for name in before.keys() - trained:
        assert torch.equal(before[name].double(), after[name].double()), name
    assert any(not torch.equal(before[name].double(), after[name].double()) for name in trained)
    assert not (folder.path / "exact").exists()
    loaded = AutoModelForCausalLM.from_pretrained(folder.path).state_dict()
    assert all(torch.equal(loaded[name].double(), after[name].double()) for name in after)
    assert json.loads((folder.path / "config.json").read_text())["dtype"] == "float32"
