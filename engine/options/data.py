"""Which rows are learned from, and how much of each."""

from __future__ import annotations

from engine.options.base import Names, Options
from engine.options.option import option


class Data(Options):
    """Datasets by their names in ``dataset_info.json``, or by path."""

    dataset_dir: str = option("data", control="path")
    dataset: Names = option(())
    eval_dataset: Names = option((), level="advanced")
    cutoff_len: int = option(1024, ge=4, le=131072)  # tokens of a row that are kept
    max_samples: int | None = option(None, ge=1)  # rows of each dataset, from its start
    val_size: float = option(0.0, ge=0)  # below 1: share of rows held out; from 1 on: number of rows
    train_on_prompt: bool = option(False, level="advanced")
    mask_history: bool = option(False, level="advanced")  # learn the last answer only
    packing: bool = option(False, level="command")
    preprocessing_num_workers: int | None = option(None, ge=1, level="command")  # read by nothing yet
    overwrite_cache: bool = option(False, level="command")  # read by nothing yet
