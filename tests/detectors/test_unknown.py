"""What is not known never becomes a number: "no flaws" in other words is no region, and a wild box is no place.

Both hold in every grammar of answers.
"""

import json

import pytest
from PIL import Image

from refiner.detectors.aligngemini import grammar as aligngemini
from refiner.detectors.aligngemini.semantic import SemanticDetector
from refiner.detectors.anomreason import answers, grammar
from refiner.detectors.anomreason.grammar import Anomaly
from refiner.detectors.anomreason.work import Issue
from refiner.detectors.chat.backend import ChatReply, Ledger
from refiner.detectors.fakexplain.detector import FakexplainDetector
from refiner.detectors.fakexplain.grammar import DIALECTS
from refiner.detectors.fakexplain.grammar import read as read_fakexplain
from refiner.detectors.grounding.base import BoxGrounder
from refiner.detectors.grounding.inside import SLACK, inside
from refiner.detectors.joint import JointDetector
from refiner.detectors.legion.grammar import parse
from refiner.detectors.reading.boxes import BoxFormat, full_sides
from refiner.detectors.reading.nothing import says_nothing
from refiner.detectors.reading.regions import read_regions
from refiner.detectors.vlm.detector import VlmDetector
from refiner.errors import UnreadableOutputError
from refiner.types import Size

SIZE = Size(400, 500)
FORMS = [BoxFormat(scale=scale, order=order) for scale in ("unit", "thousand", "pixels") for order in ("xyxy", "yxyx")]
STATEMENTS = [
    "No flaws detected", "no flaws", "No flaw.", "No artifacts", "No artefacts found", "no defects, no artifacts",
    "No visible artifacts or anomalies were detected in the image.", "No obvious defects are visible",
    "No noticeable AI artifacts found", "No anomalies. The image looks natural.", "No issues identified.",
    "No significant anomalies observed; the scene is realistic and consistent", "No other flaws detected",
    "no anomalies to report", "There are no flaws", "I see no flaws in this picture", "The picture has no flaws",
    "There is nothing wrong with the image", "nothing wrong", "Nothing unusual detected", "None detected",
    "image looks clean", "The image looks clean.", "The image appears to be completely free of artifacts",
    "Everything looks fine", "the image is flawless", "flaw-free image", "Artifact-free image", "clean image",
    "all clear", "CLEAN", "No flawed regions detected",
]  # fmt: skip
FLAWS = [
    "no thumb on the left hand", "no reflection in the mirror", "no shadow", "No shadow is visible", "no face visible",
    "nothing supports the cup", "nothing holds the lamp", "nothing in the cup", "none of the fingers has a nail",
    "no visible pupils", "no windows in the picture", "no eyes are visible in the image", "there is no left eye",
    "no fewer than six fingers", "without fingers", "no text on the sign", "a clean cut through the arm",
    "a clean edge", "not clean", "The image looks blurry", "the image is not normal", "the image is unnatural",
    "Everything looks melted", "no flaws except the sixth finger", "There are flaws", "flaws",
    "no issue with the face, but the hand has six fingers",
    "No flaws in the background. The hand has six fingers.", "no artifacts in the background, the hand is melted",
    "errors", "missing eye", "nothing wrong with the face but six fingers",
]  # fmt: skip


@pytest.mark.parametrize("text", STATEMENTS)
def test_statements_that_there_is_no_flaw(text):
    assert says_nothing(text)


@pytest.mark.parametrize("text", [*FLAWS, "", "no " * 200, "the image looks very " * 14])
def test_what_may_be_a_flaw_is_no_such_statement(text):
    assert not says_nothing(text)


def entry(name, explanation, **more):
    return {"name": name, "location": "", "explanation": explanation, "reasoning": "", "category": "shape", **more}


def names(*entries):
    return [claim.name for claim in read_regions(json.dumps({"regions": list(entries)}), SIZE)]


HAND = entry("hand", "six fingers", severity=0.8, box=[10, 20, 300, 400])


@pytest.mark.parametrize("text", STATEMENTS)
@pytest.mark.parametrize(
    "more",
    [
        {},
        {"severity": 0},
        {"severity": 0, "box": [0, 0, 0, 0]},
        {"severity": 0, "box": [0, 0, 1000, 1000]},
        {"box": []},
    ],
)
def test_a_list_with_a_statement_alone_is_clean_and_beside_a_flaw_it_is_nothing(text, more):
    for told in (entry(text, "", **more), entry("none", text, **more), entry(text, text, **more)):
        assert names(told) == []
        assert names(HAND, told) == names(told, HAND) == ["hand"]


@pytest.mark.parametrize("text", FLAWS)
def test_a_list_with_a_flaw_of_missing_things_keeps_it(text):
    for told in (entry(text, ""), entry("hand", text), entry("none", text), entry(text, "none", severity=0.4)):
        assert len(names(told)) == 1


