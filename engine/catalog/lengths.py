"""Lengths in tokens: what a cutoff would take away, and what a batch wastes; knows neither texts nor tokenizers."""

from __future__ import annotations

import json
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

Turns = Sequence[tuple[int, int]]
"""Tokens of the prompt and of the answer, for each turn of a sequence, before anything is cut."""

GROUPED = 2**17
"""So many different rows are looked for again; those after them are kept one by one, which is exact as well."""

PLAIN, ONE_TURN = 1, 4
"""Of the flat numbers of a row: what stands first where answers are learned and prompts are not, and the size of one
turn: that flag, the number of turns, prompt, answer."""


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


def kept_turns(
    turns: Turns, budget: int, learns_history: bool = True, last_answer: int | None = None
) -> list[tuple[int, int]]:
    """How much of each turn's prompt and answer is kept of a sequence; nothing of a turn for which no room is left.

    Args:
        learns_history: False: only the last answer is learned, so the last turns are kept first.
        last_answer: length by which the last turn's budget is split, where it is not this answer's own: of two answers
            to one prompt the longer one decides for both.
    """
    kept = [(0, 0)] * len(turns)
    last = len(turns) - 1
    for index in range(len(turns)) if learns_history else range(last, -1, -1):
        prompt, answer = turns[index]
        measure = last_answer if last_answer and index == last else answer
        prompt, most = turn_budget(prompt, measure, budget)
        kept[index] = prompt, min(answer, most)
        budget -= prompt + most
        if budget <= 0:
            break
    return kept


@dataclass(frozen=True)
class Losses:
    """What a cutoff takes away.

    Args:
        rows: rows that lose tokens.
        tokens: tokens lost, learned and not.
        answer_tokens: how many of those would have been learned.
        rows_with_cut_answer: rows that lose some of what they would have taught.
        rows_without_answer: rows that had something to learn and have nothing left.
    """

    rows: int = 0
    tokens: int = 0
    answer_tokens: int = 0
    rows_with_cut_answer: int = 0
    rows_without_answer: int = 0


class Bar(NamedTuple):
    """Rows of ``start`` to ``end - 1`` tokens; the last bar of a histogram also holds all that are longer."""

    start: int
    end: int
    rows: int


