"""The check of a dataset: every planted fault in its row, and counts equal to what the trainer's encoding does."""

from __future__ import annotations

import csv
import json
import random
from collections import Counter

import pytest

from engine.catalog.datasets import find_entry, read_rows, to_example
from engine.catalog.lengths import Lengths, Losses
from engine.errors import UserError
from engine.options.jobs import DataJob
from engine.runs.folder import Folder
from engine.runs.record import Recorder, StopRequested, write_job
from engine.work.encode import IGNORED, Encoder
from engine.work.inspect import run
from engine.work.load import load_tokenizer

LONG = "A long answer goes on and on about this and that, and then about something else. "
INFO = {
    "asked": {"file_name": "asked.jsonl"},
    "validation": {"file_name": "validation.json"},
    "talks": {"file_name": "talks.json", "formatting": "openai"},
    "pairs": {"file_name": "pairs.json", "ranking": True, "columns": {"prompt": "q", "chosen": "c", "rejected": "r"}},
    "judged": {"file_name": "judged.json", "columns": {"prompt": "q", "response": "a", "kto_tag": "good"}},
    "texts": {"file_name": "texts.csv", "columns": {"prompt": "text", "response": None}},
}


def row(question, answer, **further):
    return {"instruction": question, "input": "", "output": answer, **further}


PLANTED = [
    (row("How do I boil an egg?", "Put it into boiling water for seven minutes."), set()),
    ("{broken", {"not_json"}),
    (row("How do I boil an egg?", "Put it into boiling water for seven minutes."), {"duplicate"}),
    (row("How do I boil an egg", "put it into boiling water, for seven minutes"), {"near_duplicate"}),
    (row("How do I boil an egg?", "Put it into boiling water for eight minutes."), set()),
    (row("What is the sun?", "A star."), {"shared_with_validation"}),
    (row("Who wrote Faust?", "Goethe."), {"shared_with_validation"}),
    (row("What is this?", LONG * 30), {"cut_answer"}),
    (row(LONG * 30, "Yes, it is."), {"cut_prompt"}),
    (row("Say nothing.", "  "), {"empty_answer"}),
    (row("", "Once upon a time."), {"empty_prompt"}),
    ({"instruction": "Only this."}, {"missing_column"}),
    (row("A number?", 7), {"not_text"}),
    (row("Coffee?", "cafÃ© au lait"), {"wrong_encoding"}),
    (row("And then?", "The end."), set()),
]  # fmt: skip
VALIDATION = [row("Other.", "Other."), row("Who wrote Faust?", "Goethe."), row("what is the sun", "a star")]


@pytest.fixture
def folder(tmp_path):
    lines = [each if isinstance(each, str) else json.dumps(each, ensure_ascii=False) for each, _ in PLANTED]
    (tmp_path / "dataset_info.json").write_text(json.dumps(INFO), "utf-8")
    (tmp_path / "asked.jsonl").write_text("\ufeff" + "\n".join(lines) + "\n", "utf-8")
    (tmp_path / "validation.json").write_text(json.dumps(VALIDATION), "utf-8")
    return tmp_path


@pytest.fixture
def check(folder, tiny_model):
    """Checks a dataset in this process, and gives back its folder and report."""

    def checked(name, **options):
        values = {"dataset": name, "dataset_dir": str(folder), "model_name_or_path": str(tiny_model), **options}
        job = DataJob.from_values(values)
        found = Folder(folder / f"check-{name}")
        found.path.mkdir(exist_ok=True)
        write_job(found, job, "en")
        run(job, Recorder(found))
        return found, json.loads(found.report.read_text("utf-8"))

    return checked


def findings_of(run_folder):
    return [json.loads(line) for line in run_folder.findings.read_text("utf-8").splitlines()]


def test_every_planted_fault_is_found_in_its_row_and_nothing_else(check):
    done, report = check("asked", eval_dataset="validation", cutoff_len=256)
    found = {number: set() for number in range(1, len(PLANTED) + 1)}
    for finding in findings_of(done):
        if finding["row"] is None:
            assert finding["kind"] == "bom"
        else:
            found[finding["row"]].add(finding["kind"])
    assert found == {number: kinds for number, (_, kinds) in enumerate(PLANTED, start=1)}
    facts = {finding["kind"]: finding["facts"] for finding in findings_of(done)}
    assert facts["duplicate"]["other"] == facts["near_duplicate"]["other"] == 1
    assert facts["shared_with_validation"] == {"dataset": "asked", "other": 2, "other_dataset": "validation"}
    assert report["rows"] == len(PLANTED) and report["findings"] == findings_of(done)
    assert report["kinds"] == {**dict.fromkeys(facts, 1), "shared_with_validation": 2}


