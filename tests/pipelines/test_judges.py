"""Judges: CLIP against the forward pass of transformers, a detector's burden, ids, and several judges in the loop."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from zlib import crc32

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch")

from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPTokenizer  # noqa: E402

from refiner.answers import score_outcomes, value_of  # noqa: E402
from refiner.detectors.scripted import ScriptedDetector  # noqa: E402
from refiner.errors import (  # noqa: E402
    ConfigError,
    ModelError,
    ModelNotFoundError,
    RefinerError,
    RefinerWarning,
    UnreadableOutputError,
    WeightsError,
)
from refiner.pipelines import Parts, RefineConfig, RefinedPipeline, TemplateReviser, refine  # noqa: E402
from refiner.pipelines.judges import (  # noqa: E402
    BurdenJudge,
    ClipJudge,
    JointJudge,
    RealnessJudge,
    judges_of,
    load_judge,
)
from refiner.protocols import InpaintJob, Judge, PaintJob, Streaming  # noqa: E402
from refiner.taxonomy import Category  # noqa: E402
from refiner.types import Analysis, Calls, RefinementResult, Region, Size  # noqa: E402

torch.set_num_threads(1)
PROMPT = "a red hand left of a green clock"
SIZE = Size(32, 48)
PROMPTS = ["a red hand", "a green clock on a wall", "a red hand", "x" * 300]


def picture(seed: int, size: tuple[int, int] = (48, 32)) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


PICTURES = [picture(0), picture(1, (20, 70)), picture(2), picture(3)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP model with a few thousand random weights."""
    torch.manual_seed(0)
    home = tmp_path_factory.mktemp("clip")
    letters = [chr(code) for code in range(33, 127)]
    words = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{letter}</w>" for letter in letters)]
    shared = {"hidden_size": 32, "intermediate_size": 37, "num_hidden_layers": 2, "num_attention_heads": 4}
    text = {**shared, "vocab_size": len(words), "max_position_embeddings": 16, "bos_token_id": 0, "eos_token_id": 1}
    vision = {**shared, "image_size": 16, "patch_size": 8}
    tokenizer = CLIPTokenizer(vocab={word: n for n, word in enumerate(words)}, merges=[], model_max_length=16)
    images = CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=24)).save_pretrained(home)
    CLIPProcessor(images, tokenizer).save_pretrained(home)
    return home


@pytest.fixture(scope="module")
def clip(folder: Path) -> ClipJudge:
    return ClipJudge.from_pretrained(folder, device="cpu")


def test_clip_scores_are_transformers_own(folder: Path, clip: ClipJudge) -> None:
    model, processor = CLIPModel.from_pretrained(folder).eval(), CLIPProcessor.from_pretrained(folder)
    for image, prompt in zip(PICTURES, PROMPTS, strict=True):
        inputs = processor(text=[prompt], images=[image], return_tensors="pt", truncation=True, max_length=16)
        with torch.no_grad():
            wanted = float(model(**inputs).logits_per_image / model.logit_scale.exp())
        assert clip.score([image], [prompt]) == pytest.approx([wanted], abs=1e-6)


def test_clip_is_a_judge_whose_batches_give_the_scores_of_single_calls(folder: Path, clip: ClipJudge) -> None:
    assert isinstance(clip, Judge)
    assert clip.name == f"clip:{folder.name}"
    assert clip.signature == f"clip|model:{folder.name}|size:16|tokens:16|dtype:float32|score:cosine"
    alone = [clip.score([image], [prompt])[0] for image, prompt in zip(PICTURES, PROMPTS, strict=True)]
    assert clip.score(PICTURES, PROMPTS) == pytest.approx(alone, abs=1e-6)
    small = ClipJudge(clip.model, clip.processor, name="small", batch_size=3)
    assert small.score(PICTURES, PROMPTS) == pytest.approx(alone, abs=1e-6)
    assert clip.score([], []) == []
    assert all(-1 <= score <= 1 for score in alone)
    with pytest.raises(ConfigError, match="one prompt for each of 2"):
        clip.score(PICTURES[:2], ["just one"])


