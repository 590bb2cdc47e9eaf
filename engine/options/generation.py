"""How an answer is sampled."""

from __future__ import annotations

from engine.options.base import Options
from engine.options.option import option

_SAMPLED = {"do_sample": (True,)}


class Generation(Options):
    """Sampling of answers. ``temperature: 0`` means greedy, as ``do_sample: false`` does."""

    do_sample: bool = option(True)
    temperature: float = option(0.95, ge=0, le=5, when=_SAMPLED, control="slider")
    top_p: float = option(0.7, gt=0, le=1, when=_SAMPLED, control="slider")
    top_k: int = option(50, ge=0, le=1000, when=_SAMPLED, level="advanced")  # 0: no limit
    repetition_penalty: float = option(1.0, gt=0, le=2, level="advanced")
    max_new_tokens: int = option(1024, ge=1, le=32768)
    sampling_seed: int | None = option(None, ge=0)  # None: another answer each time
