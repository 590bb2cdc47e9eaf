"""Chat templates by name, for those who choose one instead of the tokenizer's own: data in ``templates/*.yaml``.

A file states the pieces of a conversation; from them one Jinja chat template is composed, the same kind of template
that tokenizers carry. So whatever renders a prompt (training, chat, export, GGUF) has one way to do it.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import yaml

from engine.errors import UserError

FOLDER = Path(__file__).with_name("templates")


@dataclass(frozen=True)
class Template:
    """The pieces of a conversation; ``{content}``, ``{bos}`` and ``{eos}`` stand for what their names say.

    Args:
        prefix: before everything.
        system, user, assistant: one turn each. What the model must produce itself begins at ``{content}``.
        assistant_start: what a prompt ends with, so that an answer follows.
        stop: what ends an answer, beside the tokenizer's own end.
        default_system: the system turn of a conversation that has none; "" for none at all.
        system_in_user: True when the system text stands at the beginning of the first user turn.
    """

    name: str
    user: str
    assistant: str
    assistant_start: str = ""
    system: str = "{content}"
    prefix: str = ""
    stop: tuple[str, ...] = ()
    default_system: str = ""
    system_in_user: bool = False

    @property
    def chat_template(self) -> str:
        """The Jinja template, as a tokenizer's ``chat_template``."""
        return _compose(self)


def template_names() -> list[str]:
    """All names, aliases included, in alphabetical order."""
    return sorted(_names())


def find_template(name: str) -> Template:
    """Raises: UserError, with the nearest name, if there is no template of this name."""
    names = _names()
    if name not in names:
        near = difflib.get_close_matches(name, names, n=1, cutoff=0.4)
        key = "template_unknown_near" if near else "template_unknown"
        raise UserError(key, template=name, near=near[0] if near else "", known=", ".join(sorted(names)))
    content = yaml.safe_load((FOLDER / f"{names[name]}.yaml").read_text(encoding="utf-8"))
    content.pop("aliases", None)
    variants = content.pop("variants", {})
    stop = tuple(content.pop("stop", ()))
    return Template(name=name, stop=stop, **{**content, **variants.get(name, {})})


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
    """One Jinja template: prefix, system turn (given, default or none), turns, and where an answer begins.

    A tool's result is shown to the model as a user turn.
    """
    default = _expression(template.default_system) if template.default_system else "''"
    lines = [
        f"{{{{- {_expression(template.prefix)} }}}}" if template.prefix else "",
        "{%- if messages and messages[0]['role'] == 'system' %}",
        "{%- set system = messages[0]['content'] %}{%- set turns = messages[1:] %}",
        "{%- else %}",
        f"{{%- set system = {default} %}}{{%- set turns = messages %}}",
        "{%- endif %}",
    ]
    system = _expression(template.system, "system")
    user = _expression(template.user, "content")
    if template.system_in_user:
        lines.append("{%- for message in turns %}{%- set content = message['content'] or '' %}")
        lines.append(f"{{%- if loop.first and system %}}{{%- set content = {system} + content %}}{{%- endif %}}")
    else:
        lines.append(f"{{%- if system %}}{{{{- {system} }}}}{{%- endif %}}")
        lines.append("{%- for message in turns %}{%- set content = message['content'] or '' %}")
    lines += [
        "{%- if message['role'] == 'assistant' %}",
        f"{{{{- {_expression(template.assistant_start + template.assistant, 'content')} }}}}",
        "{%- else %}",
        f"{{{{- {user} }}}}",
        "{%- endif %}{%- endfor %}",
        f"{{%- if add_generation_prompt %}}{{{{- {_expression(template.assistant_start)} }}}}{{%- endif %}}",
    ]
    return "".join(lines)


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
            escaped = part.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n")
            parts.append(f"'{escaped}'")
    return " + ".join(parts) or "''"
