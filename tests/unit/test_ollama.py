"""An Ollama server: what is sent to the tests' own, what is made of its answers, and what is refused before."""

from __future__ import annotations

import hashlib
import threading

import pytest

from engine.catalog.modelfile import Modelfile
from engine.catalog.ollama import look, ollama_host, remove
from engine.catalog.reasoning import parted
from engine.errors import Refused, UserError
from engine.options.command import parse
from engine.options.jobs import ChatJob, OllamaJob
from engine.runs.folder import Folder
from engine.runs.record import Recorder, StopRequested
from engine.runs.start import folder_for, start
from engine.work import ollama as work
from engine.work.ollama_chat import OllamaChat
from tests.ollama_server import OllamaServer

TEMPLATE = "{{ range $i, $_ := .Messages }}<|{{ .Role }}|>{{ .Content }}\n{{ end }}<|assistant|>"
MODELFILE = f"""FROM ./demo.gguf

TEMPLATE \"\"\"{TEMPLATE}\"\"\"

SYSTEM \"\"\"Say "yes"
or "no".\"\"\"

PARAMETER stop "<|user|>"
PARAMETER stop "
"
PARAMETER temperature 0.3
PARAMETER top_k 5
"""


@pytest.fixture
def server(tmp_path, monkeypatch):
    with OllamaServer(tmp_path / "ollama") as server:
        monkeypatch.setenv("OLLAMA_HOST", server.host)
        yield server
        assert server.faults == []


@pytest.fixture
def gguf(tmp_path):
    """What begins as a .gguf file does, with a Modelfile; the tests' server asks for no more to make a model."""
    path = tmp_path / "demo.gguf"
    path.write_bytes(b"GGUF" + bytes(range(256)) * 20_000)
    path.with_name("Modelfile").write_text(MODELFILE)
    return path


@pytest.fixture
def recorder(tmp_path):
    folder = Folder(tmp_path / "run")
    folder.path.mkdir()
    return Recorder(folder)


def create(gguf, recorder, **options):
    return work.run(OllamaJob(ollama="me/Mine", gguf=str(gguf), **options), recorder)


def test_a_model_is_made_and_removed(server, gguf, recorder):
    digest = "sha256:" + hashlib.sha256(gguf.read_bytes()).hexdigest()
    result = create(gguf, recorder)
    assert result["sent"] is True and result["digest"] == digest
    assert next(body for _, path, body in server.asked if path == "/api/create") == {
        "model": "me/Mine", "stream": True, "files": {"demo.gguf": digest}, "template": TEMPLATE,
        "system": 'Say "yes"\nor "no".', "parameters": {"stop": ["<|user|>", "\n"], "temperature": 0.3, "top_k": 5},
    }  # fmt: skip
    assert ("POST", f"/api/blobs/{digest}", gguf.stat().st_size) in server.asked
    sizes = [line for line in recorder.folder.events.read_text().splitlines() if "ollama_sending" in line]
    assert f'"current": {gguf.stat().st_size}, "total": {gguf.stat().st_size}, "unit": "bytes"' in sizes[-1]
    seen = look()
    assert seen.version == "0.99.0-test"
    assert [(each.name, each.size_bytes, each.kind) for each in seen.models] == [
        ("me/Mine:latest", gguf.stat().st_size, "F16")
    ]
    remove("me/Mine")
    assert look().models == ()
    with pytest.raises(UserError) as caught:
        remove("me/Mine")
    assert caught.value.key == "ollama.model_missing"


def test_what_is_there_is_neither_replaced_nor_sent_again(server, gguf, recorder):
    create(gguf, recorder)
    with pytest.raises(UserError) as caught:
        create(gguf, recorder)
    assert caught.value.key == "ollama.exists"
    gguf.with_name("Modelfile").write_text(MODELFILE.replace("0.3", "0.4"))
    assert create(gguf, recorder, overwrite=True)["sent"] is False
    assert server.models["me/Mine:latest"]["parameters"]["temperature"] == 0.4
    assert len([path for path in server.paths("POST") if path.startswith("/api/blobs/")]) == 1


