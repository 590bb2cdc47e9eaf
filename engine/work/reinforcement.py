"""Learning from rewards: trl's GRPO (Shao et al. 2024, arXiv 2402.03300) on prompts that our templates render.

PPO's value model and its reward per token are not built: where a job says ``stage: ppo``, GRPO is what is done.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import torch
from transformers import PreTrainedTokenizerBase
from trl import GRPOTrainer

from engine.catalog.conversations import to_example
from engine.catalog.datasets import find_entry
from engine.catalog.rendering import renderer_of, with_system
from engine.catalog.stages import stage_problem
from engine.catalog.tool_formats import wrapped_tools
from engine.errors import UserError
from engine.options.jobs import TrainJob
from engine.runs.record import Recorder
from engine.work.checkpoints import AtomicCheckpoints
from engine.work.chunks import Counts
from engine.work.doctor import Examined
from engine.work.mixing import drawn, hold_out, in_drawn_order, mixed, used_rows
from engine.work.reward import RewardModel
from engine.work.rewards import RewardFunction, by_model, reward_functions
from engine.work.run_card import tell_files
from engine.work.sources import local_entry


class Prompts(NamedTuple):
    """Rows with ``prompt`` (text), ``answer`` (text) and ``conversation`` (JSON: messages before it, tools)."""

    train: datasets.Dataset
    evaluation: datasets.Dataset | None
    counts: Counts


class GrpoTrainer(Examined, AtomicCheckpoints, GRPOTrainer):
    """trl's trainer, with our tokens and our checkpoints."""

    def _tokenize_prompts(self, prompts: list[str]) -> tuple[list[list[int]], None, dict[str, Any]]:
        """A prompt is a rendered text, in which the special tokens stand already."""
        return self.processing_class(prompts, add_special_tokens=False)["input_ids"], None, {}

    def create_model_card(self, *given: Any, **named: Any) -> None:
        """None: a run's folder says by itself what it is."""

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        super()._save(output_dir, state_dict)
        shutil.rmtree(Path(output_dir or self.args.output_dir) / "ref", ignore_errors=True)  # the adapter at its begin


def grpo_settings(job: TrainJob) -> dict[str, Any]:
    """Fields of ``GRPOConfig`` beside those of ``TrainingArguments``."""
    return {
        "num_generations": job.num_generations,
        "num_generations_eval": job.num_generations,
        "per_device_eval_batch_size": job.num_generations,  # one prompt at a time
        "max_completion_length": job.max_new_tokens,
        "temperature": job.temperature,
        "top_p": job.top_p,
        "top_k": job.top_k,
        "beta": job.beta,
        "num_iterations": job.num_iterations,
        "epsilon": job.epsilon,
        "loss_type": job.loss_type,
        "scale_rewards": job.scale_rewards,
        "reward_weights": [float(weight) for weight in job.reward_weights] or None,
        "include_num_input_tokens_seen": "no",  # trl counts them itself
    }


def rewards_of(job: TrainJob, dtype: torch.dtype, device: str | torch.device) -> list[RewardFunction]:
    """All that answers are rewarded for; the reward model, if there is one, comes last."""
    found = reward_functions(job)
    if job.reward_model:
        found.append(by_model(RewardModel(job.reward_model, job, dtype, device, job.reward_model_adapters)))
    return found


def prepare_prompts(job: TrainJob, tokenizer: PreTrainedTokenizerBase, recorder: Recorder) -> Prompts:
    """Read what is answered, and hold out what it is evaluated on. Of a conversation, the last answer is left open.

    Prompts that leave no room for an answer within ``cutoff_len`` are left out and counted.

    Raises:
        UserError: a dataset is missing, broken or of another kind, or no prompt is left.
    """
    counts, dropped = Counts(), Counts()
    train = mixed(_tables(job, job.dataset, tokenizer, recorder, counts), job, job.mix_strategy)
    evaluation = None
    if job.eval_dataset:
        evaluation = mixed(_tables(job, job.eval_dataset, tokenizer, recorder, dropped), job, "concat")
    elif job.val_size:
        train, evaluation = hold_out(train, job.val_size, job.seed)
    if counts.rows_with_nothing_to_learn:
        recorder.warn("prompts_too_long", rows=counts.rows_with_nothing_to_learn, of=counts.rows, cutoff=job.cutoff_len)
    recorder.event(dataset=vars(counts))
    return Prompts(train, evaluation, counts)


def _tables(
    job: TrainJob, names: Iterable[str], tokenizer: PreTrainedTokenizerBase, recorder: Recorder, counts: Counts
) -> list[datasets.Dataset]:
    renderer = renderer_of(tokenizer, job)
    found = []
    for name in names:
        entry = local_entry(find_entry(Path(job.dataset_dir), name), job, recorder)
        if problem := stage_problem(entry, job.stage):
            raise UserError(problem.key, **problem.facts)
        tell_files(entry, job, recorder)
        rows = []
        for number, row in used_rows(entry, job, drawn(entry, job)):
            example = to_example(row, entry, number)
            *before, answer = example.messages
            extra = {"tools": wrapped_tools(json.loads(example.tools))} if example.tools else {}
            text = renderer.render(with_system(before, job), True, enable_thinking=job.enable_thinking, **extra)
            size = len(tokenizer(text, add_special_tokens=False)["input_ids"])
            counts.rows += 1
            if size >= job.cutoff_len:
                counts.rows_with_nothing_to_learn += 1
                continue
            counts.tokens += size
            conversation = json.dumps({"messages": before, "tools": example.tools}, ensure_ascii=False)
            said = {"prompt": text, "answer": answer.get("content") or "", "conversation": conversation}
            rows.append({**said, "row": number, "dataset": entry.name})
        if not rows:
            raise UserError("nothing_to_learn", datasets=entry.name)
        recorder.phase("encoding", counts.rows, counts.rows, "rows")
        recorder.check_stop()
        found.append(in_drawn_order(datasets.Dataset.from_list(rows), drawn(entry, job)))
    return found
