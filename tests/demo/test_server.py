"""The demo's server from outside: its API, and requests that it must refuse."""

from __future__ import annotations

import http.client
import http.server
import io
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from urllib.parse import quote, urlsplit

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("gradio")

from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from support.demo_server import HOSTILE, SECRET, Served, served

pytestmark = pytest.mark.timeout(600)
DETECTOR, OTHER = "spots:patches", "spots:warmer"


@pytest.fixture(scope="module")
def demo(model, write_plugin, tmp_path_factory) -> Iterator[Served]:
    with served(model, write_plugin, tmp_path_factory.mktemp("demo")) as running:
        yield running


@pytest.fixture(autouse=True)
def free(demo) -> Iterator[None]:
    """Release the detectors after each test."""
    yield
    demo.allow(10**9)


@pytest.fixture
def client(demo, tmp_path) -> Iterator[Client]:
    opened = Client(demo.address, verbose=False, download_files=tmp_path / "downloads", analytics_enabled=False)
    yield opened
    opened.close()


@pytest.fixture
def photo(tmp_path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 255, (90, 120, 3), dtype=np.uint8)
    path = tmp_path / "photo.png"
    Image.fromarray(pixels).save(path)
    return path


def ask(demo: Served, path: str, body: bytes | None = None, **headers: str) -> tuple[int, bytes, dict[str, str]]:
    """Send a request with an unchanged path.

    Returns:
        Status, body and headers of the answer.
    """
    connection = http.client.HTTPConnection(urlsplit(demo.address).netloc, timeout=300)
    try:
        connection.putrequest("GET" if body is None else "POST", path, skip_accept_encoding=True)
        for name, value in headers.items():
            connection.putheader(name.replace("_", "-"), value)
        if body is not None:
            connection.putheader("content-length", str(len(body)))
        connection.endheaders(body)
        answer = connection.getresponse()
        return answer.status, answer.read(), {name.lower(): value for name, value in answer.getheaders()}
    finally:
        connection.close()


def call(demo: Served, name: str, *data: object) -> tuple[str, object]:
    """Call an API endpoint.

    Returns:
        Kind and data of the last event, or status and body if the call was refused.
    """
    status, body, _ = ask(
        demo, f"/gradio_api/call/{name}", json.dumps({"data": data}).encode(), content_type="application/json"
    )
    if status != 200:
        return str(status), body.decode()
    _, events, _ = ask(demo, f"/gradio_api/call/{name}/{json.loads(body)['event_id']}")
    kind, _, said = events.decode().strip().split("\n\n")[-1].removeprefix("event: ").partition("\ndata: ")
    return kind, json.loads(said)


def refine(demo: Served, prompt: object = "a red hand", image: object = None, rounds: object = 1, **more: object):
    inputs = {"strategy": "auto", "rounds": rounds, "seed": 3, "model": None, "detector": DETECTOR, **more}
    inputs["model"] = inputs["model"] or model_of(demo)
    return call(demo, "refine", prompt, image, *inputs.values())


def model_of(demo: Served) -> str:
    _, body, _ = ask(demo, "/config")
    dropdowns = [part["props"] for part in json.loads(body)["components"] if part["type"] == "dropdown"]
    return next(part["value"] for part in dropdowns if part["label"] == "Model")


def file_at(path: str, **more: object) -> dict[str, object]:
    return {"path": path, "meta": {"_type": "gradio.FileData"}, **more}


def upload(demo: Served, name: str, data: bytes) -> tuple[int, bytes]:
    edge = "edge9f86d081"
    head = f'--{edge}\r\ncontent-disposition: form-data; name="files"; filename="{name}"\r\n\r\n'
    body = head.encode() + data + f"\r\n--{edge}--\r\n".encode()
    status, answer, _ = ask(demo, "/gradio_api/upload", body, content_type=f"multipart/form-data; boundary={edge}")
    return status, answer


def png(side: int = 64, colour: tuple[int, int, int] = (90, 50, 50)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (side, side), colour).save(buffer, "PNG")
    return buffer.getvalue()


