"""Calls of functions in what a model says: which way of writing them its chat template has, and reading them again."""

from __future__ import annotations

from collections.abc import Callable
from itertools import takewhile

from engine.catalog.rendering import named_template
from engine.catalog.tool_formats import Call, ToolFormat, calls_in, find_tool_format, tool_format_names
from engine.errors import UserError
from engine.options.jobs import ChatJob
from engine.work.api.errors import ApiError

Render = Callable[..., str]
"""(messages, tools, add_generation_prompt) → text."""

THOUGHT_END = "</think>"
"""What every model that thinks before it speaks writes behind its thought."""

_PROBE = Call("lookup_place", {"place": "Paris"})
_QUESTION = {"role": "user", "content": "question"}
_ANSWER = {"role": "assistant", "content": "answer"}
_CALLING = {
    "role": "assistant",
    "content": "",
    "tool_calls": [
        {"id": "abcdefghi", "type": "function", "function": {"name": _PROBE.name, "arguments": _PROBE.arguments}}
    ],
}  # Mistral's templates want ids of nine letters
_TOOL = {
    "type": "function",
    "function": {
        "name": _PROBE.name,
        "description": "looks up a place",
        "parameters": {"type": "object", "properties": {"place": {"type": "string"}}, "required": ["place"]},
    },
}


def format_of(job: ChatJob, render: Render) -> ToolFormat:
    """How the chat template writes calls: known for one that is chosen by name, found out for a model's own.

    Raises:
        ApiError: the template shows the model no tools, or writes calls in a way that cannot be read.
    """
    if render([_QUESTION], [_TOOL], True) == render([_QUESTION], None, True):
        raise ApiError("api.tools_not_shown", param="tools")
    template = named_template(job)
    found = find_tool_format(template.tool_format) if template else written_format(render)
    if found is None:
        raise ApiError("api.calls_unreadable", param="tools", known=", ".join(tool_format_names()))
    return found


def written_format(render: Render) -> ToolFormat | None:
    """The format that reads a call exactly as the template has written it; None: none does."""
    try:
        answered = render([_QUESTION, _ANSWER], [_TOOL], False)
        called = render([_QUESTION, _CALLING], [_TOOL], False)
    except UserError:
        return None  # it refuses calls
    opening = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(answered, called, strict=False)))
    end = answered.rpartition(_ANSWER["content"])[2]
    text = _spoken(called[opening:].removesuffix(end))
    formats = map(find_tool_format, tool_format_names())
    return next((each for each in formats if calls_in(text, each) == [_PROBE]), None)


def _spoken(text: str) -> str:
    """An answer without its thought, in which calls may be thought about."""
    return text.rpartition(THOUGHT_END)[2]


class CallReader:
    """Passes text on that is certainly no call, and keeps the rest until the answer is whole."""

    def __init__(self, tool_format: ToolFormat, one_call: bool = False) -> None:
        self._format = tool_format
        self._one_call = one_call
        self._text = ""
        self._given = 0

    def add(self, text: str) -> str:
        """What may be shown now."""
        self._text += text
        opening = self._format.opening
        if not opening:  # only a whole answer can be a call
            return self._pass_on(len(self._text) - len(_spoken(self._text)))
        at = self._text.find(opening)
        if at < 0:
            half = max((n for n in range(1, len(opening)) if self._text.endswith(opening[:n])), default=0)
            at = len(self._text) - half
        return self._pass_on(len(self._text[:at].rstrip()))

    def finish(self) -> tuple[str, list[Call]]:
        """What is left to show, and the calls; text that only looked like one is shown."""
        spoken = len(self._text) - len(_spoken(self._text))
        calls = calls_in(self._text[spoken:], self._format)
        if calls:
            begins = max(self._text.find(self._format.opening, spoken), spoken)
            shown = self._pass_on(len(self._text[:begins].rstrip()))  # a thought may hold what looks like a call
            return shown, calls[:1] if self._one_call else calls
        return self._pass_on(len(self._text)), []

    def _pass_on(self, end: int) -> str:
        start, self._given = self._given, max(self._given, end)
        return self._text[start : self._given]
