"""Chat models behind an endpoint: a real server on loopback with scripted faults; all requests are counted."""

from __future__ import annotations

import base64
import gc
import io
import json
import logging
import threading
import time
from collections import Counter
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from PIL import Image

from refiner.detectors.chat.backend import ChatBackend, ChatReply, ChatRequest, Ledger
from refiner.detectors.chat.endpoint import EndpointChat, EndpointSettings
from refiner.detectors.chat.images import fit_picture
from refiner.errors import ConfigError, InputError, ModelError, ModelNotFoundError, OutputError, RefinerError

KEY = "sk-secret-0123456789abcdef"
SCHEMA = {"type": "object", "properties": {"word": {"type": "string"}}, "required": ["word"]}


def completion(text="ok", finish="stop", **message):
    body = {
        "id": "x", "object": "chat.completion", "created": 0, "model": "m",
        "choices": [{"finish_reason": finish, "message": {"role": "assistant", "content": text, **message}}],
        "usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10},
    }  # fmt: skip
    return 200, {}, json.dumps(body).encode()


def refusal(status, message="no", *, headers=None, **error):
    return status, headers or {}, json.dumps({"error": {"message": message, **error}}).encode()


class Server(ThreadingHTTPServer):
    """Answers each request by ``script(body, number)``: a completion, or a fault; ``number`` counts equal prompts."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, script):
        super().__init__(("127.0.0.1", 0), Handler)
        self.script, self.bodies, self.seen, self.headers = script, [], Counter(), []
        self.lock, self.busy, self.busiest = threading.Lock(), 0, 0
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def handle_error(self, request, client_address):
        """Ignore errors of clients that disconnect early; the script includes them."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_POST(self):
        server, body = self.server, json.loads(self.rfile.read(int(self.headers["content-length"])))
        with server.lock:
            prompt = text_of(body)
            number = server.seen[prompt]
            server.seen[prompt] += 1
            server.bodies.append(body)
            server.headers.append({name.lower(): value for name, value in self.headers.items()})
            server.busy += 1
            server.busiest = max(server.busiest, server.busy)
        try:
            self.answer(server.script(body, number))
        finally:
            with server.lock:
                server.busy -= 1

    def answer(self, answer):
        if answer == "cut":
            self.send_response(200)
            self.send_header("content-length", "1000")
            self.end_headers()
            self.wfile.write(b'{"choices": [')
            self.close_connection = True
        elif answer == "drip":
            self.send_response(200)
            self.send_header("content-length", "1000")
            self.end_headers()
            for _ in range(100):
                self.wfile.write(b" ")
                time.sleep(0.05)
        elif answer == "hang up":
            self.close_connection = True
        else:
            status, headers, content = answer
            self.send_response(status)
            for name, value in ({"content-type": "application/json"} | headers).items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)


def text_of(body):
    content = body["messages"][-1]["content"]
    return content if isinstance(content, str) else content[-1]["text"]


