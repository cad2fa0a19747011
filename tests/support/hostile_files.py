"""Readers of files, each with valid files that hostile ones are made from."""

from __future__ import annotations

import io
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
from PIL import Image, PngImagePlugin
from pyarrow import parquet

from refiner import provenance
from refiner.calibration import Calibration, OperatingPoint, Platt
from refiner.data.anomreason import read_answers, read_subset
from refiner.data.folders import read_mask
from refiner.data.problems import Problem
from refiner.data.prompts import read_prompts
from refiner.data.sources import open_data
from refiner.data.xaigd.predictions import read_prediction
from refiner.detectors.aligngemini import notes as aligngemini
from refiner.detectors.anomreason import notes as anomreason
from refiner.detectors.fakexplain import notes as fakexplain
from refiner.detectors.vlm.profile import read_profile
from refiner.errors import InputError
from refiner.evaluate.harness import RUN_FILE, SCHEMA, open_run
from refiner.evaluate.table import score
from refiner.files import dumps
from refiner.images import FORMATS, load_image
from refiner.ledger import Ledger, Prices, bill, ledgers_from
from refiner.masks import rle_decode, rle_encode
from refiner.metrics.classification import evaluate_aj
from refiner.metrics.instances import read_boxes
from refiner.metrics.semap_scoring import Similarity
from refiner.records import analysis_from_dict, analysis_to_dict
from refiner.taxonomy import Category
from refiner.types import Analysis, Region, Size, Step
from tests.support.hostile import hostile_bytes, hostile_json, hostile_text, hostile_value
from tests.support.tfrecords import encoded, framed

Feed = Callable[[random.Random], object]
"""Makes a hostile input and gives it to a reader."""
SIDE = Size(20, 30)
MASK = np.zeros(tuple(SIDE), dtype=np.bool_)
MASK[3:9, 4:20] = True
REGION = Region(mask=MASK, box=(4, 3, 20, 9), name="hand", explanation="six", category=Category.ANATOMY, severity=0.5)
ANALYSIS = Analysis(
    size=SIDE, regions=(REGION, REGION), fake_probability=0.7, heatmap=MASK.astype(np.float32), tags=("blur",),
    raw="six fingers", detector="d", trace=(Step(stage="a", subject="b", outcome="found"),),
)  # fmt: skip
STORED = analysis_to_dict(ANALYSIS, arrays=True)
NAMES = [f"{number}é.png" for number in range(3)]
REF = {"sentence": "The left hand", "segmentation": [[2, 3, 12, 3, 12, 9]], "explanation": "Six.", "type": "structure"}
SWIFT = [
    {"role": "user", "content": "<image>?"},
    {"role": "assistant", "content": "<think><ref-object><bbox><tag>flat</tag></think><verdict>generated</verdict>"},
]
ANOMALY = {"Name": "a", "Observed Phenomenon": "b", "Reasoning": "c", "Severity Score": "25/100 (fair)."}
DEFECTS = [{"box_2d": [100, 200, 300, 600], "description": "six toes", "importance": 45}]
FLAW = {"box": [1, 2, 9, 9], "description": "six toes", "severity": 0.5}
OUTLINE = {"label": "low-level-texture", "points": [[2, 3], [10, 3], [10.9, 8.2]]}
DATA: dict[str, tuple[str, str, Callable[[str], Any]]] = {
    "synthscars": (
        "synthscars:{}",
        "annotations/x.json",
        lambda name: {"key": {"img_file_name": name, "caption": "I see. The left hand:Six.", "refs": [REF, REF]}},
    ),
    "loki": (
        "loki:{}",
        "loki.json",
        lambda name: {
            "image_path": name,
            "problems": {"global": ["a"], "regional": [{"region": [2, 3, 9, 5], "text": "b"}]},
        },
    ),
    "fakexplained": (
        "fakexplained:{}",
        "annotations.jsonl",
        lambda name: {"image": name, "label": "fake", "regions": [FLAW]},
    ),
    "fakexplained as a list": (
        "fakexplained:{}",
        "annotations.json",
        lambda name: {"image": name, "label": "fake", "tags": ["a"], "height": 20, "width": 30, "generator": "g"},
    ),
    "swift": (
        "swift:{}/x.jsonl",
        "x.jsonl",
        lambda name: {
            "messages": SWIFT,
            "images": [f"images/{name}"],
            "objects": {"ref": ["six toes"], "bbox": [[2, 3, 12, 8]], "bbox_type": "real"},
        },
    ),
    "sdg": (
        "sdg:{}",
        "annotations/test.jsonl",
        lambda name: {"filepath": name, "caption": "a", "artifact_bboxes": DEFECTS, "misalignment_bboxes": DEFECTS},
    ),
    "xaigd": (
        "xaigd:{}",
        "labeled_test.jsonl",
        lambda name: {"generator": "g", "uid": name[:-4], "width": 30, "height": 20, "labels": [OUTLINE, OUTLINE]},
    ),
    "references": ("{}/images", "references.json", lambda name: (name, [ANOMALY])),
    "metadata of a folder": ("{}", "metadata.jsonl", lambda name: {"file_name": name, "text": "a cat"}),
    "anomreason": ("anomreason:{}", "anomalies.json", lambda name: (name, [ANOMALY, ANOMALY])),
    "anomreason, real images": ("anomreason:{}", "real.json", lambda name: (name, "The light is coherent.")),
    "anomreason, splits": ("anomreason:{},split=test", "dataset_split_list.json", lambda name: ("test", [name])),
    "synthscars, contents": ("synthscars:{}", "content_types.json", lambda name: (name, "human")),
}
"""Name -> specification of the data set, its file of records, and the record of an image; pairs make an object."""
PROFILE = """instruction = "Which flaws do you see in the image of {prompt}?"
max_tokens = 99
[answer]
list = "flaws"
[fields]
explanation = "what"
severity = "how"
box = "where"
[categories]
odd = "anatomy"
[severity]
worst = 100
[boxes]
scale = "unit"
"""
CSV = {
    "prompts as CSV": ("p.csv", "file,prompt\na.png,a hand\nb.png,\"a, clock\"\n", partial(read_prompts, problems=[])),
    "prompts with semicolons": ("p.csv", "file_name;text\na.png;a hand\nb;b\n", partial(read_prompts, problems=[])),
    "prompts as lines": ("p.txt", "a hand\na clock\n", partial(read_prompts, problems=[])),
    "verdicts": ("v.csv", "image,label,score\na.png,fake,0.7\nb.png,real,0.2\n", evaluate_aj),
    "boxes": (
        "b.csv",
        "generator,uid,category,x_min,y_min,x_max,y_max\ng,1,low-level-texture,1,2,30,40\n",
        partial(read_boxes, problems=[]),
    ),
    "prices as TOML": ("p.toml", 'currency = "USD"\n["gpt-5-mini"]\ninput = 0.25\noutput = 2.0\n', Prices.read),
    "profile of a vision-language model": ("p.toml", PROFILE, lambda path: replace(read_profile(path), name="p")),
}  # fmt: skip
"""Readers of lines and tables, with a valid file."""


