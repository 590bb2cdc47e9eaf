"""``data show`` with a model prints what the trainer's data loader yields; ``data lint`` and ``lengths`` as typed."""

from __future__ import annotations

import json

import pytest

from engine.catalog.datasets import find_entry, read_rows, to_example
from engine.errors import Refused
from engine.options.jobs import DataJob
from engine.work import show
from engine.work.encode import Encoder
from engine.work.load import load_tokenizer
from terminal.data import data

TURNS = [
    {"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi?"},
    {"role": "assistant", "content": "Hello, 你好!"}, {"role": "user", "content": "And?"},
    {"role": "assistant", "content": "Nothing more. " * 20},
]  # fmt: skip
DATASETS = {
    "asked": ({}, [{"instruction": "Hi?", "input": "", "output": "Hello. " * 40}, {"instruction": "No answer"}]),
    "talks": ({"formatting": "openai"}, [{"messages": TURNS}]),
    "pairs": ({"ranking": True, "columns": {"prompt": "q", "chosen": "c", "rejected": "r"}},
              [{"q": "Hi?", "c": "Hello.", "r": "Go away. " * 40}]),
    "judged": ({"columns": {"prompt": "q", "response": "a", "kto_tag": "good"}},
               [{"q": "Hi?", "a": "Hello.", "good": True}]),
    "texts": ({"columns": {"prompt": "text", "response": None}}, [{"text": "A text of some words. " * 20}]),
}  # fmt: skip


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    info = {name: {**entry, "file_name": f"{name}.json"} for name, (entry, _) in DATASETS.items()}
    (tmp_path / "data" / "dataset_info.json").write_text(json.dumps(info), "utf-8")
    for name, (_, rows) in DATASETS.items():
        (tmp_path / "data" / f"{name}.json").write_text(json.dumps(rows), "utf-8")
    return tmp_path / "data"


def expected(folder, name, model, options):
    """Of each row what the trainer encodes, or None where it cannot."""
    job = DataJob.from_values({"dataset": name, "model_name_or_path": str(model), **options})
    encoder = Encoder(job, load_tokenizer(model, job))
    entry = find_entry(folder, name)
    for number, content in read_rows(entry):
        if "No answer" in content.values():
            yield None
        else:
            encoded = encoder.encode([to_example(content, entry, number)])[0]
            yield [{"input_ids": each.input_ids, "labels": each.labels} for each in encoded]


@pytest.mark.parametrize("name", DATASETS)
@pytest.mark.parametrize("options", [{}, {"cutoff_len": 24, "mask_history": True}], ids=str)
def test_shown_is_what_is_trained_on(folder, tiny_model, capsys, name, options):
    values = {"dataset": name, "dataset_dir": str(folder), "model_name_or_path": str(tiny_model), **options}
    assert show.main({"options": values, "first": 1, "count": 9, "language": "en"}) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    for line, sequences in zip(lines, expected(folder, name, tiny_model, options), strict=True):
        if sequences is None:
            assert set(line) == {"row", "error"} and "output" in line["error"]
            continue
        shown = [line[side] for side in ("chosen", "rejected") if side in line] or [line]
        assert [{key: each[key] for key in ("input_ids", "labels")} for each in shown] == sequences
        assert ("desirable" in line) == (name == "judged")


def test_segments_joined_are_the_chat_template_of_the_tokenizer(folder, tiny_model, capsys):
    values = {"dataset": "talks", "dataset_dir": str(folder), "model_name_or_path": str(tiny_model)}
    show.main({"options": values, "first": 1, "count": 1, "language": "en"})
    (line,) = map(json.loads, capsys.readouterr().out.splitlines())
    tokenizer = load_tokenizer(tiny_model, DataJob())
    whole = "".join(each["text"] for each in line["segments"])
    assert whole == tokenizer.apply_chat_template(TURNS, tokenize=False)
    learned = "".join(each["text"] for each in line["segments"] if each["learned"])
    assert tokenizer.decode([label for label in line["labels"] if label >= 0]) == learned


def test_the_command_gives_the_same_from_a_process_of_its_own(folder, tiny_model, capsys):
    assert data(["show", "asked", "--model_name_or_path", str(tiny_model), "--json"], "en") == 1
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    first, second = expected(folder, "asked", tiny_model, {})
    assert {key: lines[0][key] for key in ("input_ids", "labels")} == first[0]
    assert second is None and "error" in lines[1]


def test_a_model_that_is_not_there_is_said_with_its_reason(folder):
    with pytest.raises(Refused) as error:
        data(["show", "asked", "--model_name_or_path", "./nowhere"], "en")
    assert "./nowhere" in error.value.text()


@pytest.mark.parametrize("name", ["asked", "judged"])
def test_lint_prints_what_is_wrong_and_its_exit_code_says_so(folder, capsys, name):
    code = data(["lint", name, "--model_name_or_path", "none", "--clean", "clean.jsonl"], "en")
    shown = capsys.readouterr()
    clean = (folder.parent / "clean.jsonl").read_text("utf-8").splitlines()
    rows = DATASETS[name][1]
    if name == "judged":
        assert code == 0 and "nothing was found" in shown.out
        assert [json.loads(line) for line in clean] == rows
    else:
        assert code == 1 and 'Row 2 of "asked"' in shown.out
        assert [json.loads(line) for line in clean] == rows[:1]


def test_lint_without_the_bundled_model_checks_all_but_tokens(folder, capsys):
    assert data(["lint", "talks", "--json"], "en") == 0
    shown = capsys.readouterr()
    report = json.loads(shown.out)
    assert (report["model"], report["rows"], report["findings"]) == (None, 1, [])
    assert "--model_name_or_path" in shown.err


def test_lengths_prints_a_picture_and_what_the_cutoff_takes(folder, tiny_model, capsys):
    typed = ["lengths", "talks", "--model_name_or_path", str(tiny_model), "--cutoff_len", "24", "--batch", "2"]
    assert data(typed, "en") == 0
    shown = capsys.readouterr().out
    (sequences,) = expected(folder, "talks", tiny_model, {"cutoff_len": 4096})
    longest = len(sequences[0]["input_ids"])
    assert "█ 1\n" in shown and f"the longest has {longest}." in shown and f"P95 {longest}: 0 rows cut" in shown
    assert f"cutoff_len 24: 1 rows cut, {longest - 24} tokens lost" in shown
    assert shown.rstrip().endswith("0.0 % padding in batches of 2")


def test_an_error_of_all_rows_is_told_apart_from_the_rows(folder, capsys):
    request = {"options": {"dataset": "nobody", "dataset_dir": str(folder)}, "first": 1, "count": 1, "language": "en"}
    assert show.main(request) == 2
    assert json.loads(capsys.readouterr().err)["key"] == "dataset_unknown"
