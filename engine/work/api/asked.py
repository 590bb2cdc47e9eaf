"""What a request asks for: JSON in, a checked and frozen value out; it needs no model and no server.

Fields that nobody knows are ignored, as OpenAI's clients expect. Those that would change the answer and are not built
are refused, each with the reason: an answer that silently lacks what was asked for is worse than none.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from engine.work.api.errors import ApiError
from engine.work.api.turns import read_tools, read_turns

MOST_CHOICES = 16
MOST_PROMPTS = 64
MOST_STOP_WORDS = 16
SEEDS = 2**63


@dataclass(frozen=True)
class Asked:
    """One request.

    Args:
        model: by which name it calls the model.
        messages: of a chat; None: ``prompts`` are to be continued.
        prompts: plain texts, or tokens.
        tools: functions that the model may call; empty: none, or none wanted.
        one_call: keep the first of several calls.
        choices: answers to each prompt.
        limit: of tokens; None: the server's own.
        stop: words that end the answer.
        options: of ``ChatJob``, for this request only.
        likeliest: log-probabilities are wanted, and those of so many other tokens; None: not wanted.
        streams, shows_usage: piece by piece, and with the number of tokens at the end.
    """

    model: str
    messages: list[dict[str, Any]] | None = None
    prompts: list[str | list[int]] = field(default_factory=list)
    tools: list[dict[str, Any]] = field(default_factory=list)
    one_call: bool = False
    choices: int = 1
    limit: int | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    options: dict[str, Any] = field(default_factory=dict)
    presence: float = 0.0
    frequency: float = 0.0
    bias: dict[int, float] = field(default_factory=dict)
    likeliest: int | None = None
    streams: bool = False
    shows_usage: bool = False

    @property
    def is_chat(self) -> bool:
        return self.messages is not None


def read_chat(body: Any) -> Asked:
    """``POST /v1/chat/completions``. Raises: ApiError, with the first thing that is wrong."""
    given = _checked(_Chat, body)
    _refuse(body, ("functions", "function_call"), "api.use_tools")
    _refuse(body, ("audio", "web_search_options"), "api.not_built")
    if (body.get("modalities") or ["text"]) != ["text"]:
        raise ApiError("api.not_built", param="modalities", option="modalities")
    kind = (body.get("response_format") or {"type": "text"}).get("type")
    if kind != "text":
        raise ApiError("api.response_format", param="response_format", value=kind)
    if given.tool_choice not in (None, "auto", "none"):
        raise ApiError("api.tool_choice", param="tool_choice")
    if given.top_logprobs is not None and not given.logprobs:
        raise ApiError("api.top_logprobs", param="top_logprobs")
    tools = read_tools(given.tools or []) if given.tool_choice != "none" else []
    thinking = (given.chat_template_kwargs or {}).get("enable_thinking")
    return Asked(
        **_common(given),
        messages=read_turns(given.messages),
        tools=tools,
        one_call=given.parallel_tool_calls is False,
        limit=given.max_completion_tokens or given.max_tokens,
        options=_sampling(given) | ({"enable_thinking": thinking} if isinstance(thinking, bool) else {}),
        likeliest=(given.top_logprobs or 0) if given.logprobs else None,
    )


def read_completion(body: Any) -> Asked:
    """``POST /v1/completions``. Raises: ApiError, with the first thing that is wrong."""
    given = _checked(_Completion, body)
    _refuse(body, ("suffix", "echo"), "api.not_built")
    if body.get("best_of") not in (None, given.n or 1):
        raise ApiError("api.not_built", param="best_of", option="best_of")
    return Asked(
        **_common(given),
        prompts=_prompts(given.prompt),
        limit=given.max_tokens,
        options=_sampling(given),
        likeliest=given.logprobs,
    )


def _one_or_many(value: Any) -> Any:
    return [] if value is None else [value] if isinstance(value, str) else value


_Penalty = Annotated[float | None, Field(ge=-2, le=2)]
_Word = Annotated[str, Field(min_length=1)]


class _Common(BaseModel):
    """What chats and completions share."""

    model_config = ConfigDict(extra="ignore", strict=True, allow_inf_nan=False, protected_namespaces=())

    model: str
    n: Annotated[int | None, Field(ge=1, le=MOST_CHOICES)] = None
    stream: bool | None = None
    stream_options: dict[str, Any] | None = None
    stop: Annotated[list[_Word], BeforeValidator(_one_or_many), Field(max_length=MOST_STOP_WORDS)] = []
    seed: Annotated[int | None, Field(ge=-SEEDS, lt=SEEDS)] = None
    max_tokens: Annotated[int | None, Field(ge=1)] = None
    temperature: Annotated[float | None, Field(ge=0, le=2)] = None
    top_p: Annotated[float | None, Field(ge=0, le=1)] = None
    presence_penalty: _Penalty = None
    frequency_penalty: _Penalty = None
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100)]] | None = None
    top_k: Annotated[int | None, Field(ge=0, le=1000)] = None  # these two are vLLM's, not OpenAI's
    repetition_penalty: Annotated[float | None, Field(gt=0, le=2)] = None


class _Chat(_Common):
    messages: Annotated[list[dict[str, Any]], Field(min_length=1)]
    max_completion_tokens: Annotated[int | None, Field(ge=1)] = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int | None, Field(ge=0, le=20)] = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    response_format: dict[str, Any] | None = None
    modalities: list[str] | None = None
    chat_template_kwargs: dict[str, Any] | None = None  # vLLM's as well


class _Completion(_Common):
    prompt: Any = None
    logprobs: Annotated[int | None, Field(ge=0, le=20)] = None


def _checked(shape: type[_Common], body: Any) -> Any:
    if not isinstance(body, dict):
        raise ApiError("api.no_object")
    try:
        return shape.model_validate(body)
    except ValidationError as error:
        first = error.errors()[0]
        parts = [part for part in first["loc"] if isinstance(part, int) or part in shape.model_fields]
        param = ".".join(map(str, parts)) or None
        raise ApiError("api.not_valid", param=param, option=param, detail=first["msg"]) from error


def _refuse(body: dict[str, Any], names: tuple[str, ...], key: str) -> None:
    for name in names:
        if body.get(name):
            raise ApiError(key, param=name, option=name)


def _common(given: _Common) -> dict[str, Any]:
    return {
        "model": given.model,
        "choices": given.n or 1,
        "stop": tuple(given.stop),
        "seed": None if given.seed is None else given.seed % SEEDS,
        "presence": given.presence_penalty or 0.0,
        "frequency": given.frequency_penalty or 0.0,
        "bias": _bias(given.logit_bias or {}),
        "streams": bool(given.stream),
        "shows_usage": bool((given.stream_options or {}).get("include_usage")),
    }


def _sampling(given: _Common) -> dict[str, Any]:
    """Only what is said: the rest is the server's. A temperature above 0 asks for sampling."""
    options: dict[str, Any] = {}
    if given.temperature is not None:
        options |= {"temperature": given.temperature, "do_sample": given.temperature > 0}
    if given.top_p is not None:
        options["top_p"] = max(given.top_p, 1e-6)  # 0 is OpenAI's way to say: the likeliest token alone
    if given.top_k is not None:
        options["top_k"] = given.top_k
    if given.repetition_penalty is not None:
        options["repetition_penalty"] = given.repetition_penalty
    return options


def _bias(given: dict[str, float]) -> dict[int, float]:
    try:
        return {int(token): amount for token, amount in given.items()}
    except ValueError as error:
        raise ApiError("api.not_a_token", param="logit_bias", token=str(error).rpartition(":")[2].strip()) from error


def _prompts(given: Any) -> list[str | list[int]]:
    """A text, tokens, or a list of either."""
    if isinstance(given, str) or _are_tokens(given):
        return [given]
    are_many = isinstance(given, list) and 0 < len(given) <= MOST_PROMPTS
    if are_many and all(isinstance(each, str) or _are_tokens(each) for each in given):
        return given
    raise ApiError("api.prompt_kind", param="prompt", most=MOST_PROMPTS)


def _are_tokens(given: Any) -> bool:
    return isinstance(given, list) and bool(given) and all(type(each) is int and each >= 0 for each in given)
