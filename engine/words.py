"""All words a person reads, looked up by key and language in ``locales/<language>.yaml``."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

LANGUAGES = {"en": "English", "zh": "中文", "ru": "Русский", "ko": "한국어", "ja": "日本語"}
LOCALES = Path(__file__).resolve().parent.parent / "locales"


@lru_cache(maxsize=len(LANGUAGES))
def all_words(language: str) -> dict[str, str]:
    """Every text of one language by its dotted key, e.g. ``{"options.lora_rank.label": "LoRA rank"}``.

    The cached mapping is shared: do not edit it.
    """
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    with (LOCALES / f"{language}.yaml").open(encoding="utf-8") as file:
        return dict(_flatten(yaml.load(file, Loader=loader)))


def words(key: str, language: str = "en", /, **facts: Any) -> str:
    """The text of ``key`` with its ``{placeholders}`` filled.

    Raises:
        KeyError: the key, or a placeholder's fact, does not exist: a slip of ours that the tests catch.
    """
    return all_words(language)[key].format_map(facts) if facts else all_words(language)[key]


def has_words(key: str) -> bool:
    return key in all_words("en")


def nearest_language(accept_language: str | None, default: str = "en") -> str:
    """First language of an ``Accept-Language`` header that we speak, else ``default``."""
    for part in (accept_language or "").split(","):
        code = part.split(";")[0].strip().lower().split("-")[0]
        if code in LANGUAGES:
            return code
    return default


def _flatten(tree: dict[str, Any], prefix: str = ""):
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", str(value)
