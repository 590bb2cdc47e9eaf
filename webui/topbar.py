"""What stands above every tab: language, model, hub, method, checkpoints, chat template."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

from engine.catalog.models import find_model, models
from engine.catalog.templates import template_names
from engine.options.jobs import TrainJob
from engine.runs.sides import base_of
from engine.words import words
from webui.access.door import name_of_visitor, role_of
from webui.appearance import appearance_choice
from webui.controls import NOTHING, control
from webui.language import Texts, escaped, language_choices, named
from webui.live import runs_of

SKIP = """
element.addEventListener('click', (event) => {
  if (!event.target.closest('.skip')) return;
  const seen = [...document.querySelectorAll('.action-bar button:not(:disabled), #chat-question textarea')];
  seen.find((each) => each.offsetParent || each.getClientRects().length)?.focus();
});
"""
"""The first stop of the keyboard leads past the form to what the open tab is for."""


class TopBar:
    """The controls of the top bar; ``controls`` are those that are options of the jobs, by their names."""

    def __init__(self, texts: Texts, has_door: bool = False) -> None:
        with gr.Row(elem_classes="masthead"):
            texts.make(gr.HTML, {"value": _brand}, elem_classes="brand-block", js_on_load=SKIP)
            self.who = gr.HTML(elem_id="who", visible=has_door, js_on_load=None)
            appearance_choice(texts)
            self.language = texts.make(
                gr.Dropdown, {"label": "page.top.language"}, choices=language_choices(), value=texts.language,
                elem_id="language", filterable=False, min_width=140,
            )  # fmt: skip
        fields = TrainJob.model_fields
        with gr.Row(elem_classes="topbar", equal_height=True):
            self.model_name = texts.make(
                gr.Dropdown, {"label": "page.top.model_name", "info": "page.top.model_name_help"},
                choices=model_choices(), value=models()[0].name, elem_id="model_name", allow_custom_value=True,
                min_width=150,
            )  # fmt: skip
            path = control("model_name_or_path", fields["model_name_or_path"], texts)
            hub = control("hub", fields["hub"], texts, filterable=False)
            method = control("finetuning_type", fields["finetuning_type"], texts, filterable=False)
            adapters = control(
                "adapter_name_or_path", fields["adapter_name_or_path"], texts,
                choices=checkpoint_choices(None),
            )  # fmt: skip
            template = texts.make(
                gr.Dropdown,
                {"label": "options.template.label", "info": named("options.template.help", "template"),
                 "choices": template_choices},
                value=NOTHING, elem_id="template", min_width=150,
            )  # fmt: skip
        self.controls: dict[str, Any] = {
            "model_name_or_path": path, "hub": hub, "finetuning_type": method, "adapter_name_or_path": adapters,
            "template": template,
        }  # fmt: skip
        self.path, self.hub, self.adapters, self.template = path, hub, adapters, template
        self.spoken = gr.Textbox(visible=False)
        """Changes when what is in sight speaks another language, and the rest may follow."""

    def tells_who(self, load: Any) -> None:
        """Say who has signed in, as soon as the page is there. Args: load: the page's event."""
        for event in (load, self.spoken.change):
            event(_who, self.language, self.who, queue=False, show_progress="hidden", api_visibility="private")

    def connect(self) -> None:
        """What follows from a choice; only a person's choice counts, never a value set by the page."""
        private = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
        self.model_name.input(
            fill_from_name, [self.model_name, self.hub, self.path], [self.path, self.template], **private
        )
        self.hub.input(location_on_hub, [self.path, self.hub], self.path, **private)
        self.path.change(name_of, self.path, self.model_name, trigger_mode="always_last", **private)
        self.model_name.focus(lambda: gr.update(choices=model_choices()), None, self.model_name, **private)
        self.adapters.focus(
            lambda path: gr.update(choices=checkpoint_choices(path)), self.path, self.adapters, **private
        )


def fill_from_name(name: str | None, hub: str, path: str | None) -> tuple[Any, Any]:
    """Where a model of the catalogue is on a hub, with its own template; any other name is itself the path.

    Nothing where the path says so already: who only passes through the drop-down has chosen nothing, yet in gradio 6.31
    leaving one counts as a choice.
    """
    if not name or name in (name_of(path), path):
        return gr.skip(), gr.skip()
    model = find_model(name)
    return (model.location(hub) if model else name), NOTHING


def location_on_hub(path: str, hub: str) -> Any:
    """The same model's id on another hub; a path that is not of the catalogue stays."""
    name = name_of(path)
    model = find_model(name) if name else None
    return model.location(hub) if model else gr.skip()


def name_of(path: str | None) -> str | None:
    """The choice of the model's drop-down that a path belongs to; None for one that is none of them."""
    text = (path or "").strip()
    for model in models():
        if text in (model.location("huggingface"), model.location("modelscope")):
            return model.name
    return text if text in local_models() else None


def model_choices() -> list[tuple[str, str]]:
    """The catalogue, and after it the models on this disk that were merged or fully trained here."""
    return [(model.name, model.name) for model in models()] + [(path, path) for path in local_models()]


def local_models() -> list[str]:
    """Folders of whole models that were merged or fully trained here, the latest first."""
    found = []
    for _, state in runs_of("export"):
        folder = state.result.get("export_dir")
        if state.status == "done" and folder and Path(folder).is_dir():
            found.append(str(folder))
    for run, _ in runs_of("train"):
        if (run.path / "config.json").is_file() and not (run.path / "adapter_config.json").is_file():
            found.append(str(run.path))
    return list(dict.fromkeys(found))


def checkpoint_choices(model: str | None) -> list[tuple[str, str]]:
    """Adapters of finished runs and of their checkpoints, those of this base model first."""
    found: list[tuple[bool, str, str]] = []
    for run, _ in runs_of("train"):
        for folder in (run.path, *reversed(run.checkpoints())):
            config = folder / "adapter_config.json"
            if config.is_file():
                name = run.name if folder == run.path else f"{run.name}/{folder.name}"
                found.append((base_of(folder) != model, name, str(folder)))
    return [(name, path) for _, name, path in sorted(found, key=lambda item: item[0])]


def template_choices(language: str) -> list[tuple[str, str]]:
    return [(words("choices.template.none", language), NOTHING)] + [(name, name) for name in template_names()]


def _brand(language: str) -> str:
    skip = f'<button type="button" class="skip">{escaped(words("look.skip", language))}</button>'
    return f'{skip}<div class="brand"><h1>Lathe</h1><p>{escaped(words("page.tagline", language))}</p></div>'


def _who(language: str, request: gr.Request) -> str:
    """Who has signed in, as what, and the way out."""
    role = words(f"access.{role_of(request)}", language)
    name, out = escaped(name_of_visitor(request)), escaped(words("access.sign_out", language))
    return f'<form method="post" action="logout"><span>{name} · {escaped(role)}</span><button>{out}</button></form>'
