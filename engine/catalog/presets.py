"""Settings to begin with: "quick", "balanced", "best". What each sets follows from model, method, device and rows.

Nothing is trained or looked up here: a job, a shape and a device go in, values of options come out, each with a reason.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from math import ceil, isqrt
from typing import Any, NamedTuple

from engine.catalog.devices import Device
from engine.catalog.memory import Estimate, RowLengths
from engine.catalog.preset_fit import fitted
from engine.catalog.shape import ModelShape
from engine.options.jobs import TrainJob

NAMES = ("quick", "balanced", "best")
RATES = ((0.4e9, 5e-4), (2e9, 3e-4), (20e9, 2e-4), (float("inf"), 1e-4))
"""Up to so many parameters, the learning rate of adapters. 2e-4 for 7 and 13 billion, 1e-4 for more: Dettmers et al.
2023 (arXiv 2305.14314), table 9. The smallest: in 40 steps of 8 rows the bundled model learned from data/identity.json
who it is at 5e-4, and did not at 2e-4."""
OF_WHOLE_WEIGHTS = 0.1
"""The best rate of whole weights is a tenth of that of adapters (Schulman et al. 2025, "LoRA Without Regret")."""
OF_STAGE = {"sft": 1.0, "pt": 1.0, "rm": 0.5, "dpo": 0.05, "kto": 0.05, "grpo": 0.05, "ppo": 0.05}
"""Comparing and rewarding pull at what the model can do already: 5e-7 for whole weights of 7 billion (Tunstall et al.
2023, arXiv 2310.16944), some ten times that for adapters."""
OF_PRESET = {"quick": 2.0, "balanced": 1.0, "best": 0.5}
"""Short runs take larger rates (Schulman et al. 2025): in 60 steps of 4 rows the bundled model ended at a loss of 0.71
with 1e-3. Who learns longer can go more gently, and forgets less."""
RANKS = {"quick": 8, "balanced": 16, "best": 64}
STEP_ROWS = {"quick": 8, "balanced": 16, "best": 32}
STEPS_AN_EPOCH = 16
"""A small dataset takes fewer rows a step, so that an epoch has about so many steps; ``FEWEST_ROWS`` at least."""
FEWEST_ROWS = 4
LONGEST = {"quick": 512, "balanced": 2048, "best": 4096}
UNKNOWN_LONGEST, SHORTEST = 2048, 256
"""Tokens of a row that are kept, where it is not known how long the rows are; and at least."""
EPOCHS = {"sft": (3, 3), "pt": (1, 2), "dpo": (1, 2), "kto": (1, 2), "rm": (1, 1), "grpo": (1, 1), "ppo": (1, 1)}
FEW_ROWS, FEW_ROWS_EPOCHS = 1000, {"balanced": 5, "best": 8}
"""So few rows of ``sft`` are seen more often: three rounds are then not even a hundred steps."""
QUICK_STEPS, QUICK_ROWS = 60, 1000
QUICK_ON_CPU = ((0.4e9, 60, 512), (2e9, 20, 256), (float("inf"), 8, 256))
"""Up to so many parameters: steps and tokens of a row. Measured on two cores: 40 steps of the bundled model in 2 to 3
minutes with 8 rows each; a model of a billion takes eight times as long for each token."""
HELD_OUT, MOST_HELD_OUT, HELD_OUT_FROM = 0.05, 500, 200
"""Share of the rows, most and fewest rows; with fewer than that all are learned from."""
SAVED = {"balanced": (0.2, 2), "best": (0.1, 3)}
"""How often a checkpoint is written, as a share of the steps, and how many are kept."""
OUR_OPTIMIZERS = ("adamw_torch", "adafactor", "adamw_8bit")
NO_EVALUATION = ("grpo", "ppo")


class Why(NamedTuple):
    """The sentence ``presets.why.<key>``, filled with ``facts``."""

    key: str
    facts: dict[str, Any]


@dataclass(frozen=True)
class Preset:
    """What a preset sets.

    Args:
        values: by option; what is not named stays as it was.
        why: a reason for the main ones.
        estimate: of the memory with these values; None where nothing is known of the model.
    """

    values: dict[str, Any]
    why: dict[str, Why]
    estimate: Estimate | None

    @property
    def fits(self) -> bool | None:
        """Whether it fits by the estimate, if need be tightly; None where that cannot be said."""
        verdict = self.estimate.verdict if self.estimate else None
        return None if verdict is None else verdict != "too_big"


def preset(
    name: str, job: TrainJob, shape: ModelShape | None, device: Device, lengths: RowLengths | None = None,
    rows: int | None = None, fixed: Collection[str] = (),
) -> Preset:  # fmt: skip
    """The values of a preset for one job.

    Args:
        name: of ``NAMES``.
        job: model, data, stage, method; its other options count where the preset leaves them alone.
        shape: None: nothing is known of the model. Then it is taken for one of several billion parameters.
        lengths: of the rows, where they were counted.
        rows: how many there are, where only that is known.
        fixed: options that are as ``job`` says whatever a preset would say.
    """
    rows = lengths.rows if lengths else rows
    size = shape.parameters if shape else 7e9
    wanted: dict[str, Any] = {}
    why: dict[str, Why] = {}

    def put(key: str | None = None, /, facts: dict[str, Any] | None = None, **values: Any) -> None:
        wanted.update(values)
        if key:
            why[next(iter(values))] = Why(key, facts or {})

    put(_rate_reason(name, job), {"size": f"{size / 1e9:.2g}"}, learning_rate=_rate(name, job, size))
    put(lr_scheduler_type="cosine", warmup_steps=0.1 if name == "quick" else 0.03)
    if job.finetuning_type == "lora" and (job.create_new_adapter or not job.adapter_name_or_path):
        rank = RANKS[name]
        put(f"rank_{name}", lora_rank=rank)
        # with rank-stabilised scaling alpha / sqrt(r) takes the place of alpha / r, which is 2 here
        put(lora_alpha=float(2 * isqrt(rank)) if job.use_rslora else None)
        put("target", lora_target=("all",))
    steps, cutoff = _quick_size(size, device)
    longest = min(cutoff, LONGEST["quick"]) if name == "quick" else LONGEST[name]
    put("cutoff", cutoff_len=min(longest, UNKNOWN_LONGEST))
    if lengths and lengths.longest:
        needed = max(row.longest for row in lengths.longest)
        enough = max(SHORTEST, 2 ** (needed - 1).bit_length())
        put(
            "cutoff_short" if enough > longest else "cutoff_enough",
            {"longest": needed},
            cutoff_len=min(enough, longest),
        )
    _put_duration(put, name, job, rows, steps, fixed)
    put("precision", bf16=False, fp16=False, pure_bf16=False)
    put(disable_gradient_checkpointing=None)
    if not job.optimizers_by_switch and job.optim in OUR_OPTIMIZERS:
        put(optim="adamw_torch")
    if job.finetuning_type in ("lora", "oft"):
        put(quantization_bit=None)
    values = {option: value for option, value in wanted.items() if option not in fixed}
    found = fitted(job, values, _step_rows(name, job, rows), shape, device, lengths, fixed)
    why |= {option: Why(key, {}) for option, key in found.why.items()}
    if "per_device_train_batch_size" in found.values:
        each, times = found.values["per_device_train_batch_size"], found.values.get("gradient_accumulation_steps", 1)
        why["per_device_train_batch_size"] = Why("batch", {"rows": each * times, "each": each})
    asked = job.model_copy(update=found.values)
    effective = {option: value for option, value in found.values.items() if asked.has_effect(option)}
    return Preset(effective, {option: why[option] for option in effective if option in why}, found.estimate)


def _rate(name: str, job: TrainJob, size: float) -> float:
    rate = next(rate for most, rate in RATES if size <= most)
    rate *= OF_STAGE[job.stage] * OF_PRESET[name]
    return float(f"{rate * (1 if job.finetuning_type in ('lora', 'oft') else OF_WHOLE_WEIGHTS):.2g}")


def _rate_reason(name: str, job: TrainJob) -> str:
    if OF_STAGE[job.stage] < 0.5:
        return "rate_stage"
    if job.finetuning_type not in ("lora", "oft"):
        return "rate_whole"
    return "rate" if name == "balanced" else f"rate_{name}"


def _quick_size(size: float, device: Device) -> tuple[int, int]:
    """Steps of a quick try, and the tokens of a row."""
    if not device.is_cpu:
        return QUICK_STEPS, LONGEST["quick"]
    return next((steps, cutoff) for most, steps, cutoff in QUICK_ON_CPU if size <= most)


def _step_rows(name: str, job: TrainJob, rows: int | None) -> int:
    """Rows of an optimizer step; in ``grpo`` answers, of which each prompt has a whole group."""
    wanted = STEP_ROWS[name]
    if job.stage in NO_EVALUATION:
        return job.num_generations * max(1, wanted // 8)
    while rows and wanted > FEWEST_ROWS and rows < wanted * STEPS_AN_EPOCH:
        wanted //= 2
    return wanted


def _put_duration(
    put: Any, name: str, job: TrainJob, rows: int | None, quick_steps: int, fixed: Collection[str]
) -> None:  # fmt: skip
    """How long, how much of it is held out, how often it is saved. What streams has no rounds: its steps stay."""
    needs_evaluation = bool(job.early_stopping_steps or job.training_arguments.get("load_best_model_at_end"))
    if name == "quick":
        put("steps", max_steps=quick_steps)
        if not job.streaming:
            put("samples", {"rows": QUICK_ROWS}, max_samples=min(job.max_samples or QUICK_ROWS, QUICK_ROWS))
        put(save_strategy="steps", save_steps=float(quick_steps), logging_steps=1.0)
        put(**({"eval_steps": float(quick_steps)} if needs_evaluation else {"eval_strategy": "no"}))
        return
    if not job.streaming:
        few = rows is not None and rows < FEW_ROWS and job.stage == "sft"
        epochs = FEW_ROWS_EPOCHS[name] if few else EPOCHS[job.stage][name == "best"]
        put("epochs_few" if few else "epochs", {"rows": rows}, num_train_epochs=float(epochs))
        put(max_steps=-1, max_samples=None)
    share, kept = SAVED[name]
    put(save_strategy="steps", save_steps=share, save_total_limit=kept, logging_steps=5.0)
    held_out = job.val_size
    is_free = not (held_out or job.eval_dataset or job.streaming or {"val_size", "eval_strategy"} & set(fixed))
    if is_free and rows is not None and rows >= HELD_OUT_FROM and job.stage not in NO_EVALUATION:
        held_out = HELD_OUT if rows * HELD_OUT <= MOST_HELD_OUT else float(MOST_HELD_OUT)
        put("held_out", {"rows": min(MOST_HELD_OUT, ceil(rows * HELD_OUT))}, val_size=held_out)
    if held_out or job.eval_dataset:
        put(eval_strategy="steps", eval_steps=share)
