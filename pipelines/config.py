"""Settings of the refinement loop."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Final, Literal, get_args

from refiner.errors import ConfigError
from refiner.pipelines.numbers import is_number, is_whole, plain, plain_values
from refiner.pipelines.revisers.prompt_checks import words
from refiner.repairs import TOOLS, Tool, ToolTable, checked_table

Strategy = Literal["auto", "inpaint", "regenerate"]
Policy = Literal["fixed", "measured"]
Keep = Literal["best", "last"]
Order = Literal["worst", "largest", "left_to_right", "centre", "detected"]
OnError = Literal["record", "raise"]
_LONGEST_PADDING = 8
"""Largest padding that is plausible as a share of a region's longer side."""
RegionPrompt = Literal["auto", "whole", "clause"]

SEPARATOR_MARK, SKIP_MARK, PROMPT_MARK, EXPLANATION_MARK = "[SEP]", "[SKIP]", "[PROMPT]", "[EXPLANATION]"
"""Marks in ``RefineConfig.prompts``; the first three as in ADetailer."""

LegionMode = Literal["inpaint", "regenerate"]
LEGION_PROMPT: Final = (
    f"Try to avoid the problem: {EXPLANATION_MARK} And make every effort to maintain the photorealism and "
    "reasonableness of the entire image, as well as consistency and coherence in style, lighting, and shadows."
)
"""The prompt of a region in LEGION's published inpainting."""
_LEGION: Final[Mapping[LegionMode, Mapping[str, Any]]] = {
    "inpaint": {
        "max_rounds": 3, "order": "detected", "max_regions": 1000, "dilate": 10 / 1024, "feather": 0.0,
        "prompts": LEGION_PROMPT, "whole_image": True, "match_colours": False, "strengths": (0.84,),
        "inpaint_call": {"num_inference_steps": 25, "guidance_scale": 8.0},
    },
    "regenerate": {"max_rounds": 2},
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class RefineConfig:
    """Settings of the refinement loop.

    The loop starts from a generated image, or from an image of the user. Each round inpaints the flawed regions,
    regenerates the whole image, or does both. A new image is accepted if neither its burden nor a judge's score is
    worse than before, and at least one of them improves by more than its margin.

    The burden of a flaw is its severity times its confidence, both in [0, 1]. The burden of an image is the sum over
    its flaws. Lengths are shares, not pixels, so that the same settings fit images of 96 and of 1024 pixels.

    Args:
        seed: Seed of the run, at least 0. The start image is generated with it; all other seeds are derived from it.
            None: torch's global random numbers, as in diffusers.
        negative_prompt: The user's negative prompt. The reviser's negative prompt is appended to it.
        strategy: What to do about the flaws. "inpaint" inpaints the flawed regions. "regenerate" generates a new image
            with a revised prompt. "auto" chooses in each round by the number, size and category of the flaws: it
            inpaints local flaws, and regenerates the image if a flaw is not local or if inpainting did not help. With
            "auto", an image of the user is only inpainted. Flaws whose place is not known are only fixed by a new
            image, and never in an image of the user.
        tools: The tools that repair flaws, in the order in which they are tried at a region: "inpaint", "edit" (needs
            an edit model as ``editor`` or ``inpainter``) and "regenerate" (a new image). The first tool is used at
            first, the second one after a failure at the same place, and so on; later tries use the last one. Needs the
            strategy "auto". Empty: ``strategy`` decides, and regions are inpainted, then edited if there is an editor.
        policy: The order of ``tools``. "fixed": as they are listed. "measured": the tool with the highest lower bound
            of success (95 %) in ``tool_table`` comes first, for the category of the flaw; ties are in the order of the
            list. A tool with less than 5 tries for the category is judged by its tries for all categories; with less
            than 5 of these, it comes after the tools that were measured.
        tool_table: How often each tool succeeded, by category: ``{"anatomy": {"edit": [successes, tries]}}``, as
            ``refiner.repairs.tool_table`` counts it in run records.
        keep: Which image is kept. "best": each new image is verified, and the best one is kept. "last": nothing is
            verified, as in LEGION (section 4.2). Each region is inpainted on the result of the one before, a prompt is
            revised from that of the round before, each new image replaces the old one, and the last one is kept, even
            if it is worse. Then the run ends early only if no flaws are left or a budget is spent; ``patience``,
            ``min_burden_drop``, ``min_score_gain`` and ``merge_overlap`` have no effect.

        on_error: What happens if a part fails, such as the pipeline, the detector, a judge, the reviser or a callback.
            "record": the attempt records the error, and the run ends with the best image so far. "raise": the error is
            raised at once.
        batch_images: Maximum number of start images in one call of the wrapped pipeline, at least 1. None: no limit.
            These images are then refined together, round by round: one batch of looks, and inpainted regions of several
            images in one batch. A batch of four differs from four single images by rounding, 1 of 255 levels in a few
            pixels. 1: each image by itself, so that a run can be repeated bit for bit.

        max_rounds: Maximum number of rounds after the start image, at least 0.
        patience: Stop after this many rounds in a row without an accepted image, at least 1.
        max_denoiser_rows: Budget in denoiser rows: images times denoiser passes, with guidance counted. Once it is
            spent, nothing more is generated. None: no limit.
        max_seconds: Budget in seconds. Once it is spent, nothing more is generated. None: no limit.

        min_burden_drop: Margin of the burden: it counts as improved if it falls by more than this, at least 0.
        min_score_gain: Margin of the judges: a score counts as improved if it rises by more than this, in the unit of
            the judge, at least 0.

        max_regions: Maximum number of patches that one round inpaints, at least 1. A patch is one region, or several
            that overlap.
        order: Which regions come first: "worst" (largest burden), "largest", "left_to_right", "centre" (nearest to the
            centre of the image), or "detected" (as the detector lists them). The first regions are kept if there are
            more than ``max_regions``, and they get the pixels where regions overlap a little.
        min_area: Flaws smaller than this share of the image are not inpainted, in [0, 1].
        max_area: Flaws larger than this share of the image are not inpainted, in [``min_area``, 1].
        large_share: Flaws larger than this share of the image are not local, in [0, 1]; see ``strategy``.
        global_share: The same limit for flaws of optics (light, shadow, reflection) and perspective, in [0, 1].

        fill_holes: Whether the holes that a region encloses are inpainted too.
        dilate: Regions grow by this share of the image's longer side before they are inpainted, at least 0.
        feather: Old and new pixels are blended over this share of the image's longer side, inside the mask, at least 0.
        match_colours: Whether the colours of an inpainted region are matched to those around it.
        merge_overlap: Grown regions are inpainted as one patch if their overlap is at least this share of the smaller
            one, in [0, 1].
        together: Whether all regions are inpainted in one pass with the whole prompt. Otherwise each region is
            inpainted with its own prompt.
        region_prompt: The prompt of a region. "auto": the reviser writes it; by default it is "clause" and what the
            region should show. "clause": the part of the user's prompt that names the region, with everything that
            names no other thing, such as style and light; the whole prompt if no part names it. "whole": the user's
            prompt. With "clause" and "whole" nothing is added to the prompt or the negative prompt.
        prompts: Your own prompts for regions; they are used as they are, with your negative prompt. A mapping has a
            prompt for each name: {"face": "...", "left hand": "..."}. A name fits a region if all its words are in the
            region's name or if it is the region's category; of several, the one with most words counts. A list of
            texts, or one text with "[SEP]" between them, goes by the order of the regions (see ``order``) in the image
            that inpainting begins with; the last text is used for all further regions. "[PROMPT]" in a text stands for
            the user's whole prompt, "[EXPLANATION]" for what the detector says is wrong with the region. "[SKIP]"
            leaves the region alone. Regions without a text, or with the text "", are
            inpainted as ``region_prompt`` says.
        exclude: Names or categories, as in ``prompts``, of flaws that are never inpainted. They still count in the
            burden.
        whole_image: Whether a region is inpainted with the whole image in view instead of a crop.
        crop_padding: Context on each side of a region, as a share of the region's longer side, at least 0.
        crop_min_side: Smallest side of a crop, as a share of the side that the model was trained on, in (0, 1].
        batch_size: Maximum number of crops in one call of the inpainting pipeline, and of images in one call of
            detector and judge if several images are refined together, at least 1. It is halved if memory runs out.

        inpaint_call: Arguments of the inpainting call, such as ``{"num_inference_steps": 25}``, plain JSON values. They
            override those of ``RefinedPipeline``.
        strengths: Inpainting strength (the share of the noise schedule that is run, as in diffusers) for the first try
            at a region, the second try, and so on, each in (0, 1]. Later tries use the last value.
        severity_strength: How much the strength depends on severity, in [0, 1]. The strength is multiplied by
            ``1 - severity_strength * (1 - severity)``.
        area_strength: How much the strength depends on size, at least 0. The strength is multiplied by
            ``(1 - share of the image) ** area_strength``.
        mixed_strengths: Regions may be in one batch if their strengths differ by at most this much, in [0, 1].
        soft_edge: Inside the mask, the strength rises from the edge to its full value over this share of the image's
            longer side, at least 0. 0: full strength everywhere in the mask.
        candidates: Number of candidates for a region at the first try, at least 1. Each later try generates one more.
        max_candidates: Maximum number of candidates for a region, at least ``candidates``.
        keep_candidates: Whether the result keeps all candidates of every region, so that you can pick one by hand
            (``RefinementResult.with_choice``). It then also keeps the models.

    Raises:
        ConfigError: a setting is out of its range.
    """

    seed: int | None = None
    negative_prompt: str = ""
    strategy: Strategy = "auto"
    tools: tuple[Tool, ...] = ()
    policy: Policy = "fixed"
    tool_table: ToolTable = field(default_factory=dict)
    keep: Keep = "best"
    on_error: OnError = "record"
    batch_images: int | None = None

    max_rounds: int = 5
    patience: int = 2
    max_denoiser_rows: int | None = None
    max_seconds: float | None = None

    min_burden_drop: float = 0.1
    min_score_gain: float = 1e-4

    max_regions: int = 8
    order: Order = "worst"
    min_area: float = 0.0
    max_area: float = 1.0
    large_share: float = 0.35
    global_share: float = 0.10

    fill_holes: bool = False
    dilate: float = 0.06
    feather: float = 0.02
    match_colours: bool = True
    merge_overlap: float = 0.5
    together: bool = False
    region_prompt: RegionPrompt = "auto"
    prompts: Mapping[str, str] | Sequence[str] = ()
    exclude: Sequence[str] = ()
    whole_image: bool = False
    crop_padding: float = 0.5
    crop_min_side: float = 0.5
    batch_size: int = 8

    inpaint_call: Mapping[str, Any] = field(default_factory=dict)
    strengths: tuple[float, ...] = (0.7, 0.85, 1.0)
    severity_strength: float = 0.0
    area_strength: float = 0.0
    mixed_strengths: float = 0.0
    soft_edge: float = 0.0
    candidates: int = 1
    max_candidates: int = 4
    keep_candidates: bool = False

    @classmethod
    def legion(cls, mode: LegionMode, **changes: Any) -> RefineConfig:
        """Return the settings of LEGION's own controller (sections 4.2 and 5.5), to compare with.

        Nothing is verified, and the last image is kept; see ``keep``.

        "inpaint": three rounds. In each, the detector looks, and the regions are inpainted one after the other, in its
        order, with the whole image in view, the published prompt about the explanation, masks grown by 10 of 1024
        pixels, strength 0.84, 25 steps and guidance 8. Pixels outside the masks stay, as in equation 6. The published
        script grows masks by a square where a disc is used here, and draws all noise from one generator.

        "regenerate": two rounds. In each, the reviser revises the prompt of the round before by the flaws of all images
        so far (equation 5), and a new image is generated.

        Args:
            mode: which of its two pipelines.
            changes: other settings, such as ``max_rounds=1``. The seed is 42. The bundled models know too few words
                for the published prompt: pass ``prompts="[PROMPT]"``, the user's prompt, for them.

        Raises:
            ConfigError: there is no such mode, or a setting is out of its range.
        """
        if mode not in get_args(LegionMode):
            raise ConfigError(f"LEGION's mode must be one of {', '.join(get_args(LegionMode))}, got {mode!r}.")
        settings: dict[str, Any] = {"seed": 42, "strategy": mode, "keep": "last", **_LEGION[mode], **changes}
        unknown = settings.keys() - {each.name for each in fields(cls)}
        if unknown:
            raise ConfigError(f"RefineConfig has no setting {', '.join(sorted(unknown))}: check the spelling.")
        return cls(**settings)

    def __post_init__(self) -> None:
        for each in fields(self):
            value = plain(getattr(self, each.name))
            if each.type == "tuple[float, ...]" and isinstance(value, Iterable):
                value = tuple(plain(number) for number in value)
            object.__setattr__(self, each.name, value)
        kinds = {"strategy": Strategy, "keep": Keep, "on_error": OnError, "order": Order, "policy": Policy}
        for name, kind in kinds.items():
            self._check(name, getattr(self, name) in get_args(kind), f"one of {', '.join(get_args(kind))}")
        self._check_types()
        for name, number in {"seed": 0, "batch_images": 1}.items():
            value = getattr(self, name)
            self._check(name, value is None or value >= number, f"a whole number of at least {number}, or None")
        least = {"max_rounds": 0, "patience": 1, "max_regions": 1, "batch_size": 1, "candidates": 1}
        for name, number in least.items():
            self._check(name, getattr(self, name) >= number, f"a whole number of at least {number}")
        lengths = ("dilate", "feather", "crop_padding", "soft_edge")
        for name in ("min_burden_drop", "min_score_gain", "area_strength", *lengths):
            self._check(name, getattr(self, name) >= 0, "0 or more")
        for name in lengths:
            self._check_length(name, getattr(self, name))
        for name in ("max_denoiser_rows", "max_seconds"):
            self._check(name, getattr(self, name) is None or getattr(self, name) > 0, "more than 0, or None")
        shares = ("large_share", "global_share", "min_area", "max_area", "merge_overlap")
        for name in (*shares, "severity_strength", "mixed_strengths"):
            self._check(name, 0 <= getattr(self, name) <= 1, "in [0, 1]")
        self._check("max_area", self.max_area >= self.min_area, f"at least min_area={self.min_area}")
        self._check("crop_min_side", 0 < self.crop_min_side <= 1, "in (0, 1]")
        self._check("max_candidates", self.max_candidates >= self.candidates, f"at least candidates={self.candidates}")
        numbers = isinstance(self.strengths, tuple) and all(map(is_number, self.strengths))
        usable = numbers and len(self.strengths) > 0 and all(0 < strength <= 1 for strength in self.strengths)
        self._check("strengths", usable, "one or more numbers in (0, 1]")
        self._check_names()
        self._check_tools()
        self._check("inpaint_call", _is_json_object(self.inpaint_call), "a mapping of names to plain JSON values")
        object.__setattr__(self, "inpaint_call", plain_values(self.inpaint_call))
        if self.keep == "last":
            self._check("candidates", self.candidates == 1, 'exactly 1 with keep="last", which compares nothing')
            nothing = 'False with keep="last", which chooses nothing'
            self._check("keep_candidates", not self.keep_candidates, nothing)
            self._check("together", not self.together, 'False with keep="last", which inpaints region by region')

    def _check_length(self, name: str, value: float) -> None:
        """Refuse a length in pixels, by habit from other detailers."""
        if value > (_LONGEST_PADDING if name == "crop_padding" else 1):
            whole = "region's" if name == "crop_padding" else "image's"
            raise ConfigError(
                f"RefineConfig.{name} is a share of the {whole} longer side, not a number of pixels, got {value!r}: "
                f"for {value:g} pixels of 1024, use {value:g} / 1024 = {value / 1024:.4f}."
            )

    def _check_types(self) -> None:
        """Check that every number is one, by the annotation of its field."""
        right = {"int": (is_whole, "a whole number"), "float": (is_number, "a number")}
        for each in fields(self):
            kind, _, optional = str(each.type).partition(" | ")
            value = getattr(self, each.name)
            if kind in right and not (optional and value is None):
                test, wanted = right[kind]
                self._check(each.name, test(value), f"{wanted}, or None" if optional else wanted)

    def _check_names(self) -> None:
        """Check the settings for the regions' prompts, and keep copies that nobody else changes."""
        kinds = get_args(RegionPrompt)
        self._check("region_prompt", self.region_prompt in kinds, f"one of {', '.join(kinds)}")
        self._check("exclude", _are_names(self.exclude), "a list of names, such as ['face']")
        object.__setattr__(self, "exclude", tuple(self.exclude))
        if isinstance(self.prompts, Mapping):
            texts: Sequence[str] = list(self.prompts.values())
            usable = _are_names(list(self.prompts)) and _are_texts(texts)
            self._check("prompts", usable, "a mapping of names to texts, such as {'hand': 'a hand'}")
            object.__setattr__(self, "prompts", dict(self.prompts))
        else:
            texts = [] if isinstance(self.prompts, str) else self.prompts
            self._check("prompts", _are_texts(texts), "a text, a list of texts, or a mapping of names to texts")
            object.__setattr__(self, "prompts", self.prompts if isinstance(self.prompts, str) else tuple(texts))
        parted = any(SEPARATOR_MARK in text for text in texts)
        self._check("prompts", not parted, f"a single text if it has {SEPARATOR_MARK}")
        alone = not self.together or not (self.prompts or self.region_prompt == "clause")
        self._check("together", alone, "False if regions have their own prompts (prompts, region_prompt='clause')")

    def _check_tools(self) -> None:
        usable = _are_texts(self.tools) and set(self.tools) <= set(TOOLS) and len(set(self.tools)) == len(self.tools)
        self._check("tools", usable, f"a list of {', '.join(TOOLS)}, each at most once")
        object.__setattr__(self, "tools", tuple(self.tools))
        alone = self.strategy == "auto" and self.keep == "best" and not self.together
        self._check("tools", alone or not self.tools, 'empty unless strategy="auto", keep="best" and together=False')
        try:
            object.__setattr__(self, "tool_table", checked_table(self.tool_table))
        except ValueError as error:
            raise ConfigError(f"RefineConfig.tool_table is no table of tools ({error}): use tool_table().") from error
        if self.policy == "measured":
            self._check("tools", len(self.tools) > 0, 'the tools to choose from with policy="measured"')
            self._check("tool_table", len(self.tool_table) > 0, 'filled with policy="measured"')

    def _check(self, name: str, right: bool, wanted: str) -> None:
        if not right:
            raise ConfigError(f"RefineConfig.{name} must be {wanted}, got {getattr(self, name)!r}.")

    def strength(self, tries: int) -> float:
        """Return the inpainting strength for a region after ``tries`` failed tries."""
        return self.strengths[min(tries, len(self.strengths) - 1)]

    def candidate_count(self, tries: int) -> int:
        """Return the number of candidates for a region after ``tries`` failed tries."""
        return min(self.candidates + tries, self.max_candidates)


def _are_texts(value: object) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str) and all(isinstance(one, str) for one in value)


def _are_names(value: object) -> bool:
    return isinstance(value, Sequence) and _are_texts(value) and all(map(words, value))


def _is_json_object(value: object) -> bool:
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        return False
    try:
        return bool(json.dumps(plain_values(value), allow_nan=False))
    except (TypeError, ValueError):
        return False
