"""New tokens: how the tokenizer learns them, and which rows of the embeddings they begin with."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from engine.errors import UserError
from engine.options.command import read_options_file
from engine.options.model import Vocabulary


def add_tokens(tokenizer: PreTrainedTokenizerBase, job: Vocabulary) -> None:
    """Teach a tokenizer the tokens that a job adds; those it has already stay as they are.

    Raises:
        UserError: the file of new tokens cannot be read.
    """
    tokenizer.add_tokens(list(job.add_tokens))
    tokenizer.add_tokens([*job.add_special_tokens, *descriptions(job)], special_tokens=True)


def descriptions(job: Vocabulary) -> dict[str, str]:
    """New special token → what it means, from the job's YAML file.

    Raises:
        UserError: it cannot be read, or holds no such line.
    """
    if not job.new_special_tokens_config:
        return {}
    path = Path(job.new_special_tokens_config)
    found = {token: str(text) for token, text in read_options_file(path).items() if token and text is not None}
    if not found:
        raise UserError("descriptions_empty", path=path)
    return found


def fit_vocabulary(
    model: Any, tokenizer: PreTrainedTokenizerBase, known: PreTrainedTokenizerBase, job: Vocabulary
) -> None:
    """Give every token a row in the embeddings, and each new one a first meaning; the model is changed in place.

    Rows are added only as far as tokens need them. Tied embeddings stay tied.

    Args:
        tokenizer: with the new tokens.
        known: the same without them.
    """
    if not job.trains_vocabulary:
        return
    old_rows = model.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > old_rows:
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    before, meanings = known.get_vocab(), descriptions(job)
    new = {
        token: number for token, number in tokenizer.get_vocab().items() if token not in before or number >= old_rows
    }
    weights = [model.get_input_embeddings().weight.data]
    head = model.get_output_embeddings()
    if head is not None and head.weight.data_ptr() != weights[0].data_ptr():
        weights.append(head.weight.data)
    for weight in weights:
        learned = weight[: min(old_rows, len(known))]
        rows = first_rows(learned.float(), sorted(new.items(), key=lambda each: each[1]), job, known, meanings)
        for number, row in rows.items():
            weight[number] = row.to(weight.dtype)


def first_rows(
    learned: Tensor,
    new: list[tuple[str, int]],
    job: Vocabulary,
    known: PreTrainedTokenizerBase,
    meanings: dict[str, str],
) -> dict[int, Tensor]:
    """The row with which each new token begins, by its number.

    A token with a description begins, under ``desc_init``, as the mean of the rows of the words that describe it; any
    other as the mean of all rows. Noise has the deviation 1 / sqrt(H), as in LLaMA-Factory.

    Args:
        learned: rows of the tokens that the model knows, shape (known, H), float32.
        new: tokens and their numbers.
        known: splits the descriptions into tokens that have rows already.
        meanings: token → description.
    """
    mean, rows = learned.mean(dim=0), {}
    for token, number in new:
        row, has_noise = mean, True
        if token in meanings and job.init_special_tokens != "noise_init":
            ids = known(meanings[token], add_special_tokens=False)["input_ids"]
            row = learned[[each for each in ids if each < len(learned)]].mean(dim=0) if ids else mean
            has_noise = job.init_special_tokens == "desc_init_w_noise"
        noise = torch.randn(row.shape).to(row) / math.sqrt(row.numel()) if has_noise else 0
        rows[number] = row + noise
    return rows


def fit_rows(model: Any, rows: int | None) -> None:
    """Give the embeddings at least so many rows, as an adapter with new tokens needs them; it brings the numbers."""
    if rows is not None and rows > model.get_input_embeddings().weight.shape[0]:
        model.resize_token_embeddings(rows, mean_resizing=False)


def embedding_names(model: Any) -> list[str]:
    """Last names of the modules that hold the input and the output embedding; tied ones are one, the input."""
    modules = [model.get_input_embeddings()]
    head = model.get_output_embeddings()
    if head is not None and head.weight is not modules[0].weight:
        modules.append(head)
    return [
        name.rpartition(".")[2] for name, module in model.named_modules() if any(module is each for each in modules)
    ]
