"""On which devices a training runs and as how many processes; names and meanings are torchrun's own."""

from __future__ import annotations

from typing import Literal

from engine.options.base import Names, Options
from engine.options.option import option


class Devices(Options):
    """Which devices, how many processes, and how they share a model."""

    devices: Names = option((), level="advanced")  # GPUs as `env` numbers them; (): those with the most free memory
    nproc_per_node: int | None = option(None, ge=1, le=1024, level="advanced")  # None: one for each of `devices`
    parallel: Literal["ddp", "fsdp2", "zero2", "zero3"] = option("ddp", level="advanced")
    nnodes: int = option(1, ge=1, le=4096, level="command")
    node_rank: int = option(0, ge=0, level="command")
    master_addr: str = option("127.0.0.1", level="command")
    master_port: int | None = option(None, ge=1, le=65535, level="command")  # None: a free one
    rdzv_backend: Literal["static", "c10d"] = option("static", level="command")
    rdzv_endpoint: str | None = option(None, level="command")  # host:port; None: master_addr and master_port
    rdzv_id: str | None = option(None, level="command")

    @property
    def processes_here(self) -> int:
        """Processes of this job on this machine."""
        return self.nproc_per_node or max(1, len(self.devices))
