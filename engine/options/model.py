"""Which model, how it is loaded, and how a conversation becomes its prompt."""

from __future__ import annotations

from typing import Literal

from engine.options.base import Names, Options
from engine.options.option import option

DTYPES = Literal["auto", "float32", "float16", "bfloat16"]


class Model(Options):
    """A base model, its adapters and its chat template."""

    model_name_or_path: str | None = option("models/SmolLM2-135M-Instruct", control="path")  # folder or hub id
    adapter_name_or_path: Names = option((), control="path")  # folders of adapters, applied in this order
    template: str | None = option(None)  # name in the catalogue; None: the tokenizer's own
    hub: Literal["huggingface", "modelscope"] = option("huggingface")
    enable_thinking: bool | None = option(None, level="advanced")  # None: leave it to the template
    default_system: str | None = option(None, level="advanced", control="lines")  # used where a row has no system turn
    flash_attn: Literal["auto", "disabled", "sdpa", "fa2"] = option("auto", level="advanced")
    infer_dtype: DTYPES = option("auto", level="advanced")
    model_revision: str = option("main", level="advanced")
    cache_dir: str | None = option(None, level="command")
    trust_remote_code: bool = option(False, level="command")
