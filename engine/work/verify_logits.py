"""Proves a written merge by its logits: the merged folder in plain transformers, against base + adapters in plain peft.

Weight by weight from the disk; whole in memory only where a model can be computed in no other way.
"""

from __future__ import annotations

import ctypes
import gc
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch

from engine.errors import UserError
from engine.options.model import Model
from engine.runs.record import Recorder, StopRequested
from engine.work.imports import without_bitsandbytes
from engine.work.merge import Merge
from engine.work.rope import stretch
from engine.work.shards import Stored, model_tensors
from engine.work.streamed import CannotStream, model_on_disk, with_adapters

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

WHOLE_BELOW_BYTES = 4_000_000_000
"""Models that cannot be computed from the disk and take more than this in float32 are proven tensor by tensor only."""


@dataclass(frozen=True)
class Logits:
    """How far the merged model's logits are from those of base + adapter, and how far they may be."""

    max_difference: float
    tolerance: float
    is_streamed: bool  # weight by weight from the disk; else both models were in memory, one after the other


def tolerance(dtype: torch.dtype, scale: float) -> float:
    """Largest difference allowed: 1e-4, or a share of the largest logit ``scale`` where that is more."""
    return max(1e-4, RELATIVE_TOLERANCE.get(dtype, RELATIVE_TOLERANCE[torch.float32]) * scale)


class LogitsProof:
    """The merged folder in plain transformers against base + adapters in plain peft, both in float32.

    Weight by weight from the disk where the models can be computed so; else whole, if they are small enough.
    """

    def __init__(self, merge: Merge, base: Path, device: str, job: Model, recorder: Recorder) -> None:
        self._merge, self._base, self._device, self._job, self._recorder = merge, base, device, job, recorder
        self._ids: torch.Tensor | None = None
        self._expected: torch.Tensor | None = None

    def prepare(self, folder: Path) -> None:
        """Compute the logits of base + adapters. Of the merged ``folder`` all but the weights must be there."""
        self._ids = sample_prompts(folder, self._job.trust_remote_code)
        self._expected = self._from_disk(self._base_on_disk)

    def compare(self, folder: Path, dtype: torch.dtype) -> Logits | None:
        """Compute those of the merged ``folder``, and look how far they are apart.

        Returns:
            None, with a warning to the user, where the models cannot be computed.

        Raises:
            UserError: the logits differ by more than the tolerance for ``dtype``, or are not finite: those of the
                merged model, or already those of base + adapters.
        """
        self._recorder.phase("verifying")
        if self._ids is None:
            self.prepare(folder)
        found = None
        if self._expected is not None:
            config = _config(folder, self._job.trust_remote_code)
            found = self._from_disk(lambda: self._on_disk(model_tensors(folder), config))
        is_streamed = found is not None
        if found is None:
            both = _whole(self._merge, self._base, folder, self._ids, self._device, self._job, self._recorder)
            if both is None:
                return None
            self._expected, found = both
        if not torch.isfinite(self._expected).all():
            raise UserError("merge.base_not_finite", path=self._base)
        difference = float((self._expected - found).abs().max())
        allowed = tolerance(dtype, float(self._expected.abs().max()))
        if not difference <= allowed:  # so that NaN fails too
            detail = f"max |logit difference| {difference:.3g} > {allowed:.3g} ({str(dtype).removeprefix('torch.')})"
            raise UserError("merge.verify_failed", detail=detail)
        return Logits(difference, allowed, is_streamed)

    def _from_disk(self, make: Callable[[], Any]) -> torch.Tensor | None:
        """Logits of a model whose weights stay on the disk; None: it cannot be computed so, why stands in the log."""
        try:
            with _quiet():
                return _logits(make(), self._ids, self._device, self._recorder)
        except (StopRequested, UserError):
            raise
        except Exception:  # whatever a family's own code raises where a weight is no plain tensor
            logging.getLogger(__name__).info("Logits are not computed from the disk.", exc_info=True)
            return None
        finally:
            _give_back_memory()

    def _base_on_disk(self) -> Any:
        from engine.work.load import fit_to_adapter

        if not _is_sum(self._merge):
            raise CannotStream("several adapters, of which not all only add to the weights")
        config = _config(self._base, self._job.trust_remote_code)
        stretch(config, self._job)
        model = self._on_disk(self._merge.base, config)
        if not self._merge.adapters:
            return model
        for adapter in self._merge.adapters:
            fit_to_adapter(model, adapter.folder)
        return with_adapters(model, [adapter.folder for adapter in self._merge.adapters])

    def _on_disk(self, tensors: dict[str, Stored], config: Any) -> Any:
        return model_on_disk(tensors, config, self._device, self._job.trust_remote_code)


