"""Learning from answers that are compared (``stage: dpo``) or judged (``stage: kto``)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator

from engine.options.base import Options
from engine.options.option import option

_DPO = {"stage": ("dpo",)}
_KTO = {"stage": ("kto",)}
_EITHER = {"stage": ("dpo", "kto")}

WITHOUT_REFERENCE = ("orpo", "simpo")
"""Losses that do not ask what the model said before it was trained."""


def _as_text(given: Any) -> Any:
    """YAML reads 4 as a number."""
    return str(given) if type(given) is int else given


class Preference(Options):
    """Which loss, how strongly it pulls, and the model that it holds on to."""

    pref_loss: Literal["sigmoid", "hinge", "ipo", "kto_pair", "orpo", "simpo"] = option("sigmoid", when=_DPO)
    pref_beta: float = option(0.1, gt=0, when=_EITHER)
    pref_ftx: float = option(0.0, ge=0, when=_EITHER, level="advanced")  # share of the loss of the good answers
    dpo_label_smoothing: float = option(0.0, ge=0, lt=0.5, when={**_DPO, "pref_loss": ("sigmoid",)}, level="advanced")
    simpo_gamma: float = option(0.5, ge=0, when={**_DPO, "pref_loss": ("simpo",)}, level="advanced")
    ld_alpha: float | None = option(None, ge=0, le=1, when=_DPO, level="advanced")  # of tokens beyond the shorter one
    pref_bco_weight: float = option(0.0, ge=0, when=_DPO, level="advanced")
    kto_chosen_weight: float = option(1.0, ge=0, when=_KTO, level="advanced")
    kto_rejected_weight: float = option(1.0, ge=0, when=_KTO, level="advanced")
    ref_model: str | None = option(None, when=_EITHER, level="advanced", control="path")  # None: the model as it begins
    ref_model_adapters: str | None = option(None, when=_EITHER, level="command", control="path")
    ref_model_quantization_bit: Annotated[Literal["4", "8"] | None, BeforeValidator(_as_text)] = option(
        None, when=_EITHER, level="command"
    )

    @property
    def needs_reference(self) -> bool:
        return self.stage == "kto" or (self.stage == "dpo" and self.pref_loss not in WITHOUT_REFERENCE)
