"""An evaluation before and after its worker: what may be asked, which questions lie where, how answers are found."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest

import app
from engine.catalog.answer_scores import Hits, item_hits, pattern_agrees, token_f1, tokens, without_thought
from engine.catalog.choice_tasks import read_task
from engine.errors import Refused, UserError
from engine.options.command import job_from, parse, preview
from engine.options.jobs import EvalJob, TrainJob
from engine.options.reference import as_evaluation, is_evaluation
from engine.runs.folder import Folder
from engine.runs.predictions import is_right, narrowed, predictions, score_names, sorted_by
from engine.runs.record import append_line, update_state, write_job
from engine.runs.resume import resumed_job, why_not_resumable
from engine.runs.start import refuse_finished

PREDICT = {
    "model_name_or_path": "Qwen/Qwen3-4B-Instruct-2507", "adapter_name_or_path": "saves/t/lora", "stage": "sft",
    "do_predict": "true", "finetuning_type": "lora", "eval_dataset": "identity", "template": "qwen3_nothink",
    "cutoff_len": 512, "max_samples": 8, "preprocessing_num_workers": 16, "dataloader_num_workers": 4,
    "output_dir": "saves/t/predict", "overwrite_output_dir": "true", "per_device_eval_batch_size": 1,
    "predict_with_generate": "true", "ddp_timeout": 180000000,
}  # fmt: skip


def keys(refused) -> set[str]:
    return {problem.key for problem in refused.value.problems}


def test_a_prediction_written_for_llama_factory_is_an_evaluation():
    assert is_evaluation(PREDICT) and not is_evaluation({**PREDICT, "do_train": True})
    job, warnings = job_from(EvalJob, as_evaluation(PREDICT))
    assert (job.do_predict, job.do_eval, job.eval_dataset, job.max_samples) == (True, False, ("identity",), 8)
    assert {problem.option for problem in warnings} == {"finetuning_type", "dataloader_num_workers", "ddp_timeout"}
    assert job_from(EvalJob, as_evaluation({"dataset": "identity", "do_eval": True, "val_size": 0.1})).job.do_eval
    with pytest.raises(Refused) as refused:
        job_from(EvalJob, as_evaluation({**PREDICT, "stage": "rm"}))
    assert keys(refused) == {"not_a_choice"}
    with pytest.raises(Refused) as refused:
        job_from(TrainJob, {**PREDICT, "do_train": True, "dataset": "identity"})
    assert keys(refused) == {"reference.predicted_answers"}


def test_train_starts_it_as_one(monkeypatch, workplace):
    started = []
    monkeypatch.setattr("terminal.watch.start_and_watch", lambda job, language: started.append(job) or 0)
    assert app.main(["train", "do_predict=true", "eval_dataset=identity", "predict_with_generate=true"]) == 0
    assert app.main(["eval", "task=toy_test", "--lang", "zh"]) == 0
    assert [(type(job), job.do_eval, job.lang) for job in started] == [(EvalJob, False, "en"), (EvalJob, True, "zh")]


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({}, "eval.nothing_to_ask"),
        ({"dataset": "a", "task": "mmlu_test"}, "eval.task_and_dataset"),
        ({"dataset": "a", "do_eval": False, "stage": "pt"}, "eval.nothing_to_do"),
        ({"task": "mmlu"}, "eval.task_unknown"),
        ({"dataset": "a", "metrics": "bleu,meteor"}, "eval.metric_unknown"),
        ({"dataset": "a", "answer_pattern": "("}, "eval.pattern"),
        ({"dataset": "a", "val_size": 0.1, "eval_dataset": "b"}, "val_size_and_eval_dataset"),
    ],
)
def test_what_cannot_be_evaluated_is_refused(values, key):
    with pytest.raises(Refused) as refused:
        job_from(EvalJob, values)
    assert keys(refused) == {key}


def test_names_of_the_other_evaluator_are_understood():
    job = job_from(EvalJob, {"task": "mmlu_test", "save_dir": "out", "batch_size": 2, "n_shot": 3, "seed": 1}).job
    assert (job.output_dir, job.per_device_eval_batch_size) == ("out", 2)
    words = preview(job).replace("\\\n", " ").split()
    assert words[:3] == ["python", "app.py", "eval"] and parse(EvalJob, words[3:]).job == job


def test_a_shared_option_keeps_the_limits_of_where_it_is_declared():
    for name in ("cutoff_len", "val_size", "seed", "per_device_eval_batch_size", "max_samples"):
        with pytest.raises(Refused) as refused:
            job_from(EvalJob, {"dataset": "a", name: -1})
        assert keys(refused) == {"out_of_range"}, name


HEADED = "id,question,A,B,C,D,answer,explanation\n0,一加一？,1,2,3,4,B,因为\n"


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def test_questions_are_read_as_each_benchmark_writes_them(tmp_path):
    write(tmp_path / "mmlu" / "data" / "test" / "law_test.csv", '"Who, then?","a ""b""",b,c,d,C\nWhy?,1,2,3,4,A\n')
    write(tmp_path / "mmlu" / "data" / "dev" / "law_dev.csv", "How?,1,2,3,4,D\n")
    write(tmp_path / "ceval" / "val" / "logic_val.csv", HEADED)
    write(tmp_path / "ceval" / "mapping.json", json.dumps({"logic": {"name": "逻辑学", "category": "Humanities"}}))
    (tmp_path / "cmmlu").mkdir()
    with zipfile.ZipFile(tmp_path / "cmmlu" / "cmmlu.zip", "w") as archive:
        archive.writestr("cmmlu/test/art.csv", ",Question,A,B,C,D,Answer\n0,画？,1,2,3,4,D\n")
    (law,) = read_task(tmp_path, "mmlu_test")
    assert (law.key, law.name, law.category) == ("law", "law", "Other")
    assert law.questions[0].options == ('a "b"', "b", "c", "d") and law.questions[0].answer == "C"
    assert len(read_task(tmp_path, "mmlu_test", 1)[0].questions) == 1
    turns = law.messages(law.questions[1], "en", 5)
    assert [turn["content"] for turn in turns] == [
        "The following are multiple choice questions (with answers) about law.\n\n"
        "How?\nA. 1\nB. 2\nC. 3\nD. 4\nAnswer:", "D", "Why?\nA. 1\nB. 2\nC. 3\nD. 4\nAnswer:",
    ]  # fmt: skip
    (logic,) = read_task(tmp_path, "ceval_validation")
    assert (logic.name, logic.category, logic.solved) == ("逻辑学", "Humanities", ())
    assert logic.messages(logic.questions[0], "zh", 5)[0]["content"].endswith(
        "一加一？\nA. 1\nB. 2\nC. 3\nD. 4\n答案："
    )
    assert read_task(tmp_path, "cmmlu_test")[0].questions[0].answer == "D"


