"""Profiles of released critics: a wall of answers in each form, the files, and the detector behind a real server."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from support.chat_servers import ScriptedServer, settle_environment

from refiner.detectors import load_detector
from refiner.detectors.registry import detector_needs
from refiner.detectors.vlm.answering import WHOLE, Told, read_answer
from refiner.detectors.vlm.profile import Profile, bundled_profiles, read_profile
from refiner.detectors.vlm.profiled import within_pixels
from refiner.errors import ConfigError, InputError, UnreadableOutputError
from refiner.protocols import Deciding
from refiner.taxonomy import Category
from refiner.types import Claim, Size

SIZE, SHOWN = Size(100, 200), Size(300, 600)
PICTURE = Image.new("RGB", (200, 100), (90, 90, 90))
Load = Callable[..., tuple[Any, ScriptedServer]]


@pytest.fixture
def ask(tmp_path: Path) -> Path:
    """An instruction in the user's own file."""
    file = tmp_path / "instruction.txt"
    file.write_text("Find defects. Prompt: {prompt}. {Braces} stay.")
    return file


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Iterator[Load]:
    settle_environment(monkeypatch)
    servers = []

    def start(answer: str, options: str) -> tuple[Any, ScriptedServer]:
        servers.append(ScriptedServer(lambda _: answer))
        return load_detector(f"vlm:m@{servers[-1].url},attempts=1,grounder=box,{options}"), servers[-1]

    yield start
    for server in servers:
        server.stop()


def profile(name: str, ask: Path | None = None) -> Profile:
    return read_profile(name, ask)


def told(text: str, chosen: Profile) -> Told:
    return read_answer(text, chosen, SIZE, SHOWN)


def sdg(*entries: object, think: str = "Let me see.") -> str:
    return f"<think>{think}</think><answer>{json.dumps(list(entries))}</answer>"


PAW = {"box_2d": [100, 200, 300, 500], "label": "artifact", "description": "The paw has six toes.", "importance": 45}
CUPS = {"box_2d": [0, 0, 1000, 1000], "label": "misalignment", "description": "There is one cup, not two."}


def test_sdg_lists_defects_with_boxes_labels_and_importance(ask: Path) -> None:
    paw, cups = told(sdg(PAW, CUPS), profile("sdg", ask)).claims
    assert paw.box == (20, 20, 60, 50)
    assert (paw.explanation, paw.severity) == ("The paw has six toes.", 0.45)
    assert paw.category is not Category.MISALIGNMENT
    assert (cups.box, cups.category, cups.severity) == ((0, 0, 200, 100), Category.MISALIGNMENT, None)


CLEAN_SDG = ["<think>fine</think><answer>[]</answer>", "<answer>\n[]\n</answer>", "<answer>```json\n[]\n```</answer>"]


@pytest.mark.parametrize("text", CLEAN_SDG)
def test_an_empty_list_of_sdg_is_clean(ask: Path, text: str) -> None:
    assert told(text, profile("sdg", ask)) == Told((), None)


UNREADABLE_SDG = [
    "", "[]", "no defects", "<answer></answer>", "<answer>none</answer>", "<answer>[", "<answer>[{",
    "<answer>{}</answer>", '<answer>{"regions": []}</answer>', "<answer>[1, 2]</answer>", "<answer>[{}]</answer>",
    "<answer>[],[]</answer>", '<answer>[{"label": "artifact"}]</answer>', "<think>a<answer>[]</answer>",
    "<answer>[,]</answer>", '<answer>[{"description": "a paw", "box_2d": [1, 2', "<answer>[[]]</answer>",
    "<answer>['x']</answer>",
]  # fmt: skip


@pytest.mark.parametrize("text", UNREADABLE_SDG)
def test_what_is_no_list_of_sdg_is_unreadable_and_never_clean(ask: Path, text: str) -> None:
    with pytest.raises(UnreadableOutputError) as caught:
        told(text, profile("sdg", ask))
    assert caught.value.raw == text


