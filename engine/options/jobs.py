"""The jobs, and which groups of options each takes."""

from __future__ import annotations

from typing import ClassVar

from engine.options.base import Options
from engine.options.chat import Chat
from engine.options.data import Data
from engine.options.export import Export, Gguf
from engine.options.generation import Generation
from engine.options.model import Model
from engine.options.serve import Serve
from engine.options.training import Training
from engine.options.tuning import Freeze, Lora, Tuning


class TrainJob(Tuning, Model, Data, Training, Lora, Freeze):
    """Fine-tune a model."""

    kind: ClassVar[str] = "train"


class ChatJob(Model, Chat, Generation):
    """Hold a model and answer."""

    kind: ClassVar[str] = "chat"


class ExportJob(Model, Export):
    """Merge adapters into their base model."""

    kind: ClassVar[str] = "export"


class GgufJob(Model, Gguf):
    """Convert a model folder into a .gguf file."""

    kind: ClassVar[str] = "gguf"


class ServeJob(Serve):
    """Serve the page."""

    kind: ClassVar[str] = "webui"


JOBS: dict[str, type[Options]] = {job.kind: job for job in (TrainJob, ChatJob, ExportJob, GgufJob, ServeJob)}
