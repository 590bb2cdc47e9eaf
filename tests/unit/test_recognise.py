"""The format of a file is seen in its first rows; what is recognised reads every one of them."""

from __future__ import annotations

import json

import pytest

from engine.catalog.conversations import Example, Judged, Preference, Text, row_faults, to_example
from engine.catalog.datasets import find_entry
from engine.catalog.entry import OPENAI_COLUMNS, OPENAI_TAGS, Columns, Tags, description_of, entry_from
from engine.catalog.recognise import columns_of, recognise, unused_columns
from tests.unit.test_datasets import ROW, refused

ASK = {"role": "user", "content": "Q"}
GOOD, BAD = ({"role": "assistant", "content": text} for text in "AB")
SFT = Example((ASK, GOOD))
WITH_INPUT = Example(({"role": "user", "content": "Q\nI"}, GOOD))
RANKED = Preference((ASK,), GOOD, BAD)


def pair(role: str, content: str, user: str, assistant: str) -> list[dict]:
    return [{role: user, content: "Q"}, {role: assistant, content: "A"}]


@pytest.mark.parametrize(
    ("row", "formatting", "columns"),
    [
        (ROW, "alpaca", Columns()),
        ({**ROW, "system": "Be brief.", "history": []}, "alpaca", Columns(system="system", history="history")),
        ({"prompt": "1 + 1", "completion": "2"}, "alpaca", Columns(prompt="prompt", query=None, response="completion")),
        ({"conversations": [{"from": "human", "value": "x"}]}, "sharegpt", Columns()),
        ({"messages": [{"role": "user", "content": "x"}]}, "openai", OPENAI_COLUMNS),
        ({"text": "Once upon a time"}, "alpaca", Columns(prompt="text", query=None, response=None)),
    ],
)
def test_the_format_of_a_file_is_recognised(tmp_path, row, formatting, columns):
    (tmp_path / "rows.jsonl").write_text(json.dumps(row))
    entry = find_entry(tmp_path, str(tmp_path / "rows.jsonl"))
    assert (entry.formatting, entry.columns) == (formatting, columns)
    assert entry.tags == (OPENAI_TAGS if formatting == "openai" else Tags())
    assert not entry.placeholders


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"instruction": "Q", "output": "A"}, SFT),
        ({"instruction": "Q", "input": "", "response": "A", "id": 5}, SFT),
        ({"instruction": "Q", "context": "", "response": "A", "category": "x"}, SFT),
        ({"prompt": "Q", "response": "A"}, SFT),
        ({"question": "Q", "answer": "A"}, SFT),
        ({"query": "Q", "response": "A"}, SFT),
        ({"problem": "Q", "solution": "A"}, SFT),
        ({"prompt": "Q", "input": "I", "completion": "A"}, WITH_INPUT),
        ({"prompt": "Q", "input": "I", "response": "A"}, WITH_INPUT),
        ({"prompt": "Q", "input": "I", "output": "A"}, WITH_INPUT),
        ({"question": "Q", "context": "I", "answer": "A"}, WITH_INPUT),
        ({"question": "Q", "context": {"pages": []}, "answer": "A"}, SFT),
        ({"input": "Q", "output": "A"}, SFT),
        ({"conversations": pair("from", "value", "human", "gpt")}, SFT),
        ({"conversations": pair("from", "value", "user", "assistant")}, SFT),
        ({"conversations": pair("role", "content", "user", "assistant"), "id": "x"}, SFT),
        ({"messages": pair("role", "content", "human", "bot")}, SFT),
        ({"messages": pair("role", "value", "user", "assistant")}, SFT),
        ({"dialogue": pair("speaker", "text", "Human", "Assistant")}, SFT),
        ({"conversation": [{"human": "Q", "assistant": "A"}]}, SFT),
        ({"conversation": [{"input": "Q", "output": "A"}]}, SFT),
        ({"conversations": [["Q", "A"]]}, SFT),
        ({"prompt": "Q", "chosen": "A", "rejected": "B"}, RANKED),
        ({"instruction": "Q", "input": "", "chosen": "A", "rejected": "B"}, RANKED),
        ({"question": "Q", "chosen": "A", "rejected": "B"}, RANKED),
        ({"chosen": [ASK, GOOD], "rejected": [ASK, BAD]}, RANKED),
        ({"prompt": "Q", "messages": [ASK, GOOD], "chosen": [ASK, GOOD], "rejected": [ASK, BAD]}, RANKED),
        ({"prompt": [ASK], "chosen": [GOOD], "rejected": [BAD]}, RANKED),
        ({"prompt": "Q", "chosen": [GOOD], "rejected": [BAD]}, RANKED),
        ({"messages": [ASK], "chosen": GOOD, "rejected": BAD}, RANKED),
        ({"messages": [ASK], "chosen": "A", "rejected": "B"}, RANKED),
        (
            {
                "conversations": [{"from": "human", "value": "Q"}],
                "chosen": {"from": "gpt", "value": "A"},
                "rejected": {"from": "gpt", "value": "B"},
            },
            RANKED,
        ),
        ({"prompt": "Q", "completion": "A", "label": True}, Judged((ASK, GOOD), True)),
        ({"messages": [ASK, GOOD], "label": False}, Judged((ASK, GOOD), False)),
        ({"instruction": "Q", "output": "A", "kto_tag": "false"}, Judged((ASK, GOOD), False)),
        ({"question": "Q", "answer": "A", "label": True}, SFT),
        ({"prompt": "Q", "completion": "A", "label": 3}, SFT),
        ({"text": "Once"}, Text("Once")),
        ({"content": "Once", "url": "x"}, Text("Once")),
    ],
)
def test_rows_of_a_recognised_file_are_read(tmp_path, row, expected):
    """Also after the entry was written down and read back."""
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row))
    entry = recognise(path)
    assert to_example(row, entry) == expected
    registered = entry_from(entry.name, description_of(entry), tmp_path)
    assert to_example(row, registered) == expected


