"""A filter before the web server: it blocks requests that would fetch addresses, and requests that are too large."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final
from urllib.parse import unquote

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Server = Callable[[Scope, Receive, Send], Awaitable[None]]

MAX_JSON: Final = 2 * 2**20
"""Most bytes of a request that is not an upload."""
_API: Final = "/gradio_api"
_FETCHING: Final = (f"{_API}/proxy=", f"{_API}/file=")
"""Routes whose path may hold an address that Gradio would fetch."""


class Gate:
    """ASGI middleware before Gradio's routes.

    Gradio fetches addresses that it finds in requests: ``file=http...``, ``proxy=http...``, and files of API calls
    whose path is an address. Gradio itself only refuses addresses of private networks; this demo fetches none at all.

    Args:
        app: the application behind the filter.
        max_upload: most bytes of a request that uploads files.
    """

    def __init__(self, app: Server, max_upload: int) -> None:
        self.app, self.max_upload = app, max_upload

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Forward a request, or refuse it: 403 if it names an address, 413 if it is too large."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        path = scope["path"]
        if any(route in path and _is_address(path.partition(route)[2]) for route in _FETCHING):
            return await _refuse(send, 403, "Files from other addresses are not fetched: upload them.")
        if scope["method"] != "POST":
            return await self.app(scope, receive, send)
        uploading = path.rstrip("/").endswith(f"{_API}/upload")
        limit = self.max_upload if uploading else MAX_JSON
        if _announced(scope) > limit:
            return await _refuse(send, 413, f"The request is larger than {limit // 2**20} MiB: send less at once.")
        if uploading:
            return await self.app(scope, _counted(receive, limit), send)
        body = await _read(receive, limit)
        if body is None:
            return await _refuse(send, 413, f"The request is larger than {limit // 2**20} MiB: send less at once.")
        if _names_address(body):
            return await _refuse(send, 403, "Files from other addresses are not fetched: upload them.")
        return await self.app(scope, _again(body, receive), send)


def _is_address(place: str) -> bool:
    return "://" in unquote(place) or unquote(place).lstrip("/\\").lower().startswith(("http:", "https:"))


def _announced(scope: Scope) -> int:
    length = dict(scope["headers"]).get(b"content-length", b"0")
    return int(length) if length.isdigit() else 0


def _counted(receive: Receive, limit: int) -> Receive:
    """The same messages, but disconnect after ``limit`` bytes."""
    seen = 0

    async def next_message() -> Message:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        return {"type": "http.disconnect"} if seen > limit else message

    return next_message


async def _read(receive: Receive, limit: int) -> bytes | None:
    parts: list[bytes] = []
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            return b"".join(parts)
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > limit:
            return None
        more = message.get("more_body", False)
    return b"".join(parts)


def _again(body: bytes, receive: Receive) -> Receive:
    """Deliver a body that was already read, then further messages."""
    given = False

    async def next_message() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return next_message


def _names_address(body: bytes) -> bool:
    """Whether the path of a file in the request is an address."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return False
    todo = [document]
    while todo:
        item = todo.pop()
        if isinstance(item, dict):
            place = item.get("path")
            if isinstance(place, str) and _is_address(place):
                return True
            todo.extend(item.values())
        elif isinstance(item, list):
            todo.extend(item)
    return False


async def _refuse(send: Send, status: int, detail: str) -> None:
    body = json.dumps({"detail": detail}).encode()
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": body})
