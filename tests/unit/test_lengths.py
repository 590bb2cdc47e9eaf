"""Counts of what a cutoff takes away, against counting token by token; padding against all batches there are."""

from __future__ import annotations

import itertools
import math
import statistics

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.catalog.lengths import GROUPED, Lengths, Losses, kept_turns, turn_budget

TURN = st.tuples(st.integers(0, 60), st.integers(0, 60))
TURNS = st.lists(TURN, min_size=1, max_size=4)
ROWS = st.lists(TURNS, min_size=1, max_size=12)
CUTOFF = st.integers(4, 120)


@pytest.mark.parametrize(
    ("prompt", "answer", "budget", "kept"),
    [
        (3000, 2000, 1000, (600, 400)), (2000, 3000, 1000, (400, 600)), (1000, 100, 1000, (900, 100)),
        (100, 1000, 1000, (100, 900)), (100, 500, 1000, (100, 500)), (500, 100, 1000, (500, 100)),
        (10, 10, 1000, (10, 10)), (0, 50, 20, (0, 20)), (50, 0, 20, (20, 0)), (0, 0, 5, (0, 0)),
    ],
)  # fmt: skip
def test_budget_of_a_turn(prompt, answer, budget, kept):
    assert turn_budget(prompt, answer, budget) == kept


@given(TURNS, CUTOFF)
def test_what_fits_is_not_cut_and_what_does_not_fills_the_cutoff(turns, cutoff):
    size = sum(map(sum, turns))
    kept = kept_turns(turns, cutoff)
    assert sum(map(sum, kept)) == min(size, cutoff)
    assert kept == turns or size > cutoff
    assert all(
        have >= keep for turn, keeps in zip(turns, kept, strict=True) for have, keep in zip(turn, keeps, strict=True)
    )


def one_by_one(turns, cutoff, learns_prompts, learns_history):
    """Tokens of a row as (learned, kept), in their order: cut by walking through them with what is left."""
    order = list(enumerate(turns))
    budgets, left = {}, cutoff
    for index, (prompt, answer) in order if learns_history else order[::-1]:
        budgets[index] = turn_budget(prompt, answer, left) if left > 0 else (0, 0)
        left -= sum(budgets[index])
    tokens = []
    for index, (prompt, answer) in order:
        is_learned = learns_history or index == len(turns) - 1
        tokens += [(learns_prompts, at < budgets[index][0]) for at in range(prompt)]
        tokens += [(is_learned, at < budgets[index][1]) for at in range(answer)]
    return tokens


def counted(rows, cutoff, learns_prompts, learns_history):
    total = Counted()
    for turns in rows:
        tokens = one_by_one(turns, cutoff, learns_prompts, learns_history)
        lost = [learned for learned, kept in tokens if not kept]
        kept = [learned for learned, kept in tokens if kept]
        total.rows += bool(lost)
        total.tokens += len(lost)
        total.answer_tokens += sum(lost)
        total.rows_with_cut_answer += any(lost)
        had = any(learned for learned, _ in tokens[1:])
        total.rows_without_answer += had and any(lost) and not any(kept[1:])
    return Losses(**vars(total))


class Counted:
    def __init__(self):
        self.rows = self.tokens = self.answer_tokens = self.rows_with_cut_answer = self.rows_without_answer = 0


@settings(deadline=None)
@given(ROWS, CUTOFF, st.booleans(), st.booleans())
def test_losses_equal_a_count_token_by_token(rows, cutoff, learns_prompts, learns_history):
    lengths = Lengths(rows, learns_prompts=learns_prompts, learns_history=learns_history)
    assert lengths.at(cutoff) == counted(rows, cutoff, learns_prompts, learns_history)
    assert lengths.rows == len(rows)
    assert lengths.tokens == sum(p + a for turns in rows for p, a in turns)
    every = [token for turns in rows for token in one_by_one(turns, 10**6, learns_prompts, learns_history)]
    assert lengths.answer_tokens == sum(learned for learned, _ in every)


@pytest.mark.parametrize(("size", "lost"), [(63, 0), (64, 0), (65, 1), (66, 2)])
def test_at_the_cutoff_nothing_is_lost_and_behind_it_all_is(size, lost):
    assert Lengths([[(size - 10, 10)]]).at(64) == Losses(rows=bool(lost), tokens=lost)
    assert Lengths([[(0, size)]]).at(64).answer_tokens == lost


