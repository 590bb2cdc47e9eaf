"""What each stage asks of a job: rules, kinds of datasets, and words for both. Nothing heavy is loaded."""

import json

import pytest

from engine.catalog.checks import problems_on_disk
from engine.catalog.stages import KINDS
from engine.errors import Refused
from engine.options.base import choices_of
from engine.options.command import job_from, parse
from engine.options.jobs import ChatJob, GgufJob, TrainJob
from engine.words import has_words

REWARDED = {"stage": "grpo", "reward_functions": "json_valid", "dataset": "x"}


def problems(**values) -> dict[str, str]:
    """Option → key of what is wrong or worth knowing."""
    try:
        found = job_from(TrainJob, {"dataset": "x", **values}).warnings
    except Refused as refused:
        found = refused.problems
    return {problem.option: problem.key for problem in found}


@pytest.mark.parametrize(
    ("values", "option", "key"),
    [
        ({"stage": "dpo", "packing": True}, "packing", "packing_stage"),
        ({"stage": "dpo", "pref_loss": "simpo", "ref_model": "m"}, "ref_model", "ref_model_unused"),
        ({"stage": "kto", "ref_model_adapters": "a"}, "ref_model", "ref_model_missing"),
        ({"stage": "kto", "per_device_train_batch_size": 1, "gradient_accumulation_steps": 1},
         "per_device_train_batch_size", "kto_alone"),
        ({"stage": "ppo", "reward_model": "m"}, "stage", "ppo_by_grpo"),
        ({"stage": "grpo"}, "reward_functions", "rewards_missing"),
        ({**REWARDED, "reward_functions": "exact_match,beauty"}, "reward_functions", "reward_function_unknown"),
        ({**REWARDED, "reward_functions": "regex:("}, "reward_functions", "reward_regex"),
        ({**REWARDED, "reward_weights": "1,2"}, "reward_weights", "reward_weights"),
        ({**REWARDED, "reward_weights": "much"}, "reward_weights", "reward_weights"),
        ({**REWARDED, "num_generations": 3}, "num_generations", "group_incomplete"),
        ({**REWARDED, "streaming": True, "max_steps": 5}, "streaming", "rewards_streaming"),
        ({"stage": "sft", "pref_loss": "orpo"}, "pref_loss", "no_effect"),
        ({"stage": "dpo", "pref_loss": "ipo", "dpo_label_smoothing": 0.1}, "dpo_label_smoothing", "no_effect"),
        ({"stage": "dpo", "num_generations": 4}, "num_generations", "no_effect"),
    ],
)  # fmt: skip
def test_rules(values, option, key):
    assert problems(**values).get(option) == key


@pytest.mark.parametrize(
    "values",
    [
        {"stage": "pt", "packing": True}, {"stage": "dpo", "ref_model": "m", "ref_model_quantization_bit": 4},
        {**REWARDED, "reward_functions": ["regex:a,b", "json_valid"], "reward_model": "m", "reward_weights": "1,0.5,2"},
        {"stage": "rm"},
    ],
)  # fmt: skip
def test_nothing_is_wrong_with(values):
    assert problems(**values) == {}


def test_a_command_for_ppo_is_understood():
    words = (
        "--stage ppo --reward_model m --ppo_epochs 4 --reward_model_type full --max_new_tokens 64 --top_k 0 --top_p 0.9"
    )
    job, warnings = parse(TrainJob, [*words.split(), "--dataset", "x"])
    assert (job.stage, job.max_new_tokens, job.top_p) == ("ppo", 64, 0.9)
    assert {problem.key for problem in warnings} == {"ppo_by_grpo", "reference_option_ignored"}
    with pytest.raises(Refused):
        parse(TrainJob, [*words.split(), "--dataset", "x", "--reward_model_type", "api"])


def test_every_stage_has_kinds_of_data_and_every_kind_has_words():
    assert set(KINDS) == set(choices_of(TrainJob.model_fields["stage"]))
    for kind in {kind for kinds in KINDS.values() for kind in kinds}:
        assert has_words(f"errors.dataset_stage.{kind}")


FORMATS = {
    "sft": {},
    "text": {"columns": {"prompt": "text"}},
    "preference": {"ranking": True, "columns": {"prompt": "instruction", "chosen": "good", "rejected": "bad"}},
    "kto": {"columns": {"prompt": "instruction", "response": "output", "kto_tag": "label"}},
}


@pytest.mark.parametrize("stage", KINDS)
@pytest.mark.parametrize("kind", FORMATS)
def test_data_of_another_kind_are_refused_before_a_start(tmp_path, stage, kind):
    row = (
        {"instruction": "a", "output": "b", "good": "g", "bad": "b", "label": True} if kind != "text" else {"text": "t"}
    )
    (tmp_path / "x.json").write_text(json.dumps([row]))
    (tmp_path / "dataset_info.json").write_text(json.dumps({"x": {"file_name": "x.json", **FORMATS[kind]}}))
    job = TrainJob(stage=stage, dataset=("x",), dataset_dir=str(tmp_path))
    found = [problem for problem in problems_on_disk(job) if problem.option == "dataset"]
    assert [problem.key for problem in found] == ([] if kind in KINDS[stage] else [f"dataset_stage.{kind}"])
    for problem in found:
        fitting = problem.facts["fitting"].split(", ")
        assert fitting and all(kind in KINDS[each] for each in fitting)
        assert stage not in fitting and fitting[0] in problem.text()


@pytest.mark.parametrize("job_type", [ChatJob, GgufJob])
def test_a_reward_model_is_not_chatted_with(tmp_path, job_type):
    whole, adapter = tmp_path / "whole", tmp_path / "adapter"
    for folder in (whole, adapter):
        folder.mkdir()
    (whole / "config.json").write_text(json.dumps({"architectures": ["LlamaForSequenceClassification"]}))
    (adapter / "adapter_config.json").write_text(json.dumps({"task_type": "SEQ_CLS"}))
    by_option = {"model_name_or_path": str(whole)}, {"adapter_name_or_path": (str(adapter),)}
    for values in by_option:
        (option,) = values
        found = {problem.key for problem in problems_on_disk(job_type(**values)) if problem.option == option}
        assert "reward_model_no_answers" in found
