"""Words of the field that explain themselves where they stand in a text. Knows no component; glossary.js shows them.

What a word means, and how it is spelled, stands in the locale files: ``glossary.<key>.says`` and ``.spelled``.
"""

from __future__ import annotations

import re
from functools import cache, lru_cache

from engine.words import all_words, words

ANCHOR = "gloss-"
"""Before a word's key: the id of its explanation on the page, and what its mark points to."""

CODE = r"`[^`]*`"
SCRIPTS = (  # the letters of a script, and what may not stand before and after a word of them
    ("a-z0-9а-яё", r"(?<![a-z0-9а-яё_.\-])", r"(?![a-z0-9а-яё_+\-]|\.\w)"),
    ("ァ-ヺー", "(?<![ァ-ヺー])", "(?![ァ-ヺー])"),
    ("가-힣", "(?<![가-힣])", ""),  # particles follow without a space
    ("", "", ""),  # Chinese characters and hiragana: nothing shows where a word begins or ends
)

Piece = tuple[str, str | None]


@cache
def terms(language: str) -> tuple[str, ...]:
    """The keys of the words that are explained."""
    return tuple(key.split(".")[1] for key in all_words(language) if re.fullmatch(r"glossary\.\w+\.says", key))


def meaning(term: str, language: str) -> str:
    return words(f"glossary.{term}.says", language)


@lru_cache(maxsize=8192)
def pieces(text: str, language: str) -> tuple[Piece, ...]:
    """A text in pieces, each with the key of the term that it spells, or None; together they are the text.

    Only where a term first stands; of two that begin at one place the longer one; never inside code.
    """
    found: list[Piece] = []
    end, seen = 0, set()
    finder, keys = _finder(language)
    for match in finder.finditer(text.lower()):
        term = keys.get(match[0])
        if term is None or term in seen:
            continue
        seen.add(term)
        found += [(text[end : match.start()], None), (text[match.start() : match.end()], term)]
        end = match.end()
    return tuple(piece for piece in [*found, (text[end:], None)] if piece[0])


def as_markdown(text: str, language: str) -> str:
    """A help line with its terms as links, the one mark beside code and bold that Gradio 6.31 lets through there."""
    return "".join(piece if term is None else f"[{piece}](#{ANCHOR}{term})" for piece, term in pieces(text, language))


@cache
def _finder(language: str) -> tuple[re.Pattern[str], dict[str, str]]:
    """What finds code and terms in small letters, and the key of each spelling."""
    keys = {
        spelling.strip().lower(): term
        for term in terms(language)
        for spelling in words(f"glossary.{term}.spelled", language).split(",")
    }
    groups: dict[tuple[str, str], list[str]] = {}
    for spelling in sorted(keys, key=len, reverse=True):
        groups.setdefault((_script(spelling[0])[1], _script(spelling[-1])[2]), []).append(re.escape(spelling))
    found = [f"{before}(?:{'|'.join(spellings)}){after}" for (before, after), spellings in groups.items()]
    return re.compile("|".join([CODE, *found])), keys


def _script(letter: str) -> tuple[str, str, str]:
    return next(script for script in SCRIPTS if not script[0] or re.match(f"[{script[0]}]", letter))
