"""A reward model's loss, head and saved folder against the formula, trl's trainer and transformers' own loading."""

import math

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, LlamaConfig

from engine.catalog.conversations import Example, Preference
from engine.options.jobs import TrainJob
from engine.work.encode import encode_example
from engine.work.load import load_tokenizer
from engine.work.reward import RewardModel, RewardTrainer
from engine.work.stages import model_of
from tests.conformance.stage_cases import ROWS, SMALL, pairs, step, trainer_of

MESSAGES = ({"role": "user", "content": "How are you?"},)
GOOD, BAD = ({"role": "assistant", "content": text} for text in ("Very well, thank you.", "No."))


def scorer():
    torch.manual_seed(0)
    config = LlamaConfig(**{**SMALL.to_diff_dict(), "num_labels": 1})
    return AutoModelForSequenceClassification.from_config(config).float().eval()


def rewards_alone(model, rows) -> list[float]:
    """One row at a time, so without padding: what the head says of the last token."""
    with torch.no_grad():
        hidden = [model.model(torch.tensor([row.input_ids])).last_hidden_state[0, -1] for row in rows]
    return [float(model.score.weight[0] @ each) for each in hidden]


def test_loss_is_that_of_the_paper_in_every_arrangement(tmp_path):
    model = scorer()
    trainer = trainer_of(RewardTrainer, tmp_path, model)
    better, worse = (rewards_alone(model, [getattr(pair, name) for pair in pairs()]) for name in ("chosen", "rejected"))
    losses = [math.log1p(math.exp(-(c - r))) for c, r in zip(better, worse, strict=True)]
    loss, gradient = step(trainer, pairs(), 1)
    assert loss == pytest.approx(sum(losses) / len(losses), abs=1e-6)
    noted = trainer.taken_notes()
    assert noted["rewards/chosen"] == pytest.approx(sum(better) / 8, abs=1e-6)
    assert noted["rewards/accuracies"] == sum(c > r for c, r in zip(better, worse, strict=True)) / 8
    for micro_batches in (3, 8):
        other, same = step(trainer, pairs(), micro_batches)
        assert other == pytest.approx(loss, abs=1e-6)
        assert torch.allclose(same, gradient, atol=1e-6)


def test_loss_is_that_of_trl(tmp_path, tiny_model):
    from datasets import Dataset
    from trl import RewardConfig
    from trl import RewardTrainer as Peer
    from trl.trainer.reward_trainer import DataCollatorForPreference

    rows = Dataset.from_list([{"chosen": "b", "rejected": "c"}] * 2)
    settings = RewardConfig(str(tmp_path), use_cpu=True, report_to=[], bf16=False, gradient_checkpointing=False)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    peer = Peer(scorer(), args=settings, train_dataset=rows, processing_class=tokenizer)
    peer.model.config.pad_token_id = 0
    batch = DataCollatorForPreference(pad_token_id=0)(
        [{"chosen_ids": pair.chosen.input_ids, "rejected_ids": pair.rejected.input_ids} for pair in pairs()]
    )
    expected = peer.compute_loss(peer.model, batch)
    assert step(trainer_of(RewardTrainer, tmp_path, scorer()), pairs(), 2)[0] == pytest.approx(
        expected.item(), abs=1e-6
    )


@pytest.mark.parametrize("method", ["lora", "full", "freeze"])
def test_what_is_saved_scores_the_same_when_it_is_loaded_again(tiny_model, tmp_path, method):
    job = TrainJob(**ROWS, stage="rm", model_name_or_path=str(tiny_model), template="chatml", finetuning_type=method)
    tokenizer = load_tokenizer(tiny_model, job)
    torch.manual_seed(0)
    model = model_of(str(tiny_model), job, "float32", "float32", "cpu", tokenizer)
    head = [name for name, parameter in model.named_parameters() if "score" in name and parameter.requires_grad]
    assert len(head) == 1
    row = Preference(MESSAGES, GOOD, BAD)
    chosen, rejected = encode_example(job, tokenizer, row)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.05)
        before = [model(torch.tensor([each.input_ids])).logits.item() for each in (chosen, rejected)]
    folder = tmp_path / "rm"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    loaded = RewardModel(folder, job, torch.float32, "cpu")
    scores = loaded.scores([Example((*MESSAGES, GOOD)), Example((*MESSAGES, BAD))])
    assert scores == pytest.approx(before, abs=1e-5)
    assert abs(scores[0] - scores[1]) > 1e-4
    if method == "lora":
        from peft import AutoPeftModelForSequenceClassification as Plain
    else:
        Plain = AutoModelForSequenceClassification
    plain = Plain.from_pretrained(folder, num_labels=1)
    with torch.no_grad():
        assert plain(torch.tensor([chosen.input_ids])).logits.item() == pytest.approx(before[0], abs=1e-5)