def test_two_answers_are_cut_by_the_longer_one_and_count_as_one_row():
    lengths = Lengths()
    lengths.add([(30, 10)], [(30, 50)], learns_history=False)
    assert (lengths.rows, lengths.tokens, lengths.answer_tokens, lengths.longest) == (1, 120, 60, 80)
    # A budget of 40 for 30 + 50 is split 15 : 25, for the shorter answer too.
    assert lengths.at(40) == Losses(rows=1, tokens=15 + 40, answer_tokens=25, rows_with_cut_answer=1)
    assert lengths.at(80) == Losses()
    assert lengths.padding(1, 1000) == pytest.approx(1 - 60 / 80)


@given(ROWS, st.integers(1, 100))
def test_percentile_is_the_nearest_rank(rows, percent):
    sizes = sorted(sum(map(sum, turns)) for turns in rows)
    found = Lengths(rows).percentile(percent)
    assert found in sizes
    assert sum(size <= found for size in sizes) * 100 >= percent * len(sizes)
    assert sum(size < found for size in sizes) * 100 < percent * len(sizes)


@settings(deadline=None)
@given(st.lists(st.integers(0, 40), min_size=1, max_size=8), st.integers(1, 10), CUTOFF)
def test_padding_equals_the_mean_over_all_batches(sizes, batch, cutoff):
    cut = [min(size, cutoff) for size in sizes]
    longest = statistics.fmean(map(max, itertools.combinations(cut, min(batch, len(cut)))))
    expected = 1 - statistics.fmean(cut) / longest if longest else 0.0
    assert Lengths([(0, size)] for size in sizes).padding(batch, cutoff) == pytest.approx(expected, abs=1e-12)


def test_padding_of_a_million_rows_neither_overflows_nor_drowns():
    """1 to 10 tokens, 100,000 rows each: as if drawn with replacement, where E[max] is a plain sum."""
    lengths = Lengths([(0, size)] for size in range(1, 11))
    for index in range(10):
        lengths._counts[index] = 100_000
    lengths._order = None
    expected = sum(1 - (size / 10) ** 64 for size in range(10))
    assert lengths.padding(64, 1024) == pytest.approx(1 - 5.5 / expected, abs=1e-4)
    assert lengths.padding(2_000_000, 1024) == pytest.approx(1 - 5.5 / 10)


@given(st.lists(st.integers(0, 5000), min_size=1, max_size=200))
def test_histogram_holds_every_row_once(sizes):
    lengths = Lengths([(0, size)] for size in sizes)
    bars = lengths.histogram()
    assert 1 <= len(bars) <= 40
    assert sum(bar.rows for bar in bars) == len(sizes)
    assert bars[0].start == 0 and all(one.end == other.start for one, other in itertools.pairwise(bars))
    for bar in bars[:-1]:
        assert bar.rows == sum(bar.start <= size < bar.end for size in sizes)


def test_one_giant_row_does_not_press_the_picture_flat():
    lengths = Lengths([[(0, 100 + index % 100)] for index in range(1000)] + [[(0, 100_000)]])
    bars = lengths.histogram()
    assert sum(bar.rows > 0 for bar in bars) > 8
    assert bars[-1].rows == 1


@given(ROWS, CUTOFF)
def test_written_and_read_it_is_the_same(tmp_path_factory, rows, cutoff):
    lengths = Lengths(rows, learns_history=False)
    lengths.add([(3, 4)], [(3, 9)])
    path = tmp_path_factory.mktemp("lengths") / "lengths.json"
    lengths.write(path)
    again = Lengths.read(path)
    assert again.at(cutoff) == lengths.at(cutoff)
    assert again.summary(64) == lengths.summary(64)


def test_equal_rows_are_kept_once_and_counted_all():
    lengths = Lengths([(5, 5)] for _ in range(1000))
    assert len(lengths._counts) == 1 and lengths.rows == 1000
    assert GROUPED > 1000


def test_nothing_is_nothing():
    lengths = Lengths()
    assert (lengths.rows, lengths.longest, lengths.percentile(95), lengths.padding(8, 100)) == (0, 0, 0, 0.0)
    assert lengths.histogram() == [] and lengths.at(10) == Losses()
    assert math.isclose(Lengths([[(0, 0)]]).padding(4, 10), 0.0)
