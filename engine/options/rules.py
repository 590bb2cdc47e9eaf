"""Rules across options: each a small pure function that looks at a valid job and returns what is wrong, or None.

A rule here needs nothing but the options. What needs a look at the disk or the device is checked where that is known.
"""

from __future__ import annotations

from collections.abc import Callable

from engine.errors import Problem
from engine.options.base import Options
from engine.options.export import NEED_IMATRIX
from engine.options.jobs import ApiJob, ChatJob, EvalJob, ExportJob, GgufJob, OllamaJob, TrainJob
from engine.options.rules_chat import CHAT_RULES as OWN_CHAT_RULES
from engine.options.rules_devices import TRAIN_RULES as DEVICE_RULES
from engine.options.rules_evaluation import EVAL_RULES
from engine.options.rules_methods import CHAT_RULES, EXPORT_RULES, TRAIN_RULES
from engine.options.rules_served import CHAT_RULES as SERVED_RULES
from engine.options.rules_served import OLLAMA_RULES
from engine.options.rules_stages import TRAIN_RULES as STAGE_RULES
from engine.options.rules_training import TRAIN_RULES as TRAINING_RULES

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


def lora_has_targets(job: TrainJob) -> Problem | None:
    missing = job.finetuning_type == "lora" and not job.lora_target
    return Problem("lora_target_missing", "lora_target") if missing else None


def adapters_need_lora(job: TrainJob) -> Problem | None:
    wrong = job.adapter_name_or_path and job.finetuning_type not in ("lora", "oft")
    return Problem("adapters_need_lora", "adapter_name_or_path", {"method": job.finetuning_type}) if wrong else None


def held_out_is_whole(job: TrainJob) -> Problem | None:
    wrong = job.val_size >= 1 and job.val_size != int(job.val_size)
    return Problem("val_size_not_whole", "val_size", {"value": job.val_size}) if wrong else None


def held_out_once(job: TrainJob) -> Problem | None:
    return Problem("val_size_and_eval_dataset", "val_size") if job.val_size and job.eval_dataset else None


def evaluation_has_rows(job: TrainJob) -> Problem | None:
    wrong = job.eval_strategy != "no" and not job.val_size and not job.eval_dataset
    return Problem("eval_without_rows", "eval_strategy") if wrong else None


def shares_are_mixed(job: TrainJob) -> Problem | None:
    wrong = job.interleave_probs and job.mix_strategy == "concat"
    return Problem("interleave_probs_concat", "interleave_probs") if wrong else None


def shares_fit_datasets(job: TrainJob) -> Problem | None:
    """One share for each dataset, each a part of the whole; a share of 0 never uses up its dataset."""
    if not job.interleave_probs or job.mix_strategy == "concat":
        return None
    facts = {"given": len(job.interleave_probs), "datasets": len(job.dataset), "strategy": job.mix_strategy}
    if len(job.interleave_probs) != len(job.dataset):
        return Problem("interleave_probs_count", "interleave_probs", facts)
    try:
        shares = [float(share) for share in job.interleave_probs]
    except ValueError:
        shares = [-1.0]
    given = {"value": ", ".join(job.interleave_probs)}
    if not all(0 <= share <= 1 for share in shares) or abs(sum(shares) - 1) > 1e-6:
        return Problem("interleave_probs_sum", "interleave_probs", given)
    if 0 in shares and job.mix_strategy != "interleave_under":
        return Problem("interleave_probs_zero", "interleave_probs", facts)
    return None


def streaming_has_an_end(job: TrainJob) -> Problem | None:
    return Problem("streaming_max_steps", "max_steps") if job.streaming and job.max_steps <= 0 else None


def streaming_holds_out_a_number(job: TrainJob) -> Problem | None:
    wrong = job.streaming and 0 < job.val_size < 1
    return Problem("streaming_val_size", "val_size", {"value": job.val_size}) if wrong else None


def streaming_takes_all(job: TrainJob) -> Problem | None:
    return Problem("streaming_max_samples", "max_samples") if job.streaming and job.max_samples else None


def export_has_target(job: ExportJob) -> Problem | None:
    return None if job.export_dir else Problem("export_dir_missing", "export_dir")


def gguf_has_types(job: GgufJob) -> Problem | None:
    return None if job.outtype else Problem("outtype_missing", "outtype")


def smallest_types_need_imatrix(job: GgufJob) -> Problem | None:
    wrong = [outtype for outtype in job.outtype if outtype in NEED_IMATRIX and not job.imatrix]
    return Problem("outtype_needs_imatrix", "outtype", {"outtype": ", ".join(wrong)}) if wrong else None


def chat_has_model(job: ChatJob) -> Problem | None:
    return None if job.gguf or job.ollama or job.model_name_or_path else Problem("model_missing", "model_name_or_path")


def api_has_no_prompt(job: ApiJob) -> Problem | None:
    return None if job.prompt is None else Problem("api.prompt", "prompt", is_warning=True)


def api_holds_the_model(job: ApiJob) -> Problem | None:
    return Problem("api.ollama", "ollama") if job.ollama else None


RULES: dict[type[Options], tuple[Rule, ...]] = {
    TrainJob: (
        train_needs_do_train, model_is_named, train_needs_dataset, one_precision, prompt_or_history,
        lora_has_targets, adapters_need_lora, held_out_is_whole, held_out_once, evaluation_has_rows,
        shares_are_mixed, shares_fit_datasets, streaming_has_an_end, streaming_holds_out_a_number, streaming_takes_all,
        *TRAIN_RULES, *STAGE_RULES, *DEVICE_RULES, *TRAINING_RULES,
    ),
    EvalJob: (
        model_is_named, prompt_or_history, held_out_is_whole, held_out_once, shares_are_mixed, shares_fit_datasets,
        *EVAL_RULES, *CHAT_RULES,
    ),
    ExportJob: (model_is_named, export_has_target, *EXPORT_RULES),
    GgufJob: (model_is_named, gguf_has_types, smallest_types_need_imatrix),
    ChatJob: (chat_has_model, *CHAT_RULES, *SERVED_RULES, *OWN_CHAT_RULES),
    ApiJob: (chat_has_model, api_has_no_prompt, api_holds_the_model, *CHAT_RULES),
    OllamaJob: OLLAMA_RULES,
}  # fmt: skip


def problems_of(job: Options) -> list[Problem]:
    """Every problem of a valid job, and a warning for each option that was set but has no effect."""
    rules = next((RULES[kind] for kind in type(job).__mro__ if kind in RULES), ())
    found = [rule(job) for rule in rules]
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
