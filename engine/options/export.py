"""Merging adapters into their base model, and GGUF files."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator

from engine.options.base import Options, split_names
from engine.options.model import DTYPES
from engine.options.option import option

OUTTYPES = Literal[
    "f32", "f16", "bf16", "q8_0", "q6_k", "q5_k_m", "q5_k_s", "q5_1", "q5_0", "q4_k_m", "q4_k_s", "q4_1", "q4_0",
    "iq4_nl", "iq4_xs", "q3_k_l", "q3_k_m", "q3_k_s", "iq3_m", "iq3_s", "iq3_xs", "iq3_xxs", "q2_k", "q2_k_s",
    "iq2_m", "iq2_s", "iq2_xs", "iq2_xxs", "iq1_m", "iq1_s",
]  # fmt: skip
NEED_IMATRIX = ("iq3_xs", "iq3_xxs", "q2_k_s", "iq2_m", "iq2_s", "iq2_xs", "iq2_xxs", "iq1_m", "iq1_s")
"""Types that llama.cpp refuses to make without an importance matrix."""
OutTypes = Annotated[tuple[OUTTYPES, ...], BeforeValidator(split_names)]


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
    """Merged model → .gguf files, one for each type; or an adapter alone → one that is loaded beside its base."""

    outfile: str | None = option(None, control="path")  # None: beside the model, named after it
    outtype: OutTypes = option(("q8_0",))
    imatrix: str | None = option(None, level="advanced", control="path")  # file of llama.cpp's llama-imatrix
    llama_cpp_dir: str | None = option(None, level="owner")  # checkout whose own converter does what ours does not


class Ollama(Options):
    """One .gguf file → a model on an Ollama server."""

    modelfile: str | None = option(None, control="path")  # None: the one beside the file, else from its chat template
    overwrite: bool = option(False)  # replace a model of that name
