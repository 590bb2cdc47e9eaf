"""What a click in a conversation does to it, without a browser: nothing is lost, and nothing is asked twice."""

from __future__ import annotations

import json
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
from gradio import Chatbot

from engine.catalog.rendering import with_system
from engine.errors import UserError
from engine.options.jobs import ChatJob
from engine.runs.chat import Piece
from engine.runs.talks import Talk, new_name, read_talk, write_talk
from webui import chat_prompts, chat_room, chat_sides
from webui.chat_prompts import ChatPrompts
from webui.chat_room import ChatRoom, _on_open, _on_return, _on_save, _take, _take_again, _take_back, _take_changed
from webui.chat_sides import ChatSides
from webui.talk import shown, spoken

TURNS = [
    {"role": "user", "content": "One"},
    {"role": "assistant", "content": "<think>\nhm\n</think>\n\n1"},
    {"role": "user", "content": "Two"},
    {"role": "assistant", "content": "2"},
]
TALK = shown(TURNS, "en")  # the thought is a message of its own


@pytest.fixture(autouse=True)
def memory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return {"name": new_name()}


def at(index, value=None):
    return SimpleNamespace(index=index, value=value)


def is_asked(outcome):
    return outcome[3]


def test_a_question_is_asked_once_and_gives_the_conversation_a_name():
    box, talk, memory, asked, _, busy, _ = _take("  Hi ", TALK, {"name": ""}, False)
    assert talk == [*TALK, {"role": "user", "content": "Hi"}] and asked and busy and len(memory["name"]) == 32
    assert box["value"] == "" and box["interactive"] is False
    assert not is_asked(_take("Hi", TALK, memory, True)) and not is_asked(_take("  ", TALK, memory, False))


def test_a_question_that_failed_does_not_stand_in_the_way_of_the_next(memory):
    """Many templates refuse two questions in a row, and one that was too long is so again."""
    failed = [*TALK, {"role": "user", "content": "Too long"}]
    assert spoken(_take("Short", failed, memory, False)[1]) == [*TURNS, {"role": "user", "content": "Short"}]
    assert spoken(_take("Short", failed[-1:], memory, False)[1]) == [{"role": "user", "content": "Short"}]
    tool = {"role": "tool", "content": "7"}
    assert spoken(_take("Next", shown([*TURNS, tool], "en"), memory, False)[1])[-2:] == [
        tool, {"role": "user", "content": "Next"},
    ]  # fmt: skip
    changed = _take_changed(failed, memory, False, at(len(failed) - 1, "Shorter"))
    assert spoken(changed[1]) == [*TURNS, {"role": "user", "content": "Shorter"}] and is_asked(changed)


def test_asked_anew_is_the_question_before(memory):
    assert spoken(_take_again(TALK, memory, False, at(3))[1]) == TURNS[:3]
    assert spoken(_take_again(TALK, memory, False, at(2))[1]) == TURNS[:1]
    assert not is_asked(_take_again([], memory, False, at(0)))


@pytest.mark.parametrize("how", ["fails", "is stopped", "no model", "no seat"])
def test_an_answer_stays_until_another_takes_its_place(how, memory, monkeypatch):
    def answers(*given, **options):
        if how == "fails":
            raise UserError("chat.ended")
        yield Piece("", True, "stopped", 0, 1.0, 1)

    @contextmanager
    def taken(request):
        if how == "no seat":
            raise UserError("chat.ended")
        yield

    monkeypatch.setattr(chat_room, "context_of", lambda folder: 100)
    monkeypatch.setattr(chat_room, "ANSWERS", SimpleNamespace(taken=taken))
    monkeypatch.setattr(chat_room, "chat", SimpleNamespace(
        loaded=lambda: None if how == "no model" else "here", wait_until_ready=lambda *given: None, answer=answers
    ))  # fmt: skip
    form = SimpleNamespace(job=lambda raw: SimpleNamespace(job=ChatJob()))
    room = SimpleNamespace(_form=form)
    room._answered = partial(ChatRoom._answered, room)
    _, talk, kept, asked, before, *_ = _take_again(TALK, memory, False, at(3))
    seen = list(ChatRoom._on_question(room, None, "en", asked, before, talk, kept))
    shows = [first for first, *_ in seen if isinstance(first, list)]
    assert shows[-1] == TALK
    assert read_talk(memory["name"]).whole() == TURNS


