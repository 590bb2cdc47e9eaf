"""Which model, how it is loaded, which words it knows, and how a conversation becomes its prompt."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator

from engine.options.base import Names, Options
from engine.options.option import option

DTYPES = Literal["auto", "float32", "float16", "bfloat16"]


class Model(Options):
    """A base model, its adapters and its chat template."""

    model_name_or_path: str | None = option("models/SmolLM2-135M-Instruct", control="path")  # folder or hub id
    adapter_name_or_path: Names = option((), control="path")  # folders of adapters, applied in this order
    template: str | None = option(None)  # name in the catalogue; None: the tokenizer's own
    hub: Literal["huggingface", "modelscope"] = option("huggingface")
    enable_thinking: bool | None = option(None, level="advanced")  # None: yes if `template` names one, else its own way
    preserve_thinking: bool = option(False, level="advanced")  # keep the thoughts of earlier turns in the prompt
    tool_format: str | None = option(None, level="advanced")  # of a template that is chosen by name; None: its own
    default_system: str | None = option(None, level="advanced", control="lines")  # used where a row has no system turn
    flash_attn: Literal["auto", "disabled", "sdpa", "fa2"] = option("auto", level="advanced")
    infer_dtype: DTYPES = option("auto", level="advanced")
    rope_scaling: Literal["linear", "dynamic", "yarn", "llama3"] | None = option(None, level="advanced")
    model_revision: str = option("main", level="advanced")
    adapter_folder: str | None = option(None, level="command", control="path")  # inside each adapter's folder
    cache_dir: str | None = option(None, level="command", control="path")
    trust_remote_code: bool = option(False, level="owner")

    @property
    def adapters(self) -> tuple[str, ...]:
        """The folders in which the adapters lie."""
        inside = self.adapter_folder or ""
        return tuple(str(Path(path) / inside) if inside else path for path in self.adapter_name_or_path)


class Vocabulary(Options):
    """New tokens, and rows of the embeddings for them."""

    add_tokens: Names = option((), level="advanced")  # words of their own from now on
    add_special_tokens: Names = option((), level="advanced")  # the same, left out of answers that are shown
    new_special_tokens_config: str | None = option(None, level="advanced", control="path")  # YAML, token: description
    init_special_tokens: Literal["noise_init", "desc_init", "desc_init_w_noise"] = option(
        "noise_init", level="advanced"
    )
    resize_vocab: bool = option(False, level="command")  # new tokens do so by themselves

    @property
    def has_new_tokens(self) -> bool:
        return bool(self.add_tokens or self.add_special_tokens or self.new_special_tokens_config)

    @property
    def trains_vocabulary(self) -> bool:
        """Whether the embeddings get rows, and so are trained whatever the method is."""
        return self.resize_vocab or self.has_new_tokens


def _as_text(given: Any) -> Any:
    """YAML reads 4 as a number."""
    return str(given) if type(given) is int else given


def _spelled_shortly(given: Any) -> Any:
    return "bnb" if given == "bitsandbytes" else given


_QUANTIZED = {"quantization_bit": ("4", "8")}
_FOUR_BITS = {"quantization_bit": ("4",)}


class Quantization(Options):
    """A base model in 4 or 8 bits while it is in memory (QLoRA: Dettmers et al. 2023, arXiv 2305.14314)."""

    quantization_bit: Annotated[Literal["4", "8"] | None, BeforeValidator(_as_text)] = option(None, level="advanced")
    quantization_type: Literal["nf4", "fp4"] = option("nf4", when=_FOUR_BITS, level="advanced")
    double_quantization: bool = option(True, when=_FOUR_BITS, level="advanced")  # the scales are quantized as well
    quantization_method: Annotated[Literal["bnb", "hqq", "eetq"], BeforeValidator(_spelled_shortly)] = option(
        "bnb", when=_QUANTIZED, level="command"
    )
    quantization_device_map: Literal["auto"] | None = option(None, when=_QUANTIZED, level="command")
