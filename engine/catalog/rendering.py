"""A conversation → the text that a chat template makes of it; needs no tokenizer, only the template's Jinja text.

The same that ``apply_chat_template`` of transformers gives, which tests/conformance/test_rendering.py sees to; so the
page can show what a model will see without loading anything.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from jinja2 import TemplateError, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.utils import Namespace

from engine.catalog.bounded import Bounded, TooMuch, bounded
from engine.catalog.templates import Template, find_template
from engine.catalog.tool_formats import wrapped_tools
from engine.errors import UserError
from engine.options.model import Model
from engine.options.rules_chat import tools_problem

Message = dict[str, Any]

UNKNOWN = {"bos_token": "@bos@", "eos_token": "@eos@"}
"""What stands for a tokenizer's own special tokens while there is no tokenizer."""


REFUSALS = (
    TemplateError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RecursionError, MemoryError,
    SyntaxError, AssertionError,
)  # fmt: skip
"""What a template, written by anybody, may raise while it is compiled or rendered."""


@dataclass(frozen=True)
class Renderer:
    """A chat template with the special tokens of a tokenizer.

    Args:
        chat_template: Jinja text, or several by name as some tokenizers have them; None: there is none.
        special_tokens: ``bos_token``, ``eos_token`` and others as text.
        template: the pieces it was composed of, when it was chosen by name.
        model: whose it is, for the error that says there is none.
    """

    chat_template: str | dict[str, str] | None
    special_tokens: dict[str, str] = field(default_factory=dict)
    template: Template | None = None
    model: str = ""

    def render(self, messages: Sequence[Message], add_generation_prompt: bool = False, **extra: Any) -> str:
        """The text of a conversation.

        Args:
            add_generation_prompt: end with the opening of the assistant's turn.
            extra: what the template may ask for beside the messages, e.g. ``tools`` or ``enable_thinking``.

        Raises:
            UserError: there is no template, or it refuses this conversation.
        """
        given = {name: value for name, value in extra.items() if value is not None}
        context = {**self.special_tokens, "tools": None, "documents": None, **given}  # these two are always defined
        messages = [{name: value for name, value in each.items() if value is not None} for each in messages]
        try:
            with bounded():
                return _compiled(self._text(given.get("tools"))).render(
                    messages=messages, add_generation_prompt=add_generation_prompt, **context
                )
        except REFUSALS as error:
            raise UserError("template_refused", detail=error) from error

    @cached_property
    def end_mark(self) -> str:
        """What the template writes behind an answer."""
        probe = [{"role": "user", "content": "question"}, {"role": "assistant", "content": "answer"}]
        return self.render(probe).rpartition("answer")[2]

    @property
    def marks_end(self) -> bool:
        """Whether an answer ends with a mark of its own. GLM-4's and Falcon's do not: the end has to be added."""
        return bool(self.end_mark.strip())

    @cached_property
    def knows_thinking(self) -> bool:
        """Whether the template asks for ``enable_thinking``."""
        return "enable_thinking" in self._text(None)

    def _text(self, tools: Any) -> str:
        """Raises: UserError, if there is no template."""
        if isinstance(self.chat_template, dict):
            name = "tool_use" if tools and "tool_use" in self.chat_template else "default"
            if name in self.chat_template:
                return self.chat_template[name]
        elif self.chat_template:
            return self.chat_template
        raise UserError("template_missing", model=self.model)


def named_template(job: Model) -> Template | None:
    """The template that a job chooses by name; None: it leaves that to the model."""
    return find_template(job.template, job.tool_format) if job.template else None


def renderer_of(tokenizer: Any, job: Model) -> Renderer:
    """The renderer of a loaded tokenizer, whose ``chat_template`` is already the one that the job means."""
    special_tokens = dict(tokenizer.special_tokens_map)
    return Renderer(tokenizer.chat_template, special_tokens, named_template(job), tokenizer.name_or_path)


