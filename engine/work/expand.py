"""LLaMA Pro's block expansion: further layers that change nothing yet (Wu et al. 2024, arXiv 2401.02415)."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from engine.errors import UserError
from engine.work.merge import Merge

_LAYER = re.compile(r"\.(\d+)\.")
_OUTPUTS = (("o_proj.weight", "o_proj.bias"), ("down_proj.weight", "down_proj.bias", "experts.down_proj"))
"""The last weights of attention and of the feed-forward part: zeros there add nothing to the residual stream."""


def expanded(merge: Merge, layers: int, count: int) -> Merge:
    """The same model with ``count`` further layers at equal distances, each a copy of the one before it.

    Args:
        layers: that the model has.

    Raises:
        UserError: the layers cannot be divided so, or where a layer adds its results is not known.
    """
    if layers % count:
        divisors = ", ".join(str(each) for each in range(1, layers + 1) if layers % each == 0)
        raise UserError("expand_indivisible", count=count, layers=layers, divisors=divisors)
    stride = layers // count
    sources: dict[str, str] = {}
    zeroed: set[str] = set()
    for name, source in merge.sources.items():
        found = _LAYER.search(name)
        if found is None:
            sources[name] = source
            continue
        number = int(found[1])
        sources[_renumbered(name, number + number // stride)] = source
        if (number + 1) % stride == 0:
            copy = _renumbered(name, number + number // stride + 1)
            sources[copy] = source
            if name.endswith(tuple(end for ends in _OUTPUTS for end in ends)):
                zeroed.add(copy)
    if not all(any(name.endswith(ends) for name in zeroed) for ends in _OUTPUTS):
        raise UserError("expand_unknown")
    return replace(merge, sources=sources, zeroed=frozenset(zeroed))


def expand_config(text: dict[str, Any], count: int) -> None:
    """Say in a model's configuration that it has ``count`` more layers, and of which kind each is."""
    layers = text["num_hidden_layers"]
    stride = layers // count
    for name, value in text.items():
        if isinstance(value, list) and len(value) == layers:
            text[name] = [each for at, kind in enumerate(value, 1) for each in [kind] * (1 if at % stride else 2)]
    text["num_hidden_layers"] = layers + count


def _renumbered(name: str, number: int) -> str:
    return _LAYER.sub(f".{number}.", name, count=1)
