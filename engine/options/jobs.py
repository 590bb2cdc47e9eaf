"""The jobs, and which groups of options each takes."""

from __future__ import annotations

from typing import ClassVar

from engine.options.base import Options
from engine.options.chat import Chat, Served
from engine.options.data import Data, Inspect
from engine.options.devices import Devices
from engine.options.evaluation import Answers, Choice, Evaluation
from engine.options.export import Export, Gguf, Ollama
from engine.options.generation import Generation
from engine.options.model import Model, Quantization, Vocabulary
from engine.options.objective import Objective
from engine.options.optimizers import Optimizers
from engine.options.preference import Preference
from engine.options.preflight import Preflight
from engine.options.reinforcement import Reinforcement
from engine.options.serve import Api, Serve
from engine.options.tracking import Tracking
from engine.options.training import Training
from engine.options.tuning import Freeze, Lora, Oft, Tuning


class TrainJob(
    Tuning, Model, Data, Training, Preference, Reinforcement, Lora, Oft, Freeze, Vocabulary, Quantization, Optimizers,
    Objective, Tracking, Devices,
):  # fmt: skip
    """Fine-tune a model."""

    kind: ClassVar[str] = "train"


class PreflightJob(TrainJob, Preflight):
    """Find out whether a training fits, and how long it takes."""

    kind: ClassVar[str] = "preflight"

    @classmethod
    def groups(cls) -> tuple[type[Options], ...]:
        return (*TrainJob.groups(), Preflight)


class EvalJob(Model, Evaluation, Answers, Choice, Quantization):
    """Measure how well a model does."""

    kind: ClassVar[str] = "eval"


class ChatJob(Model, Served, Chat, Generation, Quantization):
    """Hold a model and answer."""

    kind: ClassVar[str] = "chat"


class ApiJob(ChatJob, Api):
    """Hold a model and answer other programs, as OpenAI's API does."""

    kind: ClassVar[str] = "api"

    @classmethod
    def groups(cls) -> tuple[type[Options], ...]:
        return (*ChatJob.groups(), Api)


class ExportJob(Model, Export):
    """Merge adapters into their base model."""

    kind: ClassVar[str] = "export"


class GgufJob(Model, Gguf):
    """Convert a model folder into a .gguf file."""

    kind: ClassVar[str] = "gguf"


class OllamaJob(Served, Ollama):
    """Give a .gguf file to an Ollama server."""

    kind: ClassVar[str] = "ollama"


class DataJob(Data, Model, Vocabulary, Inspect):
    """Check a dataset row by row, and count its tokens."""

    kind: ClassVar[str] = "data"


class ServeJob(Serve):
    """Serve the page."""

    kind: ClassVar[str] = "webui"


JOBS: dict[str, type[Options]] = {
    job.kind: job
    for job in (TrainJob, EvalJob, PreflightJob, ChatJob, ApiJob, ExportJob, GgufJob, OllamaJob, DataJob, ServeJob)
}
