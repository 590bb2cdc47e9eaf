"""Rows with their tokens, for ``data show``: ``python -m engine.work.show`` reads a request, prints one line a row.

The request is one JSON object on standard input: ``options`` of a DataJob with one dataset, ``first`` row (from 1 on),
``count`` of rows and ``language``. Exit code 2: an error concerns all rows; the last line on standard error is its
``{"key", "facts"}``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from engine.catalog.datasets import find_entry
from engine.catalog.learned import AnyExample
from engine.catalog.pages import page_of_rows
from engine.catalog.rendering import renderer_of
from engine.catalog.seen import seen_rows
from engine.errors import UserError
from engine.options.jobs import DataJob
from engine.work.download import local_model
from engine.work.encode import Encoder
from engine.work.load import load_tokenizer


def main(request: dict[str, Any]) -> int:
    """Print the rows. Returns the exit code."""
    try:
        job = DataJob.from_values(request["options"])
        entry = find_entry(Path(job.dataset_dir), job.dataset[0])
        rows, _ = page_of_rows(entry, request["first"] - 1, request["count"])
        tokenizer = load_tokenizer(
            local_model(job.model_name_or_path, job.hub, job.model_revision, None, job.cache_dir), job
        )
        encoder = Encoder(job, tokenizer)

        def encode(example: AnyExample) -> list[dict[str, list[int]]]:
            return [{"input_ids": each.input_ids, "labels": each.labels} for each in encoder.encode([example])[0]]

        renderer = renderer_of(tokenizer, job)
        for line in seen_rows(job, renderer, entry, rows, request["language"], encode):
            print(json.dumps(line, ensure_ascii=False), flush=True)
    except UserError as error:
        print(json.dumps({"key": error.key, "facts": error.facts}, ensure_ascii=False, default=str), file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.stdout.reconfigure(encoding="utf-8")
    sys.stderr.reconfigure(encoding="utf-8")
    sys.exit(main(json.load(sys.stdin)))
