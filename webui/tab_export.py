"""The Export tab: base model and adapters → one merged model, as a job; and on to the chat with it."""

from __future__ import annotations

from typing import Any

import gradio as gr

from engine.options.jobs import ExportJob
from engine.runs.folder import model_label
from engine.runs.progress import Progress
from engine.words import words
from webui import live
from webui.form import Form, notice
from webui.frame import FREE, Frame
from webui.job_view import JobView, facts_table
from webui.language import escaped, explained

PLAIN = ("export_dir", "export_dtype", "export_size")
UPLOAD = ("export_hub_model_id", "export_private_repo")


class ExportTab:
    def __init__(self, frame: Frame) -> None:
        self._frame = frame
        self.form = Form(ExportJob, frame.texts, "export-")
        self.form.adopt(frame.top.controls)
        self.view = JobView(frame, self.form, "export", _summary, needs="train")
        with gr.Row(elem_classes="job"):
            with gr.Column(elem_classes="job-form", min_width=280):
                frame.texts.make(gr.HTML, {"value": _intro}, js_on_load=None)
                self.view.build_settings()
                with gr.Row(elem_classes="fields"):
                    default = f"merged/{model_label(ExportJob.model_fields['model_name_or_path'].default)}"
                    for name in PLAIN:
                        own = {"value": default, "elem_classes": "wide"} if name == "export_dir" else {}
                        self.form.add(name, **own)
                with gr.Row(elem_classes="fields"):
                    for name in UPLOAD:
                        self.form.add(name)
            with gr.Column(elem_classes="job-live", min_width=280):
                self.view.build_live()
        self.view.build_bar("page.buttons.merge")

    @property
    def target(self) -> Any:
        """The control of the target folder."""
        return self.form.controls["export_dir"]

    def opens(self, chat: Any, gguf: Any) -> None:
        """Add the buttons that lead on to other tabs."""
        to_chat = self.view.build_next("page.buttons.open_in_chat", "export-open-chat")
        to_gguf = self.view.build_next("page.buttons.convert_to_gguf", "export-open-gguf")
        chat.opened_by(to_chat, self._chat_target, [])
        outputs = [gguf.model, self._frame.tabs, self._frame.tab]
        to_gguf.click(self._to_gguf, None, outputs, **FREE)

    def connect(self) -> None:
        self.view.connect()

    def _chat_target(self) -> dict[str, Any]:
        folder = self.view.result().get("export_dir")
        return {"model": str(folder)} if folder else {}

    def _to_gguf(self) -> list[Any]:
        folder = self.view.result().get("export_dir")
        return [folder or gr.skip(), gr.Tabs(selected="gguf"), "gguf"]


def _summary(progress: Progress, language: str) -> str:
    """Where the merged model is, and how it was checked."""
    result, verified = progress.result, progress.result.get("verified") or {}
    rows = [(words("page.figures.size", language), live.size(result.get("size_bytes")))]
    if verified.get("logit_max_difference") is not None:
        rows.append((words("page.export.logits", language), f"{verified['logit_max_difference']:.2g}"))
    if address := progress.result.get("uploaded"):
        rows.append((words("page.export.uploaded", language), address))
    done = notice("good", escaped(words("page.export.done", language, folder=result.get("export_dir", ""))))
    return done + facts_table(rows)


def _intro(language: str) -> str:
    return f'<p class="intro">{explained(words("page.export.intro", language), language)}</p>'
