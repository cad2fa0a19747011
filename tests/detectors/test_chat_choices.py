"""Marks in answers, and the probabilities of a choice of words: with tiny networks here, and behind an endpoint."""

from __future__ import annotations

import hashlib
import json
import math
import sys
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from support.chat_servers import ScriptedServer, settle_environment
from support.tiny_chat_models import save_speaker, save_viewer, save_writer

from refiner.detectors.chat.backend import ChatReply, ChatRequest
from refiner.detectors.chat.choices import LISTED, Choice, listed_shares
from refiner.detectors.chat.endpoint import EndpointChat, EndpointSettings
from refiner.detectors.chat.local import LocalChat

START, END = "<|box_start|>", "<|box_end|>"
PIECES = ["<think>", "a hand", START, "[1, 2, 3, 4]", END, "</think>", "<verdict>", "fake", "</verdict>"]
VERDICT = Choice("<verdict>", ("fake", "real"))


def picture(seed: int, size: tuple[int, int] = (64, 64)) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), np.uint8))


@pytest.fixture(scope="module", params=["writer", "viewer"])
def chat(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LocalChat:
    """A random model that writes letters."""
    save = {"writer": save_writer, "viewer": save_viewer}[request.param]
    return LocalChat.from_pretrained(save(tmp_path_factory.mktemp(request.param)), device="cpu", max_tokens=24)


@pytest.fixture(scope="module", params=["qwen2_5_vl", "qwen3_vl"])
def speaker(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LocalChat:
    """A model that writes ``PIECES``."""
    folder = tmp_path_factory.mktemp(request.param)
    save_speaker(folder, PIECES, kind=request.param, marks=(START, END), rivals=[("<verdict>", "real", 1.5)])
    return LocalChat.from_pretrained(folder, device="cpu")


def asks(chat: LocalChat, choice: Choice | None = None) -> list[ChatRequest]:
    return [
        ChatRequest(
            user=f"{number}: what is wrong?{'?' * number}",
            images=(picture(number, (64 + 32 * number, 64)),) if chat.sees else (),
            max_tokens=24,
            choice=choice,
        )
        for number in range(5)
    ]


def scores_of(chat: LocalChat, request: ChatRequest, begun: str) -> torch.Tensor:
    """The scores of all tokens after the beginning of an answer, in a forward pass over the whole text."""
    shown = [{"type": "image", "image": image} for image in request.images]
    content: Any = [*shown, {"type": "text", "text": request.text}] if chat.sees else request.text
    inputs = chat.processor.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=True, add_generation_prompt=True, return_dict=True,
        return_tensors="pt", enable_thinking=False,
    )  # fmt: skip
    tokens = chat.processor(text=[begun], return_tensors="pt")["input_ids"] if chat.sees else None
    tokens = chat.processor([begun], return_tensors="pt")["input_ids"] if tokens is None else tokens
    added = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens), "mm_token_type_ids": 0 * tokens}
    for name in added.keys() & inputs.keys():
        inputs[name] = torch.cat([inputs[name], added[name]], dim=1)
    with torch.inference_mode():
        return chat.model(**inputs, logits_to_keep=1).logits[0, -1]


def test_probabilities_are_those_of_a_second_forward_pass(chat: LocalChat) -> None:
    plain = chat.complete(asks(chat))
    tokenizer = getattr(chat.processor, "tokenizer", chat.processor)
    words = ("a", "Z", "?")
    for request, reply in zip(asks(chat), plain, strict=True):
        for place in (1, 7, 20):
            after = reply.text[:place]
            (told,) = chat.complete(
                [ChatRequest(user=request.user, images=request.images, max_tokens=24, choice=Choice(after, words))]
            )
            assert told.text == reply.text, "to look does not change the answer"
            scores = scores_of(chat, request, after)[tokenizer.convert_tokens_to_ids(list(words))]
            assert told.probabilities == pytest.approx(scores.softmax(0).tolist(), abs=1e-5)
            assert sum(told.probabilities) == pytest.approx(1)


