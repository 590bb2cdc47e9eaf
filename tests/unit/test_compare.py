"""Runs side by side: what differs against the options as the files hold them, what came out, and the curves."""

from __future__ import annotations

import csv
import itertools
import json
import math
import shutil
from pathlib import Path

import pytest
import yaml

from engine.errors import UserError
from engine.options.jobs import TrainJob
from engine.runs.compare import best, compared, differing_facts, differing_options, outcome
from engine.runs.folder import SAVES, Folder
from engine.runs.overlay import overlays
from engine.runs.record import update_state, write_job
from terminal.columns import aligned
from terminal.compare import compare


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def made(name: str, losses: dict[int, float] | None = None, total: int = 100, told: tuple = (), **options) -> Folder:
    folder = Folder(SAVES / "m" / "lora" / name)
    folder.path.mkdir(parents=True)
    write_job(folder, TrainJob.from_values({"output_dir": str(folder.path), "dataset": "rows", **options}), "en")
    update_state(folder, kind="train", status="done", started_at=1e9, finished_at=1e9 + 60)
    lines = [*told]
    for step, loss in (losses or {}).items():
        place = {"current_steps": step, "total_steps": total, "epoch": 4 * step / total}
        lines.append({**place, "loss": loss, "throughput": 10.0, "memory_bytes": 1000 + step})
        lines += [{**place, "eval_loss": loss + 1}] if step % 10 == 0 else []
    folder.events.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def as_written(folder: Folder) -> dict:
    return yaml.safe_load(folder.job.read_text())["options"]


def shown(*folders: Folder) -> dict[str, tuple]:
    return {each.name: each.values for each in differing_options(compared(folders))}


ASKED = [
    {},
    {"val_size": 0.1, "packing": True, "report_to": "tensorboard", "warmup_steps": 0},
    {"learning_rate": 0.0003, "warmup_steps": 5, "max_samples": 7, "default_system": "Be brief."},
    {"logging_steps": 1, "default_system": "", "lr_scheduler_type": "constant", "max_grad_norm": 0},
    {"dataset": "rows,more", "adam_beta2": 0.97, "skip_memory_metrics": False, "seed": 0},
]


@pytest.mark.parametrize("pair", list(itertools.combinations(range(len(ASKED)), 2)))
def test_what_differs_is_what_differs_in_the_files(pair):
    """All these options have an effect in all these jobs: a plain comparison of the written values is the reference."""
    folders = [made(f"run{number}", **ASKED[number]) for number in pair]
    one, two = map(as_written, folders)

    def typed(values: dict, name: str) -> str:
        return "–" if name not in values else "none" if values[name] is None else str(values[name])

    names = {name for name in {**one, **two} if one.get(name, ...) != two.get(name, ...)} - {"output_dir"}
    assert len(names) >= 3
    assert shown(*folders) == {name: (typed(one, name), typed(two, name)) for name in names}


def test_zero_false_none_and_nothing_are_values():
    assert shown(
        made("a", val_size=0.0, packing=False, additional_target="", seed=0, max_samples=None, report_to="none"),
        made("b", val_size=0.2, packing=True, additional_target="none", seed=1, max_samples=1, report_to="wandb"),
        made("c", val_size=0.0, packing=False, additional_target="", seed=0, max_samples=1, report_to="none"),
    ) == {
        "val_size": ("0.0", "0.2", "0.0"), "packing": ("False", "True", "False"), "seed": ("0", "1", "0"),
        "additional_target": ('""', "none", '""'), "max_samples": ("none", "1", "1"),
        "report_to": ("none", "wandb", "none"),
    }  # fmt: skip


def test_what_has_no_effect_in_a_run_is_not_a_value_of_it():
    lora = made("a", lora_rank=32, lora_dropout=0.0)
    full = made("b", finetuning_type="full", lora_rank=64)
    again = made("c", lora_rank=32, lora_dropout=0.25)
    found = shown(lora, full, again)
    assert found["finetuning_type"] == ("lora", "full", "lora")
    assert found["lora_rank"] == ("32", "–", "32")
    assert found["lora_dropout"] == ("0.0", "–", "0.25")
    assert "lora_dropout" not in shown(lora, full), "a default that nobody typed"
    order = [name for group in TrainJob.groups() for name in group.model_fields]
    assert sorted(found, key=order.index) == list(found)


def test_a_run_whose_job_cannot_be_read_is_there_all_the_same():
    folders = [made("a", {1: 2.0}, lora_rank=4), made("b", {1: 1.0}), made("c", {1: 3.0}, lora_rank=16)]
    folders[1].job.write_text("kind: train\noptions: {an_option_of_tomorrow: 1}\n")
    runs = compared(folders)
    assert {each.name: each.values for each in differing_options(runs)} == {"lora_rank": ("4", None, "16")}
    outcomes = [outcome(run) for run in runs]
    assert [each.loss for each in outcomes] == [2.0, 1.0, 3.0]
    assert best(runs, outcomes)["loss"] == set(), "nobody knows whether they measure the same"


