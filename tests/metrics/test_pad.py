"""``refiner evaluate pad``: folders in, official tables out, against an independent count."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from refiner.data.xaigd.predictions import compared_size, transform_truth
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
        save(transform_truth(whole(categories), transform), root, generator, uid)
    found = evaluate_pad(root, data, transform=transform)
    assert found["rows"][0]["IoU"] == 1
    assert found["problems"] == {}
    assert compared_size(SIZE, transform) == (side, side)
    assert evaluate_pad(root, data)["problems"] == {"wrong_size": 3}


@pytest.mark.parametrize("shape", [(30, 40), (40, 30), (700, 601), (518, 518), (1, 9)])
def test_transforms_always_give_their_size(shape):
    for transform in ("keep", "256-224", "518"):
        assert transform_truth(np.ones(shape, bool), transform).shape == compared_size(Size(*shape), transform)


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
    found = evaluate_pad(root, data, out=out)
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


def test_wrong_arguments_are_named(tmp_path, data):
    with pytest.raises(ConfigError, match="a task of agnostic"):
        evaluate_pad(tmp_path, data, task="pixel")
    with pytest.raises(ConfigError, match="a transform of keep"):
        evaluate_pad(tmp_path, data, transform="224")
    with pytest.raises(ConfigError, match="not resized"):
        evaluate_pad(tmp_path, data, task="instance", transform="518")
    with pytest.raises(ConfigError, match="overlap"):
        evaluate_pad(tmp_path, data, task="instance", overlap=-1)
    with pytest.raises(InputError, match="predicted masks"):
        evaluate_pad(tmp_path / "nowhere", data)
    with pytest.raises(InputError, match="one CSV of boxes"):
        evaluate_pad(tmp_path, data, task="instance")
    with pytest.raises(InputError, match="the folder of X-AIGD"):
        evaluate_pad(tmp_path, "xaigd:nowhere")
