"""How a model's micro-batches are laid out: without padding where that is proven to change nothing, else padded.

Which models keep the sequences of one row apart cannot be told from their names (convolutions, recurrences and
attention functions of their own do not). So each is asked, with a few tokens, before it is trained.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch

from engine.work import attention
from engine.work.batching import collate
from engine.work.encode import Encoded
from engine.work.loss import sequence_logps
from engine.work.packed import SHARED_FROM, flatten
from engine.work.shortage import is_shortage

TOLERANCE = {torch.float32: 1e-3, torch.float16: 0.02, torch.bfloat16: 0.1}
"""Nats per token by which rounding may change a log-probability, by the format of the weights."""

Collate = Callable[[Sequence[Encoded]], dict[str, Any]]


def collate_for(models: Sequence[Any], pad_token_id: int, is_noisy: bool = False) -> Collate:
    """What makes a micro-batch that all of these models compute on; prepares them for it.

    Args:
        models: the one that is trained, and its reference model where there is one.
        is_noisy: something else than dropout makes noise in training.
    """
    before = [_implementation(model) for model in models]
    if all(implementation == "sdpa" for implementation in before):
        attention.register()
        for model in models:
            _implement(model, attention.NAME)
        if all(keeps_sequences_apart(model) for model in models):
            is_shared = not is_noisy and not any(has_dropout(model) for model in models)
            return lambda sequences: flatten(sequences, is_shared)
        for model, implementation in zip(models, before, strict=True):
            _implement(model, implementation)
    return lambda sequences: collate(sequences, pad_token_id)


def keeps_sequences_apart(model: Any) -> bool:
    """Whether sequences that are laid out in one row have the log-probabilities that each has alone."""
    words = torch.randint(model.config.get_text_config().vocab_size, (3, SHARED_FROM + 8), generator=_seeded()).tolist()
    alike = [words[0], words[0][:SHARED_FROM] + words[1][:5], words[2][: SHARED_FROM + 3]]
    sequences = [Encoded(ids, ids) for ids in alike]
    was_training, device = model.training, next(model.parameters()).device
    model.eval()
    try:
        with torch.no_grad():
            together, tokens = sequence_logps(model, _on(flatten(sequences), device), len(sequences))
            alone = [sequence_logps(model, _on(collate([each], 0), device), 1)[0] for each in sequences]
    except (TypeError, ValueError, NotImplementedError, RuntimeError) as error:
        if is_shortage(error):
            raise
        said = f"{type(error).__name__}: {error}"
        logging.getLogger(__name__).info("micro-batches are padded: the model refuses them laid out (%s)", said)
        return False
    finally:
        model.train(was_training)
    difference = ((together - torch.cat(alone)) / tokens).abs().max().item()
    return difference <= TOLERANCE.get(model.dtype, TOLERANCE[torch.bfloat16])


def is_laid_out(model: Any) -> bool:
    """Whether ``collate_for`` has found that this model's micro-batches can do without padding."""
    return _implementation(model) == attention.NAME


def has_dropout(model: Any) -> bool:
    """Whether a training step of this model is random."""
    named = vars(model.config.get_text_config()).items()
    return any(isinstance(each, torch.nn.Dropout) and each.p for each in model.modules()) or any(
        value for name, value in named if name.endswith(("dropout", "pdrop")) and isinstance(value, float)
    )


def _implementation(model: Any) -> str | None:
    return model.config.get_text_config()._attn_implementation


def _implement(model: Any, name: str) -> None:
    for config in {id(each): each for each in (model.config, model.config.get_text_config())}.values():
        config._attn_implementation = name


def _on(batch: dict[str, Any], device: torch.device) -> dict[str, Any]:
    return {name: value.to(device) if isinstance(value, torch.Tensor) else value for name, value in batch.items()}


def _seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)
