"""Localization metrics: images per second, and memory over many images.

All speeds are by processor time of one core on images of 1024x1024 with six outlined artifacts. All ways run in turn,
and the best of five rounds counts. ``counts`` compares prepared masks; ``counts, the plain way`` does it with one
comparison and one sum for each count. ``truth`` also draws the polygons. ``instances`` matches six boxes. ``folders``
is ``refiner evaluate pad``, which also reads PNG files of 8 bits or 1 bit per pixel. ``decode`` is only the decoding of
these files, by Pillow, and by torchvision and OpenCV if they are installed. ``share`` is Pillow's share of the time of
``folders``.

Memory is the peak of a process (VmHWM, which starts at 0 with each program) over many images of 32x32.

Run with ``make bench`` or ``python tests/benchmarks/localization.py [--images N] [--json]``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from refiner.data.raster import fill_polygons
from refiner.metrics.instances import match_boxes
from refiner.metrics.localization import PixelTotals, count_pixels
from refiner.metrics.pad import evaluate_pad
from refiner.types import Mask, Size

SIZE = Size(1024, 1024)
MEMORY = """
import sys
from pathlib import Path
from refiner.metrics.pad import evaluate_pad
evaluate_pad(sys.argv[1], sys.argv[1], split=sys.argv[2], out=sys.argv[1] + "/out")
status = Path("/proc/self/status").read_text()
print(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))
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


ROUNDS = 5


def rates(ways: dict[str, Callable[[], object]], images: int) -> dict[str, float]:
    """Images per second of processor time for each way: the best of several rounds, in which the ways run in turn."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, work in ways.items():
            start = time.process_time()
            work()
            seconds[name].append(time.process_time() - start)
    return {name: images / min(found) for name, found in seconds.items()}


def count_plainly(pairs: Sequence[tuple[Mask, Mask]]) -> tuple[int, int, int]:
    """Pixel counts as scripts usually compute them, on masks of 0 and 255."""
    tp = fp = fn = 0
    for predicted, truth in pairs:
        found, flawed = predicted.astype(np.uint8) * 255, truth.astype(np.uint8) * 255
        tp += int(np.sum((found == 255) & (flawed == 255)))
        fp += int(np.sum((found == 255) & (flawed == 0)))
        fn += int(np.sum((found == 0) & (flawed == 255)))
    return tp, fp, fn


def pillow(path: Path) -> None:
    """Decode a PNG file with Pillow."""
    with Image.open(path, formats=("PNG",)) as image:
        image.load()


def decoders() -> dict[str, Callable[[Path], object]]:
    """Name -> decoder of PNG files, for the installed packages."""
    found: dict[str, Callable[[Path], object]] = {"Pillow": pillow}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            import torch
            from torchvision.io import decode_image

            torch.set_num_threads(1)
            found["torchvision"] = lambda path: decode_image(str(path))
        except ImportError:
            pass
    try:
        import cv2

        cv2.setNumThreads(1)
        found["OpenCV"] = lambda path: cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    except ImportError:
        pass
    return found


def write_masks(root: Path, masks: Sequence[Mask], *, bits: int) -> list[Path]:
    """Write masks as PNG files of 8 bits or 1 bit per pixel, in the layout of X-AIGD."""
    paths = []
    for at, mask in enumerate(masks):
        folder = root / "g" / str(at)
        folder.mkdir(parents=True)
        paths.append(folder / "mask.png")
        Image.fromarray(mask if bits == 1 else mask.astype(np.uint8) * 255).save(paths[-1])
    return paths


def write_data(folder: Path, split: str, outlines: Sequence[list[list[list[float]]]], size: Size) -> None:
    with (folder / f"{split}.jsonl").open("w") as file:
        for at, found in enumerate(outlines):
            labels = [{"label": "low-level-texture", "points": points} for points in found]
            place = {"generator": "g", "uid": str(at), "width": size.width, "height": size.height}
            file.write(json.dumps(place | {"labels": labels}) + "\n")


def counted(pairs: Sequence[tuple[Mask, Mask]]) -> PixelTotals:
    return sum((PixelTotals.of(count_pixels(*pair)) for pair in pairs), PixelTotals())


def measure(images: int) -> dict[str, float]:
    outlines = [polygons(seed) for seed in range(images)]
    truths = [fill_polygons(found, SIZE) for found in outlines]
    pairs = list(zip(truths[1:] + truths[:1], truths, strict=True))
    counts = counted(pairs).counts
    assert (counts.tp, counts.fp, counts.fn) == count_plainly(pairs)
    boxes = [[(*np.min(points, axis=0), *np.max(points, axis=0)) for points in found] for found in outlines]
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        write_data(root, "labeled_test", outlines, SIZE)
        ways: dict[str, Callable[[], object]] = {
            "counts": lambda: counted(pairs),
            "counts, the plain way": lambda: count_plainly(pairs),
            "truth": lambda: [count_pixels(pairs[at][0], fill_polygons(outlines[at], SIZE)) for at in range(images)],
            "instances": lambda: [match_boxes(t, b) for t, b in zip(truths, boxes, strict=True)],
        }
        for bits in (8, 1):
            place = root / f"bits-{bits}"
            paths = write_masks(place, [predicted for predicted, _ in pairs], bits=bits)
            ways[f"folders, {bits} bit"] = partial(evaluate_pad, place, root)
            for name, decode in decoders().items():
                ways[f"decode, {bits} bit, {name}"] = partial(_all, decode, paths)
        found = rates(ways, images)
    shares = {
        f"share, {bits} bit": found[f"folders, {bits} bit"] / found[f"decode, {bits} bit, Pillow"] for bits in (8, 1)
    }
    return found | shares


def _all(decode: Callable[[Path], object], paths: Sequence[Path]) -> None:
    for path in paths:
        decode(path)


def memory(images: int) -> float:
    """Peak memory of ``refiner evaluate pad`` over many small images, in MiB."""
    with tempfile.TemporaryDirectory() as name:
        write_data(Path(name), "labeled_test", [[[[1, 1], [20, 3], [9, 30]]]] * images, Size(32, 32))
        command = [sys.executable, "-P", "-c", MEMORY, name, "labeled_test"]
        return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=40)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found, sizes = measure(options.images), {count: memory(count) for count in (1_000, 20_000)}
    if options.json:
        print(json.dumps({"images_per_second": found, "peak_mib": sizes}))
        return
    for name, value in found.items():
        unit = f"{value:9.2f}" if name.startswith("share") else f"{value:9.0f} images per second"
        print(f"{name:26s}{unit}")
    for count, value in sizes.items():
        print(f"{count:6d} images {value:18.1f} MiB at most")


if __name__ == "__main__":
    main()
