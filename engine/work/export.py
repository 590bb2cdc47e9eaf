"""The export job: a base model and its adapters become one merged folder, complete and proven, or nothing at all."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import torch

from engine.catalog.rendering import named_template
from engine.errors import UserError
from engine.options.jobs import ExportJob
from engine.runs.contents import TOKENIZER_FILES
from engine.runs.record import Recorder
from engine.work.adapter_files import ADAPTER_CONFIG, ADAPTER_WEIGHTS, read_adapter
from engine.work.expand import expand_config, expanded
from engine.work.merge import Merge, plan_merge
from engine.work.merge_reward import is_reward_adapter, write_reward_model
from engine.work.model_card import model_card, trained_by
from engine.work.rope import stretch
from engine.work.shards import GB, model_tensors, write_model
from engine.work.unfinished import unfinished
from engine.work.verify_merge import compare_logits, verify_tensors

FLOAT32_BELOW_BYTES = 4 * GB
"""``export_dtype: auto`` writes float32 below this size: nothing is rounded, and base + adapter = merged model."""

OTHER_FILES = ("generation_config.json", "*preprocessor_config.json", "processor_config.json", "*.py", "LICENSE*",
               "NOTICE*", "USE_POLICY*")  # fmt: skip
LARGEST_COPIED_BYTES = 100_000_000


def run(job: ExportJob, recorder: Recorder) -> dict[str, Any]:
    """Merge, write, prove, and only then give the folder its name.

    Returns:
        ``export_dir``, ``size_bytes``, ``dtype`` and, under ``verified``, what was proven.

    Raises:
        UserError: anything that stands in the way; then nothing lies under ``export_dir``.
    """
    from engine.work.download import local_model

    target = Path(job.export_dir).expanduser()
    adapters = [adapter_folder(path) for path in job.adapters]
    base = local_model(job.model_name_or_path, job.hub, job.model_revision, recorder, job.cache_dir)
    refuse_target(target, [base, *adapters])
    if adapters and is_reward_adapter(adapters[-1]):
        with unfinished(target, is_folder=True) as folder:
            facts = write_reward_model(folder, base, adapters, job, recorder)
            copy_small_files(base, adapters, folder)
            size_bytes = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        return {"export_dir": str(target), "size_bytes": size_bytes, **facts}
    merge = plan_merge(
        model_tensors(base),
        [read_adapter(path) for path in adapters],
        tied_embeddings(base, job.trust_remote_code),
    )
    if job.expand_layers:
        merge = expanded(merge, layer_count(base, job.trust_remote_code), job.expand_layers)
    _warn_of_other_base(job, merge, recorder)
    contents = _contents(merge, job.export_dtype)
    dtype = _main_dtype(contents)
    _need_space(target, sum(_size(*content) for content in contents.values()))
    device = "cuda" if job.export_device == "auto" and torch.cuda.is_available() else "cpu"
    with unfinished(target, is_folder=True) as folder:
        _write_weights(folder, merge, contents, job.export_size * GB, recorder)
        recorder.phase("saving")
        (folder / "config.json").write_text(
            json.dumps(merged_config(base, merge, job, dtype), indent=2) + "\n", "utf-8"
        )
        copy_small_files(base, adapters, folder)
        if template := named_template(job):
            (folder / "chat_template.jinja").write_text(template.chat_template, encoding="utf-8")
        changed, unchanged = verify_tensors(merge, folder, recorder)
        logits = compare_logits(merge, base, folder, dtype, device, job, recorder)
        verified = {
            "tensors_changed": changed,
            "tensors_unchanged": unchanged,
            "logit_max_difference": logits and logits.max_difference,
            "logit_tolerance": logits and logits.tolerance,
        }
        facts = {"dtype": str(dtype).removeprefix("torch."), "verified": verified}
        told = facts | {"expanded": job.expand_layers}
        card = model_card(job.model_name_or_path, base, [adapter.config for adapter in merge.adapters], told)
        (folder / "README.md").write_text(card + trained_by(adapters or [base]), encoding="utf-8")
        size_bytes = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return {"export_dir": str(target), "size_bytes": size_bytes, **facts}


def adapter_folder(name: str) -> Path:
    """The folder of an adapter: a run's, a checkpoint's, or any that peft has written.

    Raises:
        UserError: it is not there, or holds no adapter; says what lies there instead.
    """
    folder = Path(name)
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


def tied_embeddings(base: Path, trust_remote_code: bool) -> tuple[str, str] | None:
    """Names of the output and the input embedding of a model whose configuration ties them.

    Raises:
        UserError: the base model is quantized: its weights are no plain numbers to add to.
    """
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

    try:
        config = AutoConfig.from_pretrained(base, trust_remote_code=trust_remote_code)
    except (OSError, ValueError) as error:
        raise UserError("merge.file_broken", path=base / "config.json", detail=error) from error
    if getattr(config, "quantization_config", None):
        raise UserError("merge.base_quantized", path=base)
    if not config.get_text_config().tie_word_embeddings:
        return None
    model = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    pairs = getattr(model, "_tied_weights_keys", None)
    if isinstance(pairs, dict) and len(pairs) == 1:
        return next(iter(pairs.items()))
    return "lm_head.weight", "model.embed_tokens.weight"


def layer_count(base: Path, trust_remote_code: bool) -> int:
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(base, trust_remote_code=trust_remote_code).get_text_config().num_hidden_layers


def merged_config(base: Path, merge: Merge, job: ExportJob, dtype: torch.dtype) -> dict[str, Any]:
    """The base model's config.json, with the dtype, the vocabulary's size and the tying of the merged model."""
    from transformers import AutoConfig

    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    text = config.get("text_config", config)
    for part in (config, *(value for value in config.values() if isinstance(value, dict))):
        for name in ("dtype", "torch_dtype"):
            if name in part:
                part[name] = str(dtype).removeprefix("torch.")
    if "torch_dtype" not in config:
        config["dtype"] = str(dtype).removeprefix("torch.")
    tied = tied_embeddings(base, job.trust_remote_code)
    if tied and not merge.is_tied:
        text["tie_word_embeddings"] = config["tie_word_embeddings"] = False
    if job.expand_layers:
        expand_config(text, job.expand_layers)
    stretched = AutoConfig.from_pretrained(base, trust_remote_code=job.trust_remote_code)
    if stretch(stretched, job):
        _write_rope(text, stretched.get_text_config())
    for name in merge.sources:
        if name.endswith(("embed_tokens.weight", "wte.weight", "tok_embeddings.weight")) and merge.is_touched(name):
            text["vocab_size"] = merge.shape(name)[0]
    return config


def _write_rope(text: dict[str, Any], stretched: Any) -> None:
    """Spell a rotary embedding as the file does: transformers 5 writes ``rope_parameters``, older ones two names."""
    text["max_position_embeddings"] = stretched.max_position_embeddings
    rope = dict(stretched.rope_parameters)
    if "rope_parameters" not in text:
        text["rope_theta"] = rope.pop("rope_theta")
    text["rope_parameters" if "rope_parameters" in text else "rope_scaling"] = rope


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
    def tensor_of(name: str) -> torch.Tensor:
        return merge.tensor(name).to(contents[name][1])

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