def test_a_batch_gives_the_probabilities_of_single_requests(chat: LocalChat) -> None:
    longest = max((reply.text for reply in chat.complete(asks(chat))), key=len)
    choice = Choice(longest[3], ("x", "y"))
    requests = [*asks(chat, choice), *asks(chat)[:2], *asks(chat, Choice("nowhere to be found", ("x", "y")))[:2]]
    together = chat.complete(requests)
    alone = [chat.complete([request])[0] for request in requests]
    assert [reply.text for reply in together] == [reply.text for reply in alone]
    assert any(reply.probabilities for reply in together)
    assert [reply.probabilities for reply in together[5:]] == [None] * 4
    for one, other in zip(together, alone, strict=True):
        assert (one.probabilities is None) == (other.probabilities is None)
        if one.probabilities is not None:
            assert one.probabilities == pytest.approx(other.probabilities, abs=1e-5)


def test_penalties_of_the_generation_settings_do_not_count(speaker: LocalChat) -> None:
    request = ChatRequest(user="fake or real?", images=(picture(1),), choice=VERDICT)
    (plain,) = speaker.complete([request])
    assert plain.probabilities == pytest.approx((1 / (1 + math.exp(-1.5)), 1 / (1 + math.exp(1.5))), abs=0.01)
    speaker.model.generation_config.repetition_penalty = 1.5
    (penalised,) = speaker.complete([request])
    speaker.model.generation_config.repetition_penalty = None
    assert penalised.probabilities == pytest.approx(plain.probabilities, abs=1e-5)


def test_marks_are_kept_on_request_and_end_tokens_never(speaker: LocalChat) -> None:
    requests = [
        ChatRequest(user=f"{number}?", images=(picture(number, (64, 64 + 32 * number)),), marks=marks, choice=choice)
        for number, (marks, choice) in enumerate([(True, VERDICT), (False, None), (True, None), (False, VERDICT)])
    ]
    replies = speaker.complete(requests)
    whole = "".join(PIECES)
    bare = whole.replace(START, "").replace(END, "")
    assert [reply.text for reply in replies] == [whole, bare, whole, bare]
    assert [reply.finish for reply in replies] == ["stop"] * 4
    assert [reply.probabilities is None for reply in replies] == [False, True, True, False]
    assert replies[0].probabilities == pytest.approx(replies[3].probabilities, abs=1e-5)
    assert [reply.text for reply in replies] == [speaker.complete([request])[0].text for request in requests]


def test_marks_in_a_request_are_tokens_only_if_the_answer_may_have_them(speaker: LocalChat) -> None:
    plain, marked = speaker.complete(
        [ChatRequest(user=f"{START}{END}", images=(picture(1),), marks=marks) for marks in (False, True)]
    )
    assert plain.prompt_tokens - marked.prompt_tokens == len(START) + len(END) - 2


@pytest.mark.parametrize(
    ("pieces", "rival", "choice"),
    [
        (["<verdict", ">fake", "</v>"], ("<verdict", ">real"), VERDICT),  # the tokenizer joins the tag with the word
        (["<verdict>", "f", "ake</v>"], ("<verdict>", "real"), VERDICT),
        (["<verdict> ", "fake", "</v>"], ("<verdict> ", "real"), VERDICT),
        (["<verdict>", "\nfake", "</v>"], ("<verdict>", "\nreal"), VERDICT),
        (["say: ", "unreal", "."], ("say: ", "uncut"), Choice("say:", ("unreal", "uncut"))),
        (["a<verdict>", "fake", "<verdict>", "real"], ("a<verdict>", "real"), VERDICT),
    ],
)
def test_the_words_are_found_as_the_tokenizer_cuts_them(
    pieces: list[str], rival: tuple[str, str], choice: Choice, tmp_path: Any
) -> None:
    save_speaker(tmp_path, pieces, rivals=[] if rival[1] in pieces else [(*rival, 2.0)])
    (reply,) = LocalChat.from_pretrained(tmp_path, device="cpu").complete(
        [ChatRequest(user="?", images=(picture(0),), choice=choice)]
    )
    assert reply.text == "".join(pieces)
    less = 30.0 if rival[1] in pieces else 2.0
    assert reply.probabilities == pytest.approx((1 / (1 + math.exp(-less)), 1 / (1 + math.exp(less))), abs=0.02)


