"""Localisation figures: images a second, and memory over many images.

Every figure is processor time of one core on images of 1024x1024 with six outlined artifacts. ``counts`` compares masks
that are ready, beside the same figures the plain way (a comparison and a sum for each count). ``truth`` also draws the
polygons. ``folders`` is ``refiner evaluate pad``, reading PNGs included; inflating an 8-bit PNG of this size takes
about 3 ms, so that no more than some 300 images a second can be read. ``instances`` matches six boxes.

Run with ``make bench`` or ``python tests/benchmarks/localization.py [--images N] [--json]``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from refiner.data.raster import fill_polygons
from refiner.metrics.instances import match_boxes
from refiner.metrics.localization import count_pixels, total_pixels
from refiner.metrics.pad import evaluate_pad
from refiner.types import Mask, Size

SIZE = Size(1024, 1024)
MEMORY = """
import resource, sys
from refiner.metrics.pad import evaluate_pad
evaluate_pad(sys.argv[1], sys.argv[1], split=sys.argv[2], out=sys.argv[1] + "/out")
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def polygons(seed: int) -> list[list[list[float]]]:
    """Six blobs of forty corners."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(6):
        centre, radius = rng.uniform(100, 900, 2), rng.uniform(20, 120)
        angles = np.sort(rng.uniform(0, 2 * np.pi, 40))
        reach = radius * rng.uniform(0.6, 1.0, 40)
        found.append((centre + np.stack([reach * np.cos(angles), reach * np.sin(angles)], axis=1)).tolist())
    return found


def rate(work: Callable[[], object], images: int) -> float:
    """Images for each second of processor time; the best of three runs."""
    seconds = []
    for _ in range(3):
        start = time.process_time()
        work()
        seconds.append(time.process_time() - start)
    return images / min(seconds)


def count_plainly(pairs: Sequence[tuple[Mask, Mask]]) -> tuple[int, int, int]:
    """Counts as scripts usually take them, on masks of 0 and 255."""
    tp = fp = fn = 0
    for predicted, truth in pairs:
        found, flawed = predicted.astype(np.uint8) * 255, truth.astype(np.uint8) * 255
        tp += int(np.sum((found == 255) & (flawed == 255)))
        fp += int(np.sum((found == 255) & (flawed == 0)))
        fn += int(np.sum((found == 0) & (flawed == 255)))
    return tp, fp, fn


def write_data(folder: Path, split: str, outlines: Sequence[list[list[list[float]]]], size: Size) -> None:
    with (folder / f"{split}.jsonl").open("w") as file:
        for at, found in enumerate(outlines):
            labels = [{"label": "low-level-texture", "points": points} for points in found]
            place = {"generator": "g", "uid": str(at), "width": size.width, "height": size.height}
            file.write(json.dumps(place | {"labels": labels}) + "\n")


def measure(images: int) -> dict[str, float]:
    outlines = [polygons(seed) for seed in range(images)]
    truths = [fill_polygons(found, SIZE) for found in outlines]
    pairs = list(zip(truths[1:] + truths[:1], truths, strict=True))
    counts = total_pixels(count_pixels(*pair) for pair in pairs).counts
    assert (counts.tp, counts.fp, counts.fn) == count_plainly(pairs)
    boxes = [[(*np.min(points, axis=0), *np.max(points, axis=0)) for points in found] for found in outlines]
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        write_data(root, "labeled_test", outlines, SIZE)
        for at, (predicted, _) in enumerate(pairs):
            folder = root / "g" / str(at)
            folder.mkdir(parents=True)
            Image.fromarray(predicted.astype(np.uint8) * 255).save(folder / "mask.png")
        return {
            "counts": rate(lambda: total_pixels(count_pixels(*pair) for pair in pairs), images),
            "counts, the plain way": rate(lambda: count_plainly(pairs), images),
            "truth": rate(
                lambda: [count_pixels(pairs[at][0], fill_polygons(outlines[at], SIZE)) for at in range(images)], images
            ),
            "folders": rate(lambda: evaluate_pad(root, root), images),
            "instances": rate(lambda: [match_boxes(t, b) for t, b in zip(truths, boxes, strict=True)], images),
        }


def memory(images: int) -> float:
    """Largest memory of ``refiner evaluate pad`` over many small images, in MiB."""
    with tempfile.TemporaryDirectory() as name:
        write_data(Path(name), "labeled_test", [[[[1, 1], [20, 3], [9, 30]]]] * images, Size(32, 32))
        command = [sys.executable, "-P", "-c", MEMORY, name, "labeled_test"]
        return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=40)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rates, sizes = measure(options.images), {count: memory(count) for count in (1_000, 20_000)}
    if options.json:
        print(json.dumps({"images_per_second": rates, "peak_mib": sizes}))
        return
    for name, value in rates.items():
        print(f"{name:24s} {value:8.0f} images a second")
    for count, value in sizes.items():
        print(f"{count:6d} images {value:18.1f} MiB at most")


if __name__ == "__main__":
    main()
