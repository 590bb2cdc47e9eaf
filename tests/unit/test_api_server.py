"""The API server with a model that speaks from a script: what OpenAI's own client makes of it, and who is let in."""

from __future__ import annotations

import http.client
import json
import shlex
import socket
import threading
import time
import urllib.error
import urllib.request
from types import SimpleNamespace

import openai
import pytest
import uvicorn

from engine.catalog.rendering import Renderer, named_template
from engine.options.jobs import ApiJob
from engine.runs.folder import Folder
from engine.runs.read import read_state
from engine.runs.record import Recorder, StopRequested, update_state, write_job
from engine.work.api import job as worker
from engine.work.api.line import Line, serve
from engine.work.api.server import application
from terminal.api import _introduce

ASK = {"model": "scripted", "messages": [{"role": "user", "content": "Hi"}]}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}


class ScriptedModel:
    """Says the tokens of ``script``, one string each; ``gate`` lets that many of them pass."""

    vocabulary_size = 100
    context_length = 200

    def __init__(self, template: str = "qwen") -> None:
        self.script = ["Hel", "lo", " wor", "ld", "!"]
        self.gate = None
        self.holds_many = True
        self.given = self.answers = 0
        self.fails = False
        self.jobs = []
        self._renderer = Renderer(named_template(ApiJob(template=template)).chat_template)

    def render(self, messages, job, tools=None, add_generation_prompt=True):
        self.rendered = self._renderer.render(messages, add_generation_prompt, tools=tools)
        return self.rendered

    def encode_rendered(self, text):
        return [1] * (len(text.split()))

    encode_plain = encode_rendered

    def tokens(self, prompt, job, steering=None):
        self.answers += 1
        self.jobs.append(job)
        for number in range(len(self.script)):
            if self.fails:
                raise RuntimeError("CUDA out of memory")
            if self.gate:
                self.gate.acquire()
            self.given += 1
            yield number

    def reader(self, keeps_special=False):
        return SimpleNamespace(add=lambda token: self.script[token], finish=lambda: "")

    def recover(self):
        self.fails = False


class Endless(Exception):
    """Ends the loop that serves."""


@pytest.fixture
def model():
    return ScriptedModel()


@pytest.fixture
def opened(model):
    """Opens servers: (job options, key) → address."""
    over, servers = threading.Event(), []

    class Stops:
        @staticmethod
        def check_stop():
            if over.is_set():
                raise Endless

    def serve_until_over(line, job):
        with pytest.raises(Endless):
            serve(model, line, job, Stops)

    def open_server(key=None, **options):
        job = ApiJob(template="qwen", **options)
        line = Line(job.api_max_waiting + job.api_at_once)
        listening = socket.create_server(("127.0.0.1", 0))
        config = uvicorn.Config(application(line, "scripted", key), log_config=None, lifespan="off")
        server = uvicorn.Server(config)
        threads = [
            threading.Thread(target=server.run, args=([listening],)),
            threading.Thread(target=serve_until_over, args=(line, job)),
        ]
        for thread in threads:
            thread.start()
        servers.append((server, threads))
        wait_for(lambda: server.started)
        return f"http://127.0.0.1:{listening.getsockname()[1]}/v1"

    yield open_server
    over.set()
    if model.gate:
        model.gate.release(1000)
    for server, threads in servers:
        server.should_exit = True
        for thread in threads:
            thread.join(15)
            assert not thread.is_alive()


def wait_for(condition):
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def client_of(url, key="none"):
    return openai.OpenAI(base_url=url, api_key=key, max_retries=0, timeout=20)


def refused(kind, call, **facts):
    with pytest.raises(kind) as caught:
        call()
    body = caught.value.body
    assert set(body) == {"message", "type", "param", "code"} and body["message"]
    assert {name: body[name] for name in facts} == facts
    return body["message"]


