"""A model in Ollama, from the .gguf to its removal, by the command line and the page's functions.

No real Ollama takes part: the server is the tests' own (tests/ollama_server.py), which speaks the same HTTP API.
Reference for prompts: transformers' ``apply_chat_template``; for answers: llama.cpp, greedy, without any server.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from engine.catalog.ollama import look, remove
from engine.errors import UserError
from engine.options.jobs import ChatJob, OllamaJob
from engine.runs import chat
from engine.runs.read import is_alive, read_state
from engine.runs.start import start
from engine.runs.stop import ask_to_stop
from tests.ollama_server import OllamaServer

llama_cpp = pytest.importorskip("llama_cpp")

PROJECT = Path(__file__).resolve().parent.parent.parent
PATIENCE_S = 300
SYSTEM = "You answer in one word."
FRANCE = [{"role": "user", "content": "What is the capital of France?"}]
TALK = [*FRANCE, {"role": "assistant", "content": "Paris."}, {"role": "user", "content": "And of Italy?"}]
CONVERSATIONS = [
    FRANCE,
    TALK,
    [{"role": "system", "content": SYSTEM}, *FRANCE],
    [{"role": "system", "content": SYSTEM}, *TALK],
]


@pytest.fixture
def server(workplace, monkeypatch):
    with OllamaServer(workplace / "ollama") as server:
        monkeypatch.setenv("OLLAMA_HOST", server.host)
        yield server
        assert server.faults == []


@pytest.fixture(scope="module")
def converted(bundled_model, tmp_path_factory) -> Path:
    """The bundled model as .gguf with its Modelfile, made by the command."""
    folder = tmp_path_factory.mktemp("converted")
    outfile = folder / "demo.gguf"
    words = ["gguf", "--model_name_or_path", str(bundled_model), "--outtype", "f16", "--outfile", str(outfile)]
    done = subprocess.run(
        [sys.executable, PROJECT / "app.py", *words], cwd=folder, capture_output=True, text=True, timeout=PATIENCE_S,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return outfile


@pytest.fixture(scope="module")
def tiny_gguf(tiny_model, tmp_path_factory) -> Path:
    outfile = tmp_path_factory.mktemp("tiny") / "tiny.gguf"
    words = ["gguf", "--model_name_or_path", str(tiny_model), "--outtype", "f32", "--outfile", str(outfile)]
    done = subprocess.run(
        [sys.executable, PROJECT / "app.py", *words], cwd=outfile.parent, capture_output=True, text=True,
        timeout=PATIENCE_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return outfile


def command(*words: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, PROJECT / "app.py", "ollama", *words], capture_output=True, text=True, timeout=PATIENCE_S,
        check=False,
    )  # fmt: skip


def finished(folder):
    deadline = time.monotonic() + PATIENCE_S
    while is_alive(folder) or not read_state(folder).has_ended:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return read_state(folder)


def greedy(gguf: Path, prompt: str, tokens: int) -> str:
    """llama.cpp's own answer, the likeliest token each time."""
    llama = llama_cpp.Llama(str(gguf), n_ctx=2048, verbose=False)
    found = llama.create_completion(
        llama.tokenize(prompt.encode(), add_bos=False, special=True), max_tokens=tokens, temperature=0.0,
        repeat_penalty=1.0,
    )  # fmt: skip
    return found["choices"][0]["text"]


def test_from_the_file_to_the_answer_and_away(server, converted, bundled_model):
    """Create, list, chat and remove by command; the answers are llama.cpp's with the chat template of training."""
    from transformers import AutoTokenizer

    made = command("create", "Demo", "--gguf", str(converted))
    assert made.returncode == 0, made.stdout + made.stderr
    assert command("list").stdout.split()[0] == "Demo:latest"
    tokenizer = AutoTokenizer.from_pretrained(bundled_model)
    folder = chat.load(ChatJob(ollama="Demo", context_length=2048), owner_pid=os.getpid())
    try:
        chat.wait_until_ready(folder, PATIENCE_S)
        for messages in CONVERSATIONS:
            found = list(chat.answer(folder, messages, do_sample=False, max_new_tokens=16))
            prompt = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
            assert server.prompts[-1] == prompt
            assert "".join(piece.text for piece in found) == greedy(converted, prompt, 16)
            assert found[-1].prompt_tokens == len(tokenizer(prompt, add_special_tokens=False)["input_ids"])
            assert found[-1].finish_reason in ("stop", "length") and 0 < found[-1].tokens <= 16
    finally:
        chat.unload(folder)
    said = command("chat", "Demo", "--prompt", FRANCE[0]["content"], "--system", SYSTEM, "--do_sample", "false")
    assert "Paris" in said.stdout, said.stderr
    assert SYSTEM in server.prompts[-1]
    assert command("remove", "Demo").returncode == 0
    assert server.models == {}
    gone = command("remove", "Demo")
    assert gone.returncode == 2 and "Demo" in gone.stderr


