"""What counts as the same row and what does not; and that the search finds it among others."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.catalog.conversations import Example, Judged, Preference, Text
from engine.catalog.duplicates import KeyTable, Parts, exact_key, likeness, parts_of, same_key
from engine.work.near import NearDuplicates

BREAD = (
    "To bake a loaf of bread you need flour, water, salt and yeast. Mix them in a bowl, knead the dough for ten "
    "minutes and let it rest in a warm place until it has doubled. Then shape it, let it rise again and bake it in a "
    "hot oven until the crust is brown and sounds hollow."
)
PARIS = "The capital of France is Paris."

NEAR = {
    "case and punctuation": (("What is the capital of France?", PARIS), ("what is the capital of france", PARIS[:-1])),
    "spacing": (("What is the capital of France?", PARIS), ("What  is the\ncapital of France ?", PARIS)),
    "letters turned": (("What is the capital of France?", "Paris"), ("What is the captial of France?", "Paris")),
    "letter lost": (("What is the capital of France?", "Paris"), ("What is the capitl of France?", "Paris")),
    "letter swapped": (("What is the capital of France?", PARIS), ("What is the capitel of France?", PARIS)),
    "sentence added": (("How do I bake bread?", BREAD), ("How do I bake bread?", BREAD + " Enjoy it warm.")),
    "word changed": (("How do I bake bread?", BREAD), ("How do I bake bread?", BREAD.replace("warm", "cosy"))),
    "slip in the answer": (("How do I bake bread?", BREAD), ("How do I bake bread?", BREAD.replace("oven", "ovne"))),
    "text": (("", BREAD), ("", BREAD.replace("crust", "rind"))),
    "quotes": (("Say “hello”", "‘Hello’ — of course"), ('Say "hello"', "'Hello' - of course")),
    "Chinese": (("你好，你是谁？", "我是一个助手。"), ("你好!你是谁", "我是一个助手")),
    "Russian": (("Объясни фотосинтез.", "Это процесс."), ("Объясни фотосинтес.", "Это процесс")),
    "accents": (("Où est la bibliothèque ?", "Là-bas."), ("où est la bibliothe\u0300que", "Là-bas")),
}

OTHER = {
    "greeting": (("hi", "Hello, how can I help you?"), ("hello", "Hello, how can I help you?")),
    "country": (("What is the capital of France?", PARIS), ("What is the capital of Spain?", "It is Madrid.")),
    "name, same answer": (("Is Iran in Asia?", "Yes"), ("Is Iraq in Asia?", "Yes")),
    "one word of a long question": (
        (
            "Say whether the review below is positive or negative. Answer with one word. " + BREAD + " I loved it.",
            "yes",
        ),
        (
            "Say whether the review below is positive or negative. Answer with one word. " + BREAD + " I hated it.",
            "yes",
        ),
    ),
    "name of who asks": (("Tell Martin how bread is baked.", BREAD), ("Tell Marvin how bread is baked.", BREAD)),
    "name in a long answer": (("Who bakes?", f"{BREAD} Ask Anna."), ("Who bakes?", f"{BREAD} Ask Berta.")),
    "first name": (("Tell Martin how old he is.", "You are old."), ("Tell Marvin how old he is.", "You are old.")),
    "number, same answer": (("Is 17 a prime number?", "Yes"), ("Is 19 a prime number?", "Yes")),
    "number in a long text": (("Bread?", BREAD), ("Bread?", BREAD.replace("ten", "10"))),
    "decimal point": (("Is 1.5 more than 1?", "Yes"), ("Is 15 more than 1?", "Yes")),
    "digits apart": (("Sort 1 23", "Sorted"), ("Sort 12 3", "Sorted")),
    "sign": (("5 > 3?", "Yes"), ("5 < 3?", "Yes")),
    "difference for sum": (("What is 5 - 3 + 2?", "four"), ("What is 5 * 3 + 2?", "four")),
    "label": (("Classify.\nI love this movie", "positive"), ("Classify.\nI hate this movie", "positive")),
    "other answer": (("How do I bake bread?", BREAD), ("How do I bake bread?", "Buy it.")),
    "other question": (("How do I bake cakes?", BREAD), ("How do I bake bread?", BREAD)),
    "smile": (("I am here 😀", "positive"), ("I am here 😢", "positive")),
    "Chinese pronoun": (("你好，你是谁？", "我是一个助手。"), ("你好，他是谁？", "我是一个助手。")),
    "Hindi vowel": (("हिन्दी की किताब", "ठीक है"), ("हिन्दी के किताब", "ठीक है")),
}

FILLERS = [Parts("", f"filler {index} about something else", f"an answer of its own, {index}") for index in range(30)]


@pytest.mark.parametrize(("one", "other"), NEAR.values(), ids=NEAR)
def test_nearly_the_same(one, other, tmp_path):
    assert likeness(Parts("", *one), Parts("", *other)) >= 80
    assert found(one, other, tmp_path) is not None


@pytest.mark.parametrize(("one", "other"), OTHER.values(), ids=OTHER)
def test_another_row(one, other, tmp_path):
    assert likeness(Parts("", *one), Parts("", *other)) is None
    assert found(one, other, tmp_path) is None


def found(one, other, tmp_path):
    with NearDuplicates(tmp_path) as near:
        near.find_and_add(7, Parts("", *one))
        for index, filler in enumerate(FILLERS, start=100):
            assert near.find_and_add(index, filler) is None
        hit = near.find_and_add(8, Parts("", *other))
    assert hit is None or hit.row == 7
    return hit


def test_another_system_prompt_makes_another_row():
    assert likeness(Parts("Be brief.", "hi", BREAD), Parts("Be kind.", "hi", BREAD)) is None


def test_likeness_is_the_same_both_ways_and_complete_for_the_same():
    for one, other in NEAR.values():
        assert likeness(Parts("", *one), Parts("", *other)) == likeness(Parts("", *other), Parts("", *one))
        assert likeness(Parts("", *one), Parts("", *one)) == 100


def test_many_rows_of_one_template_are_told_apart_and_a_slip_among_them_is_found(tmp_path):
    """All share their answer, and their prompt but for one word."""
    generator = random.Random(2)
    words = ["".join(generator.choices("abcdefghiklmnoprstu", k=5)) for _ in range(800)]
    rows = [Parts("", f"Is {word} a word of the English language?", "yes") for word in words]
    with NearDuplicates(tmp_path) as near:
        assert [near.find_and_add(index, row) for index, row in enumerate(rows, start=1)] == [None] * len(rows)
        for index in range(0, len(words), 4):
            slip = near.find_and_add(0, Parts("", f"Is {words[index]} a word of the English langauge?", "yes"))
            assert slip is not None and slip.row == index + 1


def test_texts_come_back_from_the_spool_as_they_were(tmp_path):
    odd = Parts("s\ud83d", "", "naïve 😀")
    with NearDuplicates(tmp_path) as near:
        for row, parts in enumerate([Parts("", "a", "b"), odd, Parts("c", "d", "")], start=1):
            near.find_and_add(row, parts)
        assert near._read(1) == odd
    assert list(tmp_path.iterdir()) == []


@given(st.lists(st.integers(0, 2**64 - 1) | st.integers(0, 40).map(lambda low: low << 20), max_size=2000))
def test_the_table_is_a_dictionary(keys):
    table, known = KeyTable(), {}
    for row, key in enumerate(keys, start=1):
        assert table.find(key) == known.get(key)
        assert table.add(key, row) == known.get(key)
        known.setdefault(key, row)
    assert all(table.find(key) == row for key, row in known.items())


QUESTION = {"role": "user", "content": "Hi?"}


def said(text):
    return {"role": "assistant", "content": text}


def test_parts_of_every_kind_of_row():
    tool = {"role": "tool", "content": "42"}
    system = {"role": "system", "content": "Be brief."}
    assert parts_of(Text("plain")) == Parts("", "", "plain")
    assert parts_of(Example((system, QUESTION, said("A"), tool, said("B")))) == Parts("Be brief.\n", "Hi?\n42", "A\nB")
    assert parts_of(Preference((QUESTION,), said("good"), said("bad"))) == Parts("", "Hi?", "good\nbad")
    assert parts_of(Judged((QUESTION, said("A")), True)).answer == "A"


def test_the_same_is_the_same_in_all_that_is_learned():
    keys = {
        exact_key(Example((QUESTION, said("A")))), exact_key(Example((QUESTION, said("a")))),
        exact_key(Example((QUESTION, said("A")), tools="[]")), exact_key(Judged((QUESTION, said("A")), True)),
        exact_key(Judged((QUESTION, said("A")), False)), exact_key(Text("A")),
    }  # fmt: skip
    assert len(keys) == 6
    assert exact_key(Example((QUESTION, said("A")))) in keys
    assert same_key(Parts("", "Hi?", "A.")) == same_key(Parts("", "hi", "a")) != same_key(Parts("", "hi", "b"))
