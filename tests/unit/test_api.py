"""Pure parts of the API: who may come in, how a request is read, steering, calls of functions, vLLM's command line."""

from __future__ import annotations

import json
import sys
from itertools import pairwise

import numpy as np
import pytest

from engine.catalog.rendering import Renderer
from engine.catalog.templates import find_template, template_names
from engine.catalog.tool_formats import Call, find_tool_format, tool_format_names
from engine.errors import Refused, UserError
from engine.options.command import parse
from engine.options.jobs import ApiJob
from engine.runs import vllm
from engine.runs.api import is_loopback, key_in, refuse_open_door, served_name, words_from_environment
from engine.work.api.answering import Delta, Ended, Looked
from engine.work.api.asked import read_chat, read_completion
from engine.work.api.calls import CallReader, format_of, written_format
from engine.work.api.errors import ApiError
from engine.work.api.shapes import Shape
from engine.work.steering import Steering

HI = [{"role": "user", "content": "Hi"}]


# Who may come in


def test_a_door_to_others_needs_a_key():
    for host in ("127.0.0.1", "127.9.9.9", "localhost", "::1", "[::1]"):
        assert is_loopback(host)
        refuse_open_door(ApiJob(api_host=host), {})
    for host in ("0.0.0.0", "::", "192.168.1.2", "my-machine", "localhost.evil.example"):
        assert not is_loopback(host)
        for environment in ({}, {"API_KEY": ""}, {"API_KEY": "  "}):
            with pytest.raises(UserError, match="API_KEY"):
                refuse_open_door(ApiJob(api_host=host), environment)
        refuse_open_door(ApiJob(api_host=host), {"API_KEY": "secret"})


def test_the_environment_says_what_it_says_to_llama_factory():
    environment = {"API_PORT": "9000", "API_MODEL_NAME": "gpt-3.5-turbo", "API_HOST": "", "API_KEY": "secret"}
    words = words_from_environment(environment)
    assert parse(ApiJob, words).job == ApiJob(api_port=9000, api_model_name="gpt-3.5-turbo")
    assert parse(ApiJob, [*words, "--api_port", "9001"]).job.api_port == 9001
    assert key_in(environment) == "secret" and "secret" not in str(words)
    assert parse(ApiJob, ["infer_backend=vllm"]).job.api_engine == "vllm"
    assert parse(ApiJob, ["infer_backend=huggingface"]).job.api_engine == "lathe"
    assert served_name(ApiJob(model_name_or_path="models/Some-Model/")) == "Some-Model"
    assert served_name(ApiJob(gguf="x/y.gguf")) == "y.gguf"


# How a request is read