def test_curves_of_unequal_length_with_a_nan_are_overlaid_and_written(capsys):
    losses = [{step: 3 / step for step in range(1, 101)}, {10: 2.0, 20: 2.0, 40: 2.0, 50: math.nan}]
    folders = [made("long", losses[0]), made("short", losses[1], total=250), made("none", {})]
    runs = compared(folders)
    raw = {chart.name: chart for chart in overlays(runs, "en", is_smoothed=False)}
    assert [repr(dict(line.curve)) for line in raw["loss"].lines] == [
        repr({float(step): value for step, value in each.items()}) for each in losses
    ]
    assert [line.name for line in raw["eval_loss"].lines] == ["long", "short"]
    smoothed = overlays(runs, "en")[0].lines[1].view(None, None, 1000)
    assert [step for step, _ in smoothed] == [10, 20, 40, 50] and math.isnan(smoothed[-1][1]), "a NaN is not hidden"
    share = overlays(runs, "en", "share")[0]
    assert [line.view(None, None, 1000)[-1][0] for line in share.lines] == [100, pytest.approx(20)]
    assert [len(line.view(50, 100, 1000)) for line in share.lines] == [51, 0]
    epochs = overlays(runs, "en", "epoch", is_smoothed=False)[0]
    assert [line.view(None, None, 1000)[-1][0] for line in epochs.lines] == [4, pytest.approx(0.8)]

    outcomes = [outcome(run) for run in runs]
    assert math.isnan(outcomes[1].loss) and outcomes[1].eval_best == (10, 3.0) and outcomes[2].loss is None
    assert best(runs, outcomes)["loss"] == set(), "one figure and one that is none are no contest"
    assert best(runs, outcomes)["peak_memory_bytes"] == {1}

    assert compare(["long", "short", "--csv", "out.csv"], "en") == 0
    with Path("out.csv").open(newline="") as file:
        table = {int(row["step"]): row for row in csv.DictReader(file)}
    for folder, each in zip(folders, losses, strict=False):
        column = {step: row[f"loss {folder.name}"] for step, row in table.items() if row[f"loss {folder.name}"]}
        assert {step: repr(float(value)) for step, value in column.items()} == {
            step: repr(value) for step, value in each.items()
        }
    assert compare(["long", "short", "none", "--png", "out.png"], "en") == 0
    assert Path("out.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(UserError, match=r"\.png"):
        compare(["long", "short", "--png", "out.csv"], "en")


def test_losses_are_ranked_only_where_they_measure_the_same():
    def leaders(*folders):
        runs = compared(folders)
        return {name for name, indices in best(runs, [outcome(run) for run in runs]).items() if indices == {1}}

    one, two = made("a", {10: 2.0}), made("b", {10: 1.5})
    assert leaders(one, two) == {"loss", "eval_best"}
    assert leaders(one, made("c", {10: 1.0}, dataset="others")) == set()
    assert leaders(one, made("d", {10: 1.0}, val_size=0.3)) == {"loss"}
    assert leaders(one, made("e", {10: 1.0}, pref_loss="ipo")) == {"loss", "eval_best"}, "it has no effect there"


def test_what_the_runs_were_made_with():
    def told(torch: str, digest: str) -> tuple:
        attempt = {"versions": {"torch": torch, "peft": "1"}, "git": None, "machine": []}
        return {"attempt": attempt}, {"dataset_files": {"dataset": "rows", "sha256": digest * 32}}, {"device": "CPU"}

    folders = [made("a", told=told("2.7", "ab")), made("b"), made("c", told=told("2.6", "ab"))]
    found = {(each.group, each.name): each.values for each in differing_facts(compared(folders))}
    assert found == {("versions", "torch"): ("2.7", "–", "2.6")}
    folders.append(made("d", told=told("2.7", "cd")))
    found = {(each.group, each.name): each.values for each in differing_facts(compared(folders))}
    assert found["datasets", "rows"] == ("abababababab", "–", "abababababab", "cdcdcdcdcdcd")


def test_who_is_compared():
    folders = [made(f"run{number}") for number in range(13)]
    with pytest.raises(UserError, match="13"):
        compared(folders)
    with pytest.raises(UserError, match="two"):
        compared([folders[0], Folder(folders[0].path.absolute())])
    shutil.rmtree(folders[1].path)
    assert [(run.place, run.label) for run in compared(folders[:3])] == [(0, "run0"), (2, "run2")]
    update_state(folders[2], kind="export", status="done")
    with pytest.raises(UserError, match="export"):
        compared(folders[:3])


def test_as_much_of_a_name_is_shown_as_tells_the_runs_apart():
    other = Folder(SAVES / "other" / "lora" / "run")
    run = made("run")
    shutil.copytree(run.path, other.path)
    assert [each.label for each in compared([run, other])] == ["m/lora/run", "other/lora/run"]


def test_the_terminal_says_it_in_columns_and_as_json(capsys):
    made("one", {10: 2.0}, lora_rank=4)
    made("two", {10: math.inf}, lora_rank=16)
    assert compare(["one", "two", "--json"], "en") == 0
    told = json.loads(capsys.readouterr().out, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert told["options"] == {"lora_rank": {"m/lora/one": "4", "m/lora/two": "16"}}
    assert [(run["name"], run["loss"], run["step"]) for run in told["runs"]] == [
        ("m/lora/one", 2.0, 10), ("m/lora/two", "inf", 10),
    ]  # fmt: skip
    assert compare(["one", "two"], "zh") == 0
    lines = capsys.readouterr().out.splitlines()
    assert next(line for line in lines if line.startswith("lora_rank")).split() == ["lora_rank", "4", "16"]
    assert aligned([["状态", "x"], ["abc", "实"], ["é", "y"]]) == ["状态  x", "abc   实", "é     y"]
