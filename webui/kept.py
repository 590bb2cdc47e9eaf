"""What a visitor has entered into the forms, kept by the browser: it is there again after a reload, a closed browser or
a restarted server.

Each form has an entry of its own in the browser's localStorage, which holds by option name what differs from the
defaults. It is written by the browser alone, so a keystroke costs nothing on the server; it is read once, when the page
is opened, and then looked at option by option: another version may have written it, and what it names may be gone.
Secrets are never kept. Of two tabs the one that wrote last is remembered.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import gradio as gr
from pydantic.fields import FieldInfo

from engine.catalog.accounts import OWNER
from engine.catalog.datasets import is_file
from engine.errors import Refused, UserError
from engine.options.data import Data
from engine.options.option import about
from engine.words import has_words, words
from webui.access.allowed import allowed_path
from webui.access.door import role_of
from webui.controls import from_control, takes, to_control
from webui.dataset_rows import dataset_names
from webui.form import FURTHER, Form, notice
from webui.frame import QUICK, Frame
from webui.language import escaped

KEEP = """
(...values) => {
  const names = NAMES, defaults = DEFAULTS, kept = {};
  const plain = (value) => JSON.stringify(value ?? '');
  const secret = /(token|secret|passw\\w*|key|credentials?|auth)["']?\\s*[:=]|\\b(hf|api_org)_\\w{10}|\\bsk-\\w{10}/i;
  names.forEach((name, at) => {
    if (plain(values[at]) === plain(defaults[at])) return;
    if (name !== 'FURTHER' || !secret.test(values[at])) kept[name] = values[at];
  });
  if (!window.latheKeeps) {  // what was kept before has not been read yet
    (window.latheWaits ??= {})['KIND'] = kept;
    return;
  }
  try {
    if (Object.keys(kept).length) localStorage.setItem('lathe-form-KIND', JSON.stringify(kept));
    else localStorage.removeItem('lathe-form-KIND');
  } catch {}  // the browser's store is full or forbidden: then nothing is kept
}
"""
READ = """
(text, language) => {
  const kept = {};
  for (const kind of KINDS) {
    try { kept[kind] = JSON.parse(localStorage.getItem('lathe-form-' + kind) ?? '{}'); } catch {}
  }
  return [JSON.stringify(kept), language];
}
"""
BEGIN = """
(text) => {
  const mended = text ? JSON.parse(text) : {}, waits = window.latheWaits ?? {};
  window.latheKeeps = true;
  for (const kind of new Set([...Object.keys(mended), ...Object.keys(waits)])) {
    try {
      const stored = mended[kind] ?? JSON.parse(localStorage.getItem('lathe-form-' + kind) ?? '{}');
      const kept = {...stored, ...waits[kind]};
      if (Object.keys(kept).length) localStorage.setItem('lathe-form-' + kind, JSON.stringify(kept));
      else localStorage.removeItem('lathe-form-' + kind);
    } catch {}
  }
}
"""
"""Takes out of the store what was not taken back, so that it is told once, and adds what a quick hand has entered
meanwhile; from then on the forms are kept."""
MUST_EXIST = (
    "model_name_or_path", "adapter_name_or_path", "ref_model", "reward_model", "resume_from_checkpoint", "gguf",
    "imatrix", "new_special_tokens_config",
)  # fmt: skip
"""Options that name a file or a folder from which something is read; a hub's id is none."""


DATASETS = Data.model_fields["dataset_dir"].default


class Kept:
    """Keeps the forms of a page."""

    def __init__(self, frame: Frame) -> None:
        """Args: frame: with all its forms."""
        self._forms, self._language = frame.forms, frame.language
        self._text = gr.Textbox(visible=False)

    def connect(self, load: Any) -> None:
        """Args: load: the page's event."""
        outputs = [self._text]
        for kind, (form, told) in self._forms.items():
            inputs = list(kept_inputs(form).values())
            gr.on(
                [each.change for each in inputs], None, inputs, None, js=_keep(kind, form), trigger_mode="multiple",
                **QUICK,
            )  # fmt: skip
            outputs += [told, *inputs]
        read = READ.replace("KINDS", json.dumps(list(self._forms)))
        load(self._restore, [self._text, self._language], outputs, js=read, **QUICK).then(
            None, self._text, None, js=BEGIN, **QUICK
        )

    def _restore(self, request: gr.Request, text: str, language: str) -> list[Any]:
        forms = _mapping(text) if role_of(request) == OWNER else {}
        mended: dict[str, dict[str, Any]] = {}
        updates: list[Any] = []
        for kind, (form, _) in self._forms.items():
            kept = forms.get(kind)
            kept = kept if isinstance(kept, dict) else {}
            taken, dropped = taken_back(form, kept)
            if dropped:
                mended[kind] = taken
            updates.append(_told(dropped, language) if dropped else gr.skip())
            updates += [gr.update(value=taken[name]) if name in taken else gr.skip() for name in kept_inputs(form)]
        return [json.dumps(mended) if mended else "", *updates]


def kept_inputs(form: Form) -> dict[str, Any]:
    """The controls that are a form's own and hold no secret, by option; the box with further options at the end."""
    fields = form.job_type.model_fields
    return {
        name: each for name, each in form.own.items()
        if name == FURTHER or about(fields[name], "control") != "password"
    }  # fmt: skip


def taken_back(form: Form, kept: dict[str, Any]) -> tuple[dict[str, Any], list[tuple[str, Any]]]:
    """What is kept as the form's controls hold it, and, by option, what cannot be taken back.

    Args:
        kept: from a browser: it may hold anything.
    """
    taken: dict[str, Any] = {}
    dropped: list[tuple[str, Any]] = []
    inputs, fields = kept_inputs(form), form.job_type.model_fields
    known = _valid(form, kept, dropped)
    for name, value in known.items():
        if name == FURTHER:
            taken[name] = value
            continue
        shown, gone = _still_there(name, fields[name], value, known)
        dropped += [(name, each) for each in gone]
        if gone and not shown:
            continue
        if not takes(inputs[name], shown):
            dropped.append((name, shown))
            continue
        taken[name] = shown
    return taken, dropped


def _keep(kind: str, form: Form) -> str:
    inputs = kept_inputs(form)
    defaults = [each.value for each in inputs.values()]
    filled = {"NAMES": json.dumps(list(inputs)), "DEFAULTS": json.dumps(defaults), "KIND": kind, "FURTHER": FURTHER}
    text = KEEP
    for name in ("FURTHER", "KIND", "NAMES", "DEFAULTS"):  # what was filled in is not looked at again
        text = text.replace(name, filled[name])
    return text


def _valid(form: Form, kept: dict[str, Any], dropped: list[tuple[str, Any]]) -> dict[str, Any]:
    """The values of options that the form still has, each as its option takes it."""
    inputs, fields = kept_inputs(form), form.job_type.model_fields
    valid = {}
    for name, value in kept.items():
        if name == FURTHER and FURTHER in inputs and isinstance(value, str):
            valid[name] = value
        elif name not in inputs or name == FURTHER:
            dropped.append((name, value))
        else:
            try:
                plain = from_control(fields[name], value)
                valid[name] = getattr(form.job_type.from_values({name: plain}), name)
            except (Refused, TypeError):  # a mapping cannot be looked up among choices
                dropped.append((name, value))
    return valid


def _still_there(name: str, field: FieldInfo, value: Any, kept: dict[str, Any]) -> tuple[Any, list[str]]:
    """A value as its control holds it without the datasets, files and folders that are gone; and those."""
    named = list(value) if isinstance(value, tuple) else [value] if value else []
    gone: Iterable[str] = ()
    if name in ("dataset", "eval_dataset"):
        there = dataset_names(kept.get("dataset_dir", DATASETS))
        gone = [each for each in named if each not in there and (_is_gone(each) or not is_file(each))]
    elif name in MUST_EXIST:
        gone = [each for each in named if _is_gone(each)]
    if not gone:
        return to_control(field, value), []
    return [each for each in named if each not in gone] if isinstance(value, tuple) else "", list(gone)


def _is_gone(named: str) -> bool:
    """Whether a path led into a folder of this machine, and leads nowhere now."""
    try:
        path = allowed_path(named).expanduser()
        is_here = path.is_absolute() or (len(path.parts) > 1 and Path(path.parts[0]).is_dir())
        return is_here and not path.exists()
    except (OSError, ValueError, UserError):  # longer than a path may be, or none that this page goes to
        return True


def _told(dropped: list[tuple[str, Any]], language: str) -> str:
    lines = "".join(
        f"<li>{escaped(label_of(name, language))}: {escaped(str(value)[:80])}</li>" for name, value in dropped
    )
    return notice("warning", escaped(words("settings.not_kept", language)) + f"<ul>{lines}</ul>")


def label_of(name: str, language: str) -> str:
    """What an option is called beside its control; one of another version by its name."""
    key = "page.further.label" if name == FURTHER else f"options.{name}.label"
    return words(key, language) if has_words(key) else name


def _mapping(text: Any) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (TypeError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
