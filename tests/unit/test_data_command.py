"""``python app.py data …``, in this process: what is printed, and the exit code."""

from __future__ import annotations

import json

import pytest

from engine.errors import Refused, UserError
from engine.words import LANGUAGES, has_words
from terminal.data import data

HELLO = {"instruction": "Hi?", "input": "", "output": "Hello."}
INFO = {
    "greetings": {"file_name": "greetings.json"},
    "pairs": {"file_name": "pairs.json", "ranking": True, "columns": {"prompt": "q", "chosen": "c", "rejected": "r"}},
    "judged": {"file_name": "judged.json", "columns": {"prompt": "q", "response": "a", "kto_tag": "good"}},
    "broken": {"file_name": "broken.jsonl"},
    "texts": {"file_name": "texts.txt", "columns": {"prompt": "text", "response": None}},
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "data"
    folder.mkdir()
    rows = [{**HELLO, "output": f"Hello {number}."} for number in range(1, 8)]
    (folder / "dataset_info.json").write_text(json.dumps(INFO), "utf-8")
    (folder / "greetings.json").write_text(json.dumps(rows), "utf-8")
    (folder / "pairs.json").write_text(json.dumps([{"q": "Hi?", "c": "Good.", "r": "Bad."}]), "utf-8")
    (folder / "judged.json").write_text(json.dumps([{"q": "Hi?", "a": "Hello.", "good": False}]), "utf-8")
    (folder / "broken.jsonl").write_text(json.dumps(HELLO) + "\n{oops\n" + json.dumps(HELLO) + "\n", "utf-8")
    (folder / "texts.txt").write_text("A line.\nAnother \x1b[31m.\n", "utf-8")
    return folder


def lines(capsys):
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_list(folder, capsys):
    assert data(["list"], "en") == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in INFO)
    assert data(["list", "--json"], "en") == 0
    shown = {each.pop("name"): each for each in lines(capsys)}
    texts = shown.pop("texts")
    assert texts["columns"]["prompt"] == "text" and texts["file_name"] == "texts.txt"
    assert shown == {name: entry for name, entry in INFO.items() if name != "texts"}


def test_without_a_template_the_rows_are_shown_as_they_are(folder, capsys):
    assert data(["show", "greetings", "--limit", "1"], "en") == 0
    assert json.loads(capsys.readouterr().out) == {**HELLO, "output": "Hello 1."}
    assert data(["show", "greetings", "--offset", "2", "--limit", "2", "--json"], "en") == 0
    assert [(each["row"], each["content"]["output"]) for each in lines(capsys)] == [(3, "Hello 3."), (4, "Hello 4.")]


def test_segments_are_what_is_rendered_and_what_is_learned(folder, capsys):
    assert data(["show", "greetings", "--template", "llama3", "--row", "7", "--json"], "en") == 0
    (row,) = lines(capsys)
    assert set(row) == {"row", "segments"} and row["row"] == 7
    learned = [each["text"] for each in row["segments"] if each["learned"]]
    assert learned == ["Hello 7.<|eot_id|>"]
    assert "".join(each["text"] for each in row["segments"]) == (
        "@bos@<|start_header_id|>user<|end_header_id|>\n\nHi?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nHello 7.<|eot_id|>"
    )


def test_the_name_may_stand_anywhere(folder, capsys):
    shown = []
    for typed in (
        ["greetings", "--template", "qwen", "--limit", "1", "--json"],
        ["--template", "qwen", "--limit=1", "--json", "greetings"],
        ["--json", "greetings", "--limit", "1", "template=qwen"],
        ["--train_on_prompt", "false", "greetings", "--template=qwen", "--limit", "1", "--json"],
        ["--json", "--template", "qwen", "--limit", "1", "--dataset", "greetings"],
    ):
        assert data(["show", *typed], "en") == 0
        shown += lines(capsys)
    assert len(shown) == 5 and all(each == shown[0] for each in shown)


