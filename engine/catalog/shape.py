"""The shape of a model: the names and sizes of its weights, from file headers and config.json; no weight is read."""

from __future__ import annotations

import json
import os
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from pathlib import Path
from typing import Any, Literal

Source = Literal["headers", "config", "name"]
"""How a shape is known: from the weight files' headers, computed from config.json, or guessed from the model's name."""

LONGEST_HEADER_BYTES = 100 * 2**20
"""safetensors refuses longer ones."""

AFTER_HEAD = (
    "final_logit_softcapping", "logits_scaling", "logit_scale", "lm_head_multiplier", "output_multiplier_scale",
)  # fmt: skip
"""Settings of a config.json that change logits after the output layer; 1 changes nothing."""

TYPICAL = (
    # parameters, layers, hidden, intermediate, heads, key-value heads, vocabulary
    (0.135e9, 30, 576, 1536, 9, 3, 49152),
    (0.5e9, 24, 896, 4864, 14, 2, 151936),
    (1.5e9, 28, 1536, 8960, 12, 2, 151936),
    (3e9, 36, 2048, 11008, 16, 2, 151936),
    (7.5e9, 28, 3584, 18944, 28, 4, 152064),
    (14e9, 48, 5120, 13824, 40, 8, 152064),
    (32e9, 64, 5120, 27648, 40, 8, 152064),
    (72e9, 80, 8192, 29568, 64, 8, 152064),
)
"""Shapes of SmolLM2 and Qwen2.5 in their sizes, for a model of which no more than its size is known."""


@dataclass(frozen=True)
class Weight:
    """One tensor: its name in the file, the number of its layer (None outside the layers), and its sizes."""

    name: str
    shape: tuple[int, ...]
    layer: int | None = None

    @property
    def count(self) -> int:
        return prod(self.shape)

    @property
    def module(self) -> str:
        """The last name of the module that holds it: ``q_proj``."""
        return self.name.split(".")[-2] if "." in self.name else self.name

    @property
    def is_linear(self) -> bool:
        return len(self.shape) == 2 and self.layer is not None and self.name.endswith("weight")


@dataclass(frozen=True)
class ModelShape:
    """What the size of a training depends on.

    Args:
        hidden, intermediate: widths of the residual stream and of the feed-forward layer, as far as a token uses it.
        stored_bytes: of the weight files; 0 where they are not here.
        is_tied: the output layer shares the embeddings' weight.
        has_plain_head: the logits are what the output layer gives, and nothing is done with them afterwards.
    """

    weights: tuple[Weight, ...]
    layers: int
    hidden: int
    intermediate: int
    heads: int
    key_value_width: int
    vocabulary: int
    is_tied: bool
    source: Source
    stored_bytes: int = 0
    has_plain_head: bool = True

    @property
    def parameters(self) -> int:
        return sum(weight.count for weight in self.weights)

    def linear(self, names: tuple[str, ...]) -> tuple[Weight, ...]:
        """The linear weights of the layers with these leaf names; "all": every one."""
        return tuple(each for each in self.weights if each.is_linear and ("all" in names or each.module in names))


def shape_of(name_or_path: str, cache_dir: str | None = None) -> ModelShape | None:
    """The shape of a model in a folder, in the hub's cache, or guessed from the size in its name; None: unknown."""
    folder = model_folder(name_or_path, cache_dir)
    if folder is not None:
        found = _read(folder, (folder / "config.json").stat().st_mtime_ns)
        if found is not None:
            return found
    return _guessed(name_or_path)


def model_folder(name_or_path: str, cache_dir: str | None = None) -> Path | None:
    """Where a model's config.json lies on this disk; None: not here yet."""
    folder = Path(name_or_path).expanduser()
    if (folder / "config.json").is_file():
        return folder
    home = Path(os.environ.get("HF_HOME", "~/.cache/huggingface")).expanduser()
    hub = Path(cache_dir).expanduser() if cache_dir else Path(os.environ.get("HF_HUB_CACHE", home / "hub"))
    snapshots = (hub / f"models--{name_or_path.replace('/', '--')}" / "snapshots").glob("*/config.json")
    latest = max(snapshots, key=lambda path: path.stat().st_mtime_ns, default=None)
    return latest.parent if latest else None


@lru_cache(maxsize=16)
def _read(folder: Path, changed_ns: int) -> ModelShape | None:
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        config = config.get("text_config") or config
        files = _weight_files(folder)
        stored = [weight for file in files for weight in _header(file)]
        return from_config(config, tuple(stored), sum(file.stat().st_size for file in files))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error):
        return None  # of a form that is not known here, or cut off


