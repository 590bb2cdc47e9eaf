"""Every option of every job: declared once, and unharmed by the trip through command line, preview and YAML."""

from __future__ import annotations

import shlex
import subprocess

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from engine.errors import Refused, UserError
from engine.options.base import allows_none, choices_of, limits_of, plain_type
from engine.options.command import (
    PROGRAM,
    as_text,
    file_text,
    job_from,
    parse,
    preview,
    read_arguments,
    read_options_file,
)
from engine.options.jobs import JOBS, ChatJob, ServeJob, TrainJob
from engine.options.option import about
from engine.options.rules import problems_of, without_effect
from engine.options.training import further_training_arguments
from engine.options.yaml_text import write_yaml

VALID = {
    "train": {"dataset": ("identity",)}, "export": {"export_dir": "merged"}, "gguf": {"imatrix": "m.dat"}, "chat": {},
    "ollama": {"ollama": "mine", "gguf": "mine.gguf"}, "eval": {"dataset": ("identity",)},
    "api": {}, "data": {"dataset": ("identity",)}, "webui": {}, "preflight": {"dataset": ("identity",)},
}  # fmt: skip
"""The least that each job wants said."""

FIELDS = [(kind, name) for kind, job in JOBS.items() for name in job.model_fields if name != "training_arguments"]

quickly = settings(max_examples=10, deadline=None, database=None, suppress_health_check=list(HealthCheck))

NASTY = (
    "--flag",
    "-1",
    "a=b",
    "x.yaml",
    "[1]",
    '["a"]',
    "{}",
    "1e-4",
    "off",
    "it's",
    '"',
    "a,b",
    "$HOME",
    "文 字",
    "\n",
)
texts = st.sampled_from(NASTY) | st.text(
    st.characters(exclude_categories=("Cs", "Cc"), include_characters="\n\t"), max_size=30
)
names = st.lists(texts.map(str.strip).filter(bool), max_size=4).map(tuple)
NONES = ("none", "null", "")


def values_of(job_type, name: str) -> st.SearchStrategy:
    """Every value that the declaration of an option allows."""
    field = job_type.model_fields[name]
    limits = limits_of(field)
    low, high = limits.get("ge", limits.get("gt")), limits.get("le", limits.get("lt"))
    if choices_of(field):
        found = st.sampled_from(choices_of(field))
        if plain_type(field) is tuple:
            found = st.lists(found, min_size=1, max_size=4).map(tuple)
    elif plain_type(field) is bool:
        found = st.booleans()
    elif plain_type(field) is int:
        found = st.integers(low if low is not None else -(10**9), high if high is not None else 10**9)
    elif plain_type(field) is float:
        found = st.floats(
            low, high, exclude_min="gt" in limits, exclude_max="lt" in limits, allow_nan=False, allow_infinity=False
        )
    elif plain_type(field) is tuple:
        found = names
    elif allows_none(field):
        found = texts.filter(lambda text: text.strip().lower() not in NONES)  # these say None, and so are not a text
    else:
        found = texts
    return st.one_of(st.none(), found) if allows_none(field) else found


def words_of(command: str) -> list[str]:
    """What a shell hands over: the arguments behind ``python app.py <command>``. (shlex knows no continued lines.)"""
    words = shlex.split(command.replace(" \\\n    --", " --"))
    assert " ".join(words[:2]) == PROGRAM
    return words[3:]


def assert_survives(job) -> None:
    words = words_of(preview(job))
    assert type(job).from_values(read_arguments(type(job), words)) == job
    if not any(not problem.is_warning for problem in problems_of(job)):
        assert parse(type(job), words).job == job


@pytest.mark.parametrize(("kind", "name"), FIELDS)
def test_every_option_survives_the_command_line(kind, name):
    @quickly
    @given(values_of(JOBS[kind], name))
    def trip(value):
        job = JOBS[kind](**{**VALID[kind], name: value})
        assert getattr(job, name) == value
        assert_survives(job)

    trip()


@pytest.mark.parametrize("kind", JOBS)
def test_all_options_at_once_survive_command_line_and_yaml(kind, tmp_path):
    job_type = JOBS[kind]
    fields = [name for name in job_type.model_fields if name != "training_arguments"]

    @quickly
    @given(st.fixed_dictionaries({name: values_of(job_type, name) for name in fields}))
    def trip(values):
        job = job_type(**values)
        assert_survives(job)
        path = tmp_path / "job.yaml"
        path.write_text(yaml.safe_dump(job.values(), allow_unicode=True), encoding="utf-8")
        assert job_type.from_values(read_options_file(path)) == job
        assert job_type.from_values(yaml.safe_load(path.read_text(encoding="utf-8"))) == job
        path.write_text(file_text(job), encoding="utf-8")  # what the page saves
        assert job_type.from_values(read_options_file(path)) == job

    trip()


