"""Rules for models that another program runs, and the names that Ollama allows; small and pure, as in ``rules.py``."""

from __future__ import annotations

import re

from engine.errors import Problem
from engine.options.jobs import ChatJob, OllamaJob

_NAME = re.compile(
    r"(?:(?:(?P<host>\w[\w.:-]{0,349})/)?(?P<namespace>\w[\w-]{0,79})/)?"
    r"(?P<model>\w[\w.-]{0,79})(?::(?P<tag>\w[\w.-]{0,79}))?",
    re.ASCII,
)
"""Source: ``types/model/name.go`` of Ollama."""


def is_ollama_name(name: str) -> bool:
    """Whether Ollama takes a name: ``[[host/]namespace/]model[:tag]``, of letters, digits and ``_ - .``."""
    return _NAME.fullmatch(name) is not None


def whole_name(name: str) -> str:
    """The name by which Ollama lists a model: with its tag. Names that differ in capitals alone are one."""
    return (name if ":" in name.rpartition("/")[2] else f"{name}:latest").lower()


def ollama_name_is_taken(job: ChatJob | OllamaJob) -> Problem | None:
    wrong = job.ollama and not is_ollama_name(job.ollama)
    return Problem("ollama.name_wrong", "ollama", {"name": job.ollama}) if wrong else None


def ollama_has_a_name(job: OllamaJob) -> Problem | None:
    return None if job.ollama else Problem("ollama.name_missing", "ollama")


def ollama_has_a_file(job: OllamaJob) -> Problem | None:
    return None if job.gguf else Problem("ollama.file_missing", "gguf")


def one_program_answers(job: ChatJob) -> Problem | None:
    both = job.gguf and job.ollama
    return Problem("ollama.and_gguf", "ollama", {"name": job.ollama, "gguf": job.gguf}) if both else None


def ollama_takes_no_adapters(job: ChatJob) -> Problem | None:
    idle = job.ollama and job.adapter_name_or_path
    return Problem("ollama.no_adapters", "adapter_name_or_path", is_warning=True) if idle else None


def ollama_has_its_template(job: ChatJob) -> Problem | None:
    idle = job.ollama and job.template
    return Problem("ollama.own_template", "template", is_warning=True) if idle else None


CHAT_RULES = (ollama_name_is_taken, one_program_answers, ollama_takes_no_adapters, ollama_has_its_template)
OLLAMA_RULES = (ollama_has_a_name, ollama_name_is_taken, ollama_has_a_file)
