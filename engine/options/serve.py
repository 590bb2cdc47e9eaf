"""How the page is served, and a model to other programs."""

from __future__ import annotations

from typing import Literal

from engine.options.base import Names, Options
from engine.options.model import Model
from engine.options.option import option, same_as


class Serve(Options):
    """The web page's door."""

    host: str = option("127.0.0.1", level="command")
    port: int = option(7860, ge=1, le=65535, level="command")
    share: bool = option(False, level="command")
    auth_file: str | None = option(None, level="command")  # a line each, name:role:hash; None: a password is made
    roots: Names = option((), level="command")  # further folders whose files the page may read and write
    trust_remote_code: bool = same_as(Model, "trust_remote_code")
    lang: Literal["en", "zh", "ru", "ko", "ja"] = option("en", level="command")
    inbrowser: bool = option(False, level="command")


class Api(Options):
    """The OpenAI-compatible server's door. Its key comes from the environment (``API_KEY``) and from nowhere else."""

    api_host: str = option("127.0.0.1", level="command")
    api_port: int = option(8000, ge=0, le=65535, level="command")  # 0: any that is free
    api_model_name: str | None = option(None, level="command")  # None: the last part of the model's path
    api_at_once: int = option(4, ge=1, le=64, level="command")  # answers that are computed in turns, token by token
    api_max_waiting: int = option(32, ge=0, le=10000, level="command")  # further ones that may wait for their turn
    api_engine: Literal["lathe", "vllm"] = option("lathe", level="command")
