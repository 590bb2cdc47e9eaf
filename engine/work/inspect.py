"""Checks a dataset row by row on the path that training takes: conversion, template, tokens, cutting.

What is found is left in the run's folder. Memory does not grow with the rows but for the hashes that know them again.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from engine.catalog.conversations import Example
from engine.catalog.datasets import find_entry, is_file
from engine.catalog.duplicates import KeyTable, exact_key, parts_of, same_key
from engine.catalog.entry import Entry
from engine.catalog.lengths import Lengths
from engine.catalog.lint import Checked, Finding, check_row, file_findings, from_error, unused_findings
from engine.catalog.rows import Row, files_of, rows_and_faults
from engine.errors import UserError
from engine.options.jobs import DataJob
from engine.runs.read import read_language
from engine.runs.record import Recorder, write_text
from engine.work.imports import lean_imports
from engine.work.near import NearDuplicates

if TYPE_CHECKING:
    from engine.work.rows_seen import RowsSeen

FINDINGS_SHOWN = 1000
"""So many stand in the report; all are in findings.jsonl."""
CHUNK_ROWS = 64


def run(job: DataJob, recorder: Recorder) -> dict[str, Any]:
    """Check all rows of ``job.dataset``. Without a model there are no tokens, and so no lengths.

    Raises:
        UserError: a dataset is not there, or the rejected or clean rows would be written over the data themselves.
        StopRequested: somebody asked the run to stop.
    """
    named = [_entry_or_fault(job, name, recorder) for name in job.dataset]
    _refuse_own_files(job, [entry for entry, _ in named])
    seen = None
    if job.model_name_or_path:
        with lean_imports():
            from engine.work.rows_seen import RowsSeen  # loads torch, which a check without a model does not need

        seen = RowsSeen.of(job, recorder)
    with ExitStack() as stack:
        check = _Check(job, recorder, seen, stack)
        for entry, fault in named:
            if fault is None:
                check.dataset(entry)
            else:
                check.unreadable(entry, fault)
        return check.finish()


class _Check:
    """One check from its first row to its report."""

    def __init__(self, job: DataJob, recorder: Recorder, seen: RowsSeen | None, stack: ExitStack) -> None:
        self.job, self.recorder, self.seen, self.folder = job, recorder, seen, recorder.folder
        self.language = read_language(self.folder)
        self.lengths = Lengths() if seen else None
        self.kinds: Counter[str] = Counter()
        self.first: list[dict[str, Any]] = []
        self.rows = self.clean_rows = self.rows_found = 0
        self.exact, self.near = KeyTable(), stack.enter_context(NearDuplicates(self.folder.path))
        self.places = _Places()
        self.validation, self.validation_places = self._validation()
        self.files: dict[Path, IO[str]] = {}
        for path in (self.folder.findings, self.folder.rejects, self.folder.clean):
            unfinished = path.with_name(path.name + ".tmp")
            stack.callback(unfinished.unlink, missing_ok=True)
            self.files[path] = stack.enter_context(unfinished.open("w", encoding="utf-8"))

    def dataset(self, entry: Entry) -> None:
        """Check the rows of one dataset."""
        self.places.begin(entry.name)
        for finding in file_findings(entry, files_of(entry.path)):
            self._note(finding)
        if is_file(entry.name):
            for finding in unused_findings(entry):
                self._note(finding)
        rows = _readable(entry, self.job.max_samples)
        while chunk := list(islice(rows, CHUNK_ROWS)):
            checked = [check_row(content, entry, number) for number, content in chunk]
            encoded = self._encoded(checked, entry, [number for number, _ in chunk])
            for (number, content), row, further in zip(chunk, checked, encoded, strict=True):
                self._row(entry, number, content, Checked(row.example, [*row.findings, *further]))
            self.recorder.phase("checking", self.rows, unit="rows")
            self.recorder.check_stop()

    def unreadable(self, entry: Entry, fault: UserError) -> None:
        """Note what keeps a file from being read at all, or its format from being recognised."""
        self._note(from_error(fault, entry, None))

    def finish(self) -> dict[str, Any]:
        """Give all files their names, the report last."""
        for path, file in self.files.items():
            file.close()
            path.with_name(path.name + ".tmp").replace(path)
        for source, target in ((self.folder.rejects, self.job.rejects), (self.folder.clean, self.job.clean)):
            if target:
                _copy(source, Path(target).expanduser())
        if self.seen and self.seen.without_tools:
            self.recorder.warn("tools_not_shown", rows=self.seen.without_tools)
        lengths = None
        if self.lengths is not None:
            self.lengths.write(self.folder.lengths)
            lengths = self.lengths.summary(self.job.cutoff_len)
        report = {
            "datasets": list(self.job.dataset), "rows": self.rows, "clean_rows": self.clean_rows,
            "rows_found": self.rows_found, "kinds": dict(self.kinds.most_common()), "findings": self.first,
            "model": self.job.model_name_or_path, "template": self.job.template, "lengths": lengths,
        }  # fmt: skip
        write_text(self.folder.report, json.dumps(report, ensure_ascii=False, default=str))
        self.recorder.phase("checking", self.rows, self.rows, "rows")
        return {"rows": self.rows, "findings": self.kinds.total(), "clean_rows": self.clean_rows}

    def _row(self, entry: Entry, number: int, content: Row | UserError, row: Checked) -> None:
        """Compare one row with all before it, note what was found, and keep it or reject it."""
        findings = list(row.findings)
        is_sound = row.example is not None and all(each.severity != "error" for each in findings)
        repeated = False
        if is_sound:
            others = list(self._likes(entry, number, row.example))
            repeated = any(each.kind == "duplicate" for each in others)
            findings += others
        for finding in findings:
            self._note(finding)
        self.rows += 1
        self.rows_found += bool(findings)
        if is_sound and not repeated:
            self.clean_rows += 1
            self._write(self.folder.clean, content)
            return
        if row.example is None and isinstance(content, UserError):
            content = None
        reasons = [each.text(self.language) for each in findings]
        self._write(self.folder.rejects, {"row": number, "reasons": reasons, "content": content})

    def _likes(self, entry: Entry, number: int, example: Any) -> Iterator[Finding]:
        """The row before this one that it repeats, and the one of the validation data that it is."""
        place, parts = self.places.place(number), parts_of(example)
        first = self.exact.add(exact_key(example), place)
        if first is not None:
            yield Finding(number, "duplicate", {"dataset": entry.name, **self.places.named(first)})
        elif near := self.near.find_and_add(place, parts):
            facts = {"dataset": entry.name, "percent": near.percent, **self.places.named(near.row)}
            yield Finding(number, "near_duplicate", facts)
        shared = self.validation.find(same_key(parts))
        if shared is not None:
            facts = {"dataset": entry.name, **self.validation_places.named(shared)}
            yield Finding(number, "shared_with_validation", facts)

    def _encoded(self, checked: list[Checked], entry: Entry, numbers: list[int]) -> list[list[Finding]]:
        """What tokens show of each row: what is cut, and where nothing is left to learn."""
        found: list[list[Finding]] = [[] for _ in checked]
        usable = [
            index for index, row in enumerate(checked)
            if self.seen and row.example is not None and all(each.severity != "error" for each in row.findings)
        ]  # fmt: skip
        outcomes = self.seen.rows([checked[index].example for index in usable]) if usable else []
        for index, outcome in zip(usable, outcomes, strict=True):
            facts = {"dataset": entry.name, "row": numbers[index], "cutoff": self.job.cutoff_len}
            if isinstance(outcome, UserError):
                error = UserError(outcome.key, **{**outcome.facts, **facts})
                found[index] = [from_error(error, entry, numbers[index])]
                continue
            self.lengths.add(*[each.turns for each in outcome.encoded], **self._learns(checked[index].example))
            found[index] = [
                Finding(numbers[index], kind, {**facts, **further}) for kind, further in outcome.findings()
            ]  # fmt: skip
        return found

    def _learns(self, example: Any) -> dict[str, bool]:
        """Of answers that are compared or judged only the last one counts, whatever the options say."""
        is_example = isinstance(example, Example)
        return {
            "learns_prompts": is_example and self.job.train_on_prompt,
            "learns_history": is_example and not self.job.mask_history,
        }

    def _validation(self) -> tuple[KeyTable, _Places]:
        """The rows of the validation datasets, by what they say."""
        table, places = KeyTable(), _Places()
        for name in self.job.eval_dataset:
            entry = _entry(self.job, name, self.recorder)
            places.begin(entry.name)
            for number, content in _readable(entry, None):
                row = check_row(content, entry, number)
                if row.example is not None:
                    table.add(same_key(parts_of(row.example)), places.place(number))
                if number % 500 == 0:
                    self.recorder.phase("reading_validation", number, unit="rows")
                    self.recorder.check_stop()
        return table, places

    def _note(self, finding: Finding) -> None:
        self.kinds[finding.kind] += 1
        content = finding.as_dict()
        if len(self.first) < FINDINGS_SHOWN:
            self.first.append(content)
        self._write(self.folder.findings, content)

    def _write(self, path: Path, content: Any) -> None:
        self.files[path].write(json.dumps(content, ensure_ascii=False, default=str) + "\n")


class _Places:
    """Rows of several datasets under one running number."""

    def __init__(self) -> None:
        self._begins: list[tuple[int, str]] = []
        self._last = 0

    def begin(self, dataset: str) -> None:
        self._begins.append((self._last, dataset))

    def place(self, number: int) -> int:
        """The running number of a row of the dataset that was begun last."""
        place = self._begins[-1][0] + number
        self._last = max(self._last, place)
        return place

    def named(self, place: int) -> dict[str, Any]:
        """Row and dataset as the facts of a finding."""
        before, dataset = next(begin for begin in reversed(self._begins) if begin[0] < place)
        return {"other": place - before, "other_dataset": dataset}


def _entry(job: DataJob, name: str, recorder: Recorder) -> Entry:
    entry = find_entry(Path(job.dataset_dir), name)
    if entry.path is None:
        from engine.work.sources import local_entry  # loads libraries that a dataset on this disk does not need

        entry = local_entry(entry, job, recorder)
    return entry


def _entry_or_fault(job: DataJob, name: str, recorder: Recorder) -> tuple[Entry, UserError | None]:
    """A dataset, and what is wrong with a file that is there but of which nothing can be made."""
    try:
        return _entry(job, name, recorder), None
    except UserError as error:
        if not is_file(name):
            raise
        path = Path(name).expanduser()
        return Entry(str(path), path), error


def _readable(entry: Entry, most: int | None) -> Iterator[tuple[int, Row | UserError]]:
    """Rows and what stands in the place of those that cannot be read; a file that ends there is a fault as well."""
    number = 0
    try:
        for number, content in islice(rows_and_faults(entry.path), most):
            yield number, content
    except UserError as error:
        yield number + 1, error


def _refuse_own_files(job: DataJob, entries: Iterable[Entry]) -> None:
    """Raises: UserError, if what is left behind would replace the data that were checked."""
    sources = [file.resolve() for entry in entries for file in files_of(entry.path)]
    for option in ("rejects", "clean"):
        target = getattr(job, option)
        if target and Path(target).expanduser().resolve() in sources:
            raise UserError("check_over_source", option=option, path=target)


def _copy(source: Path, target: Path) -> None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(target.name + ".tmp")
        shutil.copyfile(source, temporary)
        temporary.replace(target)
    except OSError as error:
        raise UserError("file_not_written", path=target, detail=error.strerror or error) from error
