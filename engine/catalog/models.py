"""Which models there are by name, and whether a path or hub id can be one; reads folders, asks no network."""

from __future__ import annotations

import difflib
import json
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from engine.errors import Problem


@dataclass(frozen=True)
class CatalogModel:
    """A model that the page offers by name.

    Args:
        name: as it is displayed.
        huggingface: id on the Hugging Face hub.
        modelscope: id on ModelScope, or None when it is not there.
        template: name of its chat template, or None for a base model.
        path: folder of the model that comes with Lathe; None for all others.
    """

    name: str
    huggingface: str
    modelscope: str | None
    template: str | None
    path: Path | None = None

    def is_on(self, hub: str) -> bool:
        return self.path is not None or (self.modelscope if hub == "modelscope" else self.huggingface) is not None

    def location(self, hub: str = "huggingface") -> str:
        """What goes into ``model_name_or_path``: the bundled model's folder, or the id on a hub.

        A model that ModelScope does not have keeps its Hugging Face id; ``is_on`` tells.
        """
        if self.path is not None:
            return self.path.as_posix()
        return (self.modelscope if hub == "modelscope" else None) or self.huggingface


BUNDLED = CatalogModel(
    name="SmolLM2-135M-Instruct (bundled)",
    huggingface="HuggingFaceTB/SmolLM2-135M-Instruct",
    modelscope="HuggingFaceTB/SmolLM2-135M-Instruct",
    template="smollm2",
    path=Path("models/SmolLM2-135M-Instruct"),
)
"""The model that comes with Lathe; its folder is made by ``engine.work.bundled``."""


@lru_cache(maxsize=1)
def models() -> tuple[CatalogModel, ...]:
    """The bundled model, then all of ``models.yaml``."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    rows = yaml.load(Path(__file__).with_name("models.yaml").read_text(encoding="utf-8"), Loader=loader)
    return (BUNDLED, *(model for row in rows for model in _expand(row)))


def find_model(name: str) -> CatalogModel | None:
    return next((model for model in models() if model.name == name), None)


def is_bundled(name_or_path: str) -> bool:
    return Path(name_or_path).absolute() == BUNDLED.path.absolute()


def model_problem(name_or_path: str | None) -> Problem | None:
    """What is plainly wrong with a model's path or hub id, as far as this disk can tell; None when nothing is.

    Nothing said is no problem here, and whether a hub has the id is only known to the hub.
    """
    text = (name_or_path or "").strip()
    if not text or is_bundled(text):
        return None
    path = Path(text).expanduser()
    if path.is_dir():
        return _folder_problem(path)
    if path.is_file():
        return _problem("model_is_file", path=text)
    if looks_local(text):
        near = _nearest_folder(path)
        return _problem("model_folder_missing_near" if near else "model_folder_missing", path=text, near=near or "")
    if not re.fullmatch(r"[A-Za-z0-9][\w.\-]*(/[A-Za-z0-9][\w.\-]*)?", text):
        return _problem("hub_id_malformed", name=text)
    if "/" not in text and (model := find_model(text)):
        return _problem("hub_id_without_owner", name=text, near=model.location())
    return None


def looks_local(text: str) -> bool:
    """Whether a text can only be meant as a path: hub ids have one slash at most, and no folder of ours before it."""
    if text.startswith((".", "/", "~", "\\")) or re.match(r"[A-Za-z]:[\\/]", text):
        return True
    owner, slash, rest = text.partition("/")
    return bool(slash) and ("/" in rest or Path(owner).is_dir())


def missing_in_folder(folder: Path) -> str | None:
    """The first file that a model's folder lacks to be loaded; None when it is complete."""
    if not (folder / "config.json").is_file():
        return "config.json"
    for index in (folder / "model.safetensors.index.json", folder / "pytorch_model.bin.index.json"):
        if index.is_file():
            return _missing_shard(index)
    has_weights = any(folder.glob("*.safetensors")) or any(folder.glob("pytorch_model*.bin"))
    return None if has_weights else "model.safetensors"


def _folder_problem(folder: Path) -> Problem | None:
    missing = missing_in_folder(folder)
    if missing is None:
        return None
    if (folder / "adapter_config.json").is_file():
        return _problem("model_is_adapter", path=str(folder))
    return _problem("model_folder_incomplete", path=str(folder), missing=missing)


def _missing_shard(index: Path) -> str | None:
    try:
        shards = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, AttributeError):
        return index.name  # there, but cut off: as good as missing
    return next((name for name in shards if not (index.parent / name).is_file()), None)


def _nearest_folder(path: Path) -> str | None:
    if not path.parent.is_dir():
        return None
    siblings = [each.name for each in path.parent.iterdir() if each.is_dir() and not each.name.startswith(".")]
    by_lower = {name.lower(): name for name in siblings}
    near = difflib.get_close_matches(path.name.lower(), by_lower, n=1, cutoff=0.5)
    return str(path.parent / by_lower[near[0]]) if near else None


def _problem(key: str, **facts: Any) -> Problem:
    return Problem(key, "model_name_or_path", facts)


def _expand(row: dict[str, Any]) -> list[CatalogModel]:
    """One model for each size of a row; ``modelscope`` left out means the same id as on Hugging Face."""
    row = {"modelscope": row["huggingface"], **row}
    sizes = row.pop("sizes", [""])
    spelled = sizes if isinstance(sizes, dict) else {size: size for size in sizes}
    return [
        CatalogModel(
            name=row["name"].replace("{}", shown),
            huggingface=row["huggingface"].replace("{}", part),
            modelscope=row["modelscope"] and row["modelscope"].replace("{}", part),
            template=row["template"],
        )
        for shown, part in spelled.items()
    ]