def test_programs_refine_as_people_do(client, photo, demo):
    status, before_after, plots, timeline, summary, picture, record, report = client.predict(
        prompt=f"a red hand {HOSTILE}", image=handle_file(photo), rounds=1, api_name="/refine"
    )
    assert "was kept" in status
    assert "data:image/webp" in before_after
    assert "<svg" in plots
    assert "rf-attempt" in timeline
    assert HOSTILE in summary["prompt"]
    assert summary["attempts"][0]["action"] == "given"
    with Image.open(picture) as kept:
        assert kept.size == (120, 90)
    run = json.loads(Path(record).read_text())
    settings = {"detector": DETECTOR, "strategy": "auto", "rounds": 1, "seed": 5, "own_picture": True}
    assert run["config"] == settings | {"model": model_of(demo)}
    assert HOSTILE not in Path(report).read_text()
    assert str(demo.homes[0].parent) not in Path(record).read_text() + Path(report).read_text()


def test_programs_pick_candidates_of_their_own(client, demo, tmp_path):
    *_, summary, picture, _, _ = client.predict(
        prompt=f"a red hand {HOSTILE}", image=None, strategy="inpaint", rounds=1, api_name="/refine"
    )
    with Image.open(picture) as before:
        before.load()
    status, _, _, timeline, after, picture, record, report = client.predict(choice="0:0", api_name="/pick")
    assert "Attempt 2 was kept, as you chose" in status
    assert len(after["attempts"]) == len(summary["attempts"]) + 1
    assert timeline.count("<li") > len(summary["attempts"])
    assert json.loads(Path(record).read_text())["config"] == {"picked": {"0": 0}}
    assert str(demo.homes[0].parent) not in Path(record).read_text() + Path(report).read_text()
    with Image.open(picture) as kept:
        assert kept.size == before.size
    for bad in (None, "", "9:9", "0:99", "x", "0:0:0"):
        with pytest.raises(Exception, match=r"Choose a candidate|no region|no candidate"):
            client.predict(choice=bad, api_name="/pick")
    other = Client(demo.address, verbose=False, download_files=tmp_path / "other", analytics_enabled=False)
    with pytest.raises(Exception, match="refine an image again"):
        other.predict(choice="0:0", api_name="/pick")
    other.close()


def test_programs_see_the_progress(client):
    job = client.submit(prompt="a red hand", image=None, rounds=1, api_name="/refine")
    job.result(timeout=300)
    told = [str(row[0]) for row in job.outputs()]
    assert any("Attempt 0" in line for line in told)
    assert any("Attempt 1" in line for line in told)


def test_programs_stop_their_own_jobs(client, demo, tmp_path):
    other = Client(demo.address, verbose=False, download_files=tmp_path / "other", analytics_enabled=False)
    demo.allow(demo.seen())
    jobs = [each.submit(prompt="a red hand", image=None, rounds=1, api_name="/refine") for each in (client, other)]
    while not all(any("Attempt 0" in str(row[0]) for row in job.outputs()) for job in jobs):
        assert not any(job.done() for job in jobs)
    client.predict(api_name="/stop_refine")
    demo.allow(10**9)
    assert "you stopped it" in jobs[0].result(timeout=300)[0] or "before there was an image" in jobs[0].result()[0]
    assert "you stopped it" not in jobs[1].result(timeout=300)[0]
    other.close()


def test_programs_detect_and_rank(client, photo):
    _, shown, summary = client.predict(image=handle_file(photo), detectors=[DETECTOR, OTHER], api_name="/detect")
    assert shown.count("<article") == 2
    assert summary[DETECTOR]["regions"][0]["category"] == "color"
    status, table, document, _, archive = client.predict(
        prompts="a red hand\na green clock",
        name_a="my own",
        files_a=[handle_file(photo)] * 2,
        files_b=None,
        api_name="/rank",
    )
    assert "Best by CAP" in status
    assert "<table>" in table
    assert len(document["systems"]) == 3
    assert Path(archive).read_bytes()[:2] == b"PK"


