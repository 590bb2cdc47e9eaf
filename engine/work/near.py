"""Finds near duplicates among many rows in one pass: MinHash signatures point to candidates, the real texts decide.

For a million rows about 150 MB of tables in memory, and a spool file of the texts on the disk.
"""

from __future__ import annotations

import tempfile
import zlib
from array import array
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy

from engine.catalog.duplicates import Parts, likeness, squashed, words_of

SHINGLE = 4
"""Letters that are hashed together."""
BANDS = 12
"""Chances of a pair to meet. In each, two of the prompt's and two of the answer's smallest hashes must agree: so rows
made from one question with other answers, or the other way round, do not all meet each other."""
WAYS, BUCKETS = 4, 2**18
"""In each bucket of a band the last four rows that came there wait for another."""
FEW_WORDS, FEW_WAYS = 12, 2
"""A prompt of so few words also waits under each of the texts that are left when one of its words is taken out: rows
made from one template are all alike, and would crowd a row that differs by a slip out of its buckets."""
MOST_COMPARED = 8
"""Of the candidates of a row, so many with the most equal hashes are compared word by word."""
ENOUGH_OF_SHORT, ENOUGH_OF_LONG = 0.2, 0.5
"""Shares of equal hashes below which two prompts, or two answers, are not compared. In a short text a single slip
changes many of its shingles; a long one of the same language shares many with any other."""
LONG = 200

