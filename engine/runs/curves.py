"""One logged value by step: appended to at once, and seen through any window at about the cost of what is shown."""

from __future__ import annotations

import csv
import math
import threading
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from operator import le
from pathlib import Path

FAN = 8
"""So many blocks make one of the next level."""
SETTLED = 740
"""From so many values on the weight of the smoothed line no longer changes: it is 0.9 to the last bit."""


class _Points:
    """Points and, above them, levels of blocks: of each block the indices of its least and its greatest value.

    A block of level n stands for ``FAN ** (n + 1)`` points. A block without a finite value names its first point.
    """

    __slots__ = ("greatest", "least", "odd", "steps", "values")

    def __init__(self) -> None:
        self.steps, self.values, self.odd = array("d"), array("d"), array("q")
        self.least: list[array] = []
        self.greatest: list[array] = []

    def append(self, step: float, value: float) -> None:
        self.steps.append(step)
        if not math.isfinite(value):
            self.odd.append(len(self.values))
        self.values.append(value)  # last: who reads meanwhile goes by the number of values
        if not len(self.values) % FAN:
            self._fill(len(self.values) - FAN)

    def extend(self, steps: Sequence[float], values: Sequence[float]) -> None:
        """``append`` for many points with finite values."""
        begin = len(self.values) // FAN * FAN
        self.steps.extend(steps)
        self.values.extend(values)
        for block in range(begin, len(self.values) - FAN + 1, FAN):
            self._fill(block)

    def _fill(self, begin: int) -> None:
        """Add the block of the points from ``begin`` on, now that all of them are there."""
        if self.odd and self.odd[-1] >= begin:
            self._close(0, *(self.ends(range(begin, begin + FAN)) or (begin, begin)))
        else:  # the same, faster
            block = self.values[begin : begin + FAN]
            self._close(0, begin + block.index(min(block)), begin + block.index(max(block)))

    def _close(self, level: int, least: int, greatest: int) -> None:
        """Add a block, and those above it that it makes complete."""
        if level == len(self.least):
            self.greatest.append(array("q"))  # before the other one, by whose length readers go
            self.least.append(array("q"))
        self.greatest[level].append(greatest)
        self.least[level].append(least)
        if not len(self.least[level]) % FAN:
            below = [*self.least[level][-FAN:], *self.greatest[level][-FAN:]]
            self._close(level + 1, *(self.ends(below) or (below[0], below[0])))

    def ends(self, indices: Sequence[int]) -> tuple[int, int] | None:
        """Which of these points is the least and which the greatest; None where none is finite."""
        values = self.values
        if self.odd:
            indices = [index for index in indices if math.isfinite(values[index])]
            if not indices:
                return None
        return min(indices, key=values.__getitem__), max(indices, key=values.__getitem__)

    def candidates(self, begin: int, end: int, level: int) -> Sequence[int]:
        """Few points, among which are the least and the greatest of those from ``begin`` to ``end``."""
        if level < 0 or end - begin < FAN:
            return range(begin, end)
        size = FAN ** (level + 1)
        first, last = -(-begin // size), min(end // size, len(self.least[level]))
        if first >= last:
            return self.candidates(begin, end, level - 1)
        found = [*self.least[level][first:last], *self.greatest[level][first:last]]
        if begin < first * size:
            found += self.candidates(begin, first * size, level - 1)
        if last * size < end:
            found += self.candidates(last * size, end, level - 1)
        return found


class Curve:
    """Steps and values of one series, in the order of the steps.

    One thread appends and forgets; any number may read meanwhile.
    """

    def __init__(self, points: Iterable[tuple[float, float]] = ()) -> None:
        self._points = _Points()
        self._smoothed: Curve | None = None
        self._taken = 0
        self._lock = threading.Lock()  # of the smoothed line, which readers make
        for step, value in points:
            self.append(step, value)

    def __len__(self) -> int:
        return len(self._points.values)

    def __iter__(self) -> Iterator[tuple[float, float]]:
        return iter(self.since(0))

    def __eq__(self, other: object) -> bool:
        """Bit for bit, so that a value that is no number equals itself."""
        if not isinstance(other, Curve):
            return NotImplemented
        mine, others = self._points, other._points
        return mine.steps == others.steps and mine.values.tobytes() == others.values.tobytes()

    __hash__ = None  # it changes

    def append(self, step: float, value: float) -> None:
        """Add a point. One of an earlier step than the last begins anew from there: what came after is forgotten."""
        steps = self._points.steps
        if steps and step < steps[-1]:
            self.forget_after(math.nextafter(step, -math.inf))
        self._points.append(step, value)

    def extend(self, steps: Sequence[float], values: Sequence[float]) -> None:
        """``append`` for many points: faster where their steps rise and their values are finite."""
        last = self._points.steps[-1:]
        begins_later = not last or not steps or last[0] <= steps[0]
        if begins_later and all(map(le, steps, steps[1:])) and math.isfinite(sum(values)):
            self._points.extend(steps, values)
        else:
            for step, value in zip(steps, values, strict=True):
                self.append(step, value)

    def forget_after(self, step: float) -> None:
        """Forget all points of later steps."""
        points = self._points
        count = bisect_right(points.steps, step)
        if count == len(points.values):
            return
        # A new object takes the place of the old: whoever reads that one now reads on undisturbed.
        kept = _Points()
        kept.steps, kept.values = points.steps[:count], points.values[:count]
        kept.odd = points.odd[: bisect_left(points.odd, count)]
        for level in range(len(points.least)):
            whole = count // FAN ** (level + 1)
            kept.least.append(points.least[level][:whole])
            kept.greatest.append(points.greatest[level][:whole])
        with self._lock:
            self._points, self._smoothed = kept, None

    @property
    def first(self) -> tuple[float, float] | None:
        return self._at(0) if len(self) else None

    @property
    def last(self) -> tuple[float, float] | None:
        return self._at(len(self) - 1) if len(self) else None

    @property
    def least(self) -> tuple[float, float] | None:
        """The point with the least finite value; None where there is none."""
        return self._end(0)

    @property
    def greatest(self) -> tuple[float, float] | None:
        return self._end(1)

    def since(self, index: int) -> list[tuple[float, float]]:
        """All points from the one of that index on."""
        points = self._points
        count = len(points.values)
        return list(zip(points.steps[index:count], points.values[index:count], strict=True))

    def view(
        self, first: float | None = None, last: float | None = None, most: int = 1000
    ) -> list[tuple[float, float]]:
        """The points of a window, or those of them that show its shape.

        Where there are more than ``most`` the window is cut into stretches. Kept are the first and the last point, and
        of each stretch the least and the greatest value and, if any, the first that is no finite number.

        Args:
            first, last: the window in steps, both included; None: no limit.
            most: at least 8.
        """
        points = self._points
        count = len(points.values)
        steps, values = points.steps, points.values
        begin = 0 if first is None else bisect_left(steps, first, 0, count)
        end = count if last is None else bisect_right(steps, last, 0, count)
        if end - begin <= most:
            return list(zip(steps[begin:end], values[begin:end], strict=True))
        odd = points.odd[bisect_left(points.odd, begin) : bisect_left(points.odd, end)]
        # Aligned stretches may be one more than asked for; the first and the last point come on top.
        size, level = _stretch(end - begin, max(1, (most - 2) // (3 if odd else 2) - 1), len(points.least))
        kept = {begin, end - 1}
        at, next_odd = begin, 0
        while at < end:
            until = min(end, (at // size + 1) * size)
            kept.update(points.ends(points.candidates(at, until, level)) or ())
            if next_odd < len(odd) and odd[next_odd] < until:
                kept.add(odd[next_odd])
                next_odd = bisect_left(odd, until, next_odd)
            at = until
        return [(steps[index], values[index]) for index in sorted(kept)]

    def smoothed(self) -> Curve:
        """An exponential moving average that smooths more, the more values there are; the same object again and again.

        Weight of the past: 1.8 · (sigmoid(0.05 · n) − 0.5) for n values, the rule this field's plots use. What is no
        finite number is passed over.
        """
        with self._lock:
            return self._smooth()

    def _smooth(self) -> Curve:
        points, known, taken = self._points, self._smoothed, self._taken
        count = len(points.values)
        if known is None or (taken < count and taken < SETTLED):
            known, taken = Curve(), 0
        weight = 1.8 * (1 / (1 + math.exp(-0.05 * count)) - 0.5)
        value = known.last[1] if len(known) else None
        for index in range(taken, count):
            new = points.values[index]
            if math.isfinite(new):
                value = new if value is None else value * weight + new * (1 - weight)
                known.append(points.steps[index], value)
        self._smoothed, self._taken = known, count
        return known

    def _at(self, index: int) -> tuple[float, float]:
        return self._points.steps[index], self._points.values[index]

    def _end(self, which: int) -> tuple[float, float] | None:
        points = self._points
        count = len(points.values)
        ends = points.ends(points.candidates(0, count, len(points.least) - 1)) if count else None
        return (points.steps[ends[which]], points.values[ends[which]]) if ends else None


def rows(
    curves: Mapping[str, Curve], begins: Mapping[str, int] | None = None
) -> Iterator[tuple[float, dict[str, float]]]:
    """The points of several curves together: each step with the values it has, in the order of the steps.

    Args:
        begins: of each curve the index of the first point that counts.
    """
    left = {name: iter(curve.since((begins or {}).get(name, 0))) for name, curve in curves.items()}
    heads = {name: head for name, points in left.items() if (head := next(points, None))}
    while heads:
        step = min(head[0] for head in heads.values())
        found = {name: head[1] for name, head in heads.items() if head[0] == step}
        for name in found:
            head = next(left[name], None)
            if head is None:
                del heads[name]
            else:
                heads[name] = head
        yield step, found


def write_csv(curves: Mapping[str, Curve], path: Path) -> None:
    """All points at full precision: a column of steps, one for each curve; empty where a curve has no value."""
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["step", *curves])
        for step, values in rows(curves):
            shown = int(step) if step == int(step) else step
            writer.writerow([shown, *(values.get(name, "") for name in curves)])
    temporary.replace(path)


def _stretch(count: int, most: int, levels: int) -> tuple[int, int]:
    """How many points a stretch holds so that there are at most ``most``, and the level of blocks to read it from."""
    size, level = math.ceil(count / most), -1
    while level + 1 < levels and 4 * FAN ** (level + 2) <= size:
        level += 1
    unit = FAN ** (level + 1)
    return math.ceil(size / unit) * unit, level
