"""The GGUF tab with an adapter alone: offered by name, converted and proven beside its base, and leading nowhere."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import pytest
from playwright.sync_api import expect

from engine.options.jobs import TrainJob
from engine.runs.folder import Folder
from engine.runs.record import update_state, write_job
from tests.browser.steps import open_tab

JOB_MS = 180_000


@pytest.fixture
def adapter(workshop: Path, tiny_model: Path):
    """A finished training's folder, with an adapter of peft's own making."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    folder = Folder(workshop / "saves" / "tiny" / "lora" / "alone")
    folder.path.mkdir(parents=True)
    config = LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_model), config).save_pretrained(folder.path)
    job = TrainJob.from_values(
        {"model_name_or_path": str(tiny_model), "dataset": "identity", "output_dir": str(folder.path)}
    )
    write_job(folder, job, "en")
    update_state(folder, kind="train", status="done", started_at=1e9, finished_at=1e9 + 60)
    yield folder
    shutil.rmtree(folder.path)


def test_an_adapter_alone_is_converted(visit, adapter, workshop):
    page = visit()
    open_tab(page, "gguf")
    page.locator("#gguf-model_name_or_path input").click()
    page.get_by_role("option", name="tiny/lora/alone · adapter alone", exact=True).click()
    page.locator("#gguf-outfile textarea, #gguf-outfile input").first.fill("alone.gguf")
    page.locator("#gguf-start").click()
    expect(page.locator("#gguf-result")).to_contain_text("--lora alone.gguf", timeout=JOB_MS)
    if importlib.util.find_spec("llama_cpp"):
        expect(page.locator("#gguf-result")).to_contain_text("passed")
    assert (workshop / "alone.gguf").is_file()
    expect(page.locator("#gguf-open-chat")).to_be_disabled()
    expect(page.locator("#ollama-create")).to_be_disabled()
