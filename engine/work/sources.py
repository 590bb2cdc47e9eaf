"""Datasets that lie on a hub or in a cloud → a copy on this disk; one that lies here stays as it is."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import os
from pathlib import Path
from typing import Any

import datasets
import fsspec
from datasets import DownloadConfig, load_dataset
from fsspec.callbacks import Callback

from engine.catalog.entry import Entry
from engine.catalog.recognise import settled
from engine.errors import UserError
from engine.options.jobs import TrainJob
from engine.runs.record import Recorder, StopRequested
from engine.work.download import fetch

DRIVERS = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs"}
"""Scheme of a cloud's address → the package that reads it."""


def local_entry(entry: Entry, job: TrainJob, recorder: Recorder) -> Entry:
    """The same dataset with a ``path`` on this disk, fetched if need be.

    Raises:
        UserError: it could not be fetched (``download.…``), or not be read as a dataset (``source.…``).
        StopRequested: somebody asked the run to stop; what has arrived is kept.
    """
    if entry.path is not None:
        return entry
    if entry.hf_hub_url or entry.ms_hub_url:
        hub, name = _hub_of(entry, job.hub)
        folder = Path(name).expanduser()
        if not folder.is_dir():
            folder = fetch(
                name, hub, "main", recorder, job.cache_dir, kind="dataset", folder=entry.folder, subset=entry.subset
            )
        return settled(dataclasses.replace(entry, path=_read(entry, folder, _kept_below(job))))
    if entry.cloud_file_name:
        return settled(dataclasses.replace(entry, path=_from_cloud(entry, _kept_below(job), recorder)))
    return entry


def _hub_of(entry: Entry, preferred: str) -> tuple[str, str]:
    """Of two hubs the one that ``hub`` names, else the one that is given."""
    if entry.ms_hub_url and (preferred == "modelscope" or not entry.hf_hub_url):
        return "modelscope", entry.ms_hub_url
    return "huggingface", entry.hf_hub_url


def _kept_below(job: TrainJob) -> Path:
    return Path(job.cache_dir or datasets.config.HF_DATASETS_CACHE).expanduser() / "lathe"


def _read(entry: Entry, folder: Path, kept_below: Path) -> Path:
    """The rows of a repository's subset, split and folder, as Arrow files."""
    try:
        rows = load_dataset(
            str(folder),
            name=entry.subset,
            data_dir=entry.folder,
            split=entry.split,
            cache_dir=str(kept_below / "arrow"),
            download_config=DownloadConfig(local_files_only=True),
        )
    except (ValueError, OSError, datasets.exceptions.DatasetsError) as error:
        cause = error.__cause__ or error
        detail = f"{type(cause).__name__}: {next(iter(str(cause).strip().splitlines()), '')}"
        raise UserError("source.unreadable", dataset=entry.name, path=folder, detail=detail) from error
    files = [Path(each["filename"]) for each in rows.cache_files]
    is_all = not set("[+") & set(entry.split)  # datasets also understands parts of splits: train[:10%]+test
    if is_all and len(files) == 1:
        return files[0]
    mark = hashlib.sha256("\n".join([entry.split, *map(str, files)]).encode()).hexdigest()[:16]
    target = kept_below / "rows" / mark
    target.mkdir(parents=True, exist_ok=True)
    if is_all:
        for number, file in enumerate(files):
            _replace(target / f"{number:05}.arrow", lambda path, file=file: path.symlink_to(file.resolve()))
    else:
        _replace(target / "rows.parquet", rows.to_parquet)
    return target


def _replace(path: Path, make: Any) -> None:
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        make(unfinished)
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


class _Told(Callback):
    """Tells the run how much of a cloud's file has arrived."""

    def __init__(self, recorder: Recorder) -> None:
        super().__init__()
        self._recorder = recorder

    def call(self, *_: Any, **__: Any) -> None:
        self._recorder.phase("downloading_dataset", self.value, self.size, "bytes")
        self._recorder.check_stop()


def _from_cloud(entry: Entry, kept_below: Path, recorder: Recorder) -> Path:
    """A copy of a file in S3 or Google's cloud; one that has not changed there is not fetched twice."""
    url = entry.cloud_file_name
    scheme = url.partition("://")[0]
    if scheme not in DRIVERS:
        raise UserError(
            "source.scheme", dataset=entry.name, url=url, schemes=", ".join(f"{name}://" for name in DRIVERS)
        )
    try:
        cloud = fsspec.filesystem(scheme)
    except ImportError as error:
        raise UserError("source.driver_missing", dataset=entry.name, url=url, package=DRIVERS[scheme]) from error
    try:
        version = cloud.checksum(url)
        mark = hashlib.sha256(f"{url} {version}".encode()).hexdigest()[:16]
        target = kept_below / "cloud" / mark / Path(url).name
        if not target.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            _replace(target, lambda path: cloud.get_file(url, str(path), callback=_Told(recorder)))
    except StopRequested:
        raise
    except Exception as error:  # each driver has exceptions of its own
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise
        raise UserError(
            "source.cloud", dataset=entry.name, url=url, detail=f"{type(error).__name__}: {error}"
        ) from error
    return target
