"""A server on loopback with the images part of the OpenAI protocol: it edits as a trained edit model does."""

from __future__ import annotations

import base64
import io
import json
import threading
from collections.abc import Callable
from email.parser import BytesParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
from PIL import Image

Fields = dict[str, Any]
Answer = tuple[int, dict[str, Any] | bytes] | None
"""Status and document, or body; None: the connection is closed without an answer."""


def edited(fields: Fields) -> Image.Image:
    """The image with its transparent part, by the mask, in other colours."""
    pixels = np.asarray(Image.open(io.BytesIO(fields["image"])).convert("RGB")).copy()
    alpha = np.asarray(Image.open(io.BytesIO(fields["mask"])))[..., 3] if "mask" in fields else np.zeros(1)
    shift = sum(fields["prompt"].encode()) % 100 + int(fields.get("seed", 0)) % 50
    pixels[alpha == 0 if alpha.ndim == 2 else slice(None)] //= 2
    return Image.fromarray(pixels if alpha.ndim == 2 else (pixels + shift % 3).astype(np.uint8))


def shown(image: Image.Image | bytes, **usage: int) -> Answer:
    buffer = io.BytesIO()
    if isinstance(image, Image.Image):
        image.save(buffer, "PNG")
    data = image if isinstance(image, bytes) else buffer.getvalue()
    document: dict[str, Any] = {"data": [{"b64_json": base64.b64encode(data).decode()}]}
    return 200, document | ({"usage": usage} if usage else {})


def good(fields: Fields) -> Answer:
    return shown(edited(fields), input_tokens=7, output_tokens=5)


def refusing(status: int, message: str, **error: str) -> Answer:
    return status, {"error": {"message": message, **error}}


class EditServer(ThreadingHTTPServer):
    """``script`` maps the fields of a request, by name, to its answer."""

    daemon_threads = True

    def __init__(self, script: Callable[[Fields], Answer] = good) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.script, self.asked = script, list[Fields]()
        self.together = self.most = 0
        self.lock = threading.Lock()
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def handle_error(self, *_: Any) -> None:
        pass

    def stop(self) -> None:
        self.shutdown()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: EditServer

    def log_message(self, *_: Any) -> None:
        pass

    def do_POST(self) -> None:
        head = f"content-type: {self.headers['content-type']}\n\n".encode()
        message = BytesParser().parsebytes(head + self.rfile.read(int(self.headers["content-length"])))
        fields: Fields = {"path": self.path}
        for part in message.get_payload():
            name, data = part.get_param("name", header="content-disposition"), part.get_payload(decode=True)
            fields[name] = data if part.get_filename() else data.decode()
        with self.server.lock:
            self.server.asked.append(fields)
            self.server.together += 1
            self.server.most = max(self.server.most, self.server.together)
        answer = self.server.script(fields)
        with self.server.lock:
            self.server.together -= 1
        if answer is None:
            self.close_connection = True
            return
        data = answer[1] if isinstance(answer[1], bytes) else json.dumps(answer[1]).encode()
        self.send_response(answer[0])
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