@pytest.fixture
def serve(monkeypatch):
    """Start a server with a script, and a backend that sends requests to it."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    opened = []

    def start(script, cache=None, **settings):
        server = Server(script)
        fast = {"backoff": 0.01, "max_wait": 1.0, "timeout": 10.0}
        chat = EndpointChat("m", base_url=server.url, cache=cache, settings=EndpointSettings(**fast | settings))
        opened.append((server, chat))
        return server, chat

    yield start
    for server, chat in opened:
        chat.close()
        server.shutdown()
        server.server_close()


def ask(chat, *users, **fields):
    return chat.complete([ChatRequest(user=user, **fields) for user in users])


def picture(value, size=(40, 20)):
    return Image.fromarray(np.full((size[1], size[0], 3), value, np.uint8))


def test_an_answer_with_its_cost(serve):
    server, chat = serve(lambda body, number: completion("hello"))
    assert ask(chat, "hi", system="be brief", max_tokens=50, seed=4, temperature=0.5) == [
        ChatReply(text="hello", finish="stop", prompt_tokens=7, completion_tokens=3)
    ]
    (body,) = server.bodies
    assert body["messages"] == [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}]
    assert {name: body[name] for name in ("model", "max_tokens", "temperature", "seed")} == {
        "model": "m", "max_tokens": 50, "temperature": 0.5, "seed": 4,
    }  # fmt: skip
    assert "response_format" not in body
    assert server.headers[0]["authorization"] == f"Bearer {KEY}"
    assert isinstance(chat, ChatBackend)
    assert chat.ledger == Ledger(calls=1, prompt_tokens=7, completion_tokens=3, seconds=chat.ledger.seconds)
    assert chat.complete([]) == []


def test_answers_come_in_the_order_asked_while_several_are_under_way(serve):
    def script(body, number):
        time.sleep(0.1 if int(text_of(body)) % 2 else 0.02)
        return completion(f"answer {text_of(body)}")

    server, chat = serve(script, concurrency=4)
    replies = ask(chat, *map(str, range(12)))
    assert [reply.text for reply in replies] == [f"answer {number}" for number in range(12)]
    assert 1 < server.busiest <= 4


PASSING = {
    "500": refusal(500), "503": refusal(503), "408": refusal(408), "429": refusal(429), "cut": "cut",
    "hang up": "hang up", "no json": (200, {}, b"<html>busy</html>"), "no text": (200, {}, b"\xff\xfe"),
    "deep": (200, {}, b"[" * 100_000), "list": (200, {}, b"[]"), "null": (200, {}, b"null"),
    "no choices": (200, {}, b'{"choices": []}'), "error in 200": (200, {}, b'{"error": {"message": "overloaded"}}'),
    "odd content": completion(5), "odd parts": completion([{"type": "text"}]), "empty": completion(""),
    "nothing": completion(None), "plain text type": (200, {"content-type": "text/plain"}, b"ok"),
    "false gzip": (200, {"content-encoding": "gzip"}, b"not gzip"),
}  # fmt: skip


@pytest.mark.parametrize("fault", PASSING)
def test_a_fault_that_passes_costs_a_retry(serve, fault):
    server, chat = serve(lambda body, number: PASSING[fault] if number < 2 else completion())
    (reply,) = ask(chat, "hi")
    assert (reply.text, reply.attempts) == ("ok", 3)
    assert len(server.bodies) == 3
    assert (chat.ledger.calls, chat.ledger.retries, chat.ledger.failed) == (3, 2, 0)


@pytest.mark.parametrize("fault", PASSING)
def test_a_fault_that_stays_is_an_error_of_that_request_alone(serve, fault):
    server, chat = serve(lambda body, number: PASSING[fault] if text_of(body) == "bad" else completion(), attempts=3)
    first, bad, last = ask(chat, "a", "bad", "b")
    assert (first.text, last.text) == ("ok", "ok")
    assert isinstance(bad, ModelError)
    assert "after 3 attempts" in str(bad)
    assert server.seen == {"a": 1, "b": 1, "bad": 3}
    assert (chat.ledger.calls, chat.ledger.retries, chat.ledger.failed) == (5, 2, 1)


@pytest.mark.parametrize(
    ("answer", "kind", "message"),
    [
        (refusal(401, f"bad key {KEY}"), ConfigError, "set the environment variable OPENAI_API_KEY"),
        (refusal(403), ConfigError, "HTTP status 403"),
        (refusal(404, "no such model"), ModelNotFoundError, "'m'.*404.*no such model"),
        (refusal(400, "too long"), ModelError, "400.*too long.*after 1 attempt:"),
        (refusal(501), ModelError, "501"),
        (refusal(429, "pay", code="insufficient_quota"), ModelError, "429.*pay"),
        (refusal(429, headers={"retry-after": "3600"}), ModelError, "429"),
        (completion(None, refusal="I cannot"), ModelError, "a refusal .I cannot."),
        (completion("half", "content_filter"), ModelError, "content filter"),
    ],
)
def test_a_fault_that_will_not_pass_is_asked_once(serve, answer, kind, message):
    server, chat = serve(lambda body, number: answer)
    (error,) = ask(chat, "hi")
    assert isinstance(error, kind)
    with pytest.raises(kind, match=message):
        raise error
    assert len(server.bodies) == 1


@pytest.mark.parametrize("header", ["0.4", "date", "soon", "-5", "nan", "9" * 400, ""])
def test_the_server_says_when_to_ask_again(serve, header):
    def script(body, number):
        value = formatdate(time.time() + 1.5, usegmt=True) if header == "date" else header
        return completion() if number else refusal(429, headers={"retry-after": value})

    server, chat = serve(script, max_wait=2.0)
    began = time.monotonic()
    (reply,) = ask(chat, "hi")
    waited = time.monotonic() - began
    assert (reply.text, len(server.bodies)) == ("ok", 2)
    assert waited >= {"0.4": 0.4, "date": 0.3}.get(header, 0.0)


def test_a_server_that_is_late_or_drips_is_left_after_a_while(serve):
    def script(body, number):
        if number:
            return completion()
        if text_of(body) == "late":
            time.sleep(1.5)
        return "drip"

    _, chat = serve(script, timeout=0.8)
    began = time.monotonic()
    late, drip = ask(chat, "late", "drip")
    assert (late.attempts, drip.attempts) == (2, 2)
    assert time.monotonic() - began < 6


def test_a_server_that_is_not_there_is_not_asked_for_ever(serve):
    server, chat = serve(lambda body, number: completion(), attempts=3, concurrency=1)
    server.shutdown()
    server.server_close()
    outcomes = ask(chat, *map(str, range(30)))
    assert all(isinstance(outcome, ModelError) for outcome in outcomes)
    assert "a failed connection" in str(outcomes[0])
    assert 30 <= chat.ledger.calls <= 9 + 30, "three requests with all attempts, then one each"


def test_a_mixed_storm_accounts_for_every_request(serve):
    faults = list(PASSING.values())

    def script(body, number):
        which = int(text_of(body))
        return faults[(which + number) % len(faults)] if number < which % 4 else completion(f"answer {which}")

    server, chat = serve(script, attempts=4, concurrency=8)
    replies = ask(chat, *map(str, range(48)))
    assert [reply.text for reply in replies] == [f"answer {number}" for number in range(48)]
    assert [reply.attempts for reply in replies] == [number % 4 + 1 for number in range(48)]
    assert chat.ledger.calls == len(server.bodies) == sum(reply.attempts for reply in replies)


@pytest.mark.parametrize("refused", [(), ("json_schema",), ("json_schema", "json_object")])
@pytest.mark.parametrize("param", [None, "response_format", "response_format.type"])
def test_the_form_is_asked_for_as_strictly_as_the_server_allows_and_that_is_remembered(serve, refused, param):
    def script(body, number):
        kind = body.get("response_format", {}).get("type")
        return refusal(400, "unknown", param=param) if kind in refused else completion('{"word": "a"}')

    server, chat = serve(script)
    assert [reply.text for reply in ask(chat, "one", schema=SCHEMA)] == ['{"word": "a"}']
    assert [reply.text for reply in ask(chat, "two", "three", schema=SCHEMA)] == ['{"word": "a"}'] * 2
    asked = [body.get("response_format", {}).get("type") for body in server.bodies]
    kinds = ["json_schema", "json_object", None]
    assert asked == kinds[: len(refused) + 1] + [kinds[len(refused)]] * 2
    assert all(json.dumps(SCHEMA) in text_of(body) for body in server.bodies)
    if not refused:
        assert server.bodies[0]["response_format"]["json_schema"] == {
            "name": "answer",
            "strict": True,
            "schema": SCHEMA,
        }


def test_a_request_that_is_bad_in_itself_does_not_spoil_the_form_for_others(serve):
    server, chat = serve(lambda body, number: refusal(400, "too long") if "bad" in text_of(body) else completion("{}"))
    bad, good = ask(chat, "bad", schema=SCHEMA) + ask(chat, "good", schema=SCHEMA)
    assert "too long" in str(bad)
    assert good.attempts == 1
    assert server.bodies[-1]["response_format"]["type"] == "json_schema"
    assert len(server.bodies) == 4


def test_fields_that_a_server_does_not_take_are_spelled_otherwise_or_left_out(serve):
    def script(body, number):
        wrong = next((name for name in ("max_tokens", "temperature", "seed") if name in body), None)
        return refusal(400, "unsupported", param=wrong) if wrong else completion()

    server, chat = serve(script)
    first, second = ask(chat, "a", seed=1) + ask(chat, "b", seed=1)
    assert (first.attempts, second.attempts) == (4, 1)
    assert server.bodies[-1]["max_completion_tokens"] == 1024


@pytest.mark.parametrize(
    "said", ["System role not supported", "Only user and assistant roles: no 'system' role", "roles must alternate"]
)
def test_where_a_model_takes_no_system_turn_its_words_open_the_users(serve, said):
    def script(body, number):
        return refusal(400, said) if body["messages"][0]["role"] == "system" else completion('{"word": "a"}')

    server, chat = serve(script)
    requests = [ChatRequest(user=user, system="Be brief.", schema=SCHEMA) for user in ("one", "two", "three")]
    first = chat.complete(requests[:1])[0]
    assert (first.text, first.attempts) == ('{"word": "a"}', 2)
    assert all(reply.attempts == 1 for reply in chat.complete(requests[1:])), "it is remembered"
    (turn,) = server.bodies[-1]["messages"]
    assert turn["role"] == "user"
    assert turn["content"].startswith("Be brief.\n\nt")
    assert server.bodies[-1]["response_format"]["type"] == "json_schema", "the form is asked for as before"


@pytest.mark.parametrize("takes_system", [True, False])
def test_earlier_turns_come_first_and_images_stand_in_the_first_of_all(serve, takes_system):
    def script(body, number):
        refused = body["messages"][0]["role"] == "system" and not takes_system
        return refusal(400, "System role not supported") if refused else completion()

    server, chat = serve(script)
    (reply,) = ask(
        chat, "Why?", system="Be brief.", images=(picture(1),), history=(("Real?", "No"), ("Sure?", "Yes")),
        schema=SCHEMA,
    )  # fmt: skip
    assert reply.text == "ok"
    *system, first, no, sure, yes, last = server.bodies[-1]["messages"]
    shown, text = first["content"]
    assert shown["type"] == "image_url"
    assert [turn["role"] for turn in (first, no, sure, yes, last)] == ["user", "assistant", "user", "assistant", "user"]
    assert text["text"] == ("Real?" if takes_system else "Be brief.\n\nReal?")
    assert [turn["content"] for turn in (no, sure, yes)] == ["No", "Sure?", "Yes"]
    assert last["content"].startswith("Why?\n\nAnswer with JSON alone")
    assert system == ([{"role": "system", "content": "Be brief."}] if takes_system else [])


def test_several_requests_may_learn_of_it_at_once(serve):
    def script(body, number):
        time.sleep(0.1)
        return refusal(400, "System role not supported") if body["messages"][0]["role"] == "system" else completion()

    _, chat = serve(script, concurrency=6)
    assert [reply.text for reply in ask(chat, *map(str, range(12)), system="Be brief.")] == ["ok"] * 12
    (bad,) = ask(serve(lambda body, number: refusal(400, "no system role here"))[1], "a", system="s")
    assert "no system role here" in str(bad)


def test_an_answer_that_breaks_off_is_asked_for_with_twice_the_length(serve):
    def script(body, number):
        length = body["max_tokens"]
        return completion("x" * min(length, 300), "stop" if length >= 300 else "length")

    server, chat = serve(script, max_tokens=1000)
    (reply,) = ask(chat, "long", max_tokens=100)
    assert (reply.finish, len(reply.text), reply.attempts) == ("stop", 300, 3)
    assert [body["max_tokens"] for body in server.bodies] == [100, 200, 400]


def test_an_answer_that_never_ends_is_given_as_far_as_it_goes(serve, tmp_path):
    server, chat = serve(lambda body, number: completion("half", "length"), tmp_path, max_tokens=300)
    for _ in range(2):
        (reply,) = ask(chat, "endless", max_tokens=100)
        assert (reply.finish, reply.text) == ("length", "half")
    assert [body["max_tokens"] for body in server.bodies] == [100, 200, 300] * 2, "and it is not kept"


def test_pictures_are_scaled_down_and_encoded_once(serve):
    server, chat = serve(lambda body, number: completion(), max_side=64)
    large, small = picture(200, (400, 100)), picture(10)
    requests = [ChatRequest(user=str(n), images=(large, small) if n % 2 else (large.copy(),)) for n in range(8)]
    assert all(isinstance(reply, ChatReply) for reply in chat.complete(requests))
    assert all(isinstance(reply, ChatReply) for reply in chat.complete(requests))
    assert chat.ledger.pictures == 2
    body = next(body for body in server.bodies if text_of(body) == "1")
    shown = [part["image_url"]["url"] for part in body["messages"][0]["content"][:-1]]
    opened = [Image.open(io.BytesIO(base64.b64decode(url.removeprefix("data:image/png;base64,")))) for url in shown]
    assert [image.size for image in opened] == [(64, 16), (40, 20)]
    assert np.array_equal(np.asarray(opened[1]), np.asarray(small)), "what is small enough is sent as it is"


def test_a_damaged_picture_is_an_error_of_its_request_alone(serve, tmp_path):
    path = tmp_path / "half.png"
    picture(5, (300, 300)).save(path)
    path.write_bytes(path.read_bytes()[:200])
    _, chat = serve(lambda body, number: completion())
    with Image.open(path) as half:
        bad, good = chat.complete([ChatRequest(user="a", images=(half,)), ChatRequest(user="b")])
    assert isinstance(bad, InputError)
    assert good.text == "ok"


def test_a_picture_of_any_mode_is_shown_in_rgb():
    for mode in ("L", "P", "RGBA", "1", "CMYK", "I;16"):
        assert fit_picture(Image.new(mode, (30, 3000)), 100).mode == "RGB"
    assert fit_picture(Image.new("RGB", (1, 9000)), 100).size == (1, 100)


def test_the_cache_answers_what_was_asked_before(serve, tmp_path):
    server, chat = serve(lambda body, number: completion(f"{number}"), tmp_path)
    image = picture(9)
    first = ask(chat, "a", "b", images=(image,))
    second = ask(chat, "b", "a", images=(image.copy(),))
    assert [reply.text for reply in second] == [reply.text for reply in reversed(first)]
    assert all(reply.from_cache and reply.attempts == 0 for reply in second)
    assert len(server.bodies) == 2
    assert (chat.ledger.calls, chat.ledger.cached, chat.ledger.prompt_tokens) == (2, 2, 14)
    fresh = EndpointChat("m", base_url=server.url, cache=tmp_path, settings=chat.settings)
    assert fresh.complete([ChatRequest(user="a", images=(image,))])[0].from_cache
    assert fresh.ledger.pictures == 0, "what is known needs no encoding"
    fresh.close()


@pytest.mark.parametrize(
    "change",
    [
        {"user": "b"}, {"system": "s"}, {"images": (picture(1),)}, {"images": (picture(0), picture(0))}, {"images": ()},
        {"images": (picture(0, (20, 40)),)}, {"schema": SCHEMA}, {"max_tokens": 7}, {"temperature": 0.5, "seed": 1},
        {"seed": 2}, {"history": (("a", "b"),)},
    ],
)  # fmt: skip
def test_all_that_decides_an_answer_decides_its_place_in_the_cache(serve, tmp_path, change):
    server, chat = serve(lambda body, number: completion("{}"), tmp_path)
    base = {"user": "a", "images": (picture(0),)}
    chat.complete([ChatRequest(**base)])
    chat.complete([ChatRequest(**base | change)])
    assert len(server.bodies) == 2


def test_models_do_not_share_answers(serve, tmp_path):
    server, chat = serve(lambda body, number: completion(body["model"]), tmp_path)
    other = EndpointChat("other", base_url=server.url, cache=tmp_path, settings=chat.settings)
    assert [ask(one, "a")[0].text for one in (chat, other)] == ["m", "other"]
    other.close()


def damage_nothing(text):
    return text[: len(text) // 2]


@pytest.mark.parametrize(
    "damage",
    [
        damage_nothing,
        lambda text: "",
        lambda text: "[" * 100_000,
        lambda text: "null",
        lambda text: text.replace("right", "wrong"),
        lambda text: text.replace('"key": "', '"key": "0'),
        lambda text: json.dumps(json.loads(text) | {"answer": {}}),
    ],
)
def test_a_damaged_entry_is_asked_for_again(serve, tmp_path, damage):
    server, chat = serve(lambda body, number: completion("right"), tmp_path)
    ask(chat, "a")
    (entry,) = tmp_path.rglob("*.json")
    entry.write_text(damage(entry.read_text()))
    (reply,) = ask(chat, "a")
    assert (reply.text, reply.from_cache) == ("right", False)
    assert ask(chat, "a")[0].from_cache, "and mended"
    assert len(server.bodies) == 2
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [entry.name]


def test_what_may_turn_out_otherwise_is_not_kept(serve, tmp_path):
    server, chat = serve(
        lambda body, number: completion("I'd rather not" if number == 0 else '{"word": "a"}'), tmp_path
    )
    assert [ask(chat, "form", schema=SCHEMA)[0].text for _ in range(3)] == ["I'd rather not"] + ['{"word": "a"}'] * 2
    assert len(server.bodies) == 2
    for place, odd in enumerate(('{"error": "overloaded"}', "[]", '["word"]', "{}")):
        said = iter([odd, '{"word": "b"}'])
        _, other = serve(lambda body, number: completion(next(said)), tmp_path / str(place))  # noqa: B023
        assert [ask(other, "form", schema=SCHEMA)[0].text for _ in range(3)] == [odd] + ['{"word": "b"}'] * 2
    for _ in range(2):
        ask(chat, "sampled", temperature=1.0)
    assert len(server.bodies) == 4


def test_a_cache_that_cannot_be_written_is_refused_at_once(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        EndpointChat("m", base_url="http://127.0.0.1:1/v1", cache=tmp_path / "file")


def test_a_cache_that_fails_later_costs_no_answer(serve, tmp_path):
    _, chat = serve(lambda body, number: completion("\ud800 odd"), tmp_path / "cache")
    (tmp_path / "cache").rmdir()
    (tmp_path / "cache").write_text("")
    assert isinstance(ask(chat, "a")[0], ChatReply)


def test_a_text_that_no_file_can_carry_is_kept_all_the_same(serve, tmp_path):
    _, chat = serve(lambda body, number: completion("\ud800 odd"), tmp_path)
    assert [ask(chat, "a")[0].text for _ in range(2)] == ["\ud800 odd"] * 2
    assert chat.ledger.cached == 1


def test_the_key_appears_nowhere(serve, tmp_path, caplog, capfd):
    echo = f"key {KEY}, Bearer {KEY}, {base64.b64encode(KEY.encode()).decode()}, sk-secre***cdef"
    answers = {
        "said": completion(f"your key is {KEY}"), "400": refusal(400, echo), "401": refusal(401, echo),
        "404": refusal(404, echo), "500": refusal(500, echo), "200": (200, {}, json.dumps({"error": echo}).encode()),
        "no": completion(None, refusal=echo), "429": refusal(429, echo, code="insufficient_quota"),
        "302": (302, {"location": f"/v1/{KEY}"}, b""), "cut": "cut",
    }  # fmt: skip
    caplog.set_level(logging.DEBUG)
    _, chat = serve(lambda body, number: answers[text_of(body)], tmp_path, attempts=2)
    outcomes = ask(chat, *answers)
    trail = [
        repr(outcomes),
        repr(chat),
        str(chat),
        repr(vars(chat)),
        repr(chat.ledger),
        caplog.text,
        *capfd.readouterr(),
    ]
    for outcome in outcomes:
        if isinstance(outcome, RefinerError):
            trail += [str(outcome), repr(vars(outcome)), repr(outcome.__cause__), repr(outcome.__context__)]
    trail += [path.read_text() for path in tmp_path.rglob("*") if path.is_file()]
    secret = KEY.removeprefix("sk-")
    for text in trail:
        assert secret not in text
        assert base64.b64encode(KEY.encode()).decode() not in text
        assert "sk-secre" not in text
    assert sum(isinstance(outcome, RefinerError) for outcome in outcomes) == len(answers) - 1
    assert "receive_response_headers" in caplog.text, "the wire was logged"
    assert "[key]" in caplog.text


def test_logs_are_left_alone_in_the_end(serve):
    server, chat = serve(lambda body, number: completion())
    gc.collect()
    logger = logging.getLogger("openai._base_client")
    before = len(logger.filters)
    other = EndpointChat("m", base_url=server.url)
    assert len(logger.filters) == before + 1
    del other
    gc.collect()
    assert len(logger.filters) == before
    assert ask(chat, "a")[0].text == "ok"


def test_the_key_comes_from_the_variable_that_is_named(serve, monkeypatch):
    server, _ = serve(lambda body, number: completion())
    monkeypatch.setenv("OTHER_KEY", " other-key-123 \n")
    other = EndpointChat("m", base_url=server.url, key_variable="OTHER_KEY")
    ask(other, "a")
    assert server.headers[-1]["authorization"] == "Bearer other-key-123"
    other.close()
    monkeypatch.delenv("OPENAI_API_KEY")
    none = EndpointChat("m", base_url=server.url)
    assert ask(none, "a")[0].text == "ok", "local servers need no key"
    none.close()


@pytest.mark.parametrize("key", ["schlüssel-123", "two words", "line\nbreak", "nul\x01"])
def test_a_key_that_no_header_can_carry_is_refused_without_being_shown(monkeypatch, key):
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(ConfigError, match="OPENAI_API_KEY") as caught:
        EndpointChat("m", base_url="http://127.0.0.1:1/v1")
    assert key not in str(caught.value)


@pytest.mark.parametrize(
    "address", ["http://me:pass-word@host/v1", "http://tok-en@host/v1", "http://host/v1?api=tok-en"]
)
def test_an_address_with_a_key_in_it_is_refused_without_being_shown(address):
    with pytest.raises(ConfigError, match="the key in the environment") as caught:
        EndpointChat("m", base_url=address)
    assert "tok-en" not in str(caught.value)
    assert "pass-word" not in str(caught.value)


@pytest.mark.parametrize("address", ["host:8000", "ftp://host/v1", "http://", "http://host:port/v1", "http://[::1/v1"])
def test_an_address_that_is_none_is_refused(address):
    with pytest.raises(ConfigError, match="base_url of http"):
        EndpointChat("m", base_url=address)


def test_extra_fields_are_sent_along(serve):
    extra = {"chat_template_kwargs": {"enable_thinking": False}}
    server, chat = serve(lambda body, number: completion(), extra_body=extra)
    ask(chat, "a")
    assert server.bodies[0]["chat_template_kwargs"] == {"enable_thinking": False}


@pytest.mark.parametrize(
    "fields",
    [
        {"max_tokens": 0},
        {"temperature": -1},
        {"temperature": float("nan")},
        {"schema": {"x": {1}}},
        {"user": "\ud800"},
        {"history": (("a", "\ud800"),)},
    ],
)
def test_requests_are_checked(fields):
    with pytest.raises((ConfigError, InputError)):
        ChatRequest(**{"user": "a"} | fields)


@pytest.mark.parametrize(
    "fields", [{"timeout": 0}, {"attempts": 0}, {"concurrency": -1}, {"backoff": -1}, {"max_side": 0}]
)
def test_settings_are_checked(fields):
    with pytest.raises(ConfigError):
        EndpointSettings(**fields)