def test_without_a_model_all_but_the_tokens_is_checked(check):
    done, report = check("asked", eval_dataset="validation", model_name_or_path="none")
    of_tokens = {"cut_answer", "cut_prompt"}
    assert set(report["kinds"]) == set.union(*[kinds for _, kinds in PLANTED]) - of_tokens | {"bom"}
    assert report["lengths"] is None and not done.lengths.exists()


def test_clean_and_rejected_rows_are_all_rows_as_they_were(check, folder):
    done, report = check("asked", clean=str(folder / "out" / "clean.jsonl"), rejects=str(folder / "out" / "bad.jsonl"))
    clean = [json.loads(line) for line in (folder / "out" / "clean.jsonl").read_text("utf-8").splitlines()]
    rejected = [json.loads(line) for line in (folder / "out" / "bad.jsonl").read_text("utf-8").splitlines()]
    unusable = {"not_json", "duplicate", "empty_answer", "missing_column", "not_text"}
    assert clean == [content for content, kinds in PLANTED if not kinds & unusable]
    bad = {number: content for number, (content, kinds) in enumerate(PLANTED, start=1) if kinds & unusable}
    assert {each["row"]: each["content"] for each in rejected} == {**bad, 2: None}
    assert all(each["reasons"] and all(reason.endswith(".") for reason in each["reasons"]) for each in rejected)
    assert report["clean_rows"] == len(clean)
    assert not list(folder.rglob("*.tmp"))
    assert done.clean.read_bytes() == (folder / "out" / "clean.jsonl").read_bytes()


def test_a_cleaned_copy_has_nothing_more_to_clean(check, folder):
    check("asked", clean=str(folder / "talks.json"))
    (folder / "dataset_info.json").write_text(json.dumps({"talks": {"file_name": "talks.json"}}), "utf-8")
    _, report = check("talks")
    assert report["rows"] == report["clean_rows"] and "bom" not in report["kinds"]


def test_the_data_themselves_are_never_written_over(check, folder):
    before = (folder / "asked.jsonl").read_bytes()
    with pytest.raises(UserError) as error:
        check("asked", clean=str(folder / "." / "asked.jsonl"))
    assert error.value.key == "check_over_source"
    assert (folder / "asked.jsonl").read_bytes() == before


def test_a_stopped_check_leaves_nothing_half_written(check, folder, monkeypatch):
    monkeypatch.setattr(Recorder, "is_stop_requested", True)
    with pytest.raises(StopRequested):
        check("asked")
    assert {path.name for path in (folder / "check-asked").iterdir()} <= {"job.yaml", "trainer_log.jsonl"}


def test_a_row_that_a_template_refuses_is_a_finding_and_the_others_go_on(check, folder):
    turns = [{"role": "user", "content": "Add."}, {"role": "assistant", "content": "", "tool_calls": [
        {"type": "function", "function": {"name": "add", "arguments": "{}"}}]}]  # fmt: skip
    good = [{"role": "user", "content": "Hi?"}, {"role": "assistant", "content": "Hello."}]
    (folder / "talks.json").write_text(json.dumps([{"messages": each} for each in (good, turns, good[:1] + good[1:])]))
    done, report = check("talks")
    kinds = {finding["row"]: finding["kind"] for finding in findings_of(done)}
    assert kinds[2].startswith("template_") and kinds[3] == "duplicate"
    assert report["lengths"]["rows"] == 2


def test_a_file_that_cannot_be_read_is_a_finding_and_holds_up_no_other(check, folder, monkeypatch):
    monkeypatch.chdir(folder)
    (folder / "wide.json").write_bytes(json.dumps(VALIDATION).encode("utf-16"))
    done, report = check("wide.json,validation")
    (finding,) = findings_of(done)
    assert (finding["row"], finding["kind"], finding["facts"]["dataset"]) == (None, "wrong_encoding", "wide.json")
    assert report["rows"] == report["clean_rows"] == report["lengths"]["rows"] == len(VALIDATION)
    with pytest.raises(UserError):
        check("nobody.json")


def test_tools_that_are_none_are_a_finding(check, folder):
    turns = [{"role": "user", "content": "Hi?"}, {"role": "assistant", "content": "Hello."}]
    tools = ['[{"type": "function", "function": "x"}]', [{"x": 1}], '[{"type": "function", "function": {"name": "f"}}]']
    (folder / "talks.json").write_text(json.dumps([{"messages": turns, "tools": each} for each in tools]), "utf-8")
    done, _ = check("talks")
    assert [(each["row"], each["kind"]) for each in findings_of(done)][:2] == [(1, "tools"), (2, "tools")]
    assert {each["kind"] for each in findings_of(done) if each["row"] == 3} <= {"template_drops_tools"}


