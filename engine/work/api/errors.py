"""What goes wrong with a request, in the shape in which OpenAI's clients expect it."""

from __future__ import annotations

from typing import Any

from engine.errors import UserError


class ApiError(UserError):
    """A request that is refused, or whose answer failed.

    Args:
        key: name of the sentence, below ``errors``.
        status: of HTTP.
        param: the part of the request that is meant, e.g. ``messages.0.content``.
        code: OpenAI's word for it, where it has one.
    """

    def __init__(
        self, key: str, /, status: int = 400, param: str | None = None, code: str | None = None, **facts: Any
    ) -> None:
        super().__init__(key, **facts)
        self.status, self.param, self.code = status, param, code


def api_error(error: UserError) -> ApiError:
    """One of our other errors, as an answer to a request: what the conversation is to blame for is the asker's."""
    if isinstance(error, ApiError):
        return error
    if error.key == "chat.context_overflow":
        return ApiError(error.key, param="messages", code="context_length_exceeded", **error.facts)
    if error.key.startswith("template_"):
        return ApiError(error.key, param="messages", **error.facts)
    return ApiError(error.key, status=500, **error.facts)


def error_body(error: ApiError, language: str) -> dict[str, Any]:
    """As OpenAI writes it."""
    kinds = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
    kind = kinds.get(error.status, "server_error" if error.status >= 500 else "invalid_request_error")
    return {"error": {"message": error.text(language), "type": kind, "param": error.param, "code": error.code}}
