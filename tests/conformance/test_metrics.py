"""Scores of answers against nltk, against formulas written out, and against values worked out by hand."""

from __future__ import annotations

import math
import random
from collections import Counter

import pytest

sacrebleu = pytest.importorskip("sacrebleu")
bleu_score = pytest.importorskip("nltk.translate.bleu_score")

from engine.options.jobs import EvalJob  # noqa: E402
from engine.work.metrics import character_bleu, corpus_bleu, rouge, row_scores, total_scores  # noqa: E402

JOB = EvalJob(dataset="x")
PAIRS = [
    ("the cat sat on the mat", "the cat is on the mat"), ("你好，很高兴认识你！", "你好，认识你很高兴。"),
    ("completely different", "nothing alike: 42"), ("abcd", "abcd"), ("a b  c\nd e", "a b c d e"),
    ("short", "a much longer label than the answer is"), ("mixed 中文 and words", "words and 中文 mixed"),
    ("the cat sat", "the cat sat on the old mat"),
]  # fmt: skip


@pytest.mark.parametrize(("predict", "label"), PAIRS)
def test_bleu_4_is_nltks_over_characters_with_its_third_smoothing(predict, label):
    smoothing = bleu_score.SmoothingFunction().method3
    wanted = bleu_score.sentence_bleu([list(label)], list(predict), smoothing_function=smoothing)
    assert character_bleu(predict, label) == pytest.approx(100 * wanted, abs=1e-6)


def test_random_texts_have_nltks_bleu_too():
    source = random.Random(0)
    for _ in range(200):
        predict, label = ("".join(source.choices("ab c", k=source.randint(4, 30))).strip() + "dddd" for _ in range(2))
        smoothing = bleu_score.SmoothingFunction().method3
        wanted = bleu_score.sentence_bleu([list(label)], list(predict), smoothing_function=smoothing)
        assert character_bleu(predict, label) == pytest.approx(100 * wanted, abs=1e-6)


def test_what_has_less_than_four_characters_is_right_when_it_is_right():
    assert character_bleu("B", "B") == pytest.approx(100) and character_bleu("A", "B") == 0
    assert character_bleu("", "") == 100 and character_bleu("", "x") == 0 and character_bleu("x", "") == 0


def words(text: str) -> list[str]:
    found, word = [], ""
    for character in text.lower() + " ":
        if "\u4e00" <= character <= "\u9fff" or not character.isalnum():
            found += [word] if word else []
            found += [character] if "\u4e00" <= character <= "\u9fff" else []
            word = ""
        else:
            word += character
    return found


def longest_common(first: list[str], second: list[str]) -> int:
    if not first or not second:
        return 0
    if first[-1] == second[-1]:
        return 1 + longest_common(first[:-1], second[:-1])
    return max(longest_common(first[:-1], second), longest_common(first, second[:-1]))


@pytest.mark.parametrize(("predict", "label"), PAIRS[:3] + PAIRS[4:])
def test_rouge_is_the_formula_of_its_paper(predict, label):
    have, want = words(predict), words(label)
    scores = rouge(predict, label)
    for size in (1, 2):
        grams = [Counter(zip(*(each[at:] for at in range(size)), strict=False)) for each in (have, want)]
        common = sum(min(count, grams[1][gram]) for gram, count in grams[0].items())
        total = sum(map(sum, (each.values() for each in grams)))
        assert scores[f"rouge-{size}"] == pytest.approx(200 * common / total if total else 0)
    if len(have) < 9 and len(want) < 9:
        wanted = 200 * longest_common(have, want) / (len(have) + len(want))
        assert scores["rouge-l"] == pytest.approx(wanted)


def test_bleu_of_the_corpus_is_in_words_and_of_chinese_in_characters():
    english = [
        ("the cat sat on the mat today", "the cat sat on the mat"),
        ("it rains a lot here", "it rains a lot here"),
    ]
    hits = [12 / 12 - 1 / 12, 9 / 10, 7 / 8, 5 / 6]
    length, wanted_length = 12, 11
    brevity = min(1.0, math.exp(1 - wanted_length / length))
    assert corpus_bleu(english) == pytest.approx(100 * brevity * math.prod(hits) ** 0.25)
    assert corpus_bleu([("你好世界今天", "你好世界今天")]) == pytest.approx(100)