def test_a_real_shell_hands_over_the_same_words():
    nasty = """it's "$HOME" `id` \\ * ? ; & | > 文\n\ttab"""
    job = TrainJob(dataset=("a b", "c,d"), default_system=nasty, output_dir="--weird dir", lr_scheduler_kwargs={"x": 1})
    script = preview(job).replace(PROGRAM, "printf '%s\\0'", 1)
    printed = subprocess.run(["bash", "-c", script], capture_output=True, check=True).stdout.decode()
    assert printed.split("\0")[1:-1] == words_of(preview(job))
    assert parse(TrainJob, printed.split("\0")[1:-1]).job == job


FURTHER_VALUES = {
    "int": st.integers(-(10**9), 10**9),
    "float": st.floats(allow_nan=False, allow_infinity=False),
    "bool": st.booleans(),
    "str": texts.filter(lambda text: text.strip().lower() not in NONES),
    "any": st.dictionaries(
        st.from_regex(r"[a-z_]{1,9}", fullmatch=True),
        st.one_of(st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.booleans(), st.none(), texts),
        min_size=1,
        max_size=3,
    ),
}


@pytest.mark.parametrize("kind", FURTHER_VALUES)
def test_further_training_arguments_survive(kind):
    of_this_kind = sorted(name for name, known in further_training_arguments().items() if known == kind)

    @quickly
    @given(st.sampled_from(of_this_kind), FURTHER_VALUES[kind] | st.none())
    def trip(name, value):
        job = TrainJob(dataset=("identity",), **{name: value})
        assert job.training_arguments == {name: value}
        assert_survives(job)

    trip()


@pytest.mark.parametrize(("kind", "name"), FIELDS)
def test_every_option_says_where_it_stands(kind, name):
    field = JOBS[kind].model_fields[name]
    assert about(field, "level") in ("plain", "advanced", "command", "owner")
    for other, allowed in about(field, "when").items():
        switch = JOBS[kind].model_fields[other]
        assert allowed, f"{name} never has an effect"
        assert all(value in (choices_of(switch) or (True, False)) for value in allowed)


SAMPLING = ("do_sample", "temperature", "top_p", "top_k", "repetition_penalty", "max_new_tokens")


def test_a_name_means_one_thing_in_the_whole_program():
    """Two jobs that know a name share its declaration; no further argument is declared a second time.

    But for how answers are drawn: those that training writes come from the model as it is, those of an evaluation are
    greedy. And for ``lang``, which LLaMA-Factory calls the language of its questions, too."""
    declared: dict[str, object] = {}
    for job in JOBS.values():
        for group in job.groups():
            for name in group.model_fields:
                first = declared.setdefault(name, group)
                is_shared = first is group or notes(first, name) is notes(group, name)  # by ``same_as``
                assert is_shared or name in SAMPLING or name == "lang", name
    assert set(declared) & set(further_training_arguments()) == {"do_eval"}  # beside a training it changes nothing


def notes(group, name: str) -> object:
    return group.model_fields[name].json_schema_extra


# What people type


@pytest.mark.parametrize(
    ("words", "name", "value"),
    [
        ("--learning_rate 5e-05", "learning_rate", 5e-5),
        ("learning_rate=2e-4", "learning_rate", 2e-4),
        ("--learning-rate 0", "learning_rate", 0.0),
        ("--learning_rate=1", "learning_rate", 1.0),
        ("--lora_dropout 0", "lora_dropout", 0.0),
        ("--max_steps -1", "max_steps", -1),
        ("--freeze_trainable_layers -2", "freeze_trainable_layers", -2),
        ("--bf16", "bf16", True),
        ("--bf16 true", "bf16", True),
        ("--bf16 1", "bf16", True),
        ("--plot_loss False", "plot_loss", False),
        ("--plot_loss off", "plot_loss", False),
        ("--plot_loss no", "plot_loss", False),
        ("--eval_strategy no", "eval_strategy", "no"),
        ("--enable_thinking none", "enable_thinking", None),
        ("--enable_thinking false", "enable_thinking", False),
        ("--lora_alpha none", "lora_alpha", None),
        ("--template none", "template", None),
        ("--template ''", "template", None),
        ("--report_to none", "report_to", ("none",)),
        ("--report_to tensorboard,wandb", "report_to", ("tensorboard", "wandb")),
        ("--dataset a,b", "dataset", ("a", "b")),
        ("--dataset 'a, b'", "dataset", ("a", "b")),
        ("--dataset a b --bf16", "dataset", ("a", "b")),
        ("""--dataset '["a","b, c"]'""", "dataset", ("a", "b, c")),
        ("--master_addr none", "master_addr", "none"),
        ("--default_system '[1, 2]'", "default_system", "[1, 2]"),
        ("--default_system={}", "default_system", "{}"),
        ("--default_system=--bf16", "default_system", "--bf16"),
        ("--default_system 'a=b.yaml'", "default_system", "a=b.yaml"),
        ("--warmup_steps 0.1", "warmup_steps", 0.1),
    ],
)
def test_typed(words, name, value):
    job = parse(TrainJob, ["dataset=identity", *shlex.split(words)]).job
    assert getattr(job, name) == value
    assert type(getattr(job, name)) is type(value)


