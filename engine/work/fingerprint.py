"""What encoded rows depend on, as one key: the same key means the same rows, anything else makes them anew."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from datetime import date
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from engine.catalog.conversations import IDENTITY
from engine.catalog.digests import file_digest
from engine.catalog.entry import Entry
from engine.catalog.rows import files_of
from engine.options.data import Data
from engine.options.jobs import TrainJob
from engine.options.model import Model

FORMAT = 3
"""Of the encoding: one more whenever a row, an example or its segments come out differently than before."""

LIBRARIES = ("transformers", "tokenizers", "jinja2")

WITHOUT_EFFECT = {
    "dataset_dir", "dataset", "eval_dataset", "val_size", "mix_strategy", "interleave_probs", "streaming",
    "buffer_size", "tokenized_path", "overwrite_cache", "preprocessing_num_workers", "packing", "neat_packing",
    "model_name_or_path", "adapter_name_or_path", "hub", "flash_attn", "infer_dtype", "adapter_folder",
    "rope_scaling", "model_revision", "cache_dir",
    "trust_remote_code",
}  # fmt: skip
"""Options of data and model that change no encoded row. One that is not named here is part of the key."""


def rows_key(job: TrainJob, entry: Entry, tokenizer: str) -> str:
    """The key of one dataset's encoded rows, 64 hexadecimal digits.

    Args:
        tokenizer: what :func:`tokenizer_digest` says of it; the chat template is part of that.

    Raises:
        UserError: the data files are not there.
    """
    options = {name for group in (Data, Model) for name in group.model_fields} - WITHOUT_EFFECT
    described = {
        name: value
        for name, value in dataclasses.asdict(entry).items()
        if name not in ("path", "inside", "problem")  # where the rows lie does not matter, only what they say
    }
    content = {
        "format": FORMAT,
        "libraries": {name: version(name) for name in LIBRARIES},
        "tokenizer": tokenizer,
        "options": {name: getattr(job, name) for name in sorted(options)},
        "stage": job.stage,
        "seed": job.seed if entry.num_samples else None,
        "entry": described,
        "identity": IDENTITY,
        "files": [(path.suffix.lower(), file_digest(path)) for path in files_of(entry.path)],
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def tokenizer_digest(tokenizer: Any) -> str:
    """Vocabulary, rules, special tokens and chat template, as the tokenizer itself would save them."""
    digest = hashlib.sha256()
    with TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        for path in sorted(each for each in Path(folder).rglob("*") if each.is_file()):
            digest.update(f"{path.relative_to(folder)} {file_digest(path)}\n".encode())
    if "strftime_now" in str(tokenizer.chat_template):
        digest.update(date.today().isoformat().encode())  # the template writes the date into every row
    return digest.hexdigest()