def test_complete_defects_before_a_cut_are_kept(ask: Path) -> None:
    text = sdg(PAW, CUPS)[: -len('"}]</answer>') - 20]
    assert [claim.box for claim in told(text, profile("sdg", ask)).claims] == [(20, 20, 60, 50)]


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ({"importance": 0}, 0.0), ({"importance": 100}, 1.0), ({"importance": "70"}, 0.7), ({"importance": 101}, None),
        ({"importance": -1}, None), ({"importance": True}, None), ({"importance": "high"}, None),
        ({"importance": None}, None), ({"importance": 1e300}, None), ({"importance": float("nan")}, None),
    ],
)  # fmt: skip
def test_an_importance_off_its_scale_is_not_known(ask: Path, entry: dict[str, Any], expected: float | None) -> None:
    (claim,) = told(sdg(PAW | entry), profile("sdg", ask)).claims
    assert claim.severity == expected


@pytest.mark.parametrize(
    "box", [[100, 200], [100, 200, 100, 500], [0, 0, 5000, 5000], "there", None, [float("inf")] * 4, {}]
)
def test_a_box_that_is_none_leaves_the_defect_unplaced(ask: Path, box: object) -> None:
    (claim,) = told(sdg(PAW | {"box_2d": box}), profile("sdg", ask)).claims
    assert claim.box is None


@pytest.mark.parametrize("label", ["Misalignment", "MISALIGNMENT", "misalignment"])
def test_labels_are_read_whatever_their_case(ask: Path, label: str) -> None:
    (claim,) = told(sdg(PAW | {"label": label}), profile("sdg", ask)).claims
    assert claim.category is Category.MISALIGNMENT


def test_an_unknown_label_keeps_the_defect(ask: Path) -> None:
    (claim,) = told(sdg(PAW | {"label": "weird", "description": "the shadow is wrong"}), profile("sdg", ask)).claims
    assert claim.category is Category.OPTICS


@pytest.mark.parametrize(
    ("text", "fake", "reasons"),
    [
        ("This is a fake image. The hand has six fingers.", 1.0, "The hand has six fingers."),
        ("This is a real image. Light and shadow fit.", 0.0, None),
        ("fake", 1.0, "fake"), ("REAL!", 0.0, None),
        ("<think>perhaps real</think>The image looks fake.\nIts text is garbled", 1.0, "Its text is garbled"),
    ],
)  # fmt: skip
def test_fakeclue_gives_a_verdict_and_its_reasons(text: str, fake: float, reasons: str | None) -> None:
    found = told(text, profile("fakeclue"))
    assert found.fake == fake
    assert [(claim.name, claim.explanation) for claim in found.claims] == (
        [] if reasons is None else [(WHOLE, reasons)]
    )


@pytest.mark.parametrize(
    "text",
    ["", "I cannot tell.", "real or fake?", "This is not a real image.", "It isn't fake.", "<think>fake", "realistic",
     "[]", "A photo. It is fake.", "No fake."],
)  # fmt: skip
def test_what_is_no_clear_verdict_is_unreadable(text: str) -> None:
    with pytest.raises(UnreadableOutputError):
        told(text, profile("fakeclue"))


def test_our_own_profile_reads_what_it_asks_for() -> None:
    flaw = {"name": "the hand", "explanation": "six fingers", "reasoning": "a hand has five", "category": "anatomy",
            "severity": 0.8, "box": [100, 200, 300, 500]}  # fmt: skip
    (claim,) = told(json.dumps({"regions": [flaw]}), profile("refiner")).claims
    assert claim == Claim(
        name="the hand", explanation="six fingers", reasoning="a hand has five", category=Category.ANATOMY,
        severity=0.8, box=(20, 20, 60, 50),
    )  # fmt: skip
    assert told('{"regions": []}', profile("refiner")) == Told((), None)
    for text in ("[]", "{}", '{"regions": null}', '{"other": []}', '{"regions": [}'):
        with pytest.raises(UnreadableOutputError):
            told(text, profile("refiner"))


OWN = """
instruction = "Look."
[answer]
list = "found"
[fields]
name = "what"
box = "where"
score = "sure"
severity = "realism"
[boxes]
scale = "{scale}"
order = "{order}"
[severity]
worst = 0
none = 100
"""


