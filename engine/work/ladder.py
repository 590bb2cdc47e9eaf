"""A few prompts answered greedily at every save, so that one can read how a model changes. Training does not notice."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

import torch
from transformers import TrainerCallback

from engine.errors import UserError
from engine.options.jobs import ChatJob, TrainJob
from engine.runs.record import Recorder, append_line
from engine.work.generate import end_ids, generate
from engine.work.load import render_prompt

MOST_TOKENS = 128


class Ladder(TrainerCallback):
    """Answers the prompts of a job; where that fails once, it warns and does not try again."""

    def __init__(self, job: TrainJob, tokenizer: Any, recorder: Recorder) -> None:
        self._job, self._tokenizer, self._recorder = job, tokenizer, recorder
        self._prompts = job.ladder

    def on_save(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        if not state.is_world_process_zero or self._recorder.is_stop_requested:
            return
        try:
            with undisturbed(model):
                for prompt in self._prompts:
                    rung = {"step": state.global_step, "prompt": prompt, "answer": self._answer(prompt, model)}
                    append_line(self._recorder.folder.ladder, rung)
        except UserError as error:
            self._give_up(error.text())
        except (RuntimeError, ValueError, OSError) as error:
            self._give_up(f"{type(error).__name__}: {error}")

    def _answer(self, prompt: str, model: Any) -> str:
        text = prompt
        if self._job.stage != "pt":
            text = render_prompt(self._tokenizer, [{"role": "user", "content": prompt}], self._job)
        ids = self._tokenizer(text, add_special_tokens=self._job.stage == "pt")["input_ids"]
        ends = end_ids(model, self._tokenizer, self._job)
        tokens = generate(model, ids, ChatJob(do_sample=False), ends, mode=torch.no_grad)
        return self._tokenizer.decode(list(islice(tokens, MOST_TOKENS)), skip_special_tokens=True)

    def _give_up(self, detail: str) -> None:
        self._prompts = ()
        self._recorder.warn("ladder_failed", detail=detail)


@contextmanager
def undisturbed(model: torch.nn.Module) -> Iterator[None]:
    """The model as it answers, for a while; every part of it and the random numbers are then as they were before."""
    were_training = [(module, module.training) for module in model.modules()]
    devices = [model.device] if model.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        model.eval()
        try:
            yield
        finally:
            for module, was_training in were_training:
                module.training = was_training
