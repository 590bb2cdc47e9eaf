"""What ``data show`` prints of a row is what the trainer's data loader gives for it, in every format and file type."""

import json
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from engine.catalog.devices import devices, precision
from engine.options.jobs import TrainJob
from engine.runs.folder import Folder
from engine.runs.record import Recorder
from engine.work.dataset import prepare
from engine.work.load import load_tokenizer
from engine.work.show import main as show
from engine.work.supervised import SupervisedTrainer
from engine.work.train import training_arguments

PROJECT = Path(__file__).resolve().parent.parent.parent
CALL = {"name": "weather", "arguments": {"city": "Bern"}}
OTHER = {"name": "weather", "arguments": {"day": 2}}
TOOLS = [{"name": "weather", "description": "d", "parameters": {"type": "object", "properties": {}}}]

# fmt: off
FORMATS = {
    "alpaca": (
        {"columns": {"history": "history", "system": "system"}},
        [
            {"instruction": f"Question {n}", "input": "more" * (n % 3), "output": f"Answer {n}",
             "system": "Be brief." * (n % 2), "history": [["before", "then"]] * (n % 3)}
            for n in range(8)
        ],
    ),
    "sharegpt": (
        {"formatting": "sharegpt", "columns": {"tools": "tools"}},
        [
            {"tools": json.dumps(TOOLS), "conversations": [
                {"from": "human", "value": "Weather?"},
                {"from": "function_call", "value": json.dumps(CALL if n % 2 else OTHER)},
                {"from": "observation", "value": '{"temp": 20}'},
                {"from": "gpt", "value": f"It is {n}°C."},
            ]}
            for n in range(6)
        ],
    ),
    "openai": (
        {"formatting": "openai"},
        [
            {"messages": [
                {"role": "system", "content": "Talk."},
                {"role": "user", "content": f"Hi {n} 你好"},
                {"role": "assistant", "content": "", "tool_calls": [
                    {"type": "function", "function": CALL if n % 2 else OTHER},
                ]},
                {"role": "tool", "content": "20"},
                {"role": "assistant", "content": "Hello " * (40 * n + 1)},
            ]}
            for n in range(6)
        ],
    ),
    "text": ({"columns": {"prompt": "text"}}, [{"text": f"Once upon a time {n}. " * (n + 1)} for n in range(6)]),
}
# fmt: on
FILES = {
    "alpaca": ("json", "csv", "parquet"),
    "sharegpt": ("jsonl", "parquet"),
    "openai": ("json", "arrow"),
    "text": ("txt", "jsonl"),
}
CASES = [(name, suffix) for name, suffixes in FILES.items() for suffix in suffixes]


def written(path: Path, rows: list[dict]) -> None:
    import csv

    import pyarrow
    from pyarrow import parquet

    if path.suffix == ".json":
        path.write_text(json.dumps(rows), encoding="utf-8")
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    elif path.suffix == ".txt":
        path.write_text("".join(row["text"] + "\n" for row in rows), encoding="utf-8")
    elif path.suffix == ".csv":
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows({**row, "history": json.dumps(row["history"])} for row in rows)
    elif path.suffix == ".parquet":
        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    else:
        table = pyarrow.Table.from_pylist(rows)
        with pyarrow.ipc.new_stream(str(path), table.schema) as writer:
            writer.write_table(table)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    info = {}
    for name, suffix in CASES:
        description, rows = FORMATS[name]
        written(folder / f"{name}.{suffix}", rows)
        info[f"{name}_{suffix}"] = {"file_name": f"{name}.{suffix}", **description}
    (folder / "dataset_info.json").write_text(json.dumps(info))
    return folder


def batches_of(job: TrainJob, folder: Path) -> list[dict]:
    """What the model is given in one epoch: micro-batches of the trainer's own loader."""
    recorder = Recorder(Folder(folder))
    tokenizer = load_tokenizer(job.model_name_or_path, job)
    prepared = prepare(job, tokenizer, recorder)
    cpu = precision(next(each for each in devices() if each.is_cpu))
    trainer = SupervisedTrainer(
        model=AutoModelForCausalLM.from_pretrained(job.model_name_or_path),
        args=training_arguments(job, recorder.folder, cpu, job.model_name_or_path, has_evaluation=False),
        train_dataset=prepared.train,
        processing_class=tokenizer,
        pad_token_id=tokenizer.pad_token_id,
    )
    steps = iter(trainer.get_train_dataloader())
    found = []
    while True:
        batches, _ = trainer.get_batch_samples(steps, 2, trainer.args.device)
        if not batches:
            return found
        found += batches


def rows_in(batch: dict) -> list[tuple[list[int], list[int]]]:
    """The ids and labels of the rows of a laid-out batch, followed from each row's last learned token to its root."""
    layout, ids = batch["layout"], batch["input_ids"][0].tolist()
    found = []
    for owner in range(int(batch["owner"].max()) + 1):
        of_owner = batch["owner"] == owner
        places, targets = batch["learned_at"][of_owner].tolist(), batch["targets"][of_owner].tolist()
        inside = [each.start <= places[-1] < each.start + each.length for each in layout.blocks].index(True)
        if places[-1] + 1 == layout.blocks[inside].start + layout.blocks[inside].length:
            below = [number for number, each in enumerate(layout.blocks) if each.parent == inside and each.length == 1]
            inside = next(number for number in below if ids[layout.blocks[number].start] == targets[-1])
        path = [layout.blocks[number] for number in (*layout.ancestors(inside), inside)]
        way = [place for each in path for place in range(each.start, each.start + each.length)]
        labels = [-100] * len(way)
        for place, target in zip(places, targets, strict=True):
            labels[way.index(place) + 1] = target
        found.append(([ids[place] for place in way], labels))
        assert batch["position_ids"][0, way].tolist() == list(range(len(way)))
    return found


@pytest.mark.parametrize("case", CASES, ids="_".join)
@pytest.mark.parametrize("options", [{}, {"mask_history": True, "cutoff_len": 32}, {"template": "glm4"}], ids=str)
def test_shown_is_trained(data, tiny_model, tmp_path, capsys, case, options):
    options = {"template": "qwen", "dataset_dir": str(data), "dataset": "_".join(case), **options}
    options |= {"model_name_or_path": str(tiny_model)}
    job = TrainJob.from_values({**options, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2})
    (tmp_path / "run").mkdir()
    trained = []
    for batch in batches_of(job, tmp_path / "run"):
        trained += rows_in(batch)
    capsys.readouterr()
    request = {"options": {**options}, "first": 1, "count": 99, "language": "en"}
    assert show(request) == 0  # what `data show` runs in a process of its own
    shown = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(shown) == len(FORMATS[case[0]][1])
    # The first token of a row is predicted from nothing, and never learned.
    assert sorted((row["input_ids"], [-100, *row["labels"][1:]]) for row in shown) == sorted(trained)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    if "cutoff_len" not in options:
        for row in shown:
            text = "".join(part["text"] for part in row["segments"])
            assert tokenizer.decode(row["input_ids"]).startswith(text) or case[0] == "text"