@pytest.mark.parametrize(
    ("scale", "order", "numbers"),
    [
        ("thousand", "xyxy", [100, 200, 300, 500]), ("thousand", "yxyx", [200, 100, 500, 300]),
        ("unit", "xyxy", [0.1, 0.2, 0.3, 0.5]), ("unit", "yxyx", [0.2, 0.1, 0.5, 0.3]),
        ("pixels", "xyxy", [60, 60, 180, 150]), ("pixels", "yxyx", [60, 60, 150, 180]),
    ],
)  # fmt: skip
def test_boxes_of_every_scale_and_order_are_the_same_place(
    tmp_path: Path, scale: str, order: str, numbers: list[float]
) -> None:
    (tmp_path / "own.toml").write_text(OWN.format(scale=scale, order=order))
    own = read_profile(tmp_path / "own.toml")
    (claim,) = told(
        json.dumps({"found": [{"what": "a cup", "where": numbers, "realism": 30, "sure": 0.9}]}), own
    ).claims
    assert (claim.box, claim.severity, claim.score) == ((20, 20, 60, 50), 0.7, 0.9)


def test_paths_are_relative_to_the_profile_and_the_users_file_counts_more(tmp_path: Path, ask: Path) -> None:
    (tmp_path / "text.txt").write_text(" Look at it.\n", encoding="utf-16")
    (tmp_path / "own.toml").write_text('instruction_file = "text.txt"')
    assert read_profile(tmp_path / "own.toml").instruction == "Look at it."
    assert read_profile(tmp_path / "own.toml", ask).instruction == ask.read_text()


def test_a_name_tells_profiles_apart_without_their_folder(tmp_path: Path, ask: Path) -> None:
    (tmp_path / "own.toml").write_text('instruction = "Look."')
    own, again = (read_profile(tmp_path / "own.toml").version for _ in range(2))
    assert own == again
    assert own.startswith("own ")
    assert read_profile(tmp_path / "own.toml", ask).version != own


BROKEN = {
    "no TOML": "instruction = ",
    "maximum recursion": "a = " + "[" * 100_000,
    "4300 digits": f"max_tokens = {'9' * 6000}",
    "from -1000000 to 1000000": 'instruction = "x"\n[severity]\nworst = inf',
    "severity.none must be": f'instruction = "x"\n[severity]\nnone = {"9" * 400}',
    "worst and severity.none must be": 'instruction = "x"\n[severity]\nworst = nan',
    "unknown key bloc": 'instruction = "x"\nbloc = "answer"',
    "write block": 'instruction = "x"\n[answer]\nblok = "answer"',
    "must be a table": 'instruction = "x"\nanswer = "list"',
    "wrong type": "instruction = 5",
    "max_tokens has the wrong type": 'instruction = "x"\nmax_tokens = true',
    "answer.form must be": 'instruction = "x"\n[answer]\nform = "poem"',
    "name of an element": 'instruction = "x"\n[answer]\nblock = "<answer>"',
    "unknown key fields.colour": 'instruction = "x"\n[fields]\ncolour = "c"',
    "BoxFormat.order": 'instruction = "x"\n[boxes]\norder = "zyx"',
    "category of odd": 'instruction = "x"\n[categories]\nodd = "weird"',
    "must differ": 'instruction = "x"\n[severity]\nworst = 1\nnone = 1',
    "no word in common": 'instruction = "x"\n[verdict]\nfake = ["a"]\nreal = ["a"]',
    "each have a word": 'instruction = "x"\n[verdict]\nfake = []\nreal = ["a"]',
    "least_pixels": 'instruction = "x"\n[image]\nleast_pixels = 10\nmost_pixels = 5',
    "has no instruction": "max_tokens = 5",
    "cannot be read": 'instruction_file = "lost.txt"',
    "must have {prompt}": 'instruction = "x"\nneeds_prompt = true',
    "max_tokens must be": 'instruction = "x"\nmax_tokens = 0',
}


@pytest.mark.parametrize("words", BROKEN)
def test_a_file_that_cannot_be_used_is_refused_before_anything_is_loaded(tmp_path: Path, words: str) -> None:
    (tmp_path / "own.toml").write_text(BROKEN[words])
    for refuse in (load_detector, detector_needs):
        with pytest.raises(ConfigError) as caught:
            refuse(f"vlm:no/such-model,profile={tmp_path / 'own.toml'}")
        assert words in str(caught.value)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("profile=nobody", "fakeclue, refiner, sdg"), ("profile=sdg", "instruction=FILE"),
        ("instruction=x.txt", "profile=NAME"), ("profile=refiner,boxes=unit", "remove boxes=unit"),
        ("profile=refiner,instruction=/no/such", "cannot be read"),
    ],
)  # fmt: skip
def test_options_that_do_not_fit_are_refused(options: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_detector(f"vlm:no/such-model,{options}")
    assert words in str(caught.value)


def test_a_huge_file_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "own.toml").write_bytes(b"#" * 2_000_000)
    with pytest.raises(ConfigError, match="more than 1000000 bytes"):
        read_profile(tmp_path / "own.toml")


