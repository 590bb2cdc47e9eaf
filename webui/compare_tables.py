"""The tables of a comparison as HTML: what came out of each run, and in what they differ."""

from __future__ import annotations

from collections.abc import Sequence

from engine.runs.compare import NO_VALUE, Difference, Outcome, Run, best, differing_facts, differing_options, outcome
from engine.runs.compare_words import FIGURES, figure_words, group_words, notes
from engine.runs.overlay import style_of
from engine.words import has_words, words
from webui.language import escaped

LONG = 120
"""So many characters of an option fit into their cell at any width."""


def legend(runs: Sequence[Run]) -> str:
    """Which line is which run, for all charts together."""
    keys = "".join(f'<span class="key">{_sample(run)}{escaped(run.label)}</span>' for run in runs)
    return f'<div class="legend run-legend">{keys}</div>'


def tables(runs: Sequence[Run], language: str) -> str:
    """Outcomes, then the options that differ, then what else the runs were made with that does."""
    options, facts = differing_options(runs), differing_facts(runs)
    parts = [_heading("outcomes", language), _outcomes(runs, language)]
    parts += map(_fine, notes(runs, language))
    parts.append(_heading("options", language))
    if options:
        parts += [_differences(options, runs, language), _fine(words("page.compare.no_effect", language))]
    else:
        parts.append(_fine(words("page.compare.no_options", language)))
    if facts:
        parts += [_heading("facts", language), _differences(facts, runs, language)]
    return "".join(parts)


def _outcomes(runs: Sequence[Run], language: str) -> str:
    found = [outcome(run) for run in runs]
    leaders = best(runs, found)
    head = "".join(f'<th scope="col">{escaped(words(f"page.compare.{name}", language))}</th>' for name in FIGURES)
    rows = "".join(
        f'<tr><th scope="row">{_sample(run)}{escaped(run.label)}</th>'
        + "".join(_cell(name, each, index in leaders.get(name, ()), language) for name in FIGURES)
        + "</tr>"
        for index, (run, each) in enumerate(zip(runs, found, strict=True))
    )
    corner = f'<th scope="col">{escaped(words("page.runs.name", language))}</th>'
    return _table(f"<thead><tr>{corner}{head}</tr></thead><tbody>{rows}</tbody>")


def _cell(name: str, each: Outcome, is_best: bool, language: str) -> str:
    text = escaped(figure_words(name, each, language))
    if name == "status":
        return f'<td><span class="chip {each.status}">{text}</span></td>'
    if not is_best:
        return f"<td>{text}</td>"
    return f'<td class="best">{text}<span class="spoken"> {escaped(words("page.compare.best", language))}</span></td>'


def _differences(found: Sequence[Difference], runs: Sequence[Run], language: str) -> str:
    head = "".join(f'<th scope="col">{_sample(run)}{escaped(run.label)}</th>' for run in runs)
    rows = "".join(
        f'<tr><th scope="row">{_named(each, language)}</th>{"".join(map(_value, each.values))}</tr>' for each in found
    )
    return _table(f"<thead><tr><td></td>{head}</tr></thead><tbody>{rows}</tbody>", "differences")


def _named(each: Difference, language: str) -> str:
    key = f"options.{each.name}.label"
    if each.group != "options":
        label = group_words(each.group, language)
    else:
        label = words(key, language) if has_words(key) else ""
    name = f"<code>{escaped(each.name)}</code>" if each.name else ""
    return f"{name}<small>{escaped(label)}</small>"


def _value(value: str | None) -> str:
    if value is None or value == NO_VALUE:
        return f'<td class="none">{"?" if value is None else NO_VALUE}</td>'
    reach = ' tabindex="0"' if len(value) > LONG else ""  # what may have to be scrolled
    return f"<td><div{reach}>{escaped(value)}</div></td>"


def _table(inner: str, kind: str = "outcomes") -> str:
    return f'<div class="scroller compared {kind}" tabindex="0"><table>{inner}</table></div>'


def _sample(run: Run) -> str:
    """A piece of the run's line."""
    return (
        f'<svg class="sample" viewBox="0 0 30 8" aria-hidden="true"><path class="{style_of(run)}" d="M1,4h28"/></svg>'
    )


def _heading(name: str, language: str) -> str:
    return f"<h4>{escaped(words(f'page.compare.headings.{name}', language))}</h4>"


def _fine(text: str) -> str:
    return f'<p class="fine">{escaped(text)}</p>'
