"""HPS over many pictures: order, threads, bounded memory, bad pictures and prompts named, signatures."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from support.profiles import rgb_profile

from refiner.errors import ConfigError, InputError, ModelError
from refiner.metrics.hps import texts as hps_texts
from refiner.metrics.hps.inputs import DIFFERENCES, READING, read
from refiner.metrics.hps.scorer import HPSScorer
from refiner.metrics.hps.texts import text_features

CONFIG: dict[str, Any] = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2},
}


def build(**settings: Any) -> HPSScorer:
    torch.manual_seed(0)
    tokenizer = open_clip.tokenizer.SimpleTokenizer(context_length=12)
    return HPSScorer(
        model=open_clip.CLIP(**CONFIG), tokenizer=tokenizer, config=CONFIG, name="small", batch_size=4, **settings
    )


@pytest.fixture(scope="module")
def scorer() -> HPSScorer:
    return build()


def picture(seed: int, size: tuple[int, int] = (40, 30)) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def files(folder: Path, count: int) -> list[Path]:
    paths = [folder / f"{seed:03d}.png" for seed in range(count)]
    for seed, path in enumerate(paths):
        picture(seed).save(path)
    return paths


def prompts(count: int) -> list[str]:
    return [f"picture {number % 3} of a cat" for number in range(count)]


def test_paths_images_arrays_and_iterators_score_alike(scorer: HPSScorer, tmp_path: Path) -> None:
    paths = files(tmp_path, 11)
    wanted = scorer.score([picture(seed) for seed in range(11)], prompts(11))
    assert scorer.score(paths, prompts(11)) == wanted
    assert scorer.score([str(path) for path in paths], prompts(11)) == wanted
    assert scorer.score((np.asarray(picture(seed)) for seed in range(11)), iter(prompts(11))) == wanted
    assert len(set(wanted)) == 11
    assert all(score == np.float32(score) for score in wanted)


def test_threads_change_nothing(scorer: HPSScorer, tmp_path: Path) -> None:
    paths = files(tmp_path, 23)
    paths[7].write_bytes(b"")
    threaded = build(workers=3)
    before = torch.get_num_threads()
    assert [str(found) for found in threaded.stream(paths, prompts(23))] == [
        str(found) for found in scorer.stream(paths, prompts(23))
    ]
    seen: list[int] = []
    thread = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert seen == [before] == [torch.get_num_threads()]


def test_one_prompt_for_all(scorer: HPSScorer) -> None:
    images = [picture(seed) for seed in range(5)]
    assert scorer.score(images, "a cat") == scorer.score(images, ["a cat"] * 5)


@pytest.mark.parametrize("workers", [0, 2])
def test_few_pictures_are_held(workers: int) -> None:
    """However long the stream: at most a few batches of four are read ahead of what came out."""
    given = 0

    def endless() -> Iterator[Image.Image]:
        nonlocal given
        while True:
            given += 1
            yield picture(given)

    stream = build(workers=workers).stream(endless(), "a cat")
    for taken, _ in enumerate(stream, 1):
        assert given - taken <= 5 * 4
        if taken == 60:
            break
    stream.close()


def test_each_prompt_is_encoded_once_across_batches(scorer: HPSScorer, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    tokenizer = scorer.tokenizer
    monkeypatch.setattr(scorer, "tokenizer", lambda texts: (seen.extend(texts), tokenizer(texts))[1])
    images = [picture(seed) for seed in range(18)]
    scorer.score(images, prompts(18))
    assert sorted(seen) == sorted(set(prompts(18)))
    seen.clear()
    monkeypatch.setattr(hps_texts, "KNOWN_PROMPTS", 2)
    scorer.score(images, [f"cat {number}" for number in range(18)])
    assert len(seen) == 18


def test_padding_has_no_part_in_a_prompts_features(scorer: HPSScorer) -> None:
    texts = ["a cat", "a red cat on the long sofa", "one two three four five six seven eight nine ten eleven twelve"]
    for some in (texts[:1], texts[:2], texts):
        tokens = scorer.tokenizer(some)
        with torch.no_grad():
            wanted = scorer.model.encode_text(tokens, normalize=True)
            assert torch.allclose(text_features(scorer.model, tokens), wanted, atol=1e-6)


def test_other_text_towers_run_whole() -> None:
    torch.manual_seed(0)
    config = CONFIG | {"text_cfg": CONFIG["text_cfg"] | {"no_causal_mask": True}}
    model = open_clip.CLIP(**config).eval()
    tokens = open_clip.tokenizer.SimpleTokenizer(context_length=12)(["a cat", "a dog"])
    with torch.no_grad():
        assert torch.equal(text_features(model, tokens), model.encode_text(tokens, normalize=True))


def bad_files(folder: Path) -> dict[str, Path]:
    whole = files(folder, 1)[0].read_bytes()
    bad = {
        "does not exist": folder / "missing.png",
        "truncated": folder / "truncated.png",
        "0 bytes": folder / "empty.png",
        "is not a supported image format": folder / "text.png",
        "not a file": folder / "folder.png",
        "at least 16 pixels": folder / "tiny.png",
        "ratio of at most": folder / "strip.png",
    }
    bad["truncated"].write_bytes(whole[:-200])
    bad["0 bytes"].write_bytes(b"")
    bad["is not a supported image format"].write_text("no picture")
    bad["not a file"].mkdir()
    picture(0, (8, 8)).save(bad["at least 16 pixels"])
    picture(0, (400, 20)).save(bad["ratio of at most"])
    return bad


def test_bad_files_are_named_and_the_others_scored(scorer: HPSScorer, tmp_path: Path) -> None:
    bad = bad_files(tmp_path)
    good = files(tmp_path, 6)
    mixed = [path for pair in zip(bad.values(), [*good, good[0]], strict=True) for path in pair]
    outcomes = list(scorer.stream(mixed, "a cat"))
    assert [outcome.score for outcome in outcomes[1::2]] == pytest.approx(scorer.score([*good, good[0]], "a cat"))
    for (reason, path), outcome in zip(bad.items(), outcomes[::2], strict=True):
        assert outcome.score is None
        assert isinstance(outcome.error, InputError)
        assert reason in str(outcome.error)
        assert repr(str(path)) in str(outcome.error)
        assert "\n" not in str(outcome.error)
        with pytest.raises(InputError, match=re.escape(reason)):
            scorer.score([good[0], path], "a cat")


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (Image.fromarray(np.full((20, 20), np.nan, dtype=np.float32)), "finite pixel values"),
        (np.full((20, 20, 3), np.nan), "floats in"),
        (np.full((20, 20, 3), -1.0), "floats in"),
        (np.zeros((20, 20, 7)), "channels last"),
        (np.zeros((0, 20, 3)), "at least 16 pixels"),
        (Image.new("RGB", (4, 4)), "at least 16 pixels"),
        (None, "got NoneType"),
        (b"cat.png", "got bytes"),
    ],
)
def test_bad_pictures_in_memory_are_numbered(scorer: HPSScorer, image: Any, reason: str) -> None:
    outcomes = list(scorer.stream([picture(0), image, picture(1)], "a cat"))
    assert [outcome.score is None for outcome in outcomes] == [False, True, False]
    assert reason in str(outcomes[1].error)
    assert "image 1" in str(outcomes[1].error)


@pytest.mark.parametrize(
    ("prompt", "reason"),
    [("", "empty"), (" \n\t", "empty"), (None, "NoneType"), (7, "int"), ("a \ud800 cat", "Unicode")],
)
def test_bad_prompts_are_named_by_their_picture(scorer: HPSScorer, tmp_path: Path, prompt: Any, reason: str) -> None:
    path = files(tmp_path, 1)[0]
    outcomes = list(scorer.stream([path, path], [prompt, "a cat"]))
    assert reason in str(outcomes[0].error)
    assert path.name in str(outcomes[0].error)
    assert outcomes[1].error is None
    with pytest.raises(InputError, match=reason):
        scorer.score([path], [prompt])


@pytest.mark.parametrize("text", ["<|endoftext|> cat", "\x00", "🐱" * 200, "&lt;b&gt;", "a" * 10_000])
def test_odd_prompts_have_a_score(scorer: HPSScorer, text: str) -> None:
    assert -1 <= scorer.score([picture(0)], [text])[0] <= 1


def test_long_prompts_are_noted(scorer: HPSScorer) -> None:
    texts = ["cat " * count for count in (1, 10, 11, 50)]
    found = [outcome.notes for outcome in scorer.stream([picture(0)] * 4, texts)]
    assert found == [(), (), ("prompt cut to 12 tokens",), ("prompt cut to 12 tokens",)]


def odd_pictures(folder: Path) -> dict[str, Path]:
    image = picture(3)
    odd = {
        "transparency laid over white": folder / "alpha.png",
        "greys brought to 8 bits": folder / "deep.png",
        "turned upright by its EXIF": folder / "turned.jpg",
        "colours brought to sRGB": folder / "wide.png",
    }
    image.save(odd["colours brought to sRGB"], icc_profile=rgb_profile("Display P3"))
    image.putalpha(100)
    image.save(odd["transparency laid over white"])
    Image.fromarray(np.arange(1200, dtype=np.uint16).reshape(30, 40) * 50).save(odd["greys brought to 8 bits"])
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(3).save(odd["turned upright by its EXIF"], exif=exif)
    return odd


def test_odd_pictures_are_scored_and_noted(scorer: HPSScorer, tmp_path: Path) -> None:
    for note, path in odd_pictures(tmp_path).items():
        (outcome,) = scorer.stream([path], "a cat")
        assert outcome.notes == (note,)
        assert outcome.error is None
        with Image.open(path) as image:
            (again,) = scorer.stream([image], "a cat")
        assert again == outcome


def test_the_signature_names_each_way_in_which_the_authors_read_an_image_otherwise(
    scorer: HPSScorer, tmp_path: Path
) -> None:
    odd = odd_pictures(tmp_path)
    assert set(DIFFERENCES) == set(odd)
    for note, path in odd.items():
        image, notes = read(path)
        assert notes == (note,)
        with Image.open(path) as theirs:
            assert theirs.convert("RGB").tobytes() != image.tobytes()
        kind, _, _ = DIFFERENCES[note].partition("_")
        assert any(kind in word or word.startswith(kind) for word in READING.split(","))
    picture(3).save(tmp_path / "plain.png")
    assert read(tmp_path / "plain.png") == (picture(3), ())
    assert f"|reading:{READING}|" in scorer.signature


def test_palettes_lose_nothing(scorer: HPSScorer, tmp_path: Path) -> None:
    palette = picture(5).convert("P")
    palette.save(tmp_path / "palette.png")
    (outcome,) = scorer.stream([tmp_path / "palette.png"], "a cat")
    assert outcome.notes == ()
    assert outcome.score == scorer.score([palette.convert("RGB")], "a cat")[0]


def test_counts_that_do_not_fit(scorer: HPSScorer, tmp_path: Path) -> None:
    two = [picture(0), picture(1)]
    with pytest.raises(ConfigError, match="one prompt for each of 2 images, got 3"):
        scorer.score(two, ["a cat"] * 3)
    for images, texts in [(iter(two), ["a cat"] * 3), (two, iter(["a cat"]))]:
        with pytest.raises(ConfigError, match="one prompt for each image"):
            scorer.score(images, texts)
    for alone in (picture(0), files(tmp_path, 1)[0], str(tmp_path), np.zeros((20, 20, 3))):
        with pytest.raises(ConfigError, match="put it into a list"):
            scorer.score(alone, "a cat")  # type: ignore[arg-type]
    assert scorer.score([], "a cat") == []


def test_a_broken_network_is_no_score() -> None:
    broken = build()
    with torch.no_grad():
        broken.model.visual.proj.fill_(float("nan"))
    outcomes = list(broken.stream([picture(0)] * 2, "a cat"))
    assert all(isinstance(outcome.error, ModelError) and outcome.score is None for outcome in outcomes)
    with pytest.raises(ModelError, match="finite score for image 0"):
        broken.score([picture(0)], "a cat")


def test_signatures_tell_settings_apart() -> None:
    ways = ({}, {"antialias": False}, {"mode": "compat"}, {"version": "v2.1"}, {"backend": "hpsv2"})
    scorers = [build(**settings) for settings in ways]
    signatures = [scorer.signature for scorer in scorers]
    assert signatures[0] == (
        "hps|version:own|model:small|backend:open_clip|mode:fp32|antialias:on|size:32|"
        "reading:v2,exif=turned,alpha=over_white,16bit=scaled,icc=to_srgb,tiny_or_narrow_or_no_prompt=refused|score:cosine"
    )
    assert len(set(signatures)) == len(signatures)
    assert [scorer.name for scorer in scorers] == [
        "small",
        "small antialias=off",
        "small mode=compat",
        "small v2.1",
        "small backend=hpsv2",
    ]
