"""How long the rows of a checked dataset are, in tokens, and what a cutoff would take away of them."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import gradio as gr

from engine.catalog.lengths import Bar, Lengths
from engine.words import words
from webui.aloud import SPEAKS
from webui.curve import number, ticks
from webui.form import notice
from webui.frame import QUICK, Frame
from webui.language import escaped

LEAST_CUTOFF = 16
SUGGESTED = (95, 99)


class DataLengths:
    """Slider, batch size, suggestions and the picture; filled by the check's panel through ``values`` of a report."""

    def __init__(self, frame: Frame, cutoff: int, batch: int) -> None:
        """Args: cutoff, batch: what the training form has at first."""
        make = frame.texts.make
        with gr.Column(visible=False, elem_classes="cutoff") as self.controls:
            with gr.Row(elem_classes="fields"):
                self.slider = make(
                    gr.Slider, {"label": "page.lengths.slider", "info": "page.lengths.slider_help"},
                    minimum=LEAST_CUTOFF, maximum=cutoff, value=cutoff, step=1, buttons=[], elem_classes="wide",
                    elem_id="data-cutoff-slider",
                )  # fmt: skip
                self.cutoff = make(
                    gr.Number, {"label": "page.lengths.cutoff", "info": "page.lengths.cutoff_help"}, value=cutoff,
                    precision=0, elem_id="data-cutoff",
                )  # fmt: skip
                self.batch = make(
                    gr.Number, {"label": "page.lengths.batch", "info": "page.lengths.batch_help"}, value=batch,
                    precision=0, elem_id="data-batch",
                )  # fmt: skip
            with gr.Row(elem_classes="buttons"):
                self.suggestions = [
                    make(gr.Button, {"value": f"page.lengths.p{percent}"}, size="sm", elem_id=f"data-p{percent}")
                    for percent in SUGGESTED
                ]
                self.use = make(
                    gr.Button, {"value": "page.lengths.use"}, variant="primary", size="sm", elem_id="data-use-cutoff"
                )
        self._longest = gr.Number(None, precision=0, visible=False)  # kept by the browser, as the slider's limit is
        self.notice = gr.HTML(elem_id="data-lengths-notice", js_on_load=SPEAKS)
        self.picture = gr.HTML(elem_id="data-lengths", js_on_load=None)
        frame.notices.append(self.notice)

    @property
    def inputs(self) -> list[Any]:
        return [self.cutoff, self.batch, self._longest]

    @property
    def outputs(self) -> list[Any]:
        return [self.picture, self.controls, self.slider, self._longest]

    def values(
        self, path: Path | None, language: str, cutoff: float | None, batch: float | None, longest: int | None
    ) -> list[Any]:
        """What ``outputs`` show of the lengths that a check has written; an invitation where there are none.

        Args:
            longest: the slider's limit so far. Its value is set only together with a new one: else it would jump
                back while somebody drags it.
        """
        lengths = lengths_at(path)
        if lengths is None or not lengths.rows:
            empty = f'<div class="empty chart-empty">{escaped(words("page.lengths.empty", language))}</div>'
            return [empty, gr.update(visible=False), gr.skip(), gr.skip()]
        most = max(lengths.longest, LEAST_CUTOFF + 1)
        chosen = int(min(max(cutoff or most, 1), most))
        drawn = picture(lengths, chosen, int(max(batch or 1, 1)), language)
        limits = gr.skip() if most == longest else gr.update(maximum=most, value=chosen)
        return [drawn, gr.update(visible=True), limits, most]

    def connect(self, frame: Frame, path_inputs: list[Any], path_of: Any, train_cutoff: Any) -> None:
        """Args: path_of: from the values of ``path_inputs``, the file of lengths that is on the screen, or None."""
        # The slider's value stays in the browser: gradio 6.31 refuses one above a maximum that has just been lowered.
        self.slider.input(None, self.slider, self.cutoff, js="(value) => value")
        self.cutoff.change(None, self.cutoff, self.slider, js="(value) => value")
        for percent, button in zip(SUGGESTED, self.suggestions, strict=True):

            def suggest(*given: Any, percent: int = percent) -> Any:
                lengths = lengths_at(path_of(*given))
                return max(lengths.percentile(percent), LEAST_CUTOFF) if lengths else gr.skip()

            button.click(suggest, path_inputs, self.cutoff, **QUICK)

        def use(language: str, cutoff: float | None) -> list[Any]:
            if not cutoff or cutoff < 1:
                return [gr.skip(), gr.skip()]
            told = words("page.lengths.used", language, cutoff=int(cutoff))
            return [int(cutoff), notice("good", escaped(told))]

        self.use.click(use, [frame.language, self.cutoff], [train_cutoff, self.notice], **QUICK)


def lengths_at(path: Path | None) -> Lengths | None:
    try:
        return _read(path, path.stat().st_mtime_ns) if path else None
    except (OSError, ValueError, KeyError):  # deleted meanwhile, or of another version
        return None


