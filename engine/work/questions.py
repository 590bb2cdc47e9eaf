"""The rows of an evaluation: those that training would learn from or hold out, and what is asked of each."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from engine.catalog.conversations import to_messages
from engine.catalog.datasets import find_entry
from engine.catalog.learned import plans
from engine.catalog.rendering import renderer_of
from engine.catalog.rows import rows_of
from engine.catalog.tool_formats import wrapped_tools
from engine.errors import UserError
from engine.options.evaluation import Evaluation
from engine.options.jobs import EvalJob, TrainJob
from engine.options.model import Model
from engine.runs.record import Recorder
from engine.work.dataset import Rows, prepare
from engine.work.load import render_prompt
from engine.work.sources import local_entry


class Question(NamedTuple):
    """What one row asks.

    Args:
        index: place of the row among those that are measured.
        dataset, row: where it is from; rows are counted from 1.
        prompt: as the model is given it.
        ids: its tokens; in the middle some are left out where it is longer than ``cutoff_len``.
        label: what the data answers.
    """

    index: int
    dataset: str
    row: int
    prompt: str
    ids: list[int]
    label: str
    is_cut: bool


def as_training(job: EvalJob) -> TrainJob:
    """The training that would learn from the same rows: so both read, render, cut and hold out rows by one code."""
    shared = {
        name: getattr(job, name)
        for group in (Model, Evaluation)
        for name in group.model_fields
        if name in TrainJob.model_fields
    }
    if job.eval_dataset:
        shared |= {"dataset": job.eval_dataset, "eval_dataset": (), "val_size": 0.0}
    return TrainJob(**{**shared, "output_dir": None, "packing": False})


def measured_rows(job: EvalJob, tokenizer: Any, recorder: Recorder) -> Rows:
    """The rows of a job, encoded: of ``eval_dataset``, or held out from ``dataset``, or all of it.

    Raises:
        UserError: a dataset is missing or broken, or leaves nothing to measure.
    """
    prepared = prepare(as_training(job), tokenizer, recorder)
    return prepared.train if prepared.evaluation is None else prepared.evaluation


def questions(job: EvalJob, rows: Rows, tokenizer: Any, room: int, recorder: Recorder) -> list[Question]:
    """What is asked of each row: all up to its last answer.

    Args:
        room: tokens of a prompt that are kept at most, whatever ``cutoff_len`` allows.

    Raises:
        UserError: the chat template is missing or refuses, or there is no conversation in a row.
    """
    training = as_training(job)
    renderer = renderer_of(tokenizer, job)
    places = list(zip(rows.table["dataset"], rows.table["row"], strict=True))
    examples = _examples(training, places, recorder)
    most = min(job.cutoff_len, room)
    found = []
    for index, place in enumerate(places):
        example = examples[place]
        *before, answer = example.messages
        tools = wrapped_tools(json.loads(example.tools)) if example.tools else None
        try:
            prompt = render_prompt(tokenizer, before, job, tools=tools)
            label = answer.get("content") or ""
            if answer.get("tool_calls"):
                label = _spoken(plans(training, renderer, example)[0].turns[-1].answer, tokenizer)
        except UserError as error:
            raise UserError("eval.row", dataset=place[0], row=place[1], detail=error.text()) from error
        ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
        found.append(Question(index, *place, prompt, shortened(ids, most), label, len(ids) > most))
    return found


def shortened(ids: list[int], most: int) -> list[int]:
    """At most so many tokens: the middle goes, since a prompt says at its begin and at its end what is to be done."""
    if len(ids) <= most:
        return ids
    end = most - most // 2
    return ids[: most // 2] + ids[len(ids) - end :]


def by_length(lengths: Sequence[int], size: int) -> list[list[int]]:
    """Numbers of rows in batches of like length, the longest first: one too big for the memory fails at once."""
    order = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    return [order[at : at + size] for at in range(0, len(order), size)]


def _examples(job: TrainJob, places: Iterable[tuple[str, int]], recorder: Recorder) -> dict[tuple[str, int], Any]:
    """The conversations of these rows of these datasets."""
    wanted: dict[str, set[int]] = {}
    for dataset, row in places:
        wanted.setdefault(dataset, set()).add(row)
    found = {}
    for name in job.dataset:
        entry = local_entry(find_entry(Path(job.dataset_dir), name), job, recorder)
        numbers = wanted.get(entry.name, set())
        last = max(numbers, default=0)
        for number, row in rows_of(entry.path):
            if number > last:
                break
            if number in numbers:
                found[entry.name, number] = to_messages(row, entry, number)
    return found


def _spoken(answer: str, tokenizer: Any) -> str:
    """An answer as it is read once special tokens are left out."""
    return tokenizer.decode(tokenizer(answer, add_special_tokens=False)["input_ids"], skip_special_tokens=True)