def test_messages_become_what_chat_templates_read():
    asked = read_chat(
        {
            "model": "m",
            "messages": [
                {"role": "developer", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
                {"role": "user", "content": "q", "name": "Ann"},
                {"role": "assistant", "content": None, "refusal": None, "tool_calls": [
                    {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"x": [1, "é"]}'}}]},
                {"role": "tool", "tool_call_id": "1", "content": "r"},
            ],
        }
    )  # fmt: skip
    system, user, call, result = asked.messages
    assert system == {"role": "system", "content": "a\nb"} and user["name"] == "Ann"
    assert call["content"] == "" and call["tool_calls"][0]["function"]["arguments"] == {"x": [1, "é"]}
    assert result == {"role": "tool", "content": "r", "tool_call_id": "1"}


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": "Hi"}, "messages"),
        ({"messages": ["Hi"]}, "messages.0"),
        ({"messages": [{"role": "user"}]}, "messages.0.content"),
        ({"messages": [{"role": "function", "content": ""}]}, "messages.0.role"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages.0.content"),
        ({"messages": [*HI, {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}]},
         "messages.1.tool_calls.0"),
        ({"model": None}, "model"),
        ({"n": 0}, "n"),
        ({"n": True}, "n"),
        ({"temperature": "1"}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_p": 1.1}, "top_p"),
        ({"presence_penalty": 2.1}, "presence_penalty"),
        ({"frequency_penalty": -2.1}, "frequency_penalty"),
        ({"stop": ["a", 1]}, "stop.1"),
        ({"stop": [""]}, "stop.0"),
        ({"seed": 2**70}, "seed"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"logit_bias": {"x": 1}}, "logit_bias"),
        ({"logit_bias": {"1": 101}}, "logit_bias"),
        ({"top_logprobs": 1}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"tools": [{"type": "function"}]}, "tools.0"),
        ({"tools": [{"type": "web_search"}]}, "tools.0"),
        ({"tool_choice": {"type": "function", "function": {"name": "f"}}}, "tool_choice"),
        ({"response_format": {"type": "json_schema"}}, "response_format"),
        ({"modalities": ["text", "audio"]}, "modalities"),
    ],
)  # fmt: skip
def test_a_wrong_request_is_refused_where_it_is_wrong(change, param):
    with pytest.raises(ApiError) as caught:
        read_chat({"model": "m", "messages": HI, **change})
    assert (caught.value.status, caught.value.param) == (400, param)
    assert "{" not in caught.value.text("en").replace("{'", "")


def test_what_is_null_or_unknown_changes_nothing():
    plain = read_chat({"model": "m", "messages": HI})
    nothing = {"temperature": None, "stop": None, "n": None, "seed": None, "tools": None, "logit_bias": None,
               "response_format": {"type": "text"}, "stream_options": None, "user": "me", "unheard_of": {}}  # fmt: skip
    assert read_chat({"model": "m", "messages": HI, **nothing}) == plain
    assert plain.options == {} and plain.limit is None and plain.likeliest is None


def test_prompts_are_texts_or_tokens():
    def prompts(given):
        return read_completion({"model": "m", "prompt": given}).prompts

    assert prompts("a") == ["a"] and prompts(["a", "b"]) == ["a", "b"]
    assert prompts([1, 2]) == [[1, 2]] and prompts([[1], [2, 3]]) == [[1], [2, 3]]
    for wrong in (None, [], 5, [1, "a"], [[-1]], [True], ["a"] * 65):
        with pytest.raises(ApiError):
            prompts(wrong)


# Steering


@pytest.mark.parametrize("kind", ["llama.cpp", "torch"])
def test_penalties_biases_and_log_probabilities(kind):
    """On a tensor's row, and on the view into llama.cpp's candidates that llama-cpp-python hands out."""
    raw = np.array([2.0, 1.0, 0.5, -1.0], np.float32)
    steering = Steering(presence=0.5, frequency=0.25, bias={3: 4.0}, looks=True)
    for token in (0, 2, 0):
        steering.note(token)
    candidates = np.recarray(4, np.dtype([("id", np.intc), ("logit", np.single), ("p", np.single)], align=True))
    candidates.logit[:] = raw
    row = pytest.importorskip("torch").tensor(raw) if kind == "torch" else candidates.logit
    assert steering.steer(row) is row
    changed = candidates.logit if kind == "llama.cpp" else row
    assert np.allclose(np.asarray(changed), [2.0 - 0.5 - 0.5, 1.0, 0.5 - 0.5 - 0.25, 3.0])
    expected = np.log(np.exp(raw.astype(float)) / np.exp(raw.astype(float)).sum())
    assert [steering.logp(token) for token in range(4)] == pytest.approx(expected.tolist())
    assert steering.likeliest(2) == [0, 1]


def test_the_chosen_token_is_among_the_likeliest_of_a_completion():
    """OpenAI: "the API will always return the logprob of the sampled token", up to one more than asked for."""
    asked = read_completion({"model": "m", "prompt": "x", "logprobs": 1})
    looked = (Looked(b"a", -1.0, ((b"a", -1.0),)), Looked(b"c", -3.0, ((b"b", -0.5),)))
    whole = Shape(asked, "m").whole([Delta(0, "ac", looked, (), "length")], Ended(1, 2))
    assert whole["choices"][0]["logprobs"]["top_logprobs"] == [{"a": -1.0}, {"b": -0.5, "c": -3.0}]


# Calls of functions

CALL = Call("get_weather", {"city": "Köln", "days": [1, 2], "deep": {"a": None}})


def cut(text: str, size: int) -> list[str]:
    return [text[at : at + size] for at in range(0, len(text), size)]


@pytest.mark.parametrize("name", tool_format_names())
@pytest.mark.parametrize("size", [1, 3, 1000])
def test_every_format_is_read_back_from_what_its_template_writes(name, size):
    """The text comes from the Jinja that training uses, in pieces of any size."""
    tool_format = find_tool_format(name)
    turn = {"function": {"name": CALL.name, "arguments": CALL.arguments}}
    writer = Renderer("{% set calls = messages | map(attribute='function') | list %}" + tool_format.calls)
    text = writer.render([turn])
    reader = CallReader(tool_format)
    shown = "".join(reader.add(piece) for piece in cut(text, size))
    assert (shown, *reader.finish()) == ("", "", [CALL])
    thinking = CallReader(tool_format)
    thought = f"<think>\nI could say {tool_format.opening} here.\n</think>"
    shown = "".join(thinking.add(piece) for piece in cut(thought + "\n\n" + text, size))
    rest, found = thinking.finish()
    assert (shown + rest, found) == (thought, [CALL])
    plain = CallReader(tool_format)
    said = "".join(plain.add(piece) for piece in cut("It is <b>warm</b>. \n", size))
    rest, found = plain.finish()
    assert said + rest == "It is <b>warm</b>. \n" and found == []


TEMPLATES_WITH_TOOLS = [name for name in template_names() if find_template(name).tool_format != "default"]


@pytest.mark.parametrize("name", TEMPLATES_WITH_TOOLS)
def test_the_format_of_a_models_own_template_is_found_out(name):
    """As if each of our templates were a tokenizer's own, of which nothing is known but its Jinja text."""
    template = find_template(name)
    renderer = Renderer(template.chat_template, {"bos_token": "<s>", "eos_token": "</s>"})
    found = written_format(lambda messages, tools, opens: renderer.render(messages, opens, tools=tools))
    assert found is not None and found.name == template.tool_format


def test_tools_that_a_template_does_not_show_are_refused():
    renderer = Renderer("{% for m in messages %}{{ m.content }}{% endfor %}")

    def render(messages, tools, opens):
        return renderer.render(messages, opens, tools=tools)

    with pytest.raises(ApiError, match="qwen"):
        format_of(ApiJob(), render)
    shows = Renderer("{{ tools }}{% for m in messages %}{{ m.content }}{{ m.tool_calls }}{% endfor %}")
    with pytest.raises(ApiError, match="tool_format"):
        format_of(ApiJob(), lambda messages, tools, opens: shows.render(messages, opens, tools=tools))


# vLLM


def test_the_command_that_starts_vllm(tmp_path):
    (tmp_path / "adapter_config.json").write_text(json.dumps({"r": 12, "rank_pattern": {"x": 20}}))
    job = ApiJob(
        model_name_or_path="models/base", adapter_name_or_path=(str(tmp_path),), api_port=9000, quantization_bit="4",
        api_engine="vllm", do_sample=False, top_k=0,
    )  # fmt: skip
    words = vllm.command(job, tmp_path / "base", tmp_path / "t.jinja", "qwen")
    assert words[:3] == [sys.executable, "-m", "vllm.entrypoints.openai.api_server"]
    said = dict(pairwise(words))
    assert said["--model"] == str(tmp_path / "base") and said["--port"] == "9000" and said["--host"] == "127.0.0.1"
    assert said["--lora-modules"] == f"base={tmp_path}" and said["--max-lora-rank"] == "32"
    assert said["--served-model-name"] == "base-base" and "--enable-lora" in words
    assert said["--tool-call-parser"] == "hermes" and said["--chat-template"] == str(tmp_path / "t.jinja")
    sampling = json.loads(said["--override-generation-config"])
    assert sampling["temperature"] == 0 and sampling["top_k"] == -1
    plain = vllm.command(ApiJob(), tmp_path, None, None)
    assert not {"--enable-lora", "--chat-template", "--tool-call-parser", "--quantization"} & set(plain)
    assert vllm.environment({"API_KEY": "secret"})["VLLM_API_KEY"] == "secret" and "secret" not in str(words)


def test_what_vllm_cannot_do_is_refused_before_it_starts():
    def there(name):
        return object()

    with pytest.raises(UserError) as caught:
        vllm.check(ApiJob(), lambda name: None)
    assert caught.value.key == "api.vllm_missing"
    vllm.check(ApiJob(), there)
    wrong = ApiJob(gguf="x.gguf", system="Be brief.", quantization_bit="8", adapter_name_or_path=("a", "b"))
    with pytest.raises(Refused) as refused:
        vllm.check(wrong, there)
    options = {problem.option for problem in refused.value.problems}
    assert options == {"gguf", "system", "quantization_bit", "adapter_name_or_path"}
