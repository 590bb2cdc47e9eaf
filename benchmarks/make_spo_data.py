"""Writes the extraction sets in data/ from sentence patterns; knows nothing of models, tokenizers or training.

    python benchmarks/make_spo_data.py

The patterns, names and types of a language stand in spo_patterns_<language>.yaml. Nothing of the held-out side occurs
in train: its patterns are lists of their own, and every name (person, film, date, ...) belongs to one side for good,
decided by a checksum of the name itself. The same files always come out, byte for byte.
"""

import json
import random
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

HERE = Path(__file__).resolve().parent
DATA = HERE.parent / "data"
SIDES = ("train", "heldout")
SLOT = re.compile(r"(?:\b([Aa]) )?<(\w+)>")  # with the English article before it, if there is one
ROWS = {  # language → side → rows with one fact, rows with several
    "en": {"train": (660, 440), "heldout": (66, 54)},
    "zh": {"train": (420, 260), "heldout": (56, 44)},
}
FILES = {
    "en": {"train": "spo_demo.json", "heldout": "spo_demo_test.json"},
    "zh": {"train": "spo_demo_zh.json", "heldout": "spo_demo_zh_test.json"},
}


class Pattern(NamedTuple):
    sentence: str  # with slots: "<film> was directed by <person>."
    facts: tuple[tuple[str, str, str], ...]  # (subject slot, predicate, object slot)


def read_language(language: str) -> dict[str, Any]:
    return yaml.safe_load((HERE / f"spo_patterns_{language}.yaml").read_text(encoding="utf-8"))


def slots(template: str) -> list[str]:
    return [match[2] for match in SLOT.finditer(template)]


def put(template: str, word_for: Callable[[str], str]) -> str:
    """Replace each slot by its word; "a <occupation>" becomes "an archivist"."""

    def one(match: re.Match[str]) -> str:
        article, word = match[1], word_for(match[2])
        if article is None:
            return word
        return f"{article}n {word}" if word[0] in "AEIOUaeiou" else f"{article} {word}"

    return SLOT.sub(one, template)


def kind_of(slot: str) -> str:
    """person2 → person"""
    return slot.rstrip("0123456789")


def one_fact_patterns(spec: dict[str, Any], side: str) -> list[Pattern]:
    patterns = []
    for predicate, sentences in spec["one_fact"].items():
        subject_type, _ = spec["predicates"][predicate]
        for sentence in sentences[side]:
            first, second = slots(sentence)
            if spec["kinds"][kind_of(first)]["type"] != subject_type:
                first, second = second, first
            patterns.append(Pattern(sentence, ((first, predicate, second),)))
    return patterns


def several_facts_patterns(spec: dict[str, Any], side: str) -> list[Pattern]:
    return [
        Pattern(sentence, tuple(tuple(fact.split(" - ")) for fact in facts))
        for sentence, *facts in spec["several_facts"][side]
    ]


def side_of(name: str) -> str:
    """The side a name belongs to: about one in four is held out."""
    return "heldout" if zlib.crc32(name.encode()) % 4 == 0 else "train"


def draw_word(words: Any, rng: random.Random) -> str:
    if isinstance(words, str):
        low, high = words.split("..")
        return str(rng.randint(int(low), int(high)))
    return rng.choice(words)


def draw_name(spec: dict[str, Any], kind: str, side: str, rng: random.Random) -> str:
    while True:
        form = rng.choice(spec["kinds"][kind]["forms"])
        name = put(form, lambda key: draw_word(spec["words"][key], rng))
        if side_of(name) == side:
            return name


def fill(
    spec: dict[str, Any], pattern: Pattern, side: str, uses: Counter[str], rng: random.Random
) -> tuple[str, list[dict[str, str]]]:
    """One sentence and its facts; prefers names that were used seldom so far, and counts them."""
    names: dict[str, str] = {}
    for slot in slots(pattern.sentence):
        drawn = [draw_name(spec, kind_of(slot), side, rng) for _ in range(8)]
        new_here = [name for name in drawn if name not in names.values()]
        names[slot] = min(new_here, key=uses.__getitem__)
    uses.update(names.values())
    facts = []
    for subject, predicate, object_ in pattern.facts:
        subject_type, object_type = spec["predicates"][predicate]
        facts.append({
            "predicate": predicate,
            "subject_type": subject_type,
            "object_type": object_type,
            "subject": names[subject],
            "object": names[object_],
        })  # fmt: skip
    return put(pattern.sentence, names.__getitem__), facts


def in_turn(patterns: list[Pattern], count: int, rng: random.Random) -> Iterator[Pattern]:
    """Use every pattern equally often; the last, incomplete round takes a random part."""
    for start in range(0, count, len(patterns)):
        yield from rng.sample(patterns, min(len(patterns), count - start))


def make_rows(language: str, side: str) -> list[dict[str, str]]:
    """All rows of one file, in alpaca format: instruction, input, output."""
    spec = read_language(language)
    rng = random.Random(f"spo {language} {side}")
    one, several = ROWS[language][side]
    patterns = [
        *in_turn(one_fact_patterns(spec, side), one, rng),
        *in_turn(several_facts_patterns(spec, side), several, rng),
    ]
    rng.shuffle(patterns)
    uses: Counter[str] = Counter()
    rows: dict[str, dict[str, str]] = {}
    for pattern in patterns:
        sentence, facts = fill(spec, pattern, side, uses, rng)
        while sentence in rows:
            sentence, facts = fill(spec, pattern, side, uses, rng)
        rows[sentence] = {
            "instruction": spec["instruction"],
            "input": spec["input"].replace("<sentence>", sentence),
            "output": json.dumps(facts, ensure_ascii=False),
        }
    return list(rows.values())


def as_text(rows: list[dict[str, str]]) -> str:
    """JSON with one row a line, so that a change shows as the rows it touches."""
    return "[\n" + ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n]\n"


def main() -> None:
    for language, files in FILES.items():
        for side, name in files.items():
            rows = make_rows(language, side)
            (DATA / name).write_text(as_text(rows), encoding="utf-8")
            print(f"{name}: {len(rows)} rows")


if __name__ == "__main__":
    main()