Both = tuple[torch.Tensor, torch.Tensor]
"""Logits of base + adapters and of the merged model, each of shape (B, T, V)."""


def _whole(
    merge: Merge, base: Path, folder: Path, ids: torch.Tensor, device: str, job: Model, recorder: Recorder
) -> Both | None:
    size_bytes = merge.float32_bytes()
    free_bytes = psutil.virtual_memory().available
    if size_bytes >= WHOLE_BELOW_BYTES or 1.5 * size_bytes > free_bytes:
        recorder.warn("merge.logits_not_compared", size=f"{size_bytes / 1e9:.1f} GB")
        return None
    with _quiet():
        expected = _logits(_base_with_adapters(merge, base, device, job), ids, device, recorder)
        _give_back_memory()
        found = _logits(_model(folder, device, job.trust_remote_code), ids, device, recorder)
        _give_back_memory()
    return expected, found


def _is_sum(merge: Merge) -> bool:
    """Whether the adapters do the same one after the other and beside each other."""
    from engine.work.load import only_adds

    return len(merge.adapters) < 2 or all(only_adds(adapter.config) for adapter in merge.adapters)


def sample_prompts(folder: Path, trust_remote_code: bool) -> torch.Tensor:
    """The sample prompts as input_ids, shape (B, T); without a tokenizer, ids from all over the vocabulary.

    A short prompt begins again where it ends, so that all have one length and no row needs a mask.
    """
    vocab_size = _config(folder, trust_remote_code).get_text_config().vocab_size
    if (folder / "tokenizer_config.json").is_file():
        rows = _tokenized(folder, trust_remote_code)
        if all(row and max(row) < vocab_size for row in rows):
            length = max(map(len, rows))
            return torch.tensor([[row[place % len(row)] for place in range(length)] for row in rows])
    return torch.stack([torch.linspace(start, vocab_size - 1, 12).long() for start in range(len(PROMPTS))])


def _tokenized(folder: Path, trust_remote_code: bool) -> list[list[int]]:
    if (folder / "tokenizer.json").is_file():  # what is in it is all that is needed, and soon read
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        return [tokenizer.encode(prompt).ids for prompt in PROMPTS]
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
    return [tokenizer(prompt).input_ids for prompt in PROMPTS]


def _base_with_adapters(merge: Merge, base: Path, device: str, job: Model) -> Any:
    """Base + adapters by plain peft: all but the last merged in memory, the last beside the weights."""
    from peft import PeftModel

    from engine.work.load import fit_to_adapter

    config = _config(base, job.trust_remote_code)
    stretch(config, job)
    model = _model(base, device, job.trust_remote_code, config=config)
    for number, adapter in enumerate(merge.adapters, start=1):
        if number < len(merge.adapters) and not merge.is_tied:
            _untie(model)  # peft would fold an update of one of the two tied weights into both
        fit_to_adapter(model, adapter.folder)
        with without_bitsandbytes():
            model = PeftModel.from_pretrained(model, adapter.folder)
        if number < len(merge.adapters):
            model = model.merge_and_unload()
    return model.eval()


def _model(folder: Path, device: str, trust_remote_code: bool, **given: Any) -> Any:
    from transformers import AutoModelForCausalLM

    given |= {"dtype": torch.float32, "trust_remote_code": trust_remote_code}
    model = AutoModelForCausalLM.from_pretrained(folder, **given)
    return model.to(device).eval()


def _config(folder: Path, trust_remote_code: bool) -> Any:
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)


def _untie(model: Any) -> None:
    head = model.get_output_embeddings()
    if head.weight is model.get_input_embeddings().weight:
        head.weight = torch.nn.Parameter(head.weight.detach().clone(), requires_grad=False)
        model.config.get_text_config().tie_word_embeddings = False


def _logits(model: Any, ids: torch.Tensor, device: str, recorder: Recorder) -> torch.Tensor:
    recorder.check_stop()
    with torch.no_grad():  # as a decorator it would hold on to the model
        return model(input_ids=ids.to(device), use_cache=False).logits.float().cpu()


def _give_back_memory() -> None:
    """Only one of the two models may be in memory. A peft model refers to itself, and glibc keeps what was freed."""
    gc.collect()
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)


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
