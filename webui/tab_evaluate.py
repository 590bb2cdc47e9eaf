"""The Evaluate tab: what is measured on which rows, the run that does it, its numbers, and the answers one by one."""

from __future__ import annotations

from typing import Any

import gradio as gr

from engine.errors import UserError
from engine.options.jobs import EvalJob
from engine.runs.progress import Progress
from engine.runs.queue import submit
from engine.words import words
from webui import live
from webui.dataset_rows import dataset_names
from webui.form import Form, notice, problems_in, refusal, warnings_notice
from webui.frame import QUICK, Frame
from webui.job_view import JobView, facts_table
from webui.language import escaped, explained, named
from webui.predictions_view import PredictionsView, score_label
from webui.queue import queued_notice

PLAIN = ("val_size", "max_samples", "do_eval", "do_predict", "max_new_tokens", "per_device_eval_batch_size")
ADVANCED = (
    "eval_dataset", "dataset_dir", "stage", "cutoff_len", "metrics", "answer_pattern", "do_sample", "temperature",
    "top_p", "top_k", "repetition_penalty", "sampling_seed", "seed", "train_on_prompt", "mask_history",
    "enable_thinking", "default_system", "infer_dtype", "quantization_bit", "output_dir", "overwrite_output_dir",
)  # fmt: skip
CHOICE = ("task", "task_dir", "lang", "n_shot")
WIDE = ("default_system", "answer_pattern", "output_dir", "metrics")
TILES = (
    "eval_loss", "eval_perplexity", "predict_exact_match", "predict_token_f1", "predict_pattern_match",
    "predict_json_valid", "predict_json_triple_f1", "predict_json_item_f1", "predict_json_field_f1",
    "predict_bleu-4", "predict_sacrebleu", "predict_rouge-1", "predict_rouge-2", "predict_rouge-l", "accuracy",
    "predict_cut_off", "samples", "predict_samples",
)  # fmt: skip
"""Results that stand in sight, in this order; all of them are in the run's folder."""


class EvaluateTab:
    def __init__(self, frame: Frame) -> None:
        self._frame = frame
        self.form = Form(EvalJob, frame.texts, "eval-")
        self.form.adopt(frame.top.controls)
        self.view = _EvalView(frame, self.form, "eval", _summary)
        with gr.Row(elem_classes="job"):
            with gr.Column(elem_classes="job-form", min_width=280):
                self._build_form()
            with gr.Column(elem_classes="job-live", min_width=280):
                self.view.build_live()
        self._answers = PredictionsView(frame)
        self.view.build_bar("page.buttons.evaluate")

    def _build_form(self) -> None:
        make = self._frame.texts.make
        make(gr.HTML, {"value": _intro}, js_on_load=None)
        self.view.build_settings()
        with gr.Row(elem_classes="fields"):
            self._dataset = make(
                gr.Dropdown, {"label": "page.eval.dataset", "info": named("page.eval.dataset_help", "dataset")},
                choices=dataset_names("data"), value=[], multiselect=True, allow_custom_value=True,
                elem_id="eval-dataset", elem_classes="wide",
            )  # fmt: skip
            self.form.controls["dataset"] = self._dataset
            for name in PLAIN:
                self.form.add(name)
        with make(gr.Accordion, {"label": "page.train.advanced"}, open=False), gr.Row(elem_classes="fields"):
            for name in ADVANCED:
                own = {"choices": dataset_names("data")} if name == "eval_dataset" else {}
                self.form.add(name, **own, **({"elem_classes": "wide"} if name in WIDE else {}))
        with make(gr.Accordion, {"label": "page.eval.choice"}, open=False), gr.Row(elem_classes="fields"):
            for name in CHOICE:
                self.form.add(name)

    def connect(self) -> None:
        self.view.connect()
        self._answers.connect("eval")
        self.form.connect_visibility()
        folder = self.form.controls["dataset_dir"]
        names = [self._dataset, self.form.controls["eval_dataset"]]
        for event in (folder.change, self._dataset.focus):
            event(lambda path: [gr.update(choices=dataset_names(path))] * 2, folder, names, **QUICK)


class _EvalView(JobView):
    """An evaluation takes a device, so it may have to wait in the queue."""

    def _on_start(self, request: gr.Request, language: str, *raw: Any) -> list[Any]:
        try:
            job, warnings = self._form.job(raw)
            folder = submit(job, language, token=request.session_hash)
        except UserError as error:
            return [refusal(error, language), *self._form.notes(problems_in(error), language)]
        live.forget_list()
        told = queued_notice(folder, language) + warnings_notice(warnings, language)
        return [told, *self._form.notes((), language)]


def _summary(progress: Progress, language: str) -> str:
    """The numbers as tiles, and of multiple choice each subject's."""
    metrics = progress.result.get("metrics") or {}
    tiles = "".join(
        f"<div><dt>{escaped(_label(name, language))}</dt><dd>{_number(metrics[name])}</dd></div>"
        for name in TILES
        if name in metrics
    )
    done = notice("good", escaped(words("page.eval.done", language, folder=progress.result.get("output_dir", ""))))
    subjects = {**metrics.get("accuracy_of_categories", {}), **metrics.get("accuracy_of_subjects", {})}
    heading = f"<h4>{escaped(words('page.eval.of_subjects', language))}</h4>"
    rows = facts_table([(name, _number(value)) for name, value in subjects.items()])
    return f'{done}<dl class="tiles">{tiles}</dl>' + (heading + rows if subjects else "")


def _label(name: str, language: str) -> str:
    return score_label(name.removeprefix("predict_").removeprefix("eval_"), language)


def _number(value: float) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _intro(language: str) -> str:
    return f'<p class="intro">{explained(words("page.eval.intro", language), language)}</p>'
