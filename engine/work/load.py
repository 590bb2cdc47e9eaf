"""The tokenizer, the base model and its adapters from local folders, and how a conversation becomes a prompt.

It does not know where a folder came from (``download.py``) nor what is done with the model.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import is_flash_attn_2_available

from engine.catalog.models import model_problem
from engine.catalog.rendering import adapter_template, named_template, renderer_of, tools_of, with_system
from engine.errors import UserError
from engine.options.model import Model, Vocabulary
from engine.work.adapter_files import CHANGES_BASE
from engine.work.imports import without_bitsandbytes
from engine.work.quantization import is_quantized, quantized_loading
from engine.work.rope import stretch
from engine.work.shards import stored_tensors
from engine.work.vocabulary import add_tokens, fit_rows

ATTENTION = {"auto": None, "disabled": "eager", "sdpa": "sdpa", "fa2": "flash_attention_2"}
"""``flash_attn`` → transformers' ``attn_implementation``; None: the fastest one the model has."""


def load_tokenizer(path: str | Path, job: Model) -> PreTrainedTokenizerBase:
    """Load a tokenizer, give it the chat template that the job means, its new tokens, and a padding token.

    It is the one that the last adapter was trained with, where that has brought one, else the base model's. The chat
    template is the one of ``job.template``, else the last adapter's, else the tokenizer's own; there may be none, which
    :func:`render_prompt` reports.

    Args:
        path: of the base model.

    Raises:
        UserError: the folder is missing or holds no tokenizer that can be read.
    """
    path = _model_folder(path)
    trained = [folder for folder in map(Path, job.adapters) if (folder / "tokenizer_config.json").is_file()]
    tokenizer = plain_tokenizer(trained[-1] if trained else path, job)
    if isinstance(job, Vocabulary):
        add_tokens(tokenizer, job)
    template = _chosen_template(job)
    if template is not None:
        tokenizer.chat_template = template
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def plain_tokenizer(path: str | Path, job: Model) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder as it lies there. Raises: UserError, if it cannot be read."""
    with _readable(Path(path)):
        return AutoTokenizer.from_pretrained(path, trust_remote_code=job.trust_remote_code)


def load_model(
    path: str | Path,
    job: Model,
    dtype: torch.dtype,
    device: str | torch.device,
    kind: Any = AutoModelForCausalLM,
    **settings: Any,
) -> PreTrainedModel:
    """Load the base model, without adapters, in evaluation mode.

    Args:
        path: local folder with ``config.json`` and the weights.
        dtype: of the weights.
        device: where they go, straight from the file.
        kind: the class of transformers that loads it.
        settings: for that class, or for the model's configuration.

    Raises:
        UserError: the folder is missing or incomplete, needs code of its own, or a package is not installed.
    """
    path = _model_folder(path)
    if job.flash_attn == "fa2" and not is_flash_attn_2_available():
        raise UserError("load.flash_attn_missing")
    chosen: dict[str, Any] = {"dtype": dtype, "trust_remote_code": job.trust_remote_code}
    if ATTENTION[job.flash_attn]:
        chosen["attn_implementation"] = ATTENTION[job.flash_attn]
    if torch.device(device).type != "cpu":
        chosen["device_map"] = {"": device}
    quantized = quantized_loading(job, dtype, device)
    with _readable(path):
        config = AutoConfig.from_pretrained(path, trust_remote_code=job.trust_remote_code, **settings)
    if stretch(config, job):
        chosen["config"] = config
    with _readable(path):
        if quantized and (before := getattr(config, "quantization_config", None)):
            raise UserError("quantization_twice", path=path, method=_method(before))
        if getattr(job, "train_from_scratch", False):
            chosen = {name: value for name, value in chosen.items() if name not in ("device_map", "config")}
            return kind.from_config(config, **chosen).eval().to(device)
        return kind.from_pretrained(path, **chosen, **quantized, **settings).eval()


@without_bitsandbytes()
def apply_adapters(model: PreTrainedModel, paths: tuple[str, ...], may_merge: bool = True) -> torch.nn.Module:
    """A model that answers with all adapters together, in this order; the base model's object is used up.

    In float32 each adapter is merged in memory, which costs nothing per token. In half precision or in 4 or 8 bits a
    small update would be rounded away, so there the adapters stay beside the weights. Several of them are only the sum
    of their updates if all are plain LoRA; others in a row make the model one in float32.

    Args:
        may_merge: False: they stay beside the weights in float32 too, so that they can be switched off.

    Raises:
        UserError: a folder holds no adapter, or one that was trained beside a model of another shape.
    """
    from peft import PeftModel

    configs = [read_adapter_config(path) for path in paths]
    if len(paths) > 1 and not all(only_adds(config) for config in configs) and not is_quantized(model):
        model = model.float()
    is_merged = may_merge and model.dtype == torch.float32 and not is_quantized(model)
    for number, path in enumerate(paths):
        try:
            if isinstance(model, PeftModel):
                model.load_adapter(path, adapter_name=f"adapter_{number}")
            else:
                fit_to_adapter(model, path)
                model = PeftModel.from_pretrained(model, path, adapter_name=f"adapter_{number}")
        except UnpicklingError as error:
            raise UserError("load.pickled", path=path) from error
        except (ValueError, RuntimeError, OSError, LookupError, TypeError, AttributeError) as error:
            raise UserError("load.adapter_unfit", path=path, detail=repr(error)) from error
        if is_merged:
            model = model.merge_and_unload()
    if isinstance(model, PeftModel):
        model.base_model.set_adapter([f"adapter_{number}" for number in range(len(paths))])
    return model.eval()


def read_adapter_config(path: str | Path, kind: str | None = None) -> dict[str, Any]:
    """What an adapter's own file says of it.

    Args:
        kind: "lora" or "oft", where it has to be one of these.

    Raises:
        UserError: there is none, it is of another kind, or it does not fit the base model as that is stored.
    """
    try:
        config = json.loads((Path(path) / "adapter_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError("adapter_missing", path=path) from error
    start = config.get("init_lora_weights")
    if isinstance(start, str) and start.startswith(CHANGES_BASE):
        raise UserError("adapter_changes_base", path=path, value=start)
    found = str(config.get("peft_type")).lower()
    if kind is not None and found != kind:
        raise UserError("adapter_of_another_kind", path=path, type=found, method=kind)
    return config


def only_adds(config: dict[str, Any]) -> bool:
    """Whether an adapter does the same to a weight whatever other adapters add to it."""
    whole = config.get("modules_to_save") or config.get("trainable_token_indices")
    return config.get("peft_type") == "LORA" and not config.get("use_dora") and not whole


def fit_to_adapter(model: PreTrainedModel, path: str | Path) -> None:
    """Give the embeddings as many rows as an adapter that was trained with new tokens has."""
    fit_rows(model, adapter_rows(model, path))


def adapter_rows(model: PreTrainedModel, path: str | Path) -> int | None:
    """How many tokens an adapter's own embeddings are for; None: it has none of its own."""
    file = Path(path) / "adapter_model.safetensors"
    if not file.is_file():
        return None
    both = (model.get_input_embeddings(), model.get_output_embeddings())
    names = [name for name, module in model.named_modules() if any(module is each for each in both)]
    ends = tuple(f"{name}.{inside}weight" for name in names for inside in ("", "base_layer."))
    rows = [stored.shape[0] for name, stored in stored_tensors(file).items() if name.endswith(ends)]
    return max(rows, default=None)


