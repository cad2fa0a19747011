"""CNNSpot, NPR, UnivFD and DRCT: published layouts, inputs, verdicts and heat maps against plain torch."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from support import tiny_classifiers as tiny
from torch import Tensor, nn
from torch.nn import functional
from torchvision import transforms

from refiner.cli.main import main
from refiner.detectors import load_detector
from refiner.detectors.baselines.detector import EXPLANATION, NAME, ClassifierDetector
from refiner.detectors.baselines.npr import Npr
from refiner.detectors.baselines.views import CLIP, IMAGENET, VIEWS, look
from refiner.detectors.gated import GatedDetector
from refiner.detectors.registry import detector_needs
from refiner.errors import BadAnswerError, ConfigError, ModelNotFoundError, UserError, WeightsError
from refiner.taxonomy import Category

Network = Callable[[Tensor], Tensor]
SIZES = [(224, 224), (301, 262), (130, 300), (96, 80)]


def picture(size: tuple[int, int] = (301, 262), seed: int = 0) -> Image.Image:
    """Noise in blocks of several sizes, mixed differently by each seed."""
    rng = np.random.default_rng(seed)
    width, height = size
    values = np.zeros((height, width, 3))
    for block, share in zip((1, 4, 16, 64), rng.dirichlet([0.5] * 4), strict=True):
        coarse = rng.integers(0, 256, (height // block + 1, width // block + 1, 3))
        values += share * coarse.repeat(block, axis=0).repeat(block, axis=1)[:height, :width]
    return Image.fromarray(values.astype(np.uint8))


def normal(image: Image.Image, statistics: Any, *before: Any) -> Tensor:
    steps = [*before, transforms.ToTensor(), transforms.Normalize(*statistics)]
    return transforms.Compose(steps)(image)[None]


def albumentations_crop(image: Image.Image) -> Image.Image:
    """PadIfNeeded(224, 224) with black, then CenterCrop(224), as their documentation has it: margins rounded down."""
    values = np.asarray(image)
    pads = [max(0, 224 - side) for side in values.shape[:2]]
    values = np.pad(values, [(pad // 2, pad - pad // 2) for pad in pads] + [(0, 0)])
    top, left = ((side - 224) // 2 for side in values.shape[:2])
    return Image.fromarray(values[top : top + 224, left : left + 224])


def one_sentence(message: str) -> bool:
    return message.endswith(".") and "\n" not in message and ": " in message and len(message) < 700


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One file of each kind."""
    root = tmp_path_factory.mktemp("classifiers")
    tiny.save_cnnspot(root / "blur_jpg_prob0.5.pth")
    tiny.save_npr(root / "NPR.pth")
    tiny.save_univfd(root / "fc_weights.pth")
    tiny.save_backbone(root / "clip")
    for kind in ("convnext", "clip"):
        tiny.save_drct(root / f"drct-{kind}.pth", kind)
    return root


def load(home: Path, kind: str, options: str = "") -> ClassifierDetector:
    files = {"cnnspot": "blur_jpg_prob0.5.pth", "npr": "NPR.pth", "univfd": f"fc_weights.pth,backbone={home / 'clip'}"}
    family, _, variant = kind.partition("-")
    found = load_detector(f"{family}:{home / files.get(family, f'drct-{variant}.pth')}{options}", device="cpu")
    assert isinstance(found, ClassifierDetector)
    return found


KINDS = ("cnnspot", "npr", "univfd", "drct-convnext", "drct-clip")


def cnnspot(image: Image.Image, home: Path, view: str) -> Tensor:
    steps = {"whole": [], "crop": [transforms.CenterCrop(224)]}[view]
    return tiny.cnnspot_network()(normal(image, tiny.IMAGENET, *steps)).sigmoid()


def npr(image: Image.Image, home: Path, view: str) -> Tensor:
    return tiny.npr_network()(normal(image, tiny.IMAGENET, transforms.Resize((256, 256)))).sigmoid()