def _read_note(read: Callable[[Path], object], path: Path) -> object:
    return read(path.parent)


JSON: dict[str, tuple[str, Any, Callable[[Path], object]]] = {
    "prompts": ("p.json", {"a.png": "a hand", "b.png": "a clock"}, partial(read_prompts, problems=[])),
    "prompts as JSON Lines": ("p.jsonl", [{"file_name": "a", "text": "b"}, "c"], partial(read_prompts, problems=[])),
    "subset": ("s.json", ["a.png", {"b.png": 1}, "x/c.png"], read_subset),
    "answers": ("a.json", {"a.png": "Yes, it is.", "b.png": "no"}, read_answers),
    "prices": ("p.json", {"currency": "USD", "gpt-5-mini": {"input": 0.25, "output": 2}}, Prices.read),
    **{
        f"note of {kind.NOTE}": (kind.NOTE, value, partial(_read_note, kind.read_note))
        for kind, value in (
            (aligngemini, {"boxes": {"scale": "unit"}, "max_side": 448}),
            (anomreason, {"format": "anomaly_only", "boxes": {"scale": "unit"}, "max_side": 448}),
            (fakexplain, {"dialect": "paper", "boxes": {"scale": "unit", "order": "yxyx"}, "max_side": 448}),
        )
    },
    "calibration": (
        "c.json",
        Calibration(
            detector="d",
            point=OperatingPoint(
                threshold=0.4, wanted=0.1, interval=(0.0, 0.3), recall_interval=(0.2, 0.9), false_positives=1, real=10,
                found=5, generated=10,
            ),
            max_error=0.2,
            band=(0.3, 0.5),
            curve=Platt(slope=2.0, intercept=-1.0),
        ).document(),
        Calibration.read,
    ),
}  # fmt: skip


def _records(record: Callable[[str], Any]) -> Any:
    found = [record(name) for name in NAMES]
    return dict(found) if isinstance(found[0], tuple) else found


