"""Proves a written merge against what it was made from: tensor by tensor, then by the logits of transformers and peft.

It reads the folder as a stranger would and shares no arithmetic with ``merge.py``.
"""

from __future__ import annotations

import ctypes
import gc
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch

from engine.errors import UserError
from engine.options.model import Model
from engine.runs.record import Recorder
from engine.work.load import fit_to_adapter
from engine.work.merge import Merge
from engine.work.rope import stretch
from engine.work.shards import load, model_tensors, some

PROMPTS = (
    "The capital of France is",
    'def mean(numbers):\n    """Return the arithmetic mean."""\n    return',
    "问：水在多少度沸腾？答：",
)
"""Prose, code, and a script other than Latin: together they reach many rows of the embeddings."""

RELATIVE_TOLERANCE = {torch.float32: 3e-5, torch.float16: 0.004, torch.bfloat16: 0.03}
"""Largest difference of a logit, as a share of the largest logit.

Adding B @ A to W before or after the product with x is the same only but for rounding: between peft's own merge and
its unmerged model the logits of SmolLM2-135M differ by 3e-6 of the largest on ordinary text and by 2e-5 on nonsense.
Rounding every weight to 11 (float16) or 8 (bfloat16) significant bits moves them by about 0.1 % and 0.7 %. A wrong
merge moves them by more: an adapter of a usual size by 2 % to 5 % as a whole.
"""

COMPARED_BELOW_BYTES = 4_000_000_000
"""Models whose weights take more than this in float32 are proven tensor by tensor only."""


@dataclass(frozen=True)
class Logits:
    """How far the merged model's logits are from those of base + adapter, and how far they may be."""

    max_difference: float
    tolerance: float


def tolerance(dtype: torch.dtype, scale: float) -> float:
    """Largest difference allowed: 1e-4, or a share of the largest logit ``scale`` where that is more."""
    return max(1e-4, RELATIVE_TOLERANCE.get(dtype, RELATIVE_TOLERANCE[torch.float32]) * scale)


def verify_tensors(merge: Merge, folder: Path, recorder: Recorder) -> tuple[int, int]:
    """Compare every tensor in ``folder`` with the base model.

    Returns:
        How many tensors the adapters changed, and how many equal the base bit for bit (after a change of dtype).

    Raises:
        UserError: a tensor is missing, one too many, not finite, or differs although no adapter touches it.
    """
    written = model_tensors(folder)
    faults = [f"{name} is missing" for name in merge.sources if name not in written]
    faults += [f"{name} is not wanted" for name in written if name not in merge.sources]
    same, rounded = 0, []
    for done, name in enumerate(merge.sources, start=1):
        recorder.check_stop()
        recorder.phase("verifying", done, len(merge.sources), "tensors")
        if name not in written:
            continue
        tensor = load(written[name])
        base = merge.base_tensor(name)
        if not _is_finite(tensor) and _is_finite(base):
            faults.append(f"{name} is not finite in {_spelled(tensor.dtype)}")
        is_same = tensor.shape == base.shape and _same_bits(tensor, base.to(tensor.dtype))
        same += is_same
        if merge.is_touched(name) and is_same:
            rounded.append(name)
        elif not merge.is_touched(name) and not is_same:
            faults.append(f"{name} differs from the base model")
    if faults:
        raise UserError("merge.verify_failed", detail=some(faults))
    if rounded:
        recorder.warn("merge.not_changed", count=len(rounded), names=some(rounded, 3))
    return len(merge.sources) - same, same


