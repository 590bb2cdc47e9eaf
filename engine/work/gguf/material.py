"""What a GGUF job works with, read once however many files are made: model or adapter, its family, its tensors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from engine.errors import UserError
from engine.options.jobs import GgufJob
from engine.work.gguf import architecture, convert, lora, source, tensors
from engine.work.gguf.imatrix import check_imatrix, read_imatrix
from engine.work.load import load_tokenizer


@dataclass(frozen=True)
class Material:
    """All that the files are made from.

    Args:
        folder: of the (base) model.
        adapter: folder of the adapter, where that is what becomes a file.
        architecture: llama.cpp's name; "" where a checkout of llama.cpp converts.
        planned: the tensors; None where a checkout converts.
        base: the base model's tensors and description, for an adapter's proof.
        whole: the type that the weights have already.
    """

    folder: Path
    tokenizer: Any
    trust_remote_code: bool
    architecture: str = ""
    planned: list[tensors.Planned] | None = None
    describe: Callable | None = None
    adapter: Path | None = None
    base: tuple[list[tensors.Planned], Callable] | None = None
    whole: str = "bf16"
    checkout: Path | None = None
    importance: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def named_after(self) -> Path:
        return self.adapter or self.folder


def gather(job: GgufJob, recorder) -> Material:
    """Read what is needed to begin.

    Raises:
        UserError: a model, adapter or importance matrix that cannot be used, or a type that cannot be made of it.
    """
    recorder.phase("converting")
    folder, adapter = _folders(job, recorder)
    config = architecture.read_config(folder)
    if architecture.family_of(config) is None and job.llama_cpp_dir and adapter is None:
        tokenizer = load_tokenizer(folder, job)
        importance = read_imatrix(Path(job.imatrix).expanduser()) if job.imatrix else {}
        return Material(
            folder, tokenizer, job.trust_remote_code, checkout=Path(job.llama_cpp_dir), importance=importance
        )
    family = architecture.find_architecture(config)
    weights = source.read_weights(folder)
    planned = tensors.plan(weights, family, config)
    tokenizer = load_tokenizer(folder, job)
    describe = convert.model_description(family, config, tokenizer, folder)
    common: dict[str, Any] = {"architecture": family.architecture, "whole": _lossless(weights)}
    if adapter is not None:
        made_by_llama = [outtype for outtype in job.outtype if outtype not in tensors.TYPES]
        if made_by_llama:
            raise UserError("gguf.adapter_outtype", outtype=", ".join(made_by_llama), known=", ".join(tensors.TYPES))
        matrices = lora.plan_adapter(adapter, family, config, planned)
        about = lora.adapter_description(family, adapter, folder)
        return Material(
            folder, tokenizer, job.trust_remote_code, planned=matrices, describe=about, adapter=adapter,
            base=(planned, describe), **common,
        )  # fmt: skip
    importance = {}
    if job.imatrix:
        path = Path(job.imatrix).expanduser()
        importance = read_imatrix(path)
        check_imatrix(importance, {tensor.name: tensor.shape for tensor in planned}, path)
    return Material(
        folder, tokenizer, job.trust_remote_code, planned=planned, describe=describe, importance=importance, **common
    )


def _folders(job: GgufJob, recorder) -> tuple[Path, Path | None]:
    """The model's folder and, where an adapter is to become a file, that one's.

    An adapter is named beside its base (``adapter_name_or_path``), or in the model's place; then it names its base.
    """
    from engine.work.download import local_model

    named, adapters = job.model_name_or_path or "", list(job.adapters)
    path = Path(named).expanduser()
    if not adapters and (path / "adapter_config.json").is_file() and not (path / "config.json").is_file():
        adapters, named = [str(path)], _base_of(path)
        path = Path(named).expanduser()
    if len(adapters) > 1:
        raise UserError("gguf.several_adapters", count=len(adapters))
    if not (path.is_dir() and (path / "config.json").is_file()):
        path = local_model(named, job.hub, job.model_revision, recorder, job.cache_dir)
    return path, Path(adapters[0]).expanduser() if adapters else None


def _base_of(adapter: Path) -> str:
    from engine.work.load import read_adapter_config

    base = read_adapter_config(adapter).get("base_model_name_or_path")
    if not base:
        raise UserError("gguf.adapter_names_no_base", path=adapter)
    return str(base)


def _lossless(weights: dict[str, source.Weight]) -> str:
    """The type that the weights have already: what lies between model and a type of llama.cpp's rounds nothing."""
    kinds = {weight.dtype for weight in weights.values() if len(weight.shape) > 1}
    return {"BF16": "bf16", "F16": "f16"}.get(kinds.pop(), "f32") if len(kinds) == 1 else "f32"