@lru_cache(maxsize=4)
def _read(path: Path, changed_ns: int) -> Lengths:
    """The file is read once for all viewers; a million rows are some megabytes."""
    return Lengths.read(path)


def picture(lengths: Lengths, cutoff: int, batch: int, language: str) -> str:
    """The figures of a cutoff, and the histogram with a line where it cuts."""
    lost = lengths.at(cutoff)
    figures = [
        ("rows_cut", f"{lost.rows:,}", share(lost.rows, lengths.rows)),
        ("answer_tokens_lost", f"{lost.answer_tokens:,}", share(lost.answer_tokens, lengths.answer_tokens)),
        ("without_answer", f"{lost.rows_without_answer:,}", share(lost.rows_without_answer, lengths.rows)),
        ("padding", f"{100 * lengths.padding(batch, cutoff):.0f} %", ""),
    ]
    tiles = "".join(
        f'<div class="{name}{" bad" if name != "padding" and value != "0" else ""}">'
        f"<dt>{escaped(words(f'page.lengths.{name}', language, batch=batch))}</dt>"
        f"<dd>{escaped(value)}<small>{escaped(part if value != '0' else '')}</small></dd></div>"
        for name, value, part in figures
    )
    facts = words(
        "page.lengths.facts", language, rows=f"{lengths.rows:,}", tokens=f"{lengths.tokens:,}",
        p95=f"{lengths.percentile(95):,}", p99=f"{lengths.percentile(99):,}", longest=f"{lengths.longest:,}",
    )  # fmt: skip
    return f'<dl class="tiles">{tiles}</dl>{_histogram(lengths, cutoff, language)}<p class="fine">{escaped(facts)}</p>'


def share(part: int, whole: int) -> str:
    """A share in percent, never rounded to none or to all when it is neither."""
    if not whole or not part:
        return "0 %"
    percent = 100 * part / whole
    return "< 0.1 %" if percent < 0.1 else "> 99.9 %" if 99.9 < percent < 100 else f"{percent:.3g} %"


def _histogram(lengths: Lengths, cutoff: int, language: str) -> str:
    bars = lengths.histogram()
    last, most = bars[-1].end, max(bar.rows for bar in bars)
    high = most * 1.08
    width = 1000 / len(bars)

    def y(value: float) -> float:
        return (high - value) / high * 1000

    drawn = "".join(
        f'<rect class="{"cut" if bar.start >= cutoff else "kept"}" x="{index * width + width * 0.06:.1f}" '
        f'width="{width * 0.88:.1f}" y="{y(bar.rows):.1f}" height="{1000 - y(bar.rows):.1f}"/>'
        for index, bar in enumerate(bars)
        if bar.rows
    )
    at = min(1000.0, cutoff / last * 1000)
    line = f'<line class="cutoff-line" x1="{at:.1f}" x2="{at:.1f}" y1="0" y2="1000"/>'
    rows = ticks(0, high, 5, whole=True)
    grid = "".join(f'<line x1="0" x2="1000" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>' for tick in rows)
    left = "".join(f'<span style="top:{y(tick) / 10:.1f}%">{number(tick)}</span>' for tick in rows)
    below = "".join(
        f'<span style="left:{tick / last * 100:.1f}%">{number(tick)}</span>' for tick in ticks(0, last, 6, whole=True)
    )
    title = escaped(words("page.lengths.title", language))
    lost = lengths.at(cutoff)
    spoken = escaped(words("page.lengths.spoken", language, longest=lengths.longest, cutoff=cutoff, rows=lost.rows))
    legend = "".join(
        f'<span class="key {name}">{escaped(words(f"page.lengths.{name}", language))}</span>'
        for name in ("kept", "cut")
    )
    return (
        f'<figure class="chart large histogram"><figcaption><b>{title}</b><span class="legend">{legend}</span>'
        f'</figcaption><div class="plot" role="img" aria-label="{spoken}"><div class="y-axis">{left}</div>'
        f'<div class="area"><svg viewBox="0 0 1000 1000" preserveAspectRatio="none" aria-hidden="true">'
        f'<g class="grid">{grid}</g>{drawn}{line}</svg>{_hints(bars, lengths.longest, language)}</div>'
        f'<div class="x-axis">{below}</div></div></figure>'
    )


def _hints(bars: list[Bar], longest: int, language: str) -> str:
    """Invisible strips over the bars; the one under the pointer says how many rows its bar stands for."""
    strips = []
    for index, bar in enumerate(bars):
        until = longest if index == len(bars) - 1 else bar.end - 1
        text = words("page.lengths.bar", language, first=bar.start, last=max(until, bar.start), rows=f"{bar.rows:,}")
        side = "left" if index > len(bars) * 0.6 else "right"
        strips.append(
            f'<i style="left:{index / len(bars) * 100:.2f}%;width:{100 / len(bars):.2f}%">'
            f'<span class="{side}" style="left:50%">{escaped(text)}</span></i>'
        )
    return f'<div class="hints" aria-hidden="true">{"".join(strips)}</div>'
