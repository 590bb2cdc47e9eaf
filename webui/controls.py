"""One option → one control, from its declaration alone, and the values between them. Knows no particular option."""

from __future__ import annotations

from typing import Any

import gradio as gr
from pydantic.fields import FieldInfo

from engine.options.base import allows_none, choices_of, limits_of, plain_type
from engine.options.option import about
from engine.words import has_words, words
from webui.language import Texts, named

NOTHING = ""
"""A drop-down's value for None, which Gradio keeps for itself."""


def control(name: str, field: FieldInfo, texts: Texts, prefix: str = "", **properties: Any) -> Any:
    """The control of one option, with its label, help, name, limits, choices and default.

    Args:
        name: the option's name; also the control's id on the page.
        prefix: put before the id where an option stands on several tabs.
        **properties: of the Gradio component, over those that follow from the declaration.
    """
    shows: dict[str, Any] = {"label": f"options.{name}.label", "info": named(f"options.{name}.help", name)}
    given = {"value": to_control(field, field.default), "elem_id": prefix + name, "min_width": 150, **properties}
    kind = plain_type(field)
    if kind is bool and not allows_none(field):
        return texts.make(gr.Checkbox, shows, **given)
    if kind is tuple and choices_of(field):
        shows["choices"] = lambda language: named_choices(name, field, language)
        return texts.make(gr.Dropdown, shows, multiselect=True, **given)
    if kind is tuple:
        given = {"choices": list(about(field, "suggestions")), **given}
        return texts.make(gr.Dropdown, shows, multiselect=True, allow_custom_value=True, **given)
    if choices_of(field) or kind is bool:
        shows["choices"] = lambda language: named_choices(name, field, language)
        return texts.make(gr.Dropdown, shows, **given)
    if about(field, "suggestions"):
        given = {"choices": list(about(field, "suggestions")), **given}
        return texts.make(gr.Dropdown, shows, allow_custom_value=True, **given)
    if about(field, "control") == "slider":
        limits = limits_of(field)
        lowest, highest = limits.get("ge", limits.get("gt", 0)), limits.get("le", limits.get("lt"))
        return texts.make(gr.Slider, shows, minimum=lowest, maximum=highest, step=0.05, buttons=[], **given)
    if kind is int and not allows_none(field):
        return texts.make(gr.Number, shows, **given)
    if kind in (int, float):  # a text box: it may stay empty, and takes 1e-4 as it is written
        if allows_none(field):
            shows["placeholder"] = "page.unset"
        return texts.make(gr.Textbox, shows, max_lines=1, **given)
    lines = {"lines": 3} if about(field, "control") == "lines" else {"max_lines": 1}
    secret = {"type": "password"} if about(field, "control") == "password" else {}
    return texts.make(gr.Textbox, shows, **lines, **secret, **given)


def named_choices(name: str, field: FieldInfo, language: str) -> list[tuple[str, str]]:
    """(text in the visitor's language, value that is the same in all) for each choice."""
    values = [to_control(field, choice) for choice in choices_of(field) or (True, False)]
    if allows_none(field):
        values.insert(0, NOTHING)
    return [(choice_words(name, value, language), value) for value in values]


def choice_words(name: str, value: str, language: str) -> str:
    key = f"choices.{name}.{value or 'none'}"
    return words(key, language) if has_words(key) else value or words("choices.none", language)


def takes(made: Any, value: Any) -> bool:
    """Whether a control can hold a value: a drop-down in which nothing can be typed has its choices alone."""
    if not isinstance(made, gr.Dropdown) or made.allow_custom_value:
        return True
    offered = [each for _, each in made.choices]
    return all(each in offered for each in (value if isinstance(value, list) else [value]))


def to_control(field: FieldInfo, value: Any) -> Any:
    """An option's value as its control holds it."""
    if isinstance(value, bool) and allows_none(field):
        return str(value).lower()
    if isinstance(value, tuple):
        return list(value)
    if value is None:
        return NOTHING
    is_free_number = plain_type(field) is float or (plain_type(field) is int and allows_none(field))
    return _typed(value) if is_free_number and about(field, "control") != "slider" else value


def _typed(number: float) -> str:
    """A number as short as it can be typed without becoming another."""
    short = f"{number:g}"
    return short if float(short) == number else repr(number)


def from_control(field: FieldInfo, value: Any) -> Any:
    """What a control holds, as a plain value of its option; not validated."""
    if isinstance(value, str) and (stripped := value.strip()) != value:
        value = stripped
    if value == NOTHING and allows_none(field):
        return None
    if isinstance(value, float) and plain_type(field) is int and value.is_integer():
        return int(value)
    return value