def test_systems_and_tools_beside_the_turns(tmp_path):
    row = {"messages": [ASK, GOOD], "system": "S", "tools": '[{"name": "f"}]'}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row))
    found = to_example(row, recognise(tmp_path / "rows.jsonl"))
    assert found == Example(({"role": "system", "content": "S"}, ASK, GOOD), '[{"name": "f"}]')


def test_speakers_are_looked_for_in_all_of_the_first_rows(tmp_path):
    call, result = ({"role": "function_call", "content": '{"name": "f"}'}, {"role": "observation", "content": "1"})
    rows = [{"messages": [ASK, GOOD]}, {"messages": [ASK, call, result, GOOD]}]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    entry = recognise(tmp_path / "rows.json")
    assert (entry.tags.observation_tag, entry.tags.function_tag) == ("observation", "function_call")
    assert [message["role"] for message in to_example(rows[1], entry).messages] == [
        "user", "assistant", "tool", "assistant",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "row",
    [
        {"x": 1, "y": 2},
        {"chosen": "\n\nHuman: Q", "rejected": "\n\nHuman: Q"},
        {"messages": "none"},
        {"messages": [{"who": "x", "what": "y"}]},
        {"prompt": ["Q"], "completion": ["A"]},
        {"text": 5},
        {},
    ],
)
def test_a_file_of_no_known_format(tmp_path, row):
    (tmp_path / "rows.jsonl").write_text(json.dumps(row))
    error = refused("dataset_unrecognised", recognise, tmp_path / "rows.jsonl")
    assert ", ".join(row) in error.text()


def test_columns_come_from_the_first_rows_whatever_is_broken_between_them(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"b": 1}\nbroken\n{"a": 1, "b": 2}\n' + '{"c": 1}\n' * 30)
    assert columns_of(tmp_path / "rows.jsonl") == ["b", "a", "c"]
    (tmp_path / "broken.jsonl").write_text("broken\nbroken")
    assert refused("dataset_line", columns_of, tmp_path / "broken.jsonl").facts["line"] == 1


# ---- one odd value is a fault of its row


def recognised(tmp_path, rows):
    """What rows are recognised as, and the faults of each row that has any."""
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    entry = recognise(tmp_path / "rows.json")
    faults = {
        number: [fault.key.removeprefix("dataset_row.") for fault in row_faults(row, entry, number)]
        for number, row in enumerate(rows, start=1)
    }
    return entry, {number: keys for number, keys in faults.items() if keys}


CHAT = {"messages": [ASK, GOOD]}
PAIR = {"prompt": "Q", "completion": "A"}


