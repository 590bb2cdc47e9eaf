"""From data files to the rows that training draws: against the rows themselves and against datasets' own mixing."""

from __future__ import annotations

import json
import os
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
from datasets import Dataset, interleave_datasets
from torch.utils.data import DataLoader
from transformers import AutoTokenizer

from engine.catalog.datasets import Example
from engine.errors import UserError
from engine.options.data import Data
from engine.options.jobs import TrainJob
from engine.options.model import Model
from engine.runs.folder import Folder
from engine.runs.record import Recorder, StopRequested
from engine.work import encoders, fingerprint
from engine.work.dataset import prepare, remove_rows
from engine.work.encode import Encoded, encode_example
from engine.work.encoders import usable_processes
from engine.work.streaming import Fault, StreamedRows

SIZES = {"a": 10, "b": 6, "c": 4}


@pytest.fixture(scope="module")
def tokenizer(bundled_model):
    return AutoTokenizer.from_pretrained(bundled_model)


def row(number: int, name: str = "r") -> dict[str, str]:
    return {"instruction": f"{name} {number}", "output": " ".join(["word"] * (1 + number % 7)) + f" {number}"}


@pytest.fixture
def data(tmp_path) -> Path:
    """Datasets a (10 rows), b (6) and c (4) of a folder."""
    folder = tmp_path / "data"
    folder.mkdir()
    for name, count in SIZES.items():
        write(folder / f"{name}.jsonl", [row(number, name) for number in range(count)])
    register(folder, **{name: {"file_name": f"{name}.jsonl"} for name in "abc"})
    return folder


def write(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(each) + "\n" for each in rows), encoding="utf-8")
    return path


def register(folder: Path, **entries: dict) -> None:
    (folder / "dataset_info.json").write_text(json.dumps(entries))


@pytest.fixture
def prepared(data, tmp_path, tokenizer):
    """Prepares a job in a run folder of its own (or in ``run``) and keeps what the run is told."""

    class Run:
        folder = tmp_path / "run"

        def __call__(self, dataset="a", tokenizer=tokenizer, **options):
            self.folder.mkdir(exist_ok=True)
            job = TrainJob.from_values({"dataset": dataset, "dataset_dir": str(data), **options})
            return prepare(job, tokenizer, Recorder(Folder(self.folder)))

        def events(self, name):
            lines = (self.folder / "trainer_log.jsonl").read_text().splitlines()
            return [event[name] for event in map(json.loads, lines) if name in event]

    return Run()


def texts(rows, tokenizer) -> list[str]:
    """What the user says in each row: ``a 3``."""
    found = (tokenizer.decode(rows[index].input_ids) for index in range(len(rows)))
    return [text.split("user\n")[1].split("<|im_end|>")[0] for text in found]


def test_rows_are_those_of_encode_example(prepared, tokenizer):
    rows = prepared("a", cutoff_len=20).train
    job = TrainJob.from_values({"cutoff_len": 20})
    for number in range(10):
        asked, answer = row(number, "a").values()
        messages = ({"role": "user", "content": asked}, {"role": "assistant", "content": answer})
        (expected,) = encode_example(job, tokenizer, Example(messages))
        assert (rows[number].input_ids, rows[number].labels) == (expected.input_ids, expected.labels)
        assert all(type(each) is int for each in rows[number].input_ids + rows[number].labels)
    assert rows.counts.rows == 10 and rows.counts.rows_cut > 0
    assert rows.counts.tokens == sum(len(rows[number].input_ids) for number in range(10))


def test_what_became_of_the_rows_is_told_of_each_dataset_and_of_all(prepared):
    counts = prepared("a,b,a", cutoff_len=8).train.counts
    each = prepared.events("dataset_rows")
    assert [(told["dataset"], told["rows"]) for told in each] == [("a", 10), ("b", 6), ("a", 10)]
    for name, value in vars(counts).items():
        assert value == sum(told[name] for told in each)
    assert prepared.events("dataset") == [vars(counts)]
    assert counts.rows_cut and counts.tokens_cut and counts.learned_tokens_cut and counts.answers_cut
    assert prepared.events("warning") == ["rows_cut"]


def test_a_row_with_nothing_to_learn_is_counted_not_kept(prepared, data):
    write(data / "a.jsonl", [row(0), {"instruction": "x " * 400, "output": "y"}, row(2)])
    rows = prepared("a", cutoff_len=40, template="chatml", train_on_prompt=False).train
    kept = len(rows)
    assert rows.counts.rows == 3
    assert kept + rows.counts.rows_with_nothing_to_learn == 3


def test_what_cannot_be_learned_from_is_refused(prepared, data):
    register(data, a={"file_name": "a.jsonl", "ranking": True, "columns": {"chosen": "x", "rejected": "y"}})
    with pytest.raises(UserError) as caught:
        prepared("a")
    assert caught.value.key == "dataset_stage.preference"


