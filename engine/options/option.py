"""The one way to declare an option: a pydantic field that also says who sees it and when it has an effect."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

Level = Literal["plain", "advanced", "command", "owner"]


def option(
    default: Any,
    *,
    level: Level = "plain",
    when: dict[str, tuple] | None = None,
    suggestions: tuple = (),
    control: str | None = None,
    **limits: Any,
) -> Any:
    """Declare one option of an ``Options`` group.

    Args:
        default: the value when nothing is said.
        level: "plain" stands in sight on the page, "advanced" one click away, "command" only on the command line
            and among the form's further options; "owner", which lets programs run, on the command line alone.
        when: the option has an effect only if each named option holds one of these values.
        suggestions: values a drop-down offers beside what the user types.
        control: a hint for the page where the type does not say enough: "slider", "path", "lines", "password".
        **limits: ``ge``, ``gt``, ``le``, ``lt``, ``multiple_of`` as in pydantic.
    """
    about = {"level": level, "when": when or {}, "suggestions": suggestions, "control": control}
    return Field(default, json_schema_extra=about, **limits)


def about(field: Any, key: str) -> Any:
    """What ``option()`` noted down for a pydantic field."""
    return field.json_schema_extra[key]


def same_as(group: Any, name: str) -> Any:
    """An option that a group has in common with another, where it is declared; its type is written again."""
    field = group.model_fields[name]
    return Field(field.default, json_schema_extra=field.json_schema_extra, **limits_of(field))


def limits_of(field: Any) -> dict[str, float]:
    """The numeric limits of a field: a subset of ``ge``, ``gt``, ``le``, ``lt``."""
    found = {}
    for item in field.metadata:
        for name in ("ge", "gt", "le", "lt"):
            if getattr(item, name, None) is not None:
                found[name] = getattr(item, name)
    return found
