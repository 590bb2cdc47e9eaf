"""A text as it reads once its escapes are undone, with each letter's place in the text as it is written.

So what is found in any spelling (URL-encoded, JSON-escaped, in HTML, cut into pieces by quotes) can be taken out of it.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

LEVELS = 4
"""How often a text may have been escaped, one escape upon the other."""


class View(NamedTuple):
    """A reading of a text: letter ``text[i]`` is written at ``starts[i]`` to ``ends[i]``."""

    text: str
    starts: list[int]
    ends: list[int]

    def place(self, begin: int, end: int) -> tuple[int, int]:
        """Where the letters ``begin`` to ``end`` (excluded, at least one) are written."""
        return self.starts[begin], self.ends[end - 1]


def as_written(text: str) -> View:
    return View(text, list(range(len(text))), list(range(1, len(text) + 1)))


def readings(text: str) -> Iterator[View]:
    """The text as written, then with its escapes undone once, twice and so on, until nothing changes."""
    view = as_written(text)
    for _ in range(LEVELS + 1):
        yield view
        after = rewritten(view, _ESCAPE, _letter)
        if after.text == view.text:
            return
        view = after


def joined(view: View) -> Iterator[View]:
    """Without what stands between two pieces of one word: ``"ab" + "cd"``, ``'ab'"cd"``, ``ab\\`` and a new line.

    Twice: as if a letter before a quote were part of the word, and as if it were a prefix, as in ``"ab" f"cd"``.
    """
    for joint in _JOINTS:
        yield rewritten(view, joint, lambda found: "")


def letters(view: View) -> View:
    """Letters and digits alone: whatever was put between them is gone."""
    kept = [number for number, letter in enumerate(view.text) if letter.isalnum()]
    return View(
        "".join(view.text[number] for number in kept), [view.starts[number] for number in kept],
        [view.ends[number] for number in kept],
    )  # fmt: skip


def rewritten(view: View, pattern: re.Pattern, become: Callable[[re.Match], str | None]) -> View:
    """Each match replaced by what ``become`` says, all of whose letters stand where the match stood; None: it stays."""
    text, starts, ends, done = [], [], [], 0
    for found in pattern.finditer(view.text):
        new = become(found)
        if new is None:
            continue
        begin, end = found.span()
        text += [view.text[done:begin], new]
        starts += view.starts[done:begin] + [view.starts[begin]] * len(new)
        ends += view.ends[done:begin] + [view.ends[end - 1]] * len(new)
        done = end
    text.append(view.text[done:])
    return View("".join(text), starts + view.starts[done:], ends + view.ends[done:])


_ESCAPE = re.compile(
    r"""
    (?P<bytes>(?:%|\\x)(?:[Cc][2-9A-Fa-f]|[Dd][0-9A-Fa-f])(?:%|\\x)[89ABab][0-9A-Fa-f]      # letters beyond ASCII in a
      | (?:%|\\x)[Ee][0-9A-Fa-f](?:(?:%|\\x)[89ABab][0-9A-Fa-f]){2}                          # URL, or as bytes
      | (?:%|\\x)[Ff][0-4](?:(?:%|\\x)[89ABab][0-9A-Fa-f]){3})
    | %(?P<byte>[0-7][0-9A-Fa-f])
    | (?P<pair>\\u[dD][89ABab][0-9A-Fa-f]{2}\\u[dD][C-Fc-f][0-9A-Fa-f]{2})  # a letter beyond 16 bits in JSON
    | \\u(?P<four>[0-9A-Fa-f]{4}) | \\u\{(?P<braced>[0-9A-Fa-f]{1,6})\}
    | \\U(?P<eight>[0-9A-Fa-f]{8}) | \\x(?P<two>[0-9A-Fa-f]{2})
    | (?P<entity>&(?:\#\d{1,7}|\#[xX][0-9A-Fa-f]{1,6}|[A-Za-z]{2,31});)
    | \\(?P<cut>\r?\n) | \\(?P<control>[nrtbfv]) | \\(?P<itself>.)
    """,
    re.VERBOSE,
)
_JOINTS = tuple(
    re.compile(rf"""["'`]+(?:\s*[+\\]?\s*{prefix}["'`]+)*|\\\r?\n[ \t]*""") for prefix in ("", "[fFrRbBuU]{1,2}")
)
_CONTROL = {"n": "\n", "r": "\r", "t": "\t", "b": "\b", "f": "\f", "v": "\v"}


def _letter(found: re.Match) -> str | None:
    """What an escape stands for; None, where it is none."""
    kind, written = found.lastgroup, found.group(found.lastgroup)
    if kind in ("byte", "four", "braced", "eight", "two"):
        number = int(written, 16)
        return chr(number) if number <= 0x10FFFF else None
    if kind == "bytes":
        try:
            return bytes.fromhex(re.sub(r"%|\\x", "", written)).decode("utf-8")
        except UnicodeDecodeError:
            return None
    if kind == "pair":
        high, low = int(written[2:6], 16), int(written[8:12], 16)
        return chr(0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00))
    if kind == "entity":
        letter = html.unescape(written)
        return None if letter == written else letter
    return "" if kind == "cut" else _CONTROL[written] if kind == "control" else written
