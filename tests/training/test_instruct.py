"""The instruct recipe at toy size: questions and answers, training, export."""

from __future__ import annotations

import json

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from refiner.detectors.chat.backend import ChatReply, Ledger  # noqa: E402
from refiner.detectors.chat.local import LocalChat  # noqa: E402
from refiner.pipelines.revisers.chat import ChatReviser, load_reviser  # noqa: E402
from refiner.pipelines.revisers.template import TemplateReviser  # noqa: E402
from refiner.training.fit import FitSettings, fit  # noqa: E402
from refiner.training.instruct.data import (  # noqa: E402
    MOST_ATTEMPTS,
    build_tokenizer,
    collate,
    draw,
    question,
    rendered,
    revised,
    told,
)
from refiner.training.instruct.recipe import InstructSettings, build_model, measure, token_losses, train  # noqa: E402
from refiner.training.runs import Run  # noqa: E402

torch.set_num_threads(1)
TEMPLATE = TemplateReviser(limit=64, free_text=False)
TOY = InstructSettings(
    width=16, layers=1, heads=2, groups=1, inner=16, steps=4, warmup=1, batch=2, bf16=False, save_every=2
)


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer(TEMPLATE)


@pytest.fixture(scope="module")
def exchanges():
    rng = np.random.default_rng(1)
    return [draw(rng, TEMPLATE, 1 + number % MOST_ATTEMPTS) for number in range(24)]


def test_what_every_question_says_is_one_token(tokenizer, exchanges):
    assert all(len(tokenizer.encode(text, add_special_tokens=False)) == 1 for text in told(TEMPLATE))
    for exchange in exchanges:
        attempts = len(exchange.history)
        assert len(rendered(exchange.question, tokenizer)) < 60 + 190 * attempts
        assert len(tokenizer.encode(exchange.answer)) < 90
        for text in (exchange.question.text, exchange.answer):
            assert tokenizer.decode(tokenizer.encode(text)) == text


def test_training_asks_what_the_backend_asks(tokenizer, exchanges):
    chat = LocalChat(build_model(tokenizer, TOY), tokenizer, name="toy")
    asked = exchanges[0].question
    turns = [{"role": "system", "content": asked.system}, {"role": "user", "content": asked.text}]
    inputs = chat.processor.apply_chat_template(
        [turns], tokenize=True, add_generation_prompt=True, return_dict=True, sanitize_control_tokens=True
    )
    assert inputs["input_ids"][0] == rendered(asked, tokenizer)


def test_a_right_answer_is_painted(exchanges):
    """``ChatReviser`` accepts the answers that are taught, and uses them completely."""

    class Pupil:
        name, max_side, ledger = "pupil", 1, Ledger()

        def complete(self, requests):
            return [
                ChatReply(text=answers[request.text], finish="stop", prompt_tokens=1, completion_tokens=1)
                for request in requests
            ]

    answers = {question(exchange.prompt, exchange.history, TEMPLATE).text: exchange.answer for exchange in exchanges}
    reviser, named = ChatReviser(Pupil(), template=TEMPLATE), 0
    for exchange in exchanges:
        revision = reviser.revise(exchange.prompt, exchange.history)
        prompt, reason = revised(exchange.prompt, exchange.history, TEMPLATE)
        assert (revision.prompt, revision.note) == (prompt, f"Prompt by pupil: {reason}")
        assert prompt.startswith(exchange.prompt)
        worst = max(exchange.history[-1].analysis.regions, key=lambda region: region.severity * region.score)
        if prompt != exchange.prompt:
            named += worst.name.rpartition(" of ")[2].removeprefix("the ") in prompt[len(exchange.prompt) :]
    assert named > 15


def test_only_answers_are_learnt(tokenizer, exchanges):
    batch = collate(exchanges[:4], tokenizer)
    for row, exchange in enumerate(exchanges[:4]):
        said = batch.labels[row][batch.labels[row] >= 0]
        assert tokenizer.decode(said, skip_special_tokens=True) == exchange.answer
        assert said[-1] == tokenizer.eos_token_id
        assert batch.ids[row][batch.labels[row] >= 0].tolist() == said.tolist()


def test_an_answer_that_was_turned_down_is_asked_for_anew(exchanges):
    again = [exchange for exchange in exchanges if "write another" in exchange.question.text]
    assert 1 <= len(again) <= len(exchanges) / 2
    for exchange in again:
        first = question(exchange.prompt, exchange.history, TEMPLATE).user
        assert exchange.question.user.startswith(f"{first}\nAn earlier answer of yours has a prompt that ")


def test_reading_and_answering_are_all_tokens_but_the_first_and_the_padding(tokenizer, exchanges):
    torch.manual_seed(0)
    model, batch = build_model(tokenizer, TOY), collate(exchanges[:3], tokenizer)
    ids = batch.ids.masked_fill(batch.ids == tokenizer.pad_token_id, -100)
    said = (batch.labels[:, 1:] != -100).sum()
    every = (ids[:, 1:] != -100).sum()
    both = {name: loss.item() for name, loss in token_losses(model, batch).items()}
    whole = model(input_ids=batch.ids, labels=ids).loss.item()
    assert whole == pytest.approx((both["answer"] * said + both["reading"] * (every - said)).item() / every.item())


def test_one_batch_can_be_learnt(tokenizer, exchanges, tmp_path):
    torch.manual_seed(0)
    model, batch = build_model(tokenizer, TOY), collate(exchanges[::3][:2], tokenizer)
    before = token_losses(model, batch)["answer"].item()
    settings = FitSettings(steps=120, learning_rate=2e-2, warmup=5, ema=0.5)
    run = Run(folder=tmp_path)
    fit(model, lambda _: batch, lambda batch: (token_losses(model, batch)["answer"], {}), settings, run, "one")
    assert token_losses(model, batch)["answer"].item() < 0.3 * before


def test_a_resumed_run_equals_a_straight_one_and_its_folder_is_a_reviser(tmp_path, exchanges, monkeypatch):
    train(TOY, TEMPLATE, Run(folder=tmp_path / "straight"), tmp_path / "one")
    rest = iter([False, False, True])

    def stop():
        if next(rest):
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("refiner.training.instruct.recipe.collate", lambda *given: stop() or collate(*given))
        with pytest.raises(KeyboardInterrupt):
            train(TOY, TEMPLATE, Run(folder=tmp_path / "broken"), tmp_path / "none")
    assert not (tmp_path / "none").exists()
    train(TOY, TEMPLATE, Run(folder=tmp_path / "broken"), tmp_path / "two")
    one, two = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("one", "two"))
    assert one == two
    scores = measure(tmp_path / "one", TEMPLATE, 2)
    assert scores == {"used": 0.0, "as_taught": 0.0}, "four steps teach nothing"
    reviser = load_reviser(f"chat:{tmp_path / 'one'}", TEMPLATE, device="cpu")
    exchange = exchanges[0]
    revision = reviser.revise(exchange.prompt, exchange.history)
    assert revision.prompt == TEMPLATE.revise(exchange.prompt, exchange.history).prompt
    assert "Prompt by the template" in revision.note
    assert json.loads((tmp_path / "one" / "config.json").read_text())["model_type"] == "qwen2"