@pytest.mark.parametrize(
    ("line", "name", "value"),
    [
        ("learning_rate: 1e-4", "learning_rate", 1e-4),  # a text to PyYAML
        ("learning_rate: 1.0e-4", "learning_rate", 1e-4),
        ("bf16: on", "bf16", True),
        ("bf16: 'true'", "bf16", True),
        ("plot_loss: no", "plot_loss", False),
        ("eval_strategy: no", "eval_strategy", "no"),  # a boolean to PyYAML
        ("eval_strategy: 'no'", "eval_strategy", "no"),
        ("save_strategy: no", "save_strategy", "no"),
        ("lora_alpha: null", "lora_alpha", None),
        ("lora_alpha: none", "lora_alpha", None),
        ("lora_alpha:", "lora_alpha", None),
        ("lora_target: q_proj, v_proj", "lora_target", ("q_proj", "v_proj")),
        ("lora_target: [q_proj, v_proj]", "lora_target", ("q_proj", "v_proj")),
        ("report_to: none", "report_to", ("none",)),
        ("lora_dropout: 0", "lora_dropout", 0.0),
        ("adam_beta2: 95e-2", "training_arguments", {"adam_beta2": 0.95}),
        ("lr_scheduler_kwargs: {min_lr: 1.0e-6}", "training_arguments", {"lr_scheduler_kwargs": {"min_lr": 1e-6}}),
        ("lr_scheduler_kwargs: {min_lr: 1e-6}", "training_arguments", {"lr_scheduler_kwargs": {"min_lr": 1e-6}}),
        ("load_best_model_at_end: no", "training_arguments", {"load_best_model_at_end": False}),
    ],
)
def test_written_in_yaml(line, name, value, tmp_path):
    path = tmp_path / "train.yaml"
    path.write_text(f"dataset: identity\n{line}\n", encoding="utf-8")
    assert getattr(parse(TrainJob, [str(path)]).job, name) == value


def test_what_is_written_later_wins(tmp_path):
    path = tmp_path / "train.yaml"
    path.write_text("dataset: identity\nlora_rank: 4\nlora_alpha: 4\nseed: 1\n", encoding="utf-8-sig")
    job = parse(TrainJob, [str(path), "lora_alpha=5", "--seed", "6", "seed=7"]).job
    assert (job.lora_rank, job.lora_alpha, job.seed) == (4, 5.0, 7)


def test_a_job_never_changes():
    job = TrainJob(dataset=("identity",))
    with pytest.raises(ValidationError, match="frozen"):
        job.lora_rank = 3


# What is refused, and how


def refusal(job_type, **values) -> dict:
    with pytest.raises(Refused) as refused:
        job_from(job_type, values)
    return {problem.option: problem for problem in refused.value.problems}


def test_every_problem_is_told_at_once():
    found = refusal(
        TrainJob,
        learning_rate="fast",
        lora_rank=0,
        lora_dropout=1,
        seed="4.5",
        bf16="perhaps",
        finetuning_type="lorra",
        adam_beta1="high",
        dataloader_num_workers="2.5",
        load_best_model_at_end="perhaps",
        no_such_option=1,
        use_unsloth=True,
    )
    assert {name: problem.key for name, problem in found.items()} == {
        "learning_rate": "not_a_number",
        "lora_rank": "out_of_range",
        "lora_dropout": "out_of_range",
        "seed": "not_an_integer",
        "bf16": "not_a_boolean",
        "finetuning_type": "not_a_choice",
        "adam_beta1": "not_a_number",
        "dataloader_num_workers": "not_an_integer",
        "load_best_model_at_end": "not_a_boolean",
        "no_such_option": "unknown_option",
        "use_unsloth": "reference.own_kernels",
        "dataset": "dataset_missing",
    }


