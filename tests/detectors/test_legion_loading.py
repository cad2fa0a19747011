"""LEGION's folders in every layout: the same answers, and one sentence about what is wrong with a damaged one."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from support.conformance import assert_same
from support.legion_folders import LAYOUTS, TEXT, WORDS, Layout, original_state, save_original, save_weights, tower

from refiner.detectors import load_detector
from refiner.detectors.legion.conversion import convert_weight
from refiner.detectors.legion.detector import LegionDetector
from refiner.detectors.legion.saving import convert_folder
from refiner.errors import ModelNotFoundError, OutputError, WeightsError
from refiner.types import Analysis

TOKENS = 24


def pictures() -> list[Image.Image]:
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in ((40, 60), (33, 21), (90, 30))]
    return [Image.fromarray(pixels) for pixels in noise]


def loaded(folder: Path) -> LegionDetector:
    found = load_detector(folder, device="cpu")
    assert isinstance(found, LegionDetector)
    found.model.config.max_new_tokens = TOKENS
    return found


def assert_equal(one: LegionDetector, other: LegionDetector) -> None:
    """Same tokens, pixels, answers and masks."""
    images = pictures()
    assert torch.equal(one.prompt_ids(), other.prompt_ids())
    for name in ("clip_processor", "sam_processor"):
        first, second = (getattr(each, name)(images, return_tensors="pt")["pixel_values"] for each in (one, other))
        assert torch.equal(first, second)
    for answer, again in zip(one.batch(images), other.batch(images), strict=True):
        assert_same(answer, again)
        assert answer.tags == again.tags


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[Layout, Path]:
    root = tmp_path_factory.mktemp("legion")
    return {layout: save_original(root / layout, layout) for layout in LAYOUTS}


@pytest.fixture(scope="module")
def first(folders: dict[Layout, Path]) -> LegionDetector:
    return loaded(folders["legion"])


@pytest.fixture(scope="module")
def answers(first: LegionDetector) -> list[Analysis]:
    return first.batch(pictures())


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_loads_whole(folders: dict[Layout, Path], layout: Layout) -> None:
    detector = loaded(folders[layout])
    own = detector.model.state_dict()
    for key, weight in original_state(layout).items():
        for name, wanted in convert_weight(key, weight).items():
            assert torch.equal(own[name], wanted), key
    for name, weight in tower().state_dict().items():
        assert torch.equal(own[f"llava.model.vision_tower.{name}"], weight), name
    assert (detector.model.prediction_head is not None) == (layout == "stage-2")
    assert detector.tokenizer.convert_tokens_to_ids("<image>") == WORDS
    assert detector.model.llava.config.image_token_index == WORDS


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_answers(
    folders: dict[Layout, Path], answers: list[Analysis], layout: Layout
) -> None:
    for found, wanted in zip(loaded(folders[layout]).batch(pictures()), answers, strict=True):
        assert (found.raw, found.tags) == (wanted.raw, wanted.tags)
        assert (found.fake_probability is None) == (layout != "stage-2")
        for one, other in zip(found.regions, wanted.regions, strict=True):
            assert one.mask is not None
            assert np.array_equal(one.mask, other.mask)


def test_answers_have_regions_and_say_what_could_not_be_used(answers: list[Analysis]) -> None:
    for answer in answers:
        assert len(answer.regions) == answer.raw.count("[SEG]") > 1
        assert answer.tags[-1] == "answer cut at the maximum length"


def test_an_answer_that_lost_its_masks_does_not_look_clean(folders: dict[Layout, Path]) -> None:
    """A model that begins with a phrase, and never writes [SEG]."""
    detector = loaded(folders["legion"])
    begins = detector.tokenizer.convert_tokens_to_ids(detector.tokenizer.tokenize(detector.batch(pictures())[0].raw)[1])
    opening, mark = detector.tokenizer.convert_tokens_to_ids(["<p>", "[SEG]"])
    with torch.no_grad():
        head = detector.model.llava.lm_head.weight
        head[opening], head[begins], head[mark] = 1.05 * head[begins], 0, 0
    for image, analysis in zip(pictures(), detector.batch(pictures()), strict=True):
        (region,) = analysis.regions
        assert not region.placed
        assert 0 < region.score < 1
        assert region.explanation.startswith(region.name)
        assert any(tag.startswith("text without [SEG]") for tag in analysis.tags)
        assert_same(analysis, detector(image))


def test_special_tokens_keep_the_space_after_them(first: LegionDetector) -> None:
    """As the tokenizer of the published code does: it takes the space before them only."""
    text = "the <im_start>hand <p> a </p> b"
    pieces = first.tokenizer.convert_ids_to_tokens(first.tokenizer(text)["input_ids"])
    assert "".join(pieces[pieces.index("<p>") + 1 : pieces.index("</p>")]) == "▁a"
    assert "".join(pieces[pieces.index("</p>") + 1 :]) == "▁b"


def test_greedy_decoding_is_not_overridden(first: LegionDetector) -> None:
    assert first.model.config.clean_threshold is None
    assert first._clean_ids() == []


@pytest.mark.parametrize("layout", LAYOUTS)
def test_saved_and_converted_folders_are_equal_to_the_original(
    folders: dict[Layout, Path], tmp_path: Path, layout: Layout
) -> None:
    original = loaded(folders[layout])
    original.save_pretrained(tmp_path / "saved")
    assert_equal(original, loaded(tmp_path / "saved"))
    for most_bytes in (30_000, 10**9):
        target = convert_folder(folders[layout], tmp_path / str(most_bytes), most_bytes=most_bytes)
        assert_equal(original, loaded(target))
        files = [path for path in target.rglob("*") if path.suffix in (".bin", ".safetensors")]
        assert {path.suffix for path in files} == {".safetensors"}
        assert (len(files) > 10) == (most_bytes == 30_000)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_keeps_its_dtype_through_a_conversion(tmp_path: Path, dtype: torch.dtype) -> None:
    state = {key: weight.to(dtype) for key, weight in original_state().items()}
    save_original(tmp_path / "half", state=state)
    convert_folder(tmp_path / "half", tmp_path / "ours")
    for folder in ("half", "ours"):
        detector = LegionDetector.from_pretrained(tmp_path / folder, device="cpu", dtype=dtype)
        detector.model.config.max_new_tokens = 8
        assert {weight.dtype for weight in detector.model.parameters()} == {dtype}
        assert detector(pictures()[0]).raw
        assert LegionDetector.from_pretrained(tmp_path / folder, device="cpu").model.dtype == torch.float32


Damage = Callable[[Path], Any]


def rewritten(file: str, change: Callable[[dict[str, Any]], Any]) -> Damage:
    def damage(folder: Path) -> None:
        document = json.loads((folder / file).read_text())
        (folder / file).write_text(json.dumps(change(document)))

    return damage


def weights(change: Callable[[dict[str, torch.Tensor]], Any]) -> Damage:
    def damage(folder: Path) -> None:
        state = original_state()
        change(state)
        save_weights(folder, state, 2, "legion")

    return damage


def without_its_weights(folder: Path) -> None:
    for path in folder.glob("pytorch_model*"):
        path.unlink()


def deepspeed(folder: Path) -> None:
    without_its_weights(folder)
    (folder / "global_step703").mkdir()
    (folder / "zero_to_fp32.py").write_text("")


def truncated(folder: Path) -> None:
    path = folder / "pytorch_model-00002-of-00002.bin"
    path.write_bytes(path.read_bytes()[:5000])


INDEX, SHARD = "pytorch_model.bin.index.json", "pytorch_model-00002-of-00002.bin"
DAMAGES: dict[str, tuple[Damage, str]] = {
    "a missing shard": (lambda folder: (folder / SHARD).unlink(), rf"{SHARD}' is missing"),
    "a missing shard without an index": (
        lambda folder: [(folder / name).unlink() for name in (INDEX, SHARD)],
        rf"{SHARD}' is missing",
    ),
    "no weights": (without_its_weights, "holds no weights"),
    "a truncated shard": (truncated, rf"{SHARD}' cannot be read"),
    "a shard that is text": (lambda folder: (folder / SHARD).write_text("<html>"), rf"{SHARD}' cannot be read"),
    "a shard with objects": (lambda folder: torch.save({"a": Path()}, folder / SHARD), rf"{SHARD}' cannot be read"),
    "a shard that is a list": (lambda folder: torch.save([1], folder / SHARD), "other than named tensors"),
    "a shard of another model": (lambda folder: torch.save({}, folder / SHARD), "lacks '.*', which its index names"),
    "an index that is no JSON": (lambda folder: (folder / INDEX).write_text("{"), "index .* cannot be read"),
    "an index that is a list": (lambda folder: (folder / INDEX).write_text("[]"), "index .* cannot be read"),
    "an index without files": (rewritten(INDEX, lambda _: {"weight_map": {}}), "index .* cannot be read"),
    "an index that leads elsewhere": (
        rewritten(INDEX, lambda _: {"weight_map": {"lm_head.weight": "../../etc/passwd"}}),
        "is no name of a file",
    ),
    "a missing weight": (weights(lambda state: state.pop("model.norm.weight")), "norm.weight is missing"),
    "no head": (weights(lambda state: state.pop("lm_head.weight")), "lm_head.weight is missing"),
    "no mask decoder": (
        weights(lambda state: [state.pop(key) for key in list(state) if "mask_decoder" in key]),
        "lacks .*mask_decoder",
    ),
    "no image encoder": (
        weights(lambda state: [state.pop(key) for key in list(state) if "image_encoder" in key]),
        "lacks .*vision_encoder",
    ),
    "a tensor of another shape": (
        weights(lambda state: state.update({"model.norm.weight": torch.ones(TEXT + 1)})),
        rf"norm.weight has the shape \({TEXT + 1},\) instead of \({TEXT},\)",
    ),
    "a foreign weight": (weights(lambda state: state.update({"bert.x": torch.ones(1)})), "'bert.x' is not part of"),
    "unmerged adapters": (
        weights(lambda state: state.update({"model.layers.0.self_attn.q_proj.lora_A.weight": torch.ones(1)})),
        "merge_and_unload",
    ),
    "a tower of text": (
        lambda folder: (folder / "vision_tower" / "model.safetensors").write_text("x"),
        "CLIP tower .* cannot be loaded",
    ),
    "no tokenizer": (lambda folder: (folder / "tokenizer.model").unlink(), "tokenizer.model' is missing"),
    "a tokenizer of text": (
        lambda folder: (folder / "tokenizer.model").write_text("text"),
        "tokenizer.model' cannot be read",
    ),
    "no id for the image": (
        rewritten("config.json", lambda config: config | {"vocab_size": WORDS + 1}),
        f"vocab_size of {WORDS + 1}, but its tokenizer has {WORDS} tokens, so that no id is left for the image",
    ),
    "too few rows": (
        weights(lambda state: state.update({"lm_head.weight": state["lm_head.weight"][:-1]})),
        "vocab_size of .* rows",
    ),
    "no vocab_size": (
        rewritten("config.json", lambda config: {k: v for k, v in config.items() if k != "vocab_size"}),
        "lacks 'vocab_size'",
    ),
    "a hidden size of text": (
        rewritten("config.json", lambda config: config | {"hidden_size": "wide"}),
        "do not fit together|make no network",
    ),
    "no heads": (
        rewritten("config.json", lambda config: config | {"num_attention_heads": 0}),
        "do not fit together|make no network",
    ),
    "a DeepSpeed checkpoint": (deepspeed, "zero_to_fp32.py .*merge_and_unload"),
    "a PEFT adapter": (lambda folder: (folder / "adapter_config.json").write_text("{}"), "PEFT adapter"),
    "a config that is no JSON": (lambda folder: (folder / "config.json").write_text("{"), "config .* cannot be read"),
    "another model": (rewritten("config.json", lambda _: {"model_type": "bert"}), "a model of type 'bert'"),
}


@pytest.mark.parametrize("damage", sorted(DAMAGES))
def test_a_damaged_folder_is_refused_in_one_sentence(folders: dict[Layout, Path], tmp_path: Path, damage: str) -> None:
    hurt, words = DAMAGES[damage]
    folder = tmp_path / "folder"
    shutil.copytree(folders["legion"], folder)
    hurt(folder)
    for use in (
        lambda: LegionDetector.from_pretrained(folder, device="cpu"),
        lambda: convert_folder(folder, tmp_path / "out"),
    ):
        with pytest.raises(WeightsError, match=words) as caught:
            use()
        assert "\n" not in str(caught.value)
        assert str(caught.value).endswith(".")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"], "no half folder is left"


def test_a_missing_tower_is_refused(folders: dict[Layout, Path], tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    shutil.copytree(folders["legion"], folder, ignore=shutil.ignore_patterns("vision_tower"))
    with pytest.raises((WeightsError, ModelNotFoundError), match="somewhere/else"):
        LegionDetector.from_pretrained(folder, device="cpu")


def test_a_folder_with_files_is_not_written_over(folders: dict[Layout, Path], tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(OutputError, match="is not empty"):
        convert_folder(folders["legion"], tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"is not empty|Cannot write"):
        convert_folder(folders["legion"], tmp_path / "file")


def test_refiners_own_layout_is_not_converted_again(folders: dict[Layout, Path], tmp_path: Path) -> None:
    target = convert_folder(folders["legion"], tmp_path / "ours")
    with pytest.raises(WeightsError, match="layout already"):
        convert_folder(target, tmp_path / "again")


PEAK = """
import sys
from pathlib import Path
from refiner.detectors.legion.saving import convert_folder
before = int(next(l for l in open("/proc/self/status") if l.startswith("VmHWM")).split()[1])
convert_folder(Path(sys.argv[1]), Path(sys.argv[2]), most_bytes=8 * 2**20)
print(int(next(l for l in open("/proc/self/status") if l.startswith("VmHWM")).split()[1]) - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_the_memory_of_a_conversion_does_not_grow_with_the_number_of_shards(tmp_path: Path) -> None:
    """Four layers in one file each, and sixteen: four times the weights, a few megabytes more at the peak."""
    peaks = []
    for layers in (4, 16):
        state, inner = original_state(), 2**15
        block = {key: state.pop(key) for key in list(state) if ".layers.0." in key and key.startswith("model.layers")}
        for number in range(layers):
            state |= {key.replace("layers.0", f"layers.{number}"): weight for key, weight in block.items()}
            for name, shape in (("gate", (inner, TEXT)), ("up", (inner, TEXT)), ("down", (TEXT, inner))):
                state[f"model.layers.{number}.mlp.{name}_proj.weight"] = torch.zeros(shape)
        folder = save_original(tmp_path / str(layers), state=state, num_hidden_layers=layers, intermediate_size=inner)
        for path in folder.glob("pytorch_model*"):
            path.unlink()
        save_weights(folder, state, layers, "legion")
        del state
        done = subprocess.run(
            [sys.executable, "-P", "-c", PEAK, str(folder), str(tmp_path / f"out-{layers}")],
            check=True,
            capture_output=True,
            text=True,
        )
        peaks.append(int(done.stdout) / 1024)
    print(peaks)
    assert peaks[1] < peaks[0] + 40, f"{peaks} MiB for 100 and 400 MiB of weights"
