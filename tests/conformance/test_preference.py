"""Every preference loss against a formula written here, against trl's own code, and in every arrangement of a step."""

import math
from types import SimpleNamespace

import pytest
import torch

from engine.options.jobs import TrainJob
from engine.work.preference import PreferenceTrainer, Ratios, Reference, bco_loss, preference_loss
from tests.conformance.stage_cases import ROWS, answer_logps, frozen, pairs, small_model, step, trainer_of, with_lora

LOSSES = ("sigmoid", "hinge", "ipo", "kto_pair", "orpo", "simpo")
VARIANTS = (
    *({"pref_loss": loss} for loss in LOSSES),
    {"pref_loss": "sigmoid", "dpo_label_smoothing": 0.2},
    {"pref_loss": "sigmoid", "ld_alpha": 0.3},
    {"pref_loss": "ipo", "ld_alpha": 0.0},
    {"pref_loss": "hinge", "pref_ftx": 0.7},
    {"pref_loss": "sigmoid", "pref_bco_weight": 0.5},
    {"pref_loss": "simpo", "simpo_gamma": 1.1, "pref_ftx": 0.1},
)


def job_of(**options) -> TrainJob:
    return TrainJob(**ROWS, stage="dpo", **{"pref_beta": 0.4, **options})


def log_sigmoid(x: float) -> float:
    return -math.log1p(math.exp(-x))


def by_hand(model, reference, examples, job) -> float:
    """The mean loss of the pairs in plain Python, one number at a time."""
    beta, rows = job.pref_beta, []
    for pair in examples:
        answers = []
        shorter = min(pair.chosen.learned, pair.rejected.learned)
        for row in (pair.chosen, pair.rejected):
            policy, before = answer_logps(model, row).tolist(), answer_logps(reference, row).tolist()
            weights = [1.0 if at < shorter or job.ld_alpha is None else job.ld_alpha for at in range(len(policy))]
            logp = sum(w * each for w, each in zip(weights, policy, strict=True))
            ratio = logp - sum(w * each for w, each in zip(weights, before, strict=True))
            answers.append((logp / len(policy), ratio, ratio / len(policy), sum(policy) / len(policy)))
        rows.append(answers)
    mean_chosen = sum(chosen[1] for chosen, _ in rows) / len(rows)
    mean_rejected = sum(rejected[1] for _, rejected in rows) / len(rows)
    total = 0.0
    for (mean_c, ratio_c, mean_ratio_c, plain_c), (mean_r, ratio_r, mean_ratio_r, _) in rows:
        delta = beta * (ratio_c - ratio_r)
        if job.pref_loss == "sigmoid":
            smooth = job.dpo_label_smoothing
            loss = -(1 - smooth) * log_sigmoid(delta) - smooth * log_sigmoid(-delta)
        elif job.pref_loss == "hinge":
            loss = max(0.0, 1 - delta)
        elif job.pref_loss == "ipo":
            loss = (mean_ratio_c - mean_ratio_r - 1 / (2 * beta)) ** 2
        elif job.pref_loss == "orpo":
            odds = [math.exp(mean) / (1 - math.exp(mean)) for mean in (mean_c, mean_r)]
            loss = -mean_c - beta * log_sigmoid(math.log(odds[0] / odds[1]))
        elif job.pref_loss == "simpo":
            loss = -log_sigmoid(beta * mean_c - beta * mean_r - job.simpo_gamma)
        else:
            kept, lost = beta * (ratio_c - max(0, mean_rejected)), beta * (max(0, mean_chosen) - ratio_r)
            loss = (2 - 1 / (1 + math.exp(-kept)) - 1 / (1 + math.exp(-lost))) / 2
        if job.pref_bco_weight:
            middle = beta * (mean_chosen + mean_rejected) / 2
            bco = -log_sigmoid(beta * ratio_c - middle) - log_sigmoid(middle - beta * ratio_r)
            loss = (loss + job.pref_bco_weight * bco) / (1 + job.pref_bco_weight)
        total += loss - job.pref_ftx * plain_c
    return total / len(rows)


@pytest.fixture(scope="module")
def adapted():
    return with_lora(small_model())


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_loss_is_the_one_it_is_called_in_every_arrangement(adapted, tmp_path, options):
    job = job_of(**options)
    trainer = trainer_of(PreferenceTrainer, tmp_path, adapted, job=job, reference=Reference())
    with torch.no_grad():
        expected = by_hand(adapted, small_model(), pairs(), job)
    loss, gradient = step(trainer, pairs(), 1)
    assert loss == pytest.approx(expected, abs=2e-6)
    assert gradient.abs().max() > 1e-4
    for micro_batches in (3, 8):
        other, same = step(trainer, pairs(), micro_batches)
        assert other == pytest.approx(loss, abs=1e-6)
        assert torch.allclose(same, gradient, atol=1e-6)


def test_the_losses_differ(adapted, tmp_path):
    found = []
    for loss in LOSSES:
        trainer = trainer_of(PreferenceTrainer, tmp_path, adapted, job=job_of(pref_loss=loss), reference=Reference())
        found.append(step(trainer, pairs(), 1)[0])
    assert all(abs(a - b) > 1e-3 for at, a in enumerate(found) for b in found[:at])


