"""The page's words: which component shows which of them, and which language a browser reads. Knows no tab."""

from __future__ import annotations

import html
import re
from collections.abc import Callable
from typing import Any

import gradio as gr

from engine.words import LANGUAGES, nearest_language, words

Says = str | Callable[[str], Any]
"""What a property shows: the key of a text, or a function of the language."""

SET_DOCUMENT_LANGUAGE = "(language) => { document.documentElement.lang = language; return language; }"


class Texts:
    """Every component that shows words, so that one list of updates switches the language of all.

    An update never carries the value that a visitor typed or chose: switching loses nothing.
    """

    def __init__(self, language: str) -> None:
        self.language = language
        self._shown: dict[Any, dict[str, Says]] = {}

    def make(self, component: type, shows: dict[str, Says], **properties: Any) -> Any:
        """Create a component whose properties in ``shows`` are words, and keep it up to date."""
        made = component(**{name: _say(says, self.language) for name, says in shows.items()}, **properties)
        self._shown[made] = shows
        return made

    @property
    def components(self) -> list[Any]:
        return list(self._shown)

    def updates(self, language: str) -> list[dict[str, Any]]:
        """One update for each of ``components``, in their order."""
        return [gr.update(**self.of(component, language)) for component in self._shown]

    def of(self, component: Any, language: str) -> dict[str, Any]:
        """The properties of one component that are words, in a language."""
        return {name: _say(says, language) for name, says in self._shown[component].items()}


def language_choices() -> list[tuple[str, str]]:
    return [(name, code) for code, name in LANGUAGES.items()]


def first_language(remembered: dict[str, str] | None, request: gr.Request, default: str) -> str:
    """The language a browser chose before, else the first it asks for that we speak, else the default."""
    chosen = (remembered or {}).get("language")
    return chosen if chosen in LANGUAGES else nearest_language(request.headers.get("accept-language"), default)


def sentence(key: str, language: str, facts: dict[str, Any]) -> str:
    """An error's or warning's sentence as a run folder holds it; one from another version is shown as it is."""
    try:
        return words(f"errors.{key}", language, **facts)
    except KeyError:
        return f"{key}: " + ", ".join(f"{name}={value}" for name, value in facts.items())


def escaped(text: Any) -> str:
    """Text as HTML, with line breaks kept, and nothing that Gradio's templates (``${}``, ``{{}}``) would expand."""
    plain = html.escape(str(text)).replace("$", "&#36;").replace("{", "&#123;").replace("}", "&#125;")
    return plain.replace("\n", "<br>")


def marked(text: Any) -> str:
    """A sentence as HTML, with what stands between backticks as code."""
    return re.sub(r"`([^`<]+)`", r"<code>\1</code>", escaped(text))


def _say(says: Says, language: str) -> Any:
    return says(language) if callable(says) else words(says, language)
