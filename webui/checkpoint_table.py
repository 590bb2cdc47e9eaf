"""The checkpoints of a run as an HTML table in which one of them can be chosen."""

from __future__ import annotations

from engine.catalog.devices import memory_text
from engine.runs.saved import Saved
from engine.runs.saved_words import held, standing, standing_of
from engine.words import words
from webui.language import escaped, marked
from webui.live import moment

COLUMNS = ("step", "state", "loss", "eval_loss", "holds", "size", "saved_at")


def checkpoint_table(found: list[Saved], step: int | None, language: str) -> str:
    """The latest first.

    Args:
        step: of the one that is chosen.
    """
    if not found:
        return f'<div class="empty">{marked(words("checkpoints.none", language))}</div>'
    labels = {name: escaped(words(f"checkpoints.{name}", language)) for name in COLUMNS}
    if all(each.eval_loss is None for each in found):
        del labels["eval_loss"]
    head = "".join(f'<th scope="col">{label}</th>' for label in labels.values())
    rows = "".join(_row(each, each.step == step, labels, language) for each in reversed(found))
    return f'<div class="scroller"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'


def _row(each: Saved, is_chosen: bool, labels: dict[str, str], language: str) -> str:
    cells = {
        "step": _pick(each, is_chosen, language),
        "state": f'<span class="standing {standing_of(each)}">{escaped(standing(each, language))}</span>',
        "loss": _number(each.loss),
        "eval_loss": _number(each.eval_loss),
        "holds": escaped(held(each, language)),
        "size": memory_text(each.size_bytes),
        "saved_at": moment(each.saved_at),
    }
    row = "".join(f'<td class="{name}" data-label="{label}">{cells[name]}</td>' for name, label in labels.items())
    return f"<tr{' class=chosen' if is_chosen else ''}>{row}</tr>"


def _pick(each: Saved, is_chosen: bool, language: str) -> str:
    """A radio button for one that a run can go on from; the step, and what is remarkable about it."""
    label = escaped(words("checkpoints.pick", language, step=each.step))
    state = (" checked" if is_chosen else "") + (" disabled" if each.damaged else "")
    marks = "".join(
        f' <span class="chip done">{escaped(words(f"checkpoints.{name}", language))}</span>'
        for name, is_so in (("best", each.is_best), ("latest", each.is_latest))
        if is_so
    )
    radio = f'<input type="radio" name="checkpoint" data-step="{each.step}" aria-label="{label}"{state}>'
    return f"<label>{radio} {each.step}</label>{marks}"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"