@pytest.mark.parametrize(
    ("good", "odd", "fault"),
    [
        (ROW, {**ROW, "instruction": 7}, "not_text"),
        (ROW, {**ROW, "output": 5}, "not_text"),
        (ROW, {**ROW, "input": {}}, "not_text"),
        (ROW, {"input": "", "output": "x"}, "column_missing"),
        (ROW, CHAT, "column_missing"),
        (ROW, {"prompt": "Q", "chosen": "A", "rejected": "B"}, "column_missing"),
        ({**ROW, "system": "S"}, {**ROW, "system": 5}, "not_text"),
        ({**CHAT, "system": "S"}, {**CHAT, "system": 5}, "not_text"),
        ({**CHAT, "label": True}, {**CHAT, "label": "good"}, "kto_tag"),
        ({**PAIR, "label": False}, {**PAIR, "label": 7}, "kto_tag"),
        ({"text": "Once"}, {"text": 5}, "not_text"),
        (CHAT, {"messages": [{"who": "user", "what": "Q"}, GOOD]}, "no_role"),
        (CHAT, {"messages": [None, GOOD]}, "no_role"),
        (CHAT, {"messages": ["Q", GOOD]}, "no_role"),
        (CHAT, {"messages": None}, "column_missing"),
        (CHAT, {"messages": "none"}, "not_json"),
        (CHAT, {"messages": [ASK, {"role": "bot", "content": "A"}]}, "unknown_role"),
        (CHAT, {"messages": [{"role": "human", "content": "Q"}, GOOD]}, "unknown_role"),
        ({"conversations": pair("from", "value", "human", "gpt")},
         {"conversations": pair("from", "value", "human", "assistant")}, "unknown_role"),
        ({"conversations": pair("from", "value", "human", "gpt")},
         {"conversations": pair("from", "value", "user", "gpt")}, "unknown_role"),
        ({"conversations": pair("from", "value", "human", "gpt")},
         {"conversations": pair("role", "value", "human", "gpt")}, "no_role"),
        ({"conversations": [["Q", "A"]]}, {"conversations": [["Q"]]}, "no_role"),
        ({"prompt": "Q", "chosen": "A", "rejected": "B"}, {"prompt": 7, "chosen": "A", "rejected": "B"}, "not_text"),
        ({"prompt": "Q", "chosen": "A", "rejected": "B"}, {"prompt": "Q", "chosen": 5, "rejected": "B"}, "no_turns"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("position", [0, 3])
def test_one_odd_row_changes_nothing_for_the_others(tmp_path, good, odd, fault, position):
    """Neither as the first row, from which most is seen, nor between the others."""
    rows = [good] * 4
    expected, _ = recognised(tmp_path, rows)
    rows.insert(position, odd)
    entry, faults = recognised(tmp_path, rows)
    assert entry == expected
    assert set(faults) == {position + 1} and fault in faults[position + 1]


def test_no_lesser_pair_stands_in_for_one_whose_values_are_odd(tmp_path):
    rows = [{**ROW, "instruction": number} for number in range(3)] + [ROW]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    refused("dataset_unrecognised", recognise, tmp_path / "rows.json")


@pytest.mark.parametrize(
    ("row", "unused"),
    [
        (ROW, []),
        ({**ROW, "thought": "because", "id": "a-1", "source": "web", "model_name": "x", "score": 5}, ["thought"]),
        ({**CHAT, "reason": "because", "empty": " ", "input": "I"}, ["reason", "input"]),
        ({"prompt": "Q", "chosen": "A", "rejected": "B", "output": "C"}, ["output"]),
        ({"text": "Once", "instruction": "Tell."}, ["instruction"]),
        ({**ROW, "system": "S", "history": "[]", "kto_tag": "true", "tools": "[]"}, []),
    ],
)
def test_text_that_recognition_leaves_out_is_named(tmp_path, row, unused):
    path = tmp_path / "rows.json"
    path.write_text(json.dumps([row, row]))
    assert unused_columns(path, recognise(path)) == unused


def test_an_input_that_few_rows_have_is_read_where_it_is(tmp_path):
    path = tmp_path / "few.json"
    rows = [{"instruction": "Say it.", "input": "Good morning", "output": "Bonjour"}]
    rows += [{"instruction": f"{n}?", "output": "yes"} for n in range(9)]
    path.write_text(json.dumps(rows), encoding="utf-8")
    assert recognise(path).columns.query == "input"
