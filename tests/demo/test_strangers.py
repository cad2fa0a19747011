"""What visitors may send and what they may read: uploads, error messages, requests."""

from __future__ import annotations

import asyncio
import json
import logging
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from refiner.demo.gate import MAX_JSON, Gate
from refiner.demo.messages import public_message, public_text
from refiner.demo.settings import DemoSettings, bundled_detectors, labelled
from refiner.demo.uploads import read_upload
from refiner.errors import ConfigError, InputError, ModelNotFoundError, OutOfDomainError, RefinerError

SETTINGS = DemoSettings(models={"m": "m"}, detectors={"d": "d"}, max_pixels=10_000, max_side=64, max_file_bytes=60_000)
NAME = "<b>${x} `name`.png"


def saved(folder, size=(40, 30), name=NAME, **options):
    path = folder / "9f86d081" / name
    path.parent.mkdir(exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, **options)
    return path


def test_an_upload_is_read_and_scaled_down(tmp_path):
    assert read_upload(saved(tmp_path), SETTINGS).size == (40, 30)
    small = read_upload(saved(tmp_path, (99, 50)), SETTINGS)
    assert small.size == (64, 32)
    assert small.mode == "RGB"


def chunk(kind, data):
    return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")


def bomb(side):
    header = chunk(b"IHDR", side.to_bytes(4, "big") * 2 + bytes([8, 2, 0, 0, 0]))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (bomb(101), "Upload a smaller image: at most 0.01 megapixels, not 101x101"),
        (bomb(60_000), "megapixels"),
        (bomb(20), "truncated or damaged"),
        (b"", "0 bytes"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "is not a supported image format"),
        (b"<html><script>alert(1)</script>", "is not a supported image format"),
        (b"GIF89a", "truncated or damaged|is not a supported image format"),
        (b"\xff\xd8\xff" + bytes(500), "truncated or damaged|is not a supported image format"),
        (bytes(60_001), "Upload a smaller file: at most 0.0572 MiB, not 0.1"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "is not a supported image format"),
    ],
)
def test_uploads_out_of_bounds_are_told_by_their_own_names(tmp_path, data, words):
    folder = tmp_path / "9f86d081"
    folder.mkdir()
    (folder / NAME).write_bytes(data)
    with pytest.raises(InputError, match=words) as told:
        read_upload(folder / NAME, SETTINGS)
    assert NAME in str(told.value)
    assert str(tmp_path) not in str(told.value)
    assert "9f86d081" not in str(told.value)


def test_an_upload_that_is_gone_is_told(tmp_path):
    with pytest.raises(InputError, match="does not exist") as told:
        read_upload(tmp_path / "a.png", SETTINGS)
    assert str(tmp_path) not in str(told.value)


SECRETS = [
    "sk-proj-abcdefghijklmnop", "hf_abcdefghijklmnopqrst", "ghp_abcdefghijklmnopqrst", "Bearer abc.def",
    "eyJhbGciOi.eyJzdWIi.c2lnbmF0dXJl", "http://10.0.0.7:8000/v1", "https://user:pass@models.internal/x",
    "/home/ada/models/llm", "~/models/llm/", "C:\\Users\\ada\\weights\\x", "/etc/passwd", "/tmp/gradio/9f86d081/",
]  # fmt: skip


@pytest.mark.parametrize("secret", SECRETS)
def test_paths_keys_and_addresses_are_not_told(secret):
    told = public_text(f"Expected weights in '{secret}', got none ({secret}): fetch them. File \"{secret}\"")
    for part in ("abcdef", "10.0.0.7", "user:pass", "internal", "/home", "ada", "gradio", "9f86d081", "/etc", "eyJhb"):
        assert part not in told
    assert told.startswith("Expected weights in '")
    assert "fetch them" in told


def test_of_a_path_the_last_part_is_told():
    assert public_text("in '/srv/models/tiny/model.safetensors': x") == "in 'model.safetensors': x"


@pytest.mark.parametrize(
    "text",
    ["a hand and/or a face", "burden 0.359 -> 0.000, score 1/2", "3.1 % of 96x96", "the model 'stabilityai/sdxl-base'",
     "either/or", "sixth finger; see 7/8", "Known detectors: micro, vlm:<model>."],
)  # fmt: skip
def test_plain_words_stay_as_they_are(text):
    assert public_text(text) == text


def test_the_values_of_secret_variables_are_not_told(monkeypatch):
    monkeypatch.setenv("SOME_SERVICE_API_KEY", "correct horse")
    monkeypatch.setenv("SHORT_TOKEN", "a")
    assert public_text("refused: correct horse battery") == "refused: [key] battery"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("Expected 1 image, got 2: pass --images 2.", "Expected 1 image, got 2."),
        ("The word 'x' is unknown: use words={'x'} instead.", "The word 'x' is unknown."),
        ("Reading needs rapidocr: pip install it.", "Reading needs rapidocr."),
        ("The image file 'a.png' does not exist: check the path.", "The image file 'a.png' does not exist."),
        ("There is no mask: set mask_image.", "There is no mask."),
        ("The image 'a.png' is damaged: use a PNG or JPEG.", "The image 'a.png' is damaged: use a PNG or JPEG."),
        ("The server is busy: try again.", "The server is busy: try again."),
        ("no advice --at all", "no advice --at all"),
    ],
)
def test_advice_for_programs_is_not_told(text, told):
    assert public_message(RefinerError(text)) == told


