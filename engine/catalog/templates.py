"""Chat templates by name, for those who choose one instead of the tokenizer's own: data in ``templates/*.yaml``.

A file states the pieces of a conversation; from them one Jinja chat template is composed, the same kind of template
that tokenizers carry. So whatever renders a prompt (training, chat, export, GGUF) has one way to do it.
"""

from __future__ import annotations

import difflib
import json
import re
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import yaml

from engine.catalog.tool_formats import find_tool_format
from engine.errors import UserError

FOLDER = Path(__file__).with_name("templates")


@dataclass(frozen=True)
class Template:
    """The pieces of a conversation; ``{content}``, ``{bos}`` and ``{eos}`` stand for what their names say.

    Args:
        prefix: before everything.
        system, user, assistant: one turn each. What the model must produce itself begins at ``{content}``.
        function: an assistant's turn that calls functions; "" as ``assistant``.
        observation: what a function gave back; "" as ``user``.
        result: around each of several results that stand in one ``observation``; "" where each has its own.
        assistant_start: what a prompt ends with, so that an answer follows.
        stop: what ends an answer, beside the tokenizer's own end.
        default_system: the system turn of a conversation that has none; "" for none at all.
        system_in_user: True when the system text stands at the beginning of the first user turn.
        tools_before_user: True when the tools stand by themselves before the first turn; else in the system turn.
        tool_format: name of the way in which tools and calls are written.
        thought: what begins and ends a thought; None for a model that does not think before it answers.
    """

    name: str
    user: str
    assistant: str
    assistant_start: str = ""
    system: str = "{content}"
    function: str = ""
    observation: str = ""
    result: str = ""
    prefix: str = ""
    stop: tuple[str, ...] = ()
    default_system: str = ""
    system_in_user: bool = False
    tools_before_user: bool = False
    tool_format: str = "default"
    thought: tuple[str, str] | None = None

    @property
    def chat_template(self) -> str:
        """The Jinja template, as a tokenizer's ``chat_template``.

        Beside ``messages``, ``tools`` and ``add_generation_prompt`` it knows ``enable_thinking`` (False: an empty
        thought stands in the prompt) and ``preserve_thinking`` (True: earlier answers keep their thoughts).
        """
        return _compose(self)


def template_names() -> list[str]:
    """All names, aliases included, in alphabetical order."""
    return sorted(_names())


def find_template(name: str, tool_format: str | None = None) -> Template:
    """The template of this name, with another way to write tools if ``tool_format`` names one.

    Raises:
        UserError: there is no template, or no tool format, of this name; the nearest is offered.
    """
    template = _read(name)
    return replace(template, tool_format=find_tool_format(tool_format).name) if tool_format else template


@lru_cache(maxsize=128)
def _read(name: str) -> Template:
    names = _names()
    if name not in names:
        near = difflib.get_close_matches(name, names, n=1, cutoff=0.4)
        key = "template_unknown_near" if near else "template_unknown"
        raise UserError(key, template=name, near=near[0] if near else "", known=", ".join(sorted(names)))
    content = yaml.safe_load((FOLDER / f"{names[name]}.yaml").read_text(encoding="utf-8"))
    content.pop("aliases", None)
    content |= content.pop("variants", {}).get(name, {})
    lists = {key: tuple(content.pop(key)) for key in ("stop", "thought") if content.get(key)}
    return Template(name=name, **lists, **content)


@lru_cache(maxsize=1)
def _names() -> dict[str, str]:
    """Every name and alias → the stem of its file."""
    names = {}
    for path in FOLDER.glob("*.yaml"):
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        for name in (path.stem, *content.get("aliases", ()), *content.get("variants", {})):
            names[name] = path.stem
    return names