@pytest.mark.parametrize(
    "choice",
    [
        Choice("<nowhere>", ("fake", "real")),
        Choice("<verdict>", ("fake", "fake")),
        Choice("<verdict>", ("fake", "fake</verdict>")),
        Choice("<verdict>", ("xa", "xb", "fake")),  # the first two begin with the same token here
        Choice("<verd", ("x", "y")),  # a token of the answer spans the place
        Choice("</verdict>", ()),
    ],
)
def test_what_cannot_be_said_is_unknown(speaker: LocalChat, choice: Choice) -> None:
    (reply,) = speaker.complete([ChatRequest(user="?", images=(picture(0),), choice=choice)])
    assert reply.text.endswith("</verdict>")
    assert reply.probabilities is None


def listed(*steps: Any) -> list[dict[str, Any]]:
    """``logprobs.content``: for each place the token of the answer, or a dict of tokens with probabilities."""
    content = []
    for step in steps:
        chances = step if isinstance(step, dict) else {step: 1.0}
        entries = [{"token": text, "logprob": math.log(chance)} for text, chance in chances.items()]
        content.append({**entries[0], "top_logprobs": entries})
    return content


@pytest.mark.parametrize(
    ("content", "share"),
    [
        (listed("<verdict>", {"fake": 0.6, "real": 0.2, "x": 0.1}, "</"), 0.75),
        (listed("<ver", "dict", {">fake": 0.6, ">real": 0.2, ">": 0.1}), 0.75),
        (listed("<verdict>", {" fake": 0.6, "real": 0.1, "\nreal": 0.1}), 0.75),
        (listed("<verdict>", "\n", {"Fake": 0.5, "fake": 0.1, "real</": 0.2}), 0.75),
        (listed("<verdict>\n ", {"f": 0.5, "fa": 0.1, "re": 0.1, "r": 0.1, "realistic": 0.1}), 0.75),
        (listed("fake <verdict>", {"fake": 0.6, "real": 0.2}, "<verdict>", {"real": 1.0}), 0.75),
        (listed("<verdict>", {"fake": 0.6, "x": 0.3, "y": 0.05}), 0.6 / 0.65),  # real has at most 0.05
        (listed("<verdict>", {"fake": 0.97, "x": 0.02}), 0.97 / 0.98),  # real has at most what is left, 0.01
        (listed("<verdict>", {"real": 0.99}), 0.01),
        (listed("<verdict>", {"no": 0.6, "maybe": 0.3}), None),
        (listed("<verdict>"), None),
        (listed("<verdict>", " "), None),
        (listed("<verd", {"fake": 0.6, "real": 0.2}), None),
        ([], None),
    ],
)
def test_shares_of_what_a_server_lists(content: list[dict[str, Any]], share: float | None) -> None:
    found = listed_shares(content, VERDICT)
    assert found == (None if share is None else pytest.approx((share, 1 - share), abs=1e-6))


def test_the_token_of_the_answer_counts_if_it_is_not_in_the_list() -> None:
    content = listed("<verdict>", {"real": 0.3})
    content[1] |= {"token": "fake", "logprob": math.log(0.6)}
    assert listed_shares(content, VERDICT) == pytest.approx((2 / 3, 1 / 3))


GOOD = listed("<verdict>", {"fake": 0.6, "real": 0.2})
HOSTILE: list[Any] = [
    None, 5, "text", {}, [None], ["a"], [[]], [{}], [{"token": "<verdict>"}], [{"token": 5, "logprob": 0}],
    [GOOD[0], {"token": "fake"}], [GOOD[0], {"token": "fake", "logprob": None}],
    [GOOD[0], {"token": "fake", "logprob": "x"}], [GOOD[0], {"token": "fake", "logprob": float("nan")}],
    [GOOD[0], {"token": "fake", "logprob": -1, "top_logprobs": 7}],
    [GOOD[0], {"token": "fake", "logprob": -1, "top_logprobs": ["x"]}],
    [GOOD[0], {"token": "fake", "logprob": -1, "top_logprobs": [{"token": "real", "logprob": []}]}],
    [GOOD[0], {"token": "fake", "logprob": float("-inf")}], [GOOD[0], {"token": "", "logprob": 0}],
    [GOOD[0], {"token": "fake", "logprob": 10**400}],
]  # fmt: skip


