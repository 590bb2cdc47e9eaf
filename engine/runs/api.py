"""Light end of the API server: what the environment says of it, and whether its door may be opened so."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from pathlib import Path

from engine.errors import UserError
from engine.options.jobs import ApiJob

KEY = "API_KEY"
"""The variable that holds the key, under the name it has in LLaMA-Factory."""
NAMED = ("API_HOST", "API_PORT", "API_MODEL_NAME")


def words_from_environment(environment: Mapping[str, str]) -> list[str]:
    """Command-line words for what LLaMA-Factory reads from the environment; what is typed outdoes them."""
    return [f"--{name.lower()}={environment[name]}" for name in NAMED if environment.get(name)]


def key_in(environment: Mapping[str, str]) -> str | None:
    """What who asks must show; None: nothing."""
    return environment.get(KEY, "").strip() or None


def is_loopback(host: str) -> bool:
    """Whether only programs on this machine reach a host."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False  # a name, which may mean anything


def refuse_open_door(job: ApiJob, environment: Mapping[str, str]) -> None:
    """Raises: UserError, if others than this machine's programs could come in without a key."""
    if not is_loopback(job.api_host) and key_in(environment) is None:
        raise UserError("api.key_missing", host=job.api_host, variable=KEY)


def served_name(job: ApiJob) -> str:
    """By which name a request calls the model."""
    return job.api_model_name or Path((job.gguf or job.model_name_or_path or "").rstrip("/")).name or "model"
