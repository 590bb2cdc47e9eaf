"""How models write function calls, by name: data in ``tool_formats/*.yaml``, Jinja one way and a pattern the other.

A format states how the tools are described to the model, how its calls are written, and how calls are found again in
what it answers.
"""

from __future__ import annotations

import ast
import difflib
import json
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from engine.errors import UserError

FOLDER = Path(__file__).with_name("tool_formats")


@dataclass(frozen=True)
class Call:
    """A function that the model wants called."""

    name: str
    arguments: dict[str, Any]


@dataclass(frozen=True)
class ToolFormat:
    """One way to write tools and their calls.

    Args:
        definitions: Jinja over ``tools``, each ``{"type": "function", "function": {name, description, parameters}}``.
        calls: Jinja over ``calls``, a list of ``{"name", "arguments"}``; writes all calls of one turn.
        pattern: finds a call: the group ``json`` holds an object or an array of them, ``python`` a list of calls as
            Python writes them, or ``name`` and ``arguments`` one call.
        arguments_key: what an object calls its arguments.
        is_repeated: each match is one call; else the first match holds all of them.
        opening: what every call begins with, wherever in an answer; "" where only a whole answer can be a call.
    """

    name: str
    definitions: str
    calls: str
    pattern: str
    arguments_key: str = "arguments"
    is_repeated: bool = False
    opening: str = ""


def tool_format_names() -> list[str]:
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


@lru_cache(maxsize=32)
def find_tool_format(name: str) -> ToolFormat:
    """Raises: UserError, with the names there are, if this is none of them."""
    names = tool_format_names()
    if name not in names:
        near = difflib.get_close_matches(name, names, n=1, cutoff=0.4)
        raise UserError("tool_format_unknown", name=name, near=near[0] if near else names[0], known=", ".join(names))
    content = yaml.safe_load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))
    extract = content["extract"]
    return ToolFormat(
        name,
        _joined(content["definitions"]),
        _joined(content["calls"]),
        extract["pattern"],
        extract.get("arguments", "arguments"),
        extract.get("repeated", False),
        extract.get("opening", ""),
    )


def calls_in(text: str, tool_format: ToolFormat) -> list[Call]:
    """The calls in an answer; none when it holds none, or holds something that only looks like one."""
    found = list(re.finditer(tool_format.pattern, text, re.DOTALL))
    calls: list[Call] = []
    for match in found if tool_format.is_repeated else found[:1]:
        read = _calls_of(match.groupdict(), tool_format.arguments_key)
        if read is None:
            return []
        calls += read
    return calls


def wrapped_tools(tools: list[Any]) -> list[dict[str, Any]]:
    """Definitions in the one shape that chat templates expect: a bare one gets its ``"type": "function"``."""
    return [
        tool if isinstance(tool.get("function"), dict) else {"type": "function", "function": tool} for tool in tools
    ]


def _calls_of(parts: dict[str, str], arguments_key: str) -> list[Call] | None:
    try:
        if parts.get("python"):
            return _python_calls(parts["python"])
        if parts.get("name"):
            return [_call(parts["name"], json.loads(parts["arguments"].strip("` \n")))]
        content = json.loads(parts["json"])
        objects = content if isinstance(content, list) else [content]
        return [_call(each["name"], each[arguments_key]) for each in objects]
    except (ValueError, SyntaxError, KeyError, TypeError, RecursionError):
        return None


def _call(name: Any, arguments: Any) -> Call:
    if not isinstance(name, str) or not isinstance(arguments, dict):
        raise TypeError("not a call")
    return Call(name, arguments)


def _python_calls(text: str) -> list[Call]:
    tree = ast.parse(text, mode="eval").body
    return [_python_call(node) for node in (tree.elts if isinstance(tree, ast.List) else [tree])]


def _python_call(node: ast.AST) -> Call:
    """Arguments without a name cannot be told apart, so a call that has any is none."""
    if not isinstance(node, ast.Call) or node.args or not all(word.arg for word in node.keywords):
        raise ValueError("not a call by names")
    return _call(ast.unparse(node.func), {word.arg: _literal(word.value) for word in node.keywords})


class _JsonWords(ast.NodeTransformer):
    """true, false and null, which a model writes as often as True, False and None."""

    WORDS = {"true": True, "false": False, "null": None}

    def visit_Name(self, node: ast.Name) -> ast.AST:
        if node.id not in self.WORDS:
            raise ValueError(node.id)
        return ast.Constant(self.WORDS[node.id])


def _literal(node: ast.AST) -> Any:
    return ast.literal_eval(_JsonWords().visit(node))


def _joined(jinja: str) -> str:
    return "".join(jinja.strip().splitlines())
