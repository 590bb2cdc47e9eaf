"""What is registered: entries with their defaults, what is wrong with them, and names that were meant."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from engine.catalog.datasets import (
    Columns,
    Tags,
    check_entry,
    find_entry,
    read_rows,
    registered,
)
from engine.catalog.entry import OPENAI_COLUMNS, description_of, entry_from
from engine.catalog.pages import page_of_rows
from engine.catalog.register import register
from engine.errors import UserError

ROW = {"instruction": "Add.", "input": "1 + 1", "output": "2"}


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
        ({"file_name": "x.json", "colums": {}}, "dataset_info_key"),
        ({"file_name": "x.json", "num_samples": 0}, "dataset_info_key"),
        ({"file_name": "x.json", "num_samples": "5"}, "dataset_info_key"),
        ({"file_name": "x.json", "ranking": "false"}, "dataset_info_key"),
        ({"file_name": ["x.json"]}, "dataset_info_key"),
        ({"file_name": "good.json", "columns": {"images": "images"}}, "dataset_media"),
        ({"file_name": "good.json", "formatting": "openai", "columns": {"videos": "clips"}}, "dataset_media"),
        ({"om_hub_url": "me/data"}, "dataset_openmind"),
        ({"script_url": "make.py", "file_name": "good.json"}, "dataset_script"),
        *[({"file_name": "good.json", key: "test"}, "dataset_split_of_file") for key in ("split", "subset", "folder")],
        ({"file_name": "folder"}, "dataset_outside"),
        ({"file_name": "../outside.json"}, "dataset_outside"),
        ({"file_name": "link.json"}, "dataset_outside"),
    ],
)
def test_a_wrong_entry_is_refused_and_holds_up_no_other(tmp_path, content, key):
    folder = tmp_path / "data"
    folder.mkdir()
    (tmp_path / "outside.json").write_text(json.dumps([ROW]))
    (folder / "link.json").symlink_to(tmp_path / "outside.json")
    (folder / "folder").mkdir()
    (folder / "folder" / "link.json").symlink_to(tmp_path / "outside.json")
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
    for text in ('{"a": ' + "[" * 100_000 + "]" * 100_000 + "}", '{"a": ' + "1" * 5000 + "}"):
        (tmp_path / "dataset_info.json").write_text(text)
        refused("dataset_line", registered, tmp_path)
        refused("dataset_line", register, tmp_path, "b", {"hf_hub_url": "me/data"})
        assert (tmp_path / "dataset_info.json").read_text() == text


def test_a_part_may_be_named_of_what_lies_on_a_hub(tmp_path):
    (tmp_path / "rows.json").write_text(json.dumps([ROW]))
    part = {"split": "test", "subset": "en", "folder": "x"}
    entry = entry_from("x", {"hf_hub_url": "me/data", **part}, tmp_path)
    check_entry(entry)
    check_entry(replace(entry, path=tmp_path / "rows.json"))  # fetched
    check_entry(entry_from("x", {"file_name": "rows.json", "split": "train"}, tmp_path))


def test_an_unknown_name_gets_the_nearest(tmp_path):
    info(tmp_path, spo_demo={"file_name": "a.json"}, identity={"file_name": "b.json"})
    assert refused("dataset_unknown_near", find_entry, tmp_path, "spo_dmeo").facts["near"] == "spo_demo"
    assert "spo_demo, identity" in refused("dataset_unknown", find_entry, tmp_path, "xyz").text()
    refused("dataset_file_missing", find_entry, tmp_path, "no/such.jsonl")


@pytest.mark.parametrize(
    ("content", "near"),
    [
        ({"hf_hub_ur": "me/data"}, "hf_hub_url"),
        ({"file_nme": "x.json"}, "file_name"),
        ({"columns": {"promt": "q"}}, "prompt"),
        ({"tags": {"user_tags": "me"}}, "user_tag"),
    ],
)
def test_a_key_that_is_not_known_gets_the_nearest(tmp_path, content, near):
    assert registered(info(tmp_path, x=content))["x"].problem.facts["choices"] == near


def test_columns_and_tags_that_are_not_listed_keep_their_defaults(tmp_path):
    """LLaMA-Factory documents defaults and then forgets them once one column or tag is given (here called C6)."""
    entries = registered(
        info(
            tmp_path,
            a={"file_name": "a.json", "columns": {"prompt": "question", "response": "answer"}},
            b={"file_name": "b.json", "formatting": "sharegpt", "tags": {"user_tag": "user"}},
        )
    )
    assert entries["a"].columns == Columns(prompt="question", response="answer")
    assert (entries["a"].columns.query, entries["b"].tags.system_tag) == ("input", "system")


def test_kinds(tmp_path):
    def kind(**content) -> str:
        return registered(info(tmp_path, x={"file_name": "x.json", **content}))["x"].kind

    assert kind() == kind(formatting="sharegpt") == kind(formatting="openai") == "sft"
    assert kind(ranking=True) == kind(ranking=True, formatting="sharegpt", columns={"chosen": "good"}) == "preference"
    assert kind(columns={"kto_tag": "label"}) == "kto"
    assert kind(columns={"prompt": "text"}) == kind(columns={"prompt": "text", "response": None}) == "text"
    assert kind(columns={"prompt": "q", "response": "a"}) == "sft"
    assert kind(formatting="sharegpt", columns={"response": None}) == "sft"


def test_an_entry_with_only_a_prompt_is_plain_text_unless_its_rows_have_answers(tmp_path):
    (tmp_path / "text.jsonl").write_text(json.dumps({"text": "Once"}))
    (tmp_path / "pairs.jsonl").write_text(json.dumps({"question": "1 + 1", "output": "2"}))
    info(
        tmp_path,
        text={"file_name": "text.jsonl", "columns": {"prompt": "text"}},
        pairs={"file_name": "pairs.jsonl", "columns": {"prompt": "question"}},
        meant={"file_name": "pairs.jsonl", "columns": {"prompt": "question", "response": None}},
    )
    assert [find_entry(tmp_path, name).kind for name in ("text", "pairs", "meant")] == ["text", "sft", "text"]
    assert find_entry(tmp_path, "pairs").columns == Columns(prompt="question")


@pytest.mark.parametrize("source", ["hf_hub_url", "ms_hub_url", "cloud_file_name"])
def test_what_lies_elsewhere_may_be_named_but_not_be_read_before_it_is_fetched(tmp_path, source):
    info(tmp_path, far={source: "me/data", "om_hub_url": "me/data", "file_name": "x.json", "num_samples": 7})
    entry = find_entry(tmp_path, "far")
    assert (entry.path, entry.is_remote, entry.num_samples) == (None, True, 7)
    assert "me/data" in refused("dataset_not_here", read_rows, entry).text()
    refused("dataset_not_here", page_of_rows, entry, 0, 3)
    (tmp_path / "fetched.json").write_text(json.dumps([ROW]))
    fetched = replace(entry, path=tmp_path / "fetched.json")
    assert (list(read_rows(fetched)), fetched.is_remote) == ([(1, ROW)], False)


WORDS = st.text("abc_ äß你", min_size=1, max_size=8)


@given(
    st.sampled_from(["mine", "identity"]),
    st.fixed_dictionaries(
        {},
        optional={
            "file_name": st.sampled_from(["a.json", "b/c d.jsonl", "/far/e.csv"]),
            "formatting": st.sampled_from(["alpaca", "sharegpt", "openai"]),
            "ranking": st.booleans(),
            "columns": st.dictionaries(st.sampled_from(list(vars(Columns()))), WORDS | st.none()),
            "tags": st.dictionaries(st.sampled_from(list(vars(Tags()))), WORDS),
            "placeholders": st.booleans(),
            "num_samples": st.integers(1, 10**9),
            **{key: WORDS for key in ("subset", "split", "folder", "hf_hub_url", "script_url", "cloud_file_name")},
        },
    ),
)
@example("mine", {"file_name": "a.json", "columns": {"prompt": "question", "response": "output"}})
@example("mine", {"file_name": "a.json", "columns": {"prompt": "text"}})
def test_an_entry_is_described_so_that_it_is_read_back_the_same(name, content):
    entry = entry_from(name, content, Path("data"))
    assert entry.problem is None
    described = description_of(entry)
    assert entry_from(name, described, Path("data")) == entry
    for key in described:
        rest = {other: value for other, value in described.items() if other != key}
        assert entry_from(name, rest, Path("data")) != entry, f"{key} need not be said"