def render_prompt(
    tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, Any]], job: Model, add_generation_prompt: bool = True,
    tools: list[dict[str, Any]] | None = None,
) -> str:  # fmt: skip
    """The text of a conversation as the chat template writes it, ready to be tokenized without special tokens.

    Args:
        messages: turns with ``role`` and ``content``; a system turn that the job names is put in front when none is
            there.
        add_generation_prompt: end with the opening of the assistant's turn.
        tools: functions that the model may call.

    Raises:
        UserError: there is no chat template, or it refuses these messages.
    """
    return renderer_of(tokenizer, job).render(
        with_system(messages, job),
        add_generation_prompt,
        tools=tools if tools is not None else tools_of(job),
        enable_thinking=job.enable_thinking,
        preserve_thinking=job.preserve_thinking or None,
    )


def _method(quantization: Any) -> str:
    described = quantization if isinstance(quantization, dict) else vars(quantization)
    return str(described.get("quant_method"))


def _chosen_template(job: Model) -> str | None:
    """The Jinja text of the template that the job names or its last adapter was trained with; None: neither."""
    template = named_template(job)
    return template.chat_template if template else adapter_template(job)


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
    except UnpicklingError as error:  # its text says how to run such a file, which is no advice for a stranger's
        raise UserError("load.pickled", path=path) from error
    except (OSError, ValueError, KeyError, ImportError, SafetensorError) as error:
        if "trust_remote_code" in str(error):
            raise UserError("load.remote_code", path=path) from error
        raise UserError("load.model_unreadable", path=path, detail=error) from error
