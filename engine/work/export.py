"""The export job: a base model and its adapters become one merged folder, complete and proven, or nothing at all."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import nullcontext
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import torch

from engine.catalog.rendering import named_template
from engine.errors import UserError
from engine.options.jobs import ExportJob
from engine.runs.contents import TOKENIZER_FILES
from engine.runs.record import Recorder
from engine.work.adapter_files import ADAPTER_CONFIG, ADAPTER_WEIGHTS, is_reward_adapter, read_adapter
from engine.work.beside import beside
from engine.work.expand import expanded
from engine.work.imports import lean_imports, load_libraries
from engine.work.merge import Merge, plan_merge
from engine.work.merged_config import layer_count, merged_config, tied_embeddings
from engine.work.model_card import model_card, trained_by
from engine.work.shards import GB, model_tensors, write_model
from engine.work.unfinished import unfinished
from engine.work.upload import need_token, upload
from engine.work.verify_logits import LogitsProof
from engine.work.verify_merge import verify_tensors

FLOAT32_BELOW_BYTES = 4 * GB
"""``export_dtype: auto`` writes float32 below this size: nothing is rounded, and base + adapter = merged model."""

BESIDE_BELOW_BYTES = 1 * GB
"""Below this size in float32 the weights are merged beside the imports, by one thread; else then, by all of them."""

OTHER_FILES = ("generation_config.json", "*preprocessor_config.json", "processor_config.json", "*.py", "LICENSE*",
               "NOTICE*", "USE_POLICY*")  # fmt: skip
LARGEST_COPIED_BYTES = 100_000_000


def run(job: ExportJob, recorder: Recorder) -> dict[str, Any]:
    """Merge, write, prove, and only then give the folder its name.

    Returns:
        ``export_dir``, ``size_bytes``, ``dtype``, under ``verified`` what was proven, and ``uploaded``, the address on
        a hub, if it was asked for.

    Raises:
        UserError: anything that stands in the way; then nothing lies under ``export_dir``, unless it was only the
            upload that failed.
    """
    from engine.work.download import local_model

    target = Path(job.export_dir).expanduser()
    adapters = [adapter_folder(path) for path in job.adapters]
    if job.export_hub_model_id:
        need_token(job.hub)
    base = local_model(job.model_name_or_path, job.hub, job.model_revision, recorder, job.cache_dir)
    refuse_target(target, [base, *adapters])
    if adapters and is_reward_adapter(adapters[-1]):
        with lean_imports():
            from engine.work.merge_reward import write_reward_model
        with unfinished(target, is_folder=True) as folder:
            facts = write_reward_model(folder, base, adapters, job, recorder)
            copy_small_files(base, adapters, folder)
            size_bytes = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        result = {"export_dir": str(target), "size_bytes": size_bytes, **facts}
        return result | (upload(target, job, recorder) if job.export_hub_model_id else {})
    facts = _merged(target, base, adapters, job, recorder)
    size_bytes = sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
    result = {"export_dir": str(target), "size_bytes": size_bytes, **facts}
    return result | (upload(target, job, recorder) if job.export_hub_model_id else {})


def _merged(target: Path, base: Path, adapters: list[Path], job: ExportJob, recorder: Recorder) -> dict[str, Any]:
    """Write ``target`` and prove it."""
    stored = model_tensors(base)
    tied = tied_embeddings(base, stored, job.trust_remote_code)
    merge = plan_merge(stored, [read_adapter(path) for path in adapters], tied)
    if job.expand_layers:
        merge = expanded(merge, layer_count(base, job.trust_remote_code), job.expand_layers)
    _warn_of_other_base(job, merge, recorder)
    contents = _contents(merge, job.export_dtype)
    dtype = _main_dtype(contents)
    _need_space(target, sum(_size(*content) for content in contents.values()))
    with unfinished(target, is_folder=True) as folder:

        def written() -> tuple[int, int]:
            _write_weights(folder, merge, contents, job.export_size * GB, recorder)
            return verify_tensors(merge, folder, recorder)

        is_beside = merge.float32_bytes() < BESIDE_BELOW_BYTES
        with beside(written) if is_beside else nullcontext(written) as finished:
            load_libraries()
            config = merged_config(base, merge, job, dtype)
            (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", "utf-8")
            copy_small_files(base, adapters, folder)
            if template := named_template(job):
                (folder / "chat_template.jinja").write_text(template.chat_template, encoding="utf-8")
            device = "cuda" if job.export_device == "auto" and torch.cuda.is_available() else "cpu"
            proof = LogitsProof(merge, base, device, job, recorder)
            if is_beside:
                proof.prepare(folder)
            changed, unchanged = finished()
        logits = proof.compare(folder, dtype)
        verified = {
            "tensors_changed": changed,
            "tensors_unchanged": unchanged,
            "logit_max_difference": logits and logits.max_difference,
            "logit_tolerance": logits and logits.tolerance,
            "logits_streamed": logits and logits.is_streamed,
        }
        facts = {"dtype": str(dtype).removeprefix("torch."), "verified": verified}
        told = facts | {"expanded": job.expand_layers}
        card = model_card(job.model_name_or_path, base, [adapter.config for adapter in merge.adapters], told)
        (folder / "README.md").write_text(card + trained_by(adapters or [base]), encoding="utf-8")
    return facts


def adapter_folder(name: str) -> Path:
    """The folder of an adapter: a run's, a checkpoint's, or any that peft has written.

    Raises:
        UserError: it is not there, or holds no adapter; says what lies there instead.
    """
    folder = Path(name).expanduser()
    missing = [file for file in (ADAPTER_CONFIG, ADAPTER_WEIGHTS) if not (folder / file).is_file()]
    if not missing:
        return folder
    if not folder.is_dir():
        nearest = next(path for path in folder.absolute().parents if path.is_dir())
        found = f"{nearest}: {_listing(nearest)}"
    else:
        found = _listing(folder)
    raise UserError("adapter_missing", path=folder, missing=", ".join(missing), found=found)


def refuse_target(target: Path, sources: list[Path]) -> None:
    """Raises: UserError, if ``target`` is one of the folders that are read, or holds anything."""
    for source in sources:
        if target.resolve() == source.resolve():
            raise UserError("merge.export_dir_is_source", path=target)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError("export_dir_exists", path=target)


def copy_small_files(base: Path, adapters: list[Path], folder: Path) -> None:
    """Copy what a model needs beside its weights; the tokenizer is the one the last adapter was trained with."""
    trained = next((path for path in reversed(adapters) if (path / "tokenizer_config.json").is_file()), None)
    _copy(trained or base, folder, TOKENIZER_FILES)
    _copy(base, folder, OTHER_FILES)
    for adapter in adapters:
        _copy(adapter, folder, ("generation_config.json",))
    if trained:
        _copy(base, folder, tuple({"*.model"} - {path.name for path in trained.glob("*.model")}))
        if not _has_chat_template(folder):
            _copy(base, folder, ("chat_template.*",))


def _write_weights(folder: Path, merge: Merge, contents: dict, limit_bytes: float, recorder: Recorder) -> None:
    def tensor_of(name: str) -> torch.Tensor | Iterator[torch.Tensor]:
        dtype = contents[name][1]
        if merge.is_touched(name):
            return merge.tensor(name).to(dtype)
        return (block.to(dtype) for block in merge.base_blocks(name))

    for done, _ in enumerate(write_model(folder, contents, limit_bytes, tensor_of), start=1):
        recorder.check_stop()
        recorder.phase("merging", done, len(contents), "tensors")


def _contents(merge: Merge, export_dtype: str) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    """Shape and dtype of every tensor of the merged model.

    auto: float32 where adapters are merged and the result stays small, else as the base has it. Whole numbers stay.
    """
    if export_dtype == "auto":
        is_small = merge.adapters and merge.float32_bytes() < FLOAT32_BELOW_BYTES
        chosen = torch.float32 if is_small else None
    else:
        chosen = getattr(torch, export_dtype)
    contents = {}
    for name in merge.sources:
        stored = merge.stored_dtype(name)
        contents[name] = merge.shape(name), chosen if chosen and stored.is_floating_point else stored
    return contents


def _main_dtype(contents: dict[str, tuple[tuple[int, ...], torch.dtype]]) -> torch.dtype:
    """The dtype in which most bytes are."""
    sizes: Counter[torch.dtype] = Counter()
    for shape, dtype in contents.values():
        if dtype.is_floating_point:
            sizes[dtype] += _size(shape, dtype)
    return sizes.most_common(1)[0][0]


def _size(shape: tuple[int, ...], dtype: torch.dtype) -> int:
    return torch.Size(shape).numel() * dtype.itemsize


def _need_space(target: Path, size_bytes: int) -> None:
    parent = next(path for path in target.absolute().parents if path.is_dir())
    free_bytes = shutil.disk_usage(parent).free
    if free_bytes < size_bytes + LARGEST_COPIED_BYTES:
        needed = size_bytes + LARGEST_COPIED_BYTES
        raise UserError(
            "disk_full_before", path=parent, needed=f"{needed / GB:.1f} GB", free=f"{free_bytes / GB:.1f} GB"
        )


def _warn_of_other_base(job: ExportJob, merge: Merge, recorder: Recorder) -> None:
    for adapter in merge.adapters:
        trained_on = adapter.config.get("base_model_name_or_path")
        if trained_on and Path(trained_on).name != Path(job.model_name_or_path).name:
            recorder.warn(
                "merge.other_base", adapter=str(adapter.folder), trained_on=trained_on, base=job.model_name_or_path
            )


def _copy(source: Path, folder: Path, patterns: tuple[str, ...]) -> None:
    for path in source.iterdir():
        if not any(fnmatch(path.name, pattern) for pattern in patterns):
            continue
        if path.is_dir():
            shutil.copytree(path, folder / path.name, dirs_exist_ok=True)
        elif path.stat().st_size <= LARGEST_COPIED_BYTES:
            shutil.copyfile(path, folder / path.name)


def _has_chat_template(folder: Path) -> bool:
    if any(folder.glob("chat_template*")):
        return True
    config = folder / "tokenizer_config.json"
    return config.is_file() and '"chat_template"' in config.read_text(encoding="utf-8")


def _listing(folder: Path) -> str:
    names = sorted(re.sub(r"\s", " ", path.name) for path in folder.iterdir())
    return ", ".join(names[:12]) + (" …" if len(names) > 12 else "") if names else "–"