def test_photos_for_the_bundled_models_lead_to_the_examples():
    told = public_message(OutOfDomainError("The models know only drawings: use another id, such as detector='a/b'."))
    assert told == "The models know only drawings: choose one of the example images."


@given(st.text(max_size=2000))
def test_any_text_can_be_told(text):
    assert len(public_text(text)) <= 600


def test_our_errors_are_told_and_others_get_a_number(caplog):
    assert public_message(ModelNotFoundError("no /a/b/c")) == "no c"
    assert public_message(RefinerError("x")) == "x"
    with caplog.at_level(logging.ERROR):
        told = public_message(RuntimeError("secret inside"))
    assert "secret" not in told
    (record,) = caplog.records
    assert record.args[0] in told
    assert "secret inside" in str(record.exc_info[1])


def ask(path, body=b"", method="POST", headers=(), chunk=10**9, limit=1000):
    """Send a request through the filter.

    Returns:
        What the server behind the filter reads (None: nothing), and the status of the filter's own answer (or None).
    """
    got, sent = [], []

    async def server(scope, receive, send):
        got.append(b"")
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                got.append("cut")
                return
            got[0] += message.get("body", b"")
            if not message.get("more_body"):
                return

    parts = [body[at : at + chunk] for at in range(0, len(body), chunk)] or [b""]
    messages = [
        {"type": "http.request", "body": part, "more_body": at < len(parts) - 1} for at, part in enumerate(parts)
    ]

    async def receive():
        return messages.pop(0)

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "path": path, "method": method, "headers": list(headers)}
    asyncio.run(Gate(server, limit)(scope, receive, send))
    return (got or None), (sent[0]["status"] if sent else None)


@pytest.mark.parametrize(
    "path",
    ["/gradio_api/file=http://127.0.0.1/x", "/gradio_api/file=HTTPS://a.b/", "/gradio_api/file=file:///etc/passwd",
     "/gradio_api/file=http%3A//a", "/gradio_api/file=//http:/a", "/gradio_api/proxy=http://a.b/c",
     "/gradio_api/proxy=https://a.hf.space/x", "/root/gradio_api/file=ftp://a/b", "/gradio_api/file=http:/\\a"],
)  # fmt: skip
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
def test_addresses_are_not_fetched(path, method):
    assert ask(path, method=method) == (None, 403)


@pytest.mark.parametrize("place", ["http://127.0.0.1:80/", "https://a.b/c.png", "file:///etc/passwd", "http%3A//a"])
def test_files_at_addresses_are_refused_wherever_they_stand(place):
    body = {"data": ["x", [{"deep": {"path": place, "meta": {"_type": "gradio.FileData"}}}]], "fn_index": 1}
    assert ask("/gradio_api/queue/join", json.dumps(body).encode()) == (None, 403)


def test_what_is_no_address_passes_unchanged():
    body = {"data": [{"path": "/tmp/gradio/ab/a.png", "url": "http://127.0.0.1:7860/gradio_api/file=/tmp/a.png"}]}
    raw = json.dumps(body).encode()
    assert ask("/gradio_api/queue/join", raw, chunk=7) == ([raw], None)
    assert ask("/gradio_api/file=/tmp/gradio/ab/a.png", method="GET") == ([b""], None)
    assert ask("/gradio_api/queue/join", b"no json \xff") == ([b"no json \xff"], None)
    assert ask("/gradio_api/queue/join", b"[" * 100_000) == ([b"[" * 100_000], None)


def test_endless_requests_are_cut_off():
    assert ask("/gradio_api/queue/join", b"x" * (MAX_JSON + 1), chunk=10**6) == (None, 413)
    assert ask("/gradio_api/queue/join", headers=[(b"content-length", b"999999999")]) == (None, 413)
    assert ask("/gradio_api/upload", b"x" * 1000, chunk=100) == ([b"x" * 1000], None)
    assert ask("/gradio_api/upload", b"x" * 1001, chunk=100) == ([b"x" * 1000, "cut"], None)
    assert ask("/gradio_api/upload", headers=[(b"content-length", b"1001")]) == (None, 413)


def test_labels_hide_paths_and_addresses(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name / "model").mkdir(parents=True)
    ids = ["micro", str(tmp_path / "a" / "model"), str(tmp_path / "b" / "model"), f"legion:{tmp_path}/a/model",
           "vlm:org/name@http://10.0.0.7:8000/v1", "micro"]  # fmt: skip
    found = labelled(ids)
    assert list(found) == ["micro", "model", "model (2)", "legion:model", "vlm:org/name"]
    assert list(found.values()) == ids[:5]


def test_settings_are_checked():
    with pytest.raises(ConfigError, match="got none"):
        DemoSettings(models={}, detectors={"d": "d"})
    with pytest.raises(ConfigError, match=r"DemoSettings\.running of at least 1, got 0"):
        DemoSettings(models={"m": "m"}, detectors={"d": "d"}, running=0)


def test_bundled_detectors_are_detectors():
    assert bundled_detectors()[0] == "micro:legion"
    assert "micro:fakexplain" in bundled_detectors()
    assert "micro:generator" not in bundled_detectors()
