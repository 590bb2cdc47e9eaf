"""The tables of a comparison as HTML: what came out of each run, and in what they differ."""

from __future__ import annotations

from collections.abc import Sequence

from engine.runs.compare import (
    NO_VALUE,
    SAME_LOSS,
    Difference,
    Outcome,
    Run,
    best,
    differing_facts,
    differing_options,
    not_ranked,
    outcome,
)
from engine.runs.overlay import style_of
from engine.runs.progress import clock
from engine.words import has_words, words
from webui import live
from webui.language import escaped

COLUMNS = ("status", "steps", "loss", "eval_best", "duration_s", "tokens_per_s", "peak_memory_bytes")


def legend(runs: Sequence[Run]) -> str:
    """Which line is which run, for all charts together."""
    keys = "".join(f'<span class="key">{_sample(run)}{escaped(run.label)}</span>' for run in runs)
    return f'<div class="legend run-legend">{keys}</div>'


def tables(runs: Sequence[Run], language: str) -> str:
    """Outcomes, then the options that differ, then what else the runs were made with that does."""
    options, facts = differing_options(runs), differing_facts(runs)
    parts = [_heading("outcomes", language), _outcomes(runs, language), _notes(runs, language)]
    parts.append(_heading("options", language))
    if options:
        parts += [_differences(options, runs, language), _fine("no_effect", language)]
    else:
        parts.append(_fine("no_options", language))
    if facts:
        parts += [_heading("facts", language), _differences(facts, runs, language)]
    return "".join(parts)


def _outcomes(runs: Sequence[Run], language: str) -> str:
    found = [outcome(run) for run in runs]
    leaders = best(runs, found)
    head = "".join(f'<th scope="col">{escaped(words(f"page.compare.{name}", language))}</th>' for name in COLUMNS)
    rows = "".join(
        f'<tr><th scope="row">{_sample(run)}{escaped(run.label)}</th>'
        + "".join(_cell(name, each, index in leaders.get(name, ()), language) for name in COLUMNS)
        + "</tr>"
        for index, (run, each) in enumerate(zip(runs, found, strict=True))
    )
    corner = f'<th scope="col">{escaped(words("page.runs.name", language))}</th>'
    return _table(f"<thead><tr>{corner}{head}</tr></thead><tbody>{rows}</tbody>")


def _cell(name: str, each: Outcome, is_best: bool, language: str) -> str:
    if name == "status":
        status = escaped(words(f"page.status.{each.status}", language))
        return f'<td><span class="chip {each.status}">{status}</span></td>'
    text = escaped(shown(name, each, language))
    if not is_best:
        return f"<td>{text}</td>"
    return f'<td class="best">{text}<span class="spoken"> {escaped(words("page.compare.best", language))}</span></td>'


def shown(name: str, each: Outcome, language: str) -> str:
    """One figure of an outcome."""
    if name == "steps":
        return f"{each.step} / {each.total_steps}" if each.total_steps else NO_VALUE
    value = getattr(each, name)
    if value is None:
        return NO_VALUE
    if name == "loss":
        return f"{value:.4f}"
    if name == "eval_best":
        return words("page.compare.at_step", language, value=f"{value[1]:.4f}", step=f"{value[0]:.0f}")
    if name == "tokens_per_s":
        return f"{value:,.0f}"
    if name == "peak_memory_bytes":
        return live.size(value)
    since = words("page.compare.from_step", language, step=each.from_step) if each.from_step else ""
    return f"{clock(value)} {since}".rstrip()


def _notes(runs: Sequence[Run], language: str) -> str:
    """Which jobs cannot be read, and why no loss is marked as the best."""
    unread = [run.label for run in runs if run.job is None]
    if unread:
        return _fine("unread", language, names=", ".join(unread))
    logged = [name for name in SAME_LOSS if sum(getattr(outcome(run), name) is not None for run in runs) > 1]
    names = dict.fromkeys(option for name in logged for option in not_ranked(runs, name))
    return _fine("not_ranked", language, names=", ".join(names)) if names else ""


def _differences(found: Sequence[Difference], runs: Sequence[Run], language: str) -> str:
    head = "".join(f'<th scope="col">{_sample(run)}{escaped(run.label)}</th>' for run in runs)
    rows = "".join(
        f'<tr><th scope="row">{_named(each, language)}</th>{"".join(map(_value, each.values))}</tr>' for each in found
    )
    return _table(f"<thead><tr><td></td>{head}</tr></thead><tbody>{rows}</tbody>", "differences")


def _named(each: Difference, language: str) -> str:
    key = f"options.{each.name}.label" if each.group == "options" else f"page.compare.groups.{each.group}"
    label = f"<small>{escaped(words(key, language))}</small>" if has_words(key) else ""
    return f"<code>{escaped(each.name)}</code>{label}"


def _value(value: str | None) -> str:
    if value is None or value == NO_VALUE:
        return f'<td class="none">{"?" if value is None else NO_VALUE}</td>'
    return f"<td><div>{escaped(value)}</div></td>"


def _table(inner: str, kind: str = "outcomes") -> str:
    return f'<div class="scroller compared {kind}" tabindex="0"><table>{inner}</table></div>'


def _sample(run: Run) -> str:
    """A piece of the run's line."""
    return (
        f'<svg class="sample" viewBox="0 0 30 8" aria-hidden="true"><path class="{style_of(run)}" d="M1,4h28"/></svg>'
    )


def _heading(name: str, language: str) -> str:
    return f"<h4>{escaped(words(f'page.compare.headings.{name}', language))}</h4>"


def _fine(name: str, language: str, **facts: str) -> str:
    return f'<p class="fine">{escaped(words(f"page.compare.{name}", language, **facts))}</p>'