def _compose(template: Template) -> str:
    """One Jinja template: prefix, system turn (given, default or none), turns, and where an answer begins."""
    tools = find_tool_format(template.tool_format)
    default = _expression(template.default_system) if template.default_system else "''"
    parts = [
        f"{{%- macro defined() -%}}{tools.definitions}{{%- endmacro -%}}",
        "{%- macro called(tool_calls) -%}{%- set calls = tool_calls | map(attribute='function') | list -%}",
        f"{tools.calls}{{%- endmacro -%}}",
        f"{{{{- {_expression(template.prefix)} -}}}}" if template.prefix else "",
        "{%- if messages and messages[0]['role'] == 'system' -%}",
        "{%- set system = messages[0]['content'] -%}{%- set turns = messages[1:] -%}",
        f"{{%- else -%}}{{%- set system = {default} -%}}{{%- set turns = messages -%}}{{%- endif -%}}",
    ]
    if template.tools_before_user:
        parts.append("{%- if tools -%}{{- defined() -}}{%- endif -%}")
    else:
        parts.append(
            "{%- if tools -%}{%- set described = defined() -%}"
            "{%- set system = system + described if system else described.lstrip('\\n') -%}{%- endif -%}"
        )
    system = _expression(template.system, "system")
    if not template.system_in_user:
        parts.append(f"{{%- if system -%}}{{{{- {system} -}}}}{{%- endif -%}}")
    parts.append("{%- for message in turns -%}{%- set content = message['content'] or '' -%}")
    if template.system_in_user:
        parts.append(f"{{%- if loop.first and system -%}}{{%- set content = {system} + content -%}}{{%- endif -%}}")
    parts += [
        "{%- if message['role'] == 'assistant' -%}",
        _assistant(template),
        "{%- elif message['role'] == 'tool' -%}",
        _observation(template),
        f"{{%- else -%}}{{{{- {_expression(template.user, 'content')} -}}}}{{%- endif -%}}{{%- endfor -%}}",
        f"{{%- if add_generation_prompt -%}}{{{{- {_expression(template.assistant_start)} -}}}}",
        f"{{%- if enable_thinking == false -%}}{{{{- {_no_thought(template)} -}}}}{{%- endif -%}}"
        if template.thought
        else "",
        "{%- endif -%}",
    ]
    return "".join(parts)


def _assistant(template: Template) -> str:
    """An answer, with its thought as it is wanted; or the calls in it."""
    parts = [f"{{{{- {_expression(template.assistant_start)} -}}}}" if template.assistant_start else ""]
    if template.thought:
        opening, closing = (_literal(words.strip()) for words in template.thought)
        parts += [
            "{%- set is_kept = loop.last or preserve_thinking -%}",
            f"{{%- set thinks = {opening} in content or {closing} in content -%}}",
            "{%- if thinks and (enable_thinking == false or not is_kept) -%}",
            f"{{%- set content = content.split({closing}, 1)[1].lstrip('\\n') -%}}",
            "{%- set thinks = false -%}{%- endif -%}{%- if is_kept and not thinks -%}",
            f"{{%- set content = {_no_thought(template)} + content -%}}{{%- endif -%}}",
        ]
    parts += [
        "{%- if message['tool_calls'] -%}",
        "{%- set content = content + ('\\n' if content.strip() and not content.endswith('\\n') else '') -%}",
        "{%- set content = content + called(message['tool_calls']) -%}",
        f"{{{{- {_expression(template.function or template.assistant, 'content')} -}}}}",
        f"{{%- else -%}}{{{{- {_expression(template.assistant, 'content')} -}}}}{{%- endif -%}}",
    ]
    return "".join(parts)


def _observation(template: Template) -> str:
    """What functions gave back: a turn each, or all that were called together in one turn."""
    observation = template.observation or template.user
    if not template.result:
        return f"{{{{- {_expression(observation, 'content')} -}}}}"
    before, after = observation.split("{content}")
    return (
        "{%- if loop.first or turns[loop.index0 - 1]['role'] != 'tool' -%}"
        f"{{{{- {_expression(before)} -}}}}{{%- else -%}}{{{{- '\\n' -}}}}{{%- endif -%}}"
        f"{{{{- {_expression(template.result, 'content')} -}}}}"
        "{%- if loop.last or turns[loop.index0 + 1]['role'] != 'tool' -%}"
        f"{{{{- {_expression(after)} -}}}}{{%- endif -%}}"
    )


def _no_thought(template: Template) -> str:
    return _literal("".join(template.thought or ()))


_PLACES = {"{bos}": "(bos_token or '')", "{eos}": "(eos_token or '')"}


def _expression(text: str, content: str = "''") -> str:
    """A piece as a Jinja expression: ``'<s>{content}'`` → ``'<s>' + content``."""
    parts = []
    for part in re.split(r"(\{content\}|\{bos\}|\{eos\})", text):
        if part == "{content}":
            parts.append(content)
        elif part in _PLACES:
            parts.append(_PLACES[part])
        elif part:
            parts.append(_literal(part))
    return " + ".join(parts) or "''"


def _literal(text: str) -> str:
    """A text as Jinja writes it, which is nearly as JSON does."""
    return json.dumps(text, ensure_ascii=False)
