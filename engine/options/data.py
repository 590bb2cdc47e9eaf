"""Which rows are learned from, and how much of each."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator

from engine.options.base import Names, Options
from engine.options.option import option


def _as_texts(given: Any) -> Any:
    """YAML reads 0.7 as a number, also inside a list."""
    if isinstance(given, list | tuple):
        return tuple(map(str, given))
    return str(given) if isinstance(given, int | float) else given


Shares = Annotated[Names, BeforeValidator(_as_texts)]


class Data(Options):
    """Datasets by their names in ``dataset_info.json``, or by path."""

    dataset_dir: str = option("data", control="path")
    dataset: Names = option(())
    eval_dataset: Names = option((), level="advanced")
    cutoff_len: int = option(2048, ge=4, le=131072)  # tokens of a row that are kept
    max_samples: int | None = option(None, ge=1)  # rows of each dataset, from its start
    val_size: float = option(0.0, ge=0)  # below 1: share of rows held out; from 1 on: number of rows
    train_on_prompt: bool = option(False, level="advanced")
    mask_history: bool = option(False, level="advanced")  # learn the last answer only
    mix_strategy: Literal["concat", "interleave_under", "interleave_over", "interleave_once"] = option(
        "concat", level="advanced"
    )
    interleave_probs: Shares = option((), level="advanced")  # one share for each dataset; together 1
    streaming: bool = option(False, level="advanced")  # encode while training; needs max_steps
    buffer_size: int = option(16384, ge=1, when={"streaming": (True,)}, level="advanced")  # rows to shuffle among
    tokenized_path: str | None = option(
        None, level="advanced", control="path", when={"streaming": (False,)}
    )  # keep encoded rows here
    overwrite_cache: bool = option(False, level="command")  # encode anew what tokenized_path holds
    preprocessing_num_workers: int | None = option(None, ge=1, level="command")  # processes that encode
    packing: bool | None = option(
        None, when={"streaming": (False,)}, level="advanced"
    )  # join short rows to cutoff_len tokens; None: where the stage is pt
    neat_packing: bool = option(False, when={"streaming": (False,)}, level="command")  # the same as packing here


class Inspect(Options):
    """What a check of a dataset leaves behind."""

    rejects: str | None = option(None, control="path")  # rows that something is wrong with, each with the reason
    clean: str | None = option(None, control="path")  # the rows without those and without duplicates
