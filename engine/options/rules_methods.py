"""Which fine-tuning methods go together with which other options: small pure functions, as in ``rules.py``."""

from __future__ import annotations

from engine.errors import Problem
from engine.options.jobs import ChatJob, ExportJob, TrainJob

WITHOUT_REFERENCE = ("pt", "sft", "rm", "orpo", "simpo")
"""Stages and preference losses that never ask what the model said before it was trained."""


def oft_has_targets(job: TrainJob) -> Problem | None:
    missing = job.finetuning_type == "oft" and not job.oft_target
    return Problem("oft_target_missing", "oft_target") if missing else None


def oft_has_one_size(job: TrainJob) -> Problem | None:
    """Blocks times the side of a block is the width of a weight, so that one follows from the other."""
    if job.finetuning_type != "oft" or bool(job.oft_rank) != bool(job.oft_block_size):
        return None
    return Problem("oft_two_sizes", "oft_block_size", {"rank": job.oft_rank, "size": job.oft_block_size})


def vocabulary_without_oft(job: TrainJob) -> Problem | None:
    return (
        Problem("oft_vocabulary", "finetuning_type") if job.trains_vocabulary and job.finetuning_type == "oft" else None
    )


def quantized_needs_adapters(job: TrainJob) -> Problem | None:
    if job.quantization_bit is None or job.finetuning_type in ("lora", "oft"):
        return None
    return Problem("quantization_needs_lora", "quantization_bit", _bits(job, method=job.finetuning_type))


def quantized_without_pissa(job: TrainJob) -> Problem | None:
    wrong = job.quantization_bit and job.finetuning_type == "lora" and job.pissa_init
    return Problem("quantization_and_pissa", "pissa_init", _bits(job)) if wrong else None


def quantized_keeps_its_words(job: TrainJob) -> Problem | None:
    wrong = job.quantization_bit and job.trains_vocabulary
    return Problem("quantization_and_vocabulary", "quantization_bit", _bits(job)) if wrong else None


def quantized_goes_on(job: TrainJob) -> Problem | None:
    wrong = job.quantization_bit and job.adapter_name_or_path and job.create_new_adapter
    return Problem("quantization_and_new_adapter", "create_new_adapter", _bits(job)) if wrong else None


def quantized_has_one_adapter(job: TrainJob | ChatJob) -> Problem | None:
    count = len(job.adapter_name_or_path)
    wrong = job.quantization_bit and count > 1
    return Problem("quantization_and_adapters", "adapter_name_or_path", _bits(job, count=count)) if wrong else None


def quantized_by_bitsandbytes(job: TrainJob | ChatJob) -> Problem | None:
    wrong = job.quantization_bit and job.quantization_method != "bnb"
    return Problem("quantization_method", "quantization_method", {"method": job.quantization_method}) if wrong else None


def quantized_on_one_device(job: TrainJob) -> Problem | None:
    wrong = job.quantization_bit and job.quantization_device_map
    return Problem("quantization_device_map", "quantization_device_map") if wrong else None


def pissa_without_dora(job: TrainJob) -> Problem | None:
    wrong = job.finetuning_type == "lora" and job.pissa_init and job.use_dora
    return Problem("pissa_and_dora", "use_dora") if wrong else None


def pissa_needs_no_reference(job: TrainJob) -> Problem | None:
    asked = getattr(job, "pref_loss", job.stage) if job.stage == "dpo" else job.stage
    wrong = job.finetuning_type == "lora" and job.pissa_init and asked not in WITHOUT_REFERENCE
    return Problem("pissa_and_reference", "pissa_init", {"stage": job.stage}) if wrong else None


def pissa_begins_anew(job: TrainJob) -> Problem | None:
    idle = job.pissa_init and job.adapter_name_or_path and not job.create_new_adapter
    return Problem("pissa_continued", "pissa_init", is_warning=True) if idle else None


def llama_pro_freezes(job: TrainJob) -> Problem | None:
    wrong = job.use_llama_pro and (job.finetuning_type != "freeze" or job.freeze_trainable_layers < 1)
    facts = {"method": job.finetuning_type, "layers": job.freeze_trainable_layers}
    return Problem("llama_pro_needs_freeze", "use_llama_pro", facts) if wrong else None


def descriptions_are_given(job: TrainJob) -> Problem | None:
    wrong = job.init_special_tokens != "noise_init" and not job.new_special_tokens_config
    return Problem("descriptions_missing", "init_special_tokens", {"value": job.init_special_tokens}) if wrong else None


def norms_are_wide_or_not(job: TrainJob) -> Problem | None:
    wrong = job.upcast_layernorm and job.pure_bf16
    return Problem("upcast_layernorm_and_pure_bf16", "upcast_layernorm") if wrong else None


def expanded_without_adapters(job: ExportJob) -> Problem | None:
    wrong = job.expand_layers and job.adapter_name_or_path
    return Problem("expand_and_adapters", "expand_layers") if wrong else None


TRAIN_RULES = (
    oft_has_targets, oft_has_one_size, vocabulary_without_oft, quantized_needs_adapters, quantized_without_pissa,
    quantized_keeps_its_words, quantized_goes_on, quantized_has_one_adapter, quantized_by_bitsandbytes,
    quantized_on_one_device, pissa_without_dora, pissa_needs_no_reference, pissa_begins_anew, llama_pro_freezes,
    descriptions_are_given, norms_are_wide_or_not,
)  # fmt: skip
EXPORT_RULES = (expanded_without_adapters,)
CHAT_RULES = (quantized_has_one_adapter, quantized_by_bitsandbytes)


def _bits(job: TrainJob | ChatJob, **facts: object) -> dict[str, object]:
    return {"bits": job.quantization_bit, **facts}
