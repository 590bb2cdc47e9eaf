"""The API server for real: `app.py api`, OpenAI's own client, and what transformers computes by itself.

A tiny random model where numbers are compared, in float32; the bundled one, and its .gguf file, where truth matters.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import urllib.request
from contextlib import contextmanager
from functools import cache
from itertools import pairwise
from pathlib import Path

import openai
import psutil
import pytest

from engine.catalog.templates import find_template
from tests.conftest import PROJECT

LOAD_S = 300
HALF = "\ufffd"
"""What half a character is decoded to; a random model writes such."""
FRANCE = [{"role": "user", "content": "What is the capital of France?"}]


@contextmanager
def serving(folder: Path, *options: str, **environment: str):
    """`app.py api` in a folder, as a process and its address; it is interrupted at the end."""
    for name in ("data", "models"):
        if not (folder / name).exists():
            (folder / name).symlink_to(PROJECT / name, target_is_directory=True)
    command = [sys.executable, str(PROJECT / "app.py"), "api", "--api_port", "0", *options]
    server = subprocess.Popen(
        command,
        cwd=folder,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        first = server.stdout.readline()
        found = re.search(r"http://\S+/v1", first)
        if not found:
            server.wait(LOAD_S)
        assert found, server.stderr.read()
        yield server, found[0]
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(60)


def client_of(url, key="none"):
    return openai.OpenAI(base_url=url, api_key=key, max_retries=0, timeout=120)


@pytest.fixture(scope="module")
def tiny(tiny_model, tmp_path_factory):
    options = ("--model_name_or_path", str(tiny_model), "--infer_dtype", "float32", "--api_model_name", "tiny")
    with serving(tmp_path_factory.mktemp("api"), *options) as (_, url):
        yield client_of(url)


@pytest.fixture(scope="module")
def reference(tiny_model):
    """The same model and tokenizer, in transformers alone."""
    torch = pytest.importorskip("torch")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32).eval()
    return model, AutoTokenizer.from_pretrained(tiny_model)


def ask(client, **options):
    return client.chat.completions.create(**{"model": "tiny", "messages": FRANCE, "max_tokens": 12, **options})


def test_a_seed_gives_the_same_text_and_streaming_changes_nothing(tiny):
    sampled = {"temperature": 1.5, "top_p": 1}
    texts = [ask(tiny, **sampled, seed=seed).choices[0].message.content for seed in (5, 5, 6)]
    assert texts[0] == texts[1] != texts[2]
    streamed = ask(tiny, **sampled, seed=5, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in streamed) == texts[0]
    both = ask(tiny, **sampled, seed=5, n=2).choices
    assert [choice.message.content for choice in both] == [texts[0], texts[2]]
    negative = [ask(tiny, **sampled, seed=-1).choices[0].message.content for _ in range(2)]
    assert negative[0] == negative[1]


def test_log_probabilities_and_usage_are_those_of_a_forward_pass(tiny, reference):
    import torch

    model, tokenizer = reference
    answer = ask(tiny, temperature=1.3, top_p=0.9, seed=3, logprobs=True, top_logprobs=3)
    prompt = tokenizer.apply_chat_template(FRANCE, add_generation_prompt=True, return_dict=True)["input_ids"]
    content = answer.choices[0].logprobs.content
    ids = [tokenizer.convert_tokens_to_ids(_letters(bytes(each.bytes))) for each in content]
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (len(prompt), len(ids)) == (len(prompt), 12)
    text = tokenizer.decode(ids, skip_special_tokens=True)
    assert text.rstrip(HALF) == answer.choices[0].message.content.rstrip(HALF)
    with torch.no_grad():
        logps = model(torch.tensor([prompt + ids])).logits[0, len(prompt) - 1 : -1].double().log_softmax(-1)
    for number, each in enumerate(content):
        assert each.logprob == pytest.approx(float(logps[number, ids[number]]), abs=1e-4)
        values, order = logps[number].topk(3)
        assert [bytes(top.bytes) for top in each.top_logprobs] == [_bytes(tokenizer, token) for token in order.tolist()]
        assert [top.logprob for top in each.top_logprobs] == pytest.approx(values.tolist(), abs=1e-4)


def test_penalties_and_biases_are_as_openai_defines_them(tiny, reference):
    """logit − presence · (n > 0) − frequency · n + bias, where n counts in the answer alone; greedily, by hand."""
    import torch

    model, tokenizer = reference
    prompt = tokenizer.apply_chat_template(FRANCE, add_generation_prompt=True, return_dict=True)["input_ids"]

    def by_hand(presence, frequency, bias):
        ids = []
        while len(ids) < 12:
            with torch.no_grad():
                logits = model(torch.tensor([prompt + ids])).logits[0, -1].clone()
            for token in set(ids):
                logits[token] -= presence + frequency * ids.count(token)
            for token, amount in bias.items():
                logits[token] += amount
            ids.append(int(logits.argmax()))
        return tokenizer.decode(ids, skip_special_tokens=True).rstrip(HALF)

    found = []
    for presence, frequency, bias in ((0, 0, {}), (2, 0, {}), (0, 0.05, {}), (-1, 0, {}), (0.1, 0.01, {42: 100})):
        given = {"presence_penalty": presence, "frequency_penalty": frequency, "logit_bias": bias}
        found.append(ask(tiny, temperature=0, **given).choices[0].message.content.rstrip(HALF))
        assert found[-1] == by_hand(presence, frequency, bias), given
    assert len(set(found)) > 2


def test_plain_texts_are_continued(tiny, reference):
    _, tokenizer = reference
    ids = tokenizer("Once upon a time")["input_ids"]
    given = {"model": "tiny", "max_tokens": 8, "temperature": 0, "logprobs": 2}
    text = tiny.completions.create(prompt="Once upon a time", **given)
    assert text.usage.prompt_tokens == len(ids) and text.usage.completion_tokens == 8
    assert tiny.completions.create(prompt=ids, **given).choices[0].text == text.choices[0].text
    found = text.choices[0].logprobs
    if HALF not in "".join(found.tokens):
        assert "".join(found.tokens) == text.choices[0].text
        starts = zip(found.text_offset, found.tokens, strict=True)
        assert all(text.choices[0].text[at:].startswith(word) for at, word in starts)
    both = zip(found.top_logprobs, found.token_logprobs, strict=True)
    assert all(max(likeliest.values()) == own for likeliest, own in both)  # it is greedy
    chunks = list(tiny.completions.create(prompt=ids, **given, stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == text.choices[0].text
    assert [token for chunk in chunks for token in chunk.choices[0].logprobs.tokens] == found.tokens
    assert chunks[-1].choices[0].finish_reason == "length"


def test_clients_at_once_get_what_they_would_get_alone(tiny):
    alone = [ask(tiny, seed=seed, temperature=1.2, max_tokens=24).choices[0].message.content for seed in range(4)]
    together = {}

    def one(seed):
        together[seed] = ask(tiny, seed=seed, temperature=1.2, max_tokens=24).choices[0].message.content

    threads = [threading.Thread(target=one, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert [together[seed] for seed in range(4)] == alone


def test_tools_need_a_template_that_shows_them(tiny):
    with pytest.raises(openai.BadRequestError, match="template"):
        ask(tiny, tools=[{"type": "function", "function": {"name": "f", "parameters": {}}}])


def test_ctrl_c_ends_the_server_and_frees_the_model(tiny_model, tmp_path):
    with serving(tmp_path, "--model_name_or_path", str(tiny_model), API_KEY="sesame") as (server, url):
        with pytest.raises(openai.AuthenticationError):
            client_of(url).models.list()
        client = client_of(url, "sesame")
        (model,) = client.models.list()
        stream = ask(client, model=model.id, max_tokens=2000, temperature=2, stream=True)
        next(stream)
        workers = psutil.Process(server.pid).children()
        assert workers
        server.send_signal(signal.SIGINT)
        assert server.wait(60) == 0, server.stderr.read()
    assert psutil.wait_procs(workers, timeout=5)[1] == []
    with pytest.raises(openai.APIConnectionError):
        client.models.list()
    written = [path for path in tmp_path.rglob("saves/**/*") if path.is_file()]
    assert written and not any(b"sesame" in path.read_bytes() for path in written)


def test_a_door_that_cannot_be_opened_is_told(tiny_model, tmp_path):
    def tried(*options):
        command = [sys.executable, str(PROJECT / "app.py"), "api", "--model_name_or_path", str(tiny_model), *options]
        without = {name: value for name, value in os.environ.items() if name != "API_KEY"}
        return subprocess.run(command, cwd=tmp_path, env=without, capture_output=True, text=True, timeout=LOAD_S)

    everywhere = tried("--api_host", "0.0.0.0")
    assert everywhere.returncode == 2 and "API_KEY" in everywhere.stderr
    vllm = tried("--infer_backend", "vllm")
    assert vllm.returncode == 2 and "pip install vllm" in vllm.stderr
    with serving(tmp_path, "--model_name_or_path", str(tiny_model)) as (_, url):
        taken = tried("--api_port", re.search(r":(\d+)/", url)[1])
    assert taken.returncode == 1 and "api_port" in taken.stderr and "Traceback" not in taken.stderr


VLLM = """
import json, os, sys
from http.server import BaseHTTPRequestHandler, HTTPServer