# ---- kept rows


def keys(folder: Path) -> set[str]:
    return {path.stem for path in folder.glob("*.arrow")}


def test_rows_are_encoded_once_and_found_again(prepared, tmp_path, tokenizer, monkeypatch):
    kept = tmp_path / "kept"
    first = prepared("a,b", tokenized_path=str(kept))
    before = [first.train[index] for index in range(16)]
    assert prepared.events("rows_reused") == []
    with monkeypatch.context() as patch:
        patch.setattr(encoders.RowEncoder, "chunk", lambda *_: pytest.fail("encoded again"))
        again = prepared("a,b", tokenized_path=str(kept), val_size=2, mix_strategy="interleave_over").evaluation
        assert len(again) == 2
        rows = prepared("a,b", tokenized_path=str(kept)).train
    assert [rows[index] for index in range(16)] == before
    assert rows.counts == first.train.counts
    assert [each["rows"] for each in prepared.events("rows_reused")] == [10, 6, 10, 6]
    assert len(keys(kept)) == 2 and not (prepared.folder / ".rows").exists()

    prepared("a", tokenized_path=str(kept), overwrite_cache=True)
    assert len(prepared.events("rows_reused")) == 4


CHANGES = {
    "cutoff_len": 16, "train_on_prompt": True, "mask_history": True, "max_samples": 3, "template": "chatml",
    "enable_thinking": False, "preserve_thinking": True, "default_system": "Be brief.", "tool_format": "qwen",
}  # fmt: skip


@pytest.mark.parametrize("option", sorted({*Data.model_fields, *Model.model_fields} - fingerprint.WITHOUT_EFFECT))
def test_every_option_that_matters_makes_rows_anew(data, option):
    from engine.catalog.datasets import find_entry

    entry = find_entry(data, "a")
    plain = TrainJob.from_values({})
    changed = TrainJob.from_values({option: CHANGES[option]})
    assert fingerprint.rows_key(plain, entry, "t") == fingerprint.rows_key(plain, entry, "t")
    assert fingerprint.rows_key(changed, entry, "t") != fingerprint.rows_key(plain, entry, "t")
    assert fingerprint.rows_key(plain, entry, "u") != fingerprint.rows_key(plain, entry, "t")


def test_data_entry_template_and_tokenizer_make_rows_anew(prepared, data, tmp_path, bundled_model):
    kept = tmp_path / "kept"

    def learned():
        rows = prepared("a", tokenized_path=str(kept)).train
        return rows[0]

    first = learned()
    found = [keys(kept)]
    write(data / "a.jsonl", [{"instruction": "other", "output": "words", "extra": "swapped"}] * 2)
    assert learned() != first
    found.append(keys(kept))
    register(data, a={"file_name": "a.jsonl", "columns": {"response": "extra"}})
    learned()
    found.append(keys(kept))
    other = AutoTokenizer.from_pretrained(bundled_model)
    for change in ("template", "token"):
        if change == "template":
            other.chat_template = other.chat_template.replace("assistant", "helper")
        else:
            other.add_tokens(["words"])
        prepared("a", tokenized_path=str(kept), tokenizer=other)
        found.append(keys(kept))
    assert all(len(each) == 1 for each in found), "rows that are out of date make room"
    assert len(set.union(*found)) == len(found)
    assert prepared.events("rows_reused") == []


def test_a_folder_of_something_else_is_refused_and_left(prepared, tmp_path):
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "thesis.txt").write_text("precious")
    for path in (theirs, theirs / "thesis.txt"):
        with pytest.raises(UserError) as caught:
            prepared("a", tokenized_path=str(path))
        assert caught.value.key == "tokenized_path_foreign"
        assert "thesis.txt" in caught.value.text()
    assert [path.name for path in theirs.iterdir()] == ["thesis.txt"]


def test_half_written_rows_never_have_their_name(prepared, data, tmp_path):
    kept = tmp_path / "kept"
    with (data / "a.jsonl").open("a") as file:
        file.write("{broken\n")
    with pytest.raises(UserError) as caught:
        prepared("a", tokenized_path=str(kept))
    assert caught.value.facts["line"] == 11
    assert [path for path in kept.iterdir() if path.name != ".lock"] == []


def test_rows_of_a_run_go_with_it(prepared):
    prepared("a")
    rows = prepared("a").train
    assert len(prepared.events("rows_reused")) == 1, "a resumed run encodes nothing again"
    assert keys(prepared.folder / ".rows")
    remove_rows(Folder(prepared.folder))
    assert not (prepared.folder / ".rows").exists()
    assert rows[3].input_ids, "what is being learned from stays readable"


# ---- processes