def renderer_for(job: Model, has_model: bool = True) -> Renderer:
    """The renderer that a job means, from what lies on the disk; no tokenizer is loaded.

    Args:
        has_model: whether the job's model is meant at all; False: a template by name, with ``@bos@`` and ``@eos@``.

    Raises:
        UserError: the template is not known, or neither it nor the model's folder says how to render.
    """
    config = _tokenizer_config(job) if has_model else {}
    special = {name: _token_text(value) for name, value in config.items() if name.endswith("_token") and value}
    special = special if has_model and config else UNKNOWN
    if template := named_template(job):
        return Renderer(template.chat_template, special, template)
    if not has_model:
        raise UserError("template_not_named")
    return Renderer(_own_template(job, config), special, model=str(job.model_name_or_path))


def with_system(messages: Sequence[Message], job: Model) -> list[Message]:
    """The same messages, with the job's system turn in front when they have none of their own."""
    system = getattr(job, "system", None) or job.default_system
    if not system or any(message["role"] == "system" for message in messages):
        return list(messages)
    return [{"role": "system", "content": system}, *messages]


def tools_of(job: Model) -> list[dict[str, Any]] | None:
    """The functions that a chat's job lets the model call, as templates expect them; None: none, or no chat.

    Raises:
        UserError: what the job says is not a JSON list of functions with names.
    """
    text = (getattr(job, "tools", None) or "").strip()
    if not text:
        return None
    if problem := tools_problem(text):
        raise UserError(problem.key, **problem.facts)
    tools = json.loads(text)
    return wrapped_tools(tools if isinstance(tools, list) else [tools]) or None


def adapter_template(job: Model) -> str | None:
    """The Jinja text that the job's last adapter was trained with; None: it has none."""
    for path in reversed(job.adapters):
        trained_with = Path(path) / "chat_template.jinja"
        if trained_with.is_file():
            return trained_with.read_text(encoding="utf-8")
    return None


def _own_template(job: Model, config: dict[str, Any]) -> str | dict[str, str] | None:
    own = Path(job.model_name_or_path or "") / "chat_template.jinja"
    if adapter := adapter_template(job):
        return adapter
    if own.is_file():
        return own.read_text(encoding="utf-8")
    template = config.get("chat_template")
    if isinstance(template, list):
        return {each["name"]: each["template"] for each in template}
    return template


def _tokenizer_config(job: Model) -> dict[str, Any]:
    """What a model's folder says of its tokenizer; nothing while the model is still on a hub."""
    path = Path(job.model_name_or_path or "") / "tokenizer_config.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def _token_text(token: Any) -> str:
    return token["content"] if isinstance(token, dict) else str(token)


class _Generation(Extension):
    """``{% generation %}``, with which some templates mark an answer: what is inside is written as it is."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Namespace(Namespace):
    """Jinja's namespace without names that could lead out of the sandbox."""

    def __init__(*args: Any, **named: Any) -> None:
        self, *rest = args
        values = dict(*rest, **named)
        for name in values:
            _refuse_hidden(name)
        Namespace.__init__(self, values)

    def __setitem__(self, name: str, value: Any) -> None:
        _refuse_hidden(name)
        Namespace.__setitem__(self, name, value)


def _refuse_hidden(name: Any) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"a chat template may not use the name {name!r}")


def _refuse(message: str) -> None:
    raise TemplateError(message)


def _json(value: Any, ensure_ascii: bool = False, indent: int | None = None, separators: Any = None, sort_keys=False):
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _now(form: str) -> str:
    if len(form) > 200 or re.search(r"%[^A-Za-z%]*\d", form):
        raise TooMuch("the chat template asks for a date of no usual form")  # such as one of a billion digits
    return datetime.now().strftime(form)


@lru_cache(maxsize=1)
def _environment() -> Bounded:
    environment = Bounded(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, "jinja2.ext.loopcontrols"])
    environment.add_filter("tojson", _json)
    environment.globals |= {
        "raise_exception": _refuse,
        "strftime_now": _now,
        "dict": lambda *given, **named: dict(*given, **named),
        "namespace": _Namespace,
    }
    return environment


@lru_cache(maxsize=32)
def _compiled(text: str) -> Any:
    return _environment().from_string(text)
