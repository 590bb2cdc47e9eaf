"""Joined rows: the same loss and gradients as apart, masks as the reference's, nothing lost."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM
from transformers.masking_utils import create_causal_mask

from engine.options.jobs import TrainJob
from engine.runs.folder import Folder
from engine.runs.record import Recorder
from engine.work.batching import collate
from engine.work.dataset import prepare
from engine.work.encode import IGNORED, Encoded
from engine.work.loss import learned_loss
from engine.work.packing import Packed, join, positions, sequences

FACTS = {
    fact["n"]: fact
    for fact in map(json.loads, Path(__file__).with_name("facts.jsonl").read_text("utf-8").splitlines())
}  # fmt: skip


def row(prompt: list[int], answer: list[int]) -> Encoded:
    return Encoded(prompt + answer, [IGNORED] * len(prompt) + answer)


@pytest.fixture(scope="module", params=["sdpa", "eager"])
def model(request):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, attn_implementation=request.param,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def test_sequences_as_the_reference_makes_them():
    fact = FACTS[50]
    rows = [row([1, 2], [3]), row([4], [5]), row([6, 7, 8], [9])]
    packed = Packed(rows, [len(each.input_ids) for each in rows], 7)  # the reference leaves one of 8 unused
    for sequence, ids, labels, places in zip(packed, fact["ids"], fact["labels"], fact["position_ids"], strict=True):
        size = len(sequence.input_ids)
        assert sequence.input_ids == ids[:size]
        assert sequence.labels == labels[:size]
        assert positions(sequence.parts, size) == places[:size]


def test_a_token_looks_at_its_own_row_only(model):
    """Rows of the fact: o = may look. Its last token is padding, which here is a row of its own."""
    expected = [[mark == "o" for mark in line] for line in FACTS[51]["rows"]]
    places = torch.tensor([positions((2, 3), 6)])
    mask = create_causal_mask(
        config=model.config, inputs_embeds=torch.zeros(1, 6, 32), attention_mask=None, past_key_values=None,
        position_ids=places,
    )  # fmt: skip
    allowed = mask[0, 0] if mask.dtype == torch.bool else mask[0, 0] == 0
    assert allowed[:5].tolist() == expected[:5]
    assert not allowed[:5, 5].any()


def test_rows_keep_their_bounds_where_several_sequences_are_joined():
    fact = FACTS[52]
    found = [length for parts in ((2, 3), (1, 2, 3)) for length in parts]
    assert found == fact["seqlens"] and max(found) == fact["max"]
    padded = [positions((2, 3), 6), positions((1, 2, 3), 6)]
    starts = [index for places in padded for index, place in enumerate(places) if place == 0]
    assert starts == [0, 2, 5, 0, 1, 3]  # the third is padding


def test_joined_rows_have_the_loss_and_gradients_of_rows_apart(model):
    torch.manual_seed(1)
    rows = [
        row(torch.randint(3, 64, (n,)).tolist(), torch.randint(3, 64, (m,)).tolist())
        for n, m in ((3, 4), (5, 2), (1, 6), (2, 2))
    ]
    gradients = []
    for examples in (rows, [join(rows[:2]), join(rows[2:])], [join(rows)], [join(rows[:3]), rows[3]]):
        model.zero_grad()
        loss = learned_loss(model, collate(examples, pad_token_id=0), sum(each.learned for each in rows))
        loss.backward()
        gradients.append((loss.item(), [each.grad.clone() for each in model.parameters()]))
    for loss, grads in gradients[1:]:
        assert loss == pytest.approx(gradients[0][0], abs=1e-6)
        for grad, expected in zip(grads, gradients[0][1], strict=True):
            torch.testing.assert_close(grad, expected, atol=1e-6, rtol=1e-5)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(1, 50), max_size=60), st.integers(50, 120))
def test_every_row_is_in_one_sequence_and_none_is_too_long(lengths, capacity):
    found = list(sequences(lengths, capacity))
    assert sorted(index for chosen in found for index in chosen) == list(range(len(lengths)))
    assert all(sum(lengths[index] for index in chosen) <= capacity for chosen in found)
    # No two sequences could be one.
    sizes = sorted(sum(lengths[index] for index in chosen) for chosen in found)
    assert len(sizes) < 2 or sizes[0] + sizes[1] > capacity


def test_a_run_learns_from_joined_rows(tmp_path, bundled_model):
    """Every row of a dataset is in one of the sequences that training draws, which are as long as they may be."""
    folder = tmp_path / "run"
    folder.mkdir()
    rows = [{"instruction": f"Question {n}", "output": f"Answer {n} " * (1 + n % 9)} for n in range(40)]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    given = {"dataset": str(tmp_path / "rows.json"), "model_name_or_path": str(bundled_model), "cutoff_len": 128}
    tokenizer = AutoTokenizer.from_pretrained(bundled_model)
    apart = prepare(TrainJob.from_values(given), tokenizer, Recorder(Folder(folder))).train
    joined = prepare(TrainJob.from_values({**given, "packing": True}), tokenizer, Recorder(Folder(folder))).train
    assert len(joined) < len(apart) / 2
    found = []
    for sequence in joined:
        assert len(sequence.input_ids) <= 128
        at = 0
        for length in sequence.parts:
            found.append(sequence.input_ids[at : at + length])
            at += length
    assert sorted(found) == sorted(each.input_ids for each in apart)
