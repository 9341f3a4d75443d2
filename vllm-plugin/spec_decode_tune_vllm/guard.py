"""Middleware that requires the API key for every request. vLLM alone requires it for `/v1` and similar paths only."""

import os
import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]
App = Callable[[Message, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]]

MIDDLEWARE = f"{__name__}.RequireKey"

OPEN = ("/health", "/metrics")
"""Paths that answer without a key. They are read-only, and vLLM's load driver reads `/metrics` without a key."""


class RequireKey:
    """ASGI middleware for vLLM's `--middleware`. It answers 401 to requests without the key in `VLLM_API_KEY`."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._expected = f"Bearer {os.environ['VLLM_API_KEY']}".encode()

    async def __call__(self, scope: Message, receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] == "lifespan" or (scope["type"] == "http" and scope["path"] in OPEN) or self._has_key(scope):
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            await send({"type": "http.response.start", "status": 401, "headers": [(b"content-type", b"text/plain")]})
            await send({"type": "http.response.body", "body": b"this server was started for one measurement and asks for its key"})

    def _has_key(self, scope: Message) -> bool:
        given: bytes = dict(scope["headers"]).get(b"authorization", b"")
        return secrets.compare_digest(given, self._expected)
