"""The page's words: which component shows which of them, and which language a browser reads. Knows no tab."""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Sequence
from typing import Any

import gradio as gr

from engine.words import LANGUAGES, words
from webui.glossary import ANCHOR, as_markdown, meaning, pieces, terms

Says = str | Callable[[str], Any]
"""What a property shows: the key of a text, or a function of the language."""


class Texts:
    """Every component that shows words, so that one list of updates switches the language of all.

    An update never carries the value that a visitor typed or chose: switching loses nothing.
    """

    def __init__(self, language: str) -> None:
        self.language = language
        self._shown: dict[Any, dict[str, Says]] = {}

    def make(self, component: type, shows: dict[str, Says], **properties: Any) -> Any:
        """Create a component whose properties in ``shows`` are words, and keep it up to date."""
        made = component(**_said(shows, self.language), **properties)
        self._shown[made] = shows
        return made

    @property
    def components(self) -> list[Any]:
        return list(self._shown)

    def updates(self, language: str, wanted: Sequence[bool] | None = None) -> list[dict[str, Any]]:
        """One update for each of ``components``, in their order. Args: wanted: which of them change; None: all."""
        return [
            gr.update(**self.of(component, language)) if is_wanted else gr.skip()
            for component, is_wanted in zip(self._shown, wanted or [True] * len(self._shown), strict=True)
        ]

    def of(self, component: Any, language: str) -> dict[str, Any]:
        """The properties of one component that are words, in a language."""
        return _said(self._shown[component], language)

    def translated(self, config: dict[str, Any], language: str) -> dict[str, Any]:
        """What gradio tells a browser of the page, with the words in a language. The argument is not changed."""
        said = {component._id: self.of(component, language) for component in self._shown}
        components = [
            {**each, "props": {**each["props"], **said[each["id"]]}} if each["id"] in said else each
            for each in config["components"]
        ]
        return {**config, "components": components}


def language_choices() -> list[tuple[str, str]]:
    return [(name, code) for code, name in LANGUAGES.items()]


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


def explained(text: str, language: str) -> str:
    """A text as HTML, in which the field's words are links to what they mean."""
    return "".join(
        escaped(piece) if term is None else f'<a href="#{ANCHOR}{term}">{escaped(piece)}</a>'
        for piece, term in pieces(text, language)
    )


def glossary(language: str) -> str:
    """What all those words mean, for the marks to point to; nothing of it is seen here."""
    return "".join(f'<p id="{ANCHOR}{term}">{escaped(meaning(term, language))}</p>' for term in terms(language))


def help_of(option: str, language: str) -> str:
    """What stands below an option's control."""
    return as_markdown(named(f"options.{option}.help", option)(language), language)


def in_red(text: str, option: str = "") -> str:
    """A problem, as it stands there instead: bold in Markdown, which page.css shows red, and the field above it too."""
    return f"**{text}** {flag(option)}" if option else f"**{text}**"


def named(key: str, option: str) -> Callable[[str], str]:
    """A help line that ends with the option's name on the command line."""
    return lambda language: f"{words(key, language)} {flag(option)}"


def flag(option: str) -> str:
    return f"`--{option}`"


def _said(shows: dict[str, Says], language: str) -> dict[str, Any]:
    said = {name: says(language) if callable(says) else words(says, language) for name, says in shows.items()}
    if "info" in said:
        said["info"] = as_markdown(said["info"], language)
    return said
