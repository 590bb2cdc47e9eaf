"""How the page is served."""

from __future__ import annotations

from typing import Literal

from engine.options.base import Options
from engine.options.option import option


class Serve(Options):
    """The web page's door."""

    host: str = option("127.0.0.1", level="command")
    port: int = option(7860, ge=1, le=65535, level="command")
    share: bool = option(False, level="command")
    lang: Literal["en", "zh", "ru", "ko", "ja"] = option("en", level="command")
    inbrowser: bool = option(False, level="command")
