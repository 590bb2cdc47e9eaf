"""Rules across options: each a small pure function that looks at a valid job and returns what is wrong, or None.

A rule here needs nothing but the options. What needs a look at the disk or the device is checked where that is known.
"""

from __future__ import annotations

from collections.abc import Callable

from engine.errors import Problem
from engine.options.base import Options
from engine.options.jobs import ChatJob, ExportJob, GgufJob, TrainJob

Rule = Callable[[Options], Problem | None]


def train_needs_dataset(job: TrainJob) -> Problem | None:
    return None if job.dataset else Problem("dataset_missing", "dataset")


def train_needs_do_train(job: TrainJob) -> Problem | None:
    return None if job.do_train else Problem("do_train_false", "do_train")


def model_is_named(job: TrainJob | ExportJob | GgufJob) -> Problem | None:
    return None if job.model_name_or_path else Problem("model_missing", "model_name_or_path")


def one_precision(job: TrainJob) -> Problem | None:
    chosen = [name for name in ("bf16", "fp16", "pure_bf16") if getattr(job, name)]
    return Problem("two_precisions", chosen[1], {"first": chosen[0], "second": chosen[1]}) if len(chosen) > 1 else None


def prompt_or_history(job: TrainJob) -> Problem | None:
    both = job.train_on_prompt and job.mask_history
    return Problem("train_on_prompt_and_mask_history", "mask_history") if both else None


def packing_not_yet(job: TrainJob) -> Problem | None:
    return Problem("not_built_yet", "packing", {"option": "packing", "value": True}) if job.packing else None


def lora_has_targets(job: TrainJob) -> Problem | None:
    missing = job.finetuning_type == "lora" and not job.lora_target
    return Problem("lora_target_missing", "lora_target") if missing else None


def adapters_need_lora(job: TrainJob) -> Problem | None:
    wrong = job.adapter_name_or_path and job.finetuning_type != "lora"
    return Problem("adapters_need_lora", "adapter_name_or_path", {"method": job.finetuning_type}) if wrong else None


def held_out_is_whole(job: TrainJob) -> Problem | None:
    wrong = job.val_size >= 1 and job.val_size != int(job.val_size)
    return Problem("val_size_not_whole", "val_size", {"value": job.val_size}) if wrong else None


def held_out_once(job: TrainJob) -> Problem | None:
    return Problem("val_size_and_eval_dataset", "val_size") if job.val_size and job.eval_dataset else None


def evaluation_has_rows(job: TrainJob) -> Problem | None:
    wrong = job.eval_strategy != "no" and not job.val_size and not job.eval_dataset
    return Problem("eval_without_rows", "eval_strategy") if wrong else None


def export_has_target(job: ExportJob) -> Problem | None:
    return None if job.export_dir else Problem("export_dir_missing", "export_dir")


def chat_has_model(job: ChatJob) -> Problem | None:
    return None if job.gguf or job.model_name_or_path else Problem("model_missing", "model_name_or_path")


RULES: dict[type[Options], tuple[Rule, ...]] = {
    TrainJob: (
        train_needs_do_train, model_is_named, train_needs_dataset, one_precision, prompt_or_history, packing_not_yet,
        lora_has_targets, adapters_need_lora, held_out_is_whole, held_out_once, evaluation_has_rows,
    ),
    ExportJob: (model_is_named, export_has_target),
    GgufJob: (model_is_named,),
    ChatJob: (chat_has_model,),
}  # fmt: skip


def problems_of(job: Options) -> list[Problem]:
    """Every problem of a valid job, and a warning for each option that was set but has no effect."""
    found = [rule(job) for rule in RULES.get(type(job), ())]
    return [problem for problem in found if problem] + without_effect(job)


def without_effect(job: Options) -> list[Problem]:
    """A warning for each option that differs from its default although another option switches it off."""
    warnings = []
    for name, field in type(job).model_fields.items():
        if not job.has_effect(name) and getattr(job, name) != field.default:
            when = field.json_schema_extra["when"]
            needs = ", ".join(f"{other}: {' | '.join(map(str, allowed))}" for other, allowed in when.items())
            warnings.append(Problem("no_effect", name, {"option": name, "needs": needs}, is_warning=True))
    return warnings
