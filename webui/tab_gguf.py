"""The GGUF tab: a model folder → .gguf files with their Modelfiles, as a job; and on to the chat and to Ollama."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import gradio as gr

from engine.catalog.gguf_sizes import expected_sizes
from engine.errors import UserError
from engine.options.jobs import GgufJob
from engine.runs.progress import Progress
from engine.words import words
from webui import live
from webui.access.allowed import allowed_path
from webui.controls import named_choices
from webui.form import Form, notice
from webui.frame import QUICK, Frame
from webui.job_view import JobView, facts_table
from webui.language import escaped, explained, named
from webui.ollama import OllamaView
from webui.topbar import checkpoint_choices, local_models


class GgufTab:
    def __init__(self, frame: Frame) -> None:
        self._frame = frame
        self.form = Form(GgufJob, frame.texts, "gguf-")
        self.view = JobView(frame, self.form, "gguf", _summary)
        default = GgufJob.model_fields["model_name_or_path"].default
        with gr.Row(elem_classes="job"):
            with gr.Column(elem_classes="job-form", min_width=280):
                frame.texts.make(gr.HTML, {"value": _intro}, js_on_load=None)
                self.view.build_settings()
                with gr.Row(elem_classes="fields"):
                    self.model = frame.texts.make(
                        gr.Dropdown,
                        {"label": "page.gguf.model", "info": named("page.gguf.model_help", "model_name_or_path")},
                        choices=_folders(default, frame.texts.language), value=default, allow_custom_value=True,
                        elem_id="gguf-model_name_or_path", elem_classes="wide",
                    )  # fmt: skip
                    self.form.controls["model_name_or_path"] = self.model
                    self.outtype = self.form.add("outtype", elem_classes="wide")
                    self.form.add("outfile", elem_classes="wide")
                    self.form.add("imatrix", elem_classes="wide")
            with gr.Column(elem_classes="job-live", min_width=280):
                self.view.build_live()
                self.ollama = OllamaView(frame, self.view)
        self.view.build_bar("page.buttons.convert")

    def opens(self, chat: Any) -> None:
        to_chat = self.view.build_next("page.buttons.open_in_chat", "gguf-open-chat")
        chat.opened_by(to_chat, self._chat_target, [])
        self.ollama.opens(chat)

    def connect(self) -> None:
        self.view.connect()
        self.ollama.connect()
        self.model.focus(
            lambda path, language: gr.update(choices=_folders(path, language)),
            [self._frame.top.path, self._frame.language], self.model, **QUICK,
        )  # fmt: skip
        for event in (self.model.change, self.outtype.focus):
            event(_types_with_sizes, [self.model, self._frame.language], self.outtype, **QUICK)

    def _chat_target(self) -> dict[str, Any]:
        file = self.view.result().get("outfile")
        return {"gguf": str(file)} if file else {}


def _folders(path: str | None, language: str) -> list[tuple[str, str]]:
    """Folders that can be converted: those merged or trained here, the model of the top bar, and adapters alone."""
    whole = dict.fromkeys([*local_models(), *([path] if path else [])])
    alone = [(words("page.gguf.adapter_alone", language, name=name), each) for name, each in checkpoint_choices(path)]
    return [(each, each) for each in whole] + alone


def _types_with_sizes(model: str | None, language: str) -> dict[str, Any]:
    """Each type with the size that its file will have, as far as a whole model lies here."""
    try:
        folder = allowed_path(model).expanduser()
        sizes = {} if (folder / "adapter_config.json").is_file() else expected_sizes(folder)
    except UserError:
        sizes = {}
    named = named_choices("outtype", GgufJob.model_fields["outtype"], language)
    return gr.update(choices=[(f"{text} · {live.size(sizes[v])}" if v in sizes else text, v) for text, v in named])


def _summary(progress: Progress, language: str) -> str:
    """Where each file is, how it was checked, and the Modelfile."""
    result = progress.result
    files = result.get("files") or ([result] if result.get("outfile") else [])
    if not files:
        return ""
    shown = "".join(
        notice("good", escaped(words("page.gguf.done", language, file=each["outfile"])))
        for each in files if not each.get("failed")
    ) + "".join(
        notice("warning", escaped(words("errors.gguf.type_failed", language, outtype=each["outtype"],
                                        detail=each["failed"], path=each["outfile"])))
        for each in files if each.get("failed")
    )  # fmt: skip
    if result.get("adapter"):
        shown += f'<p class="intro">{escaped(words("page.gguf.adapter_use", language, file=files[0]["outfile"]))}</p>'
    rows = [(words("page.gguf.verified", language), "\n".join(_proofs(result.get("verified") or {}, language)) or "–")]
    return shown + _parity_table(files, language) + facts_table(rows) + _modelfile(result.get("modelfile"), language)


def _parity_table(files: list[dict[str, Any]], language: str) -> str:
    """What each type says against the source model, one a row."""
    columns = ("type", "size", "greedy", "top_k", "perplexity", "divergence", "result")
    labels = [escaped(words(f"page.gguf.column_{name}", language)) for name in columns]
    head = "".join(f'<th scope="col">{label}</th>' for label in labels)
    body = "".join(
        "<tr>" + "".join(f"<td>{escaped(cell)}</td>" for cell in _parity_row(each, language)) + "</tr>"
        for each in files
    )
    note = escaped(words("page.gguf.parity_help", language))
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f'<div class="scroller parity" tabindex="0">{table}</div><p class="intro">{note}</p>'


def _parity_row(file: dict[str, Any], language: str) -> list[str]:
    verified = file.get("verified") or {}
    start = [file.get("outtype", "–"), live.size(file.get("size_bytes"))]
    if verified.get("divergence") is None:
        return [*start, "–", "–", "–", "–", words("page.gguf.not_compared", language)]
    equal = verified["greedy_equal"]
    perplexity = words(
        "page.gguf.perplexity_change", language, file=f"{verified['perplexity']:.4g}",
        source=f"{verified['perplexity_source']:.4g}",
    )  # fmt: skip
    outcome = words("page.gguf.failed" if file.get("failed") else "page.gguf.passed", language)
    return [
        *start, f"{sum(equal)}/{verified['greedy_tokens'] * len(equal)}", f"{verified['top_k_equal']:.0%}", perplexity,
        f"{verified['divergence']:.2g}", outcome,
    ]  # fmt: skip


def _proofs(verified: dict[str, Any], language: str) -> list[str]:
    """What the conversion proved, a line each; what it could not look at is said as well."""
    lines = []
    if "tensors" in verified:
        lines.append(words("page.gguf.tensors", language, tensors=verified["tensors"]))
    if verified.get("logit_max_difference") is not None:
        lines.append(words("page.gguf.logits", language, difference=f"{verified['logit_max_difference']:.2g}"))
    if verified.get("llama_cpp", "") is None:
        lines.append(words("page.gguf.not_run", language))
    return lines


def _modelfile(path: str | None, language: str) -> str:
    try:
        text = Path(path).read_text(encoding="utf-8") if path else ""
    except OSError:  # moved or deleted since: the result is shown without it
        text = ""
    if not text:
        return ""
    heading = escaped(words("page.gguf.modelfile", language, path=path))
    return f'<h3 class="file-name">{heading}</h3><pre class="file" tabindex="0">{escaped(text)}</pre>'


def _intro(language: str) -> str:
    missing = importlib.util.find_spec("llama_cpp") is None
    note = notice("warning", escaped(words("page.gguf.llama_missing", language))) if missing else ""
    return f'<p class="intro">{explained(words("page.gguf.intro", language), language)}</p>{note}'