class Told(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps({"words": sys.argv[1:], "key": os.environ.get("VLLM_API_KEY")}).encode())

said = dict(zip(sys.argv[1:], sys.argv[2:]))
HTTPServer((said["--host"], int(said["--port"])), Told).serve_forever()
"""


def test_vllm_is_started_told_all_and_ended(tiny_model, tmp_path):
    """A stand-in takes its place: a module of its name that only repeats what it was told."""
    package = tmp_path / "stand_in" / "vllm" / "entrypoints" / "openai"
    package.mkdir(parents=True)
    for folder in (package, package.parent, package.parent.parent):
        (folder / "__init__.py").touch()
    (package / "api_server.py").write_text(VLLM)
    options = ("--model_name_or_path", str(tiny_model), "--infer_backend", "vllm", "--template", "qwen")
    environment = {"PYTHONPATH": str(tmp_path / "stand_in"), "API_KEY": "sesame", "API_MODEL_NAME": "demo"}
    with serving(tmp_path, *options, **environment) as (server, url):
        told = json.loads(urllib.request.urlopen(url).read())
        processes = psutil.Process(server.pid).children(recursive=True)
        assert len(processes) >= 2
    assert psutil.wait_procs(processes, timeout=5)[1] == []
    words = dict(pairwise(told["words"]))
    assert words["--model"] == str(tiny_model) and words["--served-model-name"] == "demo" and told["key"] == "sesame"
    assert words["--tool-call-parser"] == "hermes"
    assert Path(words["--chat-template"]).read_text() == find_template("qwen").chat_template


@pytest.mark.slow
def test_the_bundled_model_knows_paris(bundled_model, tmp_path):
    with serving(tmp_path, "--model_name_or_path", str(bundled_model)) as (_, url):
        client = client_of(url)
        name = next(iter(client.models.list())).id
        answer = ask(client, model=name, temperature=0, max_tokens=24)
        assert "Paris" in answer.choices[0].message.content and answer.choices[0].finish_reason == "stop"
        stopped = ask(client, model=name, temperature=0, max_tokens=24, stop="ari")
        assert stopped.choices[0].message.content == answer.choices[0].message.content.split("ari")[0]


@pytest.mark.slow
def test_a_gguf_file_answers_too(bundled_model, tmp_path, reference):
    pytest.importorskip("llama_cpp")
    from engine.work.bundled import bundled_gguf

    _, tokenizer = reference  # the bundled model's tokenizer
    capital = [{"role": "user", "content": "Complete in one sentence: the capital of France is"}]
    given = {"model": "m", "messages": capital, "temperature": 0, "max_tokens": 24}
    with serving(tmp_path, "--gguf", str(bundled_gguf()), "--api_model_name", "m", "--context_length", "512") as (
        _,
        url,
    ):
        client = client_of(url)
        answer = client.chat.completions.create(**given, logprobs=True, top_logprobs=1)
        text = answer.choices[0].message.content
        assert "Paris" in text and answer.choices[0].finish_reason == "stop"
        found = answer.choices[0].logprobs.content
        assert b"".join(bytes(each.bytes) for each in found).decode() == text
        assert all(each.logprob == each.top_logprobs[0].logprob <= 0 for each in found)  # it is greedy
        assert answer.usage.completion_tokens == len(tokenizer(text)["input_ids"])
        paris = {str(token): -100 for token in tokenizer(" Paris")["input_ids"]}
        other = client.chat.completions.create(**given, logit_bias=paris)
        assert " Paris" not in other.choices[0].message.content


def _letters(content: bytes) -> str:
    return "".join(_letter_of()[byte] for byte in content)


def _bytes(tokenizer, token: int) -> bytes:
    if token in tokenizer.added_tokens_decoder:
        return tokenizer.convert_ids_to_tokens(token).encode()
    return bytes(_letter_of().index(letter) for letter in tokenizer.convert_ids_to_tokens(token))


@cache
def _letter_of() -> list[str]:
    """The letter of each byte in a byte-level vocabulary, as transformers has it."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    table = bytes_to_unicode()
    return [table[byte] for byte in range(256)]
