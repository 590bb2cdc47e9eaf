"""The demonstration sets in data/: well formed, reproducible, and nothing of a held-out set occurs in train."""

import importlib.util
import json
import re
from pathlib import Path

import pytest

from engine.catalog.conversations import to_example
from engine.catalog.datasets import find_entry

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "data"
KEYS = ["predicate", "subject_type", "object_type", "subject", "object"]
SIZES = {
    "spo_demo.json": (900, 1200),
    "spo_demo_test.json": (120, 120),
    "spo_demo_zh.json": (600, 1200),
    "spo_demo_zh_test.json": (100, 100),
}


def load_generator():
    path = ROOT / "benchmarks" / "make_spo_data.py"
    spec = importlib.util.spec_from_file_location("make_spo_data", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


generator = load_generator()
languages = pytest.mark.parametrize("language", sorted(generator.FILES))
files = pytest.mark.parametrize("name", sorted(SIZES))


def read_rows(name):
    return json.loads((DATA / name).read_text(encoding="utf-8"))


def sentence_of(row):
    return row["input"].rsplit("\n", 1)[-1]


def both_sides(language):
    """Rows of the train file, rows of the held-out file."""
    return [read_rows(generator.FILES[language][side]) for side in generator.SIDES]


def entity_pairs(rows):
    return {(fact["subject"], fact["object"]) for row in rows for fact in json.loads(row["output"])}


def entities(rows):
    return {name for pair in entity_pairs(rows) for name in pair}


def sentence_patterns(language, side):
    """Sentences with their slots, the slots' names left out: other names do not make another pattern."""
    spec = generator.read_language(language)
    patterns = generator.one_fact_patterns(spec, side) + generator.several_facts_patterns(spec, side)
    return [re.sub(r"<\w+>", "<>", pattern.sentence) for pattern in patterns]


def matchers(language, side):
    """A regular expression for each pattern; it accepts any name in each slot."""
    return [
        re.compile(".+".join(re.escape(part) for part in pattern.split("<>")))
        for pattern in sentence_patterns(language, side)
    ]


@files
def test_size(name):
    low, high = SIZES[name]
    assert low <= len(read_rows(name)) <= high


@files
def test_rows_are_unique_and_clean(name):
    rows = read_rows(name)
    assert len({row["input"] for row in rows}) == len(rows)
    assert len({row["instruction"] for row in rows}) == 1
    for row in rows:
        assert list(row) == ["instruction", "input", "output"]
        assert all(text == text.strip() and "  " not in text and "<" not in text for text in row.values())


@files
def test_facts_are_quotations_with_the_five_keys(name):
    for row in read_rows(name):
        facts = json.loads(row["output"])
        assert row["output"] == json.dumps(facts, ensure_ascii=False)
        assert 1 <= len(facts) <= 3
        assert len({tuple(fact.values()) for fact in facts}) == len(facts)
        for fact in facts:
            assert list(fact) == KEYS
            assert fact["subject"] in sentence_of(row) and fact["object"] in sentence_of(row), row
            assert fact["subject"] != fact["object"]


@languages
def test_each_predicate_has_one_pair_of_types_and_occurs_on_both_sides(language):
    declared = {(predicate, *types) for predicate, types in generator.read_language(language)["predicates"].items()}
    for rows in both_sides(language):
        seen = {tuple(fact[key] for key in KEYS[:3]) for row in rows for fact in json.loads(row["output"])}
        assert seen == declared


@languages
def test_every_name_in_a_pattern_is_part_of_a_fact(language):
    spec = generator.read_language(language)
    for side in generator.SIDES:
        for pattern in generator.one_fact_patterns(spec, side) + generator.several_facts_patterns(spec, side):
            in_facts = {slot for subject, _, object_ in pattern.facts for slot in (subject, object_)}
            assert in_facts == set(generator.slots(pattern.sentence)), pattern
            for subject, predicate, object_ in pattern.facts:
                types = [spec["kinds"][generator.kind_of(slot)]["type"] for slot in (subject, object_)]
                assert types == spec["predicates"][predicate], pattern


@languages
def test_held_out_sentences_and_entities_are_new(language):
    train, heldout = both_sides(language)
    assert not {sentence_of(row) for row in train} & {sentence_of(row) for row in heldout}
    assert not entity_pairs(train) & entity_pairs(heldout)
    assert len(entities(heldout) & entities(train)) < 0.2 * len(entities(heldout))


@languages
def test_held_out_patterns_are_new(language):
    train, heldout = (sentence_patterns(language, side) for side in generator.SIDES)
    assert len(set(train)) == len(train) and len(set(heldout)) == len(heldout)
    assert not set(train) & set(heldout)


@languages
def test_no_held_out_sentence_fits_a_train_pattern(language):
    _, heldout = both_sides(language)
    train_matchers = matchers(language, "train")
    fitting = [
        (sentence_of(row), matcher.pattern)
        for row in heldout
        for matcher in train_matchers
        if matcher.fullmatch(sentence_of(row))
    ]
    assert not fitting


@languages
def test_enough_patterns_for_each_predicate(language):
    spec = generator.read_language(language)
    assert list(spec["one_fact"]) == list(spec["predicates"])
    for predicate, sides in spec["one_fact"].items():
        assert len(sides["train"]) >= 10 and len(sides["heldout"]) >= 3, predicate


@languages
def test_the_generator_reproduces_the_files(language):
    for side, name in generator.FILES[language].items():
        made = generator.as_text(generator.make_rows(language, side))
        assert made.encode() == (DATA / name).read_bytes(), f"run benchmarks/make_spo_data.py to renew {name}"


def test_article_follows_the_word():
    put = generator.put
    assert put("A <job> met a <job>.", lambda _: "archivist") == "An archivist met an archivist."
    assert put("A <job> met a <job>.", lambda _: "painter") == "A painter met a painter."


def test_identity():
    rows = read_rows("identity.json")
    assert len(rows) >= 60
    assert len({row["instruction"] for row in rows}) == len(rows)
    for row in rows:
        assert list(row) == ["instruction", "input", "output"]
        assert "{{name}}" in row["output"] or "{{author}}" in row["output"], row
        assert not re.sub(r"\{\{(name|author)\}\}", "", row["output"]).count("{")
        assert "{{" not in row["instruction"]


@pytest.mark.parametrize(("name", "kind"), [("preference_demo", "preference"), ("kto_demo", "kto")])
def test_demonstrations_of_other_stages(name, kind):
    """Rows that can be learned from, each asked once; good and bad answers are as many, and differ."""
    entry = find_entry(DATA, name)
    rows = read_rows(f"{name}.json")
    assert entry.kind == kind and 30 <= len(rows) <= 40
    assert len({row["instruction"] for row in rows}) == len(rows)
    examples = [to_example(row, entry, number) for number, row in enumerate(rows, 1)]
    if kind == "preference":
        assert all(example.chosen != example.rejected for example in examples)
    else:
        assert 2 * sum(example.is_desirable for example in examples) == len(rows)


def test_dataset_info_names_these_files():
    registered = json.loads((DATA / "dataset_info.json").read_text(encoding="utf-8"))
    for name in ["identity.json", *SIZES]:
        assert registered[name.removesuffix(".json")] == {"file_name": name}
        assert (DATA / name).is_file()