@pytest.mark.parametrize("content", HOSTILE, ids=range(len(HOSTILE)))
def test_a_list_that_cannot_be_read_says_nothing(content: Any) -> None:
    assert listed_shares(content, VERDICT) is None


numbers = st.one_of(st.floats(), st.integers(), st.none())
entries = st.fixed_dictionaries(
    {"token": st.sampled_from(["<verdict>", "fake", "rea", " ", ">real", ""]), "logprob": numbers}
)
steps = st.builds(lambda entry, top: {**entry, "top_logprobs": top}, entries, st.lists(entries, max_size=4))


@given(st.lists(steps, max_size=5))
def test_shares_are_probabilities_whatever_is_listed(content: list[dict[str, Any]]) -> None:
    shares = listed_shares(content, VERDICT)
    assert shares is None or (sum(shares) == pytest.approx(1) and all(0 <= share <= 1 for share in shares))


class Answers(ScriptedServer):
    """Answers with ``text`` and ``GOOD``, unless ``refuse(body)`` returns a status and the body of an error."""

    def __init__(self, refuse: Any = lambda body: None) -> None:
        super().__init__(lambda text: "<verdict>fake")
        self.refuse, self.message = refuse, dict[str, Any]()

    def document(self, body: dict[str, Any], status: int, document: Any) -> tuple[int, Any]:
        document["choices"][0]["message"] |= self.message
        if "logprobs" in body:
            document["choices"][0]["logprobs"] = {"content": GOOD}
        return self.refuse(body) or (status, document)


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> Any:
    settle_environment(monkeypatch)
    opened: list[Any] = []

    def start(refuse: Any = lambda body: None, **settings: Any) -> tuple[Answers, EndpointChat]:
        server = Answers(refuse)
        chat = EndpointChat(
            "m", base_url=server.url, cache=tmp_path, settings=EndpointSettings(backoff=0.01, **settings)
        )
        opened.extend((server, chat))
        return server, chat

    yield start
    for each in opened:
        (each.stop if isinstance(each, Answers) else each.close)()


def test_a_server_is_asked_for_marks_and_probabilities_only_where_they_are_wanted(serve: Any) -> None:
    server, chat = serve(extra_body={"top_k": 5})
    wanted = ChatRequest(user="a", marks=True, choice=VERDICT)
    first, second = chat.complete([wanted])[0], chat.complete([ChatRequest(user="b")])[0]
    assert first.probabilities == pytest.approx((0.75, 0.25))
    assert second.probabilities is None
    body, plain = server.bodies
    assert (body["skip_special_tokens"], body["logprobs"], body["top_logprobs"]) == (False, True, LISTED)
    assert not {"skip_special_tokens", "logprobs", "top_logprobs"} & plain.keys()
    assert body["top_k"] == plain["top_k"] == 5
    again = chat.complete([wanted])[0]
    assert (again.from_cache, again.probabilities) == (True, first.probabilities), "the cache keeps them"
    assert len(server.bodies) == 2


def named(status: int, field: str) -> Any:
    return lambda body: (status, {"error": {"message": "no", "param": field}}) if field in body else None


def said(status: int, field: str, text: str) -> Any:
    return lambda body: (status, {"detail": text}) if field in body else None