@pytest.mark.parametrize(
    ("change", "words"),
    [({"prompt": ""}, "Write a prompt first"), ({"prompt": "x" * 2000}, "characters"),
     ({"rounds": 99}, "rounds|maximum"), ({"seed": -3}, "seed|minimum"), ({"model": "/etc"}, "."),
     ({"strategy": "magic"}, "."), ({"detector": "vlm:x@http://a"}, ".")],
)  # fmt: skip
def test_errors_reach_programs_in_words(client, change, words):
    with pytest.raises((AppError, ValueError), match=words):
        client.predict(**{"prompt": "a hand", "image": None, "rounds": 0, "api_name": "/refine", **change})


def test_hostile_words_in_errors_are_escaped(demo, client, tmp_path):
    bad = tmp_path / "<img src=x onerror=alert(1)>.png"
    bad.write_bytes(b"no picture")
    with pytest.raises(AppError) as told:
        client.predict(image=handle_file(bad), detectors=[DETECTOR], api_name="/detect")
    assert "is not a supported image format" in str(told.value)
    assert "<img" not in str(told.value)
    assert "/cache" not in str(told.value)


def test_errors_tell_no_paths_and_no_keys(demo, client, tmp_path):
    said = ""
    for name, colour in (("unreadable.png", 0), ("bug.png", 1)):
        (tmp_path / name).write_bytes(png(colour=(colour,) * 3))
        try:
            said += str(client.predict(image=handle_file(tmp_path / name), detectors=[DETECTOR], api_name="/detect"))
        except AppError as error:
            said += str(error)
    assert "babble" in said
    assert "An internal error occurred; the server's log describes it under" in said
    assert SECRET not in said
    assert str(demo.homes[0]) not in said
    assert "a bug in" in demo.log.read_text()


TRAVERSALS = [
    "/etc/passwd", "/etc/hosts", "../../../../etc/passwd", "..%2f..%2f..%2fetc%2fpasswd", "/proc/self/environ",
    "%2e%2e/%2e%2e/%2e%2e/etc/passwd", "/etc/./passwd", "//etc/passwd", "C:/Windows/win.ini", "/etc/passwd%00.png",
]  # fmt: skip


@pytest.mark.parametrize("place", TRAVERSALS)
@pytest.mark.parametrize(
    "route",
    ["/gradio_api/file={}", "/file={}", "/gradio_api/file/{}", "/static/{}", "/assets/{}", "/svelte/{}", "/theme/{}",
     "/gradio_api/custom_component/1/client/x/{}"],
)  # fmt: skip
def test_no_file_outside_is_served(demo, route, place):
    status, body, _ = ask(demo, route.format(place))
    assert status >= 400 or body.lstrip().lower().startswith(b"<!doctype html>")
    assert b"root:" not in body
    assert b"localhost" not in body.partition(b"<html")[0]
    assert SECRET.encode() not in body


def test_files_of_the_server_and_of_jobs_are_not_served(demo, client):
    client.predict(prompt="a red hand", image=None, rounds=0, api_name="/refine")
    root = demo.homes[0].parent
    for path in (demo.homes[0] / "allow", demo.log, root / "cache", Path(__file__), root / "cache" / ".." / "log.txt"):
        assert ask(demo, f"/gradio_api/file={quote(str(path))}")[0] == 403
        kind, said = call(demo, "detect", file_at(str(path)), [DETECTOR], "")
        assert kind == "error"
        assert "allow" not in str(said)


