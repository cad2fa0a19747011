"""Servers that refuse, break off and think aloud: each has its step, and nothing is asked or paid for twice."""

from __future__ import annotations

import base64
import io
import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.chat_servers import settle_environment
from support.odd_servers import Answer, OddServer, refused, said

from refiner.detectors.chat.backend import ChatReply, ChatRequest, Choice
from refiner.detectors.chat.endpoint import EndpointChat
from refiner.detectors.chat.images import PNG_BYTES, Pictures
from refiner.detectors.chat.options import EndpointSettings
from refiner.detectors.grounding.base import BoxGrounder
from refiner.detectors.reading.boxes import BoxFormat
from refiner.detectors.vlm.detector import VlmDetector
from refiner.errors import ModelError, OversizeError, RefinerError

SCHEMA = {"type": "object", "properties": {"word": {"type": "string"}}, "required": ["word"]}
GOOD = '{"word": "a"}'
ASKED = ChatRequest(user="hi", schema=SCHEMA, seed=5, marks=True, choice=Choice("", ("a", "b")))
"""A request with all fields that a server may refuse."""

Start = Callable[..., tuple[OddServer, EndpointChat]]


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Start a server, and a backend that asks it."""
    settle_environment(monkeypatch)
    opened: list[tuple[OddServer, EndpointChat]] = []

    def start(answer: Callable[[dict[str, Any]], Answer], model: str = "m", **settings: Any) -> Any:
        server = OddServer(answer)
        usual: dict[str, Any] = {"backoff": 0.001, "timeout": 30.0}
        chat = EndpointChat(model, base_url=server.url, settings=EndpointSettings(**usual | settings))
        opened.append((server, chat))
        return opened[-1]

    yield start
    for server, chat in opened:
        chat.close()
        server.stop()


def ask(chat: EndpointChat, request: ChatRequest = ASKED) -> ChatReply:
    (outcome,) = chat.complete([request])
    assert isinstance(outcome, ChatReply), outcome
    return outcome


def never_twice(server: OddServer) -> bool:
    bodies = [json.dumps(body, sort_keys=True) for body in server.bodies]
    return len(set(bodies)) == len(bodies)


WORDS = {
    "temperature": [
        "litellm.UnsupportedParamsError: this model does not take temperature=0.0, only 1",
        "Unsupported value: 'temperature' does not support 0.0 with this model. Only the default (1) is supported.",
        "`temperature` is deprecated for this model.",
    ],
    "max_tokens": [
        "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.",
        "max_tokens: Extra inputs are not permitted",
    ],
    "seed": ["Unrecognized request argument supplied: seed", 'Invalid JSON payload received. Unknown name "seed"'],
    "response_format": [
        "response_format is not supported by this model",
        "'response_format.type' must be 'json_object' or 'text'; 'json_schema' is unavailable now",
        "Failed to compile the grammar: xgrammar does not support this schema",
    ],
    "skip_special_tokens": ["Property skip_special_tokens is unsupported"],
    "logprobs": ["You are not allowed to request logprobs from this model"],
}


STATUSES = [400, 403, 404, 415, 422, 500, 501, 503, 200]


@pytest.mark.parametrize("status", STATUSES)
@pytest.mark.parametrize("field", WORDS)
def test_a_refusal_is_judged_by_its_words(serve: Start, field: str, status: int) -> None:
    for number, words in enumerate(WORDS[field], start=STATUSES.index(status)):
        param = (None, "None", field, "body")[number % 4]

        def answer(body: dict[str, Any], words: str = words, param: str | None = param) -> Answer:
            return refused(status, words, param=param) if field in body else said(GOOD)

        server, chat = serve(answer)
        assert ask(chat).text == GOOD, words
        assert field not in server.bodies[-1]
        assert chat.ledger.retries == 0, "nothing was waited for"
        assert never_twice(server)
        asked = len(server.bodies)
        ask(chat)
        assert len(server.bodies) == asked + 1, "it is remembered"


@pytest.mark.parametrize(
    "document",
    [
        {"detail": [{"loc": ["body", "temperature"], "msg": "Extra inputs are not permitted", "input": {"seed": 5}}]},
        {"message": "temperature is not supported"}, {"detail": "unknown field temperature"},
        {"error": "temperature: not supported"}, {"object": "error", "message": "Unsupported: temperature", "code": 4},
    ],
)  # fmt: skip
def test_refusals_come_in_many_documents(serve: Start, document: dict[str, Any]) -> None:
    server, chat = serve(lambda body: (400, document) if "temperature" in body else said(GOOD))
    assert ask(chat).text == GOOD
    assert server.bodies[-1]["seed"] == 5, "and no other field is left out"


@pytest.mark.parametrize("param", ["messages", "messages[0].content", "model"])
def test_a_refusal_of_what_cannot_be_left_out_is_asked_once(serve: Start, param: str) -> None:
    server, chat = serve(lambda body: refused(400, "Invalid value", param=param))
    assert isinstance(chat.complete([ASKED])[0], ModelError)
    assert len(server.bodies) == 1


@pytest.mark.parametrize("status", [401, 402, 429])
def test_what_is_no_refusal_of_a_field_changes_no_request(serve: Start, status: int) -> None:
    words = "too many tokens: 'max_tokens' and temperature are not supported for this key; response_format is invalid"
    server, chat = serve(lambda body: refused(status, words), attempts=2)
    assert isinstance(chat.complete([ASKED])[0], RefinerError)
    assert len({json.dumps(body) for body in server.bodies}) == 1


LENGTHS = {
    "vLLM": "'max_tokens' or 'max_completion_tokens' is too large: {asked}. This model's maximum context length is "
    "{context} tokens and your request has {used} input tokens.",
    "vLLM before": "This model's maximum context length is {context} tokens. However, you requested {total} tokens "
    "({used} in the messages, {asked} in the completion). Please reduce the length of the messages or completion.",
    "SGLang": "Requested token count exceeds the model's maximum context length of {context} tokens. You requested a "
    "total of {total} tokens: {used} tokens from the input messages and {asked} tokens for the completion.",
    "TGI": "`inputs` tokens + `max_new_tokens` must be <= {context}. Given: {used} `inputs` tokens and {asked} "
    "`max_new_tokens`",
    "OpenAI": "max_tokens is too large: {asked}. This model supports at most {room} completion tokens, whereas you "
    "provided {asked}.",
    "Anthropic": "max_tokens: {asked} > {room}, which is the maximum allowed number of output tokens for this model",
    "no number": "the answer's max_tokens exceed what fits into the context window",
}
CONTEXT, USED = 900, 300


def limited(words: str, whole: int) -> Callable[[dict[str, Any]], Answer]:
    """A server with a context of ``CONTEXT`` tokens, ``USED`` of them used; its answer has ``whole`` tokens."""

    def answer(body: dict[str, Any]) -> Answer:
        asked = body["max_tokens"]
        if asked > CONTEXT - USED:
            numbers = {"asked": asked, "context": CONTEXT, "used": USED, "total": USED + asked, "room": CONTEXT - USED}
            return refused(400, words.format(**numbers))
        return said("x" * min(asked, whole), "stop" if asked >= whole else "length")

    return answer


@pytest.mark.parametrize("server_kind", LENGTHS)
@pytest.mark.parametrize(("first", "whole"), [(2000, 250), (2000, 5000), (200, 550), (400, 5000), (600, 5000)])
def test_an_answer_gets_the_room_that_there_is(serve: Start, server_kind: str, first: int, whole: int) -> None:
    server, chat = serve(limited(LENGTHS[server_kind], whole))
    reply = ask(chat, ChatRequest(user="hi", max_tokens=first))
    assert never_twice(server)
    known = server_kind != "no number"
    if whole <= CONTEXT - USED and (known or first > whole):
        assert (reply.finish, len(reply.text)) == ("stop", whole)
    else:
        assert reply.finish == "length"
        assert len(reply.text) == (CONTEXT - USED if known else max(len(text) for text in texts(server, whole)))
    assert chat.ledger.completion_tokens == 3 * sum(server.paid.values())


def texts(server: OddServer, whole: int) -> list[str]:
    return ["x" * min(body["max_tokens"], whole) for body in server.bodies if body["max_tokens"] <= CONTEXT - USED]


@pytest.mark.parametrize("fault", [refused(400, "no"), refused(500, "oops"), (200, b"<html>"), refused(404, "gone")])
def test_what_was_paid_for_is_kept_when_a_longer_answer_fails(serve: Start, fault: Answer) -> None:
    _, chat = serve(lambda body: said("half", "length") if body["max_tokens"] == 100 else fault, attempts=2)
    reply = ask(chat, ChatRequest(user="hi", max_tokens=100))
    assert (reply.text, reply.finish) == ("half", "length")
    assert chat.ledger.failed == 0


def test_what_an_answer_says_before_it_breaks_off_counts_and_is_marked(serve: Start) -> None:
    flaws = [{"name": f"flaw {n}", "explanation": "odd", "bbox_2d": [90 * n, 0, 90 * n + 80, 500]} for n in range(1, 5)]
    verdicts = [
        {"item": n, "verdict": v, "probability_of_flaw": p} for n, v, p in ((1, "absent", 0), (2, "present", 0.9))
    ]
    listed, judged = json.dumps({"regions": flaws}), json.dumps({"verdicts": [*verdicts, {"item": 3}]})

    def answer(body: dict[str, Any]) -> Answer:
        verifies = "These flaws were claimed" in body["messages"][-1]["content"][1]["text"]
        return said(judged[:-5] if verifies else listed[: listed.index('"flaw 4"')], "length")

    _, chat = serve(answer, max_tokens=900)
    analysis = VlmDetector(chat, grounder=BoxGrounder(), boxes=BoxFormat(scale="thousand"))(noise(60))
    assert [(region.name, region.score) for region in analysis.regions] == [("flaw 2", 0.9), ("flaw 3", 1.0)]
    assert set(analysis.gaps) == {"cut_short", "unverified"}


def test_an_answer_of_thoughts_alone_is_an_error_that_says_what_to_do(serve: Start) -> None:
    server, chat = serve(lambda body: said("", "length", reasoning_content="hmm " * 9), max_tokens=400)
    (error,) = chat.complete([ChatRequest(user="hi", max_tokens=100)])
    assert isinstance(error, ModelError)
    assert "no answer within 400 tokens" in str(error)
    assert "set thinking=off" in str(error)
    assert never_twice(server)


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
@pytest.mark.parametrize(
    ("thoughts", "schema", "answer"),
    [
        (GOOD, SCHEMA, GOOD),
        (f"```json\n{GOOD}\n```", SCHEMA, f"```json\n{GOOD}\n```"),
        (f"Let me see.</think>{GOOD}", SCHEMA, GOOD),
        (f"<think>Let me see.\n</think>\n\n{GOOD}", SCHEMA, f"\n\n{GOOD}"),
        ("Let me see.</think>Yes", None, "Yes"),
        (f"Perhaps {GOOD}? No, the hand is odd", SCHEMA, None),
        ("It may be Yes", None, None),
    ],
)
def test_an_answer_among_the_thoughts_is_found_and_a_draft_is_not_taken_for_one(
    serve: Start, name: str, thoughts: str, schema: dict[str, Any] | None, answer: str | None
) -> None:
    def reply(body: dict[str, Any]) -> Answer:
        thinks = body.get("chat_template_kwargs") != {"enable_thinking": False}
        return said(None, **{name: thoughts}) if thinks else said("without thoughts")

    server, chat = serve(reply)
    assert ask(chat, ChatRequest(user="hi", schema=schema)).text == (answer or "without thoughts")
    assert len(server.bodies) == (1 if answer else 2), "a draft is a reason to ask without thoughts"
    assert chat.ledger.prompt_tokens == 7 * len(server.bodies), "what was paid in vain is counted"


def test_an_empty_answer_is_never_asked_for_in_the_same_way(serve: Start) -> None:
    server, chat = serve(lambda body: said(" \n"), attempts=4)
    (error,) = chat.complete([ChatRequest(user="hi")])
    assert "an empty answer after 4 attempts" in str(error)
    assert len(server.bodies) == 4
    assert never_twice(server)


@pytest.mark.parametrize(
    ("thinking", "refuses", "last"),
    [
        (False, (), {"chat_template_kwargs": {"enable_thinking": False, "more": 1}}),
        (True, (), {"chat_template_kwargs": {"enable_thinking": True, "more": 1}}),
        (False, ("chat_template_kwargs",), {"reasoning_effort": "none"}),
        (True, ("chat_template_kwargs",), {"reasoning_effort": "medium"}),
        (False, ("chat_template_kwargs", "none"), {"reasoning_effort": "minimal"}),
        (False, ("chat_template_kwargs", "none", "minimal"), None),
    ],
)
def test_thinking_is_turned_off_in_the_way_that_the_server_takes(
    serve: Start, thinking: bool, refuses: tuple[str, ...], last: dict[str, Any] | None
) -> None:
    def answer(body: dict[str, Any]) -> Answer:
        if "chat_template_kwargs" in body and "chat_template_kwargs" in refuses:
            return refused(400, "Unrecognized request argument supplied: chat_template_kwargs")
        if body.get("reasoning_effort") in refuses:
            return refused(400, "Unsupported value for reasoning_effort", param="reasoning_effort")
        return said(GOOD)

    extra = {} if refuses else {"chat_template_kwargs": {"more": 1}}
    server, chat = serve(answer, thinking=thinking, extra_body=extra)
    if last is None:
        (error,) = chat.complete([ChatRequest(user="hi")])
        assert isinstance(error, ModelError), "what was asked for is refused by name, not dropped"
        assert "reasoning_effort" in str(error)
    else:
        ask(chat, ChatRequest(user="hi"))
        assert last.items() <= server.bodies[-1].items()
    assert never_twice(server)


def noise(side: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (side, side, 3), np.uint8))


def shown(body: dict[str, Any]) -> Image.Image:
    url = body["messages"][-1]["content"][0]["image_url"]["url"]
    return Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2])))


def test_a_large_image_is_sent_as_jpeg_and_a_small_one_as_it_is(serve: Start) -> None:
    server, chat = serve(lambda body: said(GOOD))
    for side in (1100, 200):
        ask(chat, ChatRequest(user="hi", images=(noise(side),)))
    large, small = map(shown, server.bodies)
    assert (large.format, large.size) == ("JPEG", (1100, 1100))
    assert len(base64.b64decode(server.bodies[0]["messages"][0]["content"][0]["image_url"]["url"][23:])) < PNG_BYTES
    assert small.format == "PNG"
    assert np.array_equal(np.asarray(small), np.asarray(noise(200)))
    _, other = serve(lambda body: said(GOOD), quality=50)
    ask(other, ChatRequest(user="hi", images=(noise(200),)))


@pytest.mark.parametrize("scale", ["thousand", "pixels"])
@pytest.mark.parametrize("side", [600, 200])
def test_images_are_shrunk_until_the_server_takes_them(serve: Start, side: int, scale: Any) -> None:
    """The model marks the lower right quarter of the image that it is shown."""

    def answer(body: dict[str, Any]) -> Answer:
        width, height = shown(body).size if scale == "pixels" else (1000, 1000)
        box = [width // 2, height // 2, width, height]
        region = {"name": "hand", "explanation": "six fingers", "bbox_2d": box}
        told = f"which is {width} wide and {height} high" in body["messages"][-1]["content"][1]["text"]
        assert told or scale == "thousand"
        return said(json.dumps({"regions": [region], "verdicts": []}))

    server, chat = serve(answer)
    server.most_bytes = 300_000
    detector = VlmDetector(chat, grounder=BoxGrounder(), boxes=BoxFormat(scale=scale))
    large, small = detector.batch([noise(side), Image.new("RGB", (side, side), "red")])
    for analysis in (large, small):
        (region,) = analysis.regions
        assert region.box is not None
        assert np.abs(np.subtract(region.box, (side / 2, side / 2, side, side))).max() <= side / 50
    sizes = {shown(body).size for body in server.bodies}
    assert len(sizes) == (2 if side == 600 else 1), "an image that is small enough is shown as it is"


def test_an_image_that_no_size_makes_small_enough_is_an_error_of_its_own(serve: Start) -> None:
    server, chat = serve(lambda body: refused(400, "image exceeds 5 MB maximum"))
    detector = VlmDetector(chat, grounder=BoxGrounder())
    (error,) = detector.outcomes([noise(500)])
    assert isinstance(error, OversizeError)
    assert "set a smaller max_side" in str(error)
    assert never_twice(server)
    assert len(server.bodies) < 10


def test_images_are_encoded_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    meeting = threading.Barrier(3, timeout=20)
    encode = Pictures._encoded

    def together(self: Pictures, picture: Image.Image, jpeg: bool) -> str:
        meeting.wait()
        return encode(self, picture, jpeg)

    monkeypatch.setattr(Pictures, "_encoded", together)
    pictures = Pictures(64)
    found: list[str] = []
    threads = [
        threading.Thread(target=lambda seed=seed: found.append(pictures.url(str(seed), noise(8, seed))))
        for seed in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(set(found)) == pictures.encoded == 3


def test_a_storm_pays_for_no_answer_twice(serve: Start) -> None:
    """Ten kinds of faults, one after the other for each request, while several requests are under way."""
    kinds = [words[0] for words in WORDS.values()]
    lock, met = threading.Lock(), dict[str, int]()

    def answer(body: dict[str, Any]) -> Answer:
        text = body["messages"][-1]["content"].split("\n")[0]
        with lock:
            number = met[text] = met.get(text, -1) + 1
        time.sleep(0.002)
        for field, words in zip(WORDS, kinds, strict=True):
            if field in body and (int(text) + number) % 3:
                return refused(500, words)
        passing = [refused(503, "busy"), (200, b"{"), refused(429, "slow down")]
        return passing[int(text) % 3] if number % 2 == 0 else said(GOOD)

    server, chat = serve(answer, attempts=8, concurrency=8)
    replies = chat.complete([ChatRequest(user=str(number), schema=SCHEMA, seed=1) for number in range(60)])
    assert [reply.text for reply in replies if isinstance(reply, ChatReply)] == [GOOD] * 60
    assert sum(server.paid.values()) == 60
    assert chat.ledger.calls == len(server.bodies)
