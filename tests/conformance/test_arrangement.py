"""Micro-batches without padding, common beginnings computed once, LoRA as one operation, logits in pieces: each
against transformers' and peft's plain way, loss and gradients."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    LlamaConfig,
    MambaConfig,
    MistralConfig,
    Qwen3Config,
)

from engine.work import head
from engine.work.arrangement import collate_for, keeps_sequences_apart
from engine.work.batching import collate
from engine.work.encode import IGNORED, Encoded
from engine.work.lora_linear import speed_up
from engine.work.loss import learned_loss, sequence_logps
from engine.work.packed import SHARED_FROM, flatten

SMALL = {
    "vocab_size": 97, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 256, "pad_token_id": 0, "eos_token_id": 1,
    "bos_token_id": 2,
}  # fmt: skip
PACKED = [
    LlamaConfig(**SMALL), LlamaConfig(**SMALL, tie_word_embeddings=True), Qwen3Config(**SMALL),
    MistralConfig(**SMALL, sliding_window=12), Gemma3TextConfig(**SMALL, sliding_window=12),
]  # fmt: skip
PADDED = [
    Gemma2Config(**SMALL), GPT2Config(vocab_size=97, n_embd=32, n_layer=2, n_head=4, n_positions=256),
    MambaConfig(vocab_size=97, hidden_size=32, num_hidden_layers=2, pad_token_id=0, eos_token_id=1, bos_token_id=2),
]  # fmt: skip


def model_of(config):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(copy.deepcopy(config)).float()
    with torch.no_grad():  # so that a token's surroundings matter
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(4)
    return model.eval()


def sequences(seed=1, count=7, common=SHARED_FROM + 3):
    """Rows that begin alike, some of them for longer, and some that do not; one is the beginning of another."""
    generator = torch.Generator().manual_seed(seed)

    def words(size):
        return torch.randint(3, 97, (size,), generator=generator).tolist()

    begin, longer = words(common), words(SHARED_FROM)
    made = []
    for index in range(count):
        ids = begin * (index != 3) + longer * (index in (1, 4)) + words(4 + 5 * index)
        made.append(Encoded(ids, [token if place % 3 or place > 30 else IGNORED for place, token in enumerate(ids)]))
    return [*made, Encoded(begin + longer, [IGNORED] * 30 + (begin + longer)[30:])]


def gradients(model):
    return {name: each.grad.clone() for name, each in model.named_parameters() if each.grad is not None}


def learned(model, batch, total):
    model.zero_grad()
    loss = learned_loss(model, batch, total)
    loss.backward()
    return loss.item(), gradients(model)


def plainly(model, rows, total):
    """transformers' own loss, one row at a time."""
    model.zero_grad()
    loss = 0
    for row in rows:
        ids, labels = torch.tensor([row.input_ids]), torch.tensor([row.labels])
        loss = loss + model(input_ids=ids, labels=labels).loss * row.learned / total
    loss.backward()
    return loss.item(), gradients(model)


def same(found, expected, tolerance=2e-5):
    assert found[0] == pytest.approx(expected[0], abs=1e-5)
    assert found[1].keys() == expected[1].keys()
    for name, gradient in expected[1].items():
        torch.testing.assert_close(found[1][name], gradient, atol=tolerance, rtol=1e-3, msg=name)


@pytest.mark.parametrize("config", PACKED, ids=lambda config: config.model_type)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_laid_out_rows_have_the_loss_and_gradients_of_rows_alone(config, checkpointing):
    model, rows = model_of(config), sequences()
    total = sum(row.learned for row in rows)
    expected = plainly(model, rows, total)
    batch = collate_for([model], 0)(rows)
    assert "layout" in batch
    assert batch["input_ids"].numel() < batch["tokens"] == sum(len(row.input_ids) for row in rows)
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        model.train()
    same(learned(model, batch, total), expected)
    same(learned(model, flatten(rows, is_shared=False), total), expected)


@pytest.mark.parametrize("config", PADDED, ids=lambda config: config.model_type)
def test_a_model_that_does_not_keep_rows_apart_is_given_padded_ones(config):
    model, rows = model_of(config), sequences()
    total = sum(row.learned for row in rows)
    expected = plainly(model, rows, total)
    batch = collate_for([model], 0)(rows)
    if config.model_type != "gpt2":  # it has absolute positions, and keeps rows apart
        assert "layout" not in batch
    same(learned(model, batch, total), expected, tolerance=1e-4)


def test_a_model_that_leaks_is_found(monkeypatch):
    model = model_of(PACKED[0])
    collate_for([model], 0)
    assert keeps_sequences_apart(model)
    monkeypatch.setattr("engine.work.attention.Layout.ancestors", lambda self, number: [])
    assert not keeps_sequences_apart(model)


def test_common_beginnings_are_not_shared_where_there_is_dropout():
    model = get_peft_model(model_of(PACKED[0]), LoraConfig(r=2, target_modules="all-linear", lora_dropout=0.1))
    rows = sequences()
    assert collate_for([model], 0)(rows)["input_ids"].numel() == sum(len(row.input_ids) for row in rows)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(st.integers(3, 5), min_size=1, max_size=60), min_size=1, max_size=8))
