"""Rows as what is learned from them, and one precise sentence for each thing that does not fit."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from engine.catalog.conversations import (
    Example,
    Judged,
    Preference,
    Text,
    row_faults,
    to_example,
    to_messages,
    to_text,
)
from engine.catalog.entry import OPENAI_COLUMNS, OPENAI_TAGS, Columns, Entry, entry_from
from tests.unit.test_datasets import ROW, refused

CALL = {"name": "get_weather", "arguments": {"city": "Paris"}}


def turns(*pairs: tuple[str, str]) -> dict:
    return {"conversations": [{"from": role, "value": text} for role, text in pairs]}


def said(messages) -> list[tuple[str, str]]:
    return [(message["role"], message["content"]) for message in messages]


SHAREGPT = Entry("x", formatting="sharegpt")
OPENAI = Entry("x", formatting="openai", columns=OPENAI_COLUMNS, tags=OPENAI_TAGS)


def test_fact_54_alpaca():
    row = {"instruction": "Solve the math problem.", "input": "3 + 4", "output": "The answer is 7."}
    example = to_messages(row, Entry("x"))
    assert said(example.messages) == [("user", "Solve the math problem.\n3 + 4"), ("assistant", "The answer is 7.")]
    assert example.tools is None


def test_fact_55_sharegpt():
    row = turns(
        ("system", "You are a helpful assistant."),
        ("human", "Solve the math problem.\n3 + 4"),
        ("gpt", "The answer is 7."),
    )
    assert said(to_messages(row, SHAREGPT).messages) == [
        ("system", "You are a helpful assistant."),
        ("user", "Solve the math problem.\n3 + 4"),
        ("assistant", "The answer is 7."),
    ]


@pytest.mark.parametrize(
    ("row", "user"),
    [
        ({"instruction": "Hi", "input": "", "output": "!"}, "Hi"),
        ({"instruction": "Hi", "output": "!"}, "Hi"),
        ({"instruction": "Hi", "input": None, "output": "!"}, "Hi"),
        ({"instruction": "", "input": "Hi", "output": "!"}, "Hi"),
        ({"input": "Hi", "output": "!"}, "Hi"),
    ],
)
def test_empty_parts_of_an_alpaca_prompt_are_skipped(row, user):
    assert said(to_messages(row, Entry("x")).messages) == [("user", user), ("assistant", "!")]


def test_alpaca_with_system_history_tools_and_other_names():
    columns = Columns(prompt="q", query=None, response="a", history="past", system="s", tools="t")
    row = {
        "q": "3?",
        "a": "3!",
        "past": [["1?", "1!"], ["2?", "2!"]],
        "s": "Count.",
        "t": [{"name": "f"}],
        "input": "no",
    }
    example = to_messages(row, Entry("x", columns=columns))
    assert said(example.messages) == [
        ("system", "Count."), ("user", "1?"), ("assistant", "1!"), ("user", "2?"), ("assistant", "2!"),
        ("user", "3?"), ("assistant", "3!"),
    ]  # fmt: skip
    assert json.loads(example.tools) == [{"name": "f"}]
    del row["past"], row["t"], row["s"]
    assert len(to_messages(row, Entry("x", columns=columns)).messages) == 2


def test_function_calls_of_sharegpt():
    entry = Entry("x", formatting="sharegpt", columns=Columns(tools="tools"))
    row = turns(
        ("human", "Weather?"), ("function_call", json.dumps(CALL)), ("observation", '{"temp": 20}'), ("gpt", "20°C.")
    )
    example = to_messages({**row, "tools": '[{"name": "get_weather"}]'}, entry)
    assert [message["role"] for message in example.messages] == ["user", "assistant", "tool", "assistant"]
    assert example.messages[1] == {
        "role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": CALL}],
    }  # fmt: skip
    assert example.messages[2]["content"] == '{"temp": 20}'
    assert example.tools == '[{"name": "get_weather"}]'
    two = turns(("human", "Weather?"), ("function_call", json.dumps([CALL, CALL])))
    assert len(to_messages(two, entry).messages[1]["tool_calls"]) == 2


def test_openai_messages_with_parallel_calls():
    calls = [
        {"id": "1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Paris"}'}},
        {"id": "2", "type": "function", "function": {"name": "get_time", "arguments": {}}},
    ]
    row = {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "Weather "}, {"type": "text", "text": "and time?"}]},
            {"role": "assistant", "content": None, "tool_calls": calls},
            {"role": "tool", "content": "20"},
            {"role": "tool", "content": "noon"},
            {"role": "assistant", "content": "20°C at noon."},
        ],
        "tools": [{"type": "function", "function": {"name": "get_weather"}}],
    }
    example = to_messages(row, OPENAI)
    assert said(example.messages) == [
        ("system", "Be brief."), ("user", "Weather and time?"), ("assistant", ""), ("tool", "20"), ("tool", "noon"),
        ("assistant", "20°C at noon."),
    ]  # fmt: skip
    assert example.messages[2]["tool_calls"][0]["function"] == CALL
    assert json.loads(example.tools) == row["tools"]


def test_the_system_column_counts_where_no_turn_is_system():
    entry = Entry("x", formatting="sharegpt", columns=Columns(system="system"))
    row = {**turns(("human", "Hi"), ("gpt", "!")), "system": "Be brief."}
    assert said(to_messages(row, entry).messages)[0] == ("system", "Be brief.")
    row = {**turns(("system", "Be kind."), ("human", "Hi"), ("gpt", "!")), "system": "Be kind.\n"}
    assert said(to_messages(row, entry).messages)[0] == ("system", "Be kind.")


@pytest.mark.parametrize("base", [SHAREGPT, OPENAI], ids=["sharegpt", "openai"])
def test_two_systems_that_differ_are_one_too_many(base):
    tags = base.tags
    entry = replace(base, columns=replace(base.columns, system="system"))
    spoken = ((tags.system_tag, "Be kind."), (tags.user_tag, "Hi"), (tags.assistant_tag, "!"))
    row = {
        base.columns.messages: [{tags.role_tag: role, tags.content_tag: text} for role, text in spoken],
        "system": "Be brief.",
    }
    assert refused("dataset_row.two_systems", to_messages, row, entry, 4).facts["column"] == "system"
    assert len(row_faults(row, entry, 4)) == 1


@pytest.mark.parametrize("speaker", ["assistant", "function_call"])
@pytest.mark.parametrize("weight", [0, 0.5, "1"])
def test_an_answer_with_a_weight_of_its_own_is_refused(speaker, weight):
    """OpenAI's ``weight``: 0 means that the answer is not learned. What all answers have anyway may be said."""

    def row(value):
        answer = {"role": speaker, "content": '{"name": "f"}', "weight": value}
        return {"messages": [{"role": "user", "content": "Hi", "weight": 0}, answer]}

    error = refused("dataset_row.weight", to_messages, row(weight), OPENAI, 4)
    assert (error.facts["turn"], error.facts["weight"]) == (2, weight)
    for value in (1, 1.0, None):
        assert len(to_messages(row(value), OPENAI).messages) == 2