def test_a_changed_question_is_asked_and_a_changed_answer_is_kept(memory):
    outcome = _take_changed(TALK, memory, False, at(0, [{"type": "text", "text": "Other"}]))
    assert spoken(outcome[1]) == [{"role": "user", "content": "Other"}] and is_asked(outcome)
    outcome = _take_changed(TALK, memory, False, at(4, "zwei"))
    assert spoken(outcome[1]) == [*TURNS[:3], {"role": "assistant", "content": "zwei"}] and not is_asked(outcome)
    assert read_talk(memory["name"]).messages == spoken(outcome[1])
    assert not is_asked(_take_changed(TALK, memory, True, at(0, "Other")))


def test_taken_back_is_the_last_question_with_its_answer(memory):
    talk, question = _take_back(TALK, memory, False, at(3))
    assert (spoken(talk), question) == (TURNS[:2], "Two")
    assert read_talk(memory["name"]).messages == TURNS[:2]


def test_saved_and_opened_it_is_the_same_under_another_name(memory):
    path, said = _on_save("en", TALK, " Be brief. ", "")
    talk, opened, system, tools, _ = _on_open("en", path, memory, False)
    assert (talk, system, tools, said) == (TALK, "Be brief.", "", "")
    assert opened != memory and read_talk(opened["name"]).messages == TURNS


def test_a_turn_of_a_tool_stays_one(memory, tmp_path):
    turns = [TURNS[0], {"role": "assistant", "content": "<tool_call>"}, {"role": "tool", "content": "7"}, TURNS[3]]
    (tmp_path / "talk.json").write_text(json.dumps({"messages": turns}))
    talk, opened, *_ = _on_open("en", str(tmp_path / "talk.json"), memory, False)
    path, _ = _on_save("en", Chatbot().postprocess(talk).model_dump(), "", "")
    assert json.loads(Path(path).read_text())[0]["messages"] == turns == read_talk(opened["name"]).messages


def test_who_returns_sees_what_is_kept(memory):
    write_talk(memory["name"], Talk([{"role": "system", "content": "Be brief."}, *TURNS]))
    assert list(_on_return("en", memory))[-1] == [TALK, ""]
    assert list(_on_return("en", {"name": "../../x"})) == [] == list(_on_return("en", None))


def test_a_question_is_kept_while_it_waits_for_its_turn(memory, monkeypatch):
    """Others are answered first, or the model still loads: who opens the page meanwhile sees what was asked."""
    seen = []

    def waits(folder, timeout_s):
        seen.append(read_talk(memory["name"]))
        raise UserError("chat.ended")

    monkeypatch.setattr(chat_room, "chat", SimpleNamespace(loaded=lambda: "here", wait_until_ready=waits))
    form = SimpleNamespace(job=lambda raw: SimpleNamespace(job=ChatJob()))
    with pytest.raises(UserError):
        list(ChatRoom._answered(SimpleNamespace(_form=form), "en", TURNS[:3], memory["name"], ()))
    assert seen[0].messages == TURNS[:3] and not seen[0].answer.is_over
    assert read_talk(memory["name"]) == Talk(TURNS[:3])  # nobody will answer it any more


def test_a_system_prompt_that_is_gone_from_the_form_is_gone(memory, monkeypatch):
    """The worker has the one with which it was loaded, and would put it in front where a question brings none."""
    asked = []

    def answers(folder, messages, name, side=None, talk=None, **options):
        job = ChatJob.from_values({**ChatJob(system="Old.").values(), **options})
        asked.append(with_system(messages, job))
        yield Piece("Yes", True, "stop", 1, 1.0, 1)

    for room in (chat_prompts, chat_room, chat_sides):
        monkeypatch.setattr(room, "chat", SimpleNamespace(
            loaded=lambda: "here", wait_until_ready=lambda *given: None, answer=answers
        ))  # fmt: skip
    monkeypatch.setattr(chat_room, "context_of", lambda folder: 100)
    monkeypatch.setattr(chat_sides, "refuse_strangers", lambda *given: None)
    for system in (None, "New."):
        form = SimpleNamespace(job=lambda raw, system=system: SimpleNamespace(job=ChatJob(system=system)))
        list(ChatRoom._answered(SimpleNamespace(_form=form), "en", TURNS[:1], memory["name"], ()))
        sides = SimpleNamespace(_form=form, _talks=("l", "r"), _votes=(), _round="round", _notice="notice")
        list(ChatSides._answered(sides, "en", "One", ("base", "base"), False, "id", ()))
        prompts = SimpleNamespace(_form=form)
        list(ChatPrompts._answered(prompts, "here", ["One"], ["base"], "id", ()))
    system = {"role": "system", "content": "New."}
    assert asked == [TURNS[:1]] * 4 + [[system, TURNS[0]]] * 4
