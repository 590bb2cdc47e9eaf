"""One run, several processes: what a rank other than 0 may and may not do, and how they agree.

Rank 0 records and writes; the others compute. What is prepared once on a machine (downloads, encoded rows) is prepared
by the first rank there, while the others wait. Whether to stop is decided by all at the same step, because a rank that
left alone would leave the others waiting for its gradients. One process alone is the first of one: nothing waits.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import distributed

from engine.catalog.devices import Device
from engine.runs.folder import Folder
from engine.runs.record import Recorder, StopRequested

Result = TypeVar("Result")
SPARE = "is_spare"
"""Marks a micro-batch that counts for nothing: it is there because every rank has to compute equally often."""
WENT_WELL, STOPPED, FAILED = 0, 1, 2


class Followed(Exception):
    """Another rank failed, and this one ends because of it; the cause is the other's to tell."""


@dataclass(frozen=True)
class Ranks:
    """Which of how many processes this one is; all numbers count from 0, ``local`` ones on this machine."""

    rank: int = 0
    count: int = 1
    local_rank: int = 0

    @classmethod
    def here(cls) -> Ranks:
        """As the launcher has told it; without one, alone."""
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
        return cls(*(int(os.environ[name]) for name in names)) if all(name in os.environ for name in names) else cls()

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    @property
    def is_first_here(self) -> bool:
        return self.local_rank == 0

    def join(self, device: Device, timeout_s: int, backend: str | None = None) -> None:
        """Meet the other ranks; returns once all are there.

        On GPUs the group speaks gloo too, so that agreeing does not wait for what the GPU still computes.
        """
        if "RANK" not in os.environ:
            return
        if not device.is_cpu:
            torch.cuda.set_device(device.address)
        chosen = backend or ("gloo" if device.is_cpu else "cpu:gloo,cuda:nccl")
        distributed.init_process_group(chosen, timeout=timedelta(seconds=timeout_s))

    def together(self) -> None:
        """Go on once every rank is here."""
        self.most(0)

    def most(self, value: int) -> int:
        """The largest value of any rank; each gives its own."""
        if self.count == 1:
            return value
        largest = torch.tensor([value])
        distributed.all_reduce(largest, distributed.ReduceOp.MAX)
        return int(largest.item())

    def from_first(self, value: Any) -> Any:
        """Rank 0's value, for every rank."""
        if self.count == 1:
            return value
        held = [value]
        distributed.broadcast_object_list(held, src=0, device=torch.device("cpu"))
        return held[0]

    def gathered(self, value: Result) -> list[Result]:
        """Every rank's value, in the order of ranks."""
        if self.count == 1:
            return [value]
        found: list[Any] = [None] * self.count
        distributed.all_gather_object(found, value)
        return found

    def recorder(self, folder: Folder) -> Recorder:
        """The recorder of this rank."""
        return Recorder(folder) if self.count == 1 else RankRecorder(folder, self)

    def in_turn(self, work: Callable[[], Result], recorder: Recorder) -> Result:
        """Do work whose result stays on the disk: the first rank of a machine does it, the others then find it done.

        Raises:
            StopRequested: on every rank, when the first of some machine was asked to stop.
            Followed: on the ranks that wait, when the first of some machine failed.
        """
        if self.count == 1:
            return work()
        result: Result | None = None
        error: Exception | None = None
        if self.is_first_here:
            recorder.looks_itself = True
            try:
                result = work()
            except Exception as caught:
                error = caught
            recorder.looks_itself = False
        worst = self.most(STOPPED if isinstance(error, StopRequested) else FAILED if error else WENT_WELL)
        if error:
            raise error
        if worst:
            raise StopRequested if worst == STOPPED else Followed
        return result if self.is_first_here else work()


class RankRecorder(Recorder):
    """What one of several ranks says, which is something on the first of a machine only, and what it hears.

    A stop request is heard by all at once, in :meth:`agree`; only while the others wait does the first look for itself.
    """

    def __init__(self, folder: Folder, ranks: Ranks) -> None:
        super().__init__(folder)
        self._ranks = ranks
        self._is_agreed = False
        self.looks_itself = False

    def event(self, **facts: Any) -> None:
        if self._ranks.is_first_here:
            super().event(**facts)

    @property
    def is_stop_requested(self) -> bool:
        return self._is_agreed or (self.looks_itself and self.folder.stop_request.exists())

    def agree(self) -> bool:
        """Whether the first rank of any machine was asked to stop; every rank asks at the same place."""
        is_asked = self._ranks.is_first_here and self.folder.stop_request.exists()
        self._is_agreed = self._is_agreed or bool(self._ranks.most(is_asked))
        return self._is_agreed


def agree_to_stop(recorder: Recorder) -> bool:
    """Whether the run is to stop now: the same answer on every rank."""
    return recorder.agree() if isinstance(recorder, RankRecorder) else recorder.is_stop_requested


def within(wrapper: Any, model: Any, compute: Callable[[], torch.Tensor]) -> torch.Tensor:
    """What ``compute`` returns, run as if it were the model's forward pass, inside the one of what wraps it.

    DDP, DeepSpeed and FSDP get weights ready before a forward pass and wait for gradients after it. A loss that asks
    the model for other things than its ``forward`` would go past them, and ranks would drift apart in silence.
    """
    if wrapper is model and not _is_sharded(model):
        return compute()
    own = {name: value for name, value in vars(model).items() if name == "forward"}  # accelerate may have put one there

    def put_back() -> None:
        vars(model).pop("forward", None)
        vars(model).update(own)

    def redirected() -> torch.Tensor:
        put_back()
        return compute()

    model.forward = redirected
    try:
        return wrapper()
    finally:
        put_back()


def _is_sharded(model: Any) -> bool:
    return isinstance(model, distributed.fsdp.FSDPModule)
