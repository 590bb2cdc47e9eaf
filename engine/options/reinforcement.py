"""Learning from rewards for answers that the model writes while it is trained: GRPO (``stage: grpo``).

Names are trl's own, or those of generation where they say the same.
"""

from __future__ import annotations

from typing import Literal

from engine.options.base import Names, Options
from engine.options.option import option

_REWARDED = {"stage": ("grpo", "ppo")}


class Reinforcement(Options):
    """What an answer is rewarded for, and how answers are drawn (Shao et al. 2024, arXiv 2402.03300)."""

    reward_functions: Names = option(
        (), when=_REWARDED, suggestions=("exact_match", "json_valid", "regex:\\d+")
    )  # as in engine.work.rewards
    reward_model: str | None = option(None, when=_REWARDED, control="path")  # folder of a model of stage rm
    reward_model_adapters: str | None = option(None, when=_REWARDED, level="command", control="path")
    reward_weights: Names = option((), when=_REWARDED, level="advanced")  # one for each function, the model's last
    num_generations: int = option(8, ge=2, when=_REWARDED)  # answers to each prompt
    max_new_tokens: int = option(512, ge=1, le=32768, when=_REWARDED)
    temperature: float = option(1.0, gt=0, le=5, when=_REWARDED, level="advanced")
    top_p: float = option(1.0, gt=0, le=1, when=_REWARDED, level="advanced")
    top_k: int = option(0, ge=0, le=1000, when=_REWARDED, level="advanced")  # 0: no limit
    beta: float = option(0.0, ge=0, when=_REWARDED, level="advanced")  # of the distance from the model at its begin
    num_iterations: int = option(1, ge=1, when=_REWARDED, level="advanced")  # times that answers are learned from
    epsilon: float = option(0.2, gt=0, when=_REWARDED, level="advanced")  # clip of the probability ratio
    loss_type: Literal["dapo", "grpo", "bnpo", "dr_grpo"] = option("dapo", when=_REWARDED, level="advanced")
    scale_rewards: Literal["group", "batch", "none"] = option("group", when=_REWARDED, level="advanced")
