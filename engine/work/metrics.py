"""Scores of written answers against those that the data holds. All are percentages; docs/evaluate.md defines each.

The libraries take three seconds to load, so they are loaded when the first answer is scored.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

from engine.catalog.answer_scores import (
    Hits,
    field_hits,
    is_same,
    item_hits,
    json_of,
    pattern_agrees,
    token_f1,
    tokens,
    triple_hits,
    triples,
    without_thought,
)
from engine.options.jobs import EvalJob

ROUGE = {"rouge-1": "rouge1", "rouge-2": "rouge2", "rouge-l": "rougeL"}
_CHINESE = re.compile(r"[\u3400-\u9fff]")


def row_scores(predict: str, label: str, job: EvalJob) -> dict[str, float]:
    """The scores of one answer, 0 to 100; those of JSON only where the label is JSON."""
    predict, label = without_thought(predict), without_thought(label)
    chosen = job.metrics
    found: dict[str, float] = {}
    if "bleu" in chosen:
        found["bleu-4"] = character_bleu(predict, label)
    if "rouge" in chosen:
        found |= rouge(predict, label)
    if "exact" in chosen:
        found["exact_match"] = 100.0 * is_same(predict, label)
    if "f1" in chosen:
        found["token_f1"] = 100 * token_f1(predict, label)
    if "json" in chosen and (wanted := json_of(label)) is not None:
        written = json_of(predict)
        full = 100.0 * (written is not None)  # where nothing is wanted, what is no JSON is wrong all the same
        found["json_valid"] = full
        found["json_item_f1"] = full * item_hits(written, wanted).f1
        found["json_field_f1"] = full * field_hits(written, wanted).f1
        if (facts := triples(label)) is not None:
            found["json_triple_f1"] = full * triple_hits(predict, facts).f1
    if job.answer_pattern:
        found["pattern_match"] = 100.0 * pattern_agrees(job.answer_pattern, predict, label)
    return {name: round(value, 4) for name, value in found.items()}


def total_scores(rows: Sequence[dict[str, Any]], job: EvalJob) -> dict[str, float]:
    """The scores of a whole evaluation: means over rows; of JSON over all items and fields; and BLEU of the corpus.

    Args:
        rows: each with "predict", "label" and its "scores".
    """
    names = dict.fromkeys(name for row in rows for name in row["scores"] if name != "loss")
    totals = {name: _mean(row["scores"][name] for row in rows if name in row["scores"]) for name in names}
    pairs = [(without_thought(row["predict"]), without_thought(row["label"])) for row in rows]
    if "bleu" in job.metrics and pairs:
        totals["sacrebleu"] = corpus_bleu(pairs)
    if "json_valid" in totals:
        totals |= _json_totals(pairs)
    return {name: round(value, 4) for name, value in totals.items()}


def character_bleu(predict: str, label: str) -> float:
    """BLEU-4 of one answer over characters, spaces too, as LLaMA-Factory counts it; 0 to 100."""
    if not predict or not label:
        return 100.0 * (predict == label)
    return _sentence_bleu().sentence_score(_spread(predict), [_spread(label)]).score


def corpus_bleu(pairs: Sequence[tuple[str, str]]) -> float:
    """sacrebleu's BLEU of the whole corpus, in words: cut by "zh" where most labels are Chinese, else by "13a"."""
    chinese = sum(bool(_CHINESE.search(label)) for _, label in pairs)
    from sacrebleu.metrics import BLEU

    scorer = BLEU(tokenize="zh" if 2 * chinese > len(pairs) else "13a")
    return scorer.corpus_score([predict for predict, _ in pairs], [[label for _, label in pairs]]).score


def rouge(predict: str, label: str) -> dict[str, float]:
    """F-measures of ROUGE-1, -2 and -L over ``tokens``, 0 to 100."""
    scores = _rouge_scorer().score(label, predict)
    return {ours: 100 * scores[theirs].fmeasure for ours, theirs in ROUGE.items()}


class _Tokens:
    """``tokens`` as rouge-score wants a tokenizer."""

    def tokenize(self, text: str) -> list[str]:
        return tokens(text)


@lru_cache(maxsize=1)
def _rouge_scorer() -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer([*ROUGE.values()], tokenizer=_Tokens())


@lru_cache(maxsize=1)
def _sentence_bleu() -> Any:
    from sacrebleu.metrics import BLEU

    # force: the text looks tokenized, and is; effective_order: an answer of three characters has no four in a row
    return BLEU(tokenize="none", smooth_method="exp", effective_order=True, force=True)


def _spread(text: str) -> str:
    """A text whose words are its characters; a space, as that cannot be one, is written as its number."""
    return " ".join(f"\u2581{ord(character)}" if character.isspace() else character for character in text)


def _json_totals(pairs: Sequence[tuple[str, str]]) -> dict[str, float]:
    sums: dict[str, Hits] = {}
    for predict, label in pairs:
        wanted = json_of(label)
        if wanted is None:
            continue
        written, facts = json_of(predict), triples(label)
        hits = {"item": item_hits(written, wanted), "field": field_hits(written, wanted)}
        if facts is not None:
            hits["triple"] = triple_hits(predict, facts)
        sums = {**sums, **{name: sums.get(name, Hits()) + each for name, each in hits.items()}}
    return {
        f"json_{name}_{kind}": 100 * getattr(hits, kind)
        for name, hits in sums.items()
        for kind in ("f1", "precision", "recall")
    }


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return sum(found) / len(found)
