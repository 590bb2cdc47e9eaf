"""Both ends of a chat with a model that counts in place of thinking: what is sent, stopped, refused and survived."""

from __future__ import annotations

import json
import socket
import stat
import threading
import time
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client

import pytest

from engine.errors import UserError
from engine.options.jobs import ChatJob
from engine.runs import chat
from engine.runs.folder import Folder
from engine.runs.record import update_state
from engine.runs.talks import forget_talk, new_name, read_talk
from engine.work.answers import StopWords
from engine.work.chat import answer as answer_request
from engine.work.chat import pieces
from engine.work.door import Door

QUESTION = [{"role": "user", "content": "count"}]


class CountingModel:
    """Answers "0 1 2 …" up to ``end``; a prompt has one token a character. ``gate`` lets that many tokens pass."""

    context_length = 1000

    def __init__(self) -> None:
        self.end = 5
        self.given = 0
        self.answers = 0
        self.at_once = 0
        self.gate = None
        self.fails_at = None

    def encode(self, messages, job):
        return [1] * sum(len(message["content"]) for message in messages)

    def tokens(self, prompt, job, steering=None):
        self.answers += 1
        self.at_once += 1
        assert self.at_once == 1
        try:
            for number in range(self.end):
                if number == self.fails_at:
                    raise RuntimeError("CUDA out of memory")
                if self.gate:
                    self.gate.acquire()
                self.given += 1
                yield number
        finally:
            self.at_once -= 1

    def reader(self):
        class Reader:
            add = staticmethod(lambda token: f"{token} ")
            finish = staticmethod(lambda: "")

        return Reader()

    def recover(self):
        self.fails_at = None


@pytest.fixture
def model():
    return CountingModel()


@pytest.fixture
def folder(tmp_path, model):
    """A run's folder with a chat worker behind it, which here is a thread."""
    folder, is_over = Folder(tmp_path), threading.Event()
    update_state(folder, kind="chat", status="running", pid=None)

    def serve(door):
        while not is_over.is_set():
            request = door.next_request(timeout_s=0.02)
            if request is not None:
                answer_request(model, request, ChatJob())

    with Door(folder) as door:
        thread = threading.Thread(target=serve, args=(door,))
        thread.start()
        yield folder
        is_over.set()
        if model.gate:
            model.gate.release(1000)
        thread.join(10)
        assert not thread.is_alive()


def wait_for(condition):
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def ask(folder, **options):
    found = list(chat.answer(folder, QUESTION, **options))
    return "".join(piece.text for piece in found), found[-1]


def test_an_answer_arrives_piece_by_piece(folder):
    found = list(chat.answer(folder, QUESTION))
    assert [piece.text for piece in found] == ["0 ", "1 ", "2 ", "3 ", "4 ", ""]
    assert [piece.is_last for piece in found] == [False] * 5 + [True]
    assert [piece.tokens for piece in found] == [1, 2, 3, 4, 5, 5]
    assert found[-1].finish_reason == "stop" and found[0].finish_reason is None
    assert found[-1].prompt_tokens == len("count") and found[-1].seconds >= 0


def test_options_are_for_one_answer_only(folder):
    text, last = ask(folder, max_new_tokens=2)
    assert (text, last.finish_reason, last.tokens) == ("0 1 ", "length", 2)
    assert ask(folder)[1].tokens == 5


def test_an_option_that_is_not_valid_is_told(folder):
    with pytest.raises(UserError) as caught:
        ask(folder, temperature=-1)
    assert "temperature" in caught.value.text()
    assert ask(folder)[0] == "0 1 2 3 4 "


def test_stop_keeps_what_was_said(folder, model):
    model.gate, model.end = threading.Semaphore(2), 100
    answer = chat.answer(folder, QUESTION)
    said = next(answer).text + next(answer).text
    chat.stop_answer(folder)
    time.sleep(0.1)
    model.gate.release(90)
    last = list(answer)[-1]
    assert said + last.text == "0 1 2 " and last.finish_reason == "stopped"
    assert model.given == 3


def test_stop_finds_the_answer_it_means(folder, model):
    model.gate, model.end = threading.Semaphore(1), 3
    answer = chat.answer(folder, QUESTION, answer_id="a")
    next(answer)
    chat.stop_answer(folder, "b")
    time.sleep(0.1)
    model.gate.release(10)
    assert list(answer)[-1].finish_reason == "stop"


