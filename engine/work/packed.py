"""The sequences of a micro-batch laid out one behind the other, with no padding, and what they share laid out once.

Sequences that begin alike (a system prompt, the tools of an agent, the prompt of a chosen and a rejected answer) have
the same hidden states as far as they are alike, because a token sees only what is before it. So the layout is a tree:
its nodes are the blocks, and a sequence is the path from a root to where it ends. Knows nothing of models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch

from engine.work.encode import IGNORED, Encoded

SHARED_FROM = 16
"""Tokens from which on it pays to compute a common beginning once: each block is an attention call of its own."""


@dataclass(frozen=True)
class Block:
    """Tokens that stand side by side in the layout and in every sequence that they belong to.

    Args:
        start: where they begin in the layout.
        length: how many there are.
        before: tokens that the sequence has before them.
        parent: number of the block that holds the last of those; None: there are none.
    """

    start: int
    length: int
    before: int = 0
    parent: int | None = None


@dataclass(frozen=True)
class Layout:
    """All blocks, in the order in which they stand."""

    blocks: tuple[Block, ...]

    @property
    def lengths(self) -> list[int]:
        return [block.length for block in self.blocks]

    def ancestors(self, number: int) -> list[int]:
        """The blocks before block ``number`` in its sequences, from the root on."""
        found = []
        parent = self.blocks[number].parent
        while parent is not None:
            found.append(parent)
            parent = self.blocks[parent].parent
        return found[::-1]


def flatten(sequences: Sequence[Encoded], is_shared: bool = True) -> dict[str, Any]:
    """A micro-batch of one row.

    Args:
        sequences: one or more; joined ones are taken apart first.
        is_shared: lay out common beginnings once. Not with dropout, which would then fall on several rows alike.

    Returns:
        input_ids and position_ids (1, T), the ``layout``; learned_at (N,): positions whose output predicts a learned
        token, targets (N,): those tokens, owner (N,): the sequence of each, counted as given; tokens: of all sequences.
    """
    rows = [(each, row) for each, sequence in enumerate(sequences) for row in _apart(sequence)]
    tree = _Tree([ids for _, (ids, _) in rows], is_shared)
    learned_at, targets, owners = [], [], []
    for number, (owner, (_, labels)) in enumerate(rows):
        places = tree.places(number)
        for place, label in zip(places, labels[1:], strict=False):
            if label != IGNORED:
                learned_at.append(place)
                targets.append(label)
                owners.append(owner)
    return {
        "input_ids": torch.tensor([tree.ids]),
        "position_ids": torch.tensor([tree.positions]),
        "layout": Layout(tuple(tree.blocks)),
        "learned_at": torch.tensor(learned_at, dtype=torch.long),
        "targets": torch.tensor(targets, dtype=torch.long),
        "owner": torch.tensor(owners, dtype=torch.long),
        "tokens": torch.tensor(sum(len(ids) for _, (ids, _) in rows)),
    }


def _apart(sequence: Encoded) -> list[tuple[list[int], list[int]]]:
    """Ids and labels of each row of a joined sequence, or of the one there is."""
    found, at = [], 0
    for length in sequence.parts or (len(sequence.input_ids),):
        found.append((sequence.input_ids[at : at + length], sequence.labels[at : at + length]))
        at += length
    return found


class _Tree:
    """Grows the blocks of some token sequences."""

    def __init__(self, sequences: list[list[int]], is_shared: bool) -> None:
        self.ids: list[int] = []
        self.positions: list[int] = []
        self.blocks: list[Block] = []
        self._sequences, self._is_shared = sequences, is_shared
        self._last: dict[int, int] = {}  # sequence → its last block
        self._grow(list(range(len(sequences))), 0, None)

    def places(self, number: int) -> list[int]:
        """Where each token of a sequence stands in the layout."""
        path, block = [], self._last.get(number)
        while block is not None:
            path.append(self.blocks[block])
            block = self.blocks[block].parent
        return [place for block in path[::-1] for place in range(block.start, block.start + block.length)]

    def _grow(self, members: list[int], at: int, parent: int | None) -> None:
        """Lay out what these sequences have from token ``at`` on; they are alike before it."""

        def opening(number: int) -> list[int]:
            return self._sequences[number][at : at + SHARED_FROM]

        if not self._is_shared or len(members) == 1:
            groups = [[member] for member in members]
        else:
            groups = [list(group) for _, group in groupby(sorted(members, key=opening), key=opening)]
        for group in groups:
            if len(group) > 1 and len(opening(group[0])) == SHARED_FROM:
                end = self._common_end(group, at)
                block = self._add(group, at, end, parent)
                self._grow([member for member in group if len(self._sequences[member]) > end], end, block)
            else:
                for member in group:
                    self._add([member], at, len(self._sequences[member]), parent)

    def _common_end(self, members: list[int], at: int) -> int:
        first = self._sequences[members[0]]
        end = min(len(self._sequences[member]) for member in members)
        return next(
            (
                place
                for place in range(at, end)
                if any(self._sequences[each][place] != first[place] for each in members)
            ),
            end,
        )

    def _add(self, members: list[int], at: int, end: int, parent: int | None) -> int:
        self.blocks.append(Block(len(self.ids), end - at, at, parent))
        self.ids += self._sequences[members[0]][at:end]
        self.positions += range(at, end)
        for member in members:
            self._last[member] = len(self.blocks) - 1
        return len(self.blocks) - 1
