"""A demo for visitors with a password, behind a reverse proxy."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from urllib.parse import urlencode, urlsplit

import pytest

pytest.importorskip("gradio")

from support.demo_server import Served, served

from refiner.demo.settings import Access
from refiner.errors import ConfigError

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def demo(model, write_plugin, tmp_path_factory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("demo")
    logins = folder / "logins.txt"
    logins.write_text("ann:long:secret\n\nbob:other\n")
    with served(model, write_plugin, folder, "--auth", f"@{logins}", "--root-path", "/refiner") as running:
        yield running


def ask(demo: Served, path: str, form: dict[str, str] | None = None, **headers: str):
    """Status, body and cookies of the answer."""
    connection = http.client.HTTPConnection(urlsplit(demo.address).netloc, timeout=120)
    if form is not None:
        headers["content-type"] = "application/x-www-form-urlencoded"
    connection.request("GET" if form is None else "POST", path, form and urlencode(form), headers)
    answer = connection.getresponse()
    cookies = "; ".join(each.partition(";")[0] for each in answer.headers.get_all("set-cookie") or [])
    body = answer.read()
    connection.close()
    return answer.status, body, cookies


def test_nothing_is_told_or_done_without_the_password(demo):
    for path in ("/config", "/gradio_api/info", "/gradio_api/queue/status"):
        assert ask(demo, path)[0] == 401
    assert ask(demo, "/gradio_api/queue/join", {"data": "[]"})[0] == 401
    assert ask(demo, "/gradio_api/upload", {"files": "x"})[0] == 401
    page = ask(demo, "/")[1]
    assert b'"auth_required":true' in page
    assert ask(demo, "/login", {"username": "ann", "password": "long"})[0] == 400
    assert ask(demo, "/login", {"username": "", "password": ""})[0] >= 400


@pytest.mark.parametrize(("name", "password"), [("ann", "long:secret"), ("bob", "other")])
def test_a_visitor_with_the_password_is_let_in_at_the_address_of_the_proxy(demo, name, password):
    status, _, cookies = ask(demo, "/login", {"username": name, "password": password})
    assert status == 200
    status, body, _ = ask(demo, "/config", cookie=cookies)
    assert status == 200
    assert json.loads(body)["root"].endswith("/refiner")
    assert ask(demo, "/", cookie=cookies)[0] == 200


@pytest.mark.parametrize(
    ("logins", "root_path", "words"),
    [
        (["ann"], None, "NAME:PASSWORD"),
        ([":secret"], None, "NAME:PASSWORD"),
        (["ann:"], None, "NAME:PASSWORD"),
        (["@nowhere.txt"], None, "cannot be read"),
        ([], "refiner", "begins with a slash"),
        ([], "/a b", "begins with a slash"),
    ],
)
def test_mistakes_are_told_without_the_password(logins, root_path, words):
    with pytest.raises(ConfigError, match=words) as told:
        Access.parse(logins, root_path)
    assert "secret" not in str(told.value)


def test_an_empty_file_lets_nobody_in(tmp_path):
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(ConfigError, match="is empty"):
        Access.parse([f"@{tmp_path / 'empty.txt'}"], None)
    assert Access.parse([], "/a/").root_path == "/a"
