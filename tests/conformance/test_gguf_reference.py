"""Our .gguf files against those that llama.cpp's own converter makes: every tensor's name, shape, type and bytes, and
all metadata that matter to inference. What that converter made is recorded (gguf_reference.py)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from engine.options.jobs import GgufJob
from engine.runs.folder import Folder
from engine.runs.record import Recorder
from engine.work.gguf import convert, making, material, vocabulary
from tests.conformance.gguf_models import MODELS, tiny
from tests.conformance.gguf_reference import OUTTYPES, RECORDED, WITH_VOCABULARY, contents

OURS_ALONE = (
    "tokenizer.ggml.add_bos_token",
    "tokenizer.ggml.add_eos_token",
    "tokenizer.ggml.padding_token_id",
    "gemma2.rope.freq_base",
)
"""Said by ours even where the reference leaves llama.cpp to its default, which is the same."""


@pytest.fixture(scope="module")
def reference() -> dict:
    return json.loads(RECORDED.read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", MODELS)
def test_files_are_the_reference_converters(name, reference, bundled_model, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(vocabulary, "pretokenizer_of", lambda tokenizer: "smollm")
    if name not in WITH_VOCABULARY:
        monkeypatch.setattr(convert, "add_vocabulary", lambda *given: None)
    tiny(name, AutoTokenizer.from_pretrained(bundled_model), tmp_path / "tiny")
    (tmp_path / "run").mkdir()
    recorder = Recorder(Folder(tmp_path / "run"))
    job = GgufJob(model_name_or_path=str(tmp_path / "tiny"), outtype=OUTTYPES)
    paths = {outtype: tmp_path / f"{outtype}.gguf" for outtype in OUTTYPES}
    making.make(material.gather(job, recorder), paths, recorder)
    for outtype, path in paths.items():
        wanted, found = reference[f"{name}: {outtype}"], contents(path, name)
        assert found["tensors"] == wanted["tensors"]
        differing = {
            key: (found["metadata"].get(key), wanted["metadata"].get(key))
            for key in found["metadata"].keys() | wanted["metadata"].keys()
            if found["metadata"].get(key) != wanted["metadata"].get(key)
        }
        assert all(key in OURS_ALONE and value[1] is None for key, value in differing.items()), differing
