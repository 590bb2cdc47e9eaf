"""Answers to many prompts at once, and the likeliest of a few letters: prompts are padded on the left."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedTokenizerBase, StoppingCriteria, StoppingCriteriaList

from engine.options.generation import Generation
from engine.work.generate import takes


def answer_all(
    model: Any, prompts: Sequence[list[int]], tokenizer: PreTrainedTokenizerBase, sampling: Generation,
    end_ids: frozenset[int], room: int, seed: int, is_stopped: Callable[[], bool] = lambda: False,
) -> list[list[int]]:  # fmt: skip
    """Tokens of the answer to each prompt, without the token that ends it.

    Args:
        room: tokens that the model reads at most, prompt and answer together.
        seed: where answers are sampled, the same seed and the same prompts give the same answers.
        is_stopped: asked after every token; then what was written so far is given back.

    Returns:
        As many lists as prompts. Checked against ``model.generate`` of one prompt at a time in
        tests/conformance/test_evaluate.py.
    """
    device = next(model.parameters()).device
    limits = [min(sampling.max_new_tokens, room - len(prompt)) for prompt in prompts]
    if len(set(limits)) > 1:  # apart, for who is written on past its room may have no more positions, as in GPT-2
        given = (tokenizer, sampling, end_ids, room, seed, is_stopped)
        found = {}
        for limit in sorted(set(limits)):
            alike = [at for at, each in enumerate(limits) if each == limit]
            found |= zip(alike, answer_all(model, [prompts[at] for at in alike], *given), strict=True)
        return [found[at] for at in range(len(prompts))]
    ids, mask = left_padded(prompts, tokenizer.pad_token_id)
    is_sampled = sampling.do_sample and sampling.temperature > 0
    drawn = {"temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": sampling.top_k}
    config = GenerationConfig(
        do_sample=is_sampled, max_new_tokens=limits[0], repetition_penalty=sampling.repetition_penalty,
        eos_token_id=sorted(end_ids), pad_token_id=tokenizer.pad_token_id, use_cache=True,
        **(drawn if is_sampled else {}),
    )  # fmt: skip
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    inner.generation_config = config  # else what the model's own says would fill what is not said here
    torch.manual_seed(seed)
    with torch.no_grad():
        written = model.generate(
            input_ids=ids.to(device), attention_mask=mask.to(device), generation_config=config,
            stopping_criteria=StoppingCriteriaList([_Stopped(is_stopped)]),
        )  # fmt: skip
    answers = written[:, ids.shape[1] :].tolist()
    return [_until_end(answer, end_ids) for answer in answers]


def letter_logps(
    model: Any, prompts: Sequence[list[int]], tokenizer: PreTrainedTokenizerBase, letters: Sequence[int]
) -> torch.Tensor:
    """How likely each of some tokens is as the next one, among themselves: natural logarithms (B, letters), float32."""
    device = next(model.parameters()).device
    ids, mask = left_padded(prompts, tokenizer.pad_token_id)
    places = (mask.cumsum(dim=1) - 1).clamp(min=0)
    given = {"input_ids": ids, "attention_mask": mask, "position_ids": places}
    keep = {"logits_to_keep": 1} if takes(model, "logits_to_keep") else {}
    with torch.no_grad():
        output = model(**{name: each.to(device) for name, each in given.items()}, use_cache=False, **keep)
    return output.logits[:, -1, list(letters)].float().log_softmax(dim=-1).cpu()


def left_padded(prompts: Sequence[list[int]], pad_token_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """input_ids and attention_mask (B, T): every prompt ends in the last column, where its answer begins."""
    longest = max(map(len, prompts))
    ids = torch.full((len(prompts), longest), pad_token_id, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt) :] = torch.tensor(prompt)
        mask[row, longest - len(prompt) :] = 1
    return ids, mask


def _until_end(answer: list[int], end_ids: frozenset[int]) -> list[int]:
    return answer[: next((at for at, token in enumerate(answer) if token in end_ids), len(answer))]


class _Stopped(StoppingCriteria):
    """Ends all answers of a batch once somebody has asked for it."""

    def __init__(self, is_stopped: Callable[[], bool]) -> None:
        self._is_stopped = is_stopped

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        return torch.full((len(input_ids),), self._is_stopped(), dtype=torch.bool, device=input_ids.device)
