"""What a chat needs beside a model."""

from __future__ import annotations

from engine.options.base import Names, Options
from engine.options.option import option


class Served(Options):
    """A model that another program runs: llama.cpp a file, Ollama what its server has."""

    gguf: str | None = option(None, control="path")  # a .gguf file, instead of model_name_or_path
    ollama: str | None = option(None)  # a model's name on the server at OLLAMA_HOST


class Chat(Options):
    """A conversation with a model folder, a model with adapters, a .gguf file, or a model of an Ollama server."""

    context_length: int = option(4096, ge=128, le=1048576, level="advanced", when={})  # tokens that llama.cpp holds
    prompt: str | None = option(None, level="command")  # answer this and end
    system: str | None = option(None, control="lines")
    tools: str | None = option(None, level="advanced", control="lines")  # a JSON list of functions it may call
    compare: Names = option((), level="command")  # "base", runs or checkpoints that answer `prompts`
    prompts: str | None = option(None, level="command", control="path")  # a file of them: one a line, or JSON Lines
    answers: str | None = option(None, level="command", control="path")  # where what they said is written, JSON Lines
