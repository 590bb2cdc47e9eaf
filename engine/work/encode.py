"""Plans of what is learned → input_ids and labels, cut to a length.

A conversation is rendered whole and tokenized once; what is learned is decided on the text (``engine.catalog.learned``)
and carried over to the tokens by their character offsets. So the ids are exactly those of ``apply_chat_template``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from engine.catalog.conversations import Example
from engine.catalog.learned import AnyExample, Job, Plan, dropped_thoughts, plans
from engine.catalog.lengths import kept_turns
from engine.catalog.rendering import renderer_of

IGNORED = -100
"""Label of a position that is not learned; the value PyTorch's cross-entropy ignores."""


@dataclass(frozen=True)
class Encoded:
    """One row as the model sees it. ``input_ids`` and ``labels`` have the same length T.

    Args:
        turns: (tokens of the prompt, tokens of the answer) of each turn, before anything was cut.
        cut: tokens lost to ``cutoff_len``.
        cut_learned: how many of those would have been learned.
        cut_answers: answers that lost tokens, and with them their end.
        thoughts_dropped: thoughts of the row that its chat template leaves out.
        parts: tokens of each row, where several rows are joined (``engine.work.packing``).
    """

    input_ids: list[int]
    labels: list[int]
    turns: tuple[tuple[int, int], ...] = ()
    cut: int = 0
    cut_learned: int = 0
    cut_answers: int = 0
    thoughts_dropped: int = 0
    parts: tuple[int, ...] = ()

    @property
    def learned(self) -> int:
        """Number of positions whose token is predicted and learned (the first can never be)."""
        rest = self.labels[1:]
        return len(rest) - rest.count(IGNORED)


@dataclass(frozen=True)
class EncodedPair:
    """Two answers to one prompt. Of both, only the answer is learned."""

    chosen: Encoded
    rejected: Encoded

    @property
    def input_ids(self) -> list[int]:
        """Of the longer one, which decides how wide a batch is."""
        return max(self.chosen.input_ids, self.rejected.input_ids, key=len)


@dataclass(frozen=True)
class EncodedOpinion:
    """An answer that is to be made more likely, or less."""

    answer: Encoded
    is_desirable: bool

    @property
    def input_ids(self) -> list[int]:
        return self.answer.input_ids


AnyEncoded = Encoded | EncodedPair | EncodedOpinion


def sequences_of(row: AnyEncoded) -> tuple[Encoded, ...]:
    """What the model reads of one row: one sequence, or two for a pair (chosen, rejected)."""
    if isinstance(row, EncodedPair):
        return row.chosen, row.rejected
    return (row.answer,) if isinstance(row, EncodedOpinion) else (row,)


class TurnIds(NamedTuple):
    """The tokens of one turn."""

    prompt: list[int]
    answer: list[int]


class Encoder:
    """Encodes the rows of one job with one tokenizer."""

    def __init__(self, job: Job, tokenizer: Any) -> None:
        self._job, self._tokenizer = job, tokenizer
        self._renderer = renderer_of(tokenizer, job)

    def encode(self, examples: Sequence[AnyExample]) -> list[list[Encoded]]:
        """Several rows at once, which a tokenizer does faster: for each one ``Encoded``, or two for a preference.

        Raises:
            UserError: the chat template is missing, or refuses a conversation.
        """
        found = [plans(self._job, self._renderer, example) for example in examples]
        tokenized = iter(self._tokenized([plan for each in found for plan in each]))
        return [
            [
                replace(encoded, thoughts_dropped=self._thoughts_dropped(plan, example))
                for plan, encoded in zip(each, self._cut([(plan, next(tokenized)) for plan in each]), strict=True)
            ]
            for example, each in zip(examples, found, strict=True)
        ]

    def _thoughts_dropped(self, plan: Plan, example: AnyExample) -> int:
        """Of the conversation that is learned from; none where it was asked for that they go."""
        if self._job.enable_thinking is False or not isinstance(example, Example):
            return 0
        has_thought = any("</think>" in (message.get("content") or "") for message in example.messages)
        return dropped_thoughts(plan, example.messages) if has_thought else 0

    def _tokenized(self, all_plans: list[Plan]) -> list[list[TurnIds]]:
        """The tokens of each turn. A token belongs to the piece of text in which it lies."""
        turns: list[list[TurnIds]] = []
        for is_whole in (True, False):  # only a text of no turns begins as the tokenizer begins texts
            chosen = [plan for plan in all_plans if plan.is_whole == is_whole]
            if len(chosen) not in (0, len(all_plans)):
                raise ValueError("texts and conversations are encoded apart")
            if chosen:
                texts = ["".join(turn.prompt + turn.answer for turn in plan.turns) for plan in chosen]
                tokens = self._tokenizer(texts, add_special_tokens=is_whole, return_offsets_mapping=True)
                encoded = zip(chosen, tokens["input_ids"], tokens["offset_mapping"], strict=True)
                turns += [_split(self._tokenizer, *each) for each in encoded]
        return turns

    def _cut(self, encoded: list[tuple[Plan, list[TurnIds]]]) -> list[Encoded]:
        """Labels of one row, cut. Where it has two answers, the longer one decides how their prompt is cut."""
        longest = max(len(turns[-1].answer) for _, turns in encoded)
        return [
            assemble(
                turns,
                self._job.cutoff_len,
                end_id=None if plan.marks_end or plan.is_whole else self._tokenizer.eos_token_id,
                learns_prompts=plan.learns_prompts,
                learns_history=plan.learns_history,
                last_answer=longest if len(encoded) > 1 else None,
            )
            for plan, turns in encoded
        ]


