"""One row as the model will see it: its text with every special token, what is learned marked apart from the rest.

Made by the code that training encodes with, so it cannot show anything else.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from engine.catalog.conversations import Example, Judged, Preference, Text
from engine.catalog.learned import Segment, example_segments
from engine.catalog.rendering import Renderer, renderer_for
from engine.options.jobs import DataJob, TrainJob
from engine.words import words
from webui.access.allowed import allowed_values
from webui.controls import from_control
from webui.language import escaped

MODEL = (
    "model_name_or_path", "adapter_name_or_path", "template", "enable_thinking", "preserve_thinking", "tool_format",
    "default_system",
)  # fmt: skip
LEARNED = ("train_on_prompt", "mask_history")
SETTINGS = MODEL + LEARNED
"""Options of the training form that decide what is made of a row."""

MOST_CHARACTERS = 60_000
LOOKS_SPECIAL = (
    r"<\|[^|<>\s]{1,60}\|>|<｜[^｜<>\s]{1,60}｜>|</?s>|</?think>|\[/?INST\]"
    r"|<(?:bos|eos|pad|unk|start_of_turn|end_of_turn)>"
)
"""Special tokens of the common families; those of the model's own tokenizer are added."""


def settings_job(controls: dict[str, Any], raw: Sequence[Any], dataset: str, **further: Any) -> DataJob:
    """A job about one dataset with the training form's settings.

    Args:
        controls: option → control; their values are ``raw``, in the same order.

    Raises:
        Refused: some of them are not right, or lead to where this page does not go.
    """
    fields = TrainJob.model_fields
    values = {name: from_control(fields[name], value) for name, value in zip(controls, raw, strict=True)}
    return DataJob.from_values(allowed_values(DataJob, {**values, "dataset": (dataset,), **further}))


def as_the_model_sees(job: DataJob, example: Example | Preference | Judged | Text, language: str) -> str:
    """The rendered row as HTML; two answers side by side.

    Raises:
        UserError: there is no chat template, or it refuses the conversation.
    """
    renderer = renderer_for(job)
    texts = [_marked(segments, _special(renderer), language) for segments in example_segments(job, renderer, example)]
    head = f'<p class="seen-head"><b>{escaped(words("page.data.seen", language))}</b> {_legend(language)}</p>'
    if isinstance(example, Preference):
        sides = "".join(
            f'<div class="side {name}"><b>{escaped(words(f"page.roles.{name}", language))}</b>{text}</div>'
            for name, text in zip(("chosen", "rejected"), texts, strict=True)
        )
        body = f'<div class="sides">{sides}</div>'
    else:
        body = "".join(texts)
    return f'<div class="seen">{head}{body}<p class="fine">{escaped(_circumstances(job, example, language))}</p></div>'


def _marked(segments: Sequence[Segment], special: re.Pattern[str], language: str) -> str:
    """The segments of one text; of one that is enormous the beginning."""
    left, parts = MOST_CHARACTERS, []
    for segment in segments:
        shown = _chips(segment.text[:left], special)
        left -= len(segment.text)
        if segment.learned:
            parts.append(f'<mark><i class="spoken">[{escaped(words("page.data.learned", language))}]</i>{shown}</mark>')
        else:
            parts.append(f"<span>{shown}</span>")
        if left <= 0:
            break
    if left < 0:
        more = words("page.rows.more_characters", language, count=f"{-left:,}")
        parts.append(f' <em class="fine">{escaped(more)}</em>')
    return f'<div class="rendered" tabindex="0" role="group">{"".join(parts)}</div>'


def _chips(text: str, special: re.Pattern[str]) -> str:
    parts = special.split(text)  # every second part is a special token
    return "".join(
        f"<kbd>{escaped(part)}</kbd>" if index % 2 else escaped(part).replace("<br>", '<i class="newline">↵</i><br>')
        for index, part in enumerate(parts)
    )


def _special(renderer: Renderer) -> re.Pattern[str]:
    own = sorted({token for token in renderer.special_tokens.values() if token}, key=len, reverse=True)
    return re.compile(f"({'|'.join([*map(re.escape, own), LOOKS_SPECIAL])})")


def _legend(language: str) -> str:
    learned, masked, special = (
        escaped(words(f"page.data.{name}", language)) for name in ("learned", "masked", "special")
    )  # fmt: skip
    return f'<span class="legend"><mark>{learned}</mark><span>{masked}</span><kbd>{special}</kbd></span>'


def _circumstances(job: DataJob, example: Any, language: str) -> str:
    """Whose template this is, and which settings of the training form had a say."""
    if isinstance(example, Text):
        return words("page.data.seen_text", language)
    key = "page.data.seen_template" if job.template else "page.data.seen_own"
    said = [words(key, language, template=job.template, model=job.model_name_or_path)]
    defaults = DataJob.model_fields
    changed = [name for name in (*MODEL[3:], *LEARNED) if getattr(job, name) != defaults[name].default]
    if changed:
        names = ", ".join(words(f"options.{name}.label", language) for name in changed)
        said.append(words("page.data.seen_settings", language, names=names))
    return " ".join(said)
