"""Errors in OpenAI's form, with the field of the request that is at fault.

Source: openai-python 3.54, `_exceptions.py`: the status chooses the exception, which shows message, type, param, code.
"""

from __future__ import annotations

from typing import Final

from edgeml_agent.http_api import schemas
from edgeml_core.errors import EdgemlError, UsageError

#: OpenAI's own codes, where clients may look for them.
_CODES: Final = {
    "model-unknown": "model_not_found",
    "prompt-too-long": "context_length_exceeded",
    "unauthorized": "invalid_api_key",
    "overloaded": "rate_limit_exceeded",
}
_SERVER: Final = 500


class FieldError(UsageError):
    """One field of a request is wrong."""

    def __init__(self, field: str | None, message: str, hint: str = "send only fields that the model supports") -> None:
        super().__init__("input-invalid", message, hint)
        self.field = field


def body(failure: EdgemlError, status: int) -> schemas.OpenAIRefusal:
    """Write the body of a failed response, or the last event of a failed stream."""
    kind = "server_error" if status >= _SERVER else "invalid_request_error"
    return {
        "error": {
            "message": f"{failure.message}; {failure.hint}",
            "type": "rate_limit_error" if failure.code == "overloaded" else kind,
            "param": failure.field if isinstance(failure, FieldError) else None,
            "code": _CODES.get(failure.code, failure.code),
        }
    }
