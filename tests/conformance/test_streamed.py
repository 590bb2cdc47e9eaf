"""Logits of models whose weights stay on the disk, against transformers' and peft's own loading, family by family."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM

from engine.work.shards import model_tensors
from engine.work.streamed import CannotStream, OnDisk, model_on_disk, with_adapters

INPUT_IDS = torch.arange(1, 25).reshape(2, 12)
SIZES = {
    "vocab_size": 96, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "head_dim": 8, "pad_token_id": 0,
}  # fmt: skip
FAMILIES = {
    "llama": {}, "qwen2": {}, "qwen3": {}, "mistral": {}, "gemma": {}, "gemma2": {}, "phi3": {}, "olmo2": {},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "vocab_size": 96},
    "mamba": {"state_size": 4},
}  # fmt: skip


RENAMED = "gpt_neox"
"""Its head has another name in files than in transformers 5, which renames it as it loads."""


def saved(kind: str, folder: Path, **more) -> torch.nn.Module:
    torch.manual_seed(1)
    sizes = FAMILIES[kind] if kind == "gpt2" else {**SIZES, **FAMILIES.get(kind, {}), **more}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **sizes)).float().eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(folder)
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def logits_of(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=INPUT_IDS, use_cache=False).logits


def on_disk(folder: Path) -> torch.nn.Module:
    return model_on_disk(model_tensors(folder), AutoConfig.from_pretrained(folder))


@pytest.mark.parametrize("kind", FAMILIES)
def test_the_logits_are_those_of_the_model_in_memory(kind: str, tmp_path: Path) -> None:
    expected = logits_of(saved(kind, tmp_path))
    model = on_disk(tmp_path)
    assert all(type(parameter) is OnDisk for parameter in model.parameters())
    torch.testing.assert_close(logits_of(model), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("block", [100, 10_000])
def test_a_weight_read_in_pieces_gives_the_same(block: int, tmp_path: Path, monkeypatch) -> None:
    expected = logits_of(saved("llama", tmp_path))
    monkeypatch.setattr("engine.work.streamed.BLOCK", block)
    torch.testing.assert_close(logits_of(on_disk(tmp_path)), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("settings", [{}, {"use_dora": True}, {"modules_to_save": ["lm_head"]}], ids=str)
def test_an_adapter_beside_it_is_plain_pefts(settings: dict, tmp_path: Path) -> None:
    model = saved("llama", tmp_path / "base")
    config = LoraConfig(r=4, target_modules=["q_proj", "down_proj"], init_lora_weights=False, **settings)
    get_peft_model(model, config).save_pretrained(tmp_path / "adapter")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.float32)
    without = logits_of(plain)
    expected = logits_of(PeftModel.from_pretrained(plain, tmp_path / "adapter").eval())
    found = logits_of(with_adapters(on_disk(tmp_path / "base"), [tmp_path / "adapter"]))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(found, without, atol=1e-3)


def test_a_model_whose_files_call_its_weights_otherwise_is_left_to_transformers(tmp_path: Path) -> None:
    saved(RENAMED, tmp_path / "renamed")
    with pytest.raises(CannotStream, match=r"lm_head\.weight is in no file"):
        on_disk(tmp_path / "renamed")
    saved("llama", tmp_path)
    tensors = model_tensors(tmp_path)
    name = "model.layers.1.mlp.up_proj.weight"
    config = AutoConfig.from_pretrained(tmp_path)
    with pytest.raises(CannotStream, match=name):
        model_on_disk({each: stored for each, stored in tensors.items() if each != name}, config)
    with pytest.raises(CannotStream, match="no weight is called stray"):
        model_on_disk({**tensors, "stray": tensors[name]}, config)
    with pytest.raises(CannotStream, match="in its file"):
        model_on_disk({**tensors, name: tensors["model.norm.weight"]}, config)


def test_a_look_through_the_weights_reads_none(tiny_model, monkeypatch):
    """As peft does when it loads an adapter: a state_dict of the whole model would be the whole model in memory."""
    model = model_on_disk(model_tensors(tiny_model), AutoConfig.from_pretrained(tiny_model))
    monkeypatch.setattr(OnDisk, "read", lambda self: pytest.fail("a weight was read"))
    assert all(isinstance(each, OnDisk) for name, each in model.state_dict().items() if name.endswith("weight"))
