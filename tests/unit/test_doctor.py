"""What the doctor stops, and what it lets pass: from numbers alone, and in a real training of a tiny model."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from engine.catalog.devices import Precision  # noqa: E402
from engine.errors import UserError  # noqa: E402
from engine.options.jobs import TrainJob  # noqa: E402
from engine.runs.folder import Folder  # noqa: E402
from engine.runs.record import Recorder, update_state, write_job  # noqa: E402
from engine.work.doctor import FIRST_STEPS, SKIPPED_STEPS, Doctor  # noqa: E402

FLOAT32 = Precision("float32", "float32", "float32", "")
FLOAT16 = Precision("float16", "float32", "float16", "")
NAN, INF = math.nan, math.inf


def verdict(*steps, stage: str = "sft", precision: Precision = FLOAT32, first: int = 1) -> tuple[str, int] | None:
    """What is said of steps, each a loss, a gradient's norm, and a learning rate; and at which one."""
    doctor = Doctor(TrainJob(dataset=("a",), stage=stage), precision)
    for number, step in enumerate(steps, first):
        try:
            doctor.examine(number, *step)
        except UserError as error:
            assert error.text() and "{" not in error.text()
            return error.key.removeprefix("doctor."), number
    return None


@pytest.mark.parametrize("loss", [NAN, INF, -INF])
@pytest.mark.parametrize("before", [0, 1, 1000])
def test_a_loss_that_is_no_number_is_stopped_at_any_step(loss, before):
    good = [(2.0, 1.0, 1e-4)] * before
    assert verdict(*good, (loss, NAN, 1e-4)) == ("loss_broken", before + 1)
    assert verdict(*good, (loss, NAN, 1e-4), precision=FLOAT16) == ("loss_overflow", before + 1)
    assert verdict(*good, (loss, NAN, 1e-4, "lm_head.weight")) == ("weight_broken", before + 1)


def test_a_gradient_that_is_no_number_is_stopped_unless_the_loss_is_scaled():
    assert verdict((2.0, 1.0, 1e-4), (2.0, NAN, 1e-4)) == ("gradient_broken", 2)
    assert verdict((2.0, INF, 1e-4)) == ("gradient_broken", 1)
    pure = Precision("float16", "float16", "float32", "")
    assert verdict((2.0, INF, 1e-4), precision=pure) == ("gradient_overflow", 1)
    skipped = [(2.0, INF, 1e-4)]
    assert verdict(*skipped * 16, (2.0, 1.0, 1e-4), *skipped * 16, precision=FLOAT16) is None
    assert verdict(*skipped * 100, precision=FLOAT16) == ("all_skipped", SKIPPED_STEPS + 1)


def test_nothing_in_each_of_the_first_steps_is_a_fault():
    assert verdict(*[(0.0, 0.0, 1e-4)] * 5) == ("loss_zero", FIRST_STEPS)
    assert verdict(*[(2.0, 0.0, 1e-4)] * 5) == ("gradient_zero", FIRST_STEPS)
    assert verdict(*[(2.0, 1.0, 0.0)] * 5) == ("rate_zero", FIRST_STEPS)


def test_what_is_no_fault():
    assert verdict((2.0, 1.0, 0.0), *[(2.0, 1.0, 1e-6)] * 5) is None, "a warmup begins with 0"
    assert verdict((0.0, 0.0, 1e-4), *[(2.0, 1.0, 1e-4)] * 5) is None
    assert verdict(*[(0.0, 0.0, 1e-4)] * 9, first=500) is None, "all is learned by then"
    assert verdict(*[(2.0, 1.0, 0.0)] * 9, first=500) is None, "the end of a schedule"
    assert verdict(*[(0.0, 0.0, 1e-4)] * 9, stage="grpo") is None, "all answers were equally good"
    assert verdict(*[(0.0, 1.0, 1e-4)] * 9, stage="dpo") is None, "a margin that is wide enough"


