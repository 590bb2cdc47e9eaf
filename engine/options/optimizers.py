"""Optimizers that remember less than AdamW does, under the names that this field types."""

from __future__ import annotations

from typing import Literal

from engine.options.base import Names, Options
from engine.options.option import option

_GALORE = {"use_galore": (True,)}
_APOLLO = {"use_apollo": (True,)}
_BADAM = {"use_badam": (True,)}
_BLOCKS = {**_BADAM, "badam_mode": ("layer",)}

CHOSEN_BY_SWITCH = ("use_galore", "use_apollo", "use_badam", "use_adam_mini", "use_muon")
"""Options that choose an optimizer in place of ``optim``."""


class Optimizers(Options):
    """Which optimizer takes the place of the one that ``optim`` names."""

    use_galore: bool = option(False, level="advanced")  # Zhao et al. 2024, arXiv 2403.03507
    galore_target: Names = option(("all",), when=_GALORE, level="command")  # as lora_target
    galore_rank: int = option(16, ge=1, when=_GALORE, level="advanced")
    galore_update_interval: int = option(200, ge=1, when=_GALORE, level="advanced")  # steps with one projection
    galore_scale: float = option(2.0, gt=0, when=_GALORE, level="advanced")
    galore_proj_type: Literal["std", "reverse_std", "right", "left", "full"] = option(
        "std", when=_GALORE, level="command"
    )
    galore_layerwise: bool = option(False, when=_GALORE, level="command")  # move each weight as soon as it can be
    use_apollo: bool = option(False, level="advanced")  # Zhu et al. 2024, arXiv 2412.05270
    apollo_target: Names = option(("all",), when=_APOLLO, level="command")
    apollo_rank: int = option(16, ge=1, when=_APOLLO, level="advanced")
    apollo_update_interval: int = option(200, ge=1, when=_APOLLO, level="advanced")
    apollo_scale: float = option(32.0, gt=0, when=_APOLLO, level="advanced")
    apollo_proj: Literal["svd", "random"] = option("random", when=_APOLLO, level="command")
    apollo_proj_type: Literal["std", "right", "left"] = option("std", when=_APOLLO, level="command")
    apollo_scale_type: Literal["channel", "tensor"] = option("channel", when=_APOLLO, level="command")
    apollo_layerwise: bool = option(False, when=_APOLLO, level="command")
    apollo_scale_front: bool = option(False, when=_APOLLO, level="command")  # limit the growth after scaling
    use_badam: bool = option(False, level="advanced")  # Luo et al. 2024, arXiv 2404.02827
    badam_mode: Literal["layer", "ratio"] = option("layer", when=_BADAM, level="command")
    badam_start_block: int | None = option(None, ge=0, when=_BLOCKS, level="command")  # None: as the order begins
    badam_switch_mode: Literal["ascending", "descending", "random", "fixed"] = option(
        "ascending", when=_BLOCKS, level="advanced"
    )
    badam_switch_interval: int = option(50, ge=-1, when=_BLOCKS, level="advanced")  # steps with one block; -1: all
    use_adam_mini: bool = option(False, level="advanced")  # Zhang et al. 2024, arXiv 2406.16793
    use_muon: bool = option(False, level="advanced")  # Jordan 2024; Liu et al. 2025, arXiv 2502.16982

    @property
    def is_layerwise(self) -> bool:
        """Whether weights move in the backward pass, so that no gradient is left after it."""
        by_switch = (self.use_galore and self.galore_layerwise) or (self.use_apollo and self.apollo_layerwise)
        return by_switch or self.optim.endswith("_layerwise")

    @property
    def optimizer_name(self) -> str:
        """The one in use by the name that comes nearest among those of ``optim``: what it remembers goes by it."""
        by_switch = {"use_galore": "galore_adamw", "use_apollo": "apollo_adamw", "use_muon": "muon"}
        return next((by_switch.get(name, "adamw_torch") for name in self.optimizers_by_switch), self.optim)

    @property
    def optimizers_by_switch(self) -> list[str]:
        return [name for name in CHOSEN_BY_SWITCH if getattr(self, name)]
