"""One resident base model that answers with one adapter or another, or with none; nothing is merged or loaded twice."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from engine.errors import UserError
from engine.options.jobs import ChatJob
from engine.runs.sides import BASE
from engine.work.imports import without_bitsandbytes
from engine.work.load import adapter_rows, apply_adapters, read_adapter_config
from engine.work.rope import has_same_positions


class Sides:
    """The model as it was loaded, and what else its base can be.

    Args:
        model: the base model, or with the job's adapters beside or in its weights.
        load_base: gives the base model anew, for where adapters were merged into its weights.
    """

    def __init__(self, model: Any, job: ChatJob, load_base: Callable[[], Any]) -> None:
        self.model = model
        self._job, self._load_base = job, load_base
        self._is_merged = bool(job.adapters) and not _has_adapters(model)
        self._own = [f"adapter_{number}" for number in range(len(job.adapters))]
        self._names: dict[str, str] = dict(zip(job.adapters, self._own, strict=True)) if len(self._own) == 1 else {}

    def switch(self, side: str | None) -> None:
        """Let ``model`` be as it was loaded (None), its base alone ("base"), or with the adapter in a folder.

        Raises:
            UserError: the adapter cannot stand beside this base; the model is as it was before.
        """
        if side is None and not self._own:
            side = BASE
        if self._is_merged and side is not None:
            self._part()
        if side == BASE:
            if _has_adapters(self.model):
                self.model.base_model.disable_adapter_layers()
            return
        names = self._own if side is None else [self._names.get(side) or self._add(side)]
        if _has_adapters(self.model):
            self.model.base_model.enable_adapter_layers()
            self.model.base_model.set_adapter(names)

    def _part(self) -> None:
        """Adapters that were merged in memory cannot be told from the base any more: load it again, beside them."""
        self.model = apply_adapters(self._load_base(), self._job.adapters, may_merge=False)
        self._is_merged = False

    @without_bitsandbytes()
    def _add(self, path: str) -> str:
        read_adapter_config(path)
        alone = self._job.model_copy(update={"adapter_name_or_path": (path,), "adapter_folder": None})
        rows = adapter_rows(self.model, path)
        has_other_words = rows is not None and rows != self.model.get_input_embeddings().weight.shape[0]
        if has_other_words or not has_same_positions(alone, self._job):
            raise UserError("chat.side_unlike", path=path)
        name = f"side_{len(self._names)}"
        try:
            if _has_adapters(self.model):
                self.model.load_adapter(path, adapter_name=name)
            else:
                from peft import PeftModel

                self.model = PeftModel.from_pretrained(self.model, path, adapter_name=name)
        except (ValueError, RuntimeError, OSError) as error:
            if not _has_adapters(self.model):
                self.model = self._load_base()  # some of the adapter may be in it
            elif name in self.model.peft_config:
                self.model.delete_adapter(name)
            raise UserError("load.adapter_unfit", path=path, detail=error) from error
        self.model.eval()
        self._names[path] = name
        return name


def _has_adapters(model: Any) -> bool:
    """Whether it is peft's; that is not loaded before it is needed."""
    return hasattr(model, "get_base_model")
