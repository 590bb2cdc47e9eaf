"""What the `gguf` command says before it does anything: how large the file of each type will be."""

from __future__ import annotations

from pathlib import Path

from engine.catalog.gguf_sizes import expected_sizes
from engine.words import words


def sizes_text(model: str | None, language: str) -> str:
    """A line for each type; "" if the model does not lie here."""
    sizes = expected_sizes(Path(model or "").expanduser())
    if not sizes:
        return ""
    lines = [f"  {outtype:<8} {size / 1e6:>10,.0f} MB" for outtype, size in sizes.items()]
    return "\n".join([words("cli.gguf_sizes", language, model=model), *lines])
