"""The GGUF job: a model folder becomes one .gguf file with its Modelfile and report, or nothing at all."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

from engine.errors import UserError
from engine.options.jobs import GgufJob
from engine.runs.record import Recorder, write_text
from engine.work.imports import lean_imports
from engine.work.unfinished import unfinished


def run(job: GgufJob, recorder: Recorder) -> dict[str, Any]:
    """Convert, quantise where need be, prove, and only then give the file its name.

    Returns:
        ``outfile``, ``size_bytes``, ``modelfile`` (None when the model has no chat template that can be expressed) and,
        under ``verified``, what was proven.

    Raises:
        UserError: anything that stands in the way; then the file that lay under the name before, if any, still does.
    """
    if job.adapter_name_or_path:
        raise UserError("gguf.adapter_not_merged", path=", ".join(job.adapter_name_or_path))
    folder = model_folder(job, recorder)
    outfile = outfile_of(job, folder)
    with unfinished(outfile) as temporary:
        verified, tokenizer = _make(job, folder, temporary, recorder)
    from engine.work.modelfile import write_modelfile

    modelfile = write_modelfile(outfile, tokenizer, folder, job.default_system, recorder)
    result = {"outfile": str(outfile), "size_bytes": outfile.stat().st_size, "outtype": job.outtype,
              "modelfile": modelfile and str(modelfile), "verified": verified}  # fmt: skip
    report = {"model": str(folder), **result}
    write_text(
        outfile.with_name(f"{outfile.name}.report.json"), json.dumps(report, indent=1, ensure_ascii=False) + "\n"
    )
    return result


def model_folder(job: GgufJob, recorder: Recorder) -> Path:
    path = Path(job.model_name_or_path).expanduser()
    if path.is_dir() and (path / "config.json").is_file():
        return path
    from engine.work.download import local_model

    return local_model(job.model_name_or_path, job.hub, job.model_revision, recorder, job.cache_dir)


def outfile_of(job: GgufJob, folder: Path) -> Path:
    """Where the file goes: as asked, or ``<folder>/<folder's name>-<OUTTYPE>.gguf``.

    Raises:
        UserError: the name does not end in .gguf, or is a folder's.
    """
    if not job.outfile:
        folder = folder.resolve()
        return folder / f"{folder.name}-{job.outtype.upper()}.gguf"
    path = Path(job.outfile).expanduser()
    if path.suffix != ".gguf" or path.is_dir():
        raise UserError("gguf.outfile_name", path=path)
    return path


def _make(job: GgufJob, folder: Path, temporary: Path, recorder: Recorder) -> tuple[dict[str, Any], Any]:
    """Write the temporary file and prove it. Returns what was proven, and the tokenizer."""
    with lean_imports():
        from engine.work.gguf import architecture, convert, quantize, source, verify
        from engine.work.load import load_tokenizer

    is_k_quant = job.outtype in quantize.BITS_PER_WEIGHT
    if is_k_quant:
        quantize.import_llama_cpp()  # rather now than after a long conversion
    recorder.phase("converting")
    config = architecture.read_config(folder)
    family = architecture.find_architecture(config)
    weights = source.read_weights(folder)
    tokenizer = load_tokenizer(folder, job)
    whole = convert.TYPES[_lossless(weights) if is_k_quant else job.outtype]
    planned = convert.plan(weights, family, config, whole)
    need_space(temporary, planned, job.outtype)
    whole_file = temporary.with_name(f"{temporary.name}.{whole.name.lower()}") if is_k_quant else temporary
    try:
        convert.write(whole_file, planned, family, config, tokenizer, folder, whole, recorder)
        if is_k_quant:
            recorder.phase("quantizing")
            recorder.check_stop()
            quantize.quantize(whole_file, temporary, job.outtype)
    finally:
        if is_k_quant:
            whole_file.unlink(missing_ok=True)
    recorder.check_stop()
    verified = verify.verify_tensors(temporary, planned, is_k_quant, recorder)
    return {**verified, **_prove_in_llama_cpp(job, folder, temporary, tokenizer, recorder)}, tokenizer


def _prove_in_llama_cpp(job: GgufJob, folder: Path, path: Path, tokenizer, recorder: Recorder) -> dict[str, Any]:
    from engine.work.gguf import quantize, source, verify

    try:
        llama_cpp = quantize.import_llama_cpp()
    except UserError as error:
        recorder.warn("gguf.not_run")
        recorder.warn(error.key, **error.facts)
        return {"llama_cpp": None}
    recorder.phase("verifying")
    answers = verify.llama_answers(path, tokenizer, llama_cpp, recorder)
    result = {"llama_cpp": llama_cpp.__version__, "prompt_tokens_equal": len(answers)}
    if sum(file.stat().st_size for file in source.weight_files(folder)) > verify.LARGEST_SOURCE_BYTES:
        recorder.warn("gguf.source_too_large", limit=f"{verify.LARGEST_SOURCE_BYTES / 1e9:g}")
        return result
    compared = verify.compare_with_source(folder, answers, recorder)
    verify.judge(compared, job.outtype, recorder)
    return {**result, **compared}


def _lossless(weights: dict) -> str:
    """The type that the weights have already: what lies between model and K-quant rounds nothing."""
    kinds = {weight.dtype for weight in weights.values() if len(weight.shape) > 1}
    return {"BF16": "bf16", "F16": "f16"}.get(kinds.pop(), "f32") if len(kinds) == 1 else "f32"


def need_space(path: Path, planned: list, outtype: str) -> None:
    """Raises: UserError, if the disk cannot hold what will be written."""
    from engine.work.gguf.quantize import BITS_PER_WEIGHT

    needed = sum(tensor.size_bytes for tensor in planned)
    if outtype in BITS_PER_WEIGHT:
        needed += sum(math.prod(tensor.shape) for tensor in planned) * BITS_PER_WEIGHT[outtype] / 8
    free = shutil.disk_usage(path.parent).free
    if needed > free:
        raise UserError("gguf.disk_too_small", path=path.parent, needed=f"{needed / 1e9:.1f}", free=f"{free / 1e9:.1f}")