def test_turns_may_be_json_text_as_in_csv():
    row = {"conversations": json.dumps(turns(("human", "Hi"), ("gpt", "!"))["conversations"])}
    assert said(to_messages(row, SHAREGPT).messages) == [("user", "Hi"), ("assistant", "!")]


def test_placeholders_stand_for_the_assistant_only_where_they_are_meant():
    row = {"instruction": "Who are you, {{name}}?", "output": "I am {{name}} by {{author}}. {{other}}"}
    identity = registered_entry("identity")
    assert said(to_messages(row, identity).messages)[1][1] == "I am Lathe by the Lathe team. {{other}}"
    assert said(to_messages(row, identity, replacements={"name": "Bo", "author": "me"}).messages) == [
        ("user", "Who are you, Bo?"),
        ("assistant", "I am Bo by me. {{other}}"),
    ]
    assert said(to_messages(row, registered_entry("jinja_code")).messages)[1][1] == row["output"]
    assert registered_entry("mine", placeholders=True).placeholders


def registered_entry(name: str, **content) -> Entry:
    return entry_from(name, {"file_name": "x.json", **content}, Path("data"))


@pytest.mark.parametrize(
    ("row", "entry", "key", "facts"),
    [
        ({"instruction": "Hi"}, Entry("x"), "dataset_row.column_missing", {"column": "output"}),
        ({"output": "Hi"}, Entry("x"), "dataset_row.column_missing", {"column": "instruction"}),
        ({"instruction": "Hi", "output": None}, Entry("x"), "dataset_row.column_missing", {"column": "output"}),
        ({"instruction": "Hi", "output": 5}, Entry("x"), "dataset_row.not_text", {"column": "output", "found": "int"}),
        ({"instruction": ["Hi"], "output": "x"}, Entry("x"), "dataset_row.not_text", {"found": "list"}),
        ({**ROW, "h": [["a"]]}, Entry("x", columns=Columns(history="h")), "dataset_row.history", {"column": "h"}),
        ({**ROW, "h": {"a": "b"}}, Entry("x", columns=Columns(history="h")), "dataset_row.history", {}),
        ({**ROW, "t": "{"}, Entry("x", columns=Columns(tools="t")), "dataset_row.not_json", {"column": "t"}),
        ({}, SHAREGPT, "dataset_row.column_missing", {"column": "conversations"}),
        ({"conversations": []}, SHAREGPT, "dataset_row.no_turns", {}),
        ({"conversations": "[{"}, SHAREGPT, "dataset_row.not_json", {}),
        ({"conversations": [{"role": "user", "content": "x"}]}, SHAREGPT, "dataset_row.no_role", {"turn": 1}),
        (turns(("human", "a"), ("bot", "b")), SHAREGPT, "dataset_row.unknown_role", {"turn": 2, "role": "bot"}),
        (turns(("human", "a"), ("human", "b"), ("gpt", "c")), SHAREGPT, "dataset_row.order", {"turn": 2}),
        (turns(("human", "a"), ("gpt", "b"), ("gpt", "c")), SHAREGPT, "dataset_row.order", {"turn": 3}),
        (turns(("gpt", "a"), ("human", "b")), SHAREGPT, "dataset_row.order", {"turn": 1}),
        (turns(("human", "a"), ("system", "b"), ("gpt", "c")), SHAREGPT, "dataset_row.order", {"turn": 2}),
        (turns(("human", "a"), ("observation", "b"), ("gpt", "c")), SHAREGPT, "dataset_row.order", {"turn": 2}),
        (turns(("human", "a"), ("gpt", "b"), ("human", "c")), SHAREGPT, "dataset_row.no_answer", {"role": "user"}),
        (turns(("system", "a")), SHAREGPT, "dataset_row.no_answer", {"role": "system"}),
        (turns(("human", "a"), ("function_call", "oops")), SHAREGPT, "dataset_row.not_json", {}),
        (turns(("human", "a"), ("function_call", '{"name": 1}')), SHAREGPT, "dataset_row.function_call", {"turn": 2}),
        (turns(("human", None), ("gpt", "b")), SHAREGPT, "dataset_row.no_text", {"turn": 1}),
        ({"conversations": "null"}, SHAREGPT, "dataset_row.no_turns", {"column": "conversations"}),
        ({"conversations": "[]"}, SHAREGPT, "dataset_row.no_turns", {"column": "conversations"}),
        *[(turns(("human", "a"), ("function_call", called)), SHAREGPT, "dataset_row.function_call", {"turn": 2})
          for called in ("null", "[]", [], '[null]', '{"name": "f", "arguments": "null"}',
                         '{"name": "f", "arguments": []}', '{"name": "f", "arguments": "[]"}',
                         '{"name": "f", "arguments": 0}', '{"name": "f", "arguments": false}')],
        (turns(("human", "a"), ("function_call", '{"name": "f", "arguments": ""}')), SHAREGPT,
         "dataset_row.not_json", {"column": "arguments"}),
        *[({**ROW, "t": tools}, Entry("x", columns=Columns(tools="t")), "dataset_row.tools", {"column": "t"})
          for tools in ('[{"type": "function", "function": "x"}]', [{"x": 1}], "[null]", '[{"name": 5}]', "5",
                        [{"type": "function", "function": {"description": "d"}}], {"function": None})],
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, OPENAI, "dataset_row.no_text", {"turn": 1}),
        ({"messages": [{"role": ["user"], "content": "x"}]}, OPENAI, "dataset_row.unknown_role", {"turn": 1}),
    ],
)  # fmt: skip
def test_a_row_that_does_not_fit_is_refused_with_number_and_reason(row, entry, key, facts):
    error = refused(key, to_messages, row, entry, 41)
    assert {fact: error.facts[fact] for fact in facts} == facts
    assert "Row 41" in error.text()


