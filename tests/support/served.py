"""Real models on loopback: `transformers serve`, and a proxy between client and server that makes faults."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit


class TransformersServer:
    """``transformers serve`` in a separate process, for at most 45 minutes; a model's name is its folder."""

    def __init__(self):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}/v1"
        command = ["timeout", "2700", sys.executable, "-P", "-m", "transformers.cli.transformers", "serve"]
        command += ["--host", "127.0.0.1", "--port", str(port), "--device", "cpu", "--dtype", "float32"]
        offline = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "HF_HUB_DISABLE_UPDATE_CHECK": "1"}
        self.process = subprocess.Popen(
            command, env={**os.environ, **offline}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            self._wait(port)
        except BaseException:
            self.stop()
            raise

    def _wait(self, port):
        for _ in range(6000):
            assert self.process.poll() is None, "the server ended"
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                return
            time.sleep(0.1)
        raise AssertionError("the server did not begin")

    def stop(self):
        self.process.terminate()
        self.process.wait(timeout=30)


class FaultProxy(ThreadingHTTPServer):
    """A proxy between a client and a server. It relays a request unless ``script(body, number)`` names a fault.

    ``number`` counts how often the same messages came before. ``relayed`` counts the relayed requests, ``spoiled`` the
    faults, and ``answered`` the good answers by the body of the request.
    """

    daemon_threads = True
    request_queue_size = 64
    delay = 4.0
    """Delay of a late answer in seconds."""

    def __init__(self, target, script):
        super().__init__(("127.0.0.1", 0), _Proxying)
        self.target, self.script = urlsplit(target), script
        self.lock, self.seen, self.relayed, self.spoiled = threading.Lock(), Counter(), 0, Counter()
        self.answered = Counter()
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def handle_error(self, request, client_address):
        """Ignore errors, because some clients disconnect early on purpose."""

    def stop(self):
        self.shutdown()
        self.server_close()


def _with_text(text):
    """A fault that replaces the text of the model's answer with ``text``."""

    def spoil(handler, status, data):
        document = json.loads(data)
        document["choices"][0]["message"]["content"] = text
        handler.reply(200, json.dumps(document).encode())

    return spoil


FAULTS = {
    "late": lambda handler, status, data: time.sleep(handler.server.delay),
    "429": lambda handler, status, data: handler.reply(429, b'{"error": {"message": "slow down"}}', retry_after="0.2"),
    "500": lambda handler, status, data: handler.reply(500, b"oops"),
    "503 with the key": lambda handler, status, data: handler.reply(503, handler.headers["authorization"].encode()),
    "cut": lambda handler, status, data: handler.reply(200, data[: len(data) // 2], length=len(data)),
    "hang up": lambda handler, status, data: None,
    "invalid JSON": lambda handler, status, data: handler.reply(200, data[:-5] + b"<html>"),
    "wrong schema": lambda handler, status, data: handler.reply(200, b'{"result": "fine"}'),
    "no words": _with_text(""),
}
"""Temporary faults: the same request may get its answer later."""
ODD_ANSWERS = {
    "prose": _with_text("The picture looks fine to me."),
    "JSON of another schema": _with_text('{"verdict": "clean", "score": 1}'),
    "JSON that breaks off": _with_text('{"regions": [{"name": "the ha'),
    "an error": _with_text('{"error": "overloaded"}'),
}
"""Complete answers that do not have the requested form."""


class _Proxying(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        asked = json.dumps(json.loads(body)["messages"])
        with self.server.lock:
            number = self.server.seen[asked]
            self.server.seen[asked] += 1
        fault = self.server.script(json.loads(body), number)
        if fault is None or fault in ("cut", "invalid JSON", *ODD_ANSWERS, "no words"):
            status, data = self._relay(body)
        else:
            status, data = 0, b""
        if fault is None or status not in (0, 200):
            with self.server.lock:
                self.server.answered[body] += status == 200
            self.reply(status, data)
            return
        with self.server.lock:
            self.server.spoiled[fault] += 1
        self.close_connection = True
        (FAULTS | ODD_ANSWERS)[fault](self, status, data)

    def _relay(self, body):
        with self.server.lock:
            self.server.relayed += 1
        target = self.server.target
        connection = http.client.HTTPConnection(target.hostname, target.port, timeout=60)
        connection.request("POST", self.path, body, {"content-type": "application/json"})
        response = connection.getresponse()
        data = response.read()
        connection.close()
        return response.status, data

    def reply(self, status, data, *, length=None, retry_after=None):
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(length or len(data)))
        self.send_header("connection", "close")
        if retry_after:
            self.send_header("retry-after", retry_after)
        self.end_headers()
        self.wfile.write(data)
