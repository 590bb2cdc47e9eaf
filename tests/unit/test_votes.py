"""Votes on answers: where they are kept, and what the card says of them."""

from __future__ import annotations

import pytest

from engine.options.jobs import ChatJob, TrainJob
from engine.runs.card import card, renew_card
from engine.runs.folder import SAVES, Folder
from engine.runs.prompts import sides_of
from engine.runs.record import update_state, write_job
from engine.runs.sides import BASE, Side
from engine.runs.votes import Round, Tally, cast, tallies


@pytest.fixture
def runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = [Folder(SAVES / "m" / "lora" / name) for name in ("one", "two")]
    for folder in found:
        (folder.path / "checkpoint-5").mkdir(parents=True)
        write_job(folder, TrainJob(dataset=("rows.json",)), "en")
        update_state(folder, kind="train", status="done", started_at=1e9, finished_at=1e9 + 3, result={})
    return found


def given(left, right):
    return Round("Why?", None, {"sampling_seed": 3}, (str(left), str(right)), ("a", "b"), True)


def test_a_vote_is_kept_where_it_belongs_and_counted_from_there(runs):
    one, two = runs
    cast("left", given(one.path, BASE))
    cast("right", given(one.path.absolute(), BASE))  # the same run, spelled otherwise
    cast("left", given(BASE, one.path))
    cast("tie", given(one.path, two.path))
    cast("right", given(two.path, one.path))
    cast("bad", given(two.path / "checkpoint-5", BASE))
    assert tallies(one) == [
        Tally("m/lora/one", "base", 1, 2, 0, 0),
        Tally("m/lora/one", "m/lora/two", 1, 0, 1, 0),
    ]
    assert tallies(two) == [
        Tally("m/lora/two", "m/lora/one", 0, 1, 1, 0),
        Tally("m/lora/two/checkpoint-5", "base", 0, 0, 0, 1),
    ]


def test_a_vote_counts_whatever_was_asked_and_said(runs):
    said = "".join(map(chr, [*range(0x20), 0x7F, 0x85, 0xA0, 0x2028, 0x2029, 0xFEFF]))
    cast("left", Round(said, said, {}, (str(runs[0].path), BASE), (said, said), True))
    assert tallies(runs[0]) == [Tally("m/lora/one", "base", 1, 0, 0, 0)]


def test_two_checkpoints_of_one_run_are_counted_once(runs):
    one = runs[0]
    cast("left", given(one.path, one.path / "checkpoint-5"))
    cast("left", given(one.path / "checkpoint-5", one.path))
    assert tallies(one) == [Tally("m/lora/one", "m/lora/one/checkpoint-5", 1, 1, 0, 0)]


def test_the_card_sums_up_and_a_torn_line_is_passed_over(runs):
    one = runs[0]
    assert "## Votes" not in card(one)
    one.card.write_text("old")
    cast("left", given(one.path, BASE))
    with one.votes.open("a") as file:
        file.write('{"vote": "left", "ow')
    renew_card(one)
    assert "| `m/lora/one` | `base` | 1 | 0 | 0 | 0 |" in one.card.read_text()


def test_the_base_of_a_run_of_all_weights_is_what_it_was_trained_from(runs):
    write_job(
        runs[0], TrainJob(dataset=("rows.json",), model_name_or_path="models/other", finetuning_type="full"), "en"
    )
    for path in (runs[0].path, runs[0].path / "checkpoint-5"):
        (path / "config.json").write_text("{}")
    default = ChatJob().model_name_or_path
    for asked, base in (((BASE, "one/checkpoint-5"), "models/other"), ((BASE,), default)):
        assert sides_of(ChatJob(prompts="list.txt", compare=asked))[0] == Side(BASE, base, None)
    named = sides_of(ChatJob(prompts="list.txt", compare=(BASE, "one"), model_name_or_path="models/mine"))
    assert [side.model for side in named] == ["models/mine", str(runs[0].path)]


def test_nobody_s_vote_is_kept_nowhere(runs, tmp_path):
    assert cast("left", given(tmp_path / "elsewhere", BASE)) == []
    assert not list(tmp_path.rglob("votes.jsonl"))