def encode_example(job: Job, tokenizer: Any, example: AnyExample) -> list[Encoded]:
    """One row, exactly as it is trained on: one ``Encoded``, or two for a preference (chosen, rejected)."""
    return Encoder(job, tokenizer).encode([example])[0]


def assemble(
    turns: Sequence[TurnIds],
    cutoff_len: int,
    *,
    end_id: int | None = None,
    learns_prompts: bool = False,
    learns_history: bool = True,
    last_answer: int | None = None,
) -> Encoded:
    """Ids and labels of a conversation's turns within ``cutoff_len`` tokens.

    What is too long is cut turn by turn, prompt and answer each by its share (``turn_budget``), so that a long prompt
    does not push the whole answer out. Where only the last answer is learned, the last turns are kept first.

    Args:
        end_id: learned as the end of every answer whose template puts nothing there: appended to the last one; before
            that, as the label of the token that follows, since the next turn's own token stands in its place (where
            prompts are learned, that token keeps its own label).
        last_answer: length by which the last turn's budget is split, where it is not this answer's own.
    """
    if end_id is not None and turns and turns[-1].answer:
        turns = [*turns[:-1], TurnIds(turns[-1].prompt, [*turns[-1].answer, end_id])]
    ids: list[int] = []
    labels: list[int] = []
    learned = cut_answers = 0
    awaits_end = False
    lengths = tuple((len(turn.prompt), len(turn.answer)) for turn in turns)
    all_kept = kept_turns(lengths, cutoff_len, learns_history, last_answer)
    for index, (turn, kept) in enumerate(zip(turns, all_kept, strict=True)):
        is_learned = learns_history or index == len(turns) - 1
        is_cut = kept[1] < len(turn.answer)
        prompt, answer = turn.prompt[: kept[0]], turn.answer[: kept[1]]
        ids += prompt + answer
        labels += prompt if learns_prompts else [IGNORED] * len(prompt)
        if awaits_end and prompt and not learns_prompts:
            labels[-len(prompt)] = end_id
        labels += answer if is_learned else [IGNORED] * len(answer)
        learned += len(turn.prompt) * learns_prompts + len(turn.answer) * is_learned
        cut_answers += is_learned and is_cut
        cut_answers += awaits_end and not prompt  # the place of its end is cut off
        awaits_end = end_id is not None and is_learned and not is_cut and bool(answer)
    own = sum(label == token for label, token in zip(labels, ids, strict=True))
    return Encoded(ids, labels, lengths, sum(map(sum, lengths)) - len(ids), learned - own, cut_answers)


def _split(tokenizer: Any, plan: Plan, ids: Sequence[int], offsets: Sequence[tuple[int, int]]) -> list[TurnIds]:
    """The tokens of each turn's prompt and answer."""
    pieces = [text for turn in plan.turns for text in turn]
    found: list[list[int]] = [[] for _ in pieces]
    index, begin, end = 0, 0, len(pieces[0])
    for token, (start, stop) in zip(ids, offsets, strict=True):
        while start >= end and index + 1 < len(pieces):
            index += 1
            begin, end = end, end + len(pieces[index])
        if stop <= end:
            found[index].append(token)
            continue
        following = next((at for at in range(index + 1, len(pieces)) if pieces[at]), index)
        reaches = stop - end if following > index else 0
        left, right = pieces[index][start - begin :], pieces[following][: max(0, reaches)]
        if reaches > 0 and (halves := _halves(tokenizer, left, right)):
            found[index] += halves[0]
            found[following] += halves[1]
        else:
            found[index].append(token)
    return [TurnIds(*found[at : at + 2]) for at in range(0, len(found), 2)]


def _halves(tokenizer: Any, left: str, right: str) -> tuple[list[int], list[int]] | None:
    """Tokens of two texts for the one token that reached from a prompt into its answer: who answers never has it.

    None where this tokenizer puts something of its own before a text, so that the halves would not be the whole.
    """
    first, second = tokenizer([left, right], add_special_tokens=False)["input_ids"]
    return (first, second) if tokenizer.decode(first + second) == left + right else None