@pytest.fixture
def train(workplace, tiny_model):
    rows = [{"instruction": f"Say {n}", "output": f"number {n}"} for n in range(24)]
    Path("rows.json").write_text(json.dumps(rows), encoding="utf-8")

    def do(**options) -> tuple[Folder, UserError | None]:
        from engine.work.train import run

        base = {"model_name_or_path": str(tiny_model), "dataset": "rows.json", "output_dir": "saves/run",
                "save_steps": 1, "num_train_epochs": 2, "plot_loss": False}  # fmt: skip
        job = TrainJob.from_values({**base, **options})
        folder = Folder(Path(job.output_dir))
        folder.path.mkdir(parents=True)
        write_job(folder, job, "en")
        update_state(folder, kind="train", status="running")
        try:
            run(job, Recorder(folder))
        except UserError as error:
            return folder, error
        return folder, None

    return do


def change_loss(monkeypatch, at_step: int, factor: float, plus: float = 0.0) -> None:
    from engine.work.supervised import SupervisedTrainer

    usual = SupervisedTrainer.loss_of

    def loss_of(self, model, batch, totals):
        loss = usual(self, model, batch, totals)
        return loss * factor + plus if self.state.global_step + 1 >= at_step else loss

    monkeypatch.setattr(SupervisedTrainer, "loss_of", loss_of)


def test_no_checkpoint_holds_what_is_broken(train, monkeypatch):
    change_loss(monkeypatch, 4, NAN)
    folder, error = train()
    assert error.key == "doctor.loss_broken" and error.facts["step"] == 4 and error.facts["before"] != "–"
    assert [path.name for path in folder.checkpoints()] == ["checkpoint-1", "checkpoint-2", "checkpoint-3"]
    from safetensors.torch import load_file

    weights = load_file(folder.checkpoints()[-1] / "adapter_model.safetensors")
    assert all(torch.isfinite(weight).all() for weight in weights.values())
    assert not (folder.path / "adapter_model.safetensors").exists()


@pytest.mark.parametrize(
    ("factor", "plus", "key"), [(0.0, 0.0, "doctor.loss_zero"), (0.0, 2.0, "doctor.gradient_zero")]
)
def test_nothing_to_learn_is_noticed_in_a_training(train, monkeypatch, factor, plus, key):
    change_loss(monkeypatch, 1, factor, plus)
    _, error = train()
    assert error.key == key and error.facts["step"] == FIRST_STEPS


def test_a_learning_rate_of_nothing_and_one_beyond_all_measure(train):
    assert train(learning_rate=0.0)[1].key == "doctor.rate_zero"
    _, error = train(learning_rate=1e30, output_dir="saves/fast", max_grad_norm=0.0, optim="sgd")
    assert error.key in ("doctor.loss_broken", "doctor.gradient_broken") and float(error.facts["rate"]) > 1e29
    _, error = train(learning_rate=1e-3, warmup_steps=3, output_dir="saves/warm")
    assert error is None


def test_weights_that_are_broken_on_the_disk_are_named(train, tiny_model, workplace):
    from safetensors.torch import load_file, save_file

    broken = workplace / "broken"
    broken.mkdir()
    for path in tiny_model.iterdir():
        (broken / path.name).write_bytes(path.read_bytes())
    weights = load_file(broken / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"][3, 5] = NAN
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    _, error = train(model_name_or_path=str(broken))
    assert error.key == "doctor.weight_broken" and "layers.1.mlp.up_proj" in error.facts["weight"]


def test_prompts_that_leave_no_room_for_answers_are_counted(train):
    long = [{"instruction": "word " * 200, "output": "yes"} for _ in range(5)]
    Path("long.json").write_text(json.dumps(long), encoding="utf-8")
    _, error = train(dataset="long.json", cutoff_len=16, train_on_prompt=False)
    if error is not None:  # the answer keeps its share of the cutoff where that is at least one token
        assert error.key == "answers_all_cut" and error.facts["rows"] == 5
