"""The estimate's activations against what autograd keeps: counted tensor by tensor, on models of different widths."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from engine.catalog.devices import Device, precision
from engine.catalog.memory import (
    HEAP,
    HIDDEN_WORKING,
    INTERMEDIATE_WORKING,
    MicroBatch,
    activation_bytes,
    trained_weights,
    weight_bytes,
)  # fmt: skip
from engine.catalog.shape import shape_of
from engine.options.jobs import TrainJob
from engine.runs.folder import Folder
from engine.runs.record import Recorder
from engine.work import train

PLAIN = Device("cpu", "a CPU", cores=1)
FAST = Device("cpu", "a CPU that multiplies bfloat16", cores=1, flags=frozenset({"avx512_bf16"}))


@pytest.fixture(params=[PLAIN, FAST], ids=["float32", "bfloat16"])
def device(request, monkeypatch) -> Device:
    """What the worker takes this machine for."""
    monkeypatch.setattr(train, "usable_device", lambda recorder, ranks: request.param)
    return request.param


@pytest.fixture(params=[(64, 4, 512), (192, 2, 192)], ids=str)
def widths(request) -> tuple[int, int, int]:
    """H, key-value heads of 4, and the width of the feed-forward layer."""
    return request.param


def a_model(folder: Path, widths: tuple[int, int, int], layers: int, tokenizer_of: Path) -> Path:
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_of)
    hidden, key_value, intermediate = widths
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=hidden, intermediate_size=intermediate, num_hidden_layers=layers,
        num_attention_heads=4, num_key_value_heads=key_value, tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def kept_bytes(job: TrainJob, folder: Path) -> tuple[int, int]:
    """What the forward pass of one micro-batch keeps for its backward pass, weights aside; and its tokens."""
    folder.mkdir()
    trainer = train.ready(job, Recorder(Folder(folder))).trainer
    examples = [[trainer.train_dataset[0]]]  # one row, so that no common beginning is laid out once
    batches, totals = trainer.get_batch_samples(iter(examples), 1, torch.device("cpu"))
    weights = {parameter.untyped_storage().data_ptr() for parameter in trainer.model.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage
        return tensor

    trainer.model.train()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), trainer.accelerator.autocast():
        loss = trainer.compute_loss(trainer.model, batches[0], num_items_in_batch=totals)
    assert loss.requires_grad
    return sum(storage.nbytes() for storage in kept.values()), batches[0]["input_ids"].numel()


@pytest.mark.parametrize("method", ["lora", "full"])
def test_activations_are_what_autograd_keeps(workplace, bundled_model, tmp_path, device, widths, method):
    found = {}
    for layers in (1, 4):
        model = a_model(tmp_path / f"model{layers}", widths, layers, bundled_model)
        values = {"model_name_or_path": str(model), "dataset": "identity", "finetuning_type": method, "lora_rank": 4}
        job = TrainJob.from_values({**values, "disable_gradient_checkpointing": True})
        found[layers], tokens = kept_bytes(job, tmp_path / f"run{layers}")
    counted = (found[4] - found[1]) / 3  # of one layer: what is kept outside of them is the same in both

    shape = shape_of(str(model))
    batch = MicroBatch(1, tokens, tokens, tokens, tokens * tokens, False)
    size = 4 if device is PLAIN else 2
    working = tokens * size * (HIDDEN_WORKING * shape.hidden + INTERMEDIATE_WORKING * shape.intermediate)
    estimated = (activation_bytes(job, shape, precision(device), batch, False) / HEAP - working) / shape.layers
    if device is FAST:  # what is trained of a layer, as the products take it
        matrices = [each for each in trained_weights(job, shape) if each.layer == 0 and len(each.shape) == 2]
        estimated += sum(each.count for each in matrices) * size
    assert estimated == pytest.approx(counted, rel=0.01), f"{counted / tokens / size:.1f} numbers for each token"


def test_weights_are_those_of_the_model(workplace, tiny_model, device):
    values = {"model_name_or_path": str(tiny_model), "dataset": "identity", "lora_rank": 4}
    job = TrainJob.from_values(values)
    Path("run").mkdir()
    model = train.ready(job, Recorder(Folder(Path("run")))).trainer.model
    shape = shape_of(str(tiny_model))
    frozen = sum(each.numel() * each.element_size() for each in model.parameters() if not each.requires_grad)
    trained = sum(each.numel() for each in model.parameters() if each.requires_grad)
    assert weight_bytes(job, shape, precision(device)) == frozen
    assert sum(each.count for each in trained_weights(job, shape)) == trained
