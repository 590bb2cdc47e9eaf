"""What an evaluation measures, and on which rows. What a training calls the same is declared there."""

from __future__ import annotations

from typing import Literal

from engine.options.base import Names, Options
from engine.options.data import Data, Shares
from engine.options.generation import Generation
from engine.options.option import option, same_as
from engine.options.training import Training
from engine.options.tuning import Tuning

_ANSWERED = {"do_predict": (True,), "stage": ("sft",)}
METRICS = ("bleu", "rouge", "exact", "f1", "json")


class Evaluation(Options):
    """The rows, and what is measured on them."""

    dataset_dir: str = same_as(Data, "dataset_dir")
    dataset: Names = same_as(Data, "dataset")  # the rows; with val_size, those of them that a training holds out
    eval_dataset: Names = same_as(Data, "eval_dataset")  # the rows, where it is given
    val_size: float = same_as(Data, "val_size")
    max_samples: int | None = same_as(Data, "max_samples")
    stage: Literal["sft", "pt"] = same_as(Tuning, "stage")
    do_eval: bool = option(True)  # loss and perplexity
    do_predict: bool = option(True, when={"stage": ("sft",)})  # answers and their scores
    metrics: Names = option(METRICS, when=_ANSWERED, suggestions=METRICS, level="advanced")
    answer_pattern: str | None = option(None, when=_ANSWERED, level="advanced")  # a regular expression
    cutoff_len: int = same_as(Data, "cutoff_len")
    per_device_eval_batch_size: int = same_as(Training, "per_device_eval_batch_size")
    train_on_prompt: bool = same_as(Data, "train_on_prompt")
    mask_history: bool = same_as(Data, "mask_history")
    mix_strategy: Literal["concat", "interleave_under", "interleave_over", "interleave_once"] = same_as(
        Data, "mix_strategy"
    )
    interleave_probs: Shares = same_as(Data, "interleave_probs")
    preprocessing_num_workers: int | None = same_as(Data, "preprocessing_num_workers")
    seed: int = same_as(Training, "seed")
    output_dir: str | None = same_as(Training, "output_dir")
    overwrite_output_dir: bool = same_as(Training, "overwrite_output_dir")


class Choice(Options):
    """Questions with four answers to choose from, as MMLU, CMMLU and C-Eval have them."""

    task: str | None = option(None, level="advanced")  # <folder>_<split>, e.g. mmlu_test; instead of a dataset
    task_dir: str = option("evaluation", control="path", level="advanced")
    lang: Literal["en", "zh"] = option("en", level="advanced")
    n_shot: int = option(5, ge=0, le=100, level="advanced")  # solved questions before each


class Answers(Generation):
    """How answers are written. Greedily unless it is asked for otherwise, so that scores can be compared."""

    do_sample: bool = option(False)