_BINS = numpy.arange(2 * BANDS, dtype=numpy.uint64) * numpy.uint64(2**64 // (2 * BANDS))
_BAND, _WORD = numpy.arange(BANDS), numpy.arange(FEW_WORDS)


class Near(NamedTuple):
    row: int
    percent: int


class _Places(NamedTuple):
    """Where a row waits: its bucket in each band, and of a short prompt the one without each of its words."""

    bands: numpy.ndarray
    few: numpy.ndarray


class NearDuplicates:
    """The rows seen so far. Numbers of rows are the caller's; they need not be consecutive."""

    def __init__(self, folder: Path) -> None:
        self._spool = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 it lives as long as this object
        self._rows, self._offsets = array("I"), array("Q", [0])
        self._buckets = numpy.zeros((BANDS, BUCKETS, WAYS), numpy.uint32)  # position + 1 of a row; 0: free
        self._few = numpy.zeros((FEW_WORDS, BUCKETS, FEW_WAYS), numpy.uint32)
        self._signatures = numpy.zeros((1024, 4 * BANDS), numpy.uint8)  # one byte of each smallest hash

    def __enter__(self) -> NearDuplicates:
        return self

    def __exit__(self, *error: object) -> None:
        self._spool.close()

    def find_and_add(self, row: int, parts: Parts) -> Near | None:
        """The row before this one that it repeats with small changes; None: there is none. Then it waits itself."""
        prompt, answer = _smallest(squashed(parts.prompt)), _smallest(squashed(parts.answer))
        signature = _low_bytes(prompt, answer)
        bands = _mixed(prompt[::2] * numpy.uint64(3) ^ prompt[1::2] * numpy.uint64(5)
                       ^ answer[::2] * numpy.uint64(7) ^ answer[1::2] * numpy.uint64(11))  # fmt: skip
        buckets = (bands % numpy.uint64(BUCKETS)).astype(numpy.int64)
        places = _Places(buckets, _one_word_less(parts))
        found = self._closest(parts, signature, places)
        self._add(row, parts, signature, places)
        return found

    def _closest(self, parts: Parts, signature: numpy.ndarray, places: _Places) -> Near | None:
        few = self._few[_WORD[: len(places.few)], places.few].ravel()
        candidates = numpy.unique(numpy.concatenate([self._buckets[_BAND, places.bands].ravel(), few]))
        candidates = candidates[candidates > 0].astype(numpy.int64) - 1
        if not candidates.size:
            return None
        equal = (self._signatures[candidates] == signature).reshape(-1, 2, 2 * BANDS).mean(2)
        enough = [ENOUGH_OF_LONG if len(part) > LONG else ENOUGH_OF_SHORT for part in parts[1:]]
        worth = (equal >= enough).all(1)
        candidates, equal = candidates[worth], equal[worth].mean(1)
        likely = equal + numpy.isin(candidates + 1, few)  # one word apart: before all that only look alike
        for index in numpy.argsort(-likely, kind="stable")[:MOST_COMPARED]:
            position = int(candidates[index])
            percent = likeness(self._read(position), parts)
            if percent is not None:
                return Near(self._rows[position], percent)
        return None

    def _add(self, row: int, parts: Parts, signature: numpy.ndarray, places: _Places) -> None:
        position = len(self._rows)
        if position == len(self._signatures):
            self._signatures = numpy.concatenate([self._signatures, numpy.zeros_like(self._signatures)])
        self._signatures[position] = signature
        self._rows.append(row)
        self._buckets[_BAND, places.bands, position % WAYS] = position + 1
        self._few[_WORD[: len(places.few)], places.few, position % FEW_WAYS] = position + 1
        for part in parts:
            content = part.encode("utf-8", "surrogatepass")
            self._spool.write(content)
            self._offsets.append(self._offsets[-1] + len(content))

    def _read(self, position: int) -> Parts:
        begin, *ends = self._offsets[3 * position : 3 * position + 4]
        self._spool.seek(begin)
        content = self._spool.read(ends[-1] - begin)
        self._spool.seek(0, 2)
        edges = [0, *(end - begin for end in ends)]
        texts = [content[a:b].decode("utf-8", "surrogatepass") for a, b in pairwise(edges)]
        return Parts(*texts)


def _smallest(text: str) -> numpy.ndarray:
    """The smallest hash in each of 2 × BANDS equal parts of the numbers, over all shingles (one-permutation MinHash).

    An empty part takes the next part's, so that short texts have a whole signature too.
    """
    letters = numpy.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4").astype(numpy.uint64)
    if letters.size < SHINGLE:
        letters = numpy.concatenate([letters, numpy.zeros(SHINGLE - letters.size, numpy.uint64)])
    hashes = numpy.zeros(letters.size - SHINGLE + 1, numpy.uint64)
    for step in range(SHINGLE):
        hashes = hashes * numpy.uint64(0x9E3779B97F4A7C15) + letters[step : step + hashes.size]
    hashes = numpy.sort(_mixed(hashes))
    return hashes[numpy.searchsorted(hashes, _BINS) % hashes.size]


def _one_word_less(parts: Parts) -> numpy.ndarray:
    """The buckets of a short prompt without its first word, without its second …, each with the whole answer."""
    words = [word.lower() for word in words_of(parts.prompt)]
    if not 1 < len(words) <= FEW_WORDS:
        return numpy.zeros(0, numpy.int64)
    answer = zlib.crc32(squashed(parts.answer).encode("utf-8", "surrogatepass"))
    texts = (" ".join(words[:index] + words[index + 1 :]) for index in range(len(words)))
    keys = [zlib.crc32(text.encode("utf-8", "surrogatepass"), answer) % BUCKETS for text in texts]
    return numpy.array(keys, numpy.int64)


def _mixed(numbers: numpy.ndarray) -> numpy.ndarray:
    """Every bit depends on every bit (the last steps of splitmix64)."""
    numbers = (numbers ^ numbers >> numpy.uint64(30)) * numpy.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ numbers >> numpy.uint64(27)) * numpy.uint64(0x94D049BB133111EB)
    return numbers ^ numbers >> numpy.uint64(31)


def _low_bytes(*hashes: numpy.ndarray) -> numpy.ndarray:
    return (numpy.concatenate(hashes) & numpy.uint64(255)).astype(numpy.uint8)
