"""Reads the lettering in an image with RapidOCR (PP-OCRv6, small), whose weights lie in its wheel: no download.

onnxruntime and OpenCV are imported at the first image.
"""

from __future__ import annotations

import importlib.util
import os
from importlib.metadata import version
from pathlib import Path
from threading import Lock
from typing import Any, Final, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from refiner.detectors.reading.regions import MAX_WORDS, plain_text
from refiner.errors import MissingExtraError, ModelError, WeightsError

MAX_THREADS: Final = 4
"""Threads of the networks at most; ``OMP_NUM_THREADS`` may ask for fewer."""
_PACKAGES: Final = ("rapidocr", "onnxruntime")
_WEIGHTS: Final[dict[str, str]] = {
    "Det.model_path": "PP-OCRv6_det_small.onnx",
    "Rec.model_path": "PP-OCRv6_rec_small.onnx",
}
_NARROWEST: Final = 4
"""Longer side divided by the shorter one at most: the networks enlarge an image until its shorter side is 736 pixels.
A narrower image gets a margin in the colour of its edge."""
_SMALLEST: Final = 4
"""Side, in pixels, below which an image cannot show a letter."""


class Line(NamedTuple):
    """A line of lettering."""

    text: str
    score: float
    """The confidence that it says so, in [0, 1]."""
    corners: NDArray[np.float64]
    """(4, 2): x and y in pixels of the image, from the start of the line's upper edge along it, then back below."""


class Reader(Protocol):
    """Reads lettering."""

    @property
    def name(self) -> str:
        """Name and version."""
        ...

    def read(self, image: Image.Image) -> list[Line]:
        """The lines of an RGB image, from top to bottom."""
        ...


def is_installed() -> bool:
    """Whether lettering can be read: the packages of the extra ``text`` are installed, with the weights."""
    try:
        check_installed()
    except (MissingExtraError, WeightsError):
        return False
    return True


def check_installed() -> None:
    """Check that lettering can be read.

    Raises:
        MissingExtraError: a package of the extra ``text`` is not installed.
        WeightsError: the wheel of RapidOCR has other weights.
    """
    for package in _PACKAGES:
        if importlib.util.find_spec(package) is None:
            raise MissingExtraError("Reading lettering", package, "text")
    _weights()


class RapidReader:
    """RapidOCR on the CPU; a ``Reader``. It may be called from several threads.

    Each line is read by itself, so that what it says does not depend on the other lines. Lines are not turned:
    lettering upside down is read with a low confidence, or not at all.

    Raises:
        MissingExtraError, WeightsError: as ``check_installed``.
    """

    def __init__(self) -> None:
        check_installed()
        self._engine: Any = None
        self._lock = Lock()

    @property
    def name(self) -> str:
        return f"rapidocr {version('rapidocr')}"

    def read(self, image: Image.Image) -> list[Line]:
        """The lines of an RGB image, from top to bottom; those without a letter are left out.

        Raises:
            ModelError: the networks fail.
        """
        if min(image.size) < _SMALLEST:
            return []
        pixels, (left, top) = _widened(np.asarray(image.convert("RGB")))
        try:
            found = self._loaded()(np.ascontiguousarray(pixels[:, :, ::-1]))
        except Exception as error:  # the package passes on whatever its libraries raise
            reason = " ".join(str(error).split())[-200:] or type(error).__name__
            raise ModelError(f"RapidOCR cannot read the image ({reason}): leave the image out.") from error
        if found.boxes is None or found.txts is None:
            return []
        told = zip(found.txts, found.scores, found.boxes, strict=True)
        lines = [
            Line(text, float(score), np.asarray(box, dtype=np.float64) - (left, top))
            for raw, score, box in told
            if (text := plain_text(raw, MAX_WORDS))
        ]
        return [line for line in lines if any(map(str.isalnum, line.text))]

    def _loaded(self) -> Any:
        with self._lock:
            if self._engine is None:
                from rapidocr import RapidOCR

                threads = _threads()
                self._engine = RapidOCR(
                    params={
                        **{key: str(path) for key, path in _weights().items()},
                        "Global.text_score": 0.0,
                        "Global.use_cls": False,
                        "Global.log_level": "critical",
                        "Rec.rec_batch_num": 1,
                        "EngineConfig.onnxruntime.intra_op_num_threads": threads,
                        "EngineConfig.onnxruntime.inter_op_num_threads": 1,
                    }
                )
            return self._engine


def _weights() -> dict[str, Path]:
    """The files of the networks, by the setting that names them."""
    spec = importlib.util.find_spec("rapidocr")
    assert spec is not None
    assert spec.origin is not None
    folder = Path(spec.origin).parent / "models"
    for file in _WEIGHTS.values():
        if not (folder / file).is_file():
            raise WeightsError(f"The weights {file!r} are not in the package rapidocr: install rapidocr 3.10 again.")
    return {key: folder / file for key, file in _WEIGHTS.items()}


def _threads() -> int:
    """Number of threads: at most ``MAX_THREADS``, the cores, and what ``OMP_NUM_THREADS`` says."""
    told = os.environ.get("OMP_NUM_THREADS", "")
    wanted = int(told) if told.isdecimal() and int(told) else MAX_THREADS
    return min(wanted, MAX_THREADS, os.cpu_count() or 1)


def _widened(pixels: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], tuple[int, int]]:
    """Add a margin to a very narrow image (H, W, 3); also returns the margin on the left and at the top, in pixels."""
    height, width = pixels.shape[:2]
    down, across = (max(0, -(-max(height, width) // _NARROWEST) - side) // 2 for side in (height, width))
    return np.pad(pixels, ((down, down), (across, across), (0, 0)), mode="edge"), (across, down)
