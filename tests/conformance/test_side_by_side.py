"""Parts of a micro-batch computed at once: the loss and gradients of transformers' plain way, the same at every run."""

from __future__ import annotations

import copy
from collections import Counter
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, Qwen3Config

from engine.options.jobs import TrainJob
from engine.runs.folder import Folder
from engine.runs.record import Recorder
from engine.work.arrangement import collate_for
from engine.work.encode import IGNORED, Encoded
from engine.work.loss import learned_loss
from engine.work.parts import PARTS
from engine.work.side_by_side import SideBySide, fits_side_by_side, share_out
from engine.work.train import ready

SMALL = {
    "vocab_size": 97, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 256,
}  # fmt: skip
MODELS = [LlamaConfig(**SMALL), Qwen3Config(**SMALL), MistralConfig(**SMALL, sliding_window=12)]


def model_of(config, **lora):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(copy.deepcopy(config)).float()
    model = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj", "down_proj"], **lora))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.normal_(std=0.3)
    return model


def rows(count=7, seed=1):
    generator = torch.Generator().manual_seed(seed)
    made = []
    for index in range(count):
        ids = torch.randint(3, 97, (6 + 7 * index,), generator=generator).tolist()
        made.append(Encoded(ids, [token if place > index else IGNORED for place, token in enumerate(ids)]))
    return made


def trained(model):
    return [each for each in model.parameters() if each.requires_grad]


def taken_gradients(model):
    found = [each.grad.clone() for each in trained(model)]
    model.zero_grad()
    return found


def plainly(model, examples, total):
    """transformers' own loss, one row at a time, and its gradients."""
    losses = [
        model(input_ids=torch.tensor([row.input_ids]), labels=torch.tensor([row.labels])).loss * row.learned / total
        for row in examples
    ]
    sum(losses).backward()
    return sum(losses).item(), taken_gradients(model)


@pytest.mark.parametrize("config", MODELS, ids=lambda config: config.model_type)
@pytest.mark.parametrize("cores", [2, 3])
def test_the_parts_have_the_loss_and_gradients_of_the_whole(config, cores):
    model, examples = model_of(config), rows()
    total = sum(row.learned for row in examples)
    expected, gradients = plainly(model, examples, total)
    make = collate_for([model], 0)
    parts = [make(part) for part in share_out(examples, cores)]
    assert len(parts) == cores and all("layout" in part for part in parts)
    side_by_side = SideBySide(cores)
    found = []
    for _ in range(3):  # the gradients of several micro-batches add up
        loss = side_by_side.add_gradients(trained(model), parts, lambda part: learned_loss(model, part, total))
        found.append(loss.item())
    assert found == pytest.approx([expected] * 3, abs=1e-5)
    assert not loss.requires_grad
    for ours, theirs in zip(taken_gradients(model), gradients, strict=True):
        torch.testing.assert_close(ours, 3 * theirs, atol=1e-5, rtol=1e-3)


def test_they_are_the_same_to_the_last_bit_at_every_run():
    model, examples = model_of(MODELS[0]), rows(12)
    make = collate_for([model], 0)
    parts = [make(part) for part in share_out(examples, 2)]

    def once(side_by_side):
        loss = side_by_side.add_gradients(trained(model), parts, lambda part: learned_loss(model, part, 100))
        return [loss, *taken_gradients(model)]

    kept = SideBySide(2)
    first = once(kept)
    for side_by_side in [kept] * 10 + [SideBySide(2) for _ in range(5)]:
        assert all(torch.equal(a, b) for a, b in zip(once(side_by_side), first, strict=True))


def test_a_part_computes_as_its_caller_does():
    """In the caller's autocast, on one core; the caller keeps all of its own."""
    own, side_by_side = torch.get_num_threads(), SideBySide(2)
    weight = torch.nn.Parameter(torch.ones(4, 4))
    seen = []

    def loss_of(part):
        product = part @ weight
        seen.append((product.dtype, torch.get_num_threads()))
        return product.float().sum()

    with torch.autocast("cpu", torch.bfloat16):
        side_by_side.add_gradients([weight], [torch.ones(2, 4)] * 2, loss_of)
    assert seen == [(torch.bfloat16, 1)] * 2 and torch.get_num_threads() == own
    side_by_side.add_gradients([weight], [torch.ones(2, 4)] * 2, loss_of)
    assert seen[2:] == [(torch.float32, 1)] * 2
    assert torch.equal(weight.grad, torch.full((4, 4), 8.0))


def test_an_error_in_a_part_is_raised_after_the_others_have_ended():
    side_by_side, ended = SideBySide(2), []
    weight = torch.nn.Parameter(torch.ones(2))

    def loss_of(part):
        if part == "broken":
            raise MemoryError("too large")
        ended.append(part)
        return weight.sum()

    with pytest.raises(MemoryError, match="too large"):
        side_by_side.add_gradients([weight], ["broken", "whole"], loss_of)
    assert ended == ["whole"] and weight.grad is None


@given(st.lists(st.integers(1, 300), min_size=1, max_size=40), st.integers(1, 8))
def test_every_example_is_in_one_part_and_no_part_is_much_longer(lengths, parts):
    examples = [Encoded([7] * length, [7] * length) for length in lengths]
    made = share_out(examples, parts)
    assert len(made) == min(parts, len(examples)) and all(made)
    assert Counter(id(each) for part in made for each in part) == Counter(map(id, examples))
    totals = [sum(len(each.input_ids) for each in part) for part in made]
    assert max(totals) - min(totals) <= max(lengths)


@pytest.mark.parametrize(
    ("config", "lora", "fits"),
    [
        (LlamaConfig(**SMALL), {}, True),
        (LlamaConfig(**SMALL), {"modules_to_save": ["up_proj", "embed_tokens"]}, False),  # much is trained
        (LlamaConfig(**SMALL, rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}), {}, False),
    ],
    ids=["plain", "whole layers", "rope that remembers"],
)
def test_what_can_be_computed_so(config, lora, fits):
    assert fits_side_by_side(model_of(config, **lora)) is fits


@pytest.mark.parametrize(
    ("changes", "are_cut"),
    [
        ({}, True),
        ({"stage": "pt", "dataset": "texts.txt"}, True),
        ({"lora_dropout": 0.1}, False),
        ({"neftune_noise_alpha": 5}, False),
        ({"disable_gradient_checkpointing": False}, False),
        ({"use_dft_loss": True}, False),
        ({"flash_attn": "disabled"}, False),
        ({"finetuning_type": "full"}, False),
        ({"per_device_train_batch_size": 1}, False),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, dict) else "",
)
def test_a_trainer_cuts_its_micro_batches_where_that_changes_nothing(workplace, tiny_model, tmp_path, changes, are_cut):
    values = {"model_name_or_path": str(tiny_model), "dataset": "identity", "lora_rank": 2,
              "disable_gradient_checkpointing": True, "per_device_train_batch_size": 4, **changes}  # fmt: skip
    Path("texts.txt").write_text("The river runs on.\n\n" * 2000, encoding="utf-8")
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        trainer = ready(TrainJob.from_values(values), Recorder(Folder(tmp_path))).trainer
        examples = [[trainer.train_dataset[index] for index in range(4 if are_cut else 1)]]
        (batch,), _ = trainer.get_batch_samples(iter(examples), 1, torch.device("cpu"))
        assert (PARTS in batch) is are_cut
        if not are_cut and values["per_device_train_batch_size"] > 1:
            assert trainer._side_by_side is None
    finally:
        torch.set_num_threads(before)
