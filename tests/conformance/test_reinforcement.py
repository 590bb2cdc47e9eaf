"""Prompts, rewards and a short GRPO run: what trl is given is what our templates write."""

import json

import pytest
import torch
from transformers import set_seed

from engine.options.jobs import TrainJob
from engine.runs.folder import Folder
from engine.runs.record import Recorder
from engine.work.load import load_tokenizer, render_prompt
from engine.work.rewards import reward_functions

ROWS = [{"instruction": f"Say {n}", "input": "", "output": str(n)} for n in range(6)]


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "rows.json").write_text(json.dumps(ROWS))
    (folder / "dataset_info.json").write_text(json.dumps({"rows": {"file_name": "rows.json"}}))
    return folder


def job_of(tiny_model, data, **options) -> TrainJob:
    return TrainJob(
        model_name_or_path=str(tiny_model), template="chatml", dataset=("rows",), dataset_dir=str(data), stage="grpo",
        **options,
    )  # fmt: skip


def recorder_of(tmp_path) -> Recorder:
    (tmp_path / "run").mkdir()
    return Recorder(Folder(tmp_path / "run"))


def test_prompts_are_what_a_chat_would_ask(tiny_model, data, tmp_path):
    from engine.work.reinforcement import prepare_prompts

    job = job_of(tiny_model, data, val_size=2, default_system="Be brief.")
    tokenizer = load_tokenizer(tiny_model, job)
    prompts = prepare_prompts(job, tokenizer, recorder_of(tmp_path))
    assert len(prompts.train) == 4 and len(prompts.evaluation) == 2
    for row in prompts.train:
        asked = [{"role": "user", "content": f"Say {row['answer']}"}]
        assert row["prompt"] == render_prompt(tokenizer, asked, job)
        assert json.loads(row["conversation"]) == {"messages": asked, "tools": None}


@pytest.mark.parametrize(
    ("name", "completion", "expected"),
    [
        ("exact_match", " 42\n", 1), ("exact_match", "42.", 0), ("json_valid", '{"a": [1, 2]}', 1),
        ("json_valid", '{"a": ', 0), ("regex:^\\d+$", "42", 1), ("regex:^\\d+$", "x42", 0), ("regex:a.b", "a\nb", 1),
    ],
)  # fmt: skip
def test_reward_functions(name, completion, expected):
    (function,) = reward_functions(TrainJob(dataset=("x",), stage="grpo", reward_functions=(name,)))
    assert function(completions=[completion], answer=["42"], prompts=["?"]) == [expected]
    assert function.__name__ == name.partition(":")[0]


@pytest.mark.parametrize("beta", [0.0, 0.1])
def test_a_short_run_learns_from_rewards_and_leaves_an_adapter(tiny_model, data, tmp_path, beta):
    from engine.work.reinforcement import prepare_prompts
    from engine.work.stages import arguments_type, model_of, trainer_of

    job = job_of(
        tiny_model, data, reward_functions=("regex:[aeiou]",), num_generations=4, max_new_tokens=4, beta=beta,
        per_device_train_batch_size=4, gradient_accumulation_steps=1, learning_rate=1e-3,
    )  # fmt: skip
    recorder = recorder_of(tmp_path)
    tokenizer = load_tokenizer(tiny_model, job)
    set_seed(0)
    prompts = prepare_prompts(job, tokenizer, recorder)
    model = model_of(str(tiny_model), job, "float32", "float32", "cpu", tokenizer)
    kind, further = arguments_type(job)
    arguments = kind(
        str(tmp_path / "run"), use_cpu=True, report_to=[], max_steps=2, logging_steps=1, bf16=False, save_steps=1,
        per_device_train_batch_size=4, gradient_checkpointing=False, disable_tqdm=True, **further,
    )  # fmt: skip
    given = {"args": arguments, "train_dataset": prompts.train, "eval_dataset": None}
    trainer = trainer_of(job, model, tokenizer, "float32", "cpu", recorder, **given)
    seen, tokenize = [], trainer._tokenize_prompts
    trainer._tokenize_prompts = lambda asked: seen.append(tokenize(asked)) or seen[-1]
    trainer.train()
    texts = {row["prompt"] for row in prompts.train}
    assert {tokenizer.decode(ids) for ids, _, _ in seen for ids in ids} <= texts
    logged = [line for line in trainer.state.log_history if "reward" in line]
    assert len(logged) == 2 and all(0 <= line["reward"] <= 1 for line in logged)
    saved = tmp_path / "run" / "checkpoint-2"
    assert (saved / "adapter_model.safetensors").is_file() and not (saved / "ref").exists()
    assert not (tmp_path / "run" / ".saving").exists() and not (tmp_path / "run" / "README.md").exists()
    assert trainer.state.num_input_tokens_seen > 0


def test_a_reward_model_judges_conversations(tiny_model, data, tmp_path):
    from engine.work.reward import RewardModel
    from engine.work.rewards import by_model
    from engine.work.stages import model_of

    job = job_of(tiny_model, data)
    tokenizer = load_tokenizer(tiny_model, job)
    scorer = model_of(str(tiny_model), job.model_copy(update={"stage": "rm"}), "float32", "float32", "cpu", tokenizer)
    with torch.no_grad():
        for parameter in scorer.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    scorer = scorer.merge_and_unload()
    scorer.save_pretrained(tmp_path / "rm")
    tokenizer.save_pretrained(tmp_path / "rm")
    judge = by_model(RewardModel(tmp_path / "rm", job, torch.float32, "cpu"))
    asked = json.dumps({"messages": [{"role": "user", "content": "Say 1"}], "tools": None})
    good, bad = judge(completions=["One.", "Two, three and four."], conversation=[asked, asked], prompts=["", ""])
    said = [{"role": "user", "content": "Say 1"}, {"role": "assistant", "content": "One."}]
    with torch.no_grad():
        ids = tokenizer.apply_chat_template(said, return_tensors="pt")["input_ids"]
        assert good == pytest.approx(scorer(ids).logits.item(), abs=1e-5)
    assert good != pytest.approx(bad, abs=1e-6)