def test_a_switch_before_the_name_is_a_switch(folder, capsys):
    assert data(["show", "--train_on_prompt", "greetings", "--template", "qwen", "--limit", "1", "--json"], "en") == 0
    (row,) = lines(capsys)
    assert [each["learned"] for each in row["segments"]] == [True]


def test_two_answers_and_a_verdict(folder, capsys):
    assert data(["show", "pairs", "--template", "qwen", "--json"], "en") == 0
    (row,) = lines(capsys)
    for side, answer in (("chosen", "Good."), ("rejected", "Bad.")):
        learned = [each["text"] for each in row[side]["segments"] if each["learned"]]
        assert len(learned) == 1 and learned[0].startswith(answer)
    assert set(row) == {"row", "chosen", "rejected"}
    assert data(["show", "judged", "--template", "qwen", "--json"], "en") == 0
    (row,) = lines(capsys)
    assert row["desirable"] is False and [each["learned"] for each in row["segments"]] == [False, True]


@pytest.mark.parametrize("options", [[], ["--template", "qwen"]], ids=["as it is", "rendered"])
def test_a_row_that_cannot_be_used_says_why_and_the_others_are_shown(folder, capsys, options):
    assert data(["show", "broken", "--json", *options], "en") == 1
    rows = lines(capsys)
    assert [each["row"] for each in rows] == [1, 2, 3]
    assert ["error" in each for each in rows] == [False, True, False]
    assert "line 2, column 2" in rows[1]["error"]


def test_readable_rows_mark_what_is_learned_and_move_no_cursor(folder, capsys):
    assert data(["show", "greetings", "--template", "qwen", "--limit", "1"], "en") == 0
    assert "⟦Hello 1.<|im_end|>\n⟧" in capsys.readouterr().out
    assert data(["show", "texts", "--template", "qwen"], "en") == 0
    shown = capsys.readouterr().out
    assert "⟦A line.@eos@⟧" in shown and "\x1b" not in shown


