"""Facts about LLaMA-Factory 0.9.6.dev0, row by row: what its users' data becomes there, it becomes here.

Where a row records a slip, or what Lathe does in another way, it stands in ``EXCEPTIONS`` with the reason.
"""

import json
import re
from pathlib import Path

import pytest

from engine.catalog.conversations import Example, to_messages
from engine.catalog.entry import entry_from
from engine.catalog.learned import plans
from engine.catalog.lengths import turn_budget
from engine.catalog.rendering import UNKNOWN, Renderer
from engine.catalog.templates import find_template
from engine.catalog.tool_formats import calls_in, find_tool_format, wrapped_tools
from engine.errors import UserError
from engine.options.jobs import DataJob
from engine.work.encode import TurnIds, assemble

FACTS = [json.loads(line) for line in Path(__file__).with_name("facts.jsonl").read_text("utf-8").splitlines()]

EXCEPTIONS = {
    50: "in test_packing.py, but for the mask by which joined rows would see each other",
    51: "in test_packing.py",
    52: "in test_packing.py",
    56: "there is no evaluation on multiple-choice questions yet",
    58: "a slip of the reference: the beginning token stands twice in front of the prompt, and tools are lost",
    60: "templates of tokenizers are not taken apart: their own Jinja renders (test_rendering.py)",
    61: "as 60",
    62: "as 60",
}

M = [("user", "How are you"), ("assistant", "I am fine!"), ("user", "你好"), ("assistant", "很高兴认识你！")]
THOUGHTS = {1: "<think>\nModel thought here\n</think>\n\n", 3: "<think>\n模型思考内容\n</think>\n\n"}
CONVERSATIONS = {
    "M": [{"role": role, "content": text} for role, text in M],
    "MT": [{"role": role, "content": THOUGHTS.get(index, "") + text} for index, (role, text) in enumerate(M)],
    "C": [
        {"role": "user", "content": "Weather in Paris?"},
        {"role": "assistant", "content": "", "tool_calls": [
            {"type": "function", "function": {"name": "get_weather", "arguments": {"city": "Paris"}}}
        ]},
        {"role": "tool", "content": '{"temp": 20}'},
        {"role": "assistant", "content": "It is 20°C."},
    ],
}  # fmt: skip
FN = {"name": "tool_name", "arguments": {"foo": "bar", "size": 10}}
TOOLS = [
    {
        "name": "test_tool",
        "description": "tool_desc",
        "parameters": {
            "type": "object",
            "properties": {
                "foo": {"type": "string", "description": "foo_desc"},
                "bar": {"type": "number", "description": "bar_desc"},
            },
            "required": ["foo"],
        },
    }
]


def renderer(name: str, tool_format: str | None = None) -> Renderer:
    template = find_template(name, tool_format)
    return Renderer(template.chat_template, UNKNOWN, template)


def rows(*keys: str) -> list:
    """The facts that have one of these keys, by their numbers."""
    return [
        pytest.param(fact, id=str(fact["n"])) for fact in FACTS if set(keys) & set(fact) and fact["n"] not in EXCEPTIONS
    ]


def turns(fact: dict, name: str, is_last_only: bool) -> list[tuple[str, str]]:
    messages = list(CONVERSATIONS[fact["in"]])
    if "system" in fact:
        messages.insert(0, {"role": "system", "content": fact["system"]})
    job = DataJob(template=name, enable_thinking=fact.get("enable_thinking"), mask_history=is_last_only)
    (plan,) = plans(job, renderer(name), Example(tuple(messages)))
    if is_last_only and "pairs" not in fact:
        (prompt, _), (answer, is_learned) = plan.segments()
        assert is_learned
        return [(prompt, answer)]
    return [tuple(turn) for turn in plan.turns]


def test_every_fact_is_looked_at():
    seen = {
        param.id
        for keys in (
            ("template",),
            ("tool_format",),
            ("sft_labels", "infer_seqlen", "alpaca", "sharegpt", "stop_ids", "lfm2_extract"),
        )
        for param in rows(*keys)
    }
    assert seen | {str(n) for n in EXCEPTIONS} == {str(fact["n"]) for fact in FACTS}


