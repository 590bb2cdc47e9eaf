"""PiSSA: an adapter that begins with the largest singular values of each weight (Meng et al. 2024, arXiv 2404.02948).

While it is trained, what the adapter begins with is taken out of the base model's weights. On the disk there is only
ever an ordinary LoRA adapter beside the untouched base model: with W = W' + s · B0 · A0 at the beginning, the trained
W' + s · B · A is W + s · [B, -B0] · [A; A0]. So everything that reads adapters reads these, and a checkpoint holds both
what was begun with and what was learned.
"""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModelForCausalLM, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import Tensor

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def with_pissa(model: Any, config: LoraConfig, seed: int) -> PissaModel:
    """Put a PiSSA adapter beside a model's weights, and take what it begins with out of them.

    Args:
        config: with ``init_lora_weights`` "pissa" (exact) or "pissa_niter_N".
        seed: of the approximation, so that a resumed run begins with the same numbers whatever was drawn before.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made = get_peft_model(model, config)
    made.__class__ = PissaModel
    made.begun = made.lora_tensors()
    return made


class PissaModel(PeftModelForCausalLM):
    """Saves and loads as an ordinary LoRA adapter of twice the rank. ``begun``: A0 and B0 by their names in the file.

    Its own conversion, because peft's ``path_initial_model_for_weight_conversion`` drops modules that are trained
    whole (0.21). Checked against it in tests/conformance/test_methods.py.
    """

    begun: dict[str, Tensor]

    def lora_tensors(self) -> dict[str, Tensor]:
        """A and B of all layers as they are now, on the CPU."""
        state = get_peft_model_state_dict(self, save_embedding_layers=False)
        return {name: tensor.detach().cpu().clone() for name, tensor in state.items() if ".lora_" in name}

    def save_pretrained(self, save_directory: str | os.PathLike, *given: Any, **named: Any) -> None:
        super().save_pretrained(save_directory, *given, **named)
        if named.get("is_main_process", True):
            folder = Path(save_directory)
            tensors = load_file(folder / WEIGHTS)
            _write(folder, {**tensors, **joined({name: tensors[name] for name in self.begun}, self.begun)})

    def load_adapter(self, model_id: str, adapter_name: str, is_trainable: bool = False, **named: Any) -> Any:
        """Go on from a checkpoint that this class has written, bit for bit."""
        tensors = load_file(Path(model_id) / WEIGHTS)
        learned, begun = apart({name: tensors[name] for name in self.begun})
        self._begin_with(begun, adapter_name)
        return set_peft_model_state_dict(self, {**tensors, **learned}, adapter_name)

    def _begin_with(self, begun: dict[str, Tensor], adapter_name: str) -> None:
        """Take other first values out of the base weights: a checkpoint of another machine may differ in some bits."""
        for name in begun:
            partner = name.replace(".lora_A.", ".lora_B.")
            if ".lora_A." not in name or all(torch.equal(begun[each], self.begun[each]) for each in (name, partner)):
                continue
            layer = self.get_submodule(name.partition(".lora_A.")[0])
            base, scaling = layer.get_base_layer().weight, layer.scaling[adapter_name]
            change = scaling * (self.begun[partner] @ self.begun[name] - begun[partner] @ begun[name])
            base.data = (base.data.float() + change.to(base.device)).to(base.dtype)
        self.begun = begun


def joined(learned: dict[str, Tensor], begun: dict[str, Tensor]) -> dict[str, Tensor]:
    """[A; A0] of shape (2r, in) and [B, -B0] of shape (out, 2r) for each layer."""
    return {
        name: torch.cat([tensor, begun[name].to(tensor)], dim=0)
        if ".lora_A." in name
        else torch.cat([tensor, -begun[name].to(tensor)], dim=1)
        for name, tensor in learned.items()
    }


def apart(tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """What :func:`joined` has joined: (learned, begun), without any arithmetic but a sign."""
    learned, begun = {}, {}
    for name, tensor in tensors.items():
        dim = 0 if ".lora_A." in name else 1
        first, second = tensor.chunk(2, dim=dim)
        learned[name], begun[name] = first.contiguous(), second.contiguous() if dim == 0 else -second.contiguous()
    return learned, begun


def _write(folder: Path, tensors: dict[str, Tensor]) -> None:
    """Replace the files of a PiSSA adapter by those of the LoRA adapter that does the same beside the whole base."""
    config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    config |= {
        "r": 2 * config["r"],
        "lora_alpha": config["lora_alpha"] * (math.sqrt(2) if config["use_rslora"] else 2),
        "init_lora_weights": True,
    }
    save_file(tensors, folder / f".{WEIGHTS}", metadata={"format": "pt"})
    (folder / f".{CONFIG}").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    for name in (WEIGHTS, CONFIG):
        os.replace(folder / f".{name}", folder / name)
