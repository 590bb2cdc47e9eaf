"""A conversation on the page, in its file, and in training; thoughts in answers; lists of prompts; tools."""

from __future__ import annotations

import json

import pytest

from engine.catalog.conversations import to_example
from engine.catalog.reasoning import joined, opened, parted
from engine.catalog.recognise import recognise
from engine.errors import UserError
from engine.options.rules_chat import tools_problem
from engine.runs.chat import Piece
from engine.runs.prompts import read_prompts
from engine.runs.talks import Answer, Talk, forget_talk, new_name, read_talk, write_talk
from webui.talk import from_file, question_before, shown, spoken, to_file

TURNS = [
    {"role": "user", "content": "Why?"},
    {"role": "assistant", "content": joined("Hmm.", "Because.")},
    {"role": "user", "content": "Sure?"},
    {"role": "assistant", "content": "Yes."},
]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<think>\na\n</think>\n\nb", ("a", "b", False)),
        ("\n<think>a", ("a", "", True)),
        ("[THINK]a[/THINK]b", ("a", "b", False)),
        ("b <think>a</think>", (None, "b <think>a</think>", False)),
        ("", (None, "", False)),
    ],
)
def test_a_thought_is_told_from_the_answer(text, expected):
    assert parted(text) == expected


def test_a_template_that_begins_the_thought_is_seen():
    assert opened("<|assistant|>\n<think>\n") == "<think>"
    assert opened("<think>\n\n</think>\n\n") == ""


def test_the_page_keeps_every_turn_and_folds_thoughts():
    talk = shown(TURNS, "en")
    assert [each.get("metadata", {}).get("status") for each in talk] == [None, "done", None, None, None]
    assert spoken(talk) == TURNS
    as_gradio_keeps_it = [{**each, "content": [{"type": "text", "text": each["content"]}]} for each in talk]
    assert spoken(as_gradio_keeps_it) == TURNS
    assert [question_before(talk, at) for at in range(5)] == [0, 0, 0, 3, 3]
    pending = shown([TURNS[0], {"role": "assistant", "content": "<think>a"}], "en", is_going_on=True)
    assert pending[-1]["metadata"]["status"] == "pending" and spoken(pending)[-1]["role"] == "assistant"


def test_a_kept_conversation_is_opened_and_trained_on_as_it_was(tmp_path):
    tools = '[{"name": "add", "parameters": {}}]'
    turns = [{"role": "system", "content": "Be brief."}, *TURNS]
    path = tmp_path / "talk.json"
    path.write_text(to_file(turns, tools), encoding="utf-8")
    assert from_file(path.read_text(encoding="utf-8")) == (turns, tools)
    entry = recognise(path)
    learned = to_example(json.loads(path.read_text(encoding="utf-8"))[0], entry)
    assert list(learned.messages) == turns and json.loads(learned.tools) == json.loads(tools)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"messages": []}', '[{"role": "user"}]', '[{"role": "x", "content": "y"}]']
)
def test_what_is_no_conversation_is_refused(text):
    with pytest.raises(UserError):
        from_file(text)


def test_a_talk_is_read_as_it_was_written_and_found_by_its_name_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name, talk = new_name(), Talk(TURNS, Answer("and", Piece("d", True, "stopped", 1, 0.5, 9)))
    write_talk(name, talk)
    assert read_talk(name) == talk and read_talk(name).answer.is_over
    assert read_talk(name).whole()[-1]["content"] == "and"
    assert read_talk(new_name()) is None
    for stranger in ("../../x", "", None, name.upper() + "/"):
        with pytest.raises(ValueError):
            write_talk(stranger, talk)
    forget_talk(name)
    assert read_talk(name) is None


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("[{", "chat.tools_not_json"),
        ("[1]", "chat.tool_unnamed"),
        ('[{"function": {}}]', "chat.tool_unnamed"),
        ('[{"name": "a", "parameters": []}]', "chat.tool_parameters"),
        ('{"name": "a"}', None),
        ('[{"type": "function", "function": {"name": "a", "parameters": {}}}]', None),
    ],
)
def test_tools_are_looked_at(text, key):
    problem = tools_problem(text)
    assert (problem and problem.key) == key
    assert problem is None or problem.text("en")


def test_a_list_of_prompts_is_read_in_every_form(tmp_path):
    plain, rows = tmp_path / "list.txt", tmp_path / "list.jsonl"
    plain.write_text("Why?\n\n Sure? \n")
    assert read_prompts(plain) == [[{"role": "user", "content": "Why?"}], [{"role": "user", "content": "Sure?"}]]
    forms = ["Why?", {"prompt": "Why?"}, {"messages": TURNS[:1]}, TURNS[:1], TURNS[:2]]
    rows.write_text("\n".join(map(json.dumps, forms)))
    assert read_prompts(rows) == [TURNS[:1]] * len(forms)
    rows.write_text('"Why?"\r\n' + json.dumps("a\u2028b\x85c", ensure_ascii=False), encoding="utf-8")
    assert [turns[-1]["content"] for turns in read_prompts(rows)] == ["Why?", "a\u2028b\x85c"]
    rows.write_text('"Why?"\n{"question": 1}')
    with pytest.raises(UserError) as caught:
        read_prompts(rows)
    assert caught.value.facts["line"] in (2, "2")
