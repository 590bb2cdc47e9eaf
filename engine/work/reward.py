"""A model that says how good an answer is: stage rm. Its head on the last token is the one of transformers.

It is an ``AutoModelForSequenceClassification`` with one label, so that whoever has transformers, trl or vLLM can load
what comes out.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForSequenceClassification, PreTrainedModel, PreTrainedTokenizerBase

from engine.catalog.conversations import Example
from engine.errors import UserError
from engine.options.jobs import TrainJob
from engine.work.arrangement import Collate
from engine.work.encode import EncodedPair, Encoder
from engine.work.load import load_model, plain_tokenizer
from engine.work.trainer import StepTrainer

HEADS = ("score", "classifier")
"""What the models of transformers call the layer that scores."""


def load_with_head(
    path: str | Path, job: TrainJob, dtype: torch.dtype, device: str | torch.device, pad_token_id: int
) -> PreTrainedModel:
    """A language model whose output layer gives one number for a text; without one in the folder, a random one.

    Raises:
        UserError: as ``load_model``; or transformers has no such head for this architecture.
    """
    model = load_model(path, job, dtype, device, AutoModelForSequenceClassification, num_labels=1)
    if not any(hasattr(model, head) for head in HEADS):
        raise UserError("reward_head_missing", model=type(model).__name__)
    model.config.get_text_config().pad_token_id = pad_token_id  # the last token before padding is the one scored
    return model


def train_head(model: Any, dtype: torch.dtype = torch.float32) -> None:
    """Train the head whole, whatever else is trained: it is new."""
    for name, parameter in model.named_parameters():
        parts = name.split(".")
        if any(head in parts for head in HEADS) and "original_module" not in parts:
            parameter.requires_grad_(True)
            parameter.data = parameter.data.to(dtype)


class RewardTrainer(StepTrainer):
    """The loss of a step is the mean over its pairs of -log σ(reward of chosen - reward of rejected).

    Ouyang et al. 2022, arXiv 2203.02155, equation 1.
    """

    def collation(self) -> Collate:
        """Padded on the right: the score is that of a row's last token."""
        return lambda sequences: padded([each.input_ids for each in sequences], self.pad_token_id)

    def to_tensors(self, examples: Sequence[EncodedPair]) -> dict[str, Tensor]:
        """All chosen answers, then all rejected ones: (2P, T)."""
        return super().to_tensors([pair.chosen for pair in examples] + [pair.rejected for pair in examples])

    def step_totals(self, examples: Sequence[EncodedPair]) -> Tensor:
        return torch.tensor(float(len(examples)))

    def loss_of(self, model: Any, batch: dict[str, Tensor], totals: Tensor) -> Tensor:
        chosen, rejected = model(**batch, use_cache=False).logits[:, 0].float().chunk(2)
        self.note(**{
            "rewards/chosen": chosen, "rewards/rejected": rejected, "rewards/margins": chosen - rejected,
            "rewards/accuracies": (chosen > rejected).float(),
        })  # fmt: skip
        return -functional.logsigmoid(chosen - rejected).sum() / totals


def padded(sequences: Sequence[Sequence[int]], pad_token_id: int) -> dict[str, Tensor]:
    """input_ids and attention_mask of shape (S, T), padded on the right."""
    ids = [torch.tensor(each) for each in sequences]
    masks = [torch.ones(len(each), dtype=torch.long) for each in sequences]
    return {
        "input_ids": pad_sequence(ids, batch_first=True, padding_value=pad_token_id),
        "attention_mask": pad_sequence(masks, batch_first=True),
    }


class RewardModel:
    """A trained reward model that scores answers: a folder with a whole model, or an adapter of stage rm.

    Args:
        path: of the folder.
        job: says where the base model of an adapter lies if its own word for that is no folder here.
    """

    def __init__(
        self,
        path: str | Path,
        job: TrainJob,
        dtype: torch.dtype,
        device: str | torch.device,
        adapter: str | None = None,
    ) -> None:
        base, adapters = Path(path), [adapter] if adapter else []
        if (base / "adapter_config.json").is_file():
            adapters.insert(0, str(base))
            named = json.loads((base / "adapter_config.json").read_text(encoding="utf-8"))
            named = Path(named.get("base_model_name_or_path") or "")
            base = named if (named / "config.json").is_file() else Path(job.model_name_or_path)
        folder = adapters[-1] if adapters and (Path(adapters[-1]) / "tokenizer_config.json").is_file() else base
        self._tokenizer: PreTrainedTokenizerBase = plain_tokenizer(folder, job)
        pad = self._tokenizer.pad_token_id
        self._pad = self._tokenizer.eos_token_id if pad is None else pad
        self._model: Any = load_with_head(base, job, dtype, device, self._pad)
        for each in adapters:
            self._model = PeftModel.from_pretrained(self._model, each).merge_and_unload()
        self._model.eval().requires_grad_(False)
        # Its tokenizer holds the chat template that it was trained with, whatever the job's own model uses.
        self._encoder = Encoder(job.model_copy(update={"template": None}), self._tokenizer)

    def scores(self, examples: Sequence[Example]) -> list[float | None]:
        """How good the last answer of each conversation is; None: the chat template refuses the conversation."""
        found: list[float | None] = []
        for example in examples:
            try:
                (encoded,) = self._encoder.encode([example])[0]
            except UserError:  # an answer of the model may be anything, marks of the template too
                found.append(None)
                continue
            batch = padded([encoded.input_ids], self._pad)
            with torch.no_grad():
                logits = self._model(**{name: each.to(self._model.device) for name, each in batch.items()}).logits
            found.append(logits[0, 0].item())
        return found