def test_every_refusal_can_be_read():
    found = refusal(TrainJob, learning_rate="fast", lora_rank=0, bf16="perhaps", finetuning_type="lorra", lora_rnak=1)
    assert "fast" in found["learning_rate"].text()
    assert "≥ 1" in found["lora_rank"].text() and "≤ 1024" in found["lora_rank"].text()
    assert "lora, oft, full, freeze" in found["finetuning_type"].text()
    assert "lora_rank" in found["lora_rnak"].text()


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("learning_rte", "learning_rate"),
        ("lora_rnak", "lora_rank"),
        ("batch_size", "per_device_train_batch_size"),
        ("epochs", "num_train_epochs"),
        ("adam_beta_1", "adam_beta1"),
        ("output-dirr", "output_dir"),
    ],
)
def test_the_nearest_name_is_offered(typed, meant):
    with pytest.raises(Refused) as refused:
        parse(TrainJob, ["dataset=identity", f"--{typed}", "1"])
    (problem,) = refused.value.problems
    assert problem.key == "unknown_option_near"
    assert problem.facts["near"] == meant


@pytest.mark.parametrize("word", ["nan", "inf", "-inf", "", "1,5", "None of these"])
def test_no_number(word):
    assert refusal(TrainJob, dataset="identity", learning_rate=word)["learning_rate"].key == "not_a_number"


@pytest.mark.parametrize(
    ("content", "key"),
    [
        ("a: [1, 2", "file_not_yaml"),
        ("- a\n- b", "file_no_mapping"),
        ("", "file_no_mapping"),
        (None, "file_unreadable"),
    ],
)
def test_a_file_that_cannot_be_read(content, key, tmp_path):
    path = tmp_path / "train.yaml"
    if content is not None:
        path.write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=r"train\.yaml") as caught:
        parse(TrainJob, [str(path)])
    assert caught.value.key == key


@pytest.mark.parametrize("content", [b"\xff\xfe\x00bad", b"\x00"])
def test_a_file_that_is_not_text(content, tmp_path):
    path = tmp_path / "train.yaml"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"train\.yaml"):
        parse(TrainJob, [str(path)])


def test_a_word_that_belongs_nowhere():
    with pytest.raises(UserError, match="identity") as caught:
        parse(TrainJob, ["identity"])
    assert caught.value.key == "unexpected_word"


def test_options_without_effect_are_told():
    parsed = job_from(TrainJob, {"dataset": "identity", "finetuning_type": "full", "lora_rank": 16, "use_dora": True})
    assert {problem.option for problem in parsed.warnings} == {"lora_rank", "use_dora"}
    assert all(problem.key == "no_effect" and problem.is_warning for problem in parsed.warnings)
    assert "finetuning_type" in parsed.warnings[0].text()
    assert without_effect(TrainJob(dataset=("identity",), lora_rank=16)) == []


def test_greedy_sampling_makes_temperature_idle():
    assert [problem.option for problem in without_effect(ChatJob(do_sample=False, temperature=0.5))] == ["temperature"]


SHARES = {"dataset": "a,b", "mix_strategy": "interleave_over"}
STREAMED = {"streaming": True, "max_steps": 5}