@pytest.mark.parametrize(
    "system", ['"Lathe" is your name.', '"Yes" or\nno', 'Say """yes"""', "# One\nFROM x ", " a\tb"]
)
def test_quotes_arrive_as_they_are_and_are_no_fault(server, gguf, recorder, system):
    stop = ['"', 'x"y', "\n", " "]
    text = Modelfile("./demo.gguf", TEMPLATE, system, {"stop": stop, "temperature": 1.0}).text
    gguf.with_name("Modelfile").write_text(text)
    create(gguf, recorder)
    has = server.models["me/Mine:latest"]
    assert (has["system"], has["parameters"]) == (system, {"stop": stop, "temperature": 1.0})


@pytest.mark.parametrize(
    ("changes", "what"),
    [({"template": "{{ .Prompt }}", "parameters": {"stop": ["x"]}}, "TEMPLATE, PARAMETER stop, PARAMETER temperature, "
      "PARAMETER top_k"), ({"system": "Say no."}, "SYSTEM"),
     ({"parameters": {"stop": ["<|user|>", "\n", "x"], "temperature": 0.3, "top_k": 5}}, "PARAMETER stop")],
)  # fmt: skip
def test_another_model_than_was_sent_is_told(server, gguf, recorder, changes, what):
    server.changes = changes
    with pytest.raises(UserError) as caught:
        create(gguf, recorder)
    assert caught.value.key == "ollama.not_as_sent" and caught.value.facts["what"] == what


def test_a_stop_in_the_middle_of_an_upload_leaves_nothing(server, gguf, recorder):
    server.wait_after = 100_000

    def stop_it():
        server.is_waiting.wait(30)
        recorder.folder.stop_request.touch()
        server.wait_after = None
        server.go_on.set()

    gguf.write_bytes(b"GGUF" + bytes(256) * 100_000)  # more than the connection holds on its way
    threading.Thread(target=stop_it, daemon=True).start()
    with pytest.raises(StopRequested):
        create(gguf, recorder)
    assert server.models == {} and "/api/create" not in server.paths("POST")
    recorder.folder.stop_request.unlink()
    assert create(gguf, recorder)["sent"] is True


@pytest.mark.parametrize(
    ("host", "key", "shown"),
    [
        ("127.0.0.1:9", "ollama.no_server", "127.0.0.1:9"),
        ("127.0.0.1:door", "ollama.host_wrong", "127.0.0.1:door"),
        ("http://me:secret@127.0.0.1:9", "ollama.no_server", "http://127.0.0.1:9"),
    ],
)
def test_no_server(monkeypatch, host, key, shown):
    monkeypatch.setenv("OLLAMA_HOST", host)
    with pytest.raises(UserError) as caught:
        look(2.0)
    assert caught.value.key == key and ollama_host() == shown
    assert "secret" not in caught.value.text()


def test_another_server_than_ollama(server, monkeypatch):
    monkeypatch.setattr(server, "tags", lambda: {"items": []})
    with pytest.raises(UserError) as caught:
        look()
    assert caught.value.key == "ollama.not_ollama"


def test_what_is_not_there_is_seen_before_the_start(workplace, gguf):
    wrong, adapter = workplace / "wrong.gguf", workplace / "adapter"
    wrong.write_bytes(b"GGXF")
    adapter.write_text("ADAPTER ./lora\nFROM ./wrong.gguf\n")
    for options, key in (
        ({"gguf": "none.gguf"}, "ollama.gguf_missing"),
        ({"gguf": str(wrong)}, "ollama.no_gguf"),
        ({"gguf": str(gguf), "modelfile": str(adapter)}, "ollama.modelfile_line"),
        ({"gguf": str(gguf), "modelfile": "none"}, "ollama.modelfile_unreadable"),
    ):
        with pytest.raises(Refused) as caught:
            start(OllamaJob(ollama="mine", **options))
        assert [problem.key for problem in caught.value.problems] == [key]


