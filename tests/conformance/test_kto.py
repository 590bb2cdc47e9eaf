"""The loss of judged answers against a formula written here, trl's own code, and in every arrangement of a step."""

import math

import pytest
import torch

from engine.options.jobs import TrainJob
from engine.work.encode import EncodedOpinion
from engine.work.kto import KtoTrainer, mismatched
from engine.work.preference import Reference
from tests.conformance.stage_cases import (
    ROWS,
    answer_logps,
    frozen,
    opinions,
    pairs,
    small_model,
    step,
    trainer_of,
    with_lora,
)  # fmt: skip

WEIGHTS = {"kto_chosen_weight": 1.3, "kto_rejected_weight": 0.6}


def job_of(**options) -> TrainJob:
    return TrainJob(**ROWS, stage="kto", **{"pref_beta": 0.4, **WEIGHTS, **options})


def by_hand(model, base, examples, job) -> float:
    def ratio(row):
        return (answer_logps(model, row).sum() - answer_logps(base, row).sum()).item()

    strangers = []
    for index, example in enumerate(examples):
        prompt = example.answer.labels.count(-100)
        before = examples[index - 1].answer
        answer = before.input_ids[before.labels.count(-100) :]
        labels = [-100] * prompt + answer
        strangers.append(type(before)(example.answer.input_ids[:prompt] + answer, labels))
    distance = max(0.0, sum(map(ratio, strangers)) / len(strangers))
    total = 0.0
    for example in examples:
        gain = job.pref_beta * (ratio(example.answer) - distance)
        good = example.is_desirable
        weight = job.kto_chosen_weight if good else job.kto_rejected_weight
        total += weight * (1 - 1 / (1 + math.exp(-gain if good else gain)))
        if good and job.pref_ftx:
            total -= job.pref_ftx * answer_logps(model, example.answer).mean().item()
    return total / len(examples)


@pytest.mark.parametrize("options", [{}, {"pref_ftx": 0.3}], ids=str)
def test_loss_is_that_of_the_paper_in_every_arrangement(tmp_path, options):
    model, job = with_lora(small_model()), job_of(**options)
    trainer = trainer_of(KtoTrainer, tmp_path, model, job=job, reference=Reference())
    with torch.no_grad():
        expected = by_hand(model, small_model(), opinions(), job)
    loss, gradient = step(trainer, opinions(), 1)
    assert loss == pytest.approx(expected, abs=2e-6)
    for micro_batches in (3, 8):
        other, same = step(trainer, opinions(), micro_batches)
        assert other == pytest.approx(loss, abs=1e-6)
        assert torch.allclose(same, gradient, atol=1e-6)


@pytest.mark.parametrize("is_desirable", [True, False])
def test_a_step_of_one_kind_only(tmp_path, is_desirable):
    model = with_lora(small_model())
    trainer = trainer_of(KtoTrainer, tmp_path, model, job=job_of(), reference=Reference())
    rows = [EncodedOpinion(pair.chosen, is_desirable) for pair in pairs(4)]
    loss, gradient = step(trainer, rows, 2)
    assert math.isfinite(loss) and gradient.isfinite().all() and gradient.abs().max() > 0
    noted = trainer.taken_notes()
    assert ("rewards/chosen" in noted) == is_desirable and ("rewards/rejected" in noted) != is_desirable


def test_the_distance_is_not_below_zero(tmp_path):
    """A model that says everything less often than its reference has moved away by nothing."""
    sharp, flat = small_model(), small_model()
    with torch.no_grad():
        sharp.lm_head.weight *= 30
    trainer = trainer_of(KtoTrainer, tmp_path, sharp, job=job_of(), reference=Reference(frozen(flat)))
    totals = trainer.step_totals(opinions())
    assert totals[1] < 0
    trainer.loss_of(sharp, trainer.to_tensors(opinions()), totals)
    assert trainer.taken_notes()["kl"] == 0


def test_a_mismatched_row_keeps_to_the_cutoff():
    rows = opinions()
    for row, example in zip(mismatched(rows, 8), rows, strict=True):
        prompt = example.answer.labels.count(-100)
        assert len(row.input_ids) <= max(8, prompt + 1)
        assert row.learned >= 1


def test_loss_is_that_of_trl(tmp_path, tiny_model):
    from datasets import Dataset
    from transformers import AutoTokenizer
    from trl import KTOConfig, KTOTrainer
    from trl.trainer.kto_trainer import DataCollatorForUnpairedPreference

    rows = Dataset.from_list([{"prompt": "a", "completion": "b", "label": at % 2 == 0} for at in range(8)])
    settings = KTOConfig(
        str(tmp_path), use_cpu=True, report_to=[], beta=0.4, desirable_weight=1.3, undesirable_weight=0.6, bf16=False,
        gradient_checkpointing=False, per_device_train_batch_size=8, train_sampling_strategy="sequential",
    )  # fmt: skip
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    peer = KTOTrainer(small_model(3), small_model(0), args=settings, train_dataset=rows, processing_class=tokenizer)
    plain, strangers = opinions(), mismatched(opinions(), 99)
    batch = DataCollatorForUnpairedPreference(pad_token_id=0)(
        [
            {
                "prompt_ids": each.answer.input_ids[: (size := each.answer.labels.count(-100))],
                "completion_ids": each.answer.input_ids[size:], "KL_completion_ids": stranger.input_ids[size:],
                "label": each.is_desirable,
            }
            for each, stranger in zip(plain, strangers, strict=True)
        ]
    )  # fmt: skip
    expected = peer._compute_loss(peer.model, batch, False)
    model = small_model(0)  # trl gives its model another forward
    model.load_state_dict(peer.model.state_dict())
    ours = trainer_of(KtoTrainer, tmp_path, model, job=job_of(), reference=Reference(frozen(small_model(0))))
    assert step(ours, plain, 2)[0] == pytest.approx(expected.item(), abs=2e-6)
