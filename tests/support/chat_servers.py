"""A scripted server on loopback with the OpenAI protocol, and the environment for it."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

KEY = "sk-secret-0123456789abcdef"
PROXIES = ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "OPENAI_BASE_URL")


def settle_environment(monkeypatch):
    """Remove proxy settings, and set a key that must not appear in any output."""
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


class ScriptedServer(ThreadingHTTPServer):
    """A scripted server. ``script`` maps the whole text of a request to the text of the answer or to an HTTP status."""

    daemon_threads = True

    def __init__(self, script):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.script, self.asked, self.bodies = script, [], []
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def document(self, body, status, document):
        """Status and document of the answer to a request; a subclass may change what the script gives."""
        return status, document

    def stop(self):
        self.shutdown()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        content = body["messages"][-1]["content"]
        text = content if isinstance(content, str) else content[-1]["text"]
        self.server.bodies.append(body)
        self.server.asked.append(text)
        answer = self.server.script(text)
        status = answer if isinstance(answer, int) else 200
        message = {"finish_reason": "stop", "message": {"role": "assistant", "content": answer}}
        document = {"choices": [message], "usage": {"prompt_tokens": 5, "completion_tokens": 3}}
        if status != 200:
            document = {"error": {"message": f"no for {self.headers['authorization']}"}}
        status, document = self.server.document(body, status, document)
        data = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
