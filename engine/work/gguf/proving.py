"""The proof of each file of a job: tensors read back, words cut alike, and answers as the source model gives them."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

from engine.errors import UserError
from engine.work.gguf import convert, parity, quantize, tensors, verify
from engine.work.gguf.material import Material


class Proof:
    """Proves files of one model; the source is asked once, when the first one needs it.

    As a context: on leaving, the base model's file that an adapter was tried with is gone.
    """

    def __init__(self, material: Material, recorder) -> None:
        self._material, self._recorder = material, recorder
        self._base: Path | None = None

    def __enter__(self) -> Proof:
        return self

    def __exit__(self, *error: object) -> None:
        if self._base is not None:
            self._base.unlink(missing_ok=True)

    def of(self, path: Path, outtype: str) -> tuple[dict[str, Any], str | None]:
        """What was proven of a file, and what is wrong with it, if it differs more than is usual for its type.

        Raises:
            UserError: it is damaged, cannot be loaded, or cuts text otherwise than the model.
        """
        material, recorder = self._material, self._recorder
        result: dict[str, Any] = {}
        if material.planned is not None:
            own_type = outtype if outtype in tensors.TYPES else None
            result = verify.verify_tensors(path, material.planned, own_type, recorder)
        if self._llama_cpp is None:
            return {**result, "llama_cpp": None}, None
        recorder.phase("verifying")
        model, adapter = (path, None) if material.adapter is None else (self._base_file(path), path)
        compared = parity.compare(model, material.tokenizer, self._spoken, recorder, adapter)
        failed = parity.judge(compared, outtype)
        if "greedy_equal" in compared and not failed:
            equal, total = sum(compared["greedy_equal"]), compared["greedy_tokens"] * len(compared["greedy_equal"])
            if equal < total:
                recorder.warn("gguf.greedy_differs", outtype=outtype, equal=equal, total=total)
        return {**result, "llama_cpp": self._llama_cpp.__version__, **compared}, failed

    @cached_property
    def _llama_cpp(self) -> Any:
        try:
            return quantize.import_llama_cpp()
        except UserError as error:
            self._recorder.warn("gguf.not_run")
            self._recorder.warn(error.key, **error.facts)
            return None

    @cached_property
    def _spoken(self) -> list[parity.Spoken]:
        material = self._material
        return parity.ask_source(
            material.folder, material.tokenizer, material.trust_remote_code, self._recorder, material.adapter
        )

    def _base_file(self, beside: Path) -> Path:
        """The base model as a .gguf file that rounds nothing, for as long as the proof takes."""
        if self._base is None:
            material = self._material
            assert material.base is not None
            self._base = beside.with_name(f"{beside.name}.base")
            planned, describe = material.base
            convert.write({material.whole: self._base}, planned, material.architecture, describe, self._recorder)
        return self._base
