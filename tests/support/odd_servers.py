"""Servers on loopback with the OpenAI protocol that misbehave as a function says, and count what they are asked."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = tuple[int, Any]
"""Status and document; bytes are sent as they are."""


class OddServer(ThreadingHTTPServer):
    """A server that answers each request with ``answer(body)``, and the list of models with ``models``.

    ``bodies`` are the requests, ``paid`` counts the completions that were sent, by request, ``listings`` counts how
    often the models were asked for. A request of more than ``most_bytes`` gets the status 413.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, answer: Callable[[dict[str, Any]], Answer], models: Any = None) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answer, self.models, self.most_bytes = answer, models, 1 << 60
        self.bodies: list[dict[str, Any]] = []
        self.paid: Counter[str] = Counter()
        self.listings, self.lock = 0, threading.Lock()
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def stop(self) -> None:
        self.shutdown()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: OddServer

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        with self.server.lock:
            self.server.listings += 1
        self._send(*((404, {}) if self.server.models is None else (200, self.server.models)))

    def do_POST(self) -> None:
        raw = self.rfile.read(int(self.headers["content-length"]))
        if len(raw) > self.server.most_bytes:
            self._send(413, b"<html>Request Entity Too Large</html>")
            return
        body = json.loads(raw)
        with self.server.lock:
            self.server.bodies.append(body)
        status, document = self.server.answer(body)
        if status == 200 and "choices" in document:
            with self.server.lock:
                self.server.paid[json.dumps(body, sort_keys=True)] += 1
        self._send(status, document)

    def _send(self, status: int, document: Any) -> None:
        data = document if isinstance(document, bytes) else json.dumps(document).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def said(text: str | None, finish: str = "stop", usage: bool = True, **message: Any) -> Answer:
    """A completion."""
    choice = {"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": text, **message}}
    counted = {"usage": {"prompt_tokens": 7, "completion_tokens": 3}} if usage else {}
    return 200, {"object": "chat.completion", "choices": [choice], **counted}


def refused(status: int, words: str, **error: Any) -> Answer:
    """A refusal, as OpenAI words it."""
    return status, {"error": {"message": words, **error}}
