"""What the tests of the stages share: a tiny model, rows of random tokens, and a trainer that is never started."""

from __future__ import annotations

import copy

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, LlamaConfig, TrainingArguments

from engine.work.batching import arrange
from engine.work.encode import IGNORED, Encoded, EncodedOpinion, EncodedPair

VOCABULARY = 97
SMALL = LlamaConfig(
    vocab_size=VOCABULARY, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, head_dim=8, max_position_embeddings=128, pad_token_id=0,
)  # fmt: skip
ROWS = {"dataset": ("x",), "per_device_train_batch_size": 3}


def small_model(seed: int = 0):
    torch.manual_seed(seed)
    return AutoModelForCausalLM.from_config(copy.deepcopy(SMALL)).float().eval()


def with_lora(model):
    """An adapter that already changes something."""
    torch.manual_seed(2)
    wrapped = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["q_proj", "down_proj"]))
    for name, parameter in wrapped.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    return wrapped.eval()


def pairs(count: int = 8) -> list[EncodedPair]:
    made = []
    generator = torch.Generator().manual_seed(1)
    for _ in range(count):
        prompt, *answers = (_tokens(generator, low, 12) for low in (2, 1, 1))
        made.append(EncodedPair(*(Encoded(prompt + each, [IGNORED] * len(prompt) + each) for each in answers)))
    return made


def opinions(count: int = 8) -> list[EncodedOpinion]:
    return [EncodedOpinion(pair.chosen, index % 3 != 1) for index, pair in enumerate(pairs(count))]


def trainer_of(kind, folder, model, **given):
    arguments = TrainingArguments(str(folder), use_cpu=True, report_to=[], per_device_train_batch_size=3)
    return kind(model=model, args=arguments, pad_token_id=0, **given)


def step(trainer, examples, micro_batches: int):
    """The loss of one step, and the gradient of every trained weight."""
    model = trainer.model
    model.zero_grad()
    totals = trainer.step_totals(examples)
    shares = [trainer.loss_of(model, trainer.to_tensors(batch), totals) for batch in arrange(examples, micro_batches)]
    sum(shares).backward()
    return sum(shares).item(), torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def answer_logps(model, row: Encoded) -> torch.Tensor:
    """Log-probability of each learned token, one row at a time, straight from all logits."""
    ids = torch.tensor([row.input_ids])
    found = torch.log_softmax(model(input_ids=ids).logits[0, :-1].double(), -1)
    places = [at for at, label in enumerate(row.labels) if label != IGNORED]
    return torch.stack([found[at - 1, row.labels[at]] for at in places])


def frozen(model):
    return copy.deepcopy(model).requires_grad_(False)


def _tokens(generator, low: int, high: int) -> list[int]:
    length = int(torch.randint(low, high, (1,), generator=generator))
    return torch.randint(1, VOCABULARY, (length,), generator=generator).tolist()
