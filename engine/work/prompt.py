"""What is put into a conversation before a chat template sees it, whichever program renders the template."""

from __future__ import annotations

from typing import Any

from engine.options.model import Model


def with_system(messages: list[dict[str, Any]], job: Model) -> list[dict[str, Any]]:
    """The same messages, with the job's system turn in front when they have none of their own."""
    system = getattr(job, "system", None) or job.default_system
    if not system or any(message["role"] == "system" for message in messages):
        return messages
    return [{"role": "system", "content": system}, *messages]