def test_preferences_are_not_trained_on_by_mistake():
    refused("dataset_ranking", to_messages, {}, Entry("x", ranking=True))
    refused("dataset_ranking", to_messages, {}, Entry("x", columns=Columns(kto_tag="label")))


def test_plain_text_is_for_pre_training():
    entry = Entry("x", columns=Columns(prompt="text", query=None, response=None))
    assert to_text({"text": "Once"}, entry) == "Once"
    refused("dataset_without_answers", to_messages, {"text": "Once"}, entry)
    refused("dataset_row.column_missing", to_text, {"txt": "Once"}, entry)


def test_openai_rows_come_out_as_they_went_in():
    """LLaMA-Factory appends a sentence to each of them, drops tools' results at the end and joins them (C5)."""
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "!"}]
    assert list(to_messages({"messages": messages}, OPENAI).messages) == messages
    refused("dataset_row.no_answer", to_messages, {"messages": [*messages, {"role": "tool", "content": "20"}]}, OPENAI)


def test_thoughts_that_stand_apart_are_kept_in_front_of_the_answer():
    turn = {"role": "assistant", "content": "4", "reasoning_content": "2 and 2.", "weight": 1, "name": "x"}
    example = to_messages({"messages": [{"role": "user", "content": "2 + 2"}, turn]}, OPENAI)
    assert example.messages[1] == {"role": "assistant", "content": "<think>\n2 and 2.\n</think>\n\n4"}