@pytest.mark.parametrize(
    "told",
    [
        entry("No flaws", "", severity=0.7),
        entry("No flaws", "", box=[1, 2, 300, 400]),
        entry("No flaws", "The hand has six fingers"),
        entry("none", ""),
        entry("none", "n/a", box=None),
    ],
)
def test_a_statement_that_something_speaks_against_is_unreadable_and_never_clean(told):
    with pytest.raises(UnreadableOutputError):
        names(told)
    assert names(HAND, told) == ["hand"]


@pytest.mark.parametrize("box", [[0, 0, 0, 0], [5, 5, 5, 900], [], None, ""])
def test_severity_0_with_an_empty_box_is_no_region(box):
    assert names(entry("hand", "it looks right", severity=0, box=box)) == []
    assert names(entry("hand", "it looks right", severity=0.1, box=box)) == ["hand"]
    assert names(entry("hand", "it looks right", severity=0, box=[1, 2, 300, 400])) == ["hand"]


def test_a_flaw_in_another_list_is_never_hidden_by_a_statement():
    flaws = [{"name": "hand", "explanation": "six fingers"}]
    with pytest.raises(UnreadableOutputError):
        read_regions(json.dumps({"regions": [entry("No flaws", "")], "seen": flaws}), SIZE)


def fakexplain(name, *lines):
    dialect = DIALECTS[name]
    if dialect.opening:
        end = dialect.middle[: dialect.middle.index(">") + 1]
        thoughts = "".join(f"{dialect.opening}{line}{end}" for line in lines)
    else:
        thoughts = "".join(f"\n- {line}" for line in lines)
    tags = "" if dialect.tags_inside else "<tag>none</tag>"
    text = f"<think>{thoughts}</think>{tags}<verdict>{dialect.fake}</verdict>"
    return [flaw.description for flaw in read_fakexplain(text, dialect, form=FORMS[0], shown=SIZE).flaws]


def semantic(*lines):
    text = "".join(["fake", *(f"\n- {line}" for line in lines)])
    return [flaw.description for flaw in aligngemini.read(text, form=FORMS[0], shown=SIZE).flaws]


@pytest.mark.parametrize("text", STATEMENTS)
def test_answers_in_lines_have_no_flaw_of_a_statement(text):
    for name in DIALECTS:
        assert fakexplain(name, text) == []
        assert fakexplain(name, text, "six fingers") == ["six fingers"]
    assert semantic(text) == []
    assert semantic(text, "six fingers") == ["six fingers"]
    assert aligngemini.read(f"fake. {text}", form=FORMS[0], shown=SIZE).flaws == ()


@pytest.mark.parametrize("text", FLAWS)
def test_answers_in_lines_keep_flaws_of_missing_things(text):
    for name in DIALECTS:
        assert fakexplain(name, text) == [text.strip(" :-")]
    assert semantic(text) == [text.strip(" :-")]


def anomalies(*told):
    items = (f"@{number}. Name: {name}\nObserved Phenomenon: {phenomenon}\nReasoning: so.\nSeverity Score: {score}"
             for number, (name, phenomenon, score) in enumerate(told, start=1))  # fmt: skip
    found = grammar.read("\n\n".join(items), form=FORMS[0], shown=SIZE)
    return [anomaly.name for anomaly in found]


@pytest.mark.parametrize("text", STATEMENTS)
def test_anomreasons_lists_have_no_anomaly_of_a_statement(text):
    assert anomalies((text, text, 100)) == anomalies((text, "none", 100)) == []
    assert anomalies((text, "none", 100), ("The hand", "Six fingers.", 10)) == ["The hand"]
    with pytest.raises(UnreadableOutputError, match="with a severity"):
        anomalies((text, text, 40))
    issues = json.dumps({"issues": [{"name": text, "observed_phenomenon": "", "reasoning": ""}]})
    assert answers.read_issues(issues, "hand") == []


@pytest.mark.parametrize("text", FLAWS)
def test_anomreasons_lists_keep_flaws_of_missing_things(text):
    assert anomalies((text, text, 40)) == anomalies((text, "none", 100)) == [text]
    issues = json.dumps({"issues": [{"name": text, "observed_phenomenon": "", "reasoning": ""}]})
    assert answers.read_issues(issues, "hand")[0].name == text


def test_legions_phrases_have_no_claim_of_a_statement():
    clean, hand = "<p> no artifacts </p> [SEG]:none.", "<p> the hand </p> [SEG]:six fingers."
    (claim,) = parse(f"{clean}{hand}")
    assert (claim.name, claim.marks) == ("the hand", (1,))
    with pytest.raises(UnreadableOutputError, match="no artifact"):
        parse(clean)


class CutShort:
    """A chat model that writes its answers in turn, cut off at the limit of their tokens or not."""

    name, max_side, ledger = "script", 512, Ledger()

    def __init__(self, *texts, finish="length"):
        self.texts, self.finish = list(texts), finish

    def complete(self, requests):
        text, *rest = self.texts
        self.texts = [*rest, text]
        reply = ChatReply(text=text, finish=self.finish, prompt_tokens=1, completion_tokens=1)
        return [reply] * len(requests)


