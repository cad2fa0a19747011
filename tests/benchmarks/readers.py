"""Memory of the dataset readers: the peak of a process that opens 1,000 and 20,000 images, in MiB.

Every dataset is opened as ``refiner evaluate`` opens it, and 1,000 evenly spaced samples are loaded. The images are one
tiny file under many names, because only what a reader keeps of each sample matters here. ``growth`` is the increase
from the smaller to the larger dataset.

Run with ``python tests/benchmarks/readers.py [--samples N] [--json] [KIND ...]``.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from PIL import Image

SIDE, LOADED = 48, 1000
WORDS = ("the", "hand", "of", "left", "six", "fingers", "shadow", "falls", "toward", "sun", "clock", "metallic", "fur")


def sentence(rng: random.Random, words: int) -> str:
    """A text of ``words`` random words."""
    return " ".join(rng.choices(WORDS, k=words))


def png() -> bytes:
    """A tiny image."""
    buffer = io.BytesIO()
    Image.new("RGB", (SIDE, SIDE), (120, 90, 60)).save(buffer, format="PNG")
    return buffer.getvalue()


def names(count: int) -> Iterator[str]:
    """Names of the images of ten generators."""
    return (f"generator-{at % 10}/{at:08d}" for at in range(count))


def paint(root: Path, count: int) -> None:
    """Write one image under many names."""
    root.mkdir(parents=True)
    (root / ".picture.png").write_bytes(png())
    for number in range(10):
        (root / f"generator-{number}").mkdir()
    for name in names(count):
        os.link(root / ".picture.png", root / f"{name}.png")


def xaigd_rows(count: int) -> Iterator[dict[str, Any]]:
    """Records with five polygons of twenty corners."""
    rng = random.Random(0)
    outlines = [[[rng.uniform(0, SIDE), rng.uniform(0, SIDE)] for _ in range(20)] for _ in range(5)]
    labels = [{"label": "low-level-texture", "points": points} for points in outlines]
    for name in names(count):
        generator, _, uid = name.partition("/")
        yield {"generator": generator, "uid": uid, "width": SIDE, "height": SIDE, "labels": labels}


def write_lines(file: Path, rows: Iterator[dict[str, Any]], *, as_list: bool = False) -> None:
    """JSON Lines, or one JSON list."""
    with file.open("w", encoding="utf-8") as out:
        out.write("[" if as_list else "")
        for number, row in enumerate(rows):
            out.write((", " if as_list and number else "") + json.dumps(row) + ("" if as_list else "\n"))
        out.write("]" if as_list else "")


def xaigd_lines(root: Path, count: int) -> dict[str, str]:
    """X-AIGD as JSON Lines."""
    paint(root / "images", count)
    write_lines(root / "labeled_test.jsonl", xaigd_rows(count))
    return {"specification": f"xaigd:{root}"}


def xaigd_list(root: Path, count: int) -> dict[str, str]:
    """X-AIGD as one JSON list."""
    paint(root / "images", count)
    write_lines(root / "labeled_test.json", xaigd_rows(count), as_list=True)
    return {"specification": f"xaigd:{root}"}


def xaigd_parquet(root: Path, count: int) -> dict[str, str]:
    """X-AIGD as published, as Parquet in row groups of a hundred."""
    import pyarrow
    from pyarrow.parquet import ParquetWriter

    root.mkdir(parents=True)
    cell, rows = {"bytes": png(), "path": None}, []
    writer = None
    for row in xaigd_rows(count):
        rows.append(row | {"image": cell})
        if len(rows) == 100:
            table = pyarrow.Table.from_pylist(rows)
            writer = writer or ParquetWriter(root / "labeled_test.parquet", table.schema)
            writer.write_table(table)
            rows = []
    assert writer is not None
    writer.close()
    return {"specification": f"xaigd:{root}"}


def fakexplained(root: Path, count: int) -> dict[str, str]:
    """FakeXplained, with five boxes per image."""
    paint(root / "images", count)
    rng = random.Random(0)
    write_lines(
        root / "annotations.json",
        (
            {"image": f"{name}.png", "label": "fake", "regions": [
                {"box": [0, 0, 20, 30], "description": sentence(rng, 8)} for _ in range(5)
            ]}
            for name in names(count)
        ),
        as_list=True,
    )  # fmt: skip
    return {"specification": f"fakexplained:{root}"}


def synthscars(root: Path, count: int) -> dict[str, str]:
    """SynthScars, with two outlines of sixty corners per image."""
    paint(root / "images", count)
    (root / "annotations").mkdir()
    rng = random.Random(0)
    outlines = [[rng.uniform(0, SIDE) for _ in range(120)] for _ in range(2)]
    refs = [
        {"sentence": "the left hand", "segmentation": [outline], "explanation": sentence(rng, 20), "type": "structure"}
        for outline in outlines
    ]
    caption = f"Upon examining the image. I have found: {sentence(rng, 30)} the left hand: {sentence(rng, 20)}"
    facts = {"caption": caption, "content_type": "human", "refs": refs}
    records = ({str(at): {"img_file_name": f"{name}.png"} | facts} for at, name in enumerate(names(count)))
    write_lines(root / "annotations" / f"{root.name}.json", records, as_list=True)
    return {"specification": f"synthscars:{root}"}


def folder_prompts(root: Path, count: int) -> dict[str, str]:
    """A folder with prompts of twenty words."""
    paint(root / "pictures", count)
    rng = random.Random(0)
    (root / "prompts.json").write_text(json.dumps({f"{name}.png": sentence(rng, 20) for name in names(count)}))
    return {"specification": str(root / "pictures"), "prompts": str(root / "prompts.json")}


def folder_references(root: Path, count: int) -> dict[str, str]:
    """A folder with four described anomalies per image."""
    paint(root / "pictures", count)
    rng = random.Random(0)
    document = {
        f"{name}.png": [
            {"Name": "hand", "Observed Phenomenon": sentence(rng, 12), "Reasoning": sentence(rng, 12),
             "Severity Score": "25/100"} for _ in range(4)
        ] for name in names(count)
    }  # fmt: skip
    (root / "references.json").write_text(json.dumps(document))
    return {"specification": str(root / "pictures"), "references": str(root / "references.json")}


def genimage(root: Path, count: int) -> dict[str, str]:
    """GenImage, in folders of real and generated images for each generator."""
    paint(root, 0)
    for number in range(10):
        for label in ("nature", "ai"):
            (root / f"generator-{number}" / "val" / label).mkdir(parents=True)
    for at, name in enumerate(names(count)):
        generator, _, stem = name.partition("/")
        os.link(root / ".picture.png", root / generator / "val" / ("nature", "ai")[at // 10 % 2] / f"{stem}.png")
    return {"specification": f"genimage:{root}"}


def commfor(root: Path, count: int) -> dict[str, str]:
    """Community Forensics as published, as Parquet in row groups of a hundred."""
    import pyarrow
    from pyarrow.parquet import ParquetWriter

    root.mkdir(parents=True)
    rng, rows, writer = random.Random(0), [], None
    for at, name in enumerate(names(count)):
        model, _, stem = name.partition("/")
        facts = {"image_name": f"{stem}.png", "model_name": model, "label": at % 2, "prompt": sentence(rng, 20)}
        rows.append(facts | {"split": "test", "image_data": png()})
        if len(rows) == 100:
            table = pyarrow.Table.from_pylist(rows)
            writer = writer or ParquetWriter(root / "CompEval-00000-of-00001.parquet", table.schema)
            writer.write_table(table)
            rows = []
    assert writer is not None
    writer.close()
    return {"specification": f"commfor:{root}"}


KINDS: dict[str, Callable[[Path, int], dict[str, str]]] = {
    each.__name__: each
    for each in (
        xaigd_lines,
        xaigd_list,
        xaigd_parquet,
        fakexplained,
        synthscars,
        folder_prompts,
        folder_references,
        genimage,
        commfor,
    )
}


def child(given: dict[str, str]) -> None:
    """Open and load a dataset; print the peak memory of this process in kB (VmHWM, which starts at 0 in a program)."""
    from refiner.data.sources import open_data

    data = open_data(**given)
    assert not data.problems
    count = len(data.names)
    for index in range(0, count, max(1, count // LOADED)):
        data.load(index).truth_record()
    status = Path("/proc/self/status").read_text()
    print(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))


def peak(kind: str, count: int) -> float:
    """Peak memory of a process, in MiB."""
    with tempfile.TemporaryDirectory() as home:
        given = KINDS[kind](Path(home) / "data", count)
        command = [sys.executable, "-P", __file__, "--child", json.dumps(given)]
        return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout) / 1024


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=f"one or more of {', '.join(KINDS)} (all)")
    parser.add_argument("--samples", type=int, default=20_000)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child is not None:
        child(json.loads(args.child))
        return
    report = {}
    for kind in args.kinds or KINDS:
        few, many = peak(kind, 1000), peak(kind, args.samples)
        report[kind] = {"1000": round(few, 1), str(args.samples): round(many, 1), "growth": round(many / few - 1, 4)}
        if not args.json:
            print(f"{kind}: {few:.1f} MiB for 1000, {many:.1f} for {args.samples}: {many / few - 1:+.1%}", flush=True)
    if args.json:
        print(json.dumps(report))


if __name__ == "__main__":
    main()