def load_all(data: Any) -> None:
    """Read all samples, as a run does: one that cannot be read is skipped."""
    for index in range(len(data.names)):
        try:
            sample = data.load(index)
        except InputError:
            continue
        dumps(sample.truth_record())


def picture(kind: str = "PNG", **options: Any) -> bytes:
    """A valid image file."""
    buffer = io.BytesIO()
    Image.fromarray(np.arange(3 * SIDE.height * SIDE.width, dtype=np.uint8).reshape(*SIDE, 3)).save(
        buffer, kind, **options
    )
    return buffer.getvalue()


def _data_set(name: str, folder: Path) -> Feed:
    specification, file, record = DATA[name]
    base = name.partition(",")[0]
    for place in ("1_fake", "images", "g", "0_real"):
        (folder / place).mkdir(parents=True, exist_ok=True)
        for each in NAMES:
            (folder / place / each).write_bytes(picture())
    path = folder / file
    path.parent.mkdir(exist_ok=True)
    if base != name:
        (folder / DATA[base][1]).parent.mkdir(exist_ok=True)
        (folder / DATA[base][1]).write_text(dumps(_records(DATA[base][2])), encoding="utf-8")
    references = str(path) if name == "references" else None

    def feed(rng: random.Random) -> None:
        path.write_bytes(hostile_json(rng, _records(record), lines=path.suffix == ".jsonl"))
        load_all(open_data(specification.format(folder), references=references))

    return feed


def _file(path: Path, read: Callable[[Path], object], make: Callable[[random.Random], bytes]) -> Feed:
    path.parent.mkdir(parents=True, exist_ok=True)

    def feed(rng: random.Random) -> None:
        path.write_bytes(make(rng))
        read(path)

    return feed


def _images() -> list[bytes]:
    """One image of each format, and PNGs with metadata."""
    info = PngImagePlugin.PngInfo()
    info.add_text("workflow", '{"node": 1}' * 20, zip=True)
    info.add_itxt("XML:com.adobe.xmp", "<x:xmpmeta xmlns:x='adobe:ns:meta/'/>", zip=True)
    exif = Image.Exif()
    exif[0x0112] = 6
    found = [picture(kind) for kind in FORMATS]
    found += [picture(pnginfo=info), picture(icc_profile=b"\0" * 200, exif=exif), picture("JPEG", exif=exif)]
    label = provenance.Provenance(source_type="trainedAlgorithmicMedia", record={"prompt": "a hand"})
    with Image.open(io.BytesIO(picture())) as image:
        found.append(provenance.png(image.convert("RGB"), label))
        buffer = io.BytesIO()
        for mode in ("1", "L", "P", "LA", "I;16", "RGBA"):
            buffer.seek(0)
            image.convert("L" if mode == "I;16" else mode).save(buffer, "PNG")
            found.append(buffer.getvalue())
    return found


def _tables(rng: random.Random, rows: list[dict[str, Any]]) -> bytes:
    """A parquet file with hostile values, or with damaged bytes."""
    changed = hostile_value(rng, rows) if rng.random() < 0.5 else rows
    buffer = io.BytesIO()
    try:
        parquet.write_table(pyarrow.Table.from_pylist(changed), buffer)
    except Exception:  # values of mixed types fit into no column
        return b"PAR1"
    return hostile_bytes(rng, buffer.getvalue()) if changed is rows else buffer.getvalue()


def _tensors(rng: random.Random) -> bytes:
    """A TFRecord file with damaged bytes inside a record or around it."""
    records = [encoded({"filename": name, "overall_score": 0.5, "artifact_map": picture()}) for name in NAMES]
    if rng.random() < 0.5:
        records[1] = hostile_bytes(rng, records[1])
        return framed(records)
    return hostile_bytes(rng, framed(records))


def _run(folder: Path) -> Feed:
    """The records of an evaluation, scored again."""
    folder.mkdir(parents=True)
    truth = {"fake": True, "analysis": STORED, "categorised": True, "itemised": True, "misalignments": False}
    record = {
        "index": 0, "name": "a", "error": None, "group": "", "prompt": "", "truth": truth | {"anomalies": None},
        "answer": {"analysis": STORED, "notes": []}, "seconds": 1.0,
    }  # fmt: skip
    description = {
        "schema": SCHEMA, "task": "localization", "data": {"samples": 2, "digest": "d"}, "system": {"model": "m"},
        "scoring": {"region": "union"}, "problems": {},
    }  # fmt: skip

    def feed(rng: random.Random) -> None:
        records, run = [record, record | {"index": 1}], description
        if rng.random() < 0.2:
            (folder / RUN_FILE).write_bytes(hostile_json(rng, run))
        else:
            (folder / RUN_FILE).write_text(dumps(run), encoding="utf-8")
        (folder / "records.jsonl").write_bytes(hostile_json(rng, records, lines=True) + b"\n")
        score(open_run(folder))

    return feed