@pytest.mark.parametrize(
    ("typed", "key"),
    [
        (["show"], "dataset_missing"), (["show", "greetings", "pairs"], "unexpected_word"),
        (["show", "greetings", "--limit", "many"], "not_an_integer"),
        (["show", "greetings", "--limit", "0"], "out_of_range"),
        (["show", "greetings", "--limit"], "flag_without_value"),
        (["show", "greetigns"], "dataset_unknown_near"), (["shwo"], "unknown_command"),
        (["show", "greetings", "--template", "qwem"], "template_unknown_near"),
        (["lint"], "dataset_missing"), (["lint", "nobody"], "dataset_unknown"),
        (["lengths", "greetings", "--eval_dataset", "nobody"], "dataset_unknown"),
        (["list", "--jsn"], "unknown_option_near"), (["unregister"], "dataset_missing"),
        (["register", "data/greetings.json", "--name", "x", "--split", "test"], "unknown_option"),
        (["register", "data/greetings.json"], "register_needs"), (["register", "--name", "x"], "register_needs"),
        (["register", "data/none.json", "--name", "x"], "dataset_file_missing"),
        (["register", "data/greetings.json", "--name", "x", "--columns", "promt=q"], "register_pair"),
        (["register", "data/greetings.json", "--name", "greetings"], "dataset_name_taken"),
        (["unregister", "nobody"], "dataset_unknown"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_refused_with_its_reason(folder, typed, key):
    with pytest.raises(UserError) as error:
        data(typed, "en")
    assert error.value.key == key


def test_an_option_that_is_misspelt_is_refused_with_the_nearest(folder):
    with pytest.raises(Refused) as error:
        data(["show", "greetings", "--tempalte", "qwen"], "en")
    assert 'Did you mean "template"?' in error.value.text()


def test_register_and_unregister_touch_one_entry(folder, capsys):
    own = folder.parent / "own rows.jsonl"
    own.write_text(json.dumps({"question": "Hi?", "reply": "Hello."}) + "\n", "utf-8")
    columns = ["--columns", "prompt=question,response=reply"]
    assert data(["register", str(own), "--name", "own", *columns], "en") == 0
    info = json.loads((folder / "dataset_info.json").read_text("utf-8"))
    assert info.pop("own") == {
        "columns": {"prompt": "question", "response": "reply"}, "file_name": str(own)
    }  # fmt: skip
    assert info == INFO
    capsys.readouterr()
    assert data(["show", "own", "--template", "qwen", "--json"], "en") == 0
    assert lines(capsys)[0]["segments"][-1]["text"].startswith("Hello.")
    assert data(["unregister", "own"], "en") == 0
    assert json.loads((folder / "dataset_info.json").read_text("utf-8")) == INFO
    assert own.is_file()


def test_a_file_whose_format_is_recognised_needs_no_columns(folder):
    own = folder / "talk.jsonl"
    turns = [{"role": "user", "content": "Hi?"}, {"role": "assistant", "content": "Hello."}]
    own.write_text(json.dumps({"messages": turns}) + "\n", "utf-8")
    assert data(["register", str(own), "--name", "talk"], "en") == 0
    entry = json.loads((folder / "dataset_info.json").read_text("utf-8"))["talk"]
    assert entry["formatting"] == "openai" and entry["file_name"] == "talk.jsonl"


def test_registering_says_which_text_is_left_out(folder, capsys):
    own = folder / "own.jsonl"
    own.write_text(json.dumps({**HELLO, "thought": "Greet back.", "id": "a"}) + "\n", "utf-8")
    assert data(["register", str(own), "--name", "own"], "en") == 0
    assert "not used: thought." in capsys.readouterr().err
    assert data(["register", str(own), "--name", "by hand", "--columns", "response=output"], "en") == 0
    assert "thought" not in capsys.readouterr().err


@pytest.fixture
def checked_here(folder, monkeypatch):
    """Checks run in this process, which has no model."""
    pytest.importorskip("torch")
    from engine.runs.folder import Folder
    from engine.runs.record import Recorder, write_job
    from engine.work.inspect import run

    def start(job, language):
        run_folder = Folder(folder.parent / "check")
        run_folder.path.mkdir()
        write_job(run_folder, job, language)
        run(job, Recorder(run_folder))
        return run_folder

    monkeypatch.setattr("terminal.data_check.start", start)
    monkeypatch.setattr("terminal.data_check.stay_with", lambda *_, **__: 0)


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("u16.json", json.dumps([HELLO]).encode("utf-16"), "wrong_encoding"),
        ("empty.json", b"", "not_json"),
        ("cut.json", b"[{", "not_json"),
        ("numbers.json", b'[{"x": 1}]', "unrecognised"),
        ("cut.parquet", b"PAR1", "not_json"),
        ("more.json", json.dumps([{**HELLO, "thought": "Greet back.", "id": "a"}]).encode(), "unused_column"),
    ],
)
def test_a_file_that_is_wrong_is_a_finding(folder, checked_here, capsys, name, content, kind):
    (folder / name).write_bytes(content)
    path = str(folder / name)
    assert data(["lint", path, "--model_name_or_path", "none", "--json"], "en") == 1
    (report,) = lines(capsys)
    assert report["kinds"] == {kind: 1}
    (finding,) = report["findings"]
    assert finding["row"] is None and path in finding["text"] and "{" not in finding["text"]
    assert has_words(f"page.findings.{kind}")


@pytest.mark.parametrize("word", ["list", "show", "lint", "lengths", "register", "unregister"])
def test_every_word_has_help(word, capsys):
    assert data([word, "--help"], "en") == 0
    shown = capsys.readouterr().out
    assert f"python app.py data {word}" in shown
    assert ("--cutoff_len" in shown) == (word in ("show", "lint", "lengths"))


@pytest.mark.parametrize("language", LANGUAGES)
def test_help_in_every_language(language, capsys):
    assert data([], language) == 0
    assert "python app.py data lint" in capsys.readouterr().out


def test_a_row_that_is_not_there_is_said(folder, capsys):
    name = next(iter(json.loads((folder / "dataset_info.json").read_text())))
    assert data(["show", name, "--dataset_dir", str(folder), "--row", "999"], "en") == 1
    assert "no such row" in capsys.readouterr().err