def test_a_closed_iterator_stops_the_work(folder, model):
    model.gate, model.end = threading.Semaphore(1), 10**6
    answer = chat.answer(folder, QUESTION)
    next(answer)
    answer.close()
    time.sleep(0.3)
    model.gate.release(1000)
    wait_for(lambda: model.at_once == 0)
    assert model.given < 10
    model.gate, model.end = None, 3
    assert ask(folder)[0] == "0 1 2 "


def test_a_kept_conversation_is_answered_though_nobody_listens(folder, model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = new_name()
    model.gate, model.end = threading.Semaphore(1), 5
    answer = chat.answer(folder, QUESTION, name, talk=name)
    next(answer)
    answer.close()
    time.sleep(0.3)
    assert not read_talk(name).answer.is_over
    model.gate.release(100)
    wait_for(lambda: read_talk(name).answer.is_over)
    assert read_talk(name).whole() == [*QUESTION, {"role": "assistant", "content": "0 1 2 3 4 "}]


def test_a_kept_conversation_has_one_answer_at_a_time_and_can_be_stopped(folder, model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = new_name()
    model.gate, model.end = threading.Semaphore(1), 10**6
    first = chat.answer(folder, QUESTION, name, talk=name)
    next(first)
    again = chat.answer(folder, [{"role": "user", "content": "again"}], name, talk=name)
    waiting = []
    thread = threading.Thread(target=lambda: waiting.append(next(again)))
    thread.start()
    time.sleep(0.3)
    model.gate.release(3)
    assert list(first)[-1].finish_reason == "stopped"
    thread.join(10)
    assert waiting
    chat.stop_answer(folder, name)
    time.sleep(0.2)
    model.gate.release(100)
    assert list(again)[-1].finish_reason == "stopped"
    assert read_talk(name).messages[0]["content"] == "again"


def test_why_an_answer_failed_is_kept_with_what_was_said(folder, model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name, model.fails_at = new_name(), 2
    with pytest.raises(UserError):
        list(chat.answer(folder, QUESTION, name, talk=name))
    kept = read_talk(name).answer
    assert (kept.text, kept.error["key"]) == ("0 1 ", "chat.out_of_memory")


def test_a_name_that_leads_elsewhere_is_no_conversation(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError):
        list(chat.answer(folder, QUESTION, talk="../../x"))
    assert not list(tmp_path.rglob("x.json")) and ask(folder)[0] == "0 1 2 3 4 "


def test_a_model_that_cannot_switch_says_so(folder):
    with pytest.raises(UserError) as caught:
        list(chat.answer(folder, QUESTION, side="base"))
    assert caught.value.key == "chat.cannot_switch"
    assert ask(folder)[0] == "0 1 2 3 4 "


def test_who_waits_and_goes_away_is_never_answered(folder, model):
    model.gate, model.end = threading.Semaphore(1), 3
    first = chat.answer(folder, QUESTION)
    next(first)
    waiting = Client(tuple(_address(folder)[:2]), authkey=_address(folder)[2])
    waiting.send_bytes(json.dumps({"do": "answer", "messages": QUESTION, "answer_id": None, "options": {}}).encode())
    time.sleep(0.1)
    waiting.close()
    time.sleep(0.3)
    model.gate.release(100)
    assert list(first)[-1].finish_reason == "stop"
    assert ask(folder)[1].finish_reason == "stop"
    assert model.answers == 2


def test_who_waits_is_stopped_at_once(folder, model, tmp_path, monkeypatch):
    """Not only when its turn has come: the answer before it may be a long one."""
    monkeypatch.chdir(tmp_path)
    name = new_name()
    model.gate, model.end = threading.Semaphore(1), 3
    first = chat.answer(folder, QUESTION)
    next(first)
    said = []
    waiting = threading.Thread(target=lambda: said.append(ask(folder, answer_id="b", talk=name)))
    waiting.start()
    time.sleep(0.3)
    chat.stop_answer(folder, "b")
    waiting.join(5)
    assert [(text, last.finish_reason) for text, last in said] == [("", "stopped")]
    assert read_talk(name).answer.piece.finish_reason == "stopped"
    forget_talk(name)
    model.gate.release(100)
    assert list(first)[-1].finish_reason == "stop"
    assert ask(folder)[0] == "0 1 2 " and model.answers == 2
    assert read_talk(name) is None, "what was forgotten meanwhile has come back"


def test_a_failure_is_told_and_the_next_answer_works(folder, model):
    model.fails_at = 2
    answer = chat.answer(folder, QUESTION)
    assert [next(answer).text, next(answer).text] == ["0 ", "1 "]
    with pytest.raises(UserError) as caught:
        next(answer)
    assert caught.value.key == "chat.out_of_memory" and "CUDA" in caught.value.text()
    assert ask(folder)[0] == "0 1 2 3 4 "


def test_a_conversation_that_is_too_long_is_told_with_numbers(folder):
    with pytest.raises(UserError) as caught:
        list(chat.answer(folder, [{"role": "user", "content": "x" * 1000}]))
    assert caught.value.key == "chat.context_overflow"
    assert "1000 tokens" in caught.value.text()
    assert ask(folder)[1].finish_reason == "stop"


def test_too_little_room_for_what_is_asked_is_told_before_it_begins(folder, model):
    long = [{"role": "user", "content": "x" * 900}]
    with pytest.raises(UserError) as caught:
        list(chat.answer(folder, long, max_new_tokens=101))
    assert caught.value.key == "chat.no_room" and model.answers == 0
    assert "100" in caught.value.text()
    assert list(chat.answer(folder, long, max_new_tokens=100))[-1].tokens == 5


def test_a_thought_that_the_template_begins_is_part_of_the_answer(folder, model):
    model.tail = lambda prompt: "<|assistant|><think>\n"
    text, last = ask(folder)
    assert text == "<think>0 1 2 3 4 " and last.tokens == 5


def test_an_answer_ends_where_the_context_ends(folder, model):
    model.end = 100
    last = list(chat.answer(folder, [{"role": "user", "content": "x" * 990}]))[-1]
    assert (last.tokens, last.finish_reason) == (10, "length")


def test_answers_are_given_one_at_a_time_to_all_who_ask(folder):
    found = []
    threads = [threading.Thread(target=lambda: found.append(ask(folder)[0])) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert found == ["0 1 2 3 4 "] * 8


def test_only_who_knows_the_key_is_let_in(folder):
    host, port, _ = _address(folder)
    with pytest.raises(AuthenticationError):
        Client((host, port), authkey=b"guessed")
    assert stat.S_IMODE(folder.address.stat().st_mode) == 0o600
    assert host == "127.0.0.1"


def test_a_visitor_who_says_nothing_keeps_nobody_waiting(folder):
    with socket.create_connection(_address(folder)[:2]):
        assert ask(folder)[0] == "0 1 2 3 4 "


def test_nonsense_from_outside_is_survived(folder):
    with socket.create_connection(_address(folder)[:2]) as visitor:
        visitor.sendall(b"GET / HTTP/1.1\r\n\r\n" + b"\xff" * 500)
    with Client(tuple(_address(folder)[:2]), authkey=_address(folder)[2]) as visitor:
        visitor.send_bytes(b"[1, 2")
    assert ask(folder)[0] == "0 1 2 3 4 "


def test_a_worker_that_is_gone_is_told(tmp_path, model):
    folder = Folder(tmp_path)
    update_state(folder, kind="chat", status="stopped", pid=None)
    with Door(folder):
        pass
    assert not folder.address.exists()
    with pytest.raises(UserError) as caught:
        list(chat.answer(folder, QUESTION))
    assert caught.value.key == "chat.ended"


def test_why_a_worker_could_not_load_is_told(tmp_path):
    folder = Folder(tmp_path)
    update_state(folder, kind="chat", status="failed", error={"key": "model_folder_missing", "facts": {"path": "/x"}})
    with pytest.raises(UserError) as caught:
        chat.wait_until_ready(folder, 5)
    assert caught.value.key == "model_folder_missing" and "/x" in caught.value.text()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["Hi", "<|e", "nd|>", "more"], "Hi"),
        (["Hi<|end|>more"], "Hi"),
        (["a <|", "b"], "a <|b"),
        (["a<", "|end|", "x"], "a<|end|x"),
        (["<<|end|>"], "<"),
    ],
)
def test_stop_words_end_an_answer_wherever_it_is_cut(given, expected):
    stop_words, text = StopWords(("<|end|>",)), ""
    for part in given:
        text += stop_words.add(part)
        if stop_words.is_found:
            break
    assert text + stop_words.finish() == expected


def test_text_kept_back_comes_at_the_end(model):
    class Late(CountingModel):
        def reader(self):
            class Reader:
                add = staticmethod(lambda token: "")
                finish = staticmethod(lambda: "late")

            return Reader()

    found = list(pieces(Late(), QUESTION, ChatJob()))
    assert [piece.text for piece in found] == ["late"]


def _address(folder):
    content = json.loads(folder.address.read_text())
    return content["host"], content["port"], bytes.fromhex(content["key"])