def test_scores_of_extraction():
    right = (
        '[{"subject": "a", "predicate": "p", "object": "b", "t": 1}, {"subject": "c", "predicate": "p", "object": "d"}]'
    )
    half = '[{"subject": "a", "predicate": "p", "object": "b", "t": 2}]'
    scores = row_scores(half, right, JOB)
    assert scores["json_valid"] == 100 and scores["exact_match"] == 0
    assert scores["json_triple_f1"] == pytest.approx(200 / 3, abs=1e-3)  # 1 of 1 found, of 2 wanted
    assert scores["json_item_f1"] == 0  # the type is wrong, so the whole object is
    assert scores["json_field_f1"] == pytest.approx(600 / 11, abs=1e-3)  # 3 of 4 found, of 7 wanted
    assert row_scores('{"b": 1, "a": 2}', '{"a": 1, "b": 2}', JOB)["json_field_f1"] == 0  # right values, wrong names
    broken = row_scores("[{", right, JOB)
    assert [broken[f"json_{name}"] for name in ("valid", "item_f1", "field_f1", "triple_f1")] == [0, 0, 0, 0]
    assert "json_valid" not in row_scores("{}", "no JSON", JOB)
    rows = [{"predict": text, "label": right, "scores": row_scores(text, right, JOB)} for text in (half, "[{", right)]
    totals = total_scores(rows, JOB)
    assert totals["json_valid"] == pytest.approx(66.6667)
    assert totals["json_triple_f1"] == pytest.approx(100 * 2 * 3 / (3 + 6), abs=1e-3)  # over all, not the mean of rows
    assert totals["json_triple_precision"] == 100 and totals["json_triple_recall"] == 50


@pytest.mark.parametrize("label", ["[]", "{}"])
@pytest.mark.parametrize("answer", ["There are none.", "", '[{"subject": "a"'])
def test_what_is_no_json_is_wrong_where_nothing_is_wanted(answer, label):
    scores = row_scores(answer, label, JOB)
    found = {name: value for name, value in scores.items() if name.startswith("json_")}
    assert found and set(found.values()) == {0}
    assert row_scores(label, label, JOB)["json_field_f1"] == 100
    assert ("json_triple_f1" in scores) == (label == "[]")  # {} is no list of facts


def test_json_is_compared_by_its_values():
    def field_f1(answer: str, label: str) -> float:
        return row_scores(answer, label, JOB)["json_field_f1"]

    assert field_f1('{"price": 10.0, "n": 1e2}', '{"price": 10, "n": 100}') == 100  # one number, however it is written
    assert field_f1('{"price": "10"}', '{"price": 10}') == 0  # text is no number, true is no 1
    assert field_f1('{"a": true}', '{"a": 1}') == 0
    assert field_f1('{"a.b": 1}', '{"a": {"b": 1}}') == field_f1('{"a[]": 1}', '{"a": [1]}') == 0
    assert row_scores('{"a": NaN}', '{"a": 1}', JOB)["json_valid"] == 0  # Python alone reads it
    assert field_f1('{"a": 1e999}', '{"a": 1}') == 0


def test_answers_without_words_share_none():
    assert [row_scores(answer, "+", JOB)["token_f1"] for answer in ("+", "-", "")] == [100, 0, 0]


def test_only_what_is_asked_for_is_scored_and_thoughts_are_not():
    job = EvalJob(dataset="x", metrics=("exact",), answer_pattern=r"answer is (-?\d+)")
    assert row_scores("<think>\nhm: the answer is 5\n</think>\n\nyes", "yes", job)["exact_match"] == 100
    thought = row_scores("<think>the answer is 4</think>So the answer is 5, no: the answer is 4", "4", job)
    assert thought == {"exact_match": 0, "pattern_match": 100}
    assert row_scores("I do not know", "4", job)["pattern_match"] == 0
