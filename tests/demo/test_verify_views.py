"""The views of a candidate: text stays text, and blind mode says nothing that could sway an annotator."""

from __future__ import annotations

import base64
import io
import re

import pytest
from PIL import Image
from support.claims import SIZE, analysed, claimed, picture
from support.markup import HOSTILE, safe

from refiner.demo.views.verify import claim_card, finished, progress_bar, refused
from refiner.demo.views.verify import picture as shown
from refiner.types import Claim
from refiner.verify.candidates import Candidate, Flaw, Look, flaws_of_analysis
from refiner.verify.judgements import Answer
from refiner.verify.verification import Progress

SECRETS = ("critic-7b", "sdxl-turbo", "0.7", "70", "50%", "ben", "accepted", "Severity", "Confidence")


def look(*regions, **more) -> Look:
    usual = {"name": "sdxl-turbo/1_fake/a.png", "group": "sdxl-turbo", "size": SIZE, "detector": "critic-7b",
             "flaws": flaws_of_analysis(analysed(*regions)), "read": lambda: picture(0)}  # fmt: skip
    return Look(**{**usual, **more})


def candidates(*regions, **more) -> list[tuple[Look, Candidate]]:
    found = look(*regions, **more)
    return [(found, candidate) for candidate in found.candidates()]


@pytest.mark.parametrize("number", [0, 1, 2])
def test_all_text_stays_text(number):
    (one,) = candidates(claimed(number, HOSTILE), name=HOSTILE, detector=HOSTILE)
    card = safe(claim_card(*one, {HOSTILE: Answer.REJECT}))
    assert card.text.count(HOSTILE) == 6
    safe(shown(*one))
    for html in (progress_bar(Progress(1, 2, 1), HOSTILE, HOSTILE), finished({}, {"x": HOSTILE}, HOSTILE)):
        assert safe(html).text.count(HOSTILE) == 2
    assert HOSTILE in safe(refused(HOSTILE)).text


def test_endless_text_is_cut():
    (one,) = candidates(claimed(1, "x" * 10**6))
    assert len(claim_card(*one, {})) < 20_000


def test_everything_is_told_to_those_who_may_know():
    (one,) = candidates(claimed(6))
    card = safe(claim_card(*one, {"ben": Answer.ACCEPT}))
    for words in ("the part 6", "it is odd in way 6", "it should be even", "Severity: 0.70", "Confidence: 50%",
                  "critic-7b", "sdxl-turbo/1_fake/a.png", "ben: accepted"):  # fmt: skip
        assert words in card.text
    assert card.all("article")[0]["data-candidate"] == one[1].id


def test_blind_mode_tells_nothing_but_the_claim():
    (one,) = candidates(claimed(6))
    html = claim_card(*one, None)
    assert "the part 6" in html
    assert not [secret for secret in SECRETS if secret in html.replace(one[1].id, "")]
    (louder,) = candidates(type(claimed(6))(**{**vars(claimed(6)), "severity": 0.1, "score": 1.0}), detector="other")
    assert claim_card(*louder, None) == html
    assert shown(*louder) == shown(*one)


def decoded(html: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(re.search(r"base64,([^\"]+)", html)[1])))


def test_the_region_is_outlined_whatever_is_known_of_its_place():
    by_mask, by_box, unplaced = (shown(*one) for one in candidates(claimed(0), claimed(1), claimed(2)))
    assert [path["d"][0] for path in safe(by_mask).all("path")] == ["M", "M"]
    assert {path["d"] for path in safe(by_box).all("path")} == {"M2 3H30V20H2Z"}
    assert not safe(unplaced).all("path")
    assert safe(by_box).all("svg")[0]["viewbox"] == "0 0 60 40"


def test_large_images_are_sent_small_enough_and_small_ones_large_enough():
    large = look(size=(3000, 2000), flaws=(), read=lambda: Image.new("RGB", (2000, 3000)))
    candidate = Candidate(id="0", number=1, flaw=candidates(claimed(2))[0][1].flaw)
    assert decoded(shown(large, candidate)).size == (683, 1024)
    assert max(decoded(shown(*candidates(claimed(2))[0])).size) >= 512


@pytest.mark.parametrize("box", [None, (2, 3, 30, 20)])
def test_a_claim_without_words_still_asks_something(box):
    found = look(flaws=(Flaw(Claim(box=box)),))
    card = safe(claim_card(found, *found.candidates(), {}))
    assert "There is a flaw." in card.text
    assert ("Place: not known" in card.text) == (box is None)
    assert "Severity" not in card.text


def test_progress_and_end():
    assert "120 of 200" in safe(progress_bar(Progress(120, 200, 0), "anna")).text
    assert safe(progress_bar(Progress(120, 200, 0), "anna")).all("i")[0]["style"] == "width:60.0%"
    said = finished({"a": Answer.ACCEPT, "b": Answer.ACCEPT, "c": Answer.UNSURE}, {}, "Next.")
    assert "2 accepted, 0 rejected, 1 unsure." in safe(said).text
