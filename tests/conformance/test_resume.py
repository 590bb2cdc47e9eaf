"""A training that goes on from any of its checkpoints is, bit for bit, the one that was never stopped (on the CPU)."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from engine.errors import UserError  # noqa: E402
from engine.options.jobs import TrainJob  # noqa: E402
from engine.runs.checkpoints import MANIFEST  # noqa: E402
from engine.runs.folder import Folder  # noqa: E402
from engine.runs.progress import watch  # noqa: E402
from engine.runs.read import read_events  # noqa: E402
from engine.runs.record import Recorder, update_state, write_job  # noqa: E402
from engine.runs.resume import resumed_job  # noqa: E402
from engine.runs.saved import saved  # noqa: E402
from engine.work.train import run  # noqa: E402

BASE = {
    "num_train_epochs": 3, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "learning_rate": 1e-2,
    "logging_steps": 3, "save_steps": 1, "lora_dropout": 0.2, "weight_decay": 0.1, "warmup_steps": 3,
    "plot_loss": False, "preprocessing_num_workers": 1, "cutoff_len": 64,
}  # fmt: skip
"""21 rows: six steps an epoch, the last one smaller than the others."""
KINDS = {
    "lora": {},
    "lora, evaluated": {"val_size": 3, "eval_strategy": "steps", "eval_steps": 2, "logging_steps": 1},
    "full": {"finetuning_type": "full", "learning_rate": 1e-3, "optim": "adafactor"},
    "freeze": {"finetuning_type": "freeze", "freeze_trainable_layers": 1},
    "packed": {"packing": True, "cutoff_len": 48},
    "streamed": {"streaming": True, "max_steps": 14, "buffer_size": 8},
    "noise": {"neftune_noise_alpha": 5.0, "lr_scheduler_type": "cosine_with_restarts"},
}


@pytest.fixture
def train(workplace, tiny_model):
    rows = [{"instruction": f"Say {n}", "output": " ".join([f"number {n}"] * (1 + n % 5))} for n in range(21)]
    Path("rows.json").write_text(json.dumps(rows), encoding="utf-8")

    def do(name: str, **options) -> Folder:
        given = {**BASE, "model_name_or_path": str(tiny_model), "dataset": "rows.json", "output_dir": f"saves/{name}"}
        job = TrainJob.from_values({**given, **options})
        folder = Folder(Path(job.output_dir))
        folder.path.mkdir(parents=True, exist_ok=True)
        write_job(folder, job, "en")
        update_state(folder, kind="train", status="running")
        run(job, Recorder(folder))
        return folder

    return do


def weights(folder: Path) -> dict:
    from safetensors.torch import load_file

    return {name: weight for path in folder.glob("*.safetensors") for name, weight in load_file(path).items()}


def assert_same(ours: Path, theirs: Path) -> None:
    """Two checkpoints: weights, optimizer, scheduler and random states."""
    left, right = weights(ours), weights(theirs)
    assert left.keys() == right.keys() and left
    assert all(torch.equal(left[name], right[name]) for name in left)
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        first, second = (torch.load(folder / name, weights_only=False) for folder in (ours, theirs))
        assert_equal(first, second)


def assert_equal(first, second) -> None:
    if isinstance(first, torch.Tensor):
        assert torch.equal(first, second)
    elif isinstance(first, dict):
        assert first.keys() == second.keys()
        for name in first:
            assert_equal(first[name], second[name])
    elif isinstance(first, list | tuple):
        for one, other in zip(first, second, strict=True):
            assert_equal(one, other)
    else:
        assert first == pytest.approx(second) if isinstance(first, float) else repr(first) == repr(second)


def learned(folder: Folder) -> dict[str, list[tuple[float, float]]]:
    """The points of all curves, but for those that tell of the machine."""
    curves = watch(folder).curves.items()
    return {name: list(curve) for name, curve in curves if name not in ("throughput", "memory_bytes")}


@pytest.mark.parametrize("kind", KINDS)
def test_from_every_kind_of_moment(train, kind):
    """In the middle of an epoch, at its border, and between two lines of the log."""
    whole = train("whole", **KINDS[kind])
    total = watch(whole).total_steps
    results = json.loads(whole.results.read_text())
    moments = (1, total // 2, 2 * total // 3, total) if kind in ("lora", "streamed") else (total // 2, 2 * total // 3)
    for step in moments:
        checkpoint = whole.path / f"checkpoint-{step}"
        folder = train(f"from-{step}", **KINDS[kind], resume_from_checkpoint=str(checkpoint), save_steps=1000)
        found = learned(folder)
        for name, points in learned(whole).items():
            assert found.get(name, []) == [point for point in points if point[0] > step], name
        if step < total:
            assert_same(folder.path / f"checkpoint-{total}", whole.path / f"checkpoint-{total}")
        assert all(torch.equal(weight, weights(whole.path)[name]) for name, weight in weights(folder.path).items())
        assert json.loads(folder.results.read_text())["train_loss"] == pytest.approx(results["train_loss"], rel=1e-12)


@pytest.mark.parametrize(("batch", "accumulation"), [(1, 8), (2, 4), (8, 1)])
def test_at_another_micro_batch_size_each_step_keeps_its_examples(train, batch, accumulation):
    """Order of rows, number of steps and losses, up to the order in which float32 numbers are added.

    By plain gradient descent: Adam makes large steps of gradients that are nothing but rounding.
    """
    base = {
        "per_device_train_batch_size": 4, "num_train_epochs": 2, "logging_steps": 1, "lora_dropout": 0.0,
        "learning_rate": 0.3, "optim": "sgd",
    }  # fmt: skip
    whole = train("whole", **base)
    change = {"per_device_train_batch_size": batch, "gradient_accumulation_steps": accumulation}
    expected = dict(watch(whole).curves["loss"])
    assert len(expected) == 6
    for step in (2, 3):
        checkpoint = str(whole.path / f"checkpoint-{step}")
        folder = train(f"from-{step}", **{**base, **change, "resume_from_checkpoint": checkpoint, "save_steps": 1000})
        found = dict(watch(folder).curves["loss"])
        assert found == pytest.approx({at: loss for at, loss in expected.items() if at > step}, rel=2e-5)
        last = json.loads((folder.path / "checkpoint-6" / "trainer_state.json").read_text())
        assert last["train_batch_size"] == batch


def test_a_changed_learning_rate_is_the_one_that_counts(train):
    whole = train("whole", logging_steps=1, lr_scheduler_type="constant", save_steps=9)
    checkpoint = str(whole.path / "checkpoint-9")
    folder = train("slower", logging_steps=1, resume_from_checkpoint=checkpoint, learning_rate=1e-4,
                   lr_scheduler_type="constant")  # fmt: skip
    assert {value for _, value in watch(folder).curves["learning_rate"]} == {1e-4}
    state = torch.load(folder.path / "checkpoint-18" / "optimizer.pt", weights_only=False)
    assert {group["lr"] for group in state["param_groups"]} == {1e-4}


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "optimizer.pt", "trainer_state.json", MANIFEST, "gone"])
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(train, name):
    whole = train("whole", max_steps=4, logging_steps=1)
    shutil.copytree(whole.path, "saves/hurt")
    for path in Path("saves/hurt").glob("*.safetensors"):
        path.unlink()
    hurt = Path("saves/hurt/checkpoint-4") / name
    if name == "gone":
        (hurt.parent / "scheduler.pt").unlink()
    else:
        content = hurt.read_bytes()
        hurt.write_bytes(content[: len(content) // 2])
    folder = train("hurt", max_steps=4, logging_steps=1)
    events, _ = read_events(folder)
    assert [event["facts"]["path"].rsplit("/", 1)[1] for event in events if event.get("warning")] == ["checkpoint-4"]
    assert [event["resumed_at"] for event in events if "resumed_at" in event] == [3]
    assert learned(folder) == learned(whole), "no step is there twice"
    assert_same(folder.path / "checkpoint-4", whole.path / "checkpoint-4")


def test_changed_bytes_are_noticed_too_and_what_is_asked_for_by_name_is_refused(train):
    whole = train("whole", max_steps=2)
    path = whole.path / "checkpoint-2" / "optimizer.pt"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError) as refused:
        train("other", resume_from_checkpoint=str(whole.path / "checkpoint-2"))
    assert refused.value.key == "checkpoint_damaged" and refused.value.facts["file"] == "optimizer.pt"


def test_going_on_from_an_earlier_one_leaves_the_later_ones_and_ends_as_the_run_did(train):
    """As a run of its own, also when it is itself cut short before it has saved anything, and gone on with."""
    whole = train("whole", max_steps=6, logging_steps=1)
    update_state(whole, status="stopped")
    before = {path: path.read_bytes() for path in whole.path.rglob("*") if path.is_file()}
    values = resumed_job(whole, 3).values()
    assert values["output_dir"] is None
    branch = train("branch", **{**values, "output_dir": "saves/branch"})
    update_state(branch, status="lost")
    assert {path: path.read_bytes() for path in whole.path.rglob("*") if path.is_file()} == before
    assert [event["resumed_at"] for event in read_events(branch)[0] if "resumed_at" in event] == [3]
    for name, points in learned(whole).items():
        assert learned(branch)[name] == [point for point in points if point[0] > 3], name
    assert [each.step for each in saved(branch)] == [4, 5, 6]
    assert [each.loss for each in saved(branch)] == [each.loss for each in saved(whole)[3:]]
    assert_same(branch.path / "checkpoint-6", whole.path / "checkpoint-6")
    losses = [json.loads(each.results.read_text())["train_loss"] for each in (branch, whole)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-12)
    for path in branch.path.glob("checkpoint-*"):
        shutil.rmtree(path)
    again = train("branch", **resumed_job(branch).values())
    assert_same(again.path / "checkpoint-6", whole.path / "checkpoint-6")


def test_a_checkpoint_of_weights_alone_is_gone_on_from_and_says_what_begins_anew(train):
    whole = train("whole", max_steps=4, logging_steps=1, save_only_model=True, learning_rate=1e-3)
    assert all("optimizer" not in each.holds for each in saved(whole))
    update_state(whole, status="stopped")
    shutil.rmtree(whole.path / "checkpoint-4")
    folder = train("whole", **resumed_job(whole).values())
    warnings = [event["warning"] for event in read_events(folder)[0] if "warning" in event]
    assert warnings.count("resume.weights_only") == 1
    assert [event["resumed_at"] for event in read_events(folder)[0] if "resumed_at" in event] == [3]
    assert saved(folder)[-1].step == 4