def from_config(config: dict[str, Any], weights: tuple[Weight, ...] = (), stored_bytes: int = 0) -> ModelShape:
    """The shape that a config.json describes.

    Args:
        weights: as the files' headers name them; empty: those of a Llama of this shape are taken.

    Raises:
        KeyError: the sizes have names that are not known.
    """

    def of(*names: str, default: Any = None) -> Any:
        found = [config[name] for name in names if config.get(name) is not None]
        if not found and default is None:
            raise KeyError(names[0])
        return found[0] if found else default

    hidden, layers = of("hidden_size", "n_embd", "d_model"), of("num_hidden_layers", "n_layer", "num_layers")
    heads = of("num_attention_heads", "n_head", "num_heads")
    head = of("head_dim", default=hidden // heads)
    key_value = of("num_key_value_heads", default=heads) * head
    wide = of("intermediate_size", "n_inner", "ffn_dim", default=4 * hidden)
    vocabulary = of("vocab_size")
    is_tied = bool(config.get("tie_word_embeddings", True))
    dense = of("num_local_experts", "num_experts", "n_routed_experts", default=1)
    each = of("moe_intermediate_size", default=wide)
    used = wide if dense == 1 else each * of("num_experts_per_tok", default=2)
    if not weights:
        weights = tuple(_like_llama(hidden, layers, heads * head, key_value, dense, each, vocabulary, is_tied))
        source: Source = "config"
    else:
        source = "headers"
        embedded = [weight for weight in weights if weight.layer is None and weight.shape[-1:] == (hidden,)]
        vocabulary = max((weight.shape[0] for weight in embedded if len(weight.shape) == 2), default=vocabulary)
        if is_tied:  # some files hold the shared weight twice
            weights = tuple(weight for weight in weights if weight.module != "lm_head")
    plain = not any(config.get(name) not in (None, 1, 1.0) for name in AFTER_HEAD)
    return ModelShape(
        weights, layers, hidden, used, heads, key_value, vocabulary, is_tied, source, stored_bytes, plain
    )  # fmt: skip


def _like_llama(
    hidden: int, layers: int, query: int, key_value: int, experts: int, wide: int, vocabulary: int, is_tied: bool
) -> Iterator[Weight]:
    yield Weight("model.embed_tokens.weight", (vocabulary, hidden))
    inside = [
        ("self_attn.q_proj", (query, hidden)), ("self_attn.k_proj", (key_value, hidden)),
        ("self_attn.v_proj", (key_value, hidden)), ("self_attn.o_proj", (hidden, query)),
        ("input_layernorm", (hidden,)), ("post_attention_layernorm", (hidden,)),
    ]  # fmt: skip
    for expert in range(experts):
        place = "mlp" if experts == 1 else f"mlp.experts.{expert}"
        inside += [
            (f"{place}.gate_proj", (wide, hidden)), (f"{place}.up_proj", (wide, hidden)),
            (f"{place}.down_proj", (hidden, wide)),
        ]  # fmt: skip
    for layer in range(layers):
        for name, shape in inside:
            yield Weight(f"model.layers.{layer}.{name}.weight", shape, layer)
    yield Weight("model.norm.weight", (hidden,))
    if not is_tied:
        yield Weight("lm_head.weight", (vocabulary, hidden))


def _weight_files(folder: Path) -> list[Path]:
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        files = [folder / name for name in sorted(names)]
        return files if all(file.is_file() for file in files) else []
    single = folder / "model.safetensors"
    return [single] if single.is_file() else []


def _header(file: Path) -> list[Weight]:
    found = []
    for name, told in read_header(file).items():
        number = re.search(r"\.(\d+)\.", name)
        found.append(Weight(name, tuple(told["shape"]), int(number[1]) if number else None))
    return found


def read_header(file: Path) -> dict[str, Any]:
    """What a safetensors file says of its tensors: 8 bytes of length, then JSON (huggingface.co/docs/safetensors).

    Raises:
        ValueError, OSError, struct.error: it is cut off, longer than the format allows, or says something else.
    """
    with file.open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        if length > LONGEST_HEADER_BYTES:
            raise ValueError(f"{file}: a header of {length} bytes")
        try:
            header = json.loads(stream.read(length))
        except RecursionError as error:
            raise ValueError(f"{file}: a header of lists in lists") from error
    if not isinstance(header, dict):
        raise ValueError(f"{file}: a header without names")
    header.pop("__metadata__", None)
    return header


def _guessed(name: str) -> ModelShape | None:
    """A typical model of the size that stands in a name: ``Qwen2.5-7B``, ``SmolLM2-135M``; None: none does."""
    sizes = re.findall(r"(?<![\w.])(\d+(?:\.\d+)?)\s?([bm])(?![a-z])", Path(name).name.lower().replace("-", " "))
    if not sizes:
        return None
    number, unit = sizes[0]
    asked = float(number) * (1e9 if unit == "b" else 1e6)
    _, layers, hidden, wide, heads, few, vocabulary = min(TYPICAL, key=lambda row: abs(asked / row[0] - 1))
    plain = from_config({
        "hidden_size": hidden, "num_hidden_layers": layers, "intermediate_size": wide, "num_attention_heads": heads,
        "num_key_value_heads": few, "vocab_size": vocabulary, "tie_word_embeddings": asked < 4e9,
    })  # fmt: skip
    return ModelShape(**{**vars(plain), "source": "name"})
