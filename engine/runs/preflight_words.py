"""An answer of the preflight in words: no number stands without what was assumed for it."""

from __future__ import annotations

from engine.catalog.cheaper import Change
from engine.catalog.devices import memory_text
from engine.catalog.memory import Estimate
from engine.options.command import as_text
from engine.runs.preflight import Answer
from engine.runs.times import clock
from engine.words import words


def verdict_words(answer: Answer, language: str) -> str:
    """One sentence: fits, tight or does not fit, with what is needed and what is free."""
    found = answer.estimate
    if found is None:
        return words("preflight.model_unknown", language, model=answer.job.model_name_or_path or "–")
    needed, free = memory_text(found.peak_bytes), memory_text(found.free_bytes)
    name = found.verdict or "unknown"
    return words(f"preflight.verdict.{name}", language, needed=needed, free=free, device=_device(found))


def assumption_words(answer: Answer, language: str) -> list[str]:
    """What the numbers rest on: lengths, device and precision, checkpointing, the model's shape, disk."""
    found = answer.estimate
    if found is None:
        return []
    batch = found.batch
    facts = {
        "rows": f"{batch.rows:,}", "tokens": f"{batch.tokens:,}", "learned": f"{batch.learned:,}",
        "longest": f"{batch.longest:,}",
    }  # fmt: skip
    key = "assumed" if batch.is_assumed else "counted"
    lines = [words(f"preflight.lengths.{key}", language, **facts)]
    total, free = memory_text(found.device.memory_bytes), memory_text(found.free_bytes)
    lines.append(
        words(
            "preflight.device", language, device=_device(found), total=total, free=free, dtype=found.precision.autocast,
            weights=found.precision.weights, processes=found.processes,
        )
    )  # fmt: skip
    lines.append(words(f"preflight.checkpointing.{'on' if found.is_checkpointed else 'off'}", language))
    if found.shape.source != "headers":
        shape = found.shape
        lines.append(
            words(f"preflight.shape.{shape.source}", language, parameters=f"{shape.parameters / 1e9:.2g}",
                  layers=shape.layers, hidden=shape.hidden)
        )  # fmt: skip
    return lines


def disk_words(answer: Answer, language: str) -> str:
    """Checkpoints, result and merged model, and what is free."""
    disk = answer.disk
    if disk is None:
        return ""
    facts = {
        "checkpoint": memory_text(disk.checkpoint_bytes), "result": memory_text(disk.result_bytes),
        "free": memory_text(disk.free_bytes), "merged": memory_text(disk.merged_bytes), "count": disk.checkpoints or 0,
        "needed": memory_text(disk.needed_bytes),
    }  # fmt: skip
    key = "unlimited" if disk.checkpoints is None else "counted" if disk.checkpoints else "none"
    text = words(f"preflight.disk.{key}", language, **facts)
    if disk.merged_bytes:
        text += " " + words("preflight.disk.merged", language, **facts)
    return text if disk.is_enough else f"{text} {words('preflight.disk.too_small', language, **facts)}"


def measured_words(answer: Answer, language: str) -> list[str]:
    """What two steps have shown, where they were tried."""
    took = answer.measured
    if not took:
        return []
    facts = {
        "peak": memory_text(took["peak_memory_bytes"]), "first": f"{took['first_step_s']:.3g}",
        "step": f"{took['step_s']:.3g}", "start": f"{took['start_s']:.3g}", "device": took["device"],
        "losses": ", ".join(f"{loss:.4f}" for loss in took["losses"]),
    }  # fmt: skip
    lines = [words("preflight.measured.steps", language, **facts)]
    if "remaining_s" in took:
        time = clock(took["remaining_s"])
        lines.append(words("preflight.measured.whole", language, steps=f"{took['total_steps']:,}", time=time))
    return lines


def change_words(change: Change, language: str) -> str:
    """What a change does to what is needed, and what it costs."""
    costs = " ".join(words(f"preflight.costs.{each}", language) for each in change.costs)
    return words("preflight.change", language, needed=memory_text(change.estimate.peak_bytes), costs=costs)


def change_options(change: Change) -> str:
    """The options as they are typed: ``per_device_train_batch_size=1 gradient_accumulation_steps=8``."""
    return " ".join(f"{name}={as_text(value)}" for name, value in change.values.items())


def _device(found: Estimate) -> str:
    return f"{found.device.address} ({found.device.name})"
