"""What a click in a conversation does to it, without a browser: nothing is lost, and nothing is asked twice."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from engine.runs.talks import Talk, new_name, read_talk, write_talk
from webui.chat_room import _on_open, _on_return, _on_save, _take, _take_again, _take_back, _take_changed
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
    box, talk, memory, asked, busy, _ = _take("  Hi ", TALK, {"name": ""}, False)
    assert talk == [*TALK, {"role": "user", "content": "Hi"}] and asked and busy and len(memory["name"]) == 32
    assert box["value"] == "" and box["interactive"] is False
    assert not is_asked(_take("Hi", TALK, memory, True)) and not is_asked(_take("  ", TALK, memory, False))


def test_a_question_that_failed_does_not_stand_in_the_way_of_the_next(memory):
    """Many templates refuse two questions in a row, and one that was too long is so again."""
    failed = [*TALK, {"role": "user", "content": "Too long"}]
    assert spoken(_take("Short", failed, memory, False)[1]) == [*TURNS, {"role": "user", "content": "Short"}]
    assert spoken(_take("Short", failed[-1:], memory, False)[1]) == [{"role": "user", "content": "Short"}]
    changed = _take_changed(failed, memory, False, at(len(failed) - 1, "Shorter"))
    assert spoken(changed[1]) == [*TURNS, {"role": "user", "content": "Shorter"}] and is_asked(changed)


def test_asked_anew_is_the_question_before(memory):
    assert spoken(_take_again(TALK, memory, False, at(3))[1]) == TURNS[:3]
    assert spoken(_take_again(TALK, memory, False, at(2))[1]) == TURNS[:1]
    assert not is_asked(_take_again([], memory, False, at(0)))


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


def test_who_returns_sees_what_is_kept(memory):
    write_talk(memory["name"], Talk([{"role": "system", "content": "Be brief."}, *TURNS]))
    assert list(_on_return("en", memory))[-1] == [TALK, ""]
    assert list(_on_return("en", {"name": "../../x"})) == [] == list(_on_return("en", None))