def univfd(image: Image.Image, home: Path, view: str) -> Tensor:
    from transformers import CLIPModel

    network = CLIPModel.from_pretrained(home / "clip").eval()
    pixels = normal(image, tiny.CLIP, transforms.CenterCrop(224))
    features = network.visual_projection(network.vision_model(pixels).pooler_output)
    head = torch.load(home / "fc_weights.pth", weights_only=True)
    return functional.linear(features, head["weight"], head["bias"]).sigmoid()


def drct(kind: str) -> Callable[[Image.Image, Path, str], Tensor]:
    def judged(image: Image.Image, home: Path, view: str) -> Tensor:
        pixels = normal(albumentations_crop(image), tiny.IMAGENET)
        return 1 - tiny.drct_network(kind)(pixels).softmax(dim=1)[:, 0]

    return judged


PUBLISHED = {
    "cnnspot": (cnnspot, "whole"), "cnnspot,view=crop": (cnnspot, "crop"), "npr": (npr, ""), "univfd": (univfd, ""),
    "drct-convnext": (drct("convnext"), ""), "drct-clip": (drct("clip"), ""),
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_verdict_is_that_of_the_published_procedure(home: Path, name: str) -> None:
    kind, comma, option = name.partition(",")
    detector = load(home, kind, comma + option)
    judge, view = PUBLISHED[name]
    seen = []
    for seed, size in enumerate(SIZES):
        image = picture(size, seed)
        with torch.no_grad():
            wanted = judge(image, home, view).item()
        seen.append(detector(image).fake_probability or 0)
        assert seen[-1] == pytest.approx(wanted, abs=5e-5)
    assert max(seen) - min(seen) > 1e-3, "the verdicts must differ, else nothing was compared"


@pytest.mark.parametrize("size", SIZES)
def test_inputs_are_torchvisions(size: tuple[int, int]) -> None:
    image = picture(size)
    crop, resize = transforms.CenterCrop(224), transforms.Resize((256, 256))
    for view, statistics, steps in [
        ("whole", IMAGENET, []), ("crop", CLIP, [crop]), ("256", IMAGENET, [resize]), ("256-224", CLIP, [resize, crop]),
    ]:  # fmt: skip
        assert torch.equal(look(image, VIEWS[view]).pixels(statistics)[None], normal(image, statistics, *steps))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("view", VIEWS)
def test_a_map_of_the_input_lands_where_the_input_was(size: tuple[int, int], view: str) -> None:
    """The red channel of the input, as a map, is that of the image, in the part that was seen."""
    width, height = size
    gradient = np.linspace(20, 250, width)[None] * np.linspace(0.4, 1, height)[:, None]
    image = Image.fromarray(np.dstack([gradient.astype(np.uint8)] * 3))
    seen = look(image, VIEWS[view])
    heat = seen.heat(torch.from_numpy(np.array(seen.picture)[..., 0].astype(np.float32)))
    assert heat.shape == (height, width)
    assert heat.dtype == np.float32
    assert heat.max() == 1
    frame = {"crop": (224, 224), "256-224": (224 * height / 256, 224 * width / 256)}.get(view, (height, width))
    rows, columns = (slice(max(0, round((side - part) / 2)) + 3, round((side + part) / 2) - 3)
                     for side, part in zip((height, width), frame, strict=True))  # fmt: skip
    inside = np.zeros((height, width), dtype=bool)
    inside[rows, columns] = True
    values = np.asarray(image)[..., 0].astype(np.float32)
    assert np.abs(heat / heat[inside].max() - values / values[inside].max())[inside].max() < 0.03
    seen_at_all = inside.copy()
    seen_at_all[max(0, rows.start - 6) : rows.stop + 6, max(0, columns.start - 6) : columns.stop + 6] = True
    assert not heat[~seen_at_all].any()


def camera(network: nn.Module, layer: nn.Module, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Grad-CAM by hooks and a backward pass through the whole network; (h, w), and the logit."""
    kept: list[Tensor] = []
    hook = layer.register_forward_hook(lambda _module, _inputs, out: kept.append(out))
    scores = network(pixels.requires_grad_())
    hook.remove()
    logit = scores[0, 0] if scores.shape[1] == 1 else scores[0, 1] - scores[0, 0]
    (slopes,) = torch.autograd.grad(logit, kept[0])
    sums = sum(slopes[0, c].mean() * kept[0][0, c] for c in range(kept[0].shape[1]))
    return torch.clamp(sums, min=0).detach(), logit  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["cnnspot", "npr", "drct-convnext"])
def test_grad_cam_is_that_of_a_pass_through_the_whole_network(home: Path, kind: str) -> None:
    image, detector = picture((224, 224)), load(home, kind)
    network = {"cnnspot": tiny.cnnspot_network, "npr": tiny.npr_network}.get(
        kind, lambda: tiny.drct_network("convnext")
    )()
    layer = {"cnnspot": "layer4", "npr": "layer2"}.get(kind, "model.stages")
    pixels = look(image, detector.view).pixels(IMAGENET)[None]
    wanted, logit = camera(network, network.get_submodule(layer), pixels.clone())
    found = detector.model.explained(pixels.clone())
    assert wanted.max() > 0
    assert torch.allclose(found.maps[0], wanted, atol=1e-5 * float(wanted.max()))
    assert found.logits[0] == pytest.approx(float(logit.detach()), abs=1e-4)


@pytest.mark.parametrize("kind", ["univfd", "drct-clip"])
def test_relevance_is_that_of_slow_loops(home: Path, kind: str) -> None:
    """Head by head and layer by layer, with attention kept by hooks instead of the model's own outputs."""
    detector: Any = load(home, kind)
    pixels = look(picture(), detector.view, round_down=detector.model.round_down).pixels(detector.model.statistics)
    kept: list[Tensor] = []
    hooks = [
        layer.self_attn.register_forward_hook(lambda _module, _inputs, out: kept.append(out[1]))
        for layer in detector.model.tower.vision_model.encoder.layers
    ]
    scores = detector.model.head(detector.model.tower(pixels[None].requires_grad_()).image_embeds)
    for hook in hooks:
        hook.remove()
    logit = scores[0, 0] if scores.shape[1] == 1 else scores[0, 1] - scores[0, 0]
    assert len(kept) == 3
    joined = np.eye(17)
    for attention, slope in zip(kept, torch.autograd.grad(logit, kept), strict=True):
        heads = [np.maximum((a * g).double().detach().numpy(), 0) for a, g in zip(attention[0], slope[0], strict=True)]
        joined = joined + np.mean(heads, axis=0) @ joined
    found = detector.model.explained(pixels[None].clone())
    assert joined[0, 1:].max() > 0
    assert np.allclose(found.maps[0].numpy(), joined[0, 1:].reshape(4, 4), rtol=1e-3, atol=1e-6)


def test_npr_looks_where_neighbouring_pixels_differ() -> None:
    """Where all pixels are equal, nothing reaches the last layer of a network without biases."""
    torch.manual_seed(0)
    network = Npr()
    nn.init.uniform_(network.fc1.weight)
    detector = ClassifierDetector(network, name="npr", view="whole", regions=True)
    values = np.full((128, 256, 3), 90, dtype=np.uint8)
    values[:, :128] = np.random.default_rng(0).integers(0, 256, (128, 128, 3))
    analysis = detector(Image.fromarray(values))
    heat = analysis.heatmap
    assert heat is not None
    assert heat[:, :110].mean() > 0.2
    assert not heat[:, 188:].any()
    assert analysis.fake_probability is not None
    assert analysis.fake_probability > 0.5
    assert analysis.regions
    assert not analysis.mask[:, 188:].any()
    assert np.array_equal(analysis.mask, heat > 0.5)
    region = analysis.regions[0]
    assert (region.name, region.explanation, region.category) == (NAME, EXPLANATION, Category.TEXTURE)
    assert region.score == analysis.fake_probability


@pytest.mark.parametrize("kind", KINDS)
def test_regions_are_only_there_on_request_and_only_with_a_verdict(home: Path, kind: str) -> None:
    plain, asked = load(home, kind), load(home, kind, ",regions=heatmap")
    head = [module for module in asked.model.modules() if isinstance(module, nn.Linear)][-1]
    for image in (picture((130, 96)), picture((64, 64), 1)):
        assert plain(image).regions == ()
        for shift in (40.0, -40.0):
            with torch.no_grad():
                head.bias += torch.tensor([shift]) if len(head.bias) == 1 else torch.tensor([0.0, shift])
            analysis = asked(image)
            assert bool(analysis.regions) == (shift > 0)
            assert analysis.heatmap is not None
            if analysis.heatmap.any() and shift > 0:
                assert np.array_equal(analysis.mask, analysis.heatmap > 0.5)
            with torch.no_grad():
                head.bias -= torch.tensor([shift]) if len(head.bias) == 1 else torch.tensor([0.0, shift])


def test_a_verdict_without_any_heat_is_an_unplaced_region(home: Path) -> None:
    detector: Any = load(home, "cnnspot", ",regions=heatmap")
    with torch.no_grad():
        detector.model.network.fc.weight.zero_()
        detector.model.network.fc.bias.fill_(3.0)
    (region,) = detector(picture()).regions
    assert (region.mask, region.box, region.placed) == (None, None, False)


def test_an_odd_image_is_whole_for_npr_but_for_its_last_line(home: Path) -> None:
    detector = load(home, "npr", ",view=whole")
    values = np.asarray(picture((65, 47)))
    cut = detector(Image.fromarray(values[:46, :64].copy()))
    assert detector(Image.fromarray(values)).fake_probability == pytest.approx(cut.fake_probability, abs=1e-6)
    pixels = normal(Image.fromarray(values[:46, :64].copy()), tiny.IMAGENET)
    with torch.no_grad():
        assert cut.fake_probability == pytest.approx(float(tiny.npr_network()(pixels).sigmoid()), abs=1e-5)


def test_more_than_two_classes_are_all_generated_but_the_first(tmp_path: Path) -> None:
    network = tiny.drct_network("convnext", classes=5)
    detector = load_detector(f"drct:{tiny.save_drct(tmp_path / 'five.pth', '', network)}", device="cpu")
    with torch.no_grad():
        scores = network(normal(albumentations_crop(picture()), tiny.IMAGENET))
    assert detector(picture()).fake_probability == pytest.approx(1 - float(scores.softmax(1)[0, 0]), abs=1e-5)


def test_each_layout_is_read_however_it_was_saved(home: Path, tmp_path: Path) -> None:
    """Old pickles, safetensors, a state dict in a wrapper, and names of DataParallel."""
    state = tiny.npr_network().state_dict()
    torch.save(state, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    save_file(state, tmp_path / "npr.safetensors")
    torch.save({"state_dict": {f"module.{name}": value for name, value in state.items()}}, tmp_path / "wrapped.pth")
    counted = {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}
    torch.save({"model": counted, "total_steps": 3}, tmp_path / "counted.pth")
    wanted = load(home, "npr")(picture()).fake_probability
    for path in tmp_path.iterdir():
        assert load_detector(f"npr:{path}", device="cpu")(picture()).fake_probability == wanted


@pytest.mark.parametrize("whole", [True, False])
def test_the_backbone_may_be_all_of_clip_or_its_image_encoder(home: Path, tmp_path: Path, whole: bool) -> None:
    folder = tiny.save_backbone(tmp_path / "backbone", whole=whole)
    detector = load_detector(f"univfd:{home / 'fc_weights.pth'},backbone={folder}", device="cpu")
    assert detector.name.startswith("univfd[backbone]:fc_weights@")
    assert 0 < (detector(picture()).fake_probability or 0) < 1


def test_folders_are_recognised_by_their_files(home: Path, tmp_path: Path) -> None:
    for family, file in {"cnnspot": "blur_jpg_prob0.5.pth", "npr": "NPR.pth"}.items():
        (tmp_path / family).mkdir()
        (tmp_path / family / file).hardlink_to(home / file)
        name = load_detector(tmp_path / family, device="cpu").name
        assert name.startswith(f"{family}:{Path(file).stem}@")
        assert name == load(home, family).name


def test_needs_are_known_without_loading(home: Path) -> None:
    assert list(detector_needs(f"npr:{home / 'NPR.pth'}")) == [home / "NPR.pth"]
    file = home / "fc_weights.pth"
    assert list(detector_needs(f"univfd:{file},backbone={home / 'clip'}")) == [file, home / "clip"]
    needs = list(detector_needs(f"univfd:{file}"))
    assert getattr(needs[1], "name", "") == "openai/clip-vit-large-patch14"


def damaged_files() -> dict[str, tuple[Callable[[Path], object], str]]:
    npr = tiny.npr_network().state_dict()

    def changed(**values: Tensor) -> Callable[[Path], object]:
        return lambda path: torch.save({**npr, **values}, path)

    return {
        "empty": (lambda path: path.write_bytes(b""), "cannot be read"),
        "a text": (lambda path: path.write_text("no weights"), "cannot be read"),
        "truncated": (lambda path: path.write_bytes(tiny.save_npr(path).read_bytes()[:-400]), "cannot be read"),
        "a pickled network": (lambda path: torch.save(tiny.npr_network(), path), "cannot be read"),
        "a list": (lambda path: torch.save([torch.zeros(3)], path), "other than named tensors"),
        "numbers": (lambda path: torch.save({"conv1.weight": 3}, path), "other than named tensors"),
        "nothing": (lambda path: torch.save({}, path), "missing"),
        "another network": (lambda path: tiny.save_drct(path, "convnext"), "unexpected"),
        "a weight too many": (changed(extra=torch.zeros(1)), r"unexpected \['extra'\]"),
        "another shape": (changed(**{"fc1.weight": torch.zeros(1, 3)}), "fc1.weight of shape"),
    }


@pytest.mark.parametrize("kind", damaged_files())
def test_a_file_that_is_not_the_networks_is_refused_in_one_sentence(tmp_path: Path, kind: str) -> None:
    damage, said = damaged_files()[kind]
    damage(tmp_path / "net.pth")
    with pytest.raises(WeightsError, match=said) as caught:
        load_detector(f"npr:{tmp_path / 'net.pth'}", device="cpu")
    assert one_sentence(str(caught.value))


@pytest.mark.parametrize("kind", ["convnext", "clip"])
def test_any_missing_or_bent_weight_of_drct_is_named(tmp_path: Path, kind: str) -> None:
    whole = tiny.drct_network(kind).state_dict()
    used = [name for name in whole if kind == "convnext" or "visual" in name or ".fc." in f".{name}"]
    assert len(used) < len(whole) or kind == "convnext"
    for name in used[:: max(1, len(used) // 6)]:
        for state in (
            {key: value for key, value in whole.items() if key != name},
            {**whole, name: torch.zeros(2, 2, 2)},
        ):
            torch.save(state, tmp_path / "net.pth")
            with pytest.raises(WeightsError) as caught:
                load_detector(f"drct:{tmp_path / 'net.pth'}", device="cpu")
            assert one_sentence(str(caught.value)), name


def test_heads_and_backbones_that_do_not_fit_are_refused(home: Path, tmp_path: Path) -> None:
    head = tiny.save_univfd(tmp_path / "wide.pth", 768)
    wrong = tmp_path / "bert"
    wrong.mkdir()
    (wrong / "config.json").write_text(json.dumps({"model_type": "bert"}))
    cut = tmp_path / "cut"
    tiny.save_backbone(cut)
    (cut / "model.safetensors").write_bytes((cut / "model.safetensors").read_bytes()[:-90])
    for file, backbone, error, said in [
        (head, home / "clip", ConfigError, "takes 768 channels"),
        (home / "NPR.pth", home / "clip", WeightsError, "fc_weights.pth"),
        (home / "fc_weights.pth", wrong, WeightsError, "a model of type 'bert'"),
        (home / "fc_weights.pth", cut, WeightsError, "not a complete safetensors"),
        (home / "fc_weights.pth", tmp_path / "nowhere at all", ModelNotFoundError, "check the path"),
    ]:
        with pytest.raises(error, match=said) as caught:
            load_detector(f"univfd:{file},backbone={backbone}", device="cpu")
        assert one_sentence(str(caught.value))
        assert isinstance(caught.value, UserError)


@pytest.mark.parametrize(
    ("id_", "error", "said"),
    [
        ("cnnspot:", ModelNotFoundError, "check the path"),
        ("npr:nowhere.pth", ModelNotFoundError, "the classifier's weight file"),
        ("drct:{}", ModelNotFoundError, "name the file"),
        ("npr:{}/NPR.pth,view=crop", ConfigError, "the view 256 or whole or 256-224"),
        ("univfd:{}/fc_weights.pth,backbone={}/clip,view=whole", ConfigError, "the view crop"),
        ("npr:{}/NPR.pth,regions=boxes", ConfigError, "regions=heatmap"),
        ("npr:{}/NPR.pth,backbone=x", ConfigError, r"regions=\.\.\., view=\.\.\."),
        ("cnnspot:{}/NPR.pth", WeightsError, "missing"),
    ],
)
def test_wrong_ids_are_refused_in_one_sentence(home: Path, id_: str, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said) as caught:
        load_detector(id_.replace("{}", str(home)), device="cpu")
    assert one_sentence(str(caught.value))


def test_an_answer_that_is_not_finite_is_no_verdict(tmp_path: Path) -> None:
    network = copy.deepcopy(tiny.npr_network())
    with torch.no_grad():
        network.fc1.bias.fill_(torch.nan)
    with pytest.raises(BadAnswerError, match="NaN or infinity"):
        load_detector(f"npr:{tiny.save_npr(tmp_path / 'nan.pth', network)}", device="cpu")(picture())


@pytest.mark.parametrize("kind", ["univfd", "drct-convnext"])
def test_half_precision_gives_nearly_the_same(home: Path, kind: str) -> None:
    whole, half = load(home, kind), load(home, kind)
    half.model.to(torch.bfloat16)
    exact, rough = whole(picture()), half(picture())
    assert rough.fake_probability == pytest.approx(exact.fake_probability, abs=0.05)
    assert exact.heatmap is not None
    assert rough.heatmap is not None
    assert rough.heatmap.dtype == np.float32
    assert np.abs(rough.heatmap - exact.heatmap).mean() < 0.05


def test_it_gates_another_detector_and_works_inside_inference_mode(home: Path) -> None:
    gate = load(home, "npr")
    gated = GatedDetector(lambda image: [], gate)
    with torch.inference_mode():
        assert gated(picture()).fake_probability == gate(picture()).fake_probability


def test_it_is_there_on_the_command_line(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture().save(tmp_path / "picture.png")
    command = ["detect", str(tmp_path / "picture.png"), "--device", "cpu", "--json", "--detector"]
    assert main([*command, f"npr:{home / 'NPR.pth'}"]) == 0
    assert '"fake_probability": 0.' in capsys.readouterr().out
    assert main([*command, f"npr:{home / 'fc_weights.pth'}"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_the_papers_table_has_its_verdicts_and_heat_maps(home: Path, tmp_path: Path) -> None:
    detector, out = f"npr:{home / 'NPR.pth'}", tmp_path / "run"
    command = ["evaluate", "detection", "--data", "micro:4", "--detector", detector, "--device", "cpu"]
    assert main([*command, "--out", str(out), "--json"]) == 0
    figures = json.loads((out / "table.json").read_text())["figures"]
    assert figures["images"] == 4
    assert 0 < figures["heatmap_images"] < 4, "those of the generated images"
    assert 0 <= figures["heatmap_IoU"] <= figures["heatmap_PixF1"] <= 1
    header = next(line for line in (out / "table.md").read_text().splitlines() if line.startswith("| group"))
    assert header.endswith("| Acc | Balanced | F1 | P | R | IoU | PixF1 | coverage |")
