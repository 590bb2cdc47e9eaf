"""Multiple choice: how likely each of four letters is as the next token of a prompt; no answer is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from engine.catalog.choice_tasks import LETTERS, Subject, read_task
from engine.errors import UserError
from engine.options.jobs import EvalJob
from engine.runs.record import Recorder
from engine.work.batched_answers import letter_logps
from engine.work.kept_lines import KeptLines
from engine.work.load import render_prompt
from engine.work.questions import by_length


class Asked(NamedTuple):
    """One question as the model reads it."""

    subject: Subject
    row: int
    prompt: str
    ids: list[int]
    answer: str


def measure_choices(job: EvalJob, loaded: Any, recorder: Recorder) -> dict[str, Any]:
    """Answer all questions of ``job.task``. Returns shares of right answers, in percent, as ``accuracies`` has them.

    Args:
        loaded: ``evaluate.Loaded``.

    Raises:
        UserError: the files of the task are not there or broken, or the model has no token for a letter.
    """
    tokenizer = loaded.tokenizer
    subjects = read_task(Path(job.task_dir).expanduser(), job.task, job.max_samples)
    asked = [each for subject in subjects for each in asked_of(subject, job, loaded)]
    letters = [tokenizer.encode(letter, add_special_tokens=False)[-1] for letter in LETTERS]
    if len(set(letters)) < len(letters):
        raise UserError("eval.letters", model=job.model_name_or_path)
    kept = KeptLines(
        recorder.folder.predictions, by_length([len(each.ids) for each in asked], job.per_device_eval_batch_size)
    )
    for batch in kept.open_batches:
        recorder.phase("choosing", len(kept.lines), len(asked), "rows")
        recorder.check_stop()
        logps = letter_logps(loaded.model, [asked[index].ids for index in batch], tokenizer, letters)
        kept.add([_line(index, asked[index], row) for index, row in zip(batch, logps.exp().tolist(), strict=True)])
    recorder.phase("choosing", len(asked), len(asked), "rows")
    kept.finish(kept.lines)
    return accuracies(kept.lines, subjects)


def asked_of(subject: Subject, job: EvalJob, loaded: Any) -> list[Asked]:
    """The questions of a subject, each with as many solved ones before it as fit into ``cutoff_len``."""
    most = min(job.cutoff_len, loaded.room)
    found = []
    for question in subject.questions:
        for count in range(min(job.n_shot, len(subject.solved)), -1, -1):
            prompt = render_prompt(loaded.tokenizer, subject.messages(question, job.lang, count), job)
            ids = loaded.tokenizer(prompt, add_special_tokens=False)["input_ids"]
            if len(ids) <= most:
                break
        else:
            facts = {"subject": subject.name, "row": question.row, "tokens": len(ids), "cutoff": most}
            raise UserError("eval.question_long", **facts)
        found.append(Asked(subject, question.row, prompt, ids, question.answer))
    return found


def accuracies(lines: list[dict[str, Any]], subjects: list[Subject]) -> dict[str, Any]:
    """Right answers in percent: of all questions, of those of each category, and of each subject.

    Every question weighs the same: a category's share is not the mean of its subjects' shares.
    """
    by_subject: dict[str, list[float]] = {}
    by_category: dict[str, list[float]] = {}
    category = {subject.key: subject.category for subject in subjects}
    for line in lines:
        by_subject.setdefault(line["dataset"], []).append(line["scores"]["exact_match"])
        by_category.setdefault(category[line["dataset"]], []).append(line["scores"]["exact_match"])
    return {
        "accuracy": _mean([line["scores"]["exact_match"] for line in lines]),
        "accuracy_of_categories": {name: _mean(rights) for name, rights in sorted(by_category.items())},
        "accuracy_of_subjects": {name: _mean(rights) for name, rights in sorted(by_subject.items())},
        "samples": len(lines),
    }


def _line(index: int, asked: Asked, probabilities: list[float]) -> dict[str, Any]:
    best = max(range(len(LETTERS)), key=probabilities.__getitem__)
    right = probabilities[LETTERS.index(asked.answer)]
    return {
        "index": index, "dataset": asked.subject.key, "row": asked.row, "prompt": asked.prompt,
        "predict": LETTERS[best], "label": asked.answer,
        "probabilities": {letter: round(value, 6) for letter, value in zip(LETTERS, probabilities, strict=True)},
        "scores": {"exact_match": 100.0 * (LETTERS[best] == asked.answer), "probability": round(100 * right, 4)},
    }  # fmt: skip


def _mean(values: list[float]) -> float:
    return round(sum(values) / len(values), 4)
