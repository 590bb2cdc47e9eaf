"""The GGUF tab: a model folder → one .gguf file with its Modelfile, as a job; and on to the chat and to Ollama."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import gradio as gr

from engine.options.jobs import GgufJob
from engine.runs.progress import Progress
from engine.words import words
from webui import live
from webui.form import Form, notice
from webui.frame import QUICK, Frame
from webui.job_view import JobView, facts_table
from webui.language import escaped
from webui.ollama import OllamaView
from webui.topbar import local_models


class GgufTab:
    def __init__(self, frame: Frame) -> None:
        self._frame = frame
        self.form = Form(GgufJob, frame.texts, "gguf-")
        self.view = JobView(frame, self.form, "gguf", _summary)
        default = GgufJob.model_fields["model_name_or_path"].default
        with gr.Row(elem_classes="job"):
            with gr.Column(elem_classes="job-form", min_width=280):
                frame.texts.make(gr.HTML, {"value": _intro}, js_on_load=None)
                with gr.Row(elem_classes="fields"):
                    self.model = frame.texts.make(
                        gr.Dropdown, {"label": "page.gguf.model", "info": "page.gguf.model_help"},
                        choices=_folders(default), value=default, allow_custom_value=True,
                        elem_id="gguf-model_name_or_path", elem_classes="wide",
                    )  # fmt: skip
                    self.form.controls["model_name_or_path"] = self.model
                    self.form.add("outtype", filterable=False)
                    self.form.add("outfile")
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
            lambda path: gr.update(choices=_folders(path)), self._frame.top.path, self.model, **QUICK
        )  # fmt: skip

    def _chat_target(self) -> dict[str, Any]:
        file = self.view.result().get("outfile")
        return {"gguf": str(file)} if file else {}


def _folders(path: str | None) -> list[str]:
    """Folders that can be converted: those merged or trained here, and the model of the top bar."""
    return list(dict.fromkeys([*local_models(), *([path] if path else [])]))


def _summary(progress: Progress, language: str) -> str:
    """Where the file is, how it was checked, and the Modelfile."""
    result = progress.result
    done = notice("good", escaped(words("page.gguf.done", language, file=result.get("outfile", ""))))
    rows = [(words("page.figures.size", language), live.size(result.get("size_bytes")))]
    proofs = _proofs(result.get("verified") or {}, language)
    rows.append((words("page.gguf.verified", language), "\n".join(proofs) or "–"))
    return done + facts_table(rows) + _modelfile(result.get("modelfile"), language)


def _proofs(verified: dict[str, Any], language: str) -> list[str]:
    """What the conversion proved, a line each; what it could not look at is said as well."""
    lines = []
    if "tensors" in verified:
        lines.append(words("page.gguf.tensors", language, tensors=verified["tensors"]))
    equal = verified.get("greedy_equal")
    if equal:
        most = verified.get("greedy_tokens", 0) * len(equal)
        lines.append(words("page.gguf.greedy", language, equal=sum(equal), total=most))
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
    return f'<h4>{heading}</h4><pre class="file">{escaped(text)}</pre>'


def _intro(language: str) -> str:
    missing = importlib.util.find_spec("llama_cpp") is None
    note = notice("warning", escaped(words("page.gguf.llama_missing", language))) if missing else ""
    return f'<p class="intro">{escaped(words("page.gguf.intro", language))}</p>{note}'
