"""The Ollama section below a converted model: commands while no server answers, then create, chat target and remove."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import expect

from engine.options.jobs import GgufJob
from engine.runs.folder import Folder
from engine.runs.record import update_state, write_job
from tests.ollama_server import OllamaServer

MODELFILE = 'FROM ./demo.gguf\n\nTEMPLATE """{{ range $i, $_ := .Messages }}{{ .Content }}{{ end }}"""\n'


@pytest.fixture
def converted(workshop: Path) -> Iterator[Path]:
    """A finished conversion, as its worker leaves it."""
    outfile = workshop / "Demo Model.gguf"
    outfile.write_bytes(b"GGUF" + bytes(1000))
    modelfile = outfile.with_name("Demo Model.Modelfile")
    modelfile.write_text(MODELFILE.replace("demo.gguf", outfile.name))
    folder = Folder(workshop / "saves" / "demo" / "gguf" / "gguf_2099-01-01-00-00-00")
    folder.path.mkdir(parents=True)
    write_job(folder, GgufJob(model_name_or_path="models/demo", outfile=str(outfile)), "en")
    result = {"outfile": str(outfile), "size_bytes": 1004, "modelfile": str(modelfile), "verified": {}}
    update_state(folder, kind="gguf", status="done", started_at=4e9, finished_at=4e9, result=result)
    yield outfile
    shutil.rmtree(folder.path)


def test_ollama_on_the_page(visit, workshop, converted, ollama_port):
    page = visit()
    page.get_by_role("tab", name="GGUF").click()
    commands = page.locator("#ollama-commands .cm-content")
    expect(commands).to_contain_text("ollama create demo-model -f")
    expect(commands).to_contain_text("Demo Model.Modelfile")
    expect(page.locator("#ollama-status")).to_contain_text("No Ollama server answers")
    expect(page.locator("#ollama-create")).to_be_disabled()
    with OllamaServer(workshop / "ollama-blobs", ollama_port) as server:
        expect(page.locator("#ollama-status")).to_contain_text("0.99.0-test")
        expect(page.locator("#ollama-commands")).to_be_hidden()
        page.locator("#ollama-create").click()
        for _ in range(300):  # the run of another test may still be what is shown
            if server.models:
                break
            page.wait_for_timeout(200)
        expect(page.locator("#ollama-run")).to_contain_text("is in Ollama at")
        assert list(server.models) == ["demo-model:latest"] and server.faults == []
        page.locator("#ollama-ollama textarea, #ollama-ollama input").fill("a b")
        page.locator("#ollama-create").click()
        expect(page.locator("#ollama-notice")).to_contain_text("is no name for Ollama")

        page.locator("#ollama-model input").click()
        page.get_by_role("option", name="demo-model:latest").click()
        page.locator("#ollama-remove").click()
        expect(page.locator("#ollama-notice")).to_contain_text("would be removed")
        assert server.models
        page.locator("#ollama-remove-for-good").click()
        expect(page.locator("#ollama-notice")).to_contain_text("is removed")
        assert server.models == {}
        page.locator("#ollama-open-chat").click()
        expect(page.locator("#chat-ollama input")).to_have_value("demo-model")
        expect(page.locator("#chat-status")).to_contain_text("has no model")
        assert server.faults == []