def test_calls_behind_a_thought_and_in_the_older_shape_of_openai():
    thought = "<think>\nAsk.\n</think>\n\n"
    row = turns(("human", "Weather?"), ("function_call", thought + json.dumps(CALL)))
    calls = [{"type": "function", "function": CALL}]
    assert to_messages(row, SHAREGPT).messages[1] == {"role": "assistant", "content": thought, "tool_calls": calls}
    old = {"role": "assistant", "content": None, "function_call": {**CALL, "arguments": json.dumps(CALL["arguments"])}}
    example = to_messages({"messages": [{"role": "user", "content": "Weather?"}, old]}, OPENAI)
    assert example.messages[1] == {"role": "assistant", "content": "", "tool_calls": calls}


@pytest.mark.parametrize(
    "turns",
    [
        [["1?", "1!"], ["2?", "2!"]],
        [{"human": "1?", "gpt": "1!"}, {"human": "2?", "gpt": "2!"}],
    ],
)
def test_a_turn_may_be_question_and_answer_at_once(turns):
    said_in_pairs = [("user", "1?"), ("assistant", "1!"), ("user", "2?"), ("assistant", "2!")]
    assert said(to_messages({"conversations": turns}, SHAREGPT).messages) == said_in_pairs


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ('[{"name": "f"}]', [{"name": "f"}]), ([{"name": "f"}], [{"name": "f"}]), ({"name": "f"}, [{"name": "f"}]),
        ('{"name": "f"}', [{"name": "f"}]), ("[]", None), ("", None), ([], None), (None, None), ("null", None),
        *[(given, [{"type": "function", "function": {"name": "f"}}])
          for given in ('[{"type": "function", "function": {"name": "f"}}]',
                        {"type": "function", "function": {"name": "f"}})],
    ],
)  # fmt: skip
def test_tools_are_a_list_in_json_however_they_are_given(given, expected):
    tools = to_messages({**ROW, "tools": given}, Entry("x", columns=Columns(tools="tools"))).tools
    assert (tools and json.loads(tools)) == expected