def compare_logits(
    merge: Merge, base: Path, folder: Path, dtype: torch.dtype, device: str, job: Model, recorder: Recorder
) -> Logits | None:
    """Compare the merged folder in plain transformers with base + adapters in plain peft, both in float32.

    Returns:
        None, with a warning to the user, where the model is too large for that.

    Raises:
        UserError: the logits differ by more than the tolerance for ``dtype``, or are not finite.
    """
    size_bytes = merge.float32_bytes()
    free_bytes = psutil.virtual_memory().available
    if size_bytes >= COMPARED_BELOW_BYTES or 1.5 * size_bytes > free_bytes:
        recorder.warn("merge.logits_not_compared", size=f"{size_bytes / 1e9:.1f} GB")
        return None
    prompts = sample_prompts(folder, job.trust_remote_code)
    recorder.phase("verifying")
    with _quiet():
        expected = _logits(_base_with_adapters(merge, base, device, job), prompts, device)
        _give_back_memory()
        recorder.check_stop()
        found = _logits(_model(folder, device, job.trust_remote_code), prompts, device)
    _give_back_memory()
    difference = max(float((one - other).abs().max()) for one, other in zip(expected, found, strict=True))
    allowed = tolerance(dtype, max(float(logits.abs().max()) for logits in expected))
    if not difference <= allowed:  # so that NaN fails too
        raise UserError(
            "merge.verify_failed", detail=f"max |logit difference| {difference:.3g} > {allowed:.3g} ({_spelled(dtype)})"
        )
    return Logits(difference, allowed)


def sample_prompts(folder: Path, trust_remote_code: bool) -> list[torch.Tensor]:
    """The sample prompts as input_ids, each of shape (1, T); without a tokenizer, ids from all over the vocabulary."""
    from transformers import AutoTokenizer

    vocab_size = _vocab_size(folder, trust_remote_code)
    if (folder / "tokenizer_config.json").is_file():
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
        ids = [tokenizer(prompt, return_tensors="pt").input_ids for prompt in PROMPTS]
        if all(row.numel() and int(row.max()) < vocab_size for row in ids):
            return ids
    return [torch.linspace(start, vocab_size - 1, 12).long()[None] for start in range(len(PROMPTS))]


def _base_with_adapters(merge: Merge, base: Path, device: str, job: Model) -> Any:
    """Base + adapters by plain peft: all but the last merged in memory, the last beside the weights."""
    from peft import PeftModel
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(base, trust_remote_code=job.trust_remote_code)
    stretch(config, job)
    model = _model(base, device, job.trust_remote_code, config=config)
    for number, adapter in enumerate(merge.adapters, start=1):
        if number < len(merge.adapters) and not merge.is_tied:
            _untie(model)  # peft would fold an update of one of the two tied weights into both
        fit_to_adapter(model, adapter.folder)
        model = PeftModel.from_pretrained(model, adapter.folder)
        if number < len(merge.adapters):
            model = model.merge_and_unload()
    return model.eval()


def _model(folder: Path, device: str, trust_remote_code: bool, **given: Any) -> Any:
    from transformers import AutoModelForCausalLM

    given |= {"dtype": torch.float32, "trust_remote_code": trust_remote_code}
    model = AutoModelForCausalLM.from_pretrained(folder, **given)
    return model.to(device).eval()


def _vocab_size(folder: Path, trust_remote_code: bool) -> int:
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code).get_text_config().vocab_size


def _untie(model: Any) -> None:
    head = model.get_output_embeddings()
    if head.weight is model.get_input_embeddings().weight:
        head.weight = torch.nn.Parameter(head.weight.detach().clone(), requires_grad=False)
        model.config.get_text_config().tie_word_embeddings = False


def _logits(model: Any, prompts: list[torch.Tensor], device: str) -> list[torch.Tensor]:
    """Logits of each prompt, each of shape (1, T, V)."""
    with torch.no_grad():  # as a decorator it would hold on to the model
        return [model(input_ids=prompt.to(device), use_cache=False).logits.float().cpu() for prompt in prompts]


def _give_back_memory() -> None:
    """Only one of the two models may be in memory. A peft model refers to itself, and glibc keeps what was freed."""
    gc.collect()
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)


def _is_finite(tensor: torch.Tensor) -> bool:
    """One pass, no copy: a single NaN or infinity makes the sum NaN or infinite."""
    return math.isfinite(tensor.sum(dtype=torch.float32)) if tensor.is_floating_point() else True


def _same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Equal bit for bit, so that NaN equals itself and 0.0 is not -0.0."""
    bits = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[one.element_size()]
    return torch.equal(one.reshape(-1).view(bits), other.reshape(-1).view(bits))


def _spelled(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the progress bars of loading: two for each export say nothing to the reader of the log."""
    from transformers.utils import logging

    was_shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_shown:
            logging.enable_progress_bar()
