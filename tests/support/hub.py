"""A hub on 127.0.0.1, with the answers of the Hugging Face hub as far as downloads need them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import unquote

import pytest


@dataclass
class Repo:
    """The folders of a repository by branch, and who may read it."""

    branches: dict[str, Path]
    token: str | None = None
    """None: public."""
    gated: bool = False


@dataclass
class Hub:
    """What the hub has, and what it was asked for."""

    repos: dict[str, Repo] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    """Paths of all requests."""
    sent: list[str] = field(default_factory=list)
    """Paths of the files whose content was sent, such as ``org/model/unet/config.json``."""
    url: str = ""

    def weights_sent(self) -> list[str]:
        return sorted(path for path in self.sent if path.endswith((".safetensors", ".bin", ".ckpt")))


def _files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def answer(self, body: bytes, status: int = 200, **headers: str) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def refuse(self, status: int, code: str) -> None:
            self.answer(b"", status, X_Error_Code=code)

        def do_GET(self) -> None:
            path = unquote(self.path.partition("?")[0]).strip("/")
            hub.requests.append(path)
            api = path.startswith(("api/models/", "api/datasets/"))
            words = path.removeprefix("api/models/").removeprefix("api/").removeprefix("datasets/").split("/")
            name, rest = "/".join(words[:2]), words[2:]
            repo = hub.repos.get(name)
            token = self.headers.get("Authorization", "").removeprefix("Bearer ")
            if repo is None or repo.token not in (None, token):
                return self.refuse(401, "RepoNotFound")
            branch = rest[1] if len(rest) > 1 else "main"
            commits = {hashlib.sha1(f"{name}@{each}".encode()).hexdigest(): each for each in repo.branches}
            branch = commits.get(branch, branch)
            if branch not in repo.branches:
                return self.refuse(404, "RevisionNotFound")
            commit = next(commit for commit, each in commits.items() if each == branch)
            folder = repo.branches[branch]
            if api and rest[:1] == ["tree"]:
                rows = [
                    {"type": "file", "path": each, "size": (folder / each).stat().st_size, "oid": "b" * 40}
                    for each in _files(folder)
                ]
                return self.answer(json.dumps(rows).encode(), Content_Type="application/json")
            if api:
                siblings = [{"rfilename": each} for each in _files(folder)]
                facts = {"id": name, "modelId": name, "sha": commit, "private": False, "tags": [], "siblings": siblings}
                return self.answer(json.dumps(facts).encode(), Content_Type="application/json")
            return self.send_file(name, folder, "/".join(rest[2:]), commit, gated=repo.gated)

        do_HEAD = do_GET  # noqa: N815

        def send_file(self, name: str, folder: Path, file: str, commit: str, *, gated: bool) -> None:
            if gated:
                return self.refuse(403, "GatedRepo")
            if file not in _files(folder):
                return self.refuse(404, "EntryNotFound")
            body = (folder / file).read_bytes()
            if self.command == "GET":
                hub.sent.append(f"{name}/{file}")
            return self.answer(body, ETag=f'"{hashlib.sha256(body).hexdigest()}"', X_Repo_Commit=commit)

    return Handler


@contextmanager
def loopback_hub(cache: Path) -> Iterator[Hub]:
    """Serve an empty hub, and let ``huggingface_hub`` use it and an empty cache."""
    from huggingface_hub import constants, hf_api

    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    Thread(target=server.serve_forever, daemon=True).start()
    hub.url = f"http://127.0.0.1:{server.server_port}"
    with pytest.MonkeyPatch.context() as patch:
        for name in ("NO_PROXY", "no_proxy"):
            patch.setenv(name, "127.0.0.1")
        patch.setattr(constants, "ENDPOINT", hub.url)
        template = f"{hub.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        patch.setattr(constants, "HF_HUB_OFFLINE", False)
        patch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        patch.setattr(constants, "HF_HUB_CACHE", str(cache))
        patch.setattr(hf_api.api, "endpoint", hub.url)
        try:
            yield hub
        finally:
            server.shutdown()
            server.server_close()
