"""Datasets: what is registered, rows with their numbers, rows as messages, and one precise sentence for each fault."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path

import pytest

from engine.catalog.datasets import (
    Columns,
    Entry,
    Tags,
    check_entry,
    find_entry,
    page_of_rows,
    read_rows,
    registered,
    to_messages,
    to_text,
)
from engine.catalog.entry import OPENAI_COLUMNS, OPENAI_TAGS
from engine.errors import UserError

ROW = {"instruction": "Add.", "input": "1 + 1", "output": "2"}
CALL = {"name": "get_weather", "arguments": {"city": "Paris"}}


def info(folder: Path, **entries) -> Path:
    (folder / "dataset_info.json").write_text(json.dumps(entries), encoding="utf-8")
    return folder


def refused(key: str, function, *arguments) -> UserError:
    """The refusal that a call ends with; its sentence can be read."""
    with pytest.raises(UserError) as caught:
        result = function(*arguments)
        list(result) if hasattr(result, "__next__") else None
    assert caught.value.key == key
    assert "{" not in caught.value.text().replace('{"file_name"', "")
    return caught.value


# ---- what is registered


def test_what_an_entry_leaves_out_has_its_documented_default(tmp_path):
    entries = registered(
        info(
            tmp_path,
            bare={"file_name": "bare.json"},
            some={
                "file_name": "some.jsonl", "formatting": "sharegpt", "ranking": True, "split": "test", "subset": "en",
                "num_samples": 7, "columns": {"chosen": "good", "system": "setting"}, "tags": {"user_tag": "user"},
            },
            hub={"hf_hub_url": "me/data", "ms_hub_url": "me/data"},
        )
    )  # fmt: skip
    assert list(entries) == ["bare", "some", "hub"]
    bare = entries["bare"]
    assert (bare.path, bare.formatting, bare.ranking, bare.split) == (tmp_path / "bare.json", "alpaca", False, "train")
    assert (bare.columns, bare.tags) == (Columns(), Tags())
    assert (Columns().prompt, Columns().query, Columns().response) == ("instruction", "input", "output")
    assert (Columns().messages, Columns().system, Columns().tools) == ("conversations", None, None)
    assert (Tags().role_tag, Tags().content_tag, Tags().user_tag, Tags().assistant_tag) == (
        "from",
        "value",
        "human",
        "gpt",
    )
    assert (Tags().observation_tag, Tags().function_tag, Tags().system_tag) == (
        "observation",
        "function_call",
        "system",
    )
    some = entries["some"]
    assert some.columns == Columns(chosen="good", system="setting")
    assert some.tags == Tags(user_tag="user")
    assert (some.ranking, some.split, some.subset, some.num_samples) == (True, "test", "en", 7)
    assert (entries["hub"].path, entries["hub"].hf_hub_url, entries["hub"].ms_hub_url) == (None, "me/data", "me/data")


def test_openai_entries_have_the_formats_own_names(tmp_path):
    entries = registered(info(tmp_path, chat={"formatting": "openai", "file_name": "x", "tags": {"user_tag": "me"}}))
    assert entries["chat"].columns == OPENAI_COLUMNS
    assert entries["chat"].tags.role_tag == "role" and entries["chat"].tags.user_tag == "me"


@pytest.mark.parametrize(
    ("content", "key"),
    [
        ("not a mapping", "dataset_info_entry"),
        ({"formatting": "alpacca", "file_name": "x.json"}, "dataset_formatting"),
        ({"file_name": "x.json", "columns": {"promt": "q"}}, "dataset_info_key"),
        ({"file_name": "x.json", "columns": ["prompt"]}, "dataset_info_key"),
        ({"file_name": "x.json", "tags": {"role_tag": None}}, "dataset_info_key"),
        ({}, "dataset_without_file"),
        ({"file_name": "missing.json"}, "dataset_file_missing"),
        ({"hf_hub_url": "me/data", "file_name": "good.json"}, "dataset_key_not_yet"),
        ({"file_name": "good.json", "num_samples": 5}, "dataset_key_not_yet"),
        ({"file_name": "good.json", "columns": {"images": "images"}}, "dataset_key_not_yet"),
        ({"file_name": "../outside.json"}, "dataset_outside"),
        ({"file_name": "link.json"}, "dataset_outside"),
    ],
)
def test_a_wrong_entry_is_refused_and_holds_up_no_other(tmp_path, content, key):
    folder = tmp_path / "data"
    folder.mkdir()
    (tmp_path / "outside.json").write_text(json.dumps([ROW]))
    (folder / "link.json").symlink_to(tmp_path / "outside.json")
    (folder / "good.json").write_text(json.dumps([ROW]))
    info(folder, wrong=content, good={"file_name": "good.json"})
    refused(key, find_entry, folder, "wrong")
    assert [row for _, row in read_rows(find_entry(folder, "good"))] == [ROW]


def test_a_full_path_may_lie_anywhere(tmp_path):
    (tmp_path / "rows.json").write_text(json.dumps([ROW]))
    (tmp_path / "data").mkdir()
    check_entry(registered(info(tmp_path / "data", far={"file_name": str(tmp_path / "rows.json")}))["far"])


def test_a_folder_that_is_a_link_is_no_way_out(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "rows.json").write_text(json.dumps([ROW]))
    info(tmp_path / "real", rows={"file_name": "rows.json"})
    (tmp_path / "data").symlink_to(tmp_path / "real")
    assert find_entry(tmp_path / "data", "rows").name == "rows"


def test_no_folder_no_info_and_broken_info(tmp_path):
    refused("dataset_dir_missing", registered, tmp_path / "nowhere")
    refused("dataset_info_missing", registered, tmp_path)
    (tmp_path / "dataset_info.json").write_text('{\n  "a": {"file_name": "a.json"}\n  "b": {}\n}')
    error = refused("dataset_line", registered, tmp_path)
    assert (error.facts["line"], error.facts["column"]) == (3, 3)
    (tmp_path / "dataset_info.json").write_text("[]")
    refused("file_no_mapping", registered, tmp_path)


def test_an_unknown_name_gets_the_nearest(tmp_path):
    info(tmp_path, spo_demo={"file_name": "a.json"}, identity={"file_name": "b.json"})
    assert refused("dataset_unknown_near", find_entry, tmp_path, "spo_dmeo").facts["near"] == "spo_demo"
    assert "spo_demo, identity" in refused("dataset_unknown", find_entry, tmp_path, "xyz").text()
    refused("dataset_file_missing", find_entry, tmp_path, "no/such.jsonl")


# ---- a path whose format is recognised


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


def test_preferences_are_recognised_as_such(tmp_path):
    (tmp_path / "rows.jsonl").write_text(json.dumps({"prompt": "x", "chosen": "a", "rejected": "b"}))
    assert find_entry(tmp_path, str(tmp_path / "rows.jsonl")).ranking


def test_a_file_of_no_known_format(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"x": 1, "y": 2}')
    assert "x, y" in refused("dataset_unrecognised", find_entry, tmp_path, str(tmp_path / "rows.jsonl")).text()


# ---- rows of files

ROWS = [ROW, {"instruction": "Überlege, “wie”\n\tes geht: 你好 🙂", "input": "", "output": 'a,b;"c"'}]


def written(folder: Path, name: str) -> Path:
    path = folder / name
    if path.suffix == ".json":
        path.write_text(json.dumps(ROWS, ensure_ascii=False, indent=2), encoding="utf-8")
    elif path.suffix == ".jsonl":
        path.write_text("\n\n".join(json.dumps(row) for row in ROWS), encoding="utf-8")
    elif path.suffix == ".csv":
        import csv

        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, ROW)
            writer.writeheader()
            writer.writerows(ROWS)
    else:
        pyarrow = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        table = pyarrow.Table.from_pylist(ROWS)
        if path.suffix == ".parquet":
            parquet.write_table(table, path)
        else:
            new = pyarrow.ipc.new_stream if "stream" in name else pyarrow.ipc.new_file
            with new(str(path), table.schema) as writer:
                writer.write_table(table)
    return path


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.csv", "a.parquet", "stream.arrow", "file.arrow"])
def test_every_kind_of_file_gives_the_same_rows(tmp_path, name):
    assert list(read_rows(Entry("x", written(tmp_path, name)))) == list(enumerate(ROWS, start=1))


def test_the_content_decides_between_an_array_and_lines(tmp_path):
    (tmp_path / "lines.json").write_text('\n{"a": "1"}\n{"a": "2"}\n')
    (tmp_path / "array.jsonl").write_text(' [{"a": "1"},\n{"a": "2"}]')
    for name in ("lines.json", "array.jsonl"):
        assert list(read_rows(Entry("x", tmp_path / name))) == [(1, {"a": "1"}), (2, {"a": "2"})]


def test_text_is_one_row_a_line(tmp_path):
    (tmp_path / "a.txt").write_text("Erste\n\n  zweite \n", encoding="utf-8")
    assert list(read_rows(Entry("x", tmp_path / "a.txt"))) == [(1, {"text": "Erste"}), (2, {"text": "  zweite "})]


def test_a_folder_is_read_file_by_file_and_numbered_on(tmp_path):
    for name, rows in {"b.jsonl": '{"a": "3"}', "a.json": '[{"a": "1"}, {"a": "2"}]', "notes.md": "x"}.items():
        (tmp_path / name).write_text(rows)
    assert list(read_rows(Entry("x", tmp_path))) == [(1, {"a": "1"}), (2, {"a": "2"}), (3, {"a": "3"})]


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.csv"])
def test_a_byte_order_mark_is_no_fault(tmp_path, name):
    path = written(tmp_path, name)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert [row for _, row in read_rows(Entry("x", path))] == ROWS


def test_lines_are_read_one_at_a_time(tmp_path):
    """What comes after the rows that are asked for is not even looked at."""
    (tmp_path / "a.jsonl").write_text('{"a": "1"}\n{"a": "2"}\nbroken\n')
    assert len(list(islice(read_rows(Entry("x", tmp_path / "a.jsonl")), 2))) == 2


def test_a_long_csv_field(tmp_path):
    (tmp_path / "a.csv").write_text("a\n" + "x" * 300_000)
    assert len(next(read_rows(Entry("x", tmp_path / "a.csv")))[1]["a"]) == 300_000


@pytest.mark.parametrize(
    ("name", "content", "key", "facts"),
    [
        ("a.jsonl", b'{"a": "1"}\n\n{"a": "2" "b": "3"}\n', "dataset_line", {"line": 3, "column": 11}),
        ("a.jsonl", b'{"a": "1"}\n{"a": "2"', "dataset_line", {"line": 2, "column": 10}),
        (
            "a.jsonl",
            b'{"a": "NaN"}\n{"a": "NaN", "b": NaN}',
            "dataset_line",
            {"line": 2, "column": 19, "detail": "NaN"},
        ),
        ("a.json", b'[{"a": "1"},\n {"a": "2"},\n {"a" "3"}]', "dataset_line", {"line": 3, "column": 7}),
        ("a.json", b'[{"a": "1"},\n {"a": -Infinity}]', "dataset_line", {"line": 2, "column": 8}),
        ("a.json", b'[{"a": "1"}, 5]', "dataset_row.no_object", {"row": 2, "found": "int"}),
        ("a.json", b"[" * 100_000, "dataset_line", {"line": 1}),
        ("a.json", b"[]", "dataset_empty", {}),
        ("a.json", b"", "dataset_empty", {}),
        ("a.jsonl", b"\n \n", "dataset_empty", {}),
        ("a.csv", b"", "dataset_empty", {}),
        ("a.csv", b"a,b\n", "dataset_empty", {}),
        ("a.csv", b"a,b\n1,2\n1,2,3\n", "dataset_csv_fields", {"line": 3, "found": 3, "expected": 2}),
        ("a.csv", b'a,b\n1,"2\n3,4\n', "dataset_line", {"line": 3}),
        ("a.csv", b"a,a\n1,2\n", "dataset_line", {"line": 1}),
        ("a.json", '[{"a": "1"}]'.encode("utf-16"), "dataset_utf16", {}),
        ("a.jsonl", '{"a": "1"}'.encode("utf-16-le"), "dataset_utf16", {}),
        ("a.jsonl", b'{"a": "1"}\n{"a": "\xe9t\xe9"}', "dataset_not_utf8", {"line": 2, "column": 8}),
        ("a.json", b'[{"a": "1"},\n{"a": "\xc3\xa9\xe9"}]', "dataset_not_utf8", {"line": 2, "column": 9}),
        ("a.txt", b"one\ntw\xf6\n", "dataset_not_utf8", {"line": 2, "column": 3}),
        ("a.parquet", b"PAR1 but cut off", "dataset_arrow", {}),
        ("a.arrow", b"ARROW1 but cut off", "dataset_arrow", {}),
        ("a.arrow", b"", "dataset_arrow", {}),
        ("a.xlsx", b"PK", "dataset_suffix", {"suffix": ".xlsx"}),
    ],
)
def test_a_broken_file_is_refused_with_its_place(tmp_path, name, content, key, facts):
    path = tmp_path / name
    path.write_bytes(content)
    error = refused(key, read_rows, Entry("x", path))
    assert {fact: error.facts[fact] for fact in facts} == facts
    assert str(path) in error.text()


def test_missing_files_and_empty_folders(tmp_path):
    refused("dataset_file_missing", read_rows, Entry("x", tmp_path / "a.json"))
    refused("dataset_folder_empty", read_rows, Entry("x", tmp_path))


def test_pages(tmp_path, monkeypatch):
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(json.dumps({"n": number}) for number in range(25)))
    entry = Entry("x", path)
    assert page_of_rows(entry, 20, 10) == ([{"n": number} for number in range(20, 25)], 25)
    assert page_of_rows(entry, 30, 10) == ([], 25)
    path.write_text('{"n": 100}')
    assert page_of_rows(entry, 0, 10) == ([{"n": 100}], 1)
    monkeypatch.setattr("engine.catalog.datasets.CACHED_SIZE_BYTES", 1)
    assert page_of_rows(entry, 0, 10) == ([{"n": 100}], None)


# ---- rows as messages


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
    row = {**turns(("system", "Be kind."), ("human", "Hi"), ("gpt", "!")), "system": "Be brief."}
    assert said(to_messages(row, entry).messages)[0] == ("system", "Be kind.")


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
    from engine.catalog.entry import entry_from

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