def test_what_the_server_has_is_not_sent_again(server, tiny_gguf):
    state = finished(start(OllamaJob(ollama="mine", gguf=str(tiny_gguf))))
    assert state.status == "done" and state.result["sent"] is True, state.error
    created = next(body for _, path, body in server.asked if path == "/api/create")
    assert "<|im_end|>" in created["parameters"]["stop"] and "im_start" in created["template"]
    blobs = server.paths("POST").count(f"/api/blobs/{state.result['digest']}")
    assert blobs == 1

    again = finished(start(OllamaJob(ollama="mine:latest", gguf=str(tiny_gguf))))
    assert again.status == "failed" and again.error["key"] == "ollama.exists"
    over = finished(start(OllamaJob(ollama="mine", gguf=str(tiny_gguf), overwrite=True)))
    assert over.status == "done" and over.result["sent"] is False
    assert server.paths("POST").count(f"/api/blobs/{state.result['digest']}") == 1


def test_without_a_modelfile_the_template_in_the_file_is_taken(server, tiny_gguf, tmp_path):
    bare = tmp_path / "bare" / "bare.gguf"
    bare.parent.mkdir()
    bare.write_bytes(tiny_gguf.read_bytes())
    for name, path in (("bare", bare), ("beside", tiny_gguf)):
        state = finished(start(OllamaJob(ollama=name, gguf=str(path))))
        assert state.status == "done", state.error
        assert (state.result["modelfile"] is None) == (name == "bare")
    for part in ("template", "system", "parameters"):
        assert server.models["bare:latest"][part] == server.models["beside:latest"][part]


@pytest.mark.parametrize("end", ["killed", "stopped"])
def test_an_upload_that_ends_early_leaves_nothing(server, tiny_gguf, end):
    """Nothing half appears on the server, and the next attempt does the whole."""
    server.wait_after = 100_000
    folder = start(OllamaJob(ollama="mine", gguf=str(tiny_gguf)))
    assert server.is_waiting.wait(PATIENCE_S)
    if end == "killed":
        os.kill(read_state(folder).pid, signal.SIGKILL)
    else:
        ask_to_stop(folder)
    server.wait_after = None
    server.go_on.set()
    assert finished(folder).status == ("lost" if end == "killed" else "stopped")
    deadline = time.monotonic() + 30
    while not server.cut and time.monotonic() < deadline:
        time.sleep(0.05)
    assert server.cut and list(server.blobs.iterdir()) == [] and server.models == {}

    state = finished(start(OllamaJob(ollama="mine", gguf=str(tiny_gguf))))
    assert state.status == "done" and list(server.models) == ["mine:latest"]


def test_an_answer_is_stopped_and_sampling_arrives(server, tiny_gguf):
    assert finished(start(OllamaJob(ollama="mine", gguf=str(tiny_gguf)))).status == "done"
    folder = chat.load(ChatJob(ollama="mine"), owner_pid=os.getpid())
    try:
        chat.wait_until_ready(folder, PATIENCE_S)
        assert read_state(folder).result["backend"] == "ollama"
        told = {"temperature": 1.5, "top_p": 0.9, "top_k": 7, "repetition_penalty": 1.25, "sampling_seed": 3}
        first = "".join(piece.text for piece in chat.answer(folder, FRANCE, max_new_tokens=12, **told))
        assert server.asked[-1][2]["options"] == {
            "temperature": 1.5, "top_p": 0.9, "top_k": 7, "repeat_penalty": 1.25, "seed": 3, "num_predict": 12,
            "num_ctx": 2048,
        }  # fmt: skip
        assert "".join(piece.text for piece in chat.answer(folder, FRANCE, max_new_tokens=12, **told)) == first
        answer = chat.answer(folder, FRANCE, max_new_tokens=1500, temperature=5.0)
        next(answer)
        chat.stop_answer(folder)
        assert list(answer)[-1].finish_reason == "stopped"
        deadline = time.monotonic() + 30
        while "/api/chat" not in server.cut and time.monotonic() < deadline:
            time.sleep(0.05)
        assert "/api/chat" in server.cut, "the server was not told that nobody waits any more"
        remove("mine")
        with pytest.raises(UserError) as caught:
            list(chat.answer(folder, FRANCE))
        assert caught.value.key == "ollama.model_missing"
    finally:
        chat.unload(folder)


def test_without_a_server_there_are_commands(workplace, tiny_gguf, monkeypatch):
    monkeypatch.setenv("OLLAMA_HOST", "127.0.0.1:9")
    with pytest.raises(UserError) as caught:
        look()
    assert caught.value.key == "ollama.no_server"
    told = command("create", "mine", "--gguf", str(tiny_gguf))
    assert told.returncode == 1 and "OLLAMA_HOST" in told.stderr
    assert told.stdout == f"ollama create mine -f {tiny_gguf.with_name('Modelfile')}\nollama run mine\n"
    state = finished(start(OllamaJob(ollama="mine", gguf=str(tiny_gguf))))
    assert state.error["key"] == "ollama.no_server"
    asked = command("chat", "mine", "--prompt", "x")
    assert asked.returncode == 1 and "127.0.0.1:9" in asked.stderr