def test_every_sequence_is_a_path(rows):
    batch = flatten([Encoded(ids, ids) for ids in rows])
    layout, ids = batch["layout"], batch["input_ids"][0].tolist()
    found = []
    for number in range(len(layout.blocks)):
        path = [*layout.ancestors(number), number]
        blocks = [layout.blocks[each] for each in path]
        found.append([token for block in blocks for token in ids[block.start : block.start + block.length]])
        at = blocks[-1].start
        assert batch["position_ids"][0, at] == sum(block.length for block in blocks[:-1]) == blocks[-1].before
    assert all(ids in found for ids in rows)
    assert sum(layout.lengths) == len(ids)
    assert sorted(zip(batch["owner"].tolist(), batch["targets"].tolist(), strict=True)) == sorted(
        (owner, token) for owner, ids in enumerate(rows) for token in ids[1:]
    )


@pytest.mark.parametrize("arrange", [flatten, lambda rows: collate(rows, 0)], ids=["laid out", "padded"])
def test_log_probabilities_of_sequences(arrange):
    model, rows = model_of(PACKED[0]), sequences()
    if arrange is flatten:
        collate_for([model], 0)
    weights = torch.linspace(0.3, 1.7, len(rows))
    model.zero_grad()
    expected = []
    for row in rows:
        logps = model(torch.tensor([row.input_ids])).logits[0, :-1].log_softmax(-1)
        expected.append(sum(logps[at, token] for at, token in enumerate(row.labels[1:]) if token != IGNORED))
    (torch.stack(expected) * weights).sum().backward()
    wanted = gradients(model)
    model.zero_grad()
    sums, tokens = sequence_logps(model, arrange(rows), len(rows))
    (sums * weights).sum().backward()
    torch.testing.assert_close(sums, torch.stack(expected), atol=1e-3, rtol=1e-5)
    assert tokens.tolist() == [row.learned for row in rows]
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, wanted[name], atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("piece_bytes", [1, 97 * 4 * 40, 10**9])
@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("count", [0, 1, 100])
def test_logits_in_pieces_are_those_of_the_whole(monkeypatch, piece_bytes, has_bias, count):
    monkeypatch.setattr(head, "PIECE_BYTES", piece_bytes)
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(count, 16, generator=generator, requires_grad=True)
    weight = torch.randn(97, 16, generator=generator, requires_grad=True)
    bias = torch.randn(97, generator=generator, requires_grad=True) if has_bias else None
    targets = torch.randint(97, (count,), generator=generator)
    inputs = [each for each in (hidden, weight, bias) if each is not None]
    logps = torch.nn.functional.linear(hidden, weight, bias).log_softmax(-1)
    logps = logps.gather(1, targets.unsqueeze(1)).squeeze(1)
    factors = torch.randn(count, generator=generator)
    for ours, plain in (
        (head.summed_nll(hidden, weight, bias, targets) * 1.7, -logps.sum() * 1.7),
        ((head.token_logps(hidden, weight, bias, targets) * factors).sum(), (logps * factors).sum()),
    ):
        assert ours.item() == pytest.approx(plain.item(), rel=1e-5, abs=1e-5)
        found, expected = torch.autograd.grad(ours, inputs), torch.autograd.grad(plain, inputs, retain_graph=True)
        for each, wanted in zip(found, expected, strict=True):
            torch.testing.assert_close(each, wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_lora_as_one_operation_is_that_of_peft(rslora, dtype):
    rows = sequences()
    total = sum(row.learned for row in rows)
    model = model_of(LlamaConfig(**SMALL, attention_bias=True))
    model = get_peft_model(model, LoraConfig(r=4, lora_alpha=16, target_modules="all-linear", use_rslora=rslora))
    torch.manual_seed(3)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    batch = collate_for([model], 0)(rows)
    with torch.autocast("cpu", dtype, enabled=dtype is not None):
        expected = learned(model, batch, total)
        assert speed_up(model) == 14
        found = learned(model, batch, total)
    if dtype is None:
        same(found, expected)
    else:
        assert found[0] == pytest.approx(expected[0], rel=0.01)
        for name, gradient in expected[1].items():
            assert torch.nn.functional.cosine_similarity(found[1][name].flatten(), gradient.flatten(), 0) > 0.99
    with model.disable_adapter():
        plain = learned_loss(model, batch, total).item()
    bare = model.unload()
    assert plain == pytest.approx(learned_loss(bare, batch, total).item(), abs=1e-5)


@pytest.mark.parametrize("unusual", [{"use_dora": True}, {"lora_dropout": 0.1}, {"lora_bias": True}], ids=str)
def test_unusual_lora_layers_are_left_to_peft(unusual):
    model = get_peft_model(model_of(LlamaConfig(**SMALL)), LoraConfig(r=4, target_modules=["q_proj"], **unusual))
    assert speed_up(model) == 0


def test_a_model_that_refuses_is_padded_and_the_log_says_why(monkeypatch, caplog):
    def refuses(*_):
        raise ValueError("no rows laid out here")

    model = model_of(PACKED[0])
    monkeypatch.setattr("engine.work.arrangement.sequence_logps", refuses)
    with caplog.at_level("INFO"):
        assert not keeps_sequences_apart(model)
    assert "no rows laid out here" in caplog.text


def test_memory_that_runs_out_while_a_model_is_asked_is_no_answer(monkeypatch):
    def runs_out(*_):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.")

    monkeypatch.setattr("engine.work.arrangement.sequence_logps", runs_out)
    with pytest.raises(RuntimeError, match="can't allocate"):
        keeps_sequences_apart(model_of(PACKED[0]))
