"""Scores of an answer that need no library: same text, shared words, JSON field by field, a pattern."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

_SINGLE = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0002fa1f"
"""Kana and Chinese characters: no spaces say where their words end."""
_TOKEN = re.compile(rf"[{_SINGLE}]|(?:(?![{_SINGLE}])[^\W_])+")


class Hits(NamedTuple):
    """How many things an answer has, how many are wanted, and how many it has of those."""

    hits: int = 0
    found: int = 0
    wanted: int = 0

    def __add__(self, other: Hits) -> Hits:  # type: ignore[override]
        return Hits(*(mine + theirs for mine, theirs in zip(self, other, strict=True)))

    @property
    def precision(self) -> float:
        return self.hits / self.found if self.found else float(not self.wanted)

    @property
    def recall(self) -> float:
        return self.hits / self.wanted if self.wanted else float(not self.found)

    @property
    def f1(self) -> float:
        """2 × hits / (found + wanted), which is the harmonic mean of precision and recall; 1 where both are empty."""
        return 2 * self.hits / (self.found + self.wanted) if self.found + self.wanted else 1.0


def without_thought(text: str) -> str:
    """What an answer says once it has thought: all behind the last ``</think>``."""
    return text.rpartition("</think>")[2].strip()


def tokens(text: str) -> list[str]:
    """Words in lower case, without punctuation; Chinese and Japanese character by character."""
    return _TOKEN.findall(text.lower())


def is_same(predicted: str, label: str) -> bool:
    """Whether both say the same, spaces and line breaks apart."""
    return predicted.split() == label.split()


def token_f1(predicted: str, label: str) -> float:
    """How many tokens both share, each as often as both have it (SQuAD's F1); of two without any: the same text?"""
    hits = shared(tokens(predicted), tokens(label))
    return hits.f1 if hits.found or hits.wanted else float(is_same(predicted, label))


def shared(found: Iterable[Any], wanted: Iterable[Any]) -> Hits:
    """Things that both have, each as often as both have it."""
    have, want = Counter(found), Counter(wanted)
    return Hits((have & want).total(), have.total(), want.total())


def json_of(text: str) -> dict | list | None:
    """The JSON object or list that a text is, as a whole; None where it is none. 1.0 is read as the number it is, 1."""
    try:
        content = json.loads(text, parse_float=_number, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return None
    return content if isinstance(content, dict | list) else None


def item_hits(predicted: Any, label: dict | list) -> Hits:
    """Whole objects: those of a list, or the one that there is. One that is there twice counts once."""
    return shared(set(_items(predicted)), set(_items(label)))


def triples(text: str) -> set[tuple[str, str, str]] | None:
    """The (subject, predicate, object) of a JSON list of facts; None where the text is no such list."""
    try:
        facts = json.loads(text)
        if not isinstance(facts, list):
            return None
        return {(fact["subject"], fact["predicate"], fact["object"]) for fact in facts}
    except (ValueError, TypeError, KeyError, RecursionError):
        return None


def triple_hits(predicted: str, label: set[tuple[str, str, str]]) -> Hits:
    """Facts that an answer has right, whatever else it says of each; an answer that is no list of facts has none."""
    return shared(triples(predicted) or (), label)


def field_hits(predicted: Any, label: dict | list) -> Hits:
    """Single values with the names that lead to them; the places in a list do not matter."""
    return shared(_leaves(predicted), _leaves(label))


def pattern_agrees(pattern: str, predicted: str, label: str) -> bool:
    """Whether the last place that a pattern finds in an answer says what it says in the label.

    With a group it is what the first group holds. Where the label has no such place, the whole label counts.
    """
    wanted = _last(pattern, label)
    return _last(pattern, predicted) == (label.strip() if wanted is None else wanted)


def _last(pattern: str, text: str) -> str | None:
    found = list(re.finditer(pattern, text))
    if not found:
        return None
    return ((found[-1][1] if found[-1].re.groups else found[-1][0]) or "").strip()


def _items(content: Any) -> Iterator[str]:
    for each in content if isinstance(content, list) else [] if content is None else [content]:
        yield json.dumps(each, sort_keys=True, ensure_ascii=False)


def _number(text: str) -> int | float:
    number = float(text)
    return int(number) if number.is_integer() else number


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is no JSON")  # Python's reader takes NaN and Infinity


def _leaves(content: Any, path: tuple[str | None, ...] = ()) -> Iterator[tuple[tuple[str | None, ...], str]]:
    """Each value as JSON, and the names that lead to it; None is any place in a list."""
    if content is None and not path:
        return
    if isinstance(content, dict) and content:
        for name, value in content.items():
            yield from _leaves(value, (*path, name))
    elif isinstance(content, list) and content:
        for value in content:
            yield from _leaves(value, (*path, None))
    elif path or content not in ({}, []):
        yield path, json.dumps(content, ensure_ascii=False)
