"""The answers of an evaluation as a table: paged, sorted by a click on a head, narrowed down, beside another run's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr

from engine.runs.folder import Folder
from engine.runs.predictions import Line, by_row, is_right, narrowed, predictions, score_names, sorted_by
from engine.words import has_words, words
from webui import live
from webui.controls import NOTHING
from webui.frame import FREE, QUICK, Frame, Panel
from webui.language import escaped

PAGE = 20
SHOWN = 4000
LONG = 200
"""So many characters of a text are sent to the browser; so many fit into their cell at any width."""
FIRST = {"column": "row", "is_reversed": False, "page": 0}
ON_CLICK = """
element.addEventListener('click', (event) => {
  const button = event.target.closest('[data-sort], [data-page]');
  if (button?.dataset.sort) trigger('select', {sort: button.dataset.sort});
  else if (button) trigger('select', {page: Number(button.dataset.page)});
});
"""


class PredictionsView:
    """Controls and table; what it shows follows the run that is chosen in it."""

    def __init__(self, frame: Frame) -> None:
        self._frame = frame
        make = frame.texts.make
        make(gr.HTML, {"value": lambda language: f"<h3>{escaped(words('predictions.title', language))}</h3>"},
             js_on_load=None)  # fmt: skip
        with gr.Row(elem_classes="fields answers-filter"):
            self._run = make(
                gr.Dropdown, {"label": "predictions.run", "choices": _runs("latest")}, value=NOTHING,
                elem_id="answers-run", min_width=150,
            )  # fmt: skip
            self._other = make(
                gr.Dropdown, {"label": "predictions.other", "info": "predictions.other_help",
                              "choices": _runs("nobody")}, value=NOTHING, elem_id="answers-other", min_width=150,
            )  # fmt: skip
            self._text = make(
                gr.Textbox, {"label": "predictions.filter", "placeholder": "predictions.filter_hint"}, max_lines=1,
                elem_id="answers-filter", min_width=150,
            )  # fmt: skip
            self._wrong = make(
                gr.Checkbox, {"label": "predictions.wrong_only"}, value=False, elem_id="answers-wrong", min_width=120
            )
        self._table = gr.HTML(elem_id="answers-table", elem_classes="runs-table answers", js_on_load=ON_CLICK)
        self._view = gr.State(FIRST)

    def connect(self, tab: str) -> None:
        """Args: tab: id of the tab on which it stands."""
        inputs = [self._run, self._other, self._text, self._wrong, self._view]
        self._frame.panels.append(Panel(tab, inputs, [self._table], _watched))
        self._table.select(_clicked, self._view, self._view, **FREE)
        language = self._frame.language
        for control, empty in ((self._run, "latest"), (self._other, "nobody")):
            control.focus(
                lambda language, empty=empty: gr.update(choices=_runs(empty)(language)), language, control, **QUICK
            )
        gr.on(
            [each.change for each in (self._run, self._other, self._text, self._wrong)],
            lambda view: {**view, "page": 0}, self._view, self._view, **FREE,
        )  # fmt: skip


def answers_table(
    lines: Sequence[Line], view: dict[str, Any], language: str, text: str = "", wrong_only: bool = False,
    beside: tuple[str, Sequence[Line]] | None = None,
) -> str:  # fmt: skip
    """One page of the answers as HTML.

    Args:
        view: "column" and "is_reversed" of the order, and the "page" from 0 on; one too far is the last.
        beside: name and lines of the evaluation whose answers to the same rows stand beside them.
    """
    if not lines:
        return f'<div class="empty">{escaped(words("predictions.none", language))}</div>'
    found = sorted_by(narrowed(lines, text, wrong_only), view["column"], view["is_reversed"])
    if not found:
        return f'<div class="empty">{escaped(words("predictions.none_match", language, count=len(lines)))}</div>'
    page = min(view["page"], (len(found) - 1) // PAGE)
    shown = found[page * PAGE : (page + 1) * PAGE]
    scores = score_names(lines)
    other = by_row(beside[1]) if beside else {}
    heads = [_head("row", words("predictions.row", language), view)]
    heads += [f'<th scope="col">{escaped(words(f"predictions.{name}", language))}</th>'
              for name in ("prompt", "label", "predict")]  # fmt: skip
    if beside:
        title = words("predictions.predict_other", language, name=beside[0])
        heads.append(f'<th scope="col" class="other">{escaped(title)}</th>')
    heads += [_head(name, score_label(name, language), view) for name in scores]
    rows = "".join(_row(line, scores, language, other if beside else None) for line in shown)
    return (
        f'<div class="scroller" tabindex="0"><table><thead><tr>{"".join(heads)}</tr></thead><tbody>{rows}</tbody>'
        f"</table></div>{_below(page, len(shown), len(found), language)}"
    )


def score_label(name: str, language: str) -> str:
    """A score in words; one of another version by its name."""
    key = f"page.eval.scores.{name}"
    return words(key, language) if has_words(key) else name


def _watched(
    language: str, name: str | None, other: str | None, text: str | None, wrong_only: bool, view: dict[str, Any]
) -> list[Any]:
    folder = _folder(name) if name else live.chosen_run(None, "eval")
    beside = _folder(other) if other else None
    lines = predictions(folder) if folder else ()
    pair = (beside.name, predictions(beside)) if beside else None
    return [answers_table(lines, view, language, text or "", bool(wrong_only), pair)]


def _folder(name: str) -> Folder | None:
    return next((folder for folder, _ in live.runs_of("eval") if folder.name == name), None)


def _runs(empty: str) -> Any:
    return lambda language: [
        (words(f"predictions.{empty}", language), NOTHING),
        *((folder.name, folder.name) for folder, _ in live.runs_of("eval")),
    ]


def _clicked(view: dict[str, Any], event: gr.EventData) -> dict[str, Any]:
    """Sort by a column, the other way round if it is sorted so already; or turn to a page."""
    column = getattr(event, "sort", None)
    if isinstance(column, str) and column:
        return {"column": column, "is_reversed": view["column"] == column and not view["is_reversed"], "page": 0}
    page = getattr(event, "page", 0)
    return {**view, "page": max(0, page) if isinstance(page, int) else 0}


def _head(column: str, label: str, view: dict[str, Any]) -> str:
    order, sign = "none", ""
    if view["column"] == column:
        order = "descending" if view["is_reversed"] else "ascending"
        sign = f'<i aria-hidden="true">{"↓" if view["is_reversed"] else "↑"}</i>'
    return (
        f'<th scope="col" aria-sort="{order}"><button type="button" data-sort="{escaped(column)}">'
        f"{escaped(label)}{sign}</button></th>"
    )


def _row(line: Line, scores: Sequence[str], language: str, other: dict[tuple[str, int], Line] | None) -> str:
    cut = f" <em>{escaped(words('predictions.cut_off', language))}</em>" if line.get("is_cut_off") else ""
    cells = [f"<td>{escaped(line['dataset'])}<br>{escaped(line['row'])}</td>"]
    cells += [_text(line["prompt"]), _text(line["label"]), _text(line["predict"], cut, _verdict(line))]
    if other is not None:
        theirs = other.get((line["dataset"], line["row"]))
        missing = f"<em>{escaped(words('predictions.missing', language))}</em>"
        cells.append(_text(theirs["predict"], "", _verdict(theirs)) if theirs else f"<td>{missing}</td>")
    cells += [f'<td class="number">{_number(line["scores"].get(name))}</td>' for name in scores]
    return f"<tr>{''.join(cells)}</tr>"


def _verdict(line: Line) -> str:
    return "right" if is_right(line) else "wrong"


def _text(text: str, behind: str = "", verdict: str = "") -> str:
    shown = text if len(text) <= SHOWN else f"{text[:SHOWN]} …"
    reach = ' tabindex="0"' if len(shown) > LONG else ""  # what may have to be scrolled
    return f'<td class="text {verdict}"><div{reach}>{escaped(shown)}{behind}</div></td>'


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def _below(page: int, shown: int, count: int, language: str) -> str:
    first = page * PAGE + 1
    text = escaped(words("predictions.shown", language, first=first, last=first + shown - 1, count=count))
    back, onward = (
        f'<button type="button" data-page="{number}">{escaped(words(f"page.buttons.{name}", language))}</button>'
        if is_there else ""
        for number, name, is_there in ((page - 1, "back", page > 0), (page + 1, "next", first - 1 + shown < count))
    )  # fmt: skip
    return f'<div class="runs-below"><span>{text}</span>{back}{onward}</div>'
