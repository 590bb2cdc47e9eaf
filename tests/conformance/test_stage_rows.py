"""Rows of every stage on their way from a file to the trainer: the same tokens as encoded one by one."""

import json

import pytest

from engine.catalog.conversations import to_example
from engine.catalog.datasets import find_entry
from engine.options.jobs import TrainJob
from engine.runs.folder import Folder
from engine.runs.record import Recorder
from engine.work.dataset import prepare
from engine.work.encode import EncodedOpinion, EncodedPair, encode_example, sequences_of
from engine.work.load import load_tokenizer

FORMATS = {
    "preference": {"ranking": True, "columns": {"prompt": "instruction", "chosen": "good", "rejected": "bad"}},
    "kto": {"columns": {"prompt": "instruction", "response": "output", "kto_tag": "label"}},
    "text": {"columns": {"prompt": "text"}},
}
STAGES = {"dpo": "preference", "rm": "preference", "kto": "kto"}
ROWS = [
    {
        "instruction": f"Question {n}", "good": f"Good {n} " * (n + 1), "bad": f"Bad {n}", "output": f"Answer {n}",
        "label": n % 3 == 0, "text": f"word{n} " * (4 * n + 1),
    }
    for n in range(9)
]  # fmt: skip


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "rows.json").write_text(json.dumps(ROWS))
    (folder / "text.json").write_text(json.dumps([{"text": row["text"]} for row in ROWS]))
    file = {"text": "text.json"}
    info = {name: {"file_name": file.get(name, "rows.json"), **described} for name, described in FORMATS.items()}
    (folder / "dataset_info.json").write_text(json.dumps(info))
    return folder


@pytest.fixture
def prepared(tiny_model, data, tmp_path):
    def prepare_job(stage: str, **options):
        job = TrainJob(
            model_name_or_path=str(tiny_model), template="chatml", stage=stage, dataset_dir=str(data),
            dataset=(STAGES.get(stage, "text"),), preprocessing_num_workers=1, **options,
        )  # fmt: skip
        (tmp_path / "run").mkdir(exist_ok=True)
        tokenizer = load_tokenizer(tiny_model, job)
        return job, tokenizer, prepare(job, tokenizer, Recorder(Folder(tmp_path / "run")))

    return prepare_job


def plain(row) -> tuple:
    verdict = row.is_desirable if isinstance(row, EncodedOpinion) else None
    return tuple((tuple(each.input_ids), tuple(each.labels)) for each in sequences_of(row)), verdict


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("streaming", [False, True])
def test_kept_rows_are_the_encoded_ones(prepared, data, stage, streaming):
    options = {"streaming": True, "max_steps": 1, "buffer_size": 1} if streaming else {}
    job, tokenizer, rows = prepared(stage, cutoff_len=40, **options)
    entry = find_entry(data, job.dataset[0])
    wanted = []
    for number, row in enumerate(ROWS, 1):
        encoded = encode_example(job, tokenizer, to_example(row, entry, number))
        wanted.append(plain(EncodedPair(*encoded) if stage != "kto" else EncodedOpinion(encoded[0], row["label"])))
    found = [plain(row) for _, row in zip(ROWS, rows.train, strict=False)]
    assert sorted(found) == sorted(wanted)


def test_held_out_rows_are_pairs_too(prepared):
    _, _, rows = prepared("dpo", val_size=3)
    assert len(rows.train) == 6 and len(rows.evaluation) == 3
    assert isinstance(rows.evaluation[0], EncodedPair)


@pytest.mark.parametrize("packing", [None, False])
def test_nothing_of_a_long_text_is_lost_in_pretraining(prepared, packing):
    """But a last token that would stand alone, with nothing before it to be learned from."""
    _, tokenizer, rows = prepared("pt", cutoff_len=16, packing=packing)
    whole = [tokenizer(row["text"] + tokenizer.eos_token)["input_ids"] for row in ROWS]
    kept = sum(len(row.input_ids) for row in rows.train)
    alone = sum(len(ids) % 16 == 1 and len(ids) > 1 for ids in whole)
    assert kept == sum(map(len, whole)) - alone
    assert all(len(row.input_ids) <= 16 for row in rows.train)
    assert rows.train.counts.rows == len(ROWS) and rows.train.counts.rows_cut == 0


def test_pretraining_is_packed_unless_it_is_said_otherwise(prepared):
    _, _, packed = prepared("pt", cutoff_len=96)
    _, _, alone = prepared("pt", cutoff_len=96, packing=False)
    _, _, supervised = prepared("sft", cutoff_len=96)
    assert len(packed.train) < len(alone.train) == len(supervised.train) == len(ROWS)
