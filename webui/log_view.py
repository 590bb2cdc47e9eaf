"""The log of a run on a tab: its end, or what is sought in it; the view follows new lines, or keeps its place."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr

from engine.runs.folder import Folder
from engine.runs.log import Found, read_part, search
from engine.words import words
from webui import live
from webui.curve_view import TAKE
from webui.form import notice
from webui.frame import FREE, Frame, Panel
from webui.language import escaped

KEPT_BYTES = 262144
"""So much of a log is shown at most from the place that is kept."""
KEEP_PLACE = """
let place = 0;
const box = () => element.querySelector('.log');
const note = () => {
  const log = box();
  if (!log) return;
  const isKept = log.classList.contains('kept');
  place = isKept ? log.scrollTop : log.scrollHeight - log.clientHeight + log.scrollTop;
};
element.addEventListener('scroll', note, true);
new MutationObserver(() => {
  if (box()?.classList.contains('kept')) box().scrollTop = place;
  else note();
}).observe(element, {childList: true, subtree: true});
"""
"""A log drawn anew begins where it did, unless it follows: then it begins at its end (its column is reversed)."""
FIRST_SHOWN = """
(follows, begin, name) => [follows, Number(document.querySelector('#%s .log')?.dataset.begin ?? -1), name]
"""


class LogView:
    """Builds panel and controls here; which run they show is said by ``connect``."""

    def __init__(self, frame: Frame, name: str, is_open: bool) -> None:
        """Args: name: of the place, the beginning of each ``elem_id``."""
        self._frame, self._name = frame, name
        make = frame.texts.make
        with make(gr.Accordion, {"label": "page.log.label"}, open=is_open, elem_id=f"{name}-log-box"):
            with gr.Row(elem_classes="buttons log-controls"):
                self._sought = make(
                    gr.Textbox, {"label": "page.log_view.search", "placeholder": "page.log_view.hint"}, max_lines=1,
                    elem_id=f"{name}-log-search", elem_classes="log-search", min_width=140, max_length=200,
                )  # fmt: skip
                self._follows = make(
                    gr.Checkbox, {"label": "page.log_view.follow"}, value=True, elem_id=f"{name}-log-follow",
                    min_width=90,
                )  # fmt: skip
                self._take = make(
                    gr.Button, {"value": "page.log_view.download"}, size="sm", elem_id=f"{name}-log-take", min_width=90
                )
            self._log = gr.HTML(elem_id=f"{name}-log", elem_classes="log-view", js_on_load=KEEP_PLACE)
            self._file = make(
                gr.DownloadButton, {"label": "page.log_view.download"}, elem_id=f"{name}-log-file",
                elem_classes="out-of-sight",
            )  # fmt: skip
        self._kept = gr.State({})

    def connect(self, tab: str, chosen: Any, run_of: Callable[[str | None], Folder | None], said: Any) -> None:
        """Args: chosen: the ``gr.State`` with the name of the run; run_of: which run that is; said: for messages."""
        language = self._frame.language

        def watched(language: str, name: str | None, text: str | None, kept: dict[str, Any]) -> list[Any]:
            return [log_panel(run_of(name), text or "", kept, language)]

        def held(follows: bool, begin: Any, name: str | None) -> dict[str, Any]:
            folder = run_of(name)
            if follows or folder is None:
                return {}
            return {"run": folder.name, "begin": int(begin) if isinstance(begin, int | float) and begin >= 0 else None}

        self._frame.panels.append(Panel(tab, [chosen, self._sought, self._kept], [self._log], watched))
        begin = gr.Number(visible=False)
        self._follows.input(
            held, [self._follows, begin, chosen], self._kept, trigger_mode="always_last",
            js=FIRST_SHOWN % f"{self._name}-log", **FREE,
        )  # fmt: skip
        self._take.click(
            lambda language, name: _file(run_of(name), language), [language, chosen], [self._file, said],
            trigger_mode="once", **FREE,
        ).success(None, js=TAKE % f"{self._name}-log-file")  # fmt: skip


def log_panel(folder: Folder | None, sought: str, kept: dict[str, Any], language: str) -> str:
    """The end of a log, or the lines with what is sought.

    Args:
        kept: empty, if the view follows; else the name of the ``run`` and the byte where what is shown ``begin``s.
    """
    is_kept = folder is not None and kept.get("run") == folder.name
    if folder is not None and sought.strip():
        found = search(folder, sought)
        lines = "".join(_hit(hit.line, hit.text, sought) for hit in found.hits)
        return f'<p class="log-count" aria-live="polite">{_counted(found, language)}</p>' + _box(
            lines, is_kept, language
        )
    begin = kept.get("begin") if is_kept else None
    most = live.LOG_BYTES if begin is None else KEPT_BYTES
    part = read_part(folder, most, begin) if folder else None
    text = part.text.rstrip() if part else ""
    shown = escaped(text or words("page.log.empty", language))
    return _box(shown, is_kept, language, part.begin if part else 0)


def _box(inner: str, is_kept: bool, language: str, begin: int | None = None) -> str:
    label, place = escaped(words("page.log.label", language)), "" if begin is None else f' data-begin="{begin}"'
    kept = " kept" if is_kept else ""
    about = f'tabindex="0" role="log" aria-live="off" aria-label="{label}"{place}'
    return f'<div class="log{kept}" {about}><div>{inner}</div></div>'


def _counted(found: Found, language: str) -> str:
    said = [words("page.log_view.count", language, count=f"{found.count:,}")]
    if found.count > len(found.hits):
        said.append(words("page.log_view.last", language, count=len(found.hits)))
    if not found.is_whole:
        share = f"{100 * found.read_bytes / found.size_bytes:.0f}"
        said.append(words("page.log_view.so_far", language, share=share))
    return escaped(" · ".join(said))


def _hit(number: int, text: str, sought: str) -> str:
    pieces = re.split(f"({re.escape(sought)})", text, flags=re.IGNORECASE)
    marked = "".join(
        f"<mark>{escaped(piece)}</mark>" if place % 2 else escaped(piece) for place, piece in enumerate(pieces)
    )
    return f'<div class="hit"><span class="number">{number}</span><span>{marked}</span></div>'


def _file(folder: Folder | None, language: str) -> list[Any]:
    """The whole log, in a file with the name of the run."""
    if folder is None or not folder.log.is_file():
        return [None, notice("error", escaped(words("page.log.empty", language)))]
    path = Path(tempfile.mkdtemp(prefix="lathe-log-")) / f"{folder.name.replace('/', '_')}.txt"
    shutil.copyfile(folder.log, path)
    return [str(path), ""]
