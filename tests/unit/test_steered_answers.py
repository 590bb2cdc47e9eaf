"""Penalties, biases and log-probabilities inside the loop that generates, on a model of a few numbers."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest

from engine.options.jobs import ApiJob
from engine.work.steering import Steering

torch = pytest.importorskip("torch")


class Table(torch.nn.Module):
    """The logits of a token are a row of a fixed table, chosen by the token before it."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.table = torch.nn.Parameter(torch.randn(size, size, generator=torch.Generator().manual_seed(0)))

    def forward(self, input_ids, past_key_values=None, use_cache=True):
        return SimpleNamespace(logits=self.table[input_ids])


def by_hand(rows, prompt, count, presence, frequency, bias):
    """Greedily, with OpenAI's formula in plain Python: tokens, and the log-probability of each before steering."""
    ids, logps = [], []
    for _ in range(count):
        row = rows[(prompt + ids)[-1]]
        steered = [
            value + bias.get(token, 0) - frequency * ids.count(token) - presence * (token in ids)
            for token, value in enumerate(row)
        ]
        ids.append(steered.index(max(steered)))
        logps.append(row[ids[-1]] - math.log(sum(map(math.exp, row))))
    return ids, logps


@pytest.mark.parametrize(
    ("presence", "frequency", "bias"),
    [(0, 0, {}), (1.5, 0, {}), (0, 0.4, {}), (-2, 0, {}), (0.3, 0.2, {7: 1.0, 2: -100})],
)
def test_the_loop_is_steered_as_openai_defines_it(presence, frequency, bias):
    from engine.work.generate import generate

    model, prompt = Table(12), [3, 3, 5]
    steering = Steering(presence, frequency, bias, looks=True)
    ids, logps = [], []
    for token in generate(model, prompt, ApiJob(do_sample=False), frozenset(), steering=steering):
        ids.append(token)
        logps.append(steering.logp(token))
        if len(ids) == 20:
            break
    expected_ids, expected_logps = by_hand(model.table.tolist(), prompt, 20, presence, frequency, bias)
    assert ids == expected_ids
    assert logps == pytest.approx(expected_logps, abs=1e-5)
    assert torch.equal(model.table, Table(12).table)  # the model's own numbers are not touched


def test_no_seed_of_an_answer_is_the_one_by_which_llama_cpp_means_any():
    from engine.work.llama import LlamaModel

    told = []
    llama = SimpleNamespace(
        set_seed=told.append,
        reset=lambda: None,
        generate=lambda *prompt, **options: iter(()),
        _model=SimpleNamespace(vocab=0),
    )
    model = LlamaModel.__new__(LlamaModel)
    model._llama, model._llama_cpp = llama, SimpleNamespace(LLAMA_DEFAULT_SEED=0xFFFFFFFF)
    for seed in (None, 0, 7, 2**32 - 1, 2**63 - 1):
        list(model.tokens([1], ApiJob(sampling_seed=seed)))
    assert told[0] == 0xFFFFFFFF and told[1:3] == [0, 7]
    assert all(0 <= seed < 0xFFFFFFFF for seed in told[1:])