@pytest.mark.parametrize(
    ("refuse", "lost"),
    [
        (named(400, "logprobs"), {"logprobs", "top_logprobs"}),
        (named(422, "top_logprobs"), {"logprobs", "top_logprobs"}),
        (named(400, "skip_special_tokens"), {"skip_special_tokens"}),
        (said(403, "logprobs", "You are not allowed to request logprobs"), {"logprobs", "top_logprobs"}),
        (said(422, "skip_special_tokens", "Unexpected fields: {'skip_special_tokens'}"), {"skip_special_tokens"}),
        (
            said(400, "top_logprobs", "sample logprobs of 20 is greater than max allowed: 5"),
            {"logprobs", "top_logprobs"},
        ),
    ],
)
def test_a_field_that_a_server_refuses_is_left_out_from_then_on(serve: Any, refuse: Any, lost: set[str]) -> None:
    server, chat = serve(refuse)
    first, second = (chat.complete([ChatRequest(user=user, marks=True, choice=VERDICT)])[0] for user in "ab")
    assert (first.text, first.attempts, second.attempts) == ("<verdict>fake", 2, 1)
    optional = {"skip_special_tokens", "logprobs", "top_logprobs"}
    assert [optional - body.keys() for body in server.bodies] == [set(), lost, lost]
    assert (second.probabilities is None) == ("logprobs" in lost)


def test_a_refusal_for_another_reason_leaves_the_fields_alone(serve: Any) -> None:
    server, chat = serve(lambda body: (400, {"error": {"message": "too long"}}) if "bad" in str(body) else None)
    bad, good = (chat.complete([ChatRequest(user=user, marks=True, choice=VERDICT)])[0] for user in ("bad", "good"))
    assert "too long" in str(bad)
    assert good.probabilities is not None
    assert len(server.bodies) == 2


def test_an_answer_without_a_usable_list_is_an_answer(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "GOOD", "nothing that can be read")
    _, chat = serve()
    (reply,) = chat.complete([ChatRequest(user="a", choice=VERDICT)])
    assert (reply.text, reply.probabilities) == ("<verdict>fake", None)


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
@pytest.mark.parametrize(
    ("apart", "text", "whole"),
    [
        ("a hand\n", "\nreal", "<think>a hand\n</think>\nreal"),
        ("a hand", None, "<think>a hand</think>"),
        ("other", "<think>a hand</think>real", "<think>a hand</think>real"),
        ("", "real", "real"),
        (None, "real", "real"),
        ({"odd": 1}, "real", "real"),
    ],
)
def test_thoughts_that_a_server_returns_apart_are_put_back_on_request(
    serve: Any, name: str, apart: Any, text: str | None, whole: str
) -> None:
    server, chat = serve(attempts=1)
    server.message = {"content": text, name: apart}
    kept, plain = (chat.complete([ChatRequest(user="a", thoughts=thoughts)])[0] for thoughts in (True, False))
    assert kept.text == whole
    assert getattr(plain, "text", None) == text


def test_old_entries_of_the_cache_are_read_under_their_old_keys(serve: Any, tmp_path: Any) -> None:
    """The key and the file as they were before there were marks and choices."""
    server, chat = serve()
    question = {
        "version": 1, "model": "m", "base_url": server.url, "system": "", "text": "a", "images": [], "max_side": 1536,
        "schema": None, "max_tokens": [1024, 16384], "temperature": 0.0, "seed": None, "extra_body": {},
    }  # fmt: skip
    key = hashlib.sha256(json.dumps(question, sort_keys=True).encode()).hexdigest()
    answer = {"text": "kept", "finish": "stop", "prompt_tokens": 1, "completion_tokens": 2}
    digest = hashlib.sha256(json.dumps(answer, sort_keys=True).encode()).hexdigest()
    (tmp_path / key[:2]).mkdir()
    (tmp_path / key[:2] / f"{key}.json").write_text(json.dumps({"key": key, "answer": answer, "sha256": digest}))
    assert chat.complete([ChatRequest(user="a")]) == [ChatReply(**answer, from_cache=True, attempts=0)]
    for fields in (
        {"marks": True},
        {"thoughts": True},
        {"choice": VERDICT},
        {"choice": Choice("<verdict>", ("real", "fake"))},
    ):
        assert not chat.complete([ChatRequest(user="a", **fields)])[0].from_cache
    assert len(server.bodies) == 4