LISTED = '{"regions": [{"name": "hand", "explanation": "six fingers", "box": [0.1, 0.2, 0.3, 0.4]}, {"na'
VERDICT = '{"verdicts": [{"item": 1, "verdict": "present", "probability_of_flaw": 0.9}]}'
FAKE = "<think>\n- hand [0.1, 0.2, 0.3, 0.4]\n</think>\n<tag>none</tag>\n<verdict>fake</verdict>"
DETECTORS = {
    "vlm": lambda **options: VlmDetector(CutShort(LISTED, VERDICT, **options), grounder=BoxGrounder()),
    "vlm, one step": lambda **options: VlmDetector(CutShort(LISTED, **options), grounder=BoxGrounder(), two_step=False),
    "fakexplain": lambda **options: FakexplainDetector(CutShort(FAKE, **options), grounder=BoxGrounder()),
    "aligngemini": lambda **options: SemanticDetector(
        CutShort("fake\n- hand [0.1, 0.2, 0.3, 0.4]\n- the", **options),
        grounder=BoxGrounder(),
        boxes=FORMS[0],
    ),
}


@pytest.mark.parametrize("name", DETECTORS)
@pytest.mark.parametrize("finish", ["length", "stop"])
def test_an_answer_that_ended_at_the_limit_says_so(name, finish):
    image = Image.new("RGB", (80, 60))
    analysis = DETECTORS[name](finish=finish)(image)
    assert analysis.regions[0].placed
    assert analysis.gaps == (("cut_short",) if finish == "length" else ())
    assert JointDetector([DETECTORS[name](finish=finish)] * 2)(image).gaps == analysis.gaps


def test_a_little_outside_is_clipped_and_more_is_no_place():
    for unit in (1.0, 1000.0):
        sides = unit, 2 * unit
        for edge, wild in ((-SLACK, -SLACK - 1e-6), (1 + SLACK, 1 + SLACK + 1e-6)):
            for point, border in (((edge * sides[0], unit), 0), ((unit / 2, edge * sides[1]), 1)):
                clipped = inside((*point, *point), sides)
                assert clipped[border] == clipped[border + 2] == (0 if edge < 0 else sides[border])
                assert clipped[1 - border] == point[1 - border]
            assert inside((wild * sides[0], 0), sides) is None
            assert inside((0, 0, 0, wild * sides[1]), sides) is None
    assert inside((float("nan"), 0), (1, 1)) is None


def placed(form, corners, size):
    """The boxes that each grammar reads from the same corners, in shares of the sides; None where it has no place."""
    width, height = full_sides(form.scale, size)
    x0, y0, x1, y1 = (round(share * side, 3) for share, side in zip(corners, (width, height) * 2, strict=True))
    told = [y0, x0, y1, x1] if form.order == "yxyx" else [x0, y0, x1, y1]
    listed = json.dumps([{"name": "hand", "box": told}])
    text = f"<think>\n- hand {told}\n</think><tag>none</tag><verdict>fake</verdict>"
    item = f"@1. Name: a\nObserved Phenomenon: b\nReasoning: c\nSeverity Score: 9\nBox: {told}"
    final = json.dumps({"anomalies": [{"item": 1, "severity_score": 9, answers.box_key(form): told}]})
    issue = Issue(thing="a", name="b", phenomenon="c", reasoning="d")
    claim = answers.read_final(final, [issue], size=size, form=form, shown=size).claims[0]
    (flaw,) = read_fakexplain(text, DIALECTS["paper"], form=form, shown=size).flaws
    (reason,) = aligngemini.read(f"fake\n- hand {told}", form=form, shown=size).flaws
    (anomaly,) = grammar.read(item, form=form, shown=size)
    shares = [Anomaly("", "", "", 0, flaw.box), Anomaly("", "", "", 0, reason.box), anomaly]
    return [read_regions(listed, size, boxes=form)[0].box, claim.box, *(one.claim(size).box for one in shares)]


@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize(
    ("corners", "expected"),
    [
        ((0.1, 0.25, 0.5, 0.75), (0.1, 0.25, 0.5, 0.75)),
        ((0.1, 0.25, 0.5, 1.04), (0.1, 0.25, 0.5, 1)),
        ((-0.03, 0.25, 1.049, 0.75), (0, 0.25, 1, 0.75)),
        ((0.1, -0.049, 0.5, 0.75), (0.1, 0, 0.5, 0.75)),
        ((0.1, 0.25, 0.5, 1.06), None),
        ((-0.06, 0.25, 0.5, 0.75), None),
        ((0.1, 0.25, 1.2, 0.75), None),
        ((1.01, 0.25, 1.04, 0.75), None),
        ((0.3, 0.25, 0.3, 0.75), None),
    ],
)
def test_one_rule_for_boxes_in_every_grammar(form, corners, expected):
    """Pixels are those of a large image, where no other unit fits."""
    size = Size(1600, 2000) if form.scale == "pixels" else SIZE
    box = expected and tuple(round(e * side) for e, side in zip(expected, (size.width, size.height) * 2, strict=True))
    assert placed(form, corners, size) == [box] * 5
