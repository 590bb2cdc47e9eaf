"""Our loss and our arrangement of a step against transformers' own loss on plainly padded batches."""

from itertools import chain

import pytest
import torch
from transformers import AutoModelForCausalLM, Gemma2Config, GemmaConfig, LlamaConfig

from engine.work.batching import arrange, collate
from engine.work.encode import IGNORED, Encoded
from engine.work.loss import learned_loss

SMALL = {
    "vocab_size": 97, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 128,
}  # fmt: skip


@pytest.fixture(params=[LlamaConfig(**SMALL), GemmaConfig(**SMALL), Gemma2Config(**SMALL)], ids=lambda c: c.model_type)
def model(request):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(request.param).float().eval()


def examples(count=8):
    generator = torch.Generator().manual_seed(1)
    made = []
    for index in range(count):
        length = int(torch.randint(4, 30, (1,), generator=generator))
        ids = torch.randint(1, 97, (length,), generator=generator).tolist()
        labels = [token if place > length // 3 + index % 2 else IGNORED for place, token in enumerate(ids)]
        made.append(Encoded(ids, labels))
    return made


def gradients(model):
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters() if parameter.grad is not None])


def test_loss_and_gradients_equal_those_of_transformers(model):
    batch = collate(examples(), pad_token_id=0)
    model.zero_grad()
    plain = model(**batch).loss
    plain.backward()
    expected = gradients(model)
    model.zero_grad()
    ours = learned_loss(model, batch)
    ours.backward()
    assert ours.item() == pytest.approx(plain.item(), abs=1e-6)
    assert torch.allclose(gradients(model), expected, atol=1e-6)


@pytest.mark.parametrize("micro_batches", [1, 2, 4, 8])
def test_arrangement_changes_nothing(model, micro_batches):
    step = examples()
    learned = sum(example.learned for example in step)
    model.zero_grad()
    expected = sum(model(**collate([example], 0)).loss * example.learned for example in step) / learned
    expected.backward()
    wanted = gradients(model)
    model.zero_grad()
    losses = [learned_loss(model, collate(batch, 0), learned) for batch in arrange(step, micro_batches)]
    sum(losses).backward()
    assert sum(losses).item() == pytest.approx(expected.item(), abs=1e-6)
    assert torch.allclose(gradients(model), wanted, atol=1e-6)


def test_arrange_keeps_every_example_once():
    step = examples(7)
    batches = arrange(step, 3)
    assert sorted(map(id, chain(*batches))) == sorted(map(id, step))
    assert all(batches)
    lengths = [len(example.input_ids) for batch in batches for example in batch]
    assert lengths == sorted(lengths, reverse=True)
