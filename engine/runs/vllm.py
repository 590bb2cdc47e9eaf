"""vLLM's own server in place of ours: whether it can do a job, and the command that does it. Nothing is started here.

Written after the documentation of vLLM 0.11; not run against vLLM.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from engine.errors import Problem, Refused, UserError
from engine.options.jobs import ApiJob
from engine.runs.api import key_in, served_name

NOT_TAKEN = ("gguf", "system", "default_system", "enable_thinking", "preserve_thinking", "rope_scaling", "flash_attn")
"""Options that its server has no word for. Leaving one out silently would change the answers."""
PARSERS = {"qwen": "hermes", "mistral": "mistral", "llama3": "llama3_json"}
"""Our tool formats → its ``--tool-call-parser``."""
RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""The values that ``--max-lora-rank`` takes."""


def check(job: ApiJob, find: Callable[[str], Any] = importlib.util.find_spec) -> None:
    """Raises: UserError, if vLLM is not there; Refused, with every option that it cannot take."""
    if find("vllm") is None:
        raise UserError("api.vllm_missing")
    set_here = [name for name in NOT_TAKEN if getattr(job, name) != type(job).model_fields[name].default]
    set_here += ["quantization_bit"] if job.quantization_bit == "8" else []  # it quantizes to 4 bits while it loads
    problems = [Problem("api.vllm_option", name, {"option": name, "value": getattr(job, name)}) for name in set_here]
    if len(job.adapters) > 1:
        problems.append(Problem("api.vllm_adapters", "adapter_name_or_path", {"count": len(job.adapters)}))
    if problems:
        raise Refused(problems)


def command(job: ApiJob, model: Path, chat_template: Path | None, tool_format: str | None) -> list[str]:
    """What starts it.

    Args:
        model: folder of the base model.
        chat_template: file with the Jinja text that the job means; None: the model's own.
        tool_format: how that template writes calls; None: in no way that is known.
    """
    name = served_name(job)
    words = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model)]
    words += ["--host", job.api_host, "--port", str(job.api_port), "--dtype", job.infer_dtype]
    words += ["--generation-config", "vllm", "--override-generation-config", json.dumps(_sampling(job))]
    if job.adapters:
        words += ["--served-model-name", f"{name}-base", "--enable-lora"]
        words += ["--lora-modules", f"{name}={job.adapters[0]}", "--max-lora-rank", str(_rank(job.adapters[0]))]
    else:
        words += ["--served-model-name", name]
    if job.quantization_bit == "4":
        words += ["--quantization", "bitsandbytes"]
    if chat_template:
        words += ["--chat-template", str(chat_template)]
    if tool_format in PARSERS:
        words += ["--enable-auto-tool-choice", "--tool-call-parser", PARSERS[tool_format]]
    return words + (["--trust-remote-code"] if job.trust_remote_code else [])


def environment(given: Mapping[str, str]) -> dict[str, str]:
    """With the key where vLLM looks for it; on the command line every user of the machine could read it."""
    key = key_in(given)
    return {**given, **({"VLLM_API_KEY": key} if key else {})}


def _sampling(job: ApiJob) -> dict[str, Any]:
    return {
        "temperature": job.temperature if job.do_sample else 0.0,
        "top_p": job.top_p,
        "top_k": job.top_k or -1,
        "repetition_penalty": job.repetition_penalty,
        "max_new_tokens": job.max_new_tokens,
    }


def _rank(adapter: str) -> int:
    """The smallest rank it takes that holds the adapter's."""
    config = json.loads((Path(adapter) / "adapter_config.json").read_text(encoding="utf-8"))
    own = max([config.get("r", 8), *config.get("rank_pattern", {}).values()])
    return next((rank for rank in RANKS if rank >= own), RANKS[-1])
