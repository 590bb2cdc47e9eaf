"""What fine-tuning minimises in place of the plain loss of the next token."""

from __future__ import annotations

from engine.options.base import Options
from engine.options.option import option

_SFT = {"stage": ("sft",)}

LOSSES = ("use_dft_loss", "use_eaft_loss", "use_asft_loss")


class Objective(Options):
    """Losses that weigh the tokens of an answer, in ``stage: sft``."""

    use_dft_loss: bool = option(False, when=_SFT, level="advanced")  # Wu et al. 2025, arXiv 2508.05629
    use_eaft_loss: bool = option(False, when=_SFT, level="advanced")
    eaft_alpha: float = option(1.0, ge=0, when={**_SFT, "use_eaft_loss": (True,)}, level="advanced")
    use_asft_loss: bool = option(False, when=_SFT, level="advanced")
    asft_alpha: float = option(0.1, ge=0, when={**_SFT, "use_asft_loss": (True,)}, level="advanced")

    @property
    def weighs_tokens(self) -> bool:
        return self.stage == "sft" and any(getattr(self, name) for name in LOSSES)
