"""What all groups of options share: strict, frozen, and all problems reported at once."""

from __future__ import annotations

import json
import types
from typing import Annotated, Any, ClassVar, Literal, Union, get_args, get_origin

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError
from pydantic.fields import FieldInfo
from typing_extensions import Self  # in typing itself from Python 3.11 on

from engine.errors import Problem, Refused
from engine.options.option import about, limits_of


def split_names(value: Any) -> Any:
    """``"a, b"`` and ``'["a", "b"]'`` → ``("a", "b")``; a list stays a list; None and "" are no names at all."""
    if value is None:
        return ()
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            return json.loads(value)
        except ValueError:
            pass  # a name that begins with a bracket
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


Names = Annotated[tuple[str, ...], BeforeValidator(split_names)]
"""Several names, separated by commas; as a list (in JSON on the command line) where one of them holds a comma."""


class Options(BaseModel):
    """A group of options, or a job that takes several groups. Values never change after validation."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False, protected_namespaces=()
    )

    kind: ClassVar[str] = ""

    @classmethod
    def from_values(cls, values: dict[str, Any]) -> Self:
        """Validate plain values, as YAML or a command line gives them.

        Raises:
            Refused: with one problem for each value that is not valid.
        """
        try:
            return cls(**{name: _none_if_said(cls, name, value) for name, value in values.items()})
        except ValidationError as error:
            raise Refused(_problem(cls, detail) for detail in error.errors()) from error

    def values(self) -> dict[str, Any]:
        """All values, ready for YAML or JSON, group by group; names are joined by commas where none contains one."""
        values = self.model_dump()
        return {name: _plain(values[name]) for group in self.groups() for name in group.model_fields}

    @classmethod
    def groups(cls) -> tuple[type[Options], ...]:
        """The groups a job takes, in the order in which they are shown."""
        return tuple(base for base in cls.__bases__ if issubclass(base, Options) and base is not Options) or (cls,)

    def has_effect(self, name: str) -> bool:
        """False when another option's value switches this one off."""
        when = about(type(self).model_fields[name], "when")
        return all(getattr(self, other) in allowed for other, allowed in when.items())


def choices_of(field: FieldInfo) -> tuple[Any, ...]:
    """The values a field, or each of its several values, is limited to; empty when it is free."""
    for part in _alternatives(field.annotation):
        if get_origin(part) is tuple:
            part = get_args(part)[0]
        if get_origin(part) is Literal:
            return get_args(part)
    return ()


def allows_none(field: FieldInfo) -> bool:
    return type(None) in _alternatives(field.annotation)


def plain_type(field: FieldInfo) -> type:
    """``int``, ``float``, ``bool``, ``str`` or ``tuple``: what the value is when it is not None."""
    parts = [part for part in _alternatives(field.annotation) if part is not type(None)]
    first = parts[0]
    if get_origin(first) is Literal:
        return type(get_args(first)[0])
    return get_origin(first) or first


def _alternatives(annotation: Any) -> tuple[Any, ...]:
    if get_origin(annotation) in (Union, types.UnionType):
        return get_args(annotation)
    return (annotation,)


def _none_if_said(cls: type[Options], name: str, value: Any) -> Any:
    """ "none", "null" and "" mean None for an option that may be None and has no value of that name."""
    field = cls.model_fields.get(name)
    if value is False and field is not None and "no" in choices_of(field):
        return "no"  # PyYAML reads a bare no as false
    if field is None or not isinstance(value, str) or not allows_none(field):
        return value
    said_none = value.strip().lower() in ("none", "null", "")
    return None if said_none and value not in choices_of(field) else value


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        text = ",".join(value)
        return text if split_names(text) == value else list(value)
    return value


_SENTENCES = {
    "extra_forbidden": "unknown_option",
    "int_parsing": "not_an_integer",
    "int_type": "not_an_integer",
    "int_from_float": "not_an_integer",
    "float_parsing": "not_a_number",
    "float_type": "not_a_number",
    "finite_number": "not_a_number",
    "bool_parsing": "not_a_boolean",
    "bool_type": "not_a_boolean",
    "literal_error": "not_a_choice",
    "greater_than_equal": "out_of_range",
    "greater_than": "out_of_range",
    "less_than_equal": "out_of_range",
    "less_than": "out_of_range",
}


def _problem(cls: type[Options], detail: dict[str, Any]) -> Problem:
    path = detail["loc"][1:] if detail["loc"][:1] == ("training_arguments",) else detail["loc"]
    name = str(path[0]) if path else None
    facts: dict[str, Any] = {"option": name, "value": detail.get("input")}
    key = _SENTENCES.get(detail["type"], "not_valid")
    field = cls.model_fields.get(name or "")
    if key == "not_a_choice":
        facts["choices"] = ", ".join(str(choice) for choice in choices_of(field))
    elif key == "out_of_range":
        signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
        facts["limits"] = ", ".join(f"{signs[sign]} {value:g}" for sign, value in limits_of(field).items())
    elif key == "not_valid":
        facts["detail"] = detail["msg"]
    return Problem(key, name, facts)