@pytest.mark.parametrize(
    ("task", "key"),
    [
        ("none_test", "eval.task_missing"), ("ceval_test", "eval.task_split_missing"), ("bad_test", "eval.task_row"),
        ("empty_test", "eval.task_split_missing"), ("five_test", "eval.task_row"), ("three_test", "eval.task_row"),
        ("zip_test", "file_unreadable"), ("mapped_test", "file_unreadable"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_task_is_said(tmp_path, task, key):
    write(tmp_path / "empty" / "test" / "x.csv", "question,A,B,C,D,answer\n")
    write(tmp_path / "five" / "test" / "x.csv", "question,A,B,C,D,E,answer\nWhich?,1,2,3,4,5,A\n")
    write(tmp_path / "three" / "test" / "x.csv", "question,A,B,C,answer\nWhich?,1,2,3,A\n")
    write(tmp_path / "zip" / "zip.zip", "half of a download")
    write(tmp_path / "mapped" / "test" / "x.csv", "Which?,1,2,3,4,A\n")
    write(tmp_path / "mapped" / "mapping.json", '{"x": "Law"}')
    write(tmp_path / "ceval" / "val" / "logic_val.csv", HEADED)
    write(tmp_path / "bad" / "test" / "x.csv", "id,question,A,B,C,D\n0,no answer,1,2,3,4\n")
    with pytest.raises(UserError) as refused:
        read_task(tmp_path, task)
    assert refused.value.key == key and refused.value.text()


def test_words_are_counted_by_hand():
    assert tokens("It's 3.5 km, ＡＢ_c 你好カナ 한국어") == [
        "it", "s", "3", "5", "km", "ａｂ", "c", "你", "好", "カ", "ナ", "한국어",
    ]  # fmt: skip
    assert token_f1("the cat the", "the the dog") == pytest.approx(2 / 3)
    assert token_f1("", "") == 1 and token_f1("a", "") == 0
    assert Hits(1, 2, 4).f1 == pytest.approx(2 * 0.5 * 0.25 / 0.75)
    assert item_hits([{"a": 1, "b": 2}, {"a": 1, "b": 2}], [{"b": 2, "a": 1}, {"a": 2}]) == (1, 1, 2)
    assert without_thought("<think>a</think>\n\nb ") == "b"
    assert pattern_agrees("#+ (.+)", "# 1\n# 2", "## 2") and not pattern_agrees("#+ (.+)", "2", "# 2")


def folder_of(path: Path, status: str = "done", **options) -> Folder:
    folder = Folder(path)
    folder.path.mkdir(parents=True)
    write_job(folder, EvalJob.from_values({"dataset": "identity", **options}), "en")
    update_state(folder, kind="eval", status=status, started_at=1e9, finished_at=1e9 + 1)
    return folder


def line(index: int, predict: str, **scores: float) -> dict:
    return {"index": index, "dataset": "d", "row": index + 1, "prompt": f"question {index}", "predict": predict,
            "label": "yes", "scores": scores}  # fmt: skip


def test_answers_are_found_and_sorted(tmp_path):
    folder = folder_of(tmp_path / "run")
    assert predictions(folder) == ()
    for each in (line(2, "Maybe", exact_match=0, f1=10), line(0, "yes", exact_match=100, f1=100), line(1, "no", f1=50)):
        append_line(folder.predictions, each)
    with folder.predictions.open("a") as file:
        file.write('{"index": 3')
    lines = predictions(folder)
    assert [each["index"] for each in lines] == [2, 0, 1] and score_names(lines) == ["exact_match", "f1"]
    assert [each["index"] for each in sorted_by(lines, "row", False)] == [0, 1, 2]
    assert [each["index"] for each in sorted_by(lines, "f1", False)] == [2, 1, 0]
    assert [each["index"] for each in sorted_by(lines, "exact_match", True)] == [0, 2, 1]
    assert [each["index"] for each in narrowed(lines, "QUESTION maybe")] == [2]
    assert [is_right(each) for each in lines] == [False, True, False]
    assert [each["index"] for each in narrowed(lines, wrong_only=True)] == [2, 1]


def test_a_stopped_evaluation_goes_on_in_its_folder_and_a_finished_one_does_not(workplace):
    stopped = folder_of(workplace / "saves" / "m" / "eval" / "a", "stopped", overwrite_output_dir=True)
    job = resumed_job(stopped)
    assert isinstance(job, EvalJob) and job.dataset == ("identity",) and not job.overwrite_output_dir
    assert Path(job.output_dir) == stopped.path
    refuse_finished(job, stopped)
    done = folder_of(workplace / "saves" / "m" / "eval" / "b")
    assert why_not_resumable(done)[0] == "resume.evaluated"
    with pytest.raises(UserError) as refused:
        refuse_finished(job, done)
    assert refused.value.key == "output_dir_finished"
    refuse_finished(job.model_copy(update={"overwrite_output_dir": True}), done)
    update_state(done, kind="train")
    with pytest.raises(UserError) as refused:
        refuse_finished(job.model_copy(update={"overwrite_output_dir": True}), done)
    assert refused.value.key == "eval.folder_of_another"
