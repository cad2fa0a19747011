"""The latents of crops are cached during a refinement, on tiny random weights of every family."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from diffusers import AutoencoderTiny  # noqa: E402
from PIL import Image  # noqa: E402
from support.repairs import BOX, NOISE, PROMPT, mended, refined  # noqa: E402
from support.tiny_parts import autoencoder  # noqa: E402
from support.tiny_pipelines import TINY, stable_diffusion  # noqa: E402

from refiner.detectors.scripted import ScriptedDetector  # noqa: E402
from refiner.pipelines.painting.caches import LatentCache  # noqa: E402
from refiner.taxonomy import Category  # noqa: E402
from refiner.types import Analysis, Attempt, Region, Size  # noqa: E402

pytestmark = NOISE


def watched(vae: Any) -> list[int]:
    """Record the number of rows of each later call of an autoencoder's encoder."""
    rows: list[int] = []
    vae.encoder.register_forward_pre_hook(lambda _module, args: rows.append(len(args[0])))
    return rows


def pixels(pipe: Any, **options: Any) -> np.ndarray:
    return np.stack([np.asarray(attempt.image, dtype=np.int16) for attempt in mended(pipe, **options).attempts])


@pytest.mark.parametrize("name", TINY)
def test_candidates_of_a_region_are_encoded_once(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = TINY[name]
    pipe = refined(tiny.build(), call=tiny.call, native=32)
    several = replace(pipe.refine_config, candidates=3)
    rows = watched(pipe.vae)

    def forget(attempt: Attempt) -> None:
        if attempt.action == "generate":
            rows.clear()

    with_cache, encoded = pixels(pipe, config=several, callback_on_attempt=forget), sum(rows)
    assert "encode" not in vars(pipe.vae)
    with monkeypatch.context() as patch:
        patch.setattr(LatentCache, "on", lambda *_: nullcontext())
        without = pixels(pipe, config=several, callback_on_attempt=forget)
    assert np.abs(with_cache - without).max() <= 1
    assert 0 < encoded == sum(rows) / 3


def unmoved(image: Image.Image) -> Analysis:
    region = Region(mask=None, box=BOX, name="the hand", category=Category.ANATOMY, severity=0.5)
    return Analysis(size=Size(image.height, image.width), regions=(region,), detector="unmoved")


@pytest.mark.parametrize(("together", "expected"), [(1, [1, 1]), (2, [2])])
def test_a_region_that_is_tried_again_is_not_encoded_again(together: int, expected: list[int]) -> None:
    """The crop of another image is another crop."""
    pipe = refined(stable_diffusion())
    pipe.detector = ScriptedDetector(unmoved)
    rows = watched(pipe.vae)
    result = pipe(PROMPT, seed=1, max_rounds=3, num_images_per_prompt=2, batch_images=together).results[1]
    assert [attempt.action for attempt in result.attempts[:3]] == ["generate", "inpaint", "inpaint"]
    assert rows == expected


def encode(cache: LatentCache, vae: Any, pictures: Any) -> Any:
    with torch.no_grad(), cache.on(SimpleNamespace(vae=vae)):  # type: ignore[arg-type]
        return vae.encode(pictures)


def test_rows_come_back_in_their_order_and_each_is_encoded_once() -> None:
    cache, vae = LatentCache(), autoencoder()
    rows = watched(vae)
    one, two, three = torch.rand(3, 3, 16, 16).split(1)
    wanted = {id(picture): vae.encode(picture).latent_dist.parameters for picture in (one, two, three)}
    rows.clear()
    for batch in ([one], [two, one, two], [three, two, one], [three]):
        found = encode(cache, vae, torch.cat(batch)).latent_dist
        for row, picture in zip(found.parameters, batch, strict=True):
            assert torch.allclose(row, wanted[id(picture)][0], atol=1e-6)
    assert rows == [1, 1, 1]
    encode(cache, vae, one.double().float() + 1e-6)
    assert rows == [1, 1, 1, 1]
    another = autoencoder()
    its_rows = watched(another)
    encode(cache, another, one)
    assert its_rows == [1]


def test_the_oldest_are_forgotten() -> None:
    cache, vae = LatentCache(limit=2), autoencoder()
    rows = watched(vae)
    pictures = dict(zip("abc", torch.rand(3, 1, 3, 16, 16), strict=True))
    for name in "abacab":
        encode(cache, vae, pictures[name])
    assert len(rows) == 4
    assert len(encode(cache, vae, torch.cat([*pictures.values()])).latent_dist.parameters) == 3


def test_what_is_kept_cannot_be_changed_from_outside() -> None:
    cache, vae, picture = LatentCache(), autoencoder(), torch.rand(1, 3, 16, 16)
    first = encode(cache, vae, picture).latent_dist
    before = first.parameters.clone()
    first.parameters.zero_()
    assert torch.equal(encode(cache, vae, picture).latent_dist.parameters, before)


@pytest.mark.parametrize("same", [False, True])
def test_an_output_of_another_kind_passes_through(same: bool) -> None:
    vae, pictures = AutoencoderTiny().eval(), torch.rand(2, 3, 16, 16)
    if same:
        pictures[1] = pictures[0]
    found = encode(LatentCache(), vae, pictures)
    with torch.no_grad():
        assert torch.equal(found.latents, vae.encode(pictures).latents)


def test_any_way_to_call_an_autoencoder_stays() -> None:
    vae, picture = autoencoder(), torch.rand(1, 3, 16, 16)
    with torch.no_grad(), LatentCache().on(SimpleNamespace(vae=vae)):  # type: ignore[arg-type]
        assert isinstance(vae.encode(picture, return_dict=False), tuple)
        assert isinstance(vae.encode(picture, False), tuple)
        assert vae.encode(x=picture).latent_dist


def test_a_users_own_method_is_put_back_even_after_an_error() -> None:
    pipe = stable_diffusion()
    own = pipe.vae.encode
    pipe.vae.encode = own
    with pytest.raises(ZeroDivisionError), LatentCache().on(pipe):
        raise ZeroDivisionError
    assert vars(pipe.vae)["encode"] is own


def test_a_pipeline_without_an_autoencoder_goes_on_as_it_is() -> None:
    with LatentCache().on(SimpleNamespace()):  # type: ignore[arg-type]
        pass
