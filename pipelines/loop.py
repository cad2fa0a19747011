"""The refinement loop: generate an image, find its flaws, fix them, check the result, and keep it only if it is better.

The pipeline call, the command line, the demo and the evaluator all use this loop. It uses its parts only through their
protocols, so it needs neither torch nor diffusers.

The loop differs from LEGION (section 4.2) in that it verifies the fixes. Equation 6 of LEGION pastes every region. This
loop keeps only the regions that became better and restores the old pixels of the others. So no result is worse than the
start image for the detector and the judge. With ``RefineConfig.keep="last"``, it verifies nothing, as LEGION does.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from itertools import chain

import numpy as np
from PIL import Image

from refiner import protocols
from refiner.errors import BadImageError, InputError, ModelError, OutOfDomainError, UserError
from refiner.ledger import ledgers_of, since
from refiner.patches import Candidates, difference
from refiner.pipelines.config import SKIP_MARK, RefineConfig
from refiner.pipelines.judges import judges_of
from refiner.pipelines.looks import as_look, checked, each_analysis, each_score, named_scores, one_picture, told
from refiner.pipelines.painting.out_of_memory import NoMemoryError, with_memory
from refiner.pipelines.parts import DROPPED, Parts, Start
from refiner.pipelines.picking import kept_candidates, picked
from refiner.pipelines.region_prompts import inpainted_first, joined, not_excluded, revision_for, text_for
from refiner.pipelines.run import RefinementRun
from refiner.pipelines.selection import Board, Choice, Look, Settled, Verdict, compare, settle
from refiner.pipelines.strategies import Patch, Step, plan_patches, repaintable, strength_of
from refiner.pipelines.tools import Toolbox
from refiner.protocols import InpaintJob, PaintJob, Revision
from refiner.records import derive_seed
from refiner.types import Action, Analysis, Attempt, Calls, RefinementResult, Region, StopReason


def refine(
    parts: Parts,
    prompt: str,
    config: RefineConfig,
    *,
    image: Image.Image | None = None,
    start: Callable[[], Start] | None = None,
    texts: Mapping[str, str] | None = None,
    index: int = 0,
    number: int = 0,
    flag: threading.Event | None = None,
    settings: Mapping[str, object] | None = None,
) -> RefinementRun:
    """Generate an image (or start from ``image``) and refine it, attempt by attempt.

    Args:
        parts: the models.
        prompt: every image is judged against it; if it is empty, the judge is not asked.
        config: all settings, with the seed; without a seed, it is random.
        image: RGB image to start from; None: the start image is generated.
        start: generates the start image, when the first attempt is made; None: ``parts.generator`` does.
        texts: the user's prompts for further text encoders, by argument, such as ``prompt_2``.
        index: number of the image among those with the same prompt and seed; all seeds of the run depend on it.
        number: number of the image in its call; its attempts have it.
        flag: once it is set, the run ends with the best image so far; an unfinished image is dropped.
        settings: stored in the result; they describe how it was made.

    Returns:
        A run to iterate over. The attempts are made while it is iterated.

    Raises:
        InputError: the image is not RGB; or, during the run, the detector does not support ``image``.
    """
    if image is not None and image.mode != "RGB":
        raise InputError(f"Expected an RGB image, got mode {image.mode}: read it with refiner.images.load_image.")
    flag = flag or threading.Event()
    if config.seed is None:
        config = replace(config, seed=secrets.randbelow(10**9))
    refinement = _Refinement(
        parts, prompt, config, index, number, given=image, begin=start, texts=texts or {}, interrupted=flag.is_set
    )
    return RefinementRun(refinement.run(), lambda: refinement.result(settings or {}), flag, refinement.blame)


@dataclass(eq=False)
class _Refinement:
    """The state of one refinement: its attempts, and the best image so far."""

    parts: Parts
    prompt: str
    config: RefineConfig
    index: int
    number: int
    given: Image.Image | None
    begin: Callable[[], Start] | None
    texts: Mapping[str, str]
    interrupted: Callable[[], bool]
    stop: StopReason = "interrupted"  # until the loop ends by itself
    best: Look | None = None
    best_index: int = 0
    in_vain: bool = False  # the last action was inpainting, and none was ever accepted
    repeated: bool = False  # a model returned an image that an earlier attempt has too
    looked: int = 0  # images that the detector analysed since the last attempt

    def __post_init__(self) -> None:
        self.judges = judges_of(self.parts.judge) if self.prompt.strip() else ()
        self.broken = False  # a part failed in a way that another try would not mend
        self.recorded: tuple[type[Exception], ...] = (Exception,) if self.config.on_error == "record" else ()
        self.attempts: list[Attempt] = []
        self.tools = Toolbox(self.config, self.parts.tools, given=self.given is not None)
        self.seen: dict[tuple[tuple[int, int], bytes], Look] = {}  # keys: size and digest of the pixels
        self.notes: list[str] = []  # notes for the user since the last attempt
        self.offered: tuple[Candidates, ...] = ()  # candidates to keep since the last attempt
        self.last = self._origin()  # the last image that was generated from text
        self.rows = self._rows()  # denoiser rows at the last attempt
        self.paying = [self.parts.detector, self.parts.reviser, self.parts.inpainter, *self.judges]
        self.ledgers = ledgers_of(self.paying)  # costs of hosted models before this run
        self.started = self.clock = self.parts.clock()

    def run(self) -> Iterator[Attempt]:
        yield self._start()
        rounds = idle = 0
        while (stop := self._stop(rounds, idle)) is None:
            rounds, idle = rounds + 1, idle + 1
            for step in self._steps():
                if self._must_stop() or (idle == 0 if step == "regenerate" else not self._targets()):
                    break
                attempt = self._paint(step, rounds) if step == "regenerate" else self._inpaint(rounds)
                idle = 0 if attempt.accepted else idle
                fixed = any(other.accepted for other in self.attempts if other.action == "inpaint")
                self.in_vain = step == "inpaint" and not fixed
                yield attempt
        self.stop = stop

    def result(self, settings: Mapping[str, object]) -> RefinementResult:
        attempts, costs = tuple(self.attempts), since(self.ledgers, ledgers_of(self.paying))
        return RefinementResult(
            prompt=self.prompt, attempts=attempts, best=self.best_index, stop=self.stop, settings=settings, costs=costs,
            verify=self._verify if self.config.keep_candidates else None,
        )  # fmt: skip

    def blame(self, error: Exception) -> Attempt:
        """Record an exception on the last attempt, such as one of the user's callback."""
        self.attempts[-1] = replace(self.attempts[-1], error=told(error))
        return self.attempts[-1]

    @property
    def _analysis(self) -> Analysis | None:
        return self.best.analysis if self.best else None

    def _steps(self) -> tuple[Step, ...]:
        return self.tools.steps(self._analysis, repainted_in_vain=self.in_vain)

    def _targets(self) -> Sequence[Region]:
        """Return the flaws of the best image that should be inpainted; none if it could not be analysed."""
        if self._analysis is None:
            return []
        return [region for region in self._inpaintable(self._analysis) if self._own_text(region) != SKIP_MARK]

    def _inpaintable(self, analysis: Analysis) -> Sequence[Region]:
        size = analysis.size
        regions = repaintable(not_excluded(analysis.regions, self.config), size, self.config)
        if self.given is not None or self.config.strategy != "auto":
            return regions
        return [region for region in regions if self.tools.is_local(region, size)]

    def _own_text(self, region: Region) -> str:
        """Return the user's text for a region of the best image; see ``text_for``."""
        first = inpainted_first(self.attempts) or self._analysis
        assert first is not None
        return text_for(region, self._inpaintable(first), first.size, self.config)

    def _stop(self, rounds: int, idle: int) -> StopReason | None:
        if (stop := self._must_stop()) is not None:
            return stop
        over = rounds >= self.config.max_rounds or (self.config.keep == "best" and idle >= self.config.patience)
        if self._analysis is None and (over or not self._steps()):
            return "unreadable"
        if not over:
            return None
        return "rounds" if rounds >= self.config.max_rounds else "no_progress"

    def _must_stop(self) -> StopReason | None:
        if self.interrupted():
            return "interrupted"
        if self.broken:
            return "failed"
        if self._analysis is not None and self._analysis.burden == 0:
            return "clean"
        if self.repeated and self.config.keep == "best":
            return "repeat"
        rows, seconds = self.config.max_denoiser_rows, self.config.max_seconds
        if rows is not None and sum(attempt.calls.denoiser_rows for attempt in self.attempts) >= rows:
            return "budget"
        if seconds is not None and self.parts.clock() - self.started >= seconds:
            return "budget"
        return None

    def _origin(self) -> PaintJob:
        assert self.config.seed is not None
        seed = self.config.seed + self.index
        return PaintJob(prompt=self.prompt, negative_prompt=self.config.negative_prompt, texts=self.texts, seed=seed)

    def _start(self) -> Attempt:
        origin = self.last
        if self.given is not None:
            look = self._look([self.given])[0]
            return self._record("given", replace(origin, negative_prompt=""), look, compare(look, None, self.config))
        if self.begin is None:
            return self._paint("generate", 0)
        start = self.begin()
        self.clock, self.rows = self.parts.clock() - start.seconds, self._rows() - start.rows
        self.started = min(self.started, self.clock)
        if start.image is None:
            look = self._failure(start.error or BadImageError("There is no start image."))
        elif self.interrupted():
            look = Look(image=start.image, error="Interrupted; the image was not analysed.")
        else:
            look = self._look([start.image])[0]
        return self._record("generate", origin, look, compare(look, None, self.config))

    def _paint(self, action: Action, round_: int) -> Attempt:
        job = replace(self._origin(), seed=self._seed(round_)) if round_ else self._origin()
        try:
            if action == "regenerate":
                self.last = job = self._revised(job.seed)
            pictures = self._painted(self.parts.generator.generate, [job])
            look = self._look([one_picture(pictures)])[0]
        except self.recorded as error:
            look = self._failure(error)
        return self._record(action, job, look, compare(look, self.best, self.config))

    def _revised(self, seed: int) -> PaintJob:
        """Revise the prompts of all text encoders: the user's, or with ``keep="last"`` those of the round before."""
        history, origin = tuple(self.attempts), self.last if self.config.keep == "last" else self._origin()
        revision = self._noted(self.parts.reviser.revise(origin.prompt, history))
        texts = self._others(origin, revision, lambda text: self.parts.reviser.revise(text, history))
        return PaintJob(prompt=revision.prompt, negative_prompt=self._negative(revision), texts=texts, seed=seed)

    def _others(self, origin: PaintJob, revision: Revision, revise: Callable[[str], Revision]) -> dict[str, str]:
        """Revise the prompts of further text encoders; those that equal the prompt get its revision."""
        return {
            name: revision.prompt if text == origin.prompt else self._noted(revise(text)).prompt
            for name, text in origin.texts.items()
        }

    def _failure(self, error: Exception) -> Look:
        """Record an exception instead of an image."""
        self.broken |= not isinstance(error, ModelError)
        return Look(image=None, error=told(error))

    def _painted(self, paint: Callable[..., list[Image.Image]], jobs: Sequence[object]) -> list[Image.Image]:
        """Call a model; an interrupt or a lack of memory becomes a ``BadImageError``."""
        try:
            pictures = with_memory(paint, jobs)
        except NoMemoryError as error:
            raise BadImageError(
                f"There is not enough memory to generate an image ({error}): use a smaller model, dtype or image size, "
                "or enable_model_cpu_offload()."
            ) from error
        except Exception as error:
            if not self.interrupted():
                raise
            raise BadImageError(DROPPED) from error
        if self.interrupted():
            raise BadImageError(DROPPED)
        return pictures

    def _inpaint(self, round_: int) -> Attempt:
        """Inpaint all patches of the best image in one round, and keep the candidates that are better."""
        base = self.best
        assert base is not None
        assert base.image is not None
        assert base.analysis is not None
        patches = plan_patches(self._targets(), base.analysis.size, self.config, self.tools.failed)
        if self.config.keep == "last":
            return self._inpaint_in_turn(base.image, patches, round_)
        groups = [patches] if self.config.together else [[patch] for patch in patches]
        nothing: Choice = (None,) * len(patches)
        every: list[InpaintJob] = []
        try:
            jobs = [self._jobs(base.image, group, round_, number) for number, group in enumerate(groups, start=1)]
            every = list(chain(*jobs))
            pictures = iter(checked(self._painted(self.parts.inpainter.inpaint, every), every))
            painted = [[next(pictures) for _ in group_jobs] for group_jobs in jobs]
            candidates = [options for options, group in zip(painted, groups, strict=True) for _ in group]
            settled = settle(Board(base, [patch.mask for patch in patches], candidates, self._look), self.config)
            if self.config.keep_candidates:
                self.offered = kept_candidates(groups, jobs, painted, settled.choice)
        except self.recorded as error:
            look = self._failure(error)
            settled = Settled(nothing, look, compare(look, base, self.config))
        self._collect_remarks()
        kept = settled.choice if settled.verdict.accepted else nothing
        self.tools.settle(patches, kept)
        job = joined(every) if every else PaintJob(prompt=self.prompt, seed=self._seed(round_, 1))
        return self._record("inpaint", job, settled.look, settled.verdict, base.image)

    def _inpaint_in_turn(self, start: Image.Image, patches: Sequence[Patch], round_: int) -> Attempt:
        """Inpaint patches one after the other, each on the result of the one before, and keep the last image.

        A patch that a model cannot inpaint is left as it is; the attempt fails if no patch can be inpainted.
        """
        image, jobs, failures = start, list[InpaintJob](), list[ModelError]()
        try:
            for number, patch in enumerate(patches, start=1):
                jobs += self._jobs(image, [patch], round_, number)
                try:
                    image = checked(self._painted(self.parts.inpainter.inpaint, jobs[-1:]), jobs[-1:])[0]
                except ModelError as error:
                    failures.append(error)
                    if self.interrupted() or not self.recorded or len(failures) == len(patches):
                        raise
            if failures:
                said = " ".join(dict.fromkeys(map(told, failures)))
                self.notes.append(f"{len(failures)} of {len(patches)} regions are unchanged. {said}")
            look = self._look([image])[0]
        except self.recorded as error:
            look = self._failure(error)
        self._collect_remarks()
        job = joined(jobs) if jobs else PaintJob(prompt=self.prompt, seed=self._seed(round_, 1))
        return self._record("inpaint", job, look, compare(look, self.best, self.config), start)

    def _collect_remarks(self) -> None:
        if isinstance(self.parts.inpainter, protocols.Remarking):
            self.notes += self.parts.inpainter.remarks()

    def _jobs(self, image: Image.Image, group: Sequence[Patch], round_: int, number: int) -> list[InpaintJob]:
        """List the inpainting jobs for patches that are inpainted together, one for each candidate."""
        tries = max(patch.tries for patch in group)
        revision, text = Revision(prompt=self.prompt, whole=True), ""
        if not self.config.together:
            region = group[0].region
            text = self._own_text(region)
            revision = self._noted(revision_for(region, text, self.prompt, self.config, self.parts.reviser))
        texts = self._others(self._origin(), revision, lambda text: self._for_patches(group, text))
        jobs = [
            InpaintJob(
                image=image,
                mask=np.logical_or.reduce([patch.mask for patch in group]),
                prompt=revision.prompt,
                negative_prompt=self._negative(revision),
                texts=texts,
                seed=self._seed(round_, number, candidate),
                strength=strength_of(group[0], self.config, tries),
                whole=revision.whole or self.config.whole_image,
            )
            for candidate in range(self.config.candidate_count(tries))
        ]
        return self.tools.told(jobs, group, own=bool(text))

    def _for_patches(self, group: Sequence[Patch], text: str) -> Revision:
        """Revise the prompt of a further text encoder for patches that are inpainted together."""
        if self.config.together:
            return Revision(prompt=text)
        region = group[0].region
        return revision_for(region, self._own_text(region), text, self.config, self.parts.reviser)

    def _noted(self, revision: Revision) -> Revision:
        self.notes += [revision.note] if revision.note else []
        return revision

    def _seed(self, round_: int, region: int = 0, candidate: int = 0) -> int:
        assert self.config.seed is not None
        return derive_seed(self.config.seed, self.index, round_, region, candidate)

    def _negative(self, revision: Revision) -> str:
        added = revision.negative_prompt if self.parts.negatives else ""
        return ", ".join(filter(None, (self.config.negative_prompt, added)))

    def _look(self, images: Sequence[Image.Image]) -> list[Look]:
        """Analyse and score images; known images are not analysed again."""
        keys = [(image.size, sha256(image.tobytes()).digest()) for image in images]
        new = {key: image for key, image in zip(keys, images, strict=True) if key not in self.seen}
        fresh = dict(zip(new, self._first_looks(list(new.values())), strict=True))
        self.seen.update((key, look) for key, look in fresh.items() if look.error is None)
        return [
            replace(known, image=image) if (known := self.seen.get(key)) else fresh[key]
            for key, image in zip(keys, images, strict=True)
        ]

    def _first_looks(self, images: Sequence[Image.Image]) -> list[Look]:
        if not images:
            return []
        prompts = [self.prompt] * len(images)
        self.looked += len(images)
        answers = each_analysis(self.parts.detector, images, prompts, self.recorded)
        if self.given is not None and self.best is None and isinstance(answers[0], UserError):
            raise answers[0]  # an image of the user that the detector does not support: the user must fix it
        clean = all(isinstance(answer, Analysis) and answer.burden == 0 for answer in answers)
        judges = () if clean and self.best is None else self.judges  # a clean first image ends the run
        scores = [each_score(judge, images, prompts, self.recorded) for judge in judges]
        failures = [each for each in chain(answers, *scores) if isinstance(each, Exception)]
        self.broken |= not all(isinstance(each, ModelError | OutOfDomainError | NoMemoryError) for each in failures)
        return [
            as_look(image, answer, [own[number] for own in scores])
            for number, (image, answer) in enumerate(zip(images, answers, strict=True))
        ]

    def _record(
        self, action: Action, job: PaintJob, look: Look, verdict: Verdict, source: Image.Image | None = None
    ) -> Attempt:
        """Record an attempt with its cost, and update the best image so far."""
        now, rows = self.parts.clock(), self._rows()
        attempt = Attempt(
            index=len(self.attempts),
            number=self.number,
            action=action,
            prompt=job.prompt,
            negative_prompt=job.negative_prompt,
            seed=job.seed,
            image=look.image,
            analysis=look.analysis,
            scores=named_scores(look, self.judges),
            accepted=verdict.accepted,
            reason=verdict.reason,
            note="; ".join(dict.fromkeys(self.notes)),
            painted=difference(look.image, source) if look.image and source else None,
            error=look.error,
            seconds=now - self.clock,
            calls=Calls(denoiser_rows=rows - self.rows, detector_calls=self.looked),
            candidates=self.offered,
            repairs=self.tools.tried(action, self._analysis, better=verdict.accepted),
        )
        self.clock, self.rows, self.looked, self.notes, self.offered = now, rows, 0, [], ()
        earlier = (other.image for other in self.attempts)
        self.repeated = look.image is not None and look.image in earlier
        self.attempts.append(attempt)
        if verdict.accepted or self.best is None or (self.best.image is None and look.image is not None):
            self.best, self.best_index = look, attempt.index
        return attempt

    def _verify(self, draft: Attempt, kept: Attempt) -> Attempt:
        """Look at an image that was picked by hand; see ``RefinementResult.verify``."""
        assert draft.image is not None
        began, rows, self.looked = self.parts.clock(), self._rows(), 0
        look = self._look([draft.image])[0]
        calls = Calls(denoiser_rows=self._rows() - rows, detector_calls=self.looked)
        draft = replace(draft, scores=named_scores(look, self.judges), seconds=self.parts.clock() - began, calls=calls)
        return picked(draft, look, kept, self.config)

    def _rows(self) -> int:
        """Count the denoiser rows of generator, inpainter and detector so far."""
        parts = (self.parts.generator, self.parts.detector)
        return sum(part.spent().denoiser_rows for part in parts if isinstance(part, protocols.Spender))