@pytest.fixture
def many(data):
    write(data / "a.jsonl", [row(number) for number in range(700)])


def test_the_order_does_not_depend_on_the_number_of_processes(prepared, many, tokenizer, monkeypatch):
    monkeypatch.setattr(encoders, "SMALL_ROWS", encoders.CHUNK_ROWS)
    one = prepared("a", preprocessing_num_workers=1, overwrite_cache=True).train
    monkeypatch.setattr("engine.work.dataset.usable_processes", lambda *_: 2)
    two = prepared("a", overwrite_cache=True).train
    assert [one[index] for index in range(700)] == [two[index] for index in range(700)]
    assert one.counts == two.counts and one.counts.rows == 700
    assert texts(two, tokenizer) == [f"r {number}" for number in range(700)]


def test_an_error_in_another_process_keeps_its_row(prepared, data, monkeypatch):
    rows = [row(number) for number in range(700)]
    rows[600] = {"instruction": 7, "output": "x"}
    write(data / "a.jsonl", rows)
    with (data / "a.jsonl").open("a") as file:
        file.write("{broken, and read before row 601 is encoded\n")
    monkeypatch.setattr(encoders, "SMALL_ROWS", encoders.CHUNK_ROWS)
    monkeypatch.setattr("engine.work.dataset.usable_processes", lambda *_: 2)
    with pytest.raises(UserError) as caught:
        prepared("a")
    assert caught.value.key == "dataset_row.not_text"
    assert caught.value.facts["row"] == 601


def test_a_process_that_dies_is_told(prepared, many, monkeypatch):
    def doomed(processes, context, start, given):
        return ProcessPoolExecutor(processes, context, os._exit, (1,))

    monkeypatch.setattr(encoders, "ProcessPoolExecutor", doomed)
    monkeypatch.setattr(encoders, "SMALL_ROWS", encoders.CHUNK_ROWS)
    monkeypatch.setattr("engine.work.dataset.usable_processes", lambda *_: 2)
    with pytest.raises(UserError) as caught:
        prepared("a")
    assert caught.value.key == "encoding_process_died"


def test_encoding_stops_when_asked(prepared, many):
    prepared.folder.mkdir()
    Folder(prepared.folder).stop_request.touch()
    with pytest.raises(StopRequested):
        prepared("a")


def test_processes_are_capped_to_the_machine(tmp_path):
    recorder = Recorder(Folder(tmp_path))
    assert 1 <= usable_processes(10_000, recorder) < 10_000
    assert "workers_capped" in (tmp_path / "trainer_log.jsonl").read_text()
    assert usable_processes(1, recorder) == 1


# ---- which rows, in which order


def test_max_samples_takes_the_first_of_each(prepared, tokenizer):
    rows = prepared("a,b", max_samples=2).train
    assert texts(rows, tokenizer) == ["a 0", "a 1", "b 0", "b 1"]
    assert rows.counts.rows == 4


@pytest.mark.parametrize("strategy", ["interleave_under", "interleave_over", "interleave_once"])
@pytest.mark.parametrize("shares", ["", "0.5,0.25,0.25"])
def test_interleaving_is_that_of_datasets(prepared, tokenizer, strategy, shares):
    rows = prepared("a,b,c", mix_strategy=strategy, interleave_probs=shares, seed=7).train
    stopping = {"under": "first_exhausted", "over": "all_exhausted", "once": "all_exhausted_without_replacement"}
    expected = interleave_datasets(
        [Dataset.from_dict({"text": [f"{name} {n}" for n in range(count)]}) for name, count in SIZES.items()],
        probabilities=[0.5, 0.25, 0.25] if shares else None, seed=7,
        stopping_strategy=stopping[strategy.removeprefix("interleave_")],
    )  # fmt: skip
    assert texts(rows, tokenizer) == list(expected["text"])


@pytest.mark.parametrize(("count", "distinct"), [(4, 4), (10, 10), (25, 10)])
def test_num_samples_draws_by_the_seed(prepared, data, tokenizer, count, distinct):
    register(data, a={"file_name": "a.jsonl", "num_samples": count})
    rows = prepared("a", seed=3).train
    found = texts(rows, tokenizer)
    assert len(found) == count and len(set(found)) == distinct
    assert rows.counts.rows == distinct, "only rows that are used are encoded"
    assert found == texts(prepared("a", seed=3).train, tokenizer)
    assert found != texts(prepared("a", seed=4).train, tokenizer)
    assert texts(prepared("a", seed=3, max_samples=2).train, tokenizer) == found[:2]


