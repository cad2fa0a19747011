"""Costs of chat models: sums, prices and their table."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from refiner.errors import InputError
from refiner.ledger import Ledger, Prices, added, bill, bill_lines, ledgers_from, ledgers_of, since

FIRST = Ledger(calls=3, retries=1, prompt_tokens=2_000_000, completion_tokens=500_000, seconds=4.5)
SECOND = Ledger(calls=2, cached=4, prompt_tokens=10, completion_tokens=20, seconds=0.25, pictures=2)
TOML = 'currency = "EUR"\n["gpt-5-mini"]\ninput = 0.25\noutput = 2\n[free]\ninput = 0\noutput = 0.0\n'


class Part:
    def __init__(self, **ledgers: Ledger) -> None:
        self._ledgers = ledgers

    def ledgers(self) -> dict[str, Ledger]:
        return self._ledgers


def test_sums_by_model_count_each_part_once() -> None:
    both = Part(a=FIRST, b=SECOND)
    assert ledgers_of([both, None, both, Part(a=SECOND), object()]) == {"a": FIRST + SECOND, "b": SECOND}
    assert added({"a": FIRST}, {"a": SECOND, "b": FIRST}) == {"a": FIRST + SECOND, "b": FIRST}
    assert since({"a": FIRST}, {"a": FIRST + SECOND, "b": FIRST}) == {"a": SECOND, "b": FIRST}
    assert since({"a": FIRST}, {"a": FIRST}) == {}


@pytest.mark.parametrize("name", ["prices.toml", "prices.json", "prices"])
def test_prices_are_per_million_tokens(tmp_path: Path, name: str) -> None:
    table = {"currency": "EUR", "gpt-5-mini": {"input": 0.25, "output": 2}, "free": {"input": 0, "output": 0.0}}
    (tmp_path / name).write_text(json.dumps(table) if name.endswith(".json") else TOML, encoding="utf-8-sig")
    prices = Prices.read(tmp_path / name)
    assert prices.cost("gpt-5-mini", FIRST) == 0.25 * 2 + 2 * 0.5
    assert prices.cost("free", SECOND) == 0
    assert prices.cost("another", FIRST) is None, "what is not known is no number"
    assert prices.cost("free", Ledger(calls=1, uncounted=1)) is None
    first, second, whole = bill_lines({"gpt-5-mini": FIRST, "free": SECOND}, prices)
    assert first == "gpt-5-mini: 3 calls (1 repeated), 2,000,000 + 500,000 tokens, 4.5 s, 1.5 EUR"
    assert "4 from the cache" in second
    assert whole == "all models: 1.5 EUR"
    assert bill_lines({"a": FIRST, "free": SECOND}, prices)[-1] == "all models: price not known"
    assert bill({"gpt-5-mini": FIRST}, prices)["gpt-5-mini"]["cost"] == 1.5
    assert "cost" not in bill({"a": FIRST})["a"]


def test_a_model_that_makes_images_may_be_billed_for_each(tmp_path: Path) -> None:
    (tmp_path / "prices.toml").write_text('["a"]\nimage = 0.04\n["b"]\nimage = 0.01\ninput = 1\noutput = 2\n')
    prices, made = Prices.read(tmp_path / "prices.toml"), Ledger(calls=4, images=3, uncounted=3)
    assert prices.cost("a", made) == pytest.approx(0.12), "its tokens cost nothing"
    assert prices.cost("b", made) is None
    assert prices.cost("b", Ledger(images=3, prompt_tokens=10**6, completion_tokens=10**6)) == pytest.approx(3.03)
    assert "3 images made" in made.words()
    old = {name: value for name, value in bill({"a": FIRST})["a"].items() if name != "images"}
    assert ledgers_from({"a": old}) == {"a": FIRST}, "as it was stored before images were counted"


def test_a_bill_is_read_back() -> None:
    ledgers = {"a": FIRST, "b": SECOND}
    assert ledgers_from(json.loads(json.dumps(bill(ledgers, Prices(models={}))))) == ledgers
    for bad in ({"a": {}}, {"a": 5}, {"a": None}):
        with pytest.raises(InputError, match="cannot be read"):
            ledgers_from(bad)


@pytest.mark.parametrize(
    "text",
    [
        "", "[", "a = 1", "[a]\ninput = 1", "[a]\ninput = 1\noutput = -1", "[a]\ninput = 1\noutput = nan",
        "[a]\ninput = 1\noutput = inf", '[a]\ninput = 1\noutput = "2"', "[a]\ninput = true\noutput = 1",
        "[a]\ninput = 1\noutput = 2\nmore = 3", "[a]",
        "[a]\nimage = -1", "[a]\nimage = 1\ninput = 1", "currency = 5", 'currency = ""', "\x00", "[a]\n" * 3,
        f"[a]\ninput = 1\noutput = 1{'0' * 400}",
    ],
)  # fmt: skip
def test_a_table_that_is_none_is_refused_in_one_sentence(tmp_path: Path, text: str) -> None:
    file = tmp_path / "prices.toml"
    file.write_text(text)
    if text:
        with pytest.raises(InputError, match="table of prices"):
            Prices.read(file)
    else:
        assert Prices.read(file).models == {}
    for other in (tmp_path / "missing.toml", tmp_path):
        with pytest.raises(InputError, match="table of prices"):
            Prices.read(other)