@pytest.mark.parametrize(
    ("job_type", "words", "keys"),
    [
        (OllamaJob, [], {"ollama.name_missing", "ollama.file_missing"}),
        (OllamaJob, ["--ollama", "a b", "--gguf", "x"], {"ollama.name_wrong"}),
        (ChatJob, ["--ollama", "a", "--gguf", "x"], {"ollama.and_gguf"}),
    ],
)
def test_what_does_not_go_together(job_type, words, keys):
    with pytest.raises(Refused) as caught:
        parse(job_type, words)
    assert {problem.key for problem in caught.value.problems} == keys


def test_a_silent_server_is_left_at_once_and_a_broken_answer_is_told(server, gguf, recorder, monkeypatch):
    create(gguf, recorder)
    is_asked, go_on = threading.Event(), threading.Event()

    def answers(path, prompt, options):
        is_asked.set()
        go_on.wait(30)
        yield {"message": {"role": "assistant", "content": "Yes"}, "done": False}

    monkeypatch.setattr(server, "_generate", answers)
    job = ChatJob(ollama="me/Mine", max_new_tokens=3, sampling_seed=4)
    model = OllamaChat(job)
    said = [{"role": "user", "content": "Well?"}]
    pieces = list(model.pieces(said, job, is_stopped=is_asked.is_set))
    assert [(piece.text, piece.finish_reason) for piece in pieces] == [("", "stopped")]
    go_on.set()
    with pytest.raises(UserError) as caught:  # an answer without its last part
        list(model.pieces(said, job))
    assert caught.value.key == "ollama.cut_off"
    assert server.prompts[-1].startswith('<|system|>Say "yes"\nor "no".\n<|user|>Well?\n')


def test_tools_are_shown_and_calls_and_thoughts_are_told(server, gguf, recorder, monkeypatch):
    """Ollama tells thought, answer and calls apart; a chat has them in one text, as a model writes them."""
    create(gguf, recorder)
    server.models["me/Mine:latest"]["template"] = "{{ .Tools }}" + TEMPLATE
    call = {"function": {"name": "weather", "arguments": {"city": "Zürich"}}}
    says = [{"thinking": "Hm, "}, {"thinking": "well."}, {"content": "I ask. "}, {"content": "", "tool_calls": [call]}]

    def answers(path, prompt, options):
        for each in says:
            yield {"message": {"role": "assistant", "content": "", **each}, "done": False}
        yield {"message": {"role": "assistant", "content": ""}, "done": True, "done_reason": "stop", "eval_count": 9}

    monkeypatch.setattr(server, "_generate", answers)
    tools = '[{"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}]'
    job = ChatJob(ollama="me/Mine", tools=tools, enable_thinking=True)
    model = OllamaChat(job)
    turns = [{"role": "user", "content": "A"}, {"role": "assistant", "content": "<think>\nx\n</think>\n\nB"}]
    text = "".join(piece.text for piece in model.pieces([*turns, {"role": "user", "content": "C"}], job))
    spoken = 'I ask. <tool_call>\n{"name": "weather", "arguments": {"city": "Zürich"}}\n</tool_call>'
    assert parted(text) == ("Hm, well.", spoken, False)
    sent = server.asked[-1][2]
    assert [tool["function"]["name"] for tool in sent["tools"]] == ["weather"] and sent["think"] is True
    assert sent["messages"][1] == {"role": "assistant", "content": "B", "thinking": "x"}
    del says[2:]
    text = "".join(piece.text for piece in model.pieces(turns[:1], job))
    assert parted(text) == ("Hm, well.", "", False)
    server.models["me/Mine:latest"]["template"] = TEMPLATE
    with pytest.raises(UserError, match="does not support tools"):
        list(model.pieces(turns[:1], job))
    list(model.pieces(turns[:1], ChatJob(ollama="me/Mine")))
    assert not server.asked[-1][2].get("tools") and "think" not in server.asked[-1][2]


def test_the_job_says_where_its_run_lies(workplace):
    assert folder_for(OllamaJob(ollama="me/mine:q8", gguf="x.gguf")).name.startswith("mine_q8/ollama/ollama_")
