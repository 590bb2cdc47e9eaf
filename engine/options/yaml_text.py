"""YAML in and out, with the numbers that PyYAML takes for texts: 1e-4 has no point in it, and so is no number to it.

What is read may come from anybody: aliases that stand for millions of values, and all else that is not YAML in earnest,
is refused like any other fault.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import yaml

MOST_NODES = 20_000
"""Values in one text, each counted as often as aliases repeat it."""
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+")


class _Dumper(yaml.SafeDumper):
    """Quotes a text that looks like a number."""


_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(rf"(?:{_NUMBER.pattern})$"), list("-+.0123456789"))


def write_yaml(content: Any, sort_keys: bool = False) -> str:
    return yaml.dump(content, Dumper=_Dumper, sort_keys=sort_keys, allow_unicode=True)


def read_options(text: str) -> Any:
    """The content of a file of options. A bare 1e-4 inside a mapping is a number; one that is quoted is not.

    An option's own value and a list of names stay as PyYAML gives them, since the option's type says what they are.

    Raises:
        yaml.YAMLError: it is not YAML; has ``problem_mark`` where the place is known.
    """
    return _read(text, lambda root: [node for node in _children(root) if isinstance(node, yaml.MappingNode)])


def read_value(text: str) -> Any:
    """One value as it is typed on a command line: JSON, YAML, or a bare word.

    Raises:
        yaml.YAMLError: it is not YAML.
    """
    return _read(text, lambda root: [root])


def _read(text: str, untyped: Callable[[yaml.Node], list[yaml.Node]]) -> Any:
    loader = yaml.SafeLoader(text)
    try:
        root = loader.get_single_node()
        if root is None:
            return None
        _count(root, {})
        for node in untyped(root):
            _mark_numbers(node)
        return loader.construct_document(root)
    except RecursionError as error:
        raise _fault("it is nested too deeply") from error
    except (ValueError, OverflowError) as error:  # a date or a number that does not exist
        raise _fault(str(error)) from error
    finally:
        loader.dispose()


def _fault(said: str) -> yaml.YAMLError:
    return yaml.MarkedYAMLError(problem=said)


def _count(node: yaml.Node, known: dict[int, int]) -> int:
    """How many values a node stands for. Raises: yaml.YAMLError, for too many, and for one that holds itself."""
    found = known.get(id(node))
    if found is None:
        known[id(node)] = 0  # a node that is met inside itself
        parts = (
            [part for pair in node.value for part in pair] if isinstance(node, yaml.MappingNode) else _children(node)
        )
        found = known[id(node)] = 1 + sum(_count(part, known) for part in parts)
    if not 0 < found <= MOST_NODES:
        raise _fault(f"aliases repeat it without end, or it holds more than {MOST_NODES} values")
    return found


def _mark_numbers(node: yaml.Node) -> None:
    if isinstance(node, yaml.ScalarNode) and node.style is None and _NUMBER.fullmatch(node.value):
        node.tag = "tag:yaml.org,2002:float"
    for child in _children(node):
        _mark_numbers(child)


def _children(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [value for _, value in node.value]
    return node.value if isinstance(node, yaml.SequenceNode) else []
