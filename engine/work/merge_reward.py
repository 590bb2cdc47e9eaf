"""A reward model's adapter and its base model → one folder with a head that scores; peft merges it, in float32."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoConfig, AutoModelForSequenceClassification

from engine.errors import UserError
from engine.options.jobs import ExportJob
from engine.runs.record import Recorder

TOLERANCE = 1e-2
"""Between the score of the adapter beside its base and that of the merged model, as it is written."""


def write_reward_model(
    folder: Path, base: Path, adapters: list[Path], job: ExportJob, recorder: Recorder
) -> dict[str, Any]:
    """Merge adapters, of which the last one is a reward model's, and write the whole model.

    Returns:
        ``dtype`` and what was ``verified``, as the export job tells them.

    Raises:
        UserError: the folder that was written scores otherwise than the adapter beside its base.
    """
    recorder.phase("merging")
    trust = {"trust_remote_code": job.trust_remote_code}
    config = AutoConfig.from_pretrained(base, num_labels=1, **trust)
    model: Any = AutoModelForSequenceClassification.from_pretrained(base, config=config, dtype=torch.float32, **trust)
    ids = torch.arange(1, 33).remainder(config.get_text_config().vocab_size).unsqueeze(0)
    for adapter in adapters:
        model = PeftModel.from_pretrained(model, str(adapter)).eval()
        score = _score(model, ids)
        model = model.merge_and_unload()
    if job.export_dtype != "auto":
        model = model.to(getattr(torch, job.export_dtype))
    recorder.phase("saving")
    model.save_pretrained(folder, max_shard_size=f"{job.export_size}GB")
    dtype = str(model.dtype).removeprefix("torch.")
    tensors = len(model.state_dict())
    recorder.phase("verifying")
    written = AutoModelForSequenceClassification.from_pretrained(folder, **trust).eval()
    difference = abs(_score(written, ids) - score)
    tolerance = TOLERANCE * max(1.0, abs(score)) * (1 if dtype == "float32" else 10)
    if not difference <= tolerance:
        raise UserError("reward_merge_differs", difference=f"{difference:.2g}", tolerance=f"{tolerance:.2g}")
    verified = {
        "tensors_changed": tensors, "tensors_unchanged": 0, "logit_max_difference": difference,
        "logit_tolerance": tolerance,
    }  # fmt: skip
    return {"dtype": dtype, "verified": verified}


def _score(model: Any, ids: torch.Tensor) -> float:
    with torch.no_grad():
        return model(input_ids=ids).logits[0, 0].item()