@pytest.fixture
def trap() -> Iterator[tuple[str, list[str]]]:
    """A server that must get no request.

    Returns:
        Its address, and the paths of the requests that it got.
    """
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(png())

        do_HEAD = do_POST = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"127.0.0.1:{server.server_port}", asked
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_server_asks_nobody_for_anything(demo, trap):
    host, asked = trap
    port = host.partition(":")[2]
    places = [f"http://{host}/x.png", f"HTTP://{host}/x.png", f"http://localhost:{port}/x.png",
              f"http://0:{port}/x.png",
              f"http://[::ffff:127.0.0.1]:{port}/x.png", f"http://2130706433:{port}/x.png", f"//{host}/x.png",
              f"http://user@{host}/x.png", f"ftp://{host}/x.png", f"file://{host}/x.png",
              f" http://{host}/x.png"]  # fmt: skip
    for place in places:
        for route in ("file", "proxy"):
            assert ask(demo, f"/gradio_api/{route}={quote(place, safe=':/@[]')}")[0] >= 400
        assert call(demo, "detect", file_at(place), [DETECTOR], "")[0] in ("403", "422", "error")
        assert call(demo, "detect", {"url": place, "meta": {"_type": "gradio.FileData"}}, [DETECTOR], "")[0] in (
            "422",
            "error",
        )
        assert refine(demo, file_at(place))[0] in ("403", "422", "error")
        call(demo, "detect", file_at("/nowhere.png", url=place), [DETECTOR], "")
    assert asked == []


def test_uploads_stay_in_their_place_and_come_back_as_attachments(demo):
    cache = demo.homes[0].parent / "cache"
    for name in ("../../../evil.png", "/etc/evil.png", "..%2fevil.png", "evil\\..\\x.png", "x" * 300 + ".png", "a.svg",
                 "<script>.html", ".htaccess", "con"):  # fmt: skip
        status, body = upload(demo, name, b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>")
        assert status in (200, 400, 422), name
        if status == 200:
            (path,) = json.loads(body)
            assert Path(path).resolve().is_relative_to(cache.resolve())
            _, _, headers = ask(demo, f"/gradio_api/file={quote(path)}")
            if not name.endswith(".png"):
                assert headers["content-disposition"].startswith("attachment"), name
                assert headers["content-type"] == "application/octet-stream"
    assert not list(demo.homes[0].parent.glob("evil*"))


def test_uploads_are_bounded(demo):
    status, body = upload(demo, "large.png", bytes(17 * 2**20))
    assert status == 413
    assert b"/" not in body.replace(b"application/json", b"")
    assert ask(demo, "/gradio_api/call/refine", b"x" * (3 * 2**20), content_type="application/json")[0] == 413
    buffer = io.BytesIO()
    Image.new("1", (6000, 5000)).save(buffer, "PNG")
    status, body = upload(demo, "wide.png", buffer.getvalue())
    assert status == 200
    kind, said = call(demo, "detect", file_at(json.loads(body)[0]), [DETECTOR], "")
    assert kind == "error"
    assert "Upload a smaller image: at most 24 megapixels, not 6000x5000" in str(said)


def test_twenty_jobs_at_once_end_or_are_refused(demo):
    """Two jobs run at a time, sixteen wait, and the others are refused."""
    demo.allow(demo.seen())
    with ThreadPoolExecutor(20) as pool:
        jobs = [pool.submit(refine, demo, f"picture {number}") for number in range(20)]
        refused = []
        for job in as_completed(jobs):
            refused.append(job.result())
            if len(refused) == 2:
                demo.allow(10**9)
        ended = [job.result() for job in jobs if job.result()[0] == "complete"]
    errors = [said for kind, said in refused if kind == "error"]
    assert len(ended) == 18
    assert len(errors) == 2
    assert all("running or waiting: try again in a few minutes" in str(said) for said in errors)
    prompts = [data[4]["prompt"] for _, data in ended]
    assert len(set(prompts)) == 18
    assert demo.peak_memory() < 4 * 2**30


@pytest.mark.parametrize(
    ("public", "share", "told"),
    [
        (None, False, "http://127.0.0.1:7860"),
        ("https://words.example", True, "https://words.example"),
        (None, True, "http://127.0.0.1:7860 (only on this machine, because Gradio's tunnel cannot be reached)"),
    ],
)
def test_a_public_address_that_could_not_be_had_is_told(public, share, told):
    from refiner.demo.serving import told_address

    assert told_address("http://127.0.0.1:7860", public, share=share) == told
