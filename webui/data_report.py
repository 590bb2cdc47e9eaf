"""What the check of a dataset has found, as HTML: counts by kind, and each finding with its row and its sentence."""

from __future__ import annotations

import json
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

from engine.catalog.lint import Finding, finding_from
from engine.options.jobs import DataJob
from engine.runs.folder import Folder
from engine.words import has_words, words
from webui.access.allowed import allowed_entry, allowed_path
from webui.data_register import register_copy
from webui.dataset_rows import dataset_names
from webui.form import notice
from webui.language import escaped, marked

MOST_FINDINGS = 200
"""Shown at once; all of them are in the rejects file."""

ON_REPORT_CLICK = """
element.addEventListener('click', (event) => {
  const button = event.target.closest('[data-row], [data-kind]');
  if (button) trigger('select', {row: Number(button.dataset.row) || null, kind: button.dataset.kind || null});
});
"""


def read_report(run: Folder | None) -> dict[str, Any] | None:
    """What a check has written; None where there is no check, or one of another version."""
    try:
        return _read(run.report, run.report.stat().st_mtime_ns) if run else None
    except (OSError, ValueError):
        return None


@lru_cache(maxsize=16)
def _read(path: Path, changed_ns: int) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def findings_of(run: Folder, kind: str) -> list[Finding]:
    """The first findings of one kind, however many of other kinds stand before them."""
    try:
        return list(_findings_of(run.findings, run.findings.stat().st_mtime_ns, kind))
    except (OSError, ValueError):
        return []


@lru_cache(maxsize=32)
def _findings_of(path: Path, changed_ns: int, kind: str) -> tuple[Finding, ...]:
    with path.open(encoding="utf-8") as file:
        lines = (json.loads(line) for line in file if f'"{kind}"' in line)
        return tuple(islice((finding_from(each) for each in lines if each["kind"] == kind), MOST_FINDINGS))


def report(found: dict[str, Any], run: Folder, job: DataJob, is_older: bool, kind: str | None, language: str) -> str:
    """The whole report.

    Args:
        is_older: the rows have changed since.
        kind: show findings of this kind only; None: of all.
    """
    findings = [finding_from(each) for each in found["findings"]]
    kinds: dict[str, int] = found["kinds"]
    severities = {kind: Finding(None, kind).severity for kind in kinds}
    severities |= {each.kind: each.severity for each in reversed(findings)}
    parts = [_headline(found, language)]
    if is_older:
        parts.append(notice("warning", escaped(words("page.data.changed_since", language))))
    if kinds:
        parts.append(_kinds(kinds, severities, kind, language))
        shown = findings_of(run, kind) if kind in kinds else findings[:MOST_FINDINGS]
        parts.append(_table(shown, kinds.get(kind) or sum(kinds.values()), language))
    template = job.template or words("choices.template.none", language)
    facts = {"model": job.model_name_or_path, "template": template, "cutoff": job.cutoff_len}
    parts.append(f'<p class="fine">{escaped(words("page.data.checked_with", language, **facts))}</p>')
    return f'<div class="report">{"".join(parts)}</div>'


def has_clean_copy(run: Folder, found: dict[str, Any]) -> bool:
    """Whether there is a cleaned copy to take that is not just the same rows."""
    return 0 < found["clean_rows"] < found["rows"] and run.clean.is_file()


def write_clean_copy(run: Folder, folder: str, name: str) -> tuple[str, int]:
    """Put the rows that nothing is wrong with beside the others, registered as ``NAME_clean``; its name, and how many.

    Raises:
        UserError: the dataset is gone, or its folder cannot be written, or is none that this page goes to.
    """
    place, entry = allowed_path(folder), allowed_entry(folder, name)
    rows = (read_report(run) or {}).get("clean_rows", 0)
    clean = _free_name(f"{name if name in dataset_names(str(place)) else Path(name).stem}_clean", place)
    register_copy(place, entry, run.clean, clean)
    return clean, rows


def _free_name(name: str, place: Path) -> str:
    taken, count, free = dataset_names(str(place)), 1, name
    while free in taken:
        count += 1
        free = f"{name}_{count}"
    return free


def _headline(found: dict[str, Any], language: str) -> str:
    rows = f"{found['rows']:,}"
    if not found["kinds"]:
        return notice("good", escaped(words("page.data.all_good", language, rows=rows)))
    tiles = "".join(
        f'<div class="{name}"><dt>{escaped(words(f"page.data.{name}", language))}</dt><dd>{value}</dd></div>'
        for name, value in (
            ("rows", rows),
            ("rows_found", f"{found['rows_found']:,}"),
            ("clean_rows", f"{found['clean_rows']:,}"),
        )
    )
    return f'<dl class="tiles">{tiles}</dl>'


def _kinds(kinds: dict[str, int], severities: dict[str, str], chosen: str | None, language: str) -> str:
    """One button a kind, those that keep rows from being learned first; pressed, it leaves only its own findings."""
    ordered = sorted(kinds, key=lambda kind: (severities.get(kind) != "error", -kinds[kind]))
    buttons = "".join(
        f'<button type="button" class="kind {severities.get(kind, "warning")}" data-kind="{escaped(kind)}" '
        f'aria-pressed="{str(kind == chosen).lower()}">{escaped(kind_words(kind, language))} '
        f"<b>{kinds[kind]:,}</b></button>"
        for kind in ordered
    )
    label = escaped(words("page.data.kinds", language))
    return f'<div class="kinds" role="group" aria-label="{label}">{buttons}</div>'


def kind_words(kind: str, language: str) -> str:
    key = f"page.findings.{kind}"
    return words(key, language) if has_words(key) else kind.replace("_", " ")


def _table(shown: list[Finding], total: int, language: str) -> str:
    rows = "".join(
        f'<li class="{each.severity}">{_row_button(each, language)}<p>{marked(each.text(language))}</p></li>'
        for each in shown
    )
    more = words("page.data.more_findings", language, shown=len(shown), total=f"{total:,}")
    return f'<ul class="findings">{rows}</ul>' + (f'<p class="fine">{escaped(more)}</p>' if total > len(shown) else "")


def _row_button(finding: Finding, language: str) -> str:
    if finding.row is None:
        return f"<span>{escaped(words('page.data.whole_file', language))}</span>"
    text = escaped(words("page.data.row", language, row=finding.row))
    return f'<button type="button" data-row="{finding.row}">{text}</button>'