def test_every_bundled_profile_is_whole(ask: Path) -> None:
    assert bundled_profiles() == ["fakeclue", "refiner", "sdg"]
    for name in bundled_profiles():
        assert read_profile(name, ask).instruction


def test_the_detector_asks_with_the_prompt_and_draws_the_boxes(load: Load, ask: Path) -> None:
    detector, server = load(sdg(PAW, CUPS), f"profile=sdg,instruction={ask}")
    analysis = detector(PICTURE, "two cups\nand a dog")
    assert server.asked == ["Find defects. Prompt: two cups and a dog. {Braces} stay."]
    assert [region.box for region in analysis.regions] == [(20, 20, 60, 50), (0, 0, 200, 100)]
    assert "profile sdg" in analysis.detector
    assert analysis.fake_probability is None
    with pytest.raises(InputError, match="needs the prompt"):
        detector(PICTURE)
    (missing,) = detector.outcomes([PICTURE])
    assert isinstance(missing, InputError)
    assert len(server.asked) == 1


def test_a_verdict_is_a_probability_and_an_unplaced_region(load: Load) -> None:
    detector, _ = load("This is a fake image. The shadow is wrong.", "profile=fakeclue")
    assert isinstance(detector, Deciding)
    assert detector.decides
    (region,) = (analysis := detector(PICTURE)).regions
    assert (analysis.fake_probability, region.placed, region.category) == (1.0, False, Category.OPTICS)


def test_a_profile_runs_a_model_on_this_machine(tmp_path: Path) -> None:
    from support.tiny_chat_models import save_teller

    from refiner.detectors.chat.backend import ChatRequest

    chosen = read_profile("fakeclue")
    image = Image.new("RGB", (96, 96), (200, 30, 30))
    question = ChatRequest(user=chosen.instruction, images=(image,))
    save_teller(tmp_path, ["This is a fake image. Its edge is jagged."], [question])
    analysis = load_detector(f"vlm:{tmp_path},profile=fakeclue", device="cpu", grounder="box")(image)
    assert (analysis.fake_probability, analysis.regions[0].explanation) == (1.0, "Its edge is jagged.")


@pytest.mark.parametrize(
    ("size", "pixels"),
    [((100, 100), 10_000), ((10, 10), 2500), ((400, 200), 40_000), ((10, 1000), 10_000), ((1, 1), 2500)],
)
def test_images_are_scaled_into_the_limits_in_their_proportions(size: tuple[int, int], pixels: int) -> None:
    limits = Profile(name="p", instruction="x", least_pixels=2500, most_pixels=40_000)
    shown = within_pixels(Image.new("RGB", size), limits, 1000)
    assert shown.width * shown.height == pytest.approx(pixels, rel=0.05)
    assert shown.width / shown.height == pytest.approx(size[0] / size[1], rel=0.05)
    assert max(within_pixels(Image.new("RGB", (1000, 1)), limits, 1000).size) == 1000


@pytest.mark.parametrize("name", ["sdg", "fakeclue", "refiner"])
@pytest.mark.parametrize("seed", range(5))
def test_any_text_is_read_or_refused_in_linear_time(ask: Path, name: str, seed: int) -> None:
    rng = random.Random(seed)
    pieces = ["<answer>", "</answer>", "<think>", "</think>", "[", "]", "{", "}", '"description":', '"box_2d":', "1,",
              "real", "fake.", '"regions":', "\\", '"', "\u202e", "é", " "]  # fmt: skip
    text = "".join(rng.choices(pieces, k=60_000))
    began = time.process_time()
    try:
        found = told(text, profile(name, ask if name == "sdg" else None))
    except UnreadableOutputError:
        pass
    else:
        assert found.claims or found.fake == 0.0
    assert time.process_time() - began < 5
