"""``data lint`` and ``data lengths``: a check by a worker, and what it found as text."""

from __future__ import annotations

import json
import sys
from contextlib import redirect_stdout
from itertools import islice
from pathlib import Path
from typing import Any

from engine.catalog.datasets import find_entry, is_file
from engine.catalog.lengths import Lengths
from engine.catalog.lint import finding_from
from engine.catalog.models import BUNDLED, is_bundled
from engine.errors import UserError
from engine.options.base import limits_of
from engine.options.jobs import DataJob, TrainJob
from engine.runs.folder import Folder
from engine.runs.start import start
from engine.words import has_words, words
from terminal.data_words import read_job, read_words
from terminal.watch import stay_with

ROWS_NAMED, SENTENCES = 20, 3
"""Of each kind of finding so many row numbers are printed, and so many sentences."""
WIDTH = 50


def lint(arguments: list[str], language: str) -> int:
    """Check a dataset. Returns the exit code: 0 nothing found, 1 something found, or the check failed."""
    given = read_words(arguments, {}, ("json",), has_options=True)
    job, has_model = read_job(given, language)
    is_cutoff_said = job.cutoff_len != DataJob.model_fields["cutoff_len"].default
    if not has_model and not is_cutoff_said and job.model_name_or_path and _is_missing(job):
        print(words("cli.lint.no_model", language), file=sys.stderr)
        job = job.model_copy(update={"model_name_or_path": None})
    elif not has_model and not is_cutoff_said:
        # Nobody has said which tokens, nor how many: what a cutoff takes away would be our guess, no fault of the rows.
        print(words("cli.lint.no_cutoff", language), file=sys.stderr)
        job = job.model_copy(update={"cutoff_len": limits_of(DataJob.model_fields["cutoff_len"])["le"]})
    folder = _checked(job, language)
    if isinstance(folder, int):
        return folder
    report = json.loads(folder.report.read_text(encoding="utf-8"))
    if not has_model and not job.template and any(kind.startswith("template_") for kind in report["kinds"]):
        # The bundled model was not asked for, so what its chat template cannot do is no fault of the rows.
        print(words("cli.lint.not_rendered", language), file=sys.stderr)
        folder = _checked(job.model_copy(update={"model_name_or_path": None}), language)
        if isinstance(folder, int):
            return folder
        report = json.loads(folder.report.read_text(encoding="utf-8"))
    if given.has("json"):
        _print_json(report, folder, language)
    else:
        _print_findings(report, folder, job, language)
    return 1 if report["kinds"] else 0


def lengths(arguments: list[str], language: str) -> int:
    """Print how long the rows are, and what a cutoff would take away. Returns the exit code."""
    batch = TrainJob.model_fields["per_device_train_batch_size"].default
    given = read_words(arguments, {"batch": batch}, ("json",), has_options=True)
    job, _ = read_job(given, language)
    size = given.number("batch")
    if not job.model_name_or_path:
        raise UserError("model_missing")
    find_entry(Path(job.dataset_dir), job.dataset[0])
    folder = _checked(job, language)
    if isinstance(folder, int):
        return folder
    found = Lengths.read(folder.lengths)
    left_out = json.loads(folder.report.read_text(encoding="utf-8"))["rows"] - found.rows
    if left_out:
        print(words("cli.lengths.left_out", language, rows=left_out), file=sys.stderr)
    if given.has("json"):
        padding = round(found.padding(size, job.cutoff_len), 6)
        print(json.dumps({**found.summary(job.cutoff_len), "batch": size, "padding": padding}, ensure_ascii=False))
    else:
        _print_lengths(found, job, size, language)
    return 0


def _is_missing(job: DataJob) -> bool:
    """Whether the model that is used when none is named has not been made yet."""
    return is_bundled(job.model_name_or_path) and not (BUNDLED.path / "config.json").is_file()


def _checked(job: DataJob, language: str) -> Folder | int:
    """The folder of a check that is done; else the exit code of one that failed or was stopped.

    Raises:
        UserError: a dataset, the model or the template is plainly not there.
    """
    for name in (*job.dataset, *job.eval_dataset):
        if name in job.eval_dataset or not is_file(name):  # what is wrong with a file is found by the check
            find_entry(Path(job.dataset_dir), name)
    with redirect_stdout(sys.stderr):  # standard output is for what was found
        folder = start(job, language)
        code = stay_with(folder, language, stop_on_interrupt=True)
    return code or folder


def _print_json(report: dict[str, Any], folder: Folder, language: str) -> None:
    with folder.findings.open(encoding="utf-8") as file:
        found = [json.loads(line) for line in file]
    for each in found:
        each["text"] = finding_from(each).text(language)
    print(json.dumps({**report, "findings": found, "folder": str(folder.path)}, ensure_ascii=False))


def _print_findings(report: dict[str, Any], folder: Folder, job: DataJob, language: str) -> None:
    for kind, count in report["kinds"].items():
        label = f"page.findings.{kind}"
        named = words(label, language) if has_words(label) else kind
        with folder.findings.open(encoding="utf-8") as file:
            mine = (each for each in map(json.loads, file) if each["kind"] == kind)
            first = [finding_from(each) for each in islice(mine, ROWS_NAMED)]
        rows = ", ".join(str(each.row) for each in first if each.row is not None) + (
            ", …" if count > len(first) else ""
        )
        print(f"{named} ({count})" + (f": {rows}" if rows else ""))
        for each in first[:SENTENCES]:
            print(f"    {each.text(language)}")
        if count > SENTENCES:
            print("    …")
    facts = {"rows": report["rows"], "found": report["rows_found"], "clean": report["clean_rows"]}
    print(words("cli.lint.found" if report["kinds"] else "cli.lint.nothing", language, **facts))
    print(words("cli.lint.files", language, findings=folder.findings, rejects=job.rejects or folder.rejects,
                clean=job.clean or folder.clean))  # fmt: skip


def _print_lengths(found: Lengths, job: DataJob, batch: int, language: str) -> None:
    bars = found.histogram()
    most = max((bar.rows for bar in bars), default=1)
    # The last bar holds all that are longer, too.
    ranges = [f"{bar.start}–{found.longest if bar == bars[-1] else bar.end - 1}" for bar in bars]
    for bar, named in zip(bars, ranges, strict=True):
        drawn = "█" * -(-bar.rows * WIDTH // most)
        print(f"{named:>{max(map(len, ranges))}} {drawn} {bar.rows or ''}".rstrip())
    facts = {"rows": found.rows, "tokens": found.tokens, "longest": found.longest}
    print(words("cli.lengths.facts", language, **facts, p50=found.percentile(50)))
    suggested = [("P95", found.percentile(95)), ("P99", found.percentile(99))]
    for name, cutoff in [*suggested, ("cutoff_len", job.cutoff_len)]:
        padding = f"{100 * found.padding(batch, cutoff):.1f}"
        lost = {"name": name, "cutoff": cutoff, "batch": batch, "padding": padding, **vars(found.at(cutoff))}
        print(words("cli.lengths.cutoff", language, **lost))
