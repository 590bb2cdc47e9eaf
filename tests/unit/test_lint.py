"""A file with one of every fault: each is found in its row, and nothing else is."""

from __future__ import annotations

import json

import pytest

from engine.catalog.conversations import to_example
from engine.catalog.entry import Entry, entry_from
from engine.catalog.lint import WARNINGS, Finding, check_row, file_findings, finding_from, from_error, garbled
from engine.catalog.rows import rows_and_faults
from engine.errors import UserError

TURNS = {"formatting": "openai", "columns": {"messages": "messages", "tools": "tools"}}


def said(*turns):
    return {"messages": [{"role": role, "content": text} for role, text in turns]}


GOOD = said(("user", "Hi?"), ("assistant", "Hello."))
CALL = {"role": "function_call", "content": '{"name": "add", "arguments": {}}'}
FAULTS = [
    (GOOD, set()),
    ("{broken", {"not_json"}),
    ("[1, 2]", {"no_object"}),
    ({"message": []}, {"missing_column"}),
    ({"messages": "text"}, {"not_json"}),
    ({"messages": []}, {"no_turns"}),
    ({"messages": [{"role": "user", "content": 7}, {"role": "assistant", "content": "A"}]}, {"not_text"}),
    (said(("user", "Hi?"), ("robot", "Hello.")), {"unknown_role"}),
    (said(("assistant", "Hello."), ("user", "Hi?")), {"order"}),
    (said(("user", "Hi?"), ("user", "Hi?"), ("assistant", "Hello.")), {"order"}),
    (said(("user", "Hi?")), {"order"}),
    (said(("user", " \n"), ("assistant", "Hello.")), {"empty_prompt"}),
    (said(("user", "Hi?"), ("assistant", "\t ")), {"empty_answer"}),
    (said(("user", " "), ("assistant", "")), {"empty_prompt", "empty_answer"}),
    ({**GOOD, "tools": "{not json"}, {"tools_not_json"}),
    ({**GOOD, "tools": "7"}, {"tools"}),
    ({"messages": [GOOD["messages"][0], {**CALL, "content": "{}"}]}, {"function_call"}),
    ({"messages": [GOOD["messages"][0], {**CALL, "content": "{x"}]}, {"function_call"}),
    ({"messages": [GOOD["messages"][0], CALL]}, set()),
    (said(("user", "Hi?"), ("assistant", "cafÃ©")), {"wrong_encoding"}),
    (said(("user", "Hi\ufffd"), ("assistant", "Hello.")), {"wrong_encoding"}),
    (said(("robot", 7), ("user", "Hi?")), {"unknown_role", "not_text", "order"}),
    (GOOD, set()),
]  # fmt: skip


@pytest.fixture
def planted(tmp_path):
    """The file, with a BOM in front and a line that is no UTF-8 at its end."""
    path = tmp_path / "planted.jsonl"
    lines = [each if isinstance(each, str) else json.dumps(each, ensure_ascii=False) for each, _ in FAULTS]
    path.write_bytes(b"\xef\xbb\xbf" + "\n".join(lines).encode() + b'\n{"messages": "caf\xe9"}\n')
    return entry_from("planted", {**TURNS, "file_name": path.name}, tmp_path)


def test_every_planted_fault_is_found_in_its_row_and_nothing_else(planted):
    found = {}
    for number, content in rows_and_faults(planted.path):
        found[number] = {finding.kind for finding in check_row(content, planted, number).findings}
    expected = {number: kinds for number, (_, kinds) in enumerate(FAULTS, start=1)}
    assert found == {**expected, len(FAULTS) + 1: {"wrong_encoding"}}
    assert [finding.kind for finding in file_findings(planted, [planted.path])] == ["bom"]


def test_every_finding_says_its_row_and_what_to_do(planted):
    for number, content in rows_and_faults(planted.path):
        for finding in check_row(content, planted, number).findings:
            assert finding.row == number
            text = finding.text("en")
            assert text.endswith(".") and "{" not in text.replace('"{', "")
            again = finding_from(json.loads(json.dumps(finding.as_dict())))
            assert (again.text("en"), again.severity) == (text, finding.severity)


def test_a_broken_line_says_where(planted):
    faults = [row for _, row in rows_and_faults(planted.path) if isinstance(row, UserError)]
    finding = from_error(faults[0], planted, 2)
    assert (finding.facts["line"], finding.facts["column"]) == (2, 2)
    assert finding.text() == faults[0].text()


def test_the_sentence_is_the_one_that_training_would_give(planted):
    for number, content in rows_and_faults(planted.path):
        if isinstance(content, UserError):
            continue
        checked = check_row(content, planted, number)
        try:
            assert to_example(content, planted, number) == checked.example
        except UserError as error:
            assert error.text("en") in [finding.text("en") for finding in checked.findings]


def test_severity_tells_what_cannot_be_learned(planted):
    for number, content in rows_and_faults(planted.path):
        checked = check_row(content, planted, number)
        unusable = checked.example is None and any(each.kind != "wrong_encoding" for each in checked.findings)
        if unusable:
            assert any(finding.severity == "error" for finding in checked.findings)
    assert Finding(1, "empty_answer").severity == Finding(1, "nothing_to_learn").severity == "error"
    assert all(Finding(1, kind).severity == "warning" for kind in WARNINGS)


@pytest.mark.parametrize(
    ("description", "row", "kinds"),
    [
        ({"ranking": True, "columns": {"prompt": "q", "chosen": "c", "rejected": "r"}},
         {"q": "Hi?", "c": "Hello.", "r": " "}, {"empty_answer"}),
        ({"columns": {"prompt": "q", "response": "a", "kto_tag": "good"}}, {"q": "Hi?", "a": "Yes.", "good": "maybe"},
         {"kto_tag"}),
        ({"columns": {"prompt": "text", "response": None}}, {"text": "\n"}, {"empty_text"}),
        ({"columns": {"prompt": "text", "response": None}}, {"text": "Words."}, set()),
        ({"columns": {"history": "history"}}, {"instruction": "a", "output": "b", "history": [["x"]]}, {"history"}),
        ({"columns": {"history": "history"}}, {"instruction": "a", "output": "b", "history": [["x", ""]]},
         {"empty_answer"}),
        ({}, {"instruction": "", "input": "Only this.", "output": "b"}, set()),
    ],
)  # fmt: skip
def test_other_kinds_of_rows(tmp_path, description, row, kinds):
    entry = entry_from("other", {**description, "file_name": "other.json"}, tmp_path)
    assert {finding.kind for finding in check_row(row, entry, 1).findings} == kinds


@pytest.mark.parametrize(
    "text",
    ["cafÃ© au lait", "donâ€™t", "20 Â°C", "nÃ¤chste StraÃŸe", "lost \ufffd here"]
    + [f"so: {text}".encode().decode("latin-1") for text in ("“quoted”", "😀", "привет", "你好", "naïveté")],
)
def test_garbled_texts_are_seen(text):
    assert garbled(text)


@pytest.mark.parametrize(
    "text",
    [
        "plain", "café", "don’t", "“quoted”", "20 °C", "nächste Straße", "😀", "привет", "你好", "«Â» and «Ã»",
        "côté…”", "NÃO, MANHÃ…", "ESPAÑOL", "Ă â ă", "ÐÑ",
    ],
)  # fmt: skip
def test_right_texts_are_left_alone(text):
    assert garbled(text) is None


def test_an_error_of_the_file_is_not_a_row(tmp_path):
    finding = from_error(UserError("dataset_empty", path="x"), Entry("x"), None)
    assert (finding.kind, finding.row, finding.severity) == ("not_json", None, "error")
