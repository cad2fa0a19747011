"""A chat model on loopback that answers after a while, and spoils a share of its answers in ten ways.

What it answers depends only on the image and the question, so that two runs over the same images can be compared. It
counts what a client had to pay: answers that were sent whole.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import select
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from PIL import Image

_VERIFYING = "These flaws were claimed"
FLAW = {
    "name": "the hand", "location": "left", "explanation": "six fingers", "reasoning": "five are usual",
    "category": "anatomy", "severity": 0.7, "confidence": 0.9, "bbox_2d": [100, 100, 300, 300],
}  # fmt: skip


def _chat(text: str) -> bytes:
    message = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
    usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
    return json.dumps(
        {"id": "x", "object": "chat.completion", "model": "m", "choices": [message], "usage": usage}
    ).encode()


def _status(status: int, body: bytes, **headers: str) -> Callable[[_Answering, bytes], None]:
    def spoil(handler: _Answering, _good: bytes) -> None:
        handler.reply(status, body, **headers)

    return spoil


def _late(handler: _Answering, _good: bytes) -> None:
    select.select([handler.connection], [], [], handler.server.late)  # until the client hangs up
    handler.close_connection = True


def _cut(handler: _Answering, good: bytes) -> None:
    handler.reply(200, good[: len(good) // 2], length=len(good))
    handler.close_connection = True


def _hang_up(handler: _Answering, _good: bytes) -> None:
    handler.close_connection = True


PASSING = {
    "500": _status(500, b"oops"),
    "503": _status(503, b"<html>try later</html>"),
    "429 with Retry-After": _status(429, b'{"error": {"message": "slow down"}}', retry_after="0.1"),
    "dropped connection": _hang_up,
    "truncated answer": _cut,
    "timeout": _late,
    "empty body": _status(200, b""),
    "no JSON": _status(200, b"<html>fine</html>"),
}
"""Faults that are gone when the same request comes again."""
LASTING = {
    "malformed JSON": _status(200, _chat('{"regions": [{"name": "the ha')),
    "prose": _status(200, _chat("I would rather not say.")),
}
"""Answers that are paid for and cannot be read, however often the request comes."""
REFUSED = {"401": _status(401, b'{"error": {"message": "no such key"}}')}


class FaultyServer(ThreadingHTTPServer):
    """The server. Of all requests that come for the first time, ``share`` get a fault, all kinds equally often.

    Args:
        latency: seconds until an answer.
        late: seconds that an answer takes that comes too late.
        share: of the requests, in [0, 1].
        faults: names of the kinds.
    """

    daemon_threads = True
    request_queue_size = 256

    def __init__(
        self, *, latency: float, late: float, share: float = 0.05, faults: Sequence[str] = (*PASSING, *LASTING)
    ) -> None:
        super().__init__(("127.0.0.1", 0), _Answering)
        self.latency, self.late, self.share, self.faults = latency, late, share, faults
        self.lock = threading.Lock()
        self.seen: Counter[str] = Counter()
        """How often each request came."""
        self.paid: Counter[str] = Counter()
        """How many good answers to each request were sent."""
        self.spoiled: Counter[str] = Counter()
        self.busy, self.first, self.last = 0.0, 0.0, 0.0
        """Seconds of all requests together, and when the first began and the last ended."""
        self.under_way, self.most = 0, 0
        """Requests now, and most at any time."""
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    @property
    def used(self) -> float:
        """Requests under way at the same time, on average."""
        return self.busy / (self.last - self.first)

    def fault_of(self, key: str) -> str | None:
        """The fault of a request, by its hash."""
        number = int(key[:12], 16)
        return self.faults[number % len(self.faults)] if number // 840 % 1000 < 1000 * self.share else None

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignore clients that go away; some are killed on purpose."""

    def stop(self) -> None:
        self.shutdown()
        self.server_close()


class _Answering(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else an answer waits 40 ms for the acknowledgement of its headers
    server: FaultyServer

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self.reply(404, b"{}")

    def do_POST(self) -> None:
        began = time.monotonic()
        body = self.rfile.read(int(self.headers["content-length"]))
        key = hashlib.sha256(body).hexdigest()
        with self.server.lock:
            self.server.first = self.server.first or began
            self.server.seen[key] += 1
            again = self.server.seen[key] > 1
            self.server.under_way += 1
            self.server.most = max(self.server.most, self.server.under_way)
        fault = self.server.fault_of(key)
        time.sleep(self.server.latency)
        with contextlib.suppress(OSError):
            self._answer(key, body, None if fault in PASSING and again else fault)
        with self.server.lock:
            self.server.under_way -= 1
            self.server.last = time.monotonic()
            self.server.busy += self.server.last - began

    def _answer(self, key: str, body: bytes, fault: str | None) -> None:
        good = _chat(_answer_to(body.decode()))
        if fault is not None:
            with self.server.lock:
                self.server.spoiled[fault] += 1
            (PASSING | LASTING | REFUSED)[fault](self, good)
            return
        self.reply(200, good)
        with self.server.lock:
            self.server.paid[key] += 1

    def reply(self, status: int, data: bytes, *, length: int | None = None, retry_after: str | None = None) -> None:
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(length or len(data)))
        if retry_after:
            self.send_header("retry-after", retry_after)
        self.end_headers()
        self.wfile.write(data)


def _answer_to(body: str) -> str:
    """One flaw in every second image, by its data; it is confirmed."""
    if _VERIFYING in body:
        verdict = {"item": 1, "evidence": "seen", "verdict": "present", "probability_of_flaw": 0.9}
        return json.dumps({"verdicts": [verdict]})
    picture = body.partition("base64,")[2].partition('"')[0]
    flawed = hashlib.sha256(picture.encode()).digest()[0] % 2
    return json.dumps({"regions": [FLAW] * flawed})


def save_pictures(folder: Path, count: int) -> None:
    """Write small images, all different, in sub-folders of at most 1,000."""
    for number in range(count):
        file = folder / f"{number // 1000:03d}" / f"{number % 1000:03d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        image = Image.new("RGB", (32, 32), (number % 251, number // 251 % 251, 90))
        image.putpixel((3, 4), (number // 63001, 7, number % 13))
        image.save(file)