@pytest.mark.parametrize(("size", "count"), [(0.2, 2), (3, 3)])
def test_held_out_rows_are_the_same_for_the_same_seed(prepared, tokenizer, size, count):
    first, again, other = (prepared("a", val_size=size, seed=seed) for seed in (1, 1, 2))
    held_out = texts(first.evaluation, tokenizer)
    assert len(held_out) == count
    assert sorted(held_out + texts(first.train, tokenizer)) == sorted(f"a {n}" for n in range(10))
    assert held_out == texts(again.evaluation, tokenizer)
    assert held_out != texts(other.evaluation, tokenizer)


def test_a_repeated_row_is_held_out_as_a_whole(prepared, tokenizer):
    found = prepared("a,c", val_size=4, mix_strategy="interleave_over")
    held_out, learned = texts(found.evaluation, tokenizer), texts(found.train, tokenizer)
    assert len(held_out) == len(set(held_out)) == 4
    assert set(held_out) & set(learned) == set()
    assert len(learned) > len(set(learned)), "c is repeated"


def test_holding_out_everything_is_refused(prepared):
    with pytest.raises(UserError) as caught:
        prepared("c", val_size=4)
    assert caught.value.key == "val_size_too_large"


def test_several_evaluation_datasets_are_measured_together(prepared, tokenizer):
    found = prepared("a", eval_dataset="b,c", max_samples=2)
    assert texts(found.evaluation, tokenizer) == ["b 0", "b 1", "c 0", "c 1"]
    assert len(found.train) == 2


# ---- streaming


def streamed(prepared, dataset="a", **options):
    found = prepared(dataset, streaming=True, max_steps=1, **options)
    assert isinstance(found.train, StreamedRows)
    return found


def drawn(rows, tokenizer, count, **loader):
    batches = iter(DataLoader(rows, batch_size=2, collate_fn=list, **loader))
    found = [each for _, batch in zip(range(count // 2), batches, strict=False) for each in batch]
    return [tokenizer.decode(each.input_ids).split("user\n")[1].split("<|im_end|>")[0] for each in found]


@pytest.mark.parametrize("readers", [0, 1])
def test_streaming_yields_every_row_before_any_comes_again(prepared, tokenizer, readers):
    rows = streamed(prepared, "a,b", buffer_size=5).train
    found = drawn(rows, tokenizer, 32, num_workers=readers)
    everything = sorted([f"a {n}" for n in range(10)] + [f"b {n}" for n in range(6)])
    assert sorted(found[:16]) == sorted(found[16:]) == everything
    assert found[:16] != found[16:], "the second time in another order"
    assert rows.counts.rows >= 32, "a process that reads counts for the run"
    again = drawn(streamed(prepared, "a,b", buffer_size=5).train, tokenizer, 32, num_workers=1 - readers)
    assert found == again, "the order depends on the seed alone"
    assert found != drawn(streamed(prepared, "a,b", buffer_size=5, seed=1).train, tokenizer, 32)


def test_streaming_without_a_buffer_keeps_the_order_and_interleaves(prepared, tokenizer):
    rows = streamed(prepared, "a,b", buffer_size=1, mix_strategy="interleave_under").train
    assert drawn(rows, tokenizer, 12)[:4] == ["a 0", "b 0", "a 1", "b 1"]


def test_streaming_holds_out_the_first_rows(prepared, tokenizer):
    found = streamed(prepared, "a", val_size=3)
    assert texts(found.evaluation, tokenizer) == ["a 0", "a 1", "a 2"]
    assert set(drawn(found.train, tokenizer, 14)) == {f"a {n}" for n in range(3, 10)}


@pytest.mark.parametrize("readers", [0, 1])
def test_a_broken_row_is_told_while_streaming(prepared, data, readers):
    write(data / "a.jsonl", [row(0), {"instruction": "no answer"}])
    rows = streamed(prepared, "a").train
    loader = DataLoader(rows, batch_size=1, collate_fn=list, num_workers=readers)
    if readers:
        (found,) = next(iter(loader))
        assert isinstance(found, Fault) and found.facts["row"] == 2
    else:
        with pytest.raises(UserError) as caught:
            next(iter(loader))
        assert caught.value.facts["row"] == 2


def test_streaming_what_leaves_nothing_to_learn_ends(prepared, tokenizer, monkeypatch):
    rows = streamed(prepared, "a").train
    monkeypatch.setattr(encoders.RowEncoder, "encode", lambda self, rows: [Encoded([1, 2], [-100, -100])] * len(rows))
    with pytest.raises(UserError) as caught:
        drawn(rows, tokenizer, 2)
    assert caught.value.key == "nothing_to_learn"
    assert rows.counts.rows_with_nothing_to_learn == 10


def test_streaming_does_not_draw(prepared, data):
    register(data, a={"file_name": "a.jsonl", "num_samples": 2})
    with pytest.raises(UserError) as caught:
        streamed(prepared, "a")
    assert caught.value.key == "streaming_num_samples"
