"""The README.md of a merged model: what it was made from, how, and what was proven. It names no local path.

What is known of the runs that made its adapters, or the model itself, stands in their folders.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from engine.runs.card import section_of
from engine.runs.folder import Folder
from engine.runs.read import read_state

STREAMED = "Both were computed weight by weight from the files, in float32."
WHOLE = "Both were computed with the whole model in memory, in float32."


def model_card(name: str, base: Path, adapters: list[dict[str, Any]], facts: dict[str, Any]) -> str:
    """The text of the card.

    Args:
        name: the base model as it was asked for: a hub id or a local folder.
        base: its folder; the licence that its own card names is carried over.
        adapters: configurations of the adapters, in the order in which they were merged.
        facts: ``dtype`` and ``verified``, as the export job returns them.
    """
    is_hub_id = re.fullmatch(r"[\w.-]+/[\w.-]+", name) and not Path(name).exists()
    shown = name if is_hub_id else Path(name).name
    front = ["library_name: transformers", "pipeline_tag: text-generation"]
    front += [f"base_model: {name}"] if is_hub_id else []
    front += [f"license: {license_name}"] if (license_name := _license(base)) else []
    saved = f"with {facts['expanded']} further layers" if facts.get("expanded") else "saved anew"
    made = "with these adapters merged into its weights, in this order" if adapters else saved
    lines = ["---", *front, "---", "", f"# {shown}, merged" if adapters else f"# {shown}", "", f"{shown}, {made}."]
    if adapters:
        lines += ["", *(f"{number}. {_described(config)}" for number, config in enumerate(adapters, start=1))]
    verified = facts["verified"]
    lines += [
        "",
        f"Weights: {facts['dtype']}. Merged in float32 by Lathe and checked against the base model: "
        f"{verified['tensors_changed']} tensors changed, {verified['tensors_unchanged']} equal bit for bit.",
    ]
    if verified["logit_max_difference"] is not None:
        lines.append(
            f"Largest difference of a logit from base + adapters on sample prompts: "
            f"{verified['logit_max_difference']:.2g} (allowed: {verified['logit_tolerance']:.2g}). "
            f"{STREAMED if verified.get('logits_streamed') else WHOLE}"
        )
    else:
        lines.append("Logits were not compared.")
    return "\n".join(lines) + "\n"


def trained_by(trained: list[Path]) -> str:
    """What the run cards say of the runs that these adapters, or a model trained whole, came from.

    Args:
        trained: folders of runs or of their checkpoints; one that no run of ours has made is passed over.
    """
    sections = []
    for path in trained:
        found = re.fullmatch(r"checkpoint-(\d+)", path.name)
        folder = Folder(path.parent if found else path)
        if folder.state.is_file() and read_state(folder).kind == "train":
            sections.append(section_of(folder, int(found[1]) if found else None))
    return "".join(f"\n{section}" for section in sections)


def _described(config: dict[str, Any]) -> str:
    if config.get("peft_type") == "OFT":
        size = config.get("oft_block_size") or f"in / {config['r']}"
        return f"OFT, blocks of side {size}; modules: {_modules(config)}"
    variants = [word for word, option in ((", rsLoRA", "use_rslora"), (", DoRA", "use_dora")) if config.get(option)]
    return f"rank {config['r']}, alpha {config['lora_alpha']:g}{''.join(variants)}; modules: {_modules(config)}"


def _modules(config: dict[str, Any]) -> str:
    modules = config.get("target_modules") or []
    return modules if isinstance(modules, str) else ", ".join(sorted(modules))


def _license(base: Path) -> str | None:
    """The licence in the front matter of the base model's own card."""
    card = base / "README.md"
    if not card.is_file():
        return None
    front = re.match(r"---\n(.*?)\n---", card.read_text(encoding="utf-8", errors="replace"), re.DOTALL)
    found = re.search(r"^license:\s*(\S+)\s*$", front[1], re.MULTILINE) if front else None
    return found[1] if found else None