# ---- preferences, verdicts and plain text

GOOD, BAD = {"role": "assistant", "content": "good"}, {"role": "assistant", "content": "bad"}
QUESTION = {"role": "user", "content": "Q"}
RANKED = Columns(chosen="chosen", rejected="rejected")
OPENAI_RANKED = Columns(**{**vars(OPENAI_COLUMNS), "chosen": "chosen", "rejected": "rejected"})
LISTS_RANKED = Columns(**{**vars(OPENAI_RANKED), "messages": None})
HELD = {"from": "gpt", "value": "good"}, {"from": "gpt", "value": "bad"}


@pytest.mark.parametrize(
    ("row", "entry"),
    [
        ({"instruction": "Q", "chosen": "good", "rejected": "bad"}, Entry("x", ranking=True, columns=RANKED)),
        ({"instruction": "Q", "chosen": "good", "rejected": "bad"}, Entry("x", ranking=True)),
        (
            {**turns(("human", "Q")), "chosen": HELD[0], "rejected": HELD[1]},
            Entry("x", ranking=True, formatting="sharegpt", columns=RANKED),
        ),
        (
            {"messages": [QUESTION], "chosen": [GOOD], "rejected": [BAD]},
            Entry("x", ranking=True, formatting="openai", columns=OPENAI_RANKED, tags=OPENAI_TAGS),
        ),
        (
            {"chosen": [QUESTION, GOOD], "rejected": [QUESTION, BAD]},
            Entry("x", ranking=True, formatting="openai", columns=LISTS_RANKED, tags=OPENAI_TAGS),
        ),
        (
            {"prompt": "Q", "chosen": [QUESTION, GOOD], "rejected": [QUESTION, BAD]},
            Entry("x", ranking=True, columns=Columns(prompt="prompt"), tags=OPENAI_TAGS),
        ),
    ],
)
def test_preferences_in_all_their_shapes(row, entry):
    assert to_example(row, entry, 1) == Preference((QUESTION,), GOOD, BAD)


def test_conversations_that_part_late_share_their_beginning():
    begin = [{"role": "system", "content": "S"}, QUESTION, {"role": "assistant", "content": "A"}, QUESTION]
    entry = Entry("x", ranking=True, formatting="openai", columns=LISTS_RANKED, tags=OPENAI_TAGS)
    found = to_example({"chosen": [*begin, GOOD], "rejected": [*begin, BAD]}, entry)
    assert found == Preference(tuple(begin), GOOD, BAD)
    same = to_example({"chosen": [*begin, GOOD], "rejected": [*begin, GOOD]}, entry)
    assert (same.messages, same.chosen, same.rejected) == (tuple(begin), GOOD, GOOD)


@pytest.mark.parametrize(
    ("row", "key"),
    [
        ({"chosen": [QUESTION, GOOD, QUESTION, GOOD], "rejected": [QUESTION, BAD, QUESTION, BAD]}, "pair_turns"),
        ({"chosen": [QUESTION, GOOD], "rejected": [QUESTION]}, "pair_turns"),
        ({"messages": [QUESTION], "chosen": [QUESTION], "rejected": [BAD]}, "pair_role"),
        ({"messages": [GOOD], "chosen": [QUESTION, GOOD], "rejected": [QUESTION, BAD]}, "pair_prompt"),
        ({"chosen": [GOOD], "rejected": [BAD]}, "column_missing"),
        ({"messages": [QUESTION], "chosen": [GOOD]}, "column_missing"),
        ({"messages": [QUESTION, GOOD], "chosen": [GOOD], "rejected": [BAD]}, "order"),
        ({"messages": [QUESTION], "chosen": [], "rejected": [BAD]}, "no_turns"),
        ({"messages": [QUESTION], "chosen": 5, "rejected": [BAD]}, "no_turns"),
        ({"messages": "null", "chosen": [GOOD], "rejected": [BAD]}, "no_turns"),
    ],
)
def test_preferences_that_do_not_fit(row, key):
    entry = Entry("x", ranking=True, formatting="openai", columns=OPENAI_RANKED, tags=OPENAI_TAGS)
    assert [fault.key for fault in row_faults(row, entry, 7)] == [f"dataset_row.{key}"]
    assert "Row 7" in refused(f"dataset_row.{key}", to_example, row, entry, 7).text()


