"""When two rows are the same, and when they are so nearly the same that one of them says nothing new.

Two rows are near duplicates if prompt *and* answer each are nearly equal. Letters and digits count, whatever their
case, spacing or punctuation; beyond that only what cannot change the meaning is let pass: a slip of a letter, and in a
long text a changed word or a sentence more. Another number or another name makes another row.
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from array import array
from collections import Counter
from difflib import SequenceMatcher
from functools import lru_cache
from typing import Any, NamedTuple

LONG = 30
"""From so many words on, one word in thirty may differ, and a sentence may be added before or behind."""
TELLING = 12
"""An answer of so many words that is nearly equal shows that a changed word of its prompt did not matter."""
MOST_WORDS = 5000
"""What still differs in longer pieces than this is not compared word by word: it would take too long."""


class Parts(NamedTuple):
    """A row as it is compared: what was said before (system, tools), what is asked, what is answered."""

    context: str
    prompt: str
    answer: str


class Likeness(NamedTuple):
    """How two texts differ.

    Args:
        level: 0 in case, spacing or punctuation at most; 1 in slips of letters; 2 in words.
        changed: letters that differ.
        has_swapped_letter: one letter stands for another, which may make a different word (house, horse).
    """

    level: int
    changed: int = 0
    has_swapped_letter: bool = False


def parts_of(example: Any) -> Parts:
    """The parts of whatever a row becomes: a conversation, a preference, a judged answer or a text."""
    if hasattr(example, "text"):
        return Parts("", "", example.text)
    said = {"system": [], "user": [], "tool": [], "assistant": []}
    answers = [getattr(example, side) for side in ("chosen", "rejected") if hasattr(example, side)]
    for message in [*example.messages, *answers]:
        said[message["role"]].append(_text(message))
    context = "\n".join([*said["system"], example.tools or ""])
    return Parts(context, "\n".join(said["user"] + said["tool"]), "\n".join(said["assistant"]))


def exact_key(example: Any) -> int:
    """Equal for equal examples, and for no others but by a chance of 1 in 2^64 for each pair."""
    return _hash(json.dumps(vars(example), ensure_ascii=True, sort_keys=True, default=str))


def same_key(parts: Parts) -> int:
    """Equal for examples that differ in case, spacing and punctuation only."""
    return _hash("\n".join(squashed(part) for part in parts))


class KeyTable:
    """Key → the first row that had it, for a million rows in some 25 MB: two flat arrays with open addressing."""

    def __init__(self) -> None:
        self._keys, self._rows, self._used = array("Q", bytes(8 * 1024)), array("I", bytes(4 * 1024)), 0

    def find(self, key: int) -> int | None:
        """The row that came with this key; None: none did."""
        return self._rows[self._place(key)] or None

    def add(self, key: int, row: int) -> int | None:
        """Keep ``row`` (from 1 on) unless an earlier one has the key; that one is returned, else None."""
        place = self._place(key)
        if self._rows[place]:
            return self._rows[place]
        self._keys[place], self._rows[place] = key, row
        self._used += 1
        if self._used * 5 > len(self._keys) * 3:
            self._grow()
        return None

    def _place(self, key: int) -> int:
        keys, rows, mask = self._keys, self._rows, len(self._keys) - 1
        place = key & mask
        while rows[place] and keys[place] != key:
            place = place + 1 & mask
        return place

    def _grow(self) -> None:
        keys, rows = self._keys, self._rows
        size = len(keys) * 2
        self._keys, self._rows = array("Q", bytes(8 * size)), array("I", bytes(4 * size))
        for key, row in zip(keys, rows, strict=True):
            if row:
                place = self._place(key)
                self._keys[place], self._rows[place] = key, row


def likeness(one: Parts, other: Parts) -> int | None:
    """How nearly two rows are the same, in percent of their letters; None: they are different rows."""
    if squashed(one.context) != squashed(other.context):
        return None
    answer = compare(one.answer, other.answer)
    prompt = compare(one.prompt, other.prompt) if answer else None
    if answer is None or prompt is None:
        return None
    answer_words = min(_size(words_of(one.answer)), _size(words_of(other.answer)))
    if one.prompt and prompt.level == 2 and answer_words < TELLING:
        return None
    prompt_words = _size(words_of(one.prompt))
    if prompt.has_swapped_letter and prompt_words < TELLING and answer_words < 5:
        return None
    letters = max(sum(len(squashed(part)) for part in row[1:]) for row in (one, other))
    changed = prompt.changed + answer.changed
    return 100 if not changed else min(99, 100 - -(-100 * changed // max(1, letters)))


def compare(one: str, other: str) -> Likeness | None:
    """How two texts differ; None: too much to be called the same."""
    if squashed(one) == squashed(other):
        return Likeness(0)
    ours, theirs = words_of(one), words_of(other)
    size = min(_size(ours), _size(theirs))
    longest = max(len(ours), len(theirs))
    common = Counter(word.lower() for word in ours) & Counter(word.lower() for word in theirs)
    if not ours or not theirs or longest - common.total() > max(2, 0.4 * longest):
        return None
    typos = changed_words = letters = 0
    is_swapped = False
    for tag, ours_part, theirs_part, is_edge in _differences(ours, theirs):
        if tag is None:
            return None
        if _run_together(ours_part) == _run_together(theirs_part):
            continue
        slip = _slip(*ours_part, *theirs_part) if len(ours_part) == len(theirs_part) == 1 else None
        if slip:
            typos += 1
            letters += 2 if slip == "turned" else 1
            is_swapped |= slip == "swapped" and len(ours_part[0]) < 8
            continue
        letters += max(len("".join(part)) for part in (ours_part, theirs_part))
        is_added = is_edge and not (ours_part and theirs_part)
        if is_added and _size(ours_part + theirs_part) <= 0.3 * size and size >= LONG:
            changed_words += 1  # a sentence more: as much as one changed word, whatever is in it
        elif (_has_name(ours_part) and _has_name(theirs_part)) or not all(
            w[0].isalpha() for w in ours_part + theirs_part
        ):
            return None
        else:
            changed_words += max(_size(ours_part), _size(theirs_part))
    if changed_words > size // LONG or typos > max(1, size // 10):
        return None
    return Likeness(2 if changed_words else 1, letters, is_swapped)


@lru_cache(maxsize=64)
def squashed(text: str) -> str:
    """Letters run together in lower case; numbers and signs of arithmetic stand apart, so that 1.5 is not 15."""
    words = words_of(text)
    together = "".join(words)
    if together.isalpha():
        return together.lower()
    return "".join(word.lower() if word[0].isalpha() else f" {word} " for word in words)


@lru_cache(maxsize=64)
def words_of(text: str) -> tuple[str, ...]:
    """Words, numbers and signs, in the form NFKC; of scripts without spaces every character is a word."""
    found = _found(unicodedata.normalize("NFKC", text))
    if not DIGIT.search(text):
        return tuple(found)
    return tuple("".join(word.split()) if word[-1] in "%0123456789" else word for word in found)


DIGIT = re.compile(r"\d")
WITHOUT_SPACES = "\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff\u0e00-\u0e7f"
NUMBER = r"(?:(?<![^\W_])-)?\d+(?:[.,:]\d+|\s*[-*/^%]\s*\d+)*%?"
"""A number with what is calculated with it."""
ASCII_SIGNS = "$+<=>^`|~"
LATIN = re.compile(rf"[a-zA-Z]+|{NUMBER}|[{re.escape(ASCII_SIGNS)}]", re.ASCII)
"""The same as ``_pattern`` where all letters are ASCII, which is many times faster."""


@lru_cache(maxsize=256)
def _pattern(marks: str, signs: str) -> re.Pattern[str]:
    """A word, a number, a letter of a script without spaces, a sign.

    Vowel signs of Indian scripts and accents are marks, which Python's ``\\w`` leaves out: they belong to their word.
    The marks and signs are those of one text: a class of all there are makes every search many times slower.
    """
    letters = rf"[^\W\d_{WITHOUT_SPACES}]"
    word = rf"{letters}+(?:[{re.escape(marks)}]+{letters}*)*" if marks else rf"{letters}+"
    return re.compile(rf"{word}|{NUMBER}|[{WITHOUT_SPACES}]|[{re.escape(ASCII_SIGNS + signs)}]")


def _found(text: str) -> list[str]:
    kinds = {each: unicodedata.category(each)[0] for each in set(text) if not each.isascii()}
    if not kinds.keys() - {each for each, kind in kinds.items() if kind not in "LNMS"}:
        return LATIN.findall(text)  # foreign are only quotes, dashes and spaces
    marks = sorted(each for each, kind in kinds.items() if kind == "M")
    signs = sorted(each for each, kind in kinds.items() if kind == "S")
    return _pattern("".join(marks), "".join(signs)).findall(text)


def _differences(ours: tuple[str, ...], theirs: tuple[str, ...]):
    """(tag, our words, their words, whether at the beginning or the end) of each stretch that differs."""
    lower, other = [word.lower() for word in ours], [word.lower() for word in theirs]
    start = 0
    while start < min(len(lower), len(other)) and lower[start] == other[start]:
        start += 1
    end = 0
    while end < min(len(lower), len(other)) - start and lower[-1 - end] == other[-1 - end]:
        end += 1
    middle, between = lower[start : len(lower) - end], other[start : len(other) - end]
    if max(len(middle), len(between)) > MOST_WORDS and middle and between:
        yield None, (), (), False
        return
    for tag, i1, i2, j1, j2 in SequenceMatcher(None, middle, between, autojunk=False).get_opcodes():
        if tag != "equal":
            is_first, is_last = start + i1 == start + j1 == 0, end == 0 and i2 == len(middle) and j2 == len(between)
            yield tag, ours[start + i1 : start + i2], theirs[start + j1 : start + j2], is_first or is_last


def _slip(one: str, other: str) -> str | None:
    """What a finger may have done to a word: "swapped" a letter for another, "turned" two, or "lost" or doubled one.

    None: the words differ by more, or are so short that they are simply two words. So are two names (Marin, Martin),
    unless only two letters are turned.
    """
    if not (one.isalpha() and other.isalpha()):
        return None
    are_names = one[0].isupper() and other[0].isupper()
    one, other = sorted((one.lower(), other.lower()), key=len)
    if one[0] != other[0] or len(other) < 5 or len(other) - len(one) > 1:
        return None
    at = next((index for index, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1]), len(one))
    if len(one) == len(other) and one[at + 2 :] == other[at + 2 :] and one[at : at + 2] == other[at : at + 2][::-1]:
        return None if are_names and len(one) < 6 else "turned"
    if are_names:
        return None
    if len(one) < len(other):
        return "lost" if one[at:] == other[at + 1 :] else None
    return "swapped" if one[at + 1 :] == other[at + 1 :] and len(one) >= 6 else None


def _run_together(words: tuple[str, ...]) -> str | tuple[str, ...]:
    """What is left of words when spaces do not count; they do between numbers."""
    return "".join(words).lower() if all(word.isalpha() for word in words) else words


def _has_name(words: tuple[str, ...]) -> bool:
    return any(word[0].isupper() for word in words)


def _size(words: tuple[str, ...]) -> int:
    """Number of words; two characters of a script without spaces count as one."""
    alone = sum(1 for word in words if word >= "\u0e00" and re.match(f"[{WITHOUT_SPACES}]", word))
    return len(words) - alone // 2


def _text(message: dict[str, Any]) -> str:
    calls = message.get("tool_calls")
    return (message.get("content") or "") + (json.dumps(calls, ensure_ascii=False, sort_keys=True) if calls else "")


def _hash(text: str) -> int:
    """8 bytes as a number; a lone half of a surrogate pair is no reason to fail."""
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little")