@pytest.mark.parametrize(
    "fact", [param for param in rows("template") if "prompt" in param.values[0] or "prompt_ends" in param.values[0]]
)
def test_one_turn(fact):
    for alias in (fact["template"], *fact.get("alias", ())):
        name = alias.split(" ")[0]
        ((prompt, answer),) = turns(fact, name, is_last_only=True)
        assert answer == fact["answer"]
        if "prompt_ends" in fact:
            assert prompt.endswith(fact["prompt_ends"])
        else:
            assert prompt == ("@bos@" if "@bos@" in alias else "") + fact["prompt"]


@pytest.mark.parametrize("fact", rows("pairs"))
def test_pairs(fact):
    found = turns(fact, fact["template"], is_last_only=bool(fact.get("discard_history_cot")))
    assert [list(turn) for turn in found] == fact["pairs"]


@pytest.mark.parametrize("fact", rows("fn"))
def test_function_calls_both_ways(fact):
    name = fact["tool_format"]

    def written(*calls: dict) -> str:
        wrapped = [{"type": "function", "function": call} for call in calls]
        return renderer("empty", name).render([{"role": "assistant", "content": "", "tool_calls": wrapped}])

    assert written(FN) == fact["out"]
    (call,) = calls_in(fact["out"], find_tool_format(name))
    assert (call.name, call.arguments) == (FN["name"], FN["arguments"])
    for extracted in fact.get("extract", ()):
        assert [call.name, json.dumps(call.arguments)] == extracted
    if fact.get("parallel") == "ValueError":
        with pytest.raises(UserError):
            written(FN, FN)
        return
    both = written(FN, FN)
    if fact.get("parallel") == "joined by \\n":
        assert both == fact["out"] + "\n" + fact["out"]
    if fact.get("parallel") == "JSON array":
        assert json.loads(both) == [json.loads(fact["out"])] * 2
    assert len(calls_in(both, find_tool_format(name))) == 2


@pytest.mark.parametrize("fact", rows("system_text"))
def test_tools_are_described(fact):
    tools = wrapped_tools(TOOLS)
    expected = re.sub("@JSON of .*?@", lambda _: json.dumps(tools[0], ensure_ascii=False), fact["system_text"])
    messages = [{"role": "system", "content": "S"}, {"role": "user", "content": "U"}]
    assert renderer("empty", fact["tool_format"]).render(messages, tools=tools) == "S" + expected + "U"


@pytest.mark.parametrize("fact", rows("sft_labels"))
def test_labels(fact):
    turns = [TurnIds([1, 2, 3], [11, 12]), TurnIds([4, 5], [13, 14, 15])]
    assert assemble(turns, 100).labels == fact["default"]
    assert assemble(turns, 100, learns_prompts=True).labels == fact["train_on_prompt"]
    assert assemble(turns, 100, learns_history=False).labels == fact["mask_history"]
    assert assemble(turns, 100, end_id=99).labels == fact["efficient_eos"]
    # The reference labels an end also behind history that is not learned, and one before the first token.
    not_so = fact["efficient_eos+mask_history (quirk)"]
    assert assemble(turns, 100, end_id=99, learns_history=False).labels == [-100, *not_so[1:]]


@pytest.mark.parametrize("fact", rows("infer_seqlen"))
def test_budgets(fact):
    for (prompt, answer, budget), kept in fact["infer_seqlen"]:
        assert turn_budget(prompt, answer, budget) == tuple(kept)


@pytest.mark.parametrize("fact", rows("alpaca", "sharegpt"))
def test_rows_become_messages(fact):
    if "alpaca" in fact:
        row, entry = fact["alpaca"], entry_from("some", {"file_name": "x.json"}, Path("."))
    else:
        row = {"conversations": [{"from": role, "value": text} for role, text in fact["sharegpt"]]}
        entry = entry_from("some", {"file_name": "x.json", "formatting": "sharegpt"}, Path("."))
    messages = to_messages(row, entry).messages
    expected = ([["system", fact["system"]]] if fact["system"] else []) + fact["prompt"] + fact["response"]
    assert [[message["role"], message["content"]] for message in messages] == expected


@pytest.mark.parametrize("fact", rows("stop_ids"))
def test_stop_words(fact):
    assert set(find_template("llama3").stop) == {"<|eom_id|>", "<|eot_id|>"}  # 128008 and 128009 there
    assert len(fact["ids"]) == 2


@pytest.mark.parametrize("fact", rows("lfm2_extract"))
def test_calls_in_python(fact):
    (call,) = calls_in(fact["lfm2_extract"], find_tool_format("lfm2"))
    assert (call.name, call.arguments) == (fact["name"], fact["args"])