@pytest.mark.parametrize(
    ("tag", "is_desirable"),
    [(True, True), (False, False), (1, True), (0, False), ("True", True), ("false", False), ("0", False)],
)
def test_a_verdict_may_be_written_as_csv_writes_it(tag, is_desirable):
    entry = Entry("x", columns=Columns(kto_tag="label"))
    found = to_example({**ROW, "label": tag}, entry)
    assert isinstance(found, Judged) and found.is_desirable is is_desirable
    assert said(found.messages) == [("user", "Add.\n1 + 1"), ("assistant", "2")]


@pytest.mark.parametrize("tag", [None, "good", 2, 1.0, [True]])
def test_a_verdict_that_is_none(tag):
    refused("dataset_row.kto_tag", to_example, {**ROW, "label": tag}, Entry("x", columns=Columns(kto_tag="label")))


def test_the_kind_of_an_entry_decides_what_a_row_becomes():
    text = Entry("x", columns=Columns(prompt="text", query=None, response=None))
    assert to_example({"text": "Once"}, text) == Text("Once")
    assert isinstance(to_example(ROW, Entry("x")), Example)
    assert row_faults({"txt": "Once"}, text, 1)[0].key == "dataset_row.column_missing"


def test_placeholders_are_filled_in_every_kind():
    row = {"instruction": "{{name}}?", "chosen": "I, {{name}}", "rejected": "{{author}}", "output": "!", "label": True}
    names = {"name": "Bo", "author": "me"}
    found = to_example(row, Entry("x", ranking=True, placeholders=True), replacements=names)
    assert [found.messages[0]["content"], found.chosen["content"], found.rejected["content"]] == ["Bo?", "I, Bo", "me"]
    judged = Entry("x", columns=Columns(kto_tag="label"), placeholders=True)
    assert to_example(row, judged, replacements=names).messages[0]["content"] == "Bo?"
    text = Entry("x", columns=Columns(prompt="instruction", response=None), placeholders=True)
    assert to_example(row, text, replacements=names) == Text("Bo?")


def test_every_fault_of_a_row_is_told():
    entry = Entry("x", formatting="sharegpt", columns=Columns(tools="tools", system="system"))
    row = {
        **turns(
            ("human", "a"), ("bot", "b"), ("human", "c"), ("human", None), ("function_call", "oops"), ("human", "d")
        ),
        "system": 5,
        "tools": "{",
    }
    keys = [fault.key.removeprefix("dataset_row.") for fault in row_faults(row, entry, 3)]
    assert sorted(keys) == sorted(["unknown_role", "no_text", "not_json", "not_text", "order", "no_answer", "not_json"])
    assert all(fault.facts["row"] == 3 for fault in row_faults(row, entry, 3))
    assert row_faults(ROW, Entry("x"), 1) == []


def test_turns_are_counted_without_the_system_column():
    entry = Entry("x", formatting="sharegpt", columns=Columns(system="system"))
    row = {**turns(("human", "a"), ("human", "b"), ("gpt", "c")), "system": "Be brief."}
    assert refused("dataset_row.order", to_messages, row, entry).facts["turn"] == 2


def test_json_within_a_row_must_be_text_that_can_be_learned():
    for arguments in ('{"name": "f", "arguments": {"a": NaN}}', '{"name": "f", "arguments": {"a": "\\ud800"}}'):
        refused("dataset_row.not_json", to_messages, turns(("human", "a"), ("function_call", arguments)), SHAREGPT)


@pytest.mark.parametrize(
    "given", ['{"name": "f"}', '{"name": "f", "arguments": null}', '{"name": "f", "arguments": {}}']
)
def test_a_call_without_arguments_has_none(given):
    (call,) = to_messages(turns(("human", "a"), ("function_call", given)), SHAREGPT).messages[1]["tool_calls"]
    assert call["function"] == {"name": "f", "arguments": {}}