class Lengths:
    """The lengths of a dataset's rows. Equal rows are kept once, the longest are looked at first.

    Args:
        rows: the turns of each row; a row of two sequences (a better and a worse answer) goes through ``add``.
        learns_prompts, learns_history: of these rows, as in ``add``.
    """

    def __init__(self, rows: Iterable[Turns] = (), learns_prompts: bool = False, learns_history: bool = True) -> None:
        self._numbers = array("I")  # of each group: what is learned; of each sequence: how many turns, their tokens
        self._starts = array("Q", [0])  # where each group begins in them
        self._counts = array("I")  # how many rows are like this
        self._seen: dict[bytes, int] = {}
        self._order: list[int] | None = None  # groups by the length that may be cut, the longest first
        self._measures = array("Q")  # of each group, the length up to which nothing of it is cut
        self._totals = (0, 0)  # tokens, answer tokens
        self._losses: dict[int, Losses] = {}
        self._by_length: list[tuple[int, int]] = []  # (tokens of a row's longest sequence, rows), the shortest first
        self._by_sequence: list[tuple[int, int]] = []  # (tokens, sequences), the shortest first
        for turns in rows:
            self.add(turns, learns_prompts=learns_prompts, learns_history=learns_history)

    def add(self, *sequences: Turns, learns_prompts: bool = False, learns_history: bool = True) -> None:
        """Take in one row: one sequence, or two that are learned from together.

        Args:
            learns_prompts, learns_history: what counts as answer tokens, and what is cut first, as in training.
        """
        flat = array("I", [2 * learns_prompts + PLAIN * learns_history])
        for turns in sequences:
            flat.append(len(turns))
            flat.extend(number for turn in turns for number in turn)
        key = flat.tobytes()
        self._order = None
        group = self._seen.get(key)
        if group is not None:
            self._counts[group] += 1
            return
        if len(self._seen) < GROUPED:
            self._seen[key] = len(self._counts)
        self._append(flat, 1)

    @property
    def rows(self) -> int:
        return sum(self._counts)

    @property
    def tokens(self) -> int:
        self._sorted()
        return self._totals[0]

    @property
    def answer_tokens(self) -> int:
        self._sorted()
        return self._totals[1]

    @property
    def longest(self) -> int:
        by_length = self._sorted()
        return by_length[-1][0] if by_length else 0

    def at(self, cutoff: int) -> Losses:
        """What is lost when every row is cut to ``cutoff`` tokens, as training cuts it."""
        self._sorted()
        if cutoff not in self._losses:
            total = [0] * 5
            for group in self._order or ():
                if self._measures[group] <= cutoff:
                    break
                for position, number in enumerate(self._lost(group, cutoff)):
                    total[position] += number * self._counts[group]
            self._losses[cutoff] = Losses(*total)
        return self._losses[cutoff]

    def _lost(self, group: int, cutoff: int) -> tuple[int, int, int, bool, bool]:
        start = self._starts[group]
        if self._starts[group + 1] - start > ONE_TURN or self._numbers[start] != PLAIN:
            return self._row(group).lost(cutoff)
        prompt, answer = self._numbers[start + 2], self._numbers[start + 3]  # most rows; the same rule, without lists
        kept_prompt, kept = turn_budget(prompt, answer, cutoff)
        lost = answer - kept
        is_emptied = lost > 0 and answer > (not prompt) and kept <= (not kept_prompt and kept > 0)
        return True, prompt - kept_prompt + lost, lost, lost > 0, is_emptied

    def percentile(self, percent: int) -> int:
        """The length that ``percent`` of the rows do not exceed (nearest rank); 0 when there is no row."""
        by_length = self._sorted()
        rank = max(1, -(-percent * sum(rows for _, rows in by_length) // 100))
        for length, rows in by_length:
            rank -= rows
            if rank <= 0:
                return length
        return 0

    def histogram(self, bars: int = 40) -> list[Bar]:
        """At most ``bars`` bars of equal, round width from 0 on.

        A few rows that are far longer than all others would press the picture into its first bar: from twice the 99th
        percentile on they share the last one.
        """
        by_length = self._sorted()
        if not by_length:
            return []
        limit = min(self.longest, 2 * self.percentile(99))
        width = _round_width(limit // bars + 1)
        last = limit // width
        counts = Counter[int]()
        for length, rows in by_length:
            counts[min(length // width, last)] += rows
        return [Bar(index * width, (index + 1) * width, counts[index]) for index in range(last + 1)]

    def padding(self, batch: int, cutoff: int) -> float:
        """The share of positions that are padding when ``batch`` rows at random are padded to the longest of them.

        1 − mean length / E[longest of B drawn without replacement]; the two sequences of a row are padded together.
        P(longest ≤ v) = C(F, B) / C(n, B) where F of the n rows are not longer than v; it is multiplied up factor by
        factor, so nothing overflows or cancels.
        """
        cut = Counter[int]()
        for length, rows in self._sorted():
            cut[min(length, cutoff)] += rows
        total = sum(cut.values())
        batch = min(batch, total)
        sequences = sum(rows for _, rows in self._by_sequence)
        tokens = sum(min(length, cutoff) * rows for length, rows in self._by_sequence)
        if not tokens or batch < 1:
            return 0.0
        expected, not_longer, probability = 0.0, total, 1.0
        for length in sorted(cut, reverse=True):
            not_longer -= cut[length]
            rest = _all_below(not_longer, total, batch)
            expected += length * (probability - rest)
            probability = rest
            if not rest:
                break
        return max(0.0, 1 - tokens / sequences / expected)

    def summary(self, cutoff: int) -> dict:
        """The figures of a report, as plain values."""
        return {
            "rows": self.rows, "tokens": self.tokens, "answer_tokens": self.answer_tokens, "longest": self.longest,
            "p50": self.percentile(50), "p95": self.percentile(95), "p99": self.percentile(99),
            "cutoff": cutoff, "losses": vars(self.at(cutoff)), "histogram": [list(bar) for bar in self.histogram()],
        }  # fmt: skip

    def write(self, path: Path) -> None:
        """Write all groups as one JSON object of flat lists: rows of each, numbers of each, the numbers themselves."""
        sizes = (self._starts[group + 1] - self._starts[group] for group in range(len(self._counts)))
        temporary = path.with_name(path.name + ".tmp")
        with temporary.open("w", encoding="utf-8") as file:
            for name, numbers in (("counts", self._counts), ("sizes", sizes), ("numbers", self._numbers)):
                file.write(f'{"{" if name == "counts" else ", "}"{name}": [')
                for position, number in enumerate(numbers):
                    file.write(f",{number}" if position else str(number))
                file.write("]")
            file.write("}")
        temporary.replace(path)

    @classmethod
    def read(cls, path: Path) -> Lengths:
        """What ``write`` wrote."""
        content = json.loads(path.read_text(encoding="utf-8"))
        lengths = cls()
        at = 0
        for count, size in zip(content["counts"], content["sizes"], strict=True):
            lengths._append(array("I", content["numbers"][at : at + size]), count)
            at += size
        return lengths

    def _append(self, flat: array[int], count: int) -> None:
        self._numbers.extend(flat)
        self._starts.append(len(self._numbers))
        self._counts.append(count)

    def _groups(self) -> Iterator[tuple[_Row, int]]:
        for group, count in enumerate(self._counts):
            yield self._row(group), count

    def _row(self, group: int) -> _Row:
        at, end = self._starts[group], self._starts[group + 1]
        flags, sequences = self._numbers[at], []
        at += 1
        while at < end:
            turns = self._numbers[at]
            flat = self._numbers[at + 1 : at + 1 + 2 * turns]
            sequences.append(list(zip(flat[::2], flat[1::2], strict=True)))
            at += 1 + 2 * turns
        return _Row(sequences, bool(flags & 2), bool(flags & PLAIN))

    def _sorted(self) -> list[tuple[int, int]]:
        """(tokens of the longest sequence, rows), the shortest first; ``_order`` and ``_by_sequence`` with it."""
        if self._order is None:
            measures = array("Q")
            tokens = answers = 0
            longest, each = Counter[int](), Counter[int]()
            for row, count in self._groups():
                sizes = [_size(turns) for turns in row.sequences]
                measures.append(row.measure)
                tokens += sum(sizes) * count
                answers += sum(map(row.learned, row.sequences)) * count
                longest[max(sizes, default=0)] += count
                for size in sizes:
                    each[size] += count
            self._order = sorted(range(len(measures)), key=measures.__getitem__, reverse=True)
            self._measures, self._totals, self._losses = measures, (tokens, answers), {}
            self._by_length, self._by_sequence = sorted(longest.items()), sorted(each.items())
        return self._by_length


class _Row(NamedTuple):
    """One row out of the flat numbers."""

    sequences: list[Turns]
    learns_prompts: bool
    learns_history: bool

    @property
    def last_answer(self) -> int | None:
        """Of two answers to one prompt the longer one decides how both are cut."""
        return max(turns[-1][1] if turns else 0 for turns in self.sequences) if len(self.sequences) > 1 else None

    @property
    def measure(self) -> int:
        """The length up to which nothing of it is cut."""
        last = self.last_answer
        return max(
            (_size(turns) + (last - turns[-1][1] if last and turns else 0) for turns in self.sequences), default=0
        )

    def lost(self, cutoff: int) -> tuple[int, int, int, bool, bool]:
        """Is it cut, tokens and answer tokens lost, is an answer cut, is nothing left of one: as ``Losses`` counts."""
        tokens = answers = 0
        is_emptied = False
        for turns in self.sequences:
            kept = kept_turns(turns, cutoff, self.learns_history, self.last_answer)
            before, after = self.learned(turns), self.learned(kept)
            tokens += _size(turns) - _size(kept)
            answers += before - after
            # The first token of a sequence is never predicted, so it is not learned even if it belongs to an answer.
            is_emptied |= before > self._begins_learned(turns) and after <= self._begins_learned(kept)
        return tokens > 0, tokens, answers, answers > 0, is_emptied and answers > 0

    def learned(self, turns: Turns) -> int:
        answers = sum(answer for _, answer in turns) if self.learns_history else turns[-1][1] if turns else 0
        return answers + sum(prompt for prompt, _ in turns) * self.learns_prompts

    def _begins_learned(self, turns: Turns) -> bool:
        for index, (prompt, answer) in enumerate(turns):
            if prompt:
                return self.learns_prompts
            if answer:
                return self.learns_history or index == len(turns) - 1
        return False


def _size(turns: Turns) -> int:
    return sum(prompt + answer for prompt, answer in turns)


def _all_below(below: int, total: int, drawn: int) -> float:
    """The probability that all of ``drawn`` rows out of ``total`` are among ``below`` of them."""
    probability = 1.0
    for taken in range(drawn):
        if below <= taken or probability < 1e-18:
            return 0.0
        probability *= (below - taken) / (total - taken)
    return probability


def _round_width(least: int) -> int:
    """The smallest of 1, 2, 3, 4, 5, 6, 8, 10, 20, 30 … that is not below ``least``."""
    power = 1
    while True:
        for digit in (1, 2, 3, 4, 5, 6, 8):
            if digit * power >= least:
                return digit * power
        power *= 10