def words(generator, most):
    return " ".join(
        generator.choice(["tea", "coffee", "milk", "water", "你好", "naïve"]) for _ in range(generator.randint(1, most))
    )


@pytest.fixture
def many_rows(folder):
    """Some rows of every kind, short ones and long ones."""
    generator = random.Random(5)
    talks, pairs, judged, texts = [], [], [], []
    for index in range(40):
        most = generator.choice([4, 30, 120])
        turns = [{"role": "system", "content": words(generator, most)}] * (index % 3 == 0)
        for _ in range(generator.randint(1, 3)):
            turns += [
                {"role": "user", "content": words(generator, most)},
                {"role": "assistant", "content": words(generator, most)},
            ]
        talks.append({"messages": turns})
        pairs.append({"q": words(generator, most), "c": words(generator, most), "r": words(generator, most)})
        judged.append({"q": words(generator, most), "a": words(generator, most), "good": index % 2 == 0})
        texts.append(words(generator, 2 * most))
    for name, rows in (("talks", talks), ("pairs", pairs), ("judged", judged)):
        (folder / f"{name}.json").write_text(json.dumps(rows), "utf-8")
    with (folder / "texts.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([["text"], *[[text] for text in texts]])
    return folder


@pytest.fixture(scope="module")
def tokenizer(tiny_model):
    return load_tokenizer(tiny_model, DataJob())


def encoded(tokenizer, entry, **options):
    """Every row of a dataset as the trainer gets it."""
    encoder = Encoder(DataJob.from_values(options), tokenizer)
    return [encoder.encode([to_example(content, entry, number)])[0] for number, content in read_rows(entry)]


@pytest.mark.parametrize("name", ["talks", "pairs", "judged", "texts"])
@pytest.mark.parametrize("options", [{}, {"mask_history": True}, {"train_on_prompt": True}], ids=str)
def test_losses_equal_what_the_trainer_encodes(check, many_rows, tokenizer, name, options):
    """Counted on the ids and labels that are trained on, at several cutoffs and without one."""
    done, report = check(name, cutoff_len=48, **options)
    entry = find_entry(many_rows, name)
    whole = encoded(tokenizer, entry, cutoff_len=100_000, **options)
    lengths = Lengths.read(done.lengths)
    assert lengths.rows == len(whole)
    assert lengths.longest == max(len(each.input_ids) for row in whole for each in row)
    assert lengths.tokens == sum(len(each.input_ids) for row in whole for each in row)
    assert lengths.answer_tokens == sum(taught(each) for row in whole for each in row)
    for cutoff in (4, 16, 48, 100, 200):
        expected = dict.fromkeys(vars(Losses()), 0)
        for before, after in zip(whole, encoded(tokenizer, entry, cutoff_len=cutoff, **options), strict=True):
            sequences = list(zip(before, after, strict=True))
            lost = [len(one.input_ids) - len(other.input_ids) for one, other in sequences]
            unlearned = [taught(one) - taught(other) for one, other in sequences]
            expected["rows"] += any(lost)
            expected["tokens"] += sum(lost)
            expected["answer_tokens"] += sum(unlearned)
            expected["rows_with_cut_answer"] += any(unlearned)
            expected["rows_without_answer"] += any(one.learned and not other.learned for one, other in sequences)
        assert vars(lengths.at(cutoff)) == expected
        if cutoff == 48:
            assert report["lengths"]["losses"] == expected
            kinds = Counter(report["kinds"])
            assert kinds["nothing_to_learn"] == expected["rows_without_answer"]
            cut = kinds["cut_answer"] + kinds["cut_text"] + kinds["nothing_to_learn"]
            assert cut == expected["rows_with_cut_answer"]


def taught(encoded):
    return sum(label != IGNORED for label in encoded.labels)


def test_two_datasets_are_compared_with_each_other(check, folder):
    (folder / "talks.json").write_text(json.dumps(VALIDATION), "utf-8")
    (folder / "dataset_info.json").write_text(
        json.dumps({"one": {"file_name": "talks.json"}, "two": {"file_name": "validation.json"}}), "utf-8"
    )
    done, _ = check("one,two")
    repeated = [finding for finding in findings_of(done) if finding["kind"] == "duplicate"]
    assert [(each["facts"]["dataset"], each["row"], each["facts"]["other_dataset"], each["facts"]["other"])
            for each in repeated] == [("two", 1, "one", 1), ("two", 2, "one", 2), ("two", 3, "one", 3)]  # fmt: skip