@pytest.mark.parametrize(
    ("values", "option", "key"),
    [
        ({"dataset": ""}, "dataset", "dataset_missing"),
        ({"model_name_or_path": "none"}, "model_name_or_path", "model_missing"),
        ({"bf16": True, "fp16": True}, "fp16", "two_precisions"),
        ({"train_on_prompt": True, "mask_history": True}, "mask_history", "train_on_prompt_and_mask_history"),
        ({"lora_target": ""}, "lora_target", "lora_target_missing"),
        ({"finetuning_type": "full", "adapter_name_or_path": "a"}, "adapter_name_or_path", "adapters_need_lora"),
        ({"val_size": 1.5}, "val_size", "val_size_not_whole"),
        ({"val_size": 0.1, "eval_dataset": "a"}, "val_size", "val_size_and_eval_dataset"),
        ({"eval_strategy": "steps"}, "eval_strategy", "eval_without_rows"),
        ({"do_train": False}, "do_train", "do_train_false"),
        ({"interleave_probs": "0.5,0.5", "dataset": "a,b"}, "interleave_probs", "interleave_probs_concat"),
        (SHARES | {"interleave_probs": "1"}, "interleave_probs", "interleave_probs_count"),
        (SHARES | {"interleave_probs": "0.5,0.6"}, "interleave_probs", "interleave_probs_sum"),
        (SHARES | {"interleave_probs": "1.5,-0.5"}, "interleave_probs", "interleave_probs_sum"),
        (SHARES | {"interleave_probs": "half,half"}, "interleave_probs", "interleave_probs_sum"),
        (SHARES | {"interleave_probs": "nan,0.5"}, "interleave_probs", "interleave_probs_sum"),
        (SHARES | {"interleave_probs": "1,0"}, "interleave_probs", "interleave_probs_zero"),
        ({"streaming": True}, "max_steps", "streaming_max_steps"),
        (STREAMED | {"val_size": 0.1}, "val_size", "streaming_val_size"),
        (STREAMED | {"max_samples": 5}, "max_samples", "streaming_max_samples"),
    ],
)
def test_options_that_contradict_each_other(values, option, key):
    found = refusal(TrainJob, **{"dataset": "identity", **values})
    assert {name: problem.key for name, problem in found.items()} == {option: key}
    assert found[option].text()


@pytest.mark.parametrize(
    "values",
    [
        SHARES | {"interleave_probs": "0.3333333,0.6666667"}, STREAMED | {"val_size": 4}, STREAMED | SHARES,
        SHARES | {"mix_strategy": "interleave_under", "interleave_probs": "1,0"},
    ],
)  # fmt: skip
def test_mixing_and_streaming_that_fit_together(values):
    assert problems_of(TrainJob.from_values({"dataset": "a", **values})) == []


@pytest.mark.parametrize("said", ["0.7, 0.3", [0.7, 0.3], ["0.7", "0.3"]])
def test_shares_are_understood_as_text_and_as_numbers(said):
    job = TrainJob.from_values({"dataset": "a,b", "mix_strategy": "interleave_over", "interleave_probs": said})
    assert job.interleave_probs == ("0.7", "0.3")
    assert_survives(job)


def test_streamed_rows_are_kept_nowhere():
    found = problems_of(TrainJob.from_values({"dataset": "a", **STREAMED, "tokenized_path": "kept"}))
    assert [(problem.option, problem.key) for problem in found] == [("tokenized_path", "no_effect")]


def test_the_page_has_a_door_of_its_own():
    assert parse(ServeJob, ["--host", "0.0.0.0", "--port", "8000"]).job == ServeJob(host="0.0.0.0", port=8000)
    assert refusal(ServeJob, port=70000)["port"].key == "out_of_range"


def test_as_text():
    assert [as_text(value) for value in (None, 0, False, 1e-5, ["a, b"], "")] == [
        "none", "0", "False", "1e-05", '["a, b"]', "",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("said", "meant"), [(True, "non_padding"), ("False", "no"), ("all", "all"), ("non_padding", "non_padding")]
)
def test_tokens_seen_are_said_in_both_ways(said, meant):
    job = job_from(TrainJob, {"dataset": "identity", "include_num_input_tokens_seen": said}).job
    assert job.include_num_input_tokens_seen == meant


def test_a_wrong_value_does_not_hide_what_the_rules_say():
    with pytest.raises(Refused) as refused:
        job_from(TrainJob, {"learning_rate": "fast", "bf16": True, "fp16": True})
    assert {problem.key for problem in refused.value.problems} == {"not_a_number", "dataset_missing", "two_precisions"}


@pytest.mark.parametrize("value", ["1e-4", "-1E+5", ".5e3", 1e-4, 1e300, "no", True, None, ["1e-4", {"x": "1e-4"}]])
def test_what_lies_inside_a_mapping_is_neither_more_nor_less_a_number(value, tmp_path):
    job = TrainJob(dataset=("identity",), lr_scheduler_kwargs={"x": value}, default_system="1e-4")
    assert job.training_arguments == {"lr_scheduler_kwargs": {"x": value}}
    assert_survives(job)
    path = tmp_path / "job.yaml"
    path.write_text(write_yaml(job.values()), encoding="utf-8")
    assert parse(TrainJob, [str(path)]).job == job


@pytest.mark.parametrize("said", ["1", "1.0", "1e0", 1, 1.0])
def test_a_neutral_number_is_one_however_it_is_written(said):
    parsed = job_from(TrainJob, {"dataset": "identity", "num_beams": said})
    assert [problem.key for problem in parsed.warnings] == ["reference_option_ignored"]
