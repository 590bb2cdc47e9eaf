"""What happens in training, told to the run folder; and the stop request, told to the training."""

from __future__ import annotations

import time
from typing import Any

import psutil
import torch
from transformers import TrainerCallback

from engine.runs.folder import Folder
from engine.runs.progress import is_measured
from engine.runs.read import read_events
from engine.runs.record import Recorder
from engine.runs.summary import best_eval_loss
from engine.runs.times import clock
from engine.work.ranks import agree_to_stop

STEP_INTERVAL_S = 2.0
"""Between two logged steps the place is told no more often than this, so that slow steps show progress too."""
_LOGGED = {"loss": "loss", "learning_rate": "lr", "grad_norm": "grad_norm", "eval_loss": "eval_loss"}


class Reporter(TrainerCallback):
    """Writes ``trainer_log.jsonl`` with the fields this field's tools read, and stops when asked to.

    Each line holds current_steps, total_steps, epoch, percentage (0 to 100), elapsed_time and remaining_time
    (``H:MM:SS``), memory_bytes (the most that was reserved on the GPU, or what the process holds now), and where known
    loss, eval_loss, lr, grad_norm, throughput (tokens/s, padding not counted) and total_tokens.
    """

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._started = time.monotonic()
        self._told = 0.0
        self._evaluated = 0
        self._first_step = 0
        self._first_tokens = 0
        self._is_resumed = _has_steps(recorder.folder)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._started = time.monotonic()
        self._first_step = state.global_step
        self._first_tokens = state.num_input_tokens_seen
        if self._is_resumed or state.global_step:
            self._recorder.event(resumed_at=state.global_step)  # what came after that step is done anew
        self._tell(state)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if time.monotonic() - self._told > STEP_INTERVAL_S:
            self._tell(state)
        if agree_to_stop(self._recorder) and state.global_step < state.max_steps:
            control.should_save = True
            control.should_training_stop = True

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        values = {ours: logs[theirs] for theirs, ours in _LOGGED.items() if logs and theirs in logs}
        values |= {name: value for name, value in (logs or {}).items() if is_measured(name) and value is not None}
        self._tell(state, **values)
        if "eval_loss" in values and state.is_world_process_zero:
            self._recorder.state(summary={"best_eval_loss": best_eval_loss(self._recorder.folder)})

    def on_prediction_step(
        self, args: Any, state: Any, control: Any, eval_dataloader: Any = None, **kwargs: Any
    ) -> None:
        self._evaluated += 1
        total = len(eval_dataloader) if hasattr(eval_dataloader, "__len__") else None
        self._recorder.phase("evaluating", self._evaluated, total, "batches")

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._evaluated = 0

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._recorder.event(saved=f"checkpoint-{state.global_step}")

    def _tell(self, state: Any, **values: Any) -> None:
        self._recorder.event(**self._place(state), **values)
        self._told = time.monotonic()

    def _place(self, state: Any) -> dict[str, Any]:
        """Where the training stands: steps, times and tokens."""
        elapsed = time.monotonic() - self._started
        done, total = state.global_step - self._first_step, state.max_steps - self._first_step
        tokens = state.num_input_tokens_seen - self._first_tokens
        place: dict[str, Any] = {
            "current_steps": state.global_step,
            "total_steps": state.max_steps,
            "epoch": round(state.epoch or 0, 4),
            "percentage": round(100 * state.global_step / state.max_steps, 2) if state.max_steps else 100,
            "elapsed_time": clock(elapsed),
            "memory_bytes": _memory_bytes(),
        }
        if done:
            place["remaining_time"] = clock(elapsed * (total - done) / done)
        if tokens and elapsed:
            place |= {"throughput": round(tokens / elapsed, 2), "total_tokens": state.num_input_tokens_seen}
        return place


def _has_steps(folder: Folder) -> bool:
    """Whether a log tells of steps already."""
    offset, begin = 0, None
    while offset != begin:
        begin = offset
        events, offset = read_events(folder, begin)
        if any("current_steps" in event for event in events):
            return True
    return False


def _memory_bytes() -> int:
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return torch.cuda.max_memory_reserved()
    return psutil.Process().memory_info().rss
