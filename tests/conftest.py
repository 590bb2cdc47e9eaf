"""What all tests share: no network for models, the bundled one, a tiny random one, a browser, a place to work in."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parent.parent
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-component-update",
    "--disable-sync",
]  # fmt: skip

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
# A thread that waits for another lets go of its core. Else, where a test's own workers or other programs want it too,
# a training step takes several times as long. No result depends on it.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


@pytest.fixture(scope="session")
def bundled_model() -> Path:
    """The folder of SmolLM2-135M-Instruct, made from its package where it is not there yet."""
    from engine.catalog.models import BUNDLED
    from engine.work.bundled import make_bundled

    return make_bundled(PROJECT / BUNDLED.path)


@pytest.fixture(scope="session")
def tiny_model(bundled_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of two layers with random weights and the bundled model's tokenizer: every path, in milliseconds."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("models") / "tiny"
    tokenizer = AutoTokenizer.from_pretrained(bundled_model)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def chromium() -> Iterator:
    """One browser for all tests of a process: Playwright starts but once in it."""
    if CHROMIUM is None:
        pytest.skip("no Chromium: make test installs one where it may")
    playwright_api = pytest.importorskip("playwright.sync_api")
    playwright_api.expect.set_options(timeout=30_000)  # a busy machine is no fault of the page
    with playwright_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory with the project's data and models in it, so that runs are saved to nobody's harm."""
    for name in ("data", "models"):
        (PROJECT / name).mkdir(exist_ok=True)
        (tmp_path / name).symlink_to(PROJECT / name, target_is_directory=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path
