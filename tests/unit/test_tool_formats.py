"""Function calls as models write them: found again exactly, and what only looks like a call is none."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.catalog.rendering import Renderer
from engine.catalog.templates import find_template
from engine.catalog.tool_formats import calls_in, find_tool_format, tool_format_names, wrapped_tools
from engine.errors import UserError

NAMES = tool_format_names()
names = st.from_regex(r"[a-z_][a-z0-9_]{0,8}", fullmatch=True).map(lambda name: f"{name}_")  # no word of Python
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**6), 10**6) | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=6,
)


def rendered(name: str, messages: list[dict], **extra) -> str:
    return Renderer(find_template("empty", name).chat_template).render(messages, **extra)


def written(name: str, *calls: dict) -> str:
    wrapped = [{"type": "function", "function": call} for call in calls]
    return rendered(name, [{"role": "assistant", "content": "", "tool_calls": wrapped}])


@pytest.mark.parametrize("name", NAMES)
def test_there_and_back(name):
    call = st.fixed_dictionaries({"name": names, "arguments": st.dictionaries(names, values, max_size=3)})

    @settings(max_examples=60, deadline=None)
    @given(st.lists(call, min_size=1, max_size=1 if name == "glm4" else 3))
    def holds(calls):
        found = calls_in(written(name, *calls), find_tool_format(name))
        assert [{"name": each.name, "arguments": each.arguments} for each in found] == calls

    holds()


NESTED = '<tool_call>{"name": "f", "arguments": {"a": "</tool_call>"}}</tool_call>'
LITERALS = "<|tool_call_start|>[f(a=[1], b=true, c=None)]<|tool_call_end|>"


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("mistral", '[TOOL_CALLS] [{"name": "f", "arguments": {"a": 1}}]', [("f", {"a": 1})]),
        ("mistral", '{"name": "f", "arguments": {"a": 1}}', [("f", {"a": 1})]),
        ("llama3", '<|python_tag|>{"name": "f", "parameters": {}}', [("f", {})]),
        ("qwen", 'Let me see.\n<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>', [("f", {})]),
        ("qwen", NESTED, [("f", {"a": "</tool_call>"})]),
        ("qwen", "<tool_call>" + "[" * 100_000 + "</tool_call>", []),
        ("qwen", '<tool_call>{"name": "f"}</tool_call>', []),
        ("default", 'Action: f\nAction Input: {"a": 1}\nAction: g\nAction Input: {}', [("f", {"a": 1}), ("g", {})]),
        ("glm4", 'f\n{"a": 1}', [("f", {"a": 1})]),
        ("lfm2", LITERALS, [("f", {"a": [1], "b": True, "c": None})]),
        ("lfm2", "<|tool_call_start|>[f]<|tool_call_end|>", []),
        ("lfm2", '<|tool_call_start|>f("Paris")<|tool_call_end|>', []),
        ("lfm2", "<|tool_call_start|>f(**x)<|tool_call_end|>", []),
        ("lfm2", "<|tool_call_start|>f(a=open('x'))<|tool_call_end|>", []),
        *[(name, "Just an answer, with {braces} and [brackets].", []) for name in NAMES],
    ],
)
def test_found_in_what_a_model_says(name, text, expected):
    assert [(call.name, call.arguments) for call in calls_in(text, find_tool_format(name))] == expected


@pytest.mark.parametrize("name", NAMES)
def test_any_schema_is_described(name):
    properties = {
        "a": {"type": ["string", "null"]},
        "b": {"enum": [1, "x"]},
        "c": {"type": "array", "items": {"type": "integer"}},
        "d": {},
        "e": {"type": "object", "description": "deep", "properties": {"items": {"type": "string"}}},
    }
    parameters = {"type": "object", "properties": properties, "required": ["a"]}
    tools = [{"name": "f", "description": "d", "parameters": parameters}, {"name": "bare"}]
    text = rendered(name, [{"role": "user", "content": "U"}], tools=wrapped_tools(tools))
    assert text.endswith("U") and all(word in text for word in ("bare", "deep"))


def test_lfm2_writes_as_its_own_template_does():
    tools = wrapped_tools([{"name": "f"}])
    messages = [{"role": "system", "content": "S"}, {"role": "user", "content": "U"}, {"role": "tool", "content": "20"}]
    text = Renderer(find_template("lfm2").chat_template).render(messages, tools=tools)
    assert "system\nS\nList of tools: <|tool_list_start|>[" + json.dumps({"name": "f"}) + "]<|tool_list_end|>" in text
    assert "<|im_start|>tool\n<|tool_response_start|>20<|tool_response_end|><|im_end|>\n" in text
    text = Renderer(find_template("lfm2").chat_template).render(messages[1:], tools=tools)
    assert text.startswith("<|im_start|>system\nList of tools: ")


def test_an_unknown_format_names_the_nearest():
    with pytest.raises(UserError) as error:
        find_tool_format("qwem")
    assert error.value.facts["near"] == "qwen"