def test_clip_reads_each_prompt_once(folder: Path) -> None:
    judge = ClipJudge.from_pretrained(folder, device="cpu")
    read: list[int] = []
    judge.model.text_model.register_forward_hook(lambda *_: read.append(1))
    first = judge.score(PICTURES, PROMPTS)
    assert judge.score(PICTURES, PROMPTS) == first
    assert len(read) == len(set(PROMPTS))
    judge.to("cpu")
    assert judge.score(PICTURES, PROMPTS) == first
    assert len(read) == 2 * len(set(PROMPTS))


def test_clip_that_gives_no_numbers_says_so(folder: Path) -> None:
    judge = ClipJudge.from_pretrained(folder, device="cpu")
    with torch.no_grad():
        judge.model.visual_projection.weight.fill_(float("nan"))
    with pytest.raises(ModelError, match=r"judge clip:.*finite scores"):
        judge.score(PICTURES[:1], PROMPTS[:1])


def test_folders_that_are_no_clip_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError):
        load_judge("clip:no such folder at all")
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    (other / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(WeightsError, match="bert"):
        load_judge(f"clip:{other}")
    short = tmp_path / "short"
    shutil.copytree(folder, short)
    data = (short / "model.safetensors").read_bytes()
    (short / "model.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(WeightsError):
        load_judge(f"clip:{short}")


def test_judges_by_their_ids(folder: Path) -> None:
    assert isinstance(load_judge(f"clip:{folder}", device="cpu"), ClipJudge)
    burden = load_judge("burden:micro", device="cpu")
    assert isinstance(burden, BurdenJudge)
    assert burden.name.startswith("burden:legion")
    assert burden.to("cpu") is burden
    assert load_judge("hps:micro", device="cpu").name.startswith("hps-micro")


def flawed(burden: float) -> Analysis:
    regions = (Region(mask=None, box=(0, 0, 4, 4), name="x", category=Category.SHAPE, severity=burden),)
    return Analysis(size=SIZE, regions=regions if burden else (), detector="d")


def test_a_burden_is_a_score_of_which_nothing_is_the_best() -> None:
    judge = BurdenJudge(ScriptedDetector([flawed(0.5), flawed(0), flawed(1)], name="d 1"))
    assert isinstance(judge, Judge)
    assert judge.name == "burden:d 1"
    assert judge.score([picture(0)] * 3, [PROMPT] * 3) == [-0.5, 0, -1]
    with pytest.raises(UnreadableOutputError):
        BurdenJudge(ScriptedDetector([UnreadableOutputError("Expected flaws, got babble.", raw="")])).score(
            [picture(0)], [PROMPT]
        )


def test_one_several_or_none() -> None:
    one, other = (BurdenJudge(ScriptedDetector([flawed(burden)], name=f"d {burden}")) for burden in (1.0, 0.5))
    both = JointJudge([one, other])
    assert isinstance(both, Judge)
    assert both.name == "burden:d 1.0 & burden:d 0.5"
    assert judges_of(None) == ()
    assert judges_of(one) == (one,)
    assert judges_of(both) == (one, other)
    assert both.score([picture(0)], [PROMPT]) == [-1.0]
    with pytest.raises(ConfigError, match="at least one judge"):
        JointJudge([])


@dataclass
class Painter:
    """Generates a new image each time, and inpaints with new noise."""

    seed: int = 0
    numbers: itertools.count = field(default_factory=itertools.count)

    def generate(self, jobs: Sequence[PaintJob]) -> list[Image.Image]:
        return [picture(1000 * self.seed + next(self.numbers)) for _ in jobs]

    def inpaint(self, jobs: Sequence[InpaintJob]) -> list[Image.Image]:
        new = [np.array(picture(1000 * self.seed + next(self.numbers))) for _ in jobs]
        for pixels, job in zip(new, jobs, strict=True):
            pixels[~job.mask] = np.asarray(job.image)[~job.mask]
        return [Image.fromarray(pixels) for pixels in new]

    def spent(self) -> Calls:
        return Calls()


@dataclass
class Taste:
    """A judge whose score is a function of the image."""

    name: str
    answer: Callable[[Image.Image], float]

    def score(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> list[float]:
        return [self.answer(image) for image in images]


def channel(number: int) -> Taste:
    return Taste(f"channel {number}", lambda image: float(np.asarray(image)[..., number].mean()))


def brightness(image: Image.Image) -> Analysis:
    return flawed(float(np.asarray(image).mean()) / 255)


def run(judge: Judge | None, seed: int = 0, **settings: object) -> RefinementResult:
    painter = Painter(seed)
    parts = Parts(
        generator=painter, inpainter=painter, detector=ScriptedDetector(brightness), judge=judge,
        reviser=TemplateReviser(),
    )  # fmt: skip
    config = RefineConfig(max_rounds=12, patience=12, min_burden_drop=1e-4, strategy="regenerate", **settings)
    return refine(parts, PROMPT, config).result


@pytest.mark.parametrize("seed", range(5))
def test_of_several_judges_none_ever_sees_a_worse_picture(seed: int) -> None:
    judges = [channel(0), channel(1), channel(2)]
    for count in (1, 2, 3):
        result = run(JointJudge(judges[:count]), seed)
        kept = [attempt for attempt in result.attempts if attempt.accepted]
        for before, after in itertools.pairwise(kept):
            assert after.analysis.burden <= before.analysis.burden
            assert [score.name for score in after.scores] == [judge.name for judge in judges[:count]]
            for old, new in zip(before.scores, after.scores, strict=True):
                assert new.value >= old.value


def test_a_judge_alone_is_one_of_one() -> None:
    def told(result: RefinementResult) -> list[object]:
        return [(attempt.accepted, attempt.reason, attempt.scores) for attempt in result.attempts]

    assert told(run(channel(0))) == told(run(JointJudge([channel(0)])))


def test_each_of_several_has_a_veto() -> None:
    against = Taste("contrary", lambda image: -float(np.asarray(image)[..., 0].mean()))
    result = run(JointJudge([channel(0), against]))
    assert result.best == 0
    darker = [attempt.reason for attempt in result.attempts[1:] if "worse for the detector" not in attempt.reason]
    assert darker
    assert all("worse for the judge" in reason for reason in darker)


@pytest.mark.parametrize("fault", [float("nan"), float("inf"), ModelError("Expected a score, got babble.")])
def test_a_judge_that_fails_accepts_nothing_and_loses_nothing(fault: float | ModelError) -> None:
    first = picture(0)

    def answer(image: Image.Image) -> float:
        if image == first:
            return 1.0
        if isinstance(fault, ModelError):
            raise fault
        return fault

    result = run(JointJudge([channel(0), Taste("broken", answer)]))
    assert (result.best, result.image) == (0, first)
    for attempt in result.attempts[1:]:
        assert not attempt.accepted
        assert attempt.image is not None
        assert "score" in attempt.error
    never = run(Taste("broken", lambda image: float("nan")))
    assert never.image == first
    assert all("finite score" in attempt.error for attempt in never.attempts)


@dataclass
class Sorted:
    """A detector that fails on dark images, one by one, and counts the images that it was asked about."""

    asked: int = 0
    name: str = "sorted"

    def __call__(self, image: Image.Image, prompt: str | None = None) -> Analysis:
        return self.batch([image])[0]

    def batch(self, images: Sequence[Image.Image], prompts: Sequence[str] | None = None) -> list[Analysis]:
        return [value_of(outcome) for outcome in self.outcomes(images, prompts)]

    def outcomes(
        self, images: Sequence[Image.Image], prompts: Sequence[str] | None = None
    ) -> list[Analysis | RefinerError]:
        self.asked += len(images)
        return [
            Analysis(size=Size(image.height, image.width), fake_probability=0.25, detector=self.name)
            if image.getbbox()
            else UnreadableOutputError("Expected a list of flaws, got babble: ask again.", "babble")
            for image in images
        ]


@pytest.mark.parametrize(("kind", "score"), [(BurdenJudge, 0.0), (RealnessJudge, 0.75)])
def test_a_detector_that_fails_on_an_image_is_not_asked_again_about_the_others(
    kind: type[BurdenJudge], score: float
) -> None:
    detector = Sorted()
    judge = kind(detector)
    assert isinstance(judge, Streaming)
    dark = Image.new("RGB", (48, 32))
    images = [PICTURES[0], dark, PICTURES[2]]
    first, failed, last = score_outcomes(judge, images, ["a hand"] * 3)
    assert (first, last, detector.asked) == (score, score, 3)
    assert isinstance(failed, UnreadableOutputError)
    assert judge.score(images[::2], ["a hand"] * 2) == [score] * 2
    with pytest.raises(UnreadableOutputError):
        judge.score(images, ["a hand"] * 3)


def test_the_loop_asks_a_detector_that_judges_once_about_each_image() -> None:
    """Also if it fails on one of the candidates that are judged together."""
    asked, mixed = list[bytes](), list[bool]()

    class Odd(Sorted):
        def outcomes(
            self, images: Sequence[Image.Image], prompts: Sequence[str] | None = None
        ) -> list[Analysis | RefinerError]:
            asked.extend(image.tobytes() for image in images)
            error = UnreadableOutputError("Expected a list of flaws, got babble: ask again.", "babble")
            found = [error if crc32(image.tobytes()) % 2 else flawed(0.5) for image in images]
            mixed.append({type(each) for each in found} == {Analysis, UnreadableOutputError})
            return found

    painter = Painter()
    parts = Parts(
        generator=painter, inpainter=painter, detector=ScriptedDetector(brightness), judge=BurdenJudge(Odd()),
        reviser=TemplateReviser(),
    )  # fmt: skip
    config = RefineConfig(seed=1, strategy="inpaint", max_rounds=3, candidates=4, max_candidates=4)
    assert len(refine(parts, PROMPT, config).result.attempts) > 1
    assert any(mixed)
    assert len(asked) == len(set(asked)) > 4


def test_too_few_scores_are_a_failure_too() -> None:
    @dataclass
    class Short:
        name: str = "short"

        def score(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> list[float]:
            return []

    result = run(Short())
    assert result.image == picture(0)
    assert "judge short returned [] instead of 1 finite scores" in result.attempts[0].error


def test_a_pipeline_takes_several_judges_by_id_or_ready_and_saves_their_ids(
    model: str, folder: Path, tmp_path: Path
) -> None:
    detector = ScriptedDetector(brightness)
    ids = [f"clip:{folder}"] * 2
    pipe = RefinedPipeline.from_pretrained(model, detector=detector, judge=ids)
    pipe.set_progress_bar_config(disable=True)
    assert [judge.name for judge in judges_of(pipe.judge)] == [f"clip:{folder.name}"] * 2
    with pytest.warns(RefinerWarning, match="No image could be analysed"):  # the detector knows another size
        result = pipe(PROMPT, seed=0, max_rounds=0).results[0]
    assert [score.name for score in result.attempts[0].scores] == [f"clip:{folder.name}"] * 2
    assert [judge["name"] for judge in result.settings["judges"]] == [f"clip:{folder.name}"] * 2
    assert pipe.to("cpu") is pipe
    pipe.save_pretrained(tmp_path / "saved")
    again = RefinedPipeline.from_pretrained(tmp_path / "saved", detector=detector)
    assert [judge.name for judge in judges_of(again.judge)] == [f"clip:{folder.name}"] * 2
    assert RefinedPipeline.from_pretrained(tmp_path / "saved", detector=detector, judge=None).judge is None
    mixed = RefinedPipeline.from_pretrained(model, detector=detector, judge=[f"clip:{folder}", channel(0)])
    assert [judge.name for judge in judges_of(mixed.judge)] == [f"clip:{folder.name}", "channel 0"]
    mixed.save_pretrained(tmp_path / "mixed")
    assert RefinedPipeline.from_pretrained(tmp_path / "mixed", detector=detector).judge is None


@pytest.mark.parametrize("judge", ["burden:vlm:x@http://elsewhere.example/v1", 7, [7], {"a": 1}])
def test_a_saved_judge_that_must_not_be_is_refused(model: str, tmp_path: Path, judge: object) -> None:
    shutil.copytree(model, tmp_path / "saved")
    document = json.loads((tmp_path / "saved" / "refiner.json").read_text())
    for named in (judge, [judge]):
        (tmp_path / "saved" / "refiner.json").write_text(json.dumps({**document, "judge": named}))
        with pytest.raises((ConfigError, WeightsError), match=r"judge saved .* another machine|cannot be read"):
            RefinedPipeline.from_pretrained(tmp_path / "saved", detector=ScriptedDetector([]))


def test_a_bundled_detector_brings_the_bundled_judge(model: str) -> None:
    pipe = RefinedPipeline.from_pretrained(model, detector="micro", judge="auto")
    assert pipe.judge.name.startswith("hps-micro")
    assert pipe.ids["judge"] == "micro"
    scripted = RefinedPipeline.from_pretrained(model, detector=ScriptedDetector([]), judge="auto")
    assert scripted.judge is None
