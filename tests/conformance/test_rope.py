"""Texts longer than a model was made for: the frequencies by their published formulas, and what remembers them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, BertConfig, LlamaConfig

from engine.errors import UserError
from engine.options.jobs import ChatJob, ExportJob, TrainJob
from engine.options.yaml_text import write_yaml
from engine.runs.folder import Folder
from engine.runs.record import Recorder
from engine.work import export
from engine.work.adapters import make_trainable
from engine.work.load import apply_adapters, load_model
from engine.work.rope import longest, stretch

THETA, DIM, MADE_FOR = 10000.0, 16, 2048  # of the tiny model
PLAIN = THETA ** -(torch.arange(0, DIM, 2) / DIM)
IDS = torch.arange(1000, 1024).reshape(2, 12)


def job_of(model: Path, **options: Any) -> TrainJob:
    return TrainJob.from_values({"model_name_or_path": str(model), "dataset": "identity", **options})


def llama3(factor: float) -> torch.Tensor:
    """Low frequencies are divided, high ones kept, those between mixed (Llama 3.1)."""
    low, high = 1.0, 4.0
    turns = MADE_FOR * PLAIN / (2 * math.pi)
    share = ((turns - low) / (high - low)).clamp(0, 1)
    return (1 - share) * PLAIN / factor + share * PLAIN


def yarn(factor: float) -> torch.Tensor:
    """Peng et al. 2023, arXiv 2309.00071, with β from 32 to 1."""

    def place(turns: float) -> float:
        return DIM * math.log(MADE_FOR / (turns * 2 * math.pi)) / (2 * math.log(THETA))

    first, last = max(math.floor(place(32)), 0), min(math.ceil(place(1)), DIM - 1)
    ramp = ((torch.arange(DIM // 2) - first) / (last - first)).clamp(0, 1)
    return PLAIN / factor * ramp + PLAIN * (1 - ramp)


@pytest.mark.parametrize(("kind", "expected"), [("linear", PLAIN / 3), ("llama3", llama3(3)), ("yarn", yarn(3))])
def test_frequencies(kind: str, expected: torch.Tensor, tiny_model: Path) -> None:
    job = job_of(tiny_model, rope_scaling=kind, cutoff_len=5000)
    model = load_model(tiny_model, job, torch.float32, "cpu")
    torch.testing.assert_close(model.model.rotary_emb.inv_freq, expected.float())
    assert model.config.max_position_embeddings == longest(model.config) == 3 * MADE_FOR
    assert model(input_ids=IDS).logits.isfinite().all()


def test_dynamic_begins_beyond_the_length(tiny_model: Path) -> None:
    model = load_model(tiny_model, job_of(tiny_model, rope_scaling="dynamic", cutoff_len=4096), torch.float32, "cpu")
    rotary = model.model.rotary_emb
    torch.testing.assert_close(rotary.inv_freq, PLAIN.float())
    rotary(torch.zeros(1, 1), torch.arange(3000)[None])
    base = THETA * (2 * 3000 / MADE_FOR - 1) ** (DIM / (DIM - 2))
    torch.testing.assert_close(rotary.inv_freq, (base ** -(torch.arange(0, DIM, 2) / DIM)).float())
    assert longest(model.config) == 4096


@pytest.mark.parametrize(("cutoff", "factor"), [(2048, None), (100, None), (2049, 2), (4096, 2), (4097, 3)])
def test_the_next_whole_multiple_in_training(cutoff: int, factor: int | None) -> None:
    config = LlamaConfig(max_position_embeddings=2048)
    assert stretch(config, job_of(Path("x"), rope_scaling="linear", cutoff_len=cutoff)) == (factor is not None)
    assert config.rope_parameters.get("factor") == factor
    assert config.max_position_embeddings == 2048 * (factor or 1)


def test_twice_where_nothing_says_how_far() -> None:
    config = LlamaConfig(max_position_embeddings=2048)
    assert stretch(config, ChatJob(rope_scaling="yarn"))
    assert config.rope_parameters["factor"] == 2 and config.max_position_embeddings == 4096
    assert not stretch(LlamaConfig(), ChatJob())


def test_a_model_without_rotary_embedding() -> None:
    with pytest.raises(UserError, match="bert"):
        stretch(BertConfig(), ChatJob(rope_scaling="linear"))


@pytest.mark.parametrize("spelling", ["rope_parameters", "rope_scaling"])
def test_an_adapter_remembers(spelling: str, tiny_model: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    base.mkdir()
    for path in tiny_model.iterdir():
        (base / path.name).symlink_to(path)
    if spelling == "rope_scaling":  # as transformers 4 writes it
        config = json.loads((base / "config.json").read_text())
        config["rope_theta"] = config.pop("rope_parameters")["rope_theta"]
        (base / "config.json").unlink()
        (base / "config.json").write_text(json.dumps(config))
    job = job_of(base, rope_scaling="linear", cutoff_len=8000)
    torch.manual_seed(0)
    model = make_trainable(load_model(base, job, torch.float32, "cpu"), job)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.02)
    run = tmp_path / "run"
    (run / "checkpoint-5").mkdir(parents=True)
    model.save_pretrained(run / "checkpoint-5")
    (run / "training_args.yaml").write_text(write_yaml(job.values()))
    with torch.no_grad():
        expected = model.eval()(input_ids=IDS).logits
        chat = ChatJob.from_values({"adapter_name_or_path": str(run / "checkpoint-5")})
        found = apply_adapters(load_model(base, chat, torch.float32, "cpu"), chat.adapters)(input_ids=IDS).logits
        assert float((found - expected).abs().max()) < 1e-5
        values = {"model_name_or_path": str(base), "adapter_name_or_path": str(run / "checkpoint-5"),
                  "export_dir": str(tmp_path / "out")}  # fmt: skip
        export.run(ExportJob.from_values(values), Recorder(Folder(run)))
        merged = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
        assert float((merged(input_ids=IDS).logits - expected).abs().max()) < 1e-5
    assert spelling in json.loads((tmp_path / "out" / "config.json").read_text())
    assert merged.config.rope_parameters["factor"] == 4 and merged.config.max_position_embeddings == 8192