def test_a_whole_answer_and_the_same_in_pieces(opened):
    client = client_of(opened())
    whole = client.chat.completions.create(**ASK)
    (choice,) = whole.choices
    assert (choice.message.content, choice.finish_reason, choice.message.role) == ("Hello world!", "stop", "assistant")
    assert (whole.object, whole.model) == ("chat.completion", "scripted") and abs(whole.created - time.time()) < 60
    assert whole.usage.completion_tokens == 5
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + 5

    chunks = list(client.chat.completions.create(**ASK, stream=True, stream_options={"include_usage": True}))
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk.id for chunk in chunks}) == len({chunk.created for chunk in chunks}) == 1
    assert all(chunk.model == "scripted" for chunk in chunks)
    *pieces, last = chunks
    assert last.choices == [] and last.usage == whole.usage
    assert pieces[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in pieces) == "Hello world!"
    assert [chunk.choices[0].finish_reason for chunk in pieces] == [None] * (len(pieces) - 1) + ["stop"]
    assert all(chunk.usage is None for chunk in pieces)
    assert not any(chunk.usage for chunk in client.chat.completions.create(**ASK, stream=True))


def test_a_stop_word_split_over_tokens_is_no_part_of_the_answer(opened, model):
    client = client_of(opened())
    model.script = ["Hel", "lo", " wo", "rl", "d", "!"]
    whole = client.chat.completions.create(**ASK, stop=["nothing", "o world"])
    assert (whole.choices[0].message.content, whole.choices[0].finish_reason) == ("Hell", "stop")
    chunks = client.chat.completions.create(**ASK, stop="o world", stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "Hell"
    near = client.chat.completions.create(**ASK, stop="o worm")
    assert near.choices[0].message.content == "Hello world!"
    cut = client.chat.completions.create(**ASK, max_tokens=2)
    assert (cut.choices[0].message.content, cut.choices[0].finish_reason) == ("Hello", "length")
    assert cut.usage.completion_tokens == 2
    text = client.completions.create(model="scripted", prompt="Once", stop="wor")
    assert (text.object, text.choices[0].text, text.choices[0].finish_reason) == ("text_completion", "Hello ", "stop")


def test_several_choices_and_prompts(opened, model):
    client = client_of(opened())
    whole = client.chat.completions.create(**ASK, n=3, seed=7)
    assert [choice.index for choice in whole.choices] == [0, 1, 2] and whole.usage.completion_tokens == 15
    assert [job.sampling_seed for job in model.jobs] == [7, 8, 9]
    texts = client.completions.create(model="scripted", prompt=["one", [1, 2, 3]], n=2)
    assert [choice.index for choice in texts.choices] == [0, 1, 2, 3]
    assert texts.usage.prompt_tokens == 1 + 3


def test_what_a_request_says_of_sampling_holds_for_it_alone(opened, model):
    client = client_of(opened(temperature=0.3, top_p=0.5))
    client.chat.completions.create(**ASK, temperature=1.5, top_p=0.9, extra_body={"top_k": 3})
    client.chat.completions.create(**ASK)
    client.chat.completions.create(**ASK, temperature=0)
    first, second, third = model.jobs
    assert (first.temperature, first.top_p, first.top_k, first.do_sample) == (1.5, 0.9, 3, True)
    assert (second.temperature, second.top_p, second.top_k) == (0.3, 0.5, 50)
    assert third.do_sample is False


def test_calls_are_read_whole_and_in_pieces(opened, model):
    client = client_of(opened())
    model.script = ["Let me", " look.", "\n<tool", "_call>\n", '{"name": "weather", "argu', 'ments": {"city": "Köln"}}',
                    "\n</tool_call>"]  # fmt: skip
    whole = client.chat.completions.create(**ASK, tools=[TOOL]).choices[0]
    assert (whole.finish_reason, whole.message.content) == ("tool_calls", "Let me look.")
    (call,) = whole.message.tool_calls
    assert call.id and call.type == "function" and call.function.name == "weather"
    assert json.loads(call.function.arguments) == {"city": "Köln"}
    assert "weather" in model.rendered

    chunks = list(client.chat.completions.create(**ASK, tools=[TOOL], stream=True))
    deltas = [chunk.choices[0].delta for chunk in chunks]
    assert "".join(delta.content or "" for delta in deltas) == "Let me look."
    (streamed,) = [call for delta in deltas for call in delta.tool_calls or ()]
    assert streamed.index == 0 and json.loads(streamed.function.arguments) == {"city": "Köln"}
    assert chunks[-1].choices[0].finish_reason == "tool_calls"

    answer = {"role": "tool", "tool_call_id": call.id, "content": "12 degrees"}
    asked = [*ASK["messages"], whole.message.model_dump(exclude_none=True), answer]
    client.chat.completions.create(model="scripted", messages=asked, tools=[TOOL])
    assert '{"name": "weather", "arguments": {"city": "Köln"}}' in model.rendered and "12 degrees" in model.rendered

    without = client.chat.completions.create(**ASK, tools=[TOOL], tool_choice="none").choices[0]
    assert without.finish_reason == "stop" and "<tool_call>" in without.message.content
    assert "weather" not in model.rendered


def test_what_only_looks_like_a_call_is_shown(opened, model):
    client = client_of(opened())
    model.script = ["<tool", "_call> is", " a tag"]
    for streams in (False, True):
        found = client.chat.completions.create(**ASK, tools=[TOOL], stream=streams)
        text = (
            "".join(chunk.choices[0].delta.content or "" for chunk in found)
            if streams
            else found.choices[0].message.content
        )
        assert text == "<tool_call> is a tag"


def test_refusals_have_openais_shape(opened, model):
    client = client_of(opened())
    create = client.chat.completions.create
    bad = openai.BadRequestError
    assert "nobody" in refused(bad, lambda: create(**{**ASK, "messages": [{"role": "nobody", "content": ""}]}),
                               param="messages.0.role", type="invalid_request_error")  # fmt: skip
    refused(bad, lambda: create(**ASK, temperature=3), param="temperature")
    refused(bad, lambda: create(**ASK, max_tokens=0), param="max_tokens")
    refused(bad, lambda: create(**ASK, stop=[""]), param="stop.0")
    refused(bad, lambda: create(**ASK, response_format={"type": "json_object"}), param="response_format")
    refused(bad, lambda: create(**ASK, tools=[TOOL], tool_choice="required"), param="tool_choice")
    refused(bad, lambda: create(**ASK, logit_bias={"500": 1}), param="logit_bias")
    refused(bad, lambda: create(**ASK, top_logprobs=2), param="top_logprobs")
    refused(bad, lambda: create(**ASK, functions=[{"name": "f"}]), param="functions")
    picture = [{"type": "image_url", "image_url": {"url": "data:"}}]
    refused(bad, lambda: create(model="scripted", messages=[{"role": "user", "content": picture}]),
            param="messages.0.content.0")  # fmt: skip
    long = [{"role": "user", "content": "word " * 300}]
    for streams in (False, True):  # a stream is refused before its headers are sent
        refused(bad, lambda: create(model="scripted", messages=long, stream=streams), code="context_length_exceeded")  # noqa: B023
    refused(bad, lambda: client.completions.create(model="scripted", prompt="x", suffix="y"), param="suffix")
    refused(bad, lambda: client.completions.create(model="scripted", prompt=""), param="prompt")
    refused(bad, lambda: client.embeddings.create(model="scripted", input="x"))
    refused(openai.NotFoundError, lambda: create(**{**ASK, "model": "gpt-4"}), code="model_not_found", param="model")
    refused(openai.NotFoundError, lambda: client.models.retrieve("gpt-4"))
    refused(openai.NotFoundError, lambda: client.files.list())
    assert model.answers == 0
    assert [each.id for each in client.models.list()] == ["scripted"] == [client.models.retrieve("scripted").id]
    assert create(**ASK, user="me", extra_body={"unheard_of": 1}).choices[0].message.content == "Hello world!"


def test_half_a_character_is_the_askers_fault(opened, model):
    """JSON can write one half of a pair of UTF-16 alone; no text has it."""
    url = f"{opened()}/chat/completions"
    for half in ({"model": "\ud800"}, {"messages": [{"role": "user", "content": "a\ud83d"}]}):
        asked = urllib.request.Request(url, json.dumps({**ASK, **half}).encode(), {"Content-Type": "application/json"})
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(asked)
        assert caught.value.code == 400 and json.load(caught.value)["error"]["type"] == "invalid_request_error"
    assert model.answers == 0


def test_a_failing_answer_is_told_and_the_next_one_works(opened, model):
    client = client_of(opened())
    model.fails = True
    message = refused(openai.InternalServerError, lambda: client.chat.completions.create(**ASK), type="server_error")
    assert "memory" in message
    assert client.chat.completions.create(**ASK).choices[0].message.content == "Hello world!"
    model.gate = threading.Semaphore(2)
    stream = client.chat.completions.create(**ASK, stream=True)
    next(stream)
    model.fails = True
    model.gate.release(10)
    with pytest.raises(openai.APIError, match="memory"):
        list(stream)


def test_the_key_is_asked_for(opened, model):
    url = opened(key="sesame")
    assert client_of(url, "sesame").chat.completions.create(**ASK).choices
    model.answers = 0
    for wrong in ("sesam", "none"):
        refused(openai.AuthenticationError, lambda: client_of(url, wrong).models.list(), code="invalid_api_key")  # noqa: B023
    refused(openai.AuthenticationError, lambda: client_of(url, "x").chat.completions.create(**ASK))
    assert model.answers == 0
    foreign = opened(key="sésame")
    assert raw(foreign, "GET", "/v1/models", Authorization="Bearer sésame".encode())[0] == 200
    assert raw(foreign, "GET", "/v1/models", Authorization="Bearer sesame")[0] == 401
    assert raw(url, "GET", "/health")[0] == 200 and raw(url, "GET", "/v1/models")[0] == 401


def test_pages_of_a_browser_are_not_let_in(opened, model):
    url = opened()
    assert raw(url, "GET", "/v1/models", Host="evil.example")[0] == 403
    assert (
        raw(url, "GET", "/v1/models", Host="localhost:1")[0] == raw(url, "GET", "/v1/models", Host="[::1]:1")[0] == 200
    )
    for odd in ("", "[", "localhost.evil.example", "evil.example:127.0.0.1", "x@localhost.example"):
        assert raw(url, "GET", "/v1/models", Host=odd)[0] in (400, 403)
    body = json.dumps(ASK)
    status, headers, _ = raw(url, "POST", "/v1/chat/completions", body, **{"Content-Type": "text/plain"})
    assert status == 415 and model.answers == 0
    asked = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
    status, headers, _ = raw(url, "OPTIONS", "/v1/chat/completions", **asked)
    assert status == 405 and not any(name.lower().startswith("access-control") for name in headers)
    status, _, answer = raw(url, "POST", "/v1/chat/completions", "{", **{"Content-Type": "application/json"})
    assert status == 400 and "JSON" in json.loads(answer)["error"]["message"]
    too_much = b" " * (16 * 2**20 + 1)
    assert raw(url, "POST", "/v1/completions", too_much, **{"Content-Type": "application/json"})[0] == 413


def test_answers_take_turns_and_who_comes_first_is_served_first(opened, model):
    client = client_of(opened(api_at_once=2))
    model.gate = threading.Semaphore(0)
    model.script = ["a"] * 6
    ended = []

    def ask(name):
        assert client.chat.completions.create(**ASK, seed=name).choices[0].message.content == "a" * 6
        ended.append(name)

    threads = [threading.Thread(target=ask, args=(name,)) for name in (1, 2, 3)]
    threads[0].start()
    wait_for(lambda: model.answers == 1)
    threads[1].start()
    time.sleep(0.3)  # it is in the line before the third
    threads[2].start()
    time.sleep(0.3)
    model.gate.release(3)
    wait_for(lambda: model.given == 3)
    assert [job.sampling_seed for job in model.jobs] == [1, 2]  # both are being answered; the third waits
    model.gate.release(100)
    for thread in threads:
        thread.join(10)
    assert sorted(ended) == [1, 2, 3] and [job.sampling_seed for job in model.jobs] == [1, 2, 3]


def test_a_client_that_leaves_ends_its_answer_and_frees_its_place(opened, model):
    url = opened(api_at_once=1, api_max_waiting=1)
    client = client_of(url)
    model.gate = threading.Semaphore(2)
    model.script = ["a"] * 50
    stream = client.chat.completions.create(**ASK, stream=True)
    next(stream)
    waiting = half_asked(url)
    time.sleep(0.2)
    with pytest.raises(openai.RateLimitError) as caught:
        client.chat.completions.create(**ASK)
    assert int(caught.value.response.headers["retry-after"]) > 0
    waiting.close()  # it leaves before its turn
    stream.close()  # and this one in the middle
    wait_for(lambda: is_let_in(url))
    model.gate.release(1000)
    assert client.chat.completions.create(**ASK).choices[0].message.content == "a" * 50
    assert model.answers == 2 and model.given <= 4 + 50


def test_the_worker_says_where_it_serves_and_the_terminal_how_to_ask(model, tmp_path, monkeypatch, capsys):
    """The worker's own code, in a thread, with the model from the script."""
    monkeypatch.setenv("API_KEY", "sesame")
    monkeypatch.setattr(worker, "load", lambda job, recorder: (model, {"device": "none"}))
    monkeypatch.setattr(worker, "warm_up", lambda model, job: None)
    folder, job = Folder(tmp_path), ApiJob(api_port=0, api_model_name="scripted", template="qwen")
    write_job(folder, job, "ko")
    update_state(folder, kind="api", status="running", pid=None)
    ended = []

    def work():
        with pytest.raises(StopRequested):
            worker.run(job, Recorder(folder))
        ended.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        wait_for(lambda: read_state(folder).result.get("ready"))
        _introduce(folder, "en")
        said = capsys.readouterr().out
        assert said.splitlines()[0].endswith("/v1") and "scripted" in said and "API_KEY" in said
        assert "sesame" not in said + "".join(path.read_text() for path in tmp_path.iterdir() if path.is_file())
        words = shlex.split(said.partition("curl ")[2].partition("\n\n")[0].replace("\\\n", " "))
        body = json.loads(words[words.index("-d") + 1])
        client = client_of(words[0].removesuffix("/chat/completions"), "sesame")
        assert client.chat.completions.create(**body).choices[0].message.content == "Hello world!"
        message = refused(openai.NotFoundError, lambda: client.models.retrieve("x"))
        assert "모델" in message  # in the language of who started it
    finally:
        folder.stop_request.touch()
        thread.join(10)
    assert ended


def is_let_in(url):
    """Whether there is a place in the line; asked with a request that is refused only behind it."""
    long = {**ASK, "messages": [{"role": "user", "content": "word " * 300}]}
    body, kind = json.dumps(long), {"Content-Type": "application/json"}
    connection = http.client.HTTPConnection(url.split("/")[2], timeout=0.3)
    connection.request("POST", "/v1/chat/completions", body, kind)
    try:
        return connection.getresponse().status != 429
    except TimeoutError:
        return True  # it waits for its turn
    finally:
        connection.close()


def half_asked(url):
    """A client that asks, and does not wait for the answer."""
    connection = http.client.HTTPConnection(url.split("/")[2])
    connection.request("POST", "/v1/chat/completions", json.dumps(ASK), {"Content-Type": "application/json"})
    return connection


def raw(url, method, path, body=None, **headers):
    connection = http.client.HTTPConnection(url.split("/")[2], timeout=20)
    try:
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read()
    finally:
        connection.close()
