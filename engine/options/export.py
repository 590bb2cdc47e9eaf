"""Merging adapters into their base model, and GGUF files."""

from __future__ import annotations

from typing import Literal

from engine.options.base import Options
from engine.options.model import DTYPES
from engine.options.option import option

OUTTYPES = Literal["f32", "f16", "bf16", "q8_0", "q6_k", "q5_k_m", "q5_k_s", "q4_k_m", "q4_k_s", "q3_k_m", "q2_k"]


class Export(Options):
    """Base model + adapters → one merged model."""

    export_dir: str | None = option(None, control="path")
    export_size: float = option(5.0, gt=0)  # GB in each file of weights
    export_dtype: DTYPES = option("auto")  # auto: float32 while small, else as the base model
    export_hub_model_id: str | None = option(None, level="advanced")  # owner/name on `hub`, where it is uploaded
    export_private_repo: bool = option(True, level="advanced")  # a repository that the upload makes
    expand_layers: int | None = option(None, ge=1, level="command")  # further layers that change nothing yet
    export_device: Literal["cpu", "auto"] = option("cpu", level="command")
    export_legacy_format: Literal[False] = option(False, level="command")


class Gguf(Options):
    """Merged model → one .gguf file."""

    outfile: str | None = option(None, control="path")  # None: beside the model, named after it
    outtype: OUTTYPES = option("q8_0")