def _values(value: Any, read: Callable[[Any], object]) -> Feed:
    return lambda rng: read(hostile_value(rng, value))


def compressed(counts: list[int]) -> str:
    """Run lengths in COCO's compressed form, written as in its ``rleToString``."""
    text = ""
    for number, count in enumerate(counts):
        value, more = count - (counts[number - 2] if number > 2 else 0), True
        while more:
            bits, value = value & 31, value >> 5
            more = value != (-1 if bits & 16 else 0)
            text += chr((bits | 32 if more else bits) + 48)
    return text


def _run_lengths(rng: random.Random) -> object:
    text = compressed(rle_encode(MASK)["counts"])
    return rle_decode(hostile_value(rng, {"size": list(SIDE), "counts": hostile_text(rng, text)}))


def files(folder: Path) -> Iterator[tuple[str, Feed]]:
    """Name of each reader, and what gives it a hostile file or value.

    Args:
        folder: for the files.
    """
    for number, name in enumerate(DATA):
        yield f"data: {name}", _data_set(name, folder / f"data{number}")
    images = _images()
    for number, (name, (file, text, read)) in enumerate(CSV.items()):
        yield name, _file(folder / f"csv{number}" / file, read, partial(_hostile_lines, text))
    for number, (name, (file, value, read_json)) in enumerate(JSON.items()):
        path = folder / f"json{number}" / file
        yield name, _file(path, read_json, partial(hostile_json, value=value, lines=file.endswith("l")))
    damaged = partial(_hostile_image, images)
    yield "image", _file(folder / "image", load_image, damaged)
    yield "mask", _file(folder / "mask.png", partial(read_mask, size=SIDE), damaged)
    yield "provenance", _file(folder / "label.png", provenance.read, damaged)
    problems: list[Problem] = []
    prediction = folder / "predictions" / "1.png"
    for name, threshold in (("prediction", None), ("prediction, official", 127)):
        yield name, _file(prediction, partial(_read_prediction, problems, threshold), damaged)
    tables = folder / "tables"
    rows = [
        {"image_name": n, "model_name": "m", "label": 1, "prompt": "p", "split": "s", "image_data": picture()}
        for n in NAMES
    ]
    path = tables / "commfor" / "a.parquet"
    yield "data: commfor", _file(path, _opened(f"commfor:{path.parent}"), partial(_tables, rows=rows))
    rows = [DATA["xaigd"][2](name) | {"image": {"bytes": picture(), "path": None}} for name in NAMES]
    path = tables / "xaigd" / "labeled_test-00000-of-00001.parquet"
    yield "data: xaigd as parquet", _file(path, _opened(f"xaigd:{path.parent}"), partial(_tables, rows=rows))
    path = tables / "x.tfrecord"
    yield "data: richhf", _file(path, _opened(f"richhf:{path}"), _tensors)
    yield "run lengths", _values({"size": list(SIDE), "counts": [*rle_encode(MASK)["counts"]]}, rle_decode)
    yield "run lengths, compressed", _run_lengths
    yield "analysis", _values(STORED, analysis_from_dict)
    yield "stored costs", _values(bill({"m": Ledger(calls=3, prompt_tokens=70)}), ledgers_from)
    similarity = Similarity(image="a", phenomenon=np.ones((1, 2)), reasoning=np.ones((1, 2)), confidence=(None,))
    yield "similarities", _values(similarity.to_dict(), Similarity.from_dict)
    yield "records of a run", _run(folder / "run")


def _read_prediction(problems: list[Problem], threshold: int | None, path: Path) -> object:
    return read_prediction(path.parent, SIDE, problems, threshold)


def _opened(specification: str) -> Callable[[Path], None]:
    return lambda _: load_all(open_data(specification))


def _hostile_lines(text: str, rng: random.Random) -> bytes:
    data = (hostile_text(rng, text) if rng.random() < 0.7 else text).encode(
        rng.choice(("utf-8", "utf-8-sig", "utf-16", "latin-1")), "replace"
    )
    return hostile_bytes(rng, data) if rng.random() < 0.4 else data


def _hostile_image(images: list[bytes], rng: random.Random) -> bytes:
    return hostile_bytes(rng, rng.choice(images))
