"""The bundled models through the public API: they load, generate, refine, are deterministic, and never get worse."""

import numpy as np
import pytest

from refiner.hub import MICRO_WEIGHTS, micro_parts, read_card, verify
from refiner.micro.world import parse_caption

PROMPT = "a red hand with five fingers left of a green clock showing three o'clock on a sky background"


@pytest.fixture(scope="module")
def pipe():
    from refiner import RefinedPipeline

    pipe = RefinedPipeline.from_pretrained("micro")
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.mark.parametrize("part", micro_parts())
def test_a_part_is_what_its_card_says(part):
    folder = MICRO_WEIGHTS / part.removeprefix("micro:")
    verify(folder)
    card = read_card(folder)
    assert card.domain == "micro"
    assert card.scores


def test_plain_diffusers_loads_paints_and_inpaints_with_the_generator():
    import torch
    from diffusers import AutoPipelineForInpainting, DiffusionPipeline
    from PIL import Image

    plain = DiffusionPipeline.from_pretrained(MICRO_WEIGHTS / "generator")
    plain.set_progress_bar_config(disable=True)
    image = plain(PROMPT, num_inference_steps=4, generator=torch.Generator().manual_seed(0)).images[0]
    assert image.size == (96, 96)
    inpaint = AutoPipelineForInpainting.from_pipe(plain)
    inpaint.set_progress_bar_config(disable=True)
    mask = Image.fromarray(np.pad(np.full((40, 40), 255, np.uint8), 28))
    painted = inpaint(PROMPT, image=image, mask_image=mask, height=96, width=96, num_inference_steps=4).images[0]
    assert painted.size == (96, 96)


def test_the_generator_paints_what_the_caption_says():
    from diffusers import DiffusionPipeline

    from refiner.micro.oracle import inspect
    from refiner.training.world.scores import held_out_scenes, paint

    plain = DiffusionPipeline.from_pretrained(MICRO_WEIGHTS / "generator")
    plain.set_progress_bar_config(disable=True)
    scenes = held_out_scenes(8)
    pictures = paint(plain, scenes, seed=5, num_inference_steps=12, guidance_scale=3.0)
    verdicts = [inspect(picture, scene) for picture, scene in zip(pictures, scenes, strict=True)]
    right = [thing.kind_ok and thing.colour_ok for verdict in verdicts for thing in verdict.things]
    assert np.mean(right) >= 0.8


def test_refining_is_never_worse_and_repeats_itself_whatever_the_batch(pipe):
    other = "a blue cat with four legs facing left on a snow background"
    options = {"seed": 3, "max_rounds": 1, "num_inference_steps": 6, "batch_images": 1}
    together = pipe([other, PROMPT], **options).results
    alone = [pipe(prompt, **options).results[0] for prompt in (other, PROMPT)]
    for first, second in zip(together, alone, strict=True):
        assert first.stop == second.stop
        for one, two in zip(first.attempts, second.attempts, strict=True):
            assert (one.seed, one.prompt, one.reason, one.accepted) == (two.seed, two.prompt, two.reason, two.accepted)
            assert one.image.tobytes() == two.image.tobytes()
        start, best = first.attempts[0], first.attempts[first.best]
        if start.analysis and best.analysis:
            assert best.analysis.burden <= start.analysis.burden
        assert all(b.value >= a.value for a, b in zip(start.scores, best.scores, strict=True))


def test_regions_speak_of_things_in_the_caption(pipe):
    from refiner.micro.flaws import inject

    scene = parse_caption(PROMPT)
    from refiner.micro.world import place

    rng = np.random.default_rng(4)
    picture = inject(place(scene, rng), rng, count=2, kinds=["missing_finger", "noise_patch", "missing_tick"])
    analysis = pipe.detector(picture.image, PROMPT)
    assert analysis.size == (96, 96)
    for region in analysis.regions:
        assert region.name
        assert region.explanation
        assert 0 <= region.score <= 1


def test_the_instruct_model_writes_prompts_that_are_painted(pipe):
    from refiner import RefinedPipeline
    from refiner.training.instruct.data import MOST_ATTEMPTS, draw, revised

    written = RefinedPipeline.from_pipe(pipe.pipe, detector="micro", reviser="chat:micro:instruct").reviser
    rng, own = np.random.default_rng(40_000_001), 0
    for number in range(9):
        exchange = draw(rng, written.template, 1 + number % MOST_ATTEMPTS)
        revision = written.revise(exchange.prompt, exchange.history)
        assert revision.prompt.startswith(exchange.prompt)
        if not revision.note.startswith("Prompt by the template"):
            own += 1
            assert revision.note.startswith("Prompt by micro:instruct: ")
            assert revision.prompt != revised(exchange.prompt, (), written.template)[0]
    assert own >= 6