def test_a_switched_off_adapter_is_the_base_model(adapted, tmp_path):
    job = job_of()
    off = trainer_of(PreferenceTrainer, tmp_path, adapted, job=job, reference=Reference())
    other = trainer_of(PreferenceTrainer, tmp_path, adapted, job=job, reference=Reference(frozen(small_model())))
    loss, gradient = step(off, pairs(), 2)
    again, same = step(other, pairs(), 2)
    assert again == pytest.approx(loss, abs=1e-6) and torch.allclose(same, gradient, atol=1e-6)
    assert all(parameter.requires_grad for name, parameter in adapted.named_parameters() if "lora_" in name)


def test_no_reference_is_asked_for_orpo_and_simpo(adapted, tmp_path):
    for loss in ("orpo", "simpo"):
        trainer = trainer_of(PreferenceTrainer, tmp_path, adapted, job=job_of(pref_loss=loss), reference=None)
        step(trainer, pairs(2), 1)


def test_metrics_are_means_over_all_pairs(adapted, tmp_path):
    trainer = trainer_of(PreferenceTrainer, tmp_path, adapted, job=job_of(), reference=Reference())
    step(trainer, pairs(), 3)
    noted, base = trainer.taken_notes(), small_model()
    with torch.no_grad():
        chosen, rejected = (
            [(answer_logps(adapted, row).sum() - answer_logps(base, row).sum()).item() * 0.4 for row in rows]
            for rows in zip(*((pair.chosen, pair.rejected) for pair in pairs()), strict=True)
        )
    assert noted["rewards/chosen"] == pytest.approx(sum(chosen) / 8, abs=1e-5)
    assert noted["rewards/margins"] == pytest.approx((sum(chosen) - sum(rejected)) / 8, abs=1e-5)
    assert noted["rewards/accuracies"] == sum(c > r for c, r in zip(chosen, rejected, strict=True)) / 8


@pytest.fixture(scope="module")
def peer(tmp_path_factory, tiny_model):
    """trl's own DPO trainer, of which the loss of a batch is asked; its model and its reference are ours."""
    from datasets import Dataset
    from transformers import AutoTokenizer
    from trl import DPOConfig, DPOTrainer

    folder = tmp_path_factory.mktemp("dpo")
    rows = Dataset.from_list([{"prompt": "a", "chosen": "b", "rejected": "c"}] * 2)
    settings = DPOConfig(str(folder), use_cpu=True, report_to=[], beta=0.4, bf16=False, gradient_checkpointing=False)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    return DPOTrainer(small_model(3), small_model(0), args=settings, train_dataset=rows, processing_class=tokenizer)


@pytest.mark.parametrize("options", [*VARIANTS[:3], *VARIANTS[7:9]], ids=str)
def test_loss_is_that_of_trl(peer, tmp_path, options):
    from trl.trainer.dpo_trainer import DataCollatorForPreference

    job = job_of(**options)
    peer.loss_types, peer.ld_alpha = [job.pref_loss], job.ld_alpha
    prompts = [pair.chosen.labels.count(-100) for pair in pairs()]
    batch = DataCollatorForPreference(pad_token_id=0)(
        [
            {
                "prompt_ids": pair.chosen.input_ids[:size], "chosen_ids": pair.chosen.input_ids[size:],
                "rejected_ids": pair.rejected.input_ids[size:],
            }
            for pair, size in zip(pairs(), prompts, strict=True)
        ]
    )  # fmt: skip
    expected = peer._compute_loss(peer.model, batch, False)
    reference = Reference(frozen(small_model(0)))
    model = small_model(0)  # trl gives its model another forward
    model.load_state_dict(peer.model.state_dict())
    ours = trainer_of(PreferenceTrainer, tmp_path, model, job=job, reference=reference)
    assert step(ours, pairs(), 2)[0] == pytest.approx(expected.item(), abs=2e-6)


def test_orpo_and_simpo_are_those_of_trl():
    from trl.experimental.cpo import CPOTrainer
    from trl.experimental.orpo import ORPOTrainer

    logps = Ratios(torch.tensor([-0.3, -1.2, -2.0]), torch.tensor([-0.9, -1.1, -0.5]))
    cpu = SimpleNamespace(device="cpu")
    settings = {"beta": 0.4, "simpo_gamma": 0.5, "label_smoothing": 0.0, "alpha": 0.0, "loss_type": "simpo"}
    simpo, _, _ = CPOTrainer.cpo_loss(SimpleNamespace(**settings, accelerator=cpu), *logps)
    assert torch.allclose(preference_loss(logps, job_of(pref_loss="simpo")), simpo)
    weighed = ORPOTrainer.odds_ratio_loss(SimpleNamespace(beta=0.4, accelerator=cpu), *logps)[0]
    assert torch.allclose(preference_loss(logps, job_of(pref_loss="orpo")), -logps.chosen - weighed)


def test_bco_about_zero_is_that_of_trl():
    logps, nothing = Ratios(torch.tensor([0.7, -0.2]), torch.tensor([-0.4, 0.1])), Ratios(*torch.zeros(2))
    expected = -torch.nn.functional.logsigmoid(0.4 * logps.chosen) - torch.nn.functional.logsigmoid(
        -0.4 * logps.rejected
    )  # loss_type "bco_pair" of trl 1.16
    assert torch.allclose(bco_loss(logps, job_of(), nothing), expected)
