"""Messages → input_ids and labels: the only place that decides what is learned.

A conversation is rendered by the tokenizer's chat template, whole, and tokenized once; what is learned is decided on
the rendered text, as segments, and carried over to the tokens by their character offsets. So the ids are exactly those
of ``apply_chat_template``, and the page can show the very segments that are trained on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from jinja2 import TemplateError

from engine.errors import UserError

IGNORED = -100
"""Label of a position that is not learned; the value PyTorch's cross-entropy ignores."""

Message = dict[str, Any]


class Segment(NamedTuple):
    """A piece of the rendered conversation; all of it is learned, or none."""

    text: str
    learned: bool


@dataclass(frozen=True)
class Encoded:
    """One row as the model sees it. ``input_ids`` and ``labels`` have the same length T.

    Args:
        cut: tokens lost to ``cutoff_len``.
        cut_learned: how many of those would have been learned.
    """

    input_ids: list[int]
    labels: list[int]
    cut: int = 0
    cut_learned: int = 0

    @property
    def learned(self) -> int:
        """Number of positions whose token is predicted and learned (the first can never be)."""
        return sum(label != IGNORED for label in self.labels[1:])


def render(tokenizer: Any, messages: Sequence[Message], add_generation_prompt: bool = False, **extra: Any) -> str:
    """The text of a conversation, by the tokenizer's chat template.

    Args:
        extra: what the template may ask for beside the messages, e.g. ``tools`` or ``enable_thinking``.

    Raises:
        UserError: the tokenizer has no template, or the template refuses this conversation.
    """
    if not tokenizer.chat_template:
        raise UserError("template_missing", model=tokenizer.name_or_path)
    given = {name: value for name, value in extra.items() if value is not None}
    try:
        return tokenizer.apply_chat_template(
            list(messages), tokenize=False, add_generation_prompt=add_generation_prompt, **given
        )
    except (TemplateError, TypeError, ValueError, KeyError) as error:
        raise UserError("template_refused", detail=error) from error


def segments(
    tokenizer: Any,
    messages: Sequence[Message],
    *,
    train_on_prompt: bool = False,
    mask_history: bool = False,
    **extra: Any,
) -> list[Segment]:
    """Split a conversation into what is learned and what is not; joined, the segments are the rendered text.

    Learned are the assistant's turns with the mark that ends them: from where the prompt of a turn ends (as the model
    will be given it when it has to answer) to the end of that turn.

    Args:
        train_on_prompt: learn everything.
        mask_history: learn the last assistant turn only.

    Raises:
        UserError: the template rewrites earlier turns, so that no prompt of it is the beginning of the whole.
    """
    whole = render(tokenizer, messages, **extra)
    if train_on_prompt:
        return [Segment(whole, True)]
    turns = [index for index, message in enumerate(messages) if message["role"] == "assistant"]
    if mask_history:
        turns = turns[-1:]
    found: list[Segment] = []
    at = 0
    for index in turns:
        start = len(_prefix(whole, render(tokenizer, messages[:index], add_generation_prompt=True, **extra)))
        is_last = index == len(messages) - 1
        end = len(whole) if is_last else len(_prefix(whole, render(tokenizer, messages[: index + 1], **extra)))
        if start > at:
            found.append(Segment(whole[at:start], False))
        if end > start:
            found.append(Segment(whole[start:end], True))
        at = max(at, end)
    if at < len(whole):
        found.append(Segment(whole[at:], False))
    return found


def encode(tokenizer: Any, parts: Sequence[Segment], cutoff_len: int) -> Encoded:
    """Token ids and labels of one conversation's segments, cut to ``cutoff_len`` tokens.

    A token belongs to the segment in which its first character lies. What is too long is cut turn by turn, prompt and
    answer each by its share (``turn_budget``), so that a long prompt does not push the whole answer out.
    """
    text = "".join(part.text for part in parts)
    tokens = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ids, offsets = tokens["input_ids"], tokens["offset_mapping"]
    learned = _flags(parts, offsets)
    labels = [token if flag else IGNORED for token, flag in zip(ids, learned, strict=True)]
    if len(ids) <= cutoff_len:
        return Encoded(ids, labels)
    kept: list[int] = []
    budget = cutoff_len
    for start, middle, end in _turns(learned):
        if budget <= 0:
            break
        prompt, answer = turn_budget(middle - start, end - middle, budget)
        kept += [*range(start, start + prompt), *range(middle, middle + answer)]
        budget -= prompt + answer
    cut_labels = [labels[index] for index in kept]
    lost = sum(learned) - sum(label != IGNORED for label in cut_labels)
    return Encoded([ids[index] for index in kept], cut_labels, len(ids) - len(kept), lost)


def turn_budget(prompt: int, answer: int, budget: int) -> tuple[int, int]:
    """How many tokens of a turn's prompt and of its answer are kept within a budget of tokens.

    The rule of LLaMA-Factory's ``infer_seqlen``, so that rows are cut as its users expect: a short answer is kept
    whole, else a short prompt is, else both are cut in proportion.
    """
    if answer * 2 < budget:
        most = budget
    elif prompt * 2 < budget:
        most = budget - prompt
    else:
        most = int(budget * (answer / (prompt + answer)))
    kept_answer = min(most, answer)
    return min(budget - kept_answer, prompt), kept_answer


def _prefix(whole: str, prompt: str) -> str:
    if not whole.startswith(prompt):
        raise UserError("template_rewrites_history")
    return prompt


def _flags(parts: Sequence[Segment], offsets: Sequence[tuple[int, int]]) -> list[bool]:
    """For each token whether the segment of its first character is learned."""
    flags = []
    index, end = 0, len(parts[0].text) if parts else 0
    for start, _ in offsets:
        while start >= end and index + 1 < len(parts):
            index += 1
            end += len(parts[index].text)
        flags.append(parts[index].learned)
    return flags


def _turns(learned: Sequence[bool]) -> list[tuple[int, int, int]]:
    """Turns as (start of the prompt, start of the answer, end) in token positions."""
    turns, at, size = [], 0, len(learned)
    while at < size:
        middle = at
        while middle < size and not learned[middle]:
            middle += 1
        end = middle
        while end < size and learned[end]:
            end += 1
        turns.append((at, middle, end))
        at = end
    return turns
