"""The catalogue of models, and what is plainly wrong with a path or id."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from engine.catalog.models import BUNDLED, find_model, looks_local, model_problem, models


def folder(path: Path, *files: str, **contents: object) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    for name in files:
        (path / name).write_text(json.dumps(contents.get(name.split(".")[0], {})))
    return path


def test_the_bundled_model_comes_first_and_names_are_unique():
    names = [model.name for model in models()]
    assert models()[0] == BUNDLED
    assert "bundled" in BUNDLED.name
    assert len(set(names)) == len(names) == 85


def test_ids_are_ids_and_no_size_was_left_open():
    for model in models():
        for identifier in (model.huggingface, model.modelscope):
            assert identifier is None or re.fullmatch(r"[\w.\-]+/[\w.\-]+", identifier), model
        assert "{" not in model.name


@pytest.mark.parametrize(
    ("name", "huggingface", "modelscope", "template"),
    [
        ("Qwen2.5-0.5B-Instruct", "Qwen/Qwen2.5-0.5B-Instruct", "Qwen/Qwen2.5-0.5B-Instruct", "qwen"),
        ("Qwen2.5-Math-7B-Instruct", "Qwen/Qwen2.5-Math-7B-Instruct", "Qwen/Qwen2.5-Math-7B-Instruct", "qwen"),
        ("Qwen3-8B-Thinking", "Qwen/Qwen3-8B", "Qwen/Qwen3-8B", "qwen3"),
        ("Qwen3-4B-Instruct-2507", "Qwen/Qwen3-4B-Instruct-2507", "Qwen/Qwen3-4B-Instruct-2507", "qwen3_nothink"),
        ("Gemma-2B-Instruct", "google/gemma-2b-it", "AI-ModelScope/gemma-2b-it", "gemma"),
        ("Gemma-7B-Instruct", "google/gemma-7b-it", "AI-ModelScope/gemma-7b-it", "gemma"),
        ("Gemma-1.1-2B-Instruct", "google/gemma-1.1-2b-it", None, "gemma"),
        ("Gemma-3-270M-Instruct", "google/gemma-3-270m-it", "LLM-Research/gemma-3-270m-it", "gemma2"),
        ("Phi-3.5-4B-instruct", "microsoft/Phi-3.5-mini-instruct", "LLM-Research/Phi-3.5-mini-instruct", "phi"),
        ("Phi-4-3.8B-instruct", "microsoft/Phi-4-mini-instruct", "LLM-Research/Phi-4-mini-instruct", "phi4_mini"),
        ("Llama-3.2-1B-Instruct", "meta-llama/Llama-3.2-1B-Instruct", "LLM-Research/Llama-3.2-1B-Instruct", "llama3"),
        (
            "InternLM2.5-7B-1M-Chat",
            "internlm/internlm2_5-7b-chat-1m",
            "Shanghai_AI_Laboratory/internlm2_5-7b-chat-1m",
            "intern2",
        ),
        (
            "DeepSeek-R1-8B-Distill",
            "deepseek-ai/DeepSeek-R1-Distill-Llama-8B",
            "deepseek-ai/DeepSeek-R1-Distill-Llama-8B",
            "deepseekr1",
        ),
        (
            "DeepSeek-Coder-7B-Instruct",
            "deepseek-ai/deepseek-coder-7b-instruct-v1.5",
            "deepseek-ai/deepseek-coder-7b-instruct-v1.5",
            "deepseekcoder",
        ),
        ("Yi-1.5-9B-Chat", "01-ai/Yi-1.5-9B-Chat", "01ai/Yi-1.5-9B-Chat", "yi"),
        ("Qwen3-0.6B-Base", "Qwen/Qwen3-0.6B-Base", "Qwen/Qwen3-0.6B-Base", None),
    ],
)
def test_rows_that_are_easily_mistaken(name, huggingface, modelscope, template):
    model = find_model(name)
    assert (model.huggingface, model.modelscope, model.template) == (huggingface, modelscope, template)


def test_location_depends_on_the_hub():
    assert BUNDLED.location("modelscope") == BUNDLED.location() == "models/SmolLM2-135M-Instruct"
    llama = find_model("Llama-3.2-1B-Instruct")
    assert llama.location() == "meta-llama/Llama-3.2-1B-Instruct"
    assert llama.location("modelscope") == "LLM-Research/Llama-3.2-1B-Instruct"
    absent = find_model("LFM2.5-1.2B-Instruct")
    assert absent.is_on("huggingface") and not absent.is_on("modelscope")
    assert absent.location("modelscope") == "LiquidAI/LFM2.5-1.2B-Instruct"
    assert find_model("no such model") is None


@pytest.mark.parametrize(
    "text", ["Qwen/Qwen3-0.6B", "gpt2", "01-ai/Yi-6B-Chat", "", None, "models/SmolLM2-135M-Instruct"]
)
def test_nothing_is_wrong_as_far_as_this_disk_can_tell(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert model_problem(text) is None


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("./model", "model_folder_missing"),
        ("/nowhere/model", "model_folder_missing"),
        ("~/no-such-model", "model_folder_missing"),
        ("a/b/c", "model_folder_missing"),
        (r"C:\models\mine", "model_folder_missing"),
        ("saved/nothing", "model_folder_missing"),
        ("saved/Qwen3", "model_folder_missing_near"),
        ("Qwen / Qwen3", "hub_id_malformed"),
        ("Qwen2.5-0.5B-Instruct", "hub_id_without_owner"),
        ("saved/model.gguf", "model_is_file"),
        ("saved/adapter", "model_is_adapter"),
        ("saved/Qwen3-0.6B", "model_folder_incomplete"),
    ],
)
def test_what_cannot_be_a_model_is_said_at_once(text, key, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder(Path("saved"), "model.gguf")
    folder(Path("saved/adapter"), "adapter_config.json", "adapter_model.safetensors")
    folder(Path("saved/Qwen3-0.6B"), "config.json")
    problem = model_problem(text)
    assert (problem.key, problem.option) == (key, "model_name_or_path")
    assert text in problem.text() and "{" not in problem.text()


def test_a_folder_is_complete_with_its_weights(tmp_path):
    assert model_problem(str(folder(tmp_path / "one", "config.json", "model.safetensors"))) is None
    assert model_problem(str(folder(tmp_path / "bin", "config.json", "pytorch_model.bin"))) is None
    shards = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    files = ["config.json", "model.safetensors.index.json", "model-00001-of-00002.safetensors"]
    many = folder(tmp_path / "many", *files, model={"weight_map": shards})
    assert model_problem(str(many)).facts["missing"] == "model-00002-of-00002.safetensors"
    (many / shards["b"]).touch()
    assert model_problem(str(many)) is None
    (many / "model.safetensors.index.json").write_text('{"weight_map": {"a":')
    assert model_problem(str(many)).facts["missing"] == "model.safetensors.index.json"


def test_an_owner_with_a_folder_of_that_name_here_is_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert not looks_local("Qwen/Qwen3-0.6B")
    folder(Path("Qwen"))
    assert looks_local("Qwen/Qwen3-0.6B")
