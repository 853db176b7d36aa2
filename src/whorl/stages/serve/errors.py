"""Refusals in the forms that clients read: OpenAI's, and Anthropic's on its own routes."""

from __future__ import annotations

from typing import Any

from fastapi.responses import JSONResponse

__all__ = ["ApiError", "invalid", "is_grammar_fault"]

MAX_MESSAGE_CHARS = 400
ANTHROPIC_ROUTES = "/v1/messages"
ANTHROPIC_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}


# How engines say that a grammar is none.
GRAMMAR_FAULTS = tuple(f"this {kind} cannot be used" for kind in ("json_schema", "regex", "ebnf"))


class ApiError(Exception):
    """An answer other than 200: HTTP status, message, and the field it is about."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str,
        param: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        if len(message) > MAX_MESSAGE_CHARS:
            message = message[: MAX_MESSAGE_CHARS - 1] + "…"
        self.status, self.message, self.code, self.param = status, message, code, param
        self.headers = headers or {}

    @property
    def body(self) -> dict[str, Any]:
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        if self.status == 429:
            kind = "rate_limit_error"
        error = {"message": self.message, "type": kind, "param": self.param, "code": self.code}
        return {"error": error}

    @property
    def anthropic_body(self) -> dict[str, Any]:
        kind = "api_error" if self.status >= 500 else "invalid_request_error"
        error = {"type": ANTHROPIC_TYPES.get(self.status, kind), "message": self.message}
        return {"type": "error", "error": error}

    def response(self, path: str = "") -> JSONResponse:
        """path: of the request, which says in whose form it is answered."""
        is_anthropic = path == ANTHROPIC_ROUTES or path.startswith(f"{ANTHROPIC_ROUTES}/")
        body = self.anthropic_body if is_anthropic else self.body
        return JSONResponse(body, self.status, headers=self.headers)


def invalid(message: str, param: str | None = None, code: str = "invalid_value") -> ApiError:
    """400 that names the field."""
    return ApiError(400, message, code=code, param=param)


def is_grammar_fault(error: str) -> bool:
    """Whether an engine's error is the asker's: a grammar that is none."""
    return error.startswith(GRAMMAR_FAULTS)
