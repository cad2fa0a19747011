"""``refiner evaluate pad``: folders in, official tables out, against an independent count."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from refiner.data.xaigd.predictions import TRANSFORMS, Transform, read_prediction
from refiner.errors import ConfigError, InputError, OutputError
from refiner.metrics.pad import evaluate_pad
from refiner.taxonomy import XaigdCategory
from refiner.types import Size

TEXTURE, COLOR = "low-level-texture", "low-level-color"
PIXEL_COLUMNS = "generator,task,category,IoU,PixP,PixR,PixF1,evaluated_images,zero_prediction_images"
INSTANCE_COLUMNS = (
    "generator,category,P@0.5,R@0.5,F1@0.5,TP,FP,FN,evaluated_images,zero_prediction_images,invalid_prediction_boxes"
)
TRUTH = {  # boxes are half-open; a polygon reaches its last row and column
    ("gen-b", "u1"): {TEXTURE: [(2, 2, 12, 12)], COLOR: [(8, 8, 20, 14)]},
    ("gen-b", "u2"): {},
    ("gen-a", "u1"): {TEXTURE: [(0, 0, 5, 30), (25, 10, 40, 30)]},
}
SIZE = Size(30, 40)


def block(boxes, size=SIZE):
    mask = np.zeros(size, dtype=bool)
    for x0, y0, x1, y1 in boxes:
        mask[y0:y1, x0:x1] = True
    return mask


def whole(categories):
    return block([box for boxes in categories.values() for box in boxes])


@pytest.fixture
def data(tmp_path: Path) -> str:
    rows = []
    for (generator, uid), categories in TRUTH.items():
        labels = [
            {"label": name, "points": [[x0, y0], [x1 - 1, y0], [x1 - 1, y1 - 1], [x0, y1 - 1]]}
            for name, boxes in categories.items()
            for x0, y0, x1, y1 in boxes
        ]
        rows.append({"generator": generator, "uid": uid, "width": 40, "height": 30, "labels": labels})
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "labeled_test.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return f"xaigd:{folder}"


def save(mask, *parts, name="mask.png"):
    folder = Path(*parts)
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(mask.astype(np.uint8) * 255).save(folder / name)


def figures(pairs):
    tp = sum(int((predicted & truth).sum()) for predicted, truth in pairs)
    fp = sum(int((predicted & ~truth).sum()) for predicted, truth in pairs)
    fn = sum(int((truth & ~predicted).sum()) for predicted, truth in pairs)
    precision, recall = tp / max(1, tp + fp), tp / max(1, tp + fn)
    f1 = 2 * precision * recall / (precision + recall) if tp else 0.0
    return {"IoU": tp / max(1, tp + fp + fn), "PixP": precision, "PixR": recall, "PixF1": f1}


def table(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_agnostic_tables_against_an_independent_count(tmp_path, data):
    root, rng = tmp_path / "p", np.random.default_rng(3)
    predicted = {name: rng.random(SIZE) < 0.3 for name in TRUTH}
    for (generator, uid), mask in predicted.items():
        left = mask.copy()
        left[:, 20:] = False
        save(left, root, generator, uid, name="left.png")
        save(mask & ~left, root, generator, uid, name="right.png")
    truth = {name: whole(boxes) for name, boxes in TRUTH.items()}
    found = evaluate_pad(root, data, out=tmp_path / "out")
    row = found["rows"][0]
    assert (row["generator"], row["task"], row["category"]) == ("all", "category-agnostic", "all")
    assert (row["evaluated_images"], row["zero_prediction_images"]) == (3, 0)
    wanted = figures([(predicted[name], truth[name]) for name in TRUTH])
    assert {name: row[name] for name in wanted} == pytest.approx(wanted, abs=1e-12)
    by_generator = {row["generator"]: row for row in found["per_generator"]}
    assert list(by_generator) == ["gen-a", "gen-b"]
    wanted = figures([(predicted[name], truth[name]) for name in TRUTH if name[0] == "gen-b"])
    assert {name: by_generator["gen-b"][name] for name in wanted} == pytest.approx(wanted, abs=1e-12)
    assert (tmp_path / "out" / "overall.csv").read_text().splitlines()[0] == PIXEL_COLUMNS
    assert [float(row["IoU"]) for row in table(tmp_path / "out" / "per_generator.csv")] == [
        row["IoU"] for row in found["per_generator"]
    ]
    assert json.loads((tmp_path / "out" / "pad.json").read_text()) == found
    assert found["comparable"]
    assert not list((tmp_path / "out").glob("*.part"))
    assert found["by_artifact_ratio"]["PAR=0"]["images"] == 1


def test_per_image_records_give_the_table_again(tmp_path, data):
    root = tmp_path / "p"
    save(block([(0, 0, 9, 9)]), root, "gen-b", "u1")
    save(block([(0, 0, 9, 9)]), root, "gen-a", "u1")
    found = evaluate_pad(root, data, out=tmp_path / "out")
    records = [json.loads(line) for line in (tmp_path / "out" / "per_image.jsonl").read_text().splitlines()]
    assert [(each["generator"], each["uid"]) for each in records] == list(TRUTH)
    tp, fp, fn = (sum(each[name] for each in records) for name in ("tp", "fp", "fn"))
    assert tp / (tp + fp + fn) == found["rows"][0]["IoU"]
    assert [each["missing"] for each in records] == [False, True, False]
    assert all(each["tp"] + each["fp"] + each["fn"] + each["tn"] == 1200 for each in records)
    assert found["missing_predictions"] == 1


def test_fine_grained_perfect_prediction_is_perfect_and_shuffled_is_not(tmp_path, data):
    perfect, shuffled = tmp_path / "perfect", tmp_path / "shuffled"
    rng = np.random.default_rng(0)
    for (generator, uid), categories in TRUTH.items():
        for name, boxes in categories.items():
            save(block(boxes), perfect, generator, name, uid)
            save(rng.permutation(block(boxes).ravel()).reshape(SIZE), shuffled, generator, name, uid)
    rows = {row["category"]: row for row in evaluate_pad(perfect, data, task="fine-grained")["rows"]}
    assert list(rows) == list(XaigdCategory)
    for name in (TEXTURE, COLOR):
        assert [rows[name][figure] for figure in ("IoU", "PixP", "PixR", "PixF1")] == [1, 1, 1, 1]
    assert rows["low-level-symbol"]["IoU"] == 0
    assert rows["low-level-symbol"]["zero_prediction_images"] == 3
    worse = {row["category"]: row["IoU"] for row in evaluate_pad(shuffled, data, task="fine-grained")["rows"]}
    assert worse[COLOR] < 0.1


@pytest.mark.parametrize(("transform", "side"), [("256-224", 224), ("518", 518)])
def test_truth_is_brought_to_the_size_of_the_predictions(tmp_path, data, transform, side):
    root = tmp_path / "p"
    for (generator, uid), categories in TRUTH.items():
        save(TRANSFORMS[transform](whole(categories)), root, generator, uid)
    found = evaluate_pad(root, data, transform=transform)
    assert found["rows"][0]["IoU"] == 1
    assert found["problems"] == {}
    assert TRANSFORMS[transform].size(SIZE) == (side, side)
    assert evaluate_pad(root, data)["problems"] == {"wrong_size": 3}


@pytest.mark.parametrize("shape", [(30, 40), (40, 30), (700, 601), (518, 518), (1, 9)])
def test_transforms_always_give_their_size(shape):
    sizes = [Transform(resize=Size(7, 90)), Transform(short_side=33, crop=Size(30, 31)), Transform(crop=Size(1, 5))]
    for transform in (*TRANSFORMS.values(), *sizes):
        assert transform(np.ones(shape, bool)).shape == transform.size(Size(*shape))


def resized_slowly(mask, transform):
    """Pixel by pixel, with the official order: resize, then crop; whole sides by cutting off."""
    height, width = mask.shape
    new = transform.resize or (height, width)
    if transform.short_side is not None:
        new = [int(side * transform.short_side / min(mask.shape)) for side in mask.shape]
    crop = transform.crop or new
    top, left = (new[0] - crop[0]) // 2, (new[1] - crop[1]) // 2
    rows = [
        [mask[(y + top) * height // new[0], (x + left) * width // new[1]] for x in range(crop[1])]
        for y in range(crop[0])
    ]
    return np.array(rows)


@pytest.mark.parametrize(
    "transform",
    [
        Transform(resize=Size(60, 20)),
        Transform(resize=Size(32, 32), crop=Size(28, 13)),
        Transform(short_side=15),
        Transform(short_side=64, crop=Size(64, 64)),
        Transform(crop=Size(29, 17)),
    ],
)
def test_free_sizes_are_resized_and_cropped(tmp_path, data, transform):
    root, rng = tmp_path / "p", np.random.default_rng(2)
    noise = rng.random(SIZE) < 0.5
    assert np.array_equal(transform(noise), resized_slowly(noise, transform))
    predicted = {name: rng.random(transform.size(SIZE)) < 0.4 for name in TRUTH}
    for (generator, uid), mask in predicted.items():
        save(mask, root, generator, uid)
    wanted = figures([(predicted[name], resized_slowly(whole(TRUTH[name]), transform)) for name in TRUTH])
    found = evaluate_pad(root, data, transform=transform)
    assert {name: found["rows"][0][name] for name in wanted} == pytest.approx(wanted, abs=1e-12)
    assert found["problems"] == {}


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGB", "RGBA", "LA", "I;16"])
def test_masks_of_every_mode_are_read(tmp_path, data, mode):
    mask = block([(3, 4, 20, 22)])
    image = Image.fromarray(mask.astype(np.uint8) * 200 + 20)
    if mode == "I;16":
        image = Image.fromarray(np.asarray(image).astype(np.uint16) * 257)
    folder = tmp_path / "p" / "gen-b" / "u1"
    folder.mkdir(parents=True)
    (image if mode == "I;16" else image.convert(mode)).save(folder / "m.png")
    if mode == "1":  # its dither makes grey pixels black or white
        mask = np.asarray(image.convert("1"))
    truth = whole(TRUTH["gen-b", "u1"])
    row = evaluate_pad(tmp_path / "p", data)["per_generator"][1]
    assert row["PixR"] == (mask & truth).sum() / truth.sum()


def grey_of(path, size, threshold):
    problems = []
    mask = read_prediction(path, Size(*size), problems, threshold)
    assert not problems
    return mask


def test_grey_is_that_of_opencv(tmp_path):
    """Sums of all masks, from cv2.imread(path, cv2.IMREAD_GRAYSCALE) > threshold of OpenCV 5.0.0."""
    rng = np.random.default_rng(0)
    colours = rng.integers(0, 256, (400, 400, 3), dtype=np.uint8)
    alpha = np.dstack([colours, rng.integers(0, 256, (400, 400), dtype=np.uint8)])
    blocks = np.kron(rng.integers(0, 256, (50, 60, 3), dtype=np.uint8), np.ones((8, 8, 1), dtype=np.uint8))
    deep = rng.integers(0, 65536, (400, 400), dtype=np.uint16)
    pictures = {
        "RGB": Image.fromarray(colours), "RGBA": Image.fromarray(alpha), "LA": Image.fromarray(alpha[..., :2].copy()),
        "P": Image.fromarray(alpha[..., 3].copy(), "P"), "JPEG": Image.fromarray(blocks), "I;16": Image.fromarray(deep),
    }  # fmt: skip
    pictures["P"].putpalette(colours[0, :256].tobytes())
    found = {}
    for kind, picture in pictures.items():
        (tmp_path / kind).mkdir()
        options = {"format": "JPEG", "quality": 80} if kind == "JPEG" else {}
        picture.save(tmp_path / kind / "m.png", **options)
        sums = []
        for threshold in (0, 60, 127, 200):
            mask = grey_of(tmp_path / kind, (picture.height, picture.width), threshold)
            sums.append(int((mask * np.arange(mask.size).reshape(mask.shape) % 9973).sum()))
        found[kind] = sums
    assert found == GREY


GREY = {
    "RGB": [795699144, 716109431, 394317292, 56494060],
    "RGBA": [795699144, 716109431, 394317292, 56494060],
    "LA": [792588522, 604659356, 395776056, 169764270],
    "P": [795699144, 699288879, 362860262, 36769470],
    "JPEG": [947938510, 857938966, 476433568, 67671639],
    "I;16": [792598875, 605347605, 397297710, 171370114],
}


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_exif_turns_a_mask(tmp_path, data, orientation, kind):
    """As OpenCV reads it: the file holds the turned picture and the orientation that turns it back."""
    mask = block([(2, 2, 12, 12), (30, 20, 38, 28)])
    back = {
        1: lambda m: m, 2: lambda m: m[:, ::-1], 3: lambda m: m[::-1, ::-1], 4: lambda m: m[::-1], 5: lambda m: m.T,
        6: lambda m: np.rot90(m), 7: lambda m: m[::-1, ::-1].T, 8: lambda m: np.rot90(m, -1),
    }[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    folder = tmp_path / "p" / "gen-b" / "u1"
    folder.mkdir(parents=True)
    stored = np.ascontiguousarray(back(mask)).astype(np.uint8) * 255
    Image.fromarray(stored).save(folder / "m.png", format=kind, exif=exif)
    found = evaluate_pad(tmp_path / "p", data)
    assert found["problems"] == {}
    truth = whole(TRUTH["gen-b", "u1"])
    wanted = (mask & truth).sum() / truth.sum()
    assert found["per_generator"][1]["PixR"] == pytest.approx(wanted, abs=0 if kind == "PNG" else 0.05)


@pytest.mark.parametrize("threshold", [0, 99, 100, 254, 255])
def test_the_threshold_of_masks_lies_outside(tmp_path, data, threshold):
    values = np.full(SIZE, 100, dtype=np.uint8)
    values[:, :20] = 255
    folder = tmp_path / "p" / "gen-b" / "u1"
    folder.mkdir(parents=True)
    Image.fromarray(values).save(folder / "m.png")
    found = evaluate_pad(tmp_path / "p", data, threshold=threshold)
    truth = whole(TRUTH["gen-b", "u1"])
    row = found["per_generator"][1]
    assert row["PixR"] == ((values > threshold) & truth).sum() / truth.sum()
    assert f"mask>{threshold}|" in found["signature"]
    assert found["problems"] == ({"faint_mask": 1} if threshold == 255 else {})


def test_what_is_wrong_is_named_counted_and_passed_over(tmp_path, data):
    root, out = tmp_path / "p", tmp_path / "out"
    good = block([(2, 2, 12, 12)])
    save(good, root, "gen-b", "u1")
    save(good[:20], root, "gen-b", "u1", name="small.png")
    save(good, root, "gen-b", "u2", name="whole.png")
    png = (root / "gen-b" / "u2" / "whole.png").read_bytes()
    (root / "gen-b" / "u2" / "whole.png").unlink()
    (root / "gen-b" / "u2" / "half.png").write_bytes(png[: len(png) // 2])
    (root / "gen-b" / "u2" / "text.png").write_text("no picture")
    (root / "gen-b" / "u2" / "notes.txt").write_text("")
    save(good, root, "gen-b", "u99")
    save(good, root, "gen-c", "u1")
    folder = root / "gen-a" / "u1"
    folder.mkdir(parents=True)
    Image.fromarray(good.astype(np.uint8)).save(folder / "ones.png")
    found = evaluate_pad(root, data, out=out, threshold=127)
    assert found["problems"] == {
        "faint_mask": 1,
        "ignored_file": 1,
        "unknown_image": 2,
        "unreadable_mask": 2,
        "wrong_size": 1,
    }
    assert not found["comparable"]
    assert found["images"] == 3
    truth = {name: whole(boxes) for name, boxes in TRUTH.items()}
    nothing = np.zeros(SIZE, dtype=bool)
    wanted = figures([(good, truth["gen-b", "u1"]), (nothing, truth["gen-b", "u2"]), (nothing, truth["gen-a", "u1"])])
    assert {name: found["rows"][0][name] for name in wanted} == pytest.approx(wanted, abs=1e-12)
    assert found["rows"][0]["zero_prediction_images"] == 2
    listed = {Path(row["file"]).name: row["kind"] for row in table(out / "problems.csv")}
    assert listed["small.png"] == "wrong_size"
    assert listed["half.png"] == listed["text.png"] == "unreadable_mask"
    assert listed["u99"] == "unknown_image"
    assert any("small.png: expected 40x30 pixels, got 40x20" in problem for problem in found["problem_list"])


def palette(mask, *colours, transparency=None):
    image = Image.fromarray(mask.astype(np.uint8))
    image.putpalette([value for colour in colours for value in colour])
    if transparency is not None:
        image.info["transparency"] = transparency
    return image


def layers(mask, *values):
    return Image.fromarray(np.dstack([np.where(mask, on, off) for off, on in values]).astype(np.uint8))


EXPORTED = {  # how a mask may be exported, and whether the official scripts find the same pixels in it
    "0 and 255": (lambda mask: Image.fromarray(mask.astype(np.uint8) * 255), True),
    "1 bit": (Image.fromarray, True),
    "16 bits": (lambda mask: Image.fromarray(mask.astype(np.uint16) * 65535), True),
    "16 bits, 0 and 255": (lambda mask: Image.fromarray(mask.astype(np.uint16) * 255), False),
    "16 bits, 0 and 1": (lambda mask: Image.fromarray(mask.astype(np.uint16)), False),
    "0 and 1": (lambda mask: Image.fromarray(mask.astype(np.uint8)), False),
    "palette of black and white": (lambda mask: palette(mask, (0, 0, 0), (255, 255, 255)), True),
    "palette as VOC has it": (lambda mask: palette(mask, (0, 0, 0), (128, 0, 0)), False),
    "palette with transparency": (lambda mask: palette(mask, (255, 0, 0), (255, 0, 0), transparency=0), False),
    "one colour": (lambda mask: layers(mask, (0, 255), (0, 0), (0, 0)), False),
    "white whose shape is in alpha": (lambda mask: layers(mask, *[(255, 255)] * 3, (0, 255)), False),
}


@pytest.mark.parametrize("kind", EXPORTED)
def test_masks_are_read_for_what_they_show_or_as_the_official_scripts_read_them(tmp_path, data, kind):
    export, same = EXPORTED[kind]
    mask, truth = block([(2, 2, 12, 12), (30, 20, 38, 28)]), whole(TRUTH["gen-b", "u1"])
    folder = tmp_path / "p" / "gen-b" / "u1"
    folder.mkdir(parents=True)
    export(mask).save(folder / "m.png")
    shown, official = (evaluate_pad(tmp_path / "p", data, threshold=threshold) for threshold in (None, 127))
    row = shown["per_generator"][1]
    assert {name: row[name] for name in ("PixP", "PixR")} == {
        "PixP": (mask & truth).sum() / mask.sum(), "PixR": (mask & truth).sum() / truth.sum(),
    }  # fmt: skip
    assert (shown["per_generator"] == official["per_generator"]) == same == shown["comparable"]
    assert shown["problems"] == ({} if same else {"read_differently": 1})
    assert official["comparable"]
    assert shown["signature"] != official["signature"]


@pytest.mark.parametrize("values", [(0, 90), (0, 1, 255), ((0, 0, 0), (255, 0, 0), (0, 255, 0))])
def test_a_mask_that_may_mean_several_things_is_left_out_by_name(tmp_path, data, values):
    folder = tmp_path / "p" / "gen-b" / "u1"
    folder.mkdir(parents=True)
    pixels = np.resize(np.array(values, dtype=np.uint8), (*SIZE, *np.shape(values)[1:]))
    Image.fromarray(pixels).save(folder / "m.png")
    found = evaluate_pad(tmp_path / "p", data)
    assert found["problems"] == {"ambiguous_mask": 1}
    assert "m.png: Expected a mask of the values 0 and 1, or 0 and 255, got" in found["problem_list"][0]
    assert not found["comparable"]
    assert found["rows"][0]["IoU"] == 0
    assert evaluate_pad(tmp_path / "p", data, threshold=127)["comparable"]


def test_a_layout_without_any_prediction_is_pointed_out(tmp_path, data):
    save(block([(0, 0, 9, 9)]), tmp_path / "p", "gen-b", TEXTURE, "u1")
    found = evaluate_pad(tmp_path / "p", data)
    assert found["problems"] == {"no_predictions": 1, "unknown_image": 1}
    assert evaluate_pad(tmp_path / "p", data, task="fine-grained")["problems"] == {}
    save(block([]), tmp_path / "p", "gen-b", "low-level-text", "u1")
    assert evaluate_pad(tmp_path / "p", data, task="fine-grained")["problems"] == {"unknown_category": 1}


def test_unusable_truth_is_left_out_and_said(tmp_path, data):
    path = Path(data.removeprefix("xaigd:")) / "labeled_test.jsonl"
    bad = {"generator": "gen-a", "uid": "u7", "width": 9, "height": 9, "labels": [{"label": "dust", "points": []}]}
    path.write_text(path.read_text() + "\n" + json.dumps(bad))
    (tmp_path / "p").mkdir()
    found = evaluate_pad(tmp_path / "p", data)
    assert found["images"] == 3
    assert found["problems"]["unknown_category"] == 1
    assert not found["comparable"]
    path.write_text(json.dumps(bad))
    with pytest.raises(InputError, match="got 1 unusable"):
        evaluate_pad(tmp_path / "p", data)


def test_instances_from_one_table(tmp_path, data):
    path = tmp_path / "boxes" / "boxes.csv"
    path.parent.mkdir()
    path.write_text(
        "generator,uid,category,x_min,y_min,x_max,y_max\n"
        f"gen-b,u1,{TEXTURE},2,2,12,12\n"
        f"gen-b,u1,{TEXTURE},30,20,39,29\n"
        f"gen-a,u1,{TEXTURE},25,10,40,30\n"
        f"gen-a,u1,{TEXTURE},25,10,99,30\n"
        f"gen-z,u1,{TEXTURE},25,10,99,30\n"
    )
    found = evaluate_pad(path.parent, data, task="instance", out=tmp_path / "out")
    row = next(row for row in found["rows"] if row["category"] == TEXTURE)
    assert (row["TP"], row["FP"], row["FN"], row["invalid_prediction_boxes"]) == (2, 2, 1, 1)
    assert row["zero_prediction_images"] == 1
    assert found["problems"] == {"unknown_image": 1}
    assert found["comparable"]
    assert (tmp_path / "out" / "overall.csv").read_text().splitlines()[0] == INSTANCE_COLUMNS
    assert "overlap>0.5" in found["signature"]
    assert evaluate_pad(path, data, task="instance", overlap=0.25)["signature"] != found["signature"]


def test_nothing_half_written_stays_behind(tmp_path, data):
    (tmp_path / "p").mkdir()
    whole = Path(data.removeprefix("xaigd:"), "labeled_test.jsonl")
    whole.rename(whole.with_suffix(".json")).write_text('[{"generator": "g"}, {"generator"')
    with pytest.raises(InputError, match="download the file again"):
        evaluate_pad(tmp_path / "p", data, out=tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="file"):
        evaluate_pad(tmp_path / "p", data, out=tmp_path / "file")


def test_signatures_name_every_choice(tmp_path, data):
    (tmp_path / "p").mkdir()
    signatures = {
        evaluate_pad(tmp_path / "p", data, task=task, transform=transform)["signature"]
        for task in ("agnostic", "fine-grained")
        for transform in ("keep", "256-224", "518")
    }
    assert len(signatures) == 6
    assert all("split=labeled_test" in each and "empty=0" in each for each in signatures)
    sizes = Transform(resize=Size(256, 300), crop=Size(224, 100))
    assert "transform=resize300x256-crop100x224|" in evaluate_pad(tmp_path / "p", data, transform=sizes)["signature"]
    same = Transform(short_side=518, crop=Size(518, 518))
    assert "transform=resize518-crop518|" in evaluate_pad(tmp_path / "p", data, transform=same)["signature"]


def test_wrong_arguments_are_named(tmp_path, data):
    with pytest.raises(ConfigError, match="a task of agnostic"):
        evaluate_pad(tmp_path, data, task="pixel")
    with pytest.raises(ConfigError, match="a transform of keep"):
        evaluate_pad(tmp_path, data, transform="224")
    with pytest.raises(ConfigError, match="not resized"):
        evaluate_pad(tmp_path, data, task="instance", transform="518")
    with pytest.raises(ConfigError, match="overlap"):
        evaluate_pad(tmp_path, data, task="instance", overlap=-1)
    for threshold in (-1, 256):
        with pytest.raises(ConfigError, match="from 0 to 255"):
            evaluate_pad(tmp_path, data, threshold=threshold)
    with pytest.raises(ConfigError, match="one way to resize"):
        Transform(resize=Size(3, 3), short_side=3)
    with pytest.raises(ConfigError, match="at least 1 pixel"):
        Transform(crop=Size(0, 3))
    with pytest.raises(ConfigError, match="choose a smaller crop"):
        evaluate_pad(tmp_path, data, transform=Transform(crop=Size(31, 40)))
    with pytest.raises(InputError, match="predicted masks"):
        evaluate_pad(tmp_path / "nowhere", data)
    with pytest.raises(InputError, match="one CSV of boxes"):
        evaluate_pad(tmp_path, data, task="instance")
    with pytest.raises(InputError, match="the folder of X-AIGD"):
        evaluate_pad(tmp_path, "xaigd:nowhere")
