"""What llama.cpp's own converter makes of the tiny models in ``gguf_models.py``, recorded in ``gguf_reference.json``.

    python -m tests.conformance.gguf_reference CHECKOUT [MODEL …]

CHECKOUT holds llama.cpp's convert_hf_to_gguf.py; it needs the packages sentencepiece and protobuf. Tests read only what
was recorded, so that the converter is no dependency of theirs.
"""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

RECORDED = Path(__file__).with_name("gguf_reference.json")
OUTTYPES = ("q8_0",)
NAMES_DIFFER = ("general.name", "general.basename", "general.size_label", "general.finetune", "general.base_model",
                "general.organization", "general.version", "general.type", "general.tags", "general.sampling",
                "GGUF.")  # fmt: skip
"""Metadata that say nothing of how the model computes, and follow from the folder's name."""
WITH_VOCABULARY = ("llama", "smollm3", "phi3", "qwen3moe")
"""Models whose words are compared; with the others it would be the same words again."""


def contents(path: Path, name: str) -> dict[str, Any]:
    """Tensors (type, shape, digest of the bytes) and metadata of a .gguf file; long values as a digest."""
    import gguf

    reader = gguf.GGUFReader(path)
    tensors = {
        tensor.name: [tensor.tensor_type.name, [int(size) for size in tensor.shape], _digest(tensor.data.tobytes())]
        for tensor in reader.tensors
    }
    metadata = {}
    for key, found in reader.fields.items():
        is_vocabulary = key.startswith("tokenizer.") and name not in WITH_VOCABULARY
        if not key.startswith(NAMES_DIFFER) and not is_vocabulary:
            value = found.contents()
            value = round(value, 6) if isinstance(value, float) else value
            metadata[key] = value if len(str(value)) < 80 else _digest(json.dumps(value).encode())
    return {"tensors": tensors, "metadata": metadata}


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:20]


def record(checkout: Path) -> None:
    sys.path[:0] = [str(checkout), str(checkout / "gguf-py")]
    import gguf
    from conversion import base, get_model_class
    from transformers import AutoTokenizer

    from engine.catalog.models import BUNDLED
    from tests.conformance.gguf_models import MODELS, tiny

    base.TextModel.get_vocab_base_pre = lambda self, tokenizer: "smollm"
    tokenizer = AutoTokenizer.from_pretrained(BUNDLED.path)
    found: dict[str, Any] = json.loads(RECORDED.read_text("utf-8")) if RECORDED.is_file() else {}
    for name in sys.argv[2:] or MODELS:
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place) / "tiny"
            tiny(name, tokenizer, folder)
            config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
            kind = get_model_class(config["architectures"][0])
            if name not in WITH_VOCABULARY:
                kind = type(kind.__name__, (kind,), {"model_arch": kind.model_arch, "set_vocab": lambda self: None})
            for outtype in OUTTYPES:
                out = Path(place) / f"{outtype}.gguf"
                kind(folder, gguf.LlamaFileType[f"MOSTLY_{outtype.upper()}"], out).write()
                found[f"{name}: {outtype}"] = contents(out, name)
        _save(found)
        print(name, flush=True)


def _save(found: dict[str, Any]) -> None:
    lines = json.dumps(found, sort_keys=True).replace('}, "', '},\n"')
    RECORDED.write_text(f"{lines}\n", encoding="utf-8")


if __name__ == "__main__":
    record(Path(sys.argv[1]))
