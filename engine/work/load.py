"""The tokenizer, the base model and its adapters from local folders, and how a conversation becomes a prompt.

It does not know where a folder came from (``download.py``) nor what is done with the model.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import is_flash_attn_2_available

from engine.catalog.models import model_problem
from engine.errors import UserError
from engine.options.model import Model
from engine.work.encode import render
from engine.work.prompt import with_system

ATTENTION = {"auto": None, "disabled": "eager", "sdpa": "sdpa", "fa2": "flash_attention_2"}
"""``flash_attn`` → transformers' ``attn_implementation``; None: the fastest one the model has."""


def load_tokenizer(path: str | Path, job: Model) -> PreTrainedTokenizerBase:
    """Load a tokenizer, give it the chat template that the job means, and a padding token if it has none.

    The chat template is the one of ``job.template``, else the one the last adapter was trained with, else the
    tokenizer's own; there may be none, which :func:`render_prompt` reports.

    Raises:
        UserError: the folder is missing or holds no tokenizer that can be read.
    """
    path = _model_folder(path)
    with _readable(path):
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=job.trust_remote_code)
    template = _chosen_template(job)
    if template is not None:
        tokenizer.chat_template = template
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_model(path: str | Path, job: Model, dtype: torch.dtype, device: str | torch.device) -> PreTrainedModel:
    """Load the base model, without adapters, in evaluation mode.

    Args:
        path: local folder with ``config.json`` and the weights.
        dtype: of the weights.
        device: where they go, straight from the file.

    Raises:
        UserError: the folder is missing or incomplete, needs code of its own, or flash attention is not installed.
    """
    path = _model_folder(path)
    if job.flash_attn == "fa2" and not is_flash_attn_2_available():
        raise UserError("load.flash_attn_missing")
    chosen: dict[str, Any] = {"dtype": dtype, "trust_remote_code": job.trust_remote_code}
    if ATTENTION[job.flash_attn]:
        chosen["attn_implementation"] = ATTENTION[job.flash_attn]
    if torch.device(device).type != "cpu":
        chosen["device_map"] = {"": device}
    with _readable(path):
        return AutoModelForCausalLM.from_pretrained(path, **chosen).eval()


def apply_adapters(model: PreTrainedModel, paths: tuple[str, ...]) -> torch.nn.Module:
    """A model that answers with all adapters together, in this order; the base model's object is used up.

    In float32 each adapter is merged in memory, which costs nothing per token. In half precision a small update would
    be rounded away, so there the adapters stay beside the weights.

    Raises:
        UserError: a folder holds no adapter, or one that was trained beside a model of another shape.
    """
    from peft import PeftModel

    for path in paths:
        if not (Path(path) / "adapter_config.json").is_file():
            raise UserError("adapter_missing", path=path)
    for number, path in enumerate(paths):
        try:
            if isinstance(model, PeftModel):
                model.load_adapter(path, adapter_name=f"adapter_{number}")
            else:
                model = PeftModel.from_pretrained(model, path, adapter_name=f"adapter_{number}")
        except (ValueError, RuntimeError, OSError) as error:
            raise UserError("load.adapter_unfit", path=path, detail=error) from error
        if model.dtype == torch.float32:
            model = model.merge_and_unload()
    if isinstance(model, PeftModel):
        model.base_model.set_adapter([f"adapter_{number}" for number in range(len(paths))])
    return model.eval()


def render_prompt(
    tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, Any]], job: Model, add_generation_prompt: bool = True
) -> str:
    """The text of a conversation as the chat template writes it, ready to be tokenized without special tokens.

    Args:
        messages: turns with ``role`` and ``content``; a system turn that the job names is put in front when none is
            there.
        add_generation_prompt: end with the opening of the assistant's turn.

    Raises:
        UserError: there is no chat template, or it refuses these messages.
    """
    return render(tokenizer, with_system(messages, job), add_generation_prompt, enable_thinking=job.enable_thinking)


def _chosen_template(job: Model) -> str | None:
    """The Jinja text of the template that the job names or its last adapter was trained with; None: neither."""
    if job.template:
        from engine.catalog.templates import find_template

        return find_template(job.template).chat_template
    for path in reversed(job.adapter_name_or_path):
        trained_with = Path(path) / "chat_template.jinja"
        if trained_with.is_file():
            return trained_with.read_text(encoding="utf-8")
    return None


def _model_folder(path: str | Path) -> Path:
    problem = model_problem(str(path))
    if problem:
        raise UserError(problem.key, **problem.facts)
    return Path(path)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turns what transformers raises about a folder that it cannot use into a sentence for the user."""
    try:
        yield
    except (OSError, ValueError, KeyError, ImportError, SafetensorError) as error:
        if "trust_remote_code" in str(error):
            raise UserError("load.remote_code", path=path) from error
        raise UserError("load.model_unreadable", path=path, detail=error) from error
