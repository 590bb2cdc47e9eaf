"""Optimizers and token losses against formulas written here a second time, and transformers' own list of names."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional
from transformers import Trainer, TrainingArguments
from transformers.training_args import OptimizerNames

from engine.catalog import packages
from engine.catalog.packages import package_problems
from engine.errors import Refused
from engine.options.command import job_from
from engine.options.jobs import TrainJob
from engine.options.rules_training import TRACKERS, optimizer_names
from engine.work.optimizers import BlockAdamW, Layerwise, Together, optimizer_of
from engine.work.token_losses import dft, eaft, held_to, token_loss

RATE = 0.01
IDS = torch.arange(1000, 1024).reshape(2, 12)


def job_of(**options: Any) -> TrainJob:
    return job_from(TrainJob, {"dataset": "identity", "finetuning_type": "full", **options}).job


@pytest.fixture
def model(tiny_model: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(tiny_model).train()


def made(model: Any, tmp_path: Path, weight_decay: float = 0.1, **options: Any) -> torch.optim.Optimizer:
    """The optimizer as the trainer makes it."""
    arguments = TrainingArguments(str(tmp_path), learning_rate=RATE, weight_decay=weight_decay, use_cpu=True)
    trainer = Trainer(model, arguments)
    trainer.optimizer_cls_and_kwargs = optimizer_of(job_of(**options), arguments)
    return trainer.create_optimizer()


def backward(model: Any) -> None:
    logits = model(input_ids=IDS).logits
    functional.cross_entropy(logits[:, :-1].flatten(0, 1), IDS[:, 1:].flatten()).backward()


def learn(model: Any, optimizer: torch.optim.Optimizer, steps: int = 2) -> dict[str, torch.Tensor]:
    for _ in range(steps):
        backward(model)
        optimizer.step()
        optimizer.zero_grad()
    return {name: each.detach().clone() for name, each in model.named_parameters()}


def moved(before: Any, after: Any) -> set[str]:
    return {name for name in before if not torch.equal(before[name], after[name])}


def test_every_name_that_transformers_takes_is_known():
    assert set(optimizer_names()) == {member.value for member in OptimizerNames}


def test_every_tracker_that_transformers_takes_is_known():
    from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

    assert set(TRACKERS) == {*INTEGRATION_TO_CALLBACK, "none", "all"}


@pytest.mark.parametrize(
    ("options", "key", "fact"),
    [
        ({"optim": "adamw_troch"}, "optimizer_unknown", "adamw_torch"),
        ({"optim": "adamw"}, "optimizer_unknown", "adamw_"),
        ({"report_to": "tensorbord"}, "tracker_unknown", "tensorboard"),
        ({"use_galore": True, "use_muon": True}, "two_optimizers", "use_muon"),
        ({"use_galore": True, "finetuning_type": "lora"}, "optimizer_needs_whole_weights", "use_galore"),
        ({"use_badam": True, "finetuning_type": "lora"}, "optimizer_needs_whole_weights", "use_badam"),
        ({"use_apollo": True, "apollo_layerwise": True}, "layerwise_accumulates", "gradient_accumulation_steps"),
        ({"use_badam": True, "badam_mode": "ratio"}, "badam_ratio", "layer"),
        ({"use_muon": True, "parallel": "zero2"}, "optimizer_and_shards", "zero2"),
        ({"use_galore": True, "deepspeed": "some.json"}, "optimizer_and_shards", "deepspeed"),
        ({"optim": "galore_adamw"}, "optimizer_without_targets", "use_galore"),
        ({"use_dft_loss": True, "use_asft_loss": True}, "two_losses", "use_asft_loss"),
        ({"early_stopping_steps": 3}, "early_stopping_without_evaluation", "val_size"),
        ({"load_best_model_at_end": True}, "best_model_without_evaluation", "val_size"),
    ],
    ids=lambda each: next(iter(each)) if isinstance(each, dict) else "",
)
def test_what_does_not_go_together_is_refused(options, key, fact):
    with pytest.raises(Refused) as refused:
        job_of(**options)
    assert [problem.key for problem in refused.value.problems] == [key]
    assert fact in refused.value.text()


def test_a_missing_package_is_named_before_anything_is_loaded(monkeypatch):
    monkeypatch.setattr(packages, "is_installed", lambda package: False)
    asked = {"optim": "lomo", "report_to": "tensorboard,wandb", "use_galore": True, "use_swanlab": True}
    found = {(each.option, each.facts["command"]) for each in package_problems(job_of(**asked))}
    assert found == {
        ("optim", "pip install lomo-optim"), ("report_to", "pip install tensorboard"),
        ("report_to", "pip install wandb"), ("use_galore", "pip install galore-torch"),
        ("use_swanlab", "pip install swanlab"),
    }  # fmt: skip
    assert package_problems(job_of()) == []


def assert_orthogonalised(step: torch.Tensor, gradient: torch.Tensor) -> None:
    """Muon's five steps of a quintic polynomial bring singular values close to 1; looked at where they are not tiny,
    since the steps are done in bfloat16."""
    left, singular, right = torch.linalg.svd(gradient, full_matrices=False)
    singular = singular / singular.norm()
    count = int((singular > 0.05).sum())
    expected = singular[:count]
    for _ in range(5):
        expected = 3.4445 * expected - 4.775 * expected**3 + 2.0315 * expected**5
    assert count > 2
    assert torch.allclose(left[:, :count].T @ step @ right[:count].T, torch.diag(expected), atol=0.1)


def test_muon_moves_hidden_matrices_by_orthogonal_steps_and_all_else_by_adamw(model, tmp_path):
    other = copy.deepcopy(model)
    optimizer = made(model, tmp_path, use_muon=True)
    assert isinstance(optimizer, Together)
    before = {name: each.detach().clone() for name, each in model.named_parameters()}
    after = learn(model, optimizer, steps=1)
    backward(other)
    is_matrix = {name: each.ndim == 2 and "embed" not in name for name, each in before.items()}
    assert sum(is_matrix.values()) == 14
    for name, weight in before.items():
        if is_matrix[name]:
            step = (weight * (1 - RATE * 0.1) - after[name]) / (RATE * 0.2 * math.sqrt(max(weight.shape)))
            assert_orthogonalised(step, dict(other.named_parameters())[name].grad)
        else:
            gradient = dict(other.named_parameters())[name].grad
            decay = 0.1 if weight.ndim == 2 else 0.0
            expected = weight * (1 - RATE * decay) - RATE * gradient / (gradient.abs() + 1e-8)  # AdamW's first step
            assert torch.allclose(after[name], expected, atol=1e-6), name


def test_badam_is_adamw_on_one_layer_after_the_other(model, tmp_path):
    plain = copy.deepcopy(model)
    start = {name: each.detach().clone() for name, each in model.named_parameters()}
    optimizer = made(model, tmp_path, use_badam=True, badam_switch_interval=2)
    first = learn(model, optimizer)
    assert {name.split(".")[2] for name in moved(start, first)} == {"0"} and len(moved(start, first)) == 9
    decayed = Trainer.get_decay_parameter_names(None, plain)
    layer = [(name, each) for name, each in plain.named_parameters() if ".layers.0." in name]
    groups = [
        {"params": [each for name, each in layer if (name in decayed) == decays], "weight_decay": 0.1 * decays}
        for decays in (True, False)
    ]
    expected = learn(plain, torch.optim.AdamW(groups, lr=RATE))
    assert all(torch.allclose(first[name], expected[name], atol=1e-7) for name in first)
    second = learn(model, optimizer)
    assert {name.split(".")[2] for name in moved(first, second)} == {"1"}
    assert {name.split(".")[2] for name in moved(second, learn(model, optimizer))} == {"0"}


@pytest.mark.parametrize(
    ("options", "order"),
    [
        ({"badam_switch_mode": "descending"}, [1, 0, 1]),
        ({"badam_switch_mode": "fixed", "badam_start_block": 1}, [1, 1, 1]),
        ({"badam_switch_interval": -1}, [0, 0, 0]),
        ({"badam_start_block": 1}, [1, 0, 1]),
    ],
)
def test_badam_takes_the_layers_in_the_order_asked_for(model, tmp_path, options, order):
    optimizer = made(model, tmp_path, use_badam=True, **{"badam_switch_interval": 1, **options})
    before, seen = {name: each.detach().clone() for name, each in model.named_parameters()}, []
    for _ in order:
        after = learn(model, optimizer, steps=1)
        seen += {int(name.split(".")[2]) for name in moved(before, after)}
        before = after
    assert seen == order


SWITCHES = {
    "muon": {"use_muon": True}, "badam": {"use_badam": True, "badam_switch_interval": 3},
    "badam_random": {"use_badam": True, "badam_switch_interval": 1, "badam_switch_mode": "random"},
    "galore": {"use_galore": True, "galore_rank": 4}, "apollo": {"use_apollo": True, "apollo_rank": 4},
    "apollo_svd": {"use_apollo": True, "apollo_rank": 4, "apollo_proj": "svd", "apollo_scale_front": True},
    "galore_layerwise": {
        "use_galore": True, "galore_rank": 4, "galore_layerwise": True, "gradient_accumulation_steps": 1
    },
    "adam_mini": {"use_adam_mini": True},
}  # fmt: skip
NEEDS = {"galore": "galore_torch", "apollo": "apollo_torch", "adam": "adam_mini"}


@pytest.mark.parametrize("name", SWITCHES)
def test_training_goes_on_from_what_was_saved(name, model, tmp_path):
    if package := NEEDS.get(name.split("_")[0]):
        pytest.importorskip(package)
    other = copy.deepcopy(model)
    optimizer = made(model, tmp_path, **SWITCHES[name])
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
    learn(model, optimizer)
    scheduler.step()
    torch.save(optimizer.state_dict(), tmp_path / "optimizer.pt")
    other.load_state_dict(model.state_dict())
    resumed = made(other, tmp_path, **SWITCHES[name])
    resumed.load_state_dict(torch.load(tmp_path / "optimizer.pt", weights_only=True))  # as transformers reads it
    assert [group["lr"] for group in resumed.param_groups] == [RATE / 2] * len(resumed.param_groups)
    expected, found = learn(model, optimizer), learn(other, resumed)
    assert all(torch.equal(expected[each], found[each]) for each in expected)


def test_a_weight_that_moves_in_the_backward_pass_moves_as_in_a_step(model, tmp_path):
    other = copy.deepcopy(model)
    inner = {each: torch.optim.AdamW([each], lr=RATE) for each in model.parameters()}
    found = learn(model, Layerwise(inner))
    expected = learn(other, torch.optim.AdamW(other.parameters(), lr=RATE))
    assert all(torch.allclose(found[name], expected[name], atol=1e-7) for name in expected)


def test_galore_projects_to_its_rank_and_leaves_the_head(model, tmp_path):
    pytest.importorskip("galore_torch")
    optimizer = made(model, tmp_path, use_galore=True, galore_rank=3, galore_target="q_proj,down_proj")
    learn(model, optimizer)
    low = [group for group in optimizer.param_groups if "rank" in group]
    assert [(group["rank"], group["scale"], group["weight_decay"], len(group["params"])) for group in low] == [
        (3, 2.0, 0.1, 4)
    ]
    assert all(3 in optimizer.state[each]["exp_avg"].shape for each in low[0]["params"])


def test_one_scheduler_sets_all_rates(model, tmp_path):
    for options in (SWITCHES["muon"], SWITCHES["badam_random"]):
        optimizer = made(copy.deepcopy(model), tmp_path, **options)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
        optimizer.step() if isinstance(optimizer, BlockAdamW) else None
        scheduler.step()
        assert {group["lr"] for group in optimizer.param_groups} == {RATE / 2}


LOGITS = torch.tensor([[1.0, 2.0, 0.5, -1.0], [0.0, 0.0, 3.0, 1.0]], requires_grad=True)
TARGETS = torch.tensor([1, 0])


def probabilities(row: int) -> list[float]:
    powers = [math.exp(value) for value in LOGITS[row].tolist()]
    return [power / sum(powers) for power in powers]


def test_dft_weighs_a_token_by_its_probability():
    right = [probabilities(row)[target] for row, target in enumerate(TARGETS.tolist())]
    losses = dft(LOGITS, TARGETS)
    assert losses.tolist() == pytest.approx([-p * math.log(p) for p in right], abs=1e-6)
    (gradient,) = torch.autograd.grad(losses.sum(), LOGITS)  # that of the plain loss, times p
    for row, target in enumerate(TARGETS.tolist()):
        plain = [p - (at == target) for at, p in enumerate(probabilities(row))]
        assert gradient[row].tolist() == pytest.approx([right[row] * value for value in plain], abs=1e-6)


@pytest.mark.parametrize("alpha", [0.0, 1.0, 2.0])
def test_eaft_weighs_a_token_by_how_undecided_the_model_is(alpha):
    expected = []
    for row, target in enumerate(TARGETS.tolist()):
        each = probabilities(row)
        entropy = -sum(p * math.log(p) for p in each)
        expected.append(-math.log(each[target]) * (entropy / 3) ** alpha)
    assert eaft(LOGITS, TARGETS, alpha).tolist() == pytest.approx(expected, abs=1e-6)


def test_eaft_looks_at_the_twenty_likeliest_tokens():
    logits = torch.cat([torch.zeros(1, 20), torch.full((1, 30), -1.0)], dim=1)
    (loss,) = eaft(logits, torch.tensor([0]), 1.0).tolist()
    assert loss == pytest.approx(math.log(20 + 30 / math.e) * math.log(20) / 3, abs=1e-5)


def test_a_model_is_held_by_the_divergence_from_what_it_was():
    reference = LOGITS.detach().roll(1, dims=1)
    expected = []
    for row in range(2):
        now, before = probabilities(row), probabilities(row)[-1:] + probabilities(row)[:-1]
        expected.append(sum(q * (math.log(q) - math.log(p)) for p, q in zip(now, before, strict=True)))
    assert held_to(LOGITS, reference).tolist() == pytest.approx(expected, abs=1e-6)
    assert held_to(LOGITS, LOGITS).tolist() == pytest.approx([0, 0], abs=1e-7)


def test_smoothed_labels_share_with_all_tokens():
    smoothed = token_loss(job_of(label_smoothing_factor=0.1))(LOGITS, TARGETS)
    for row, target in enumerate(TARGETS.tolist()):
        logs = [math.log(p) for p in probabilities(row)]
        assert smoothed[row].item() == pytest.approx(-0.9 * logs[target] - 0.1 * sum(logs) / 4, abs=1e-6)
