"""The flaws that detectors found in visitors' images, for the visitors to judge."""

from __future__ import annotations

import shutil
import tempfile
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from PIL import Image

from refiner.data.problems import Problem
from refiner.errors import InputError
from refiner.files import Json
from refiner.types import Analysis
from refiner.verify.candidates import Look, flaws_of_analysis
from refiner.verify.export import EXPORT_FILE, export_accepted
from refiner.verify.summary import accepted_rows
from refiner.verify.verification import Verification, open_verification

YOU: Final = "you"
"""The name of every visitor."""
_MOST: Final = 32
"""Visitors whose images are kept; the one who came first goes first."""


class AnalysedImage:
    """The answers of detectors about one image, as a source of candidates. A place is the label of a detector."""

    def __init__(self, image: Image.Image, answers: Mapping[str, Analysis]) -> None:
        self.image, self.answers = image, answers
        self.stamp: Json = {}
        self.problems: list[Problem] = []

    def __len__(self) -> int:
        return len(self.answers)

    def __iter__(self) -> Iterator[Mapping[str, Look] | Problem]:
        return ({label: self.load(label)} for label in self.answers)

    def load(self, place: str) -> Look:
        """The look of a detector."""
        analysis = self.answers[place]
        return Look(
            name="image",
            size=analysis.size,
            flaws=flaws_of_analysis(analysis),
            detector=place,
            read=lambda: self.image,
        )


class Reviews:
    """The latest analysis of each visitor, with the visitor's judgements in a temporary folder."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._found: dict[str, tuple[Verification, tempfile.TemporaryDirectory[str]]] = {}

    def open(self, session: str, image: Image.Image, answers: Mapping[str, Analysis]) -> None:
        """Take the answers about a new image; those about the visitor's last one are dropped.

        Args:
            session: id of the visitor's browser tab or client.
            image: RGB.
            answers: label of a detector -> what it found.
        """
        self.drop(session)
        source = AnalysedImage(image, answers)
        folder = tempfile.TemporaryDirectory(prefix="refiner-demo-")
        try:
            verification = open_verification(source, Path(folder.name), [], range(len(source)))
        except InputError:  # nothing was found
            folder.cleanup()
            return
        with self._lock:
            self._found[session] = (verification, folder)
            oldest = list(self._found)[:-_MOST]
        for other in oldest:
            self.drop(other)

    def get(self, session: str) -> Verification | None:
        """The candidates of a visitor; None if there are none."""
        with self._lock:
            found = self._found.get(session)
        return None if found is None else found[0]

    def archive(self, session: str) -> str | None:
        """Path of a ZIP file of what a visitor accepted; None before all is judged, and if nothing was accepted."""
        verification = self.get(session)
        if verification is None or verification.next(YOU) is not None or not accepted_rows(verification):
            return None
        with tempfile.TemporaryDirectory(prefix="refiner-demo-", ignore_cleanup_errors=True) as place:
            folder = Path(place) / "accepted"
            export_accepted(verification, folder, [])
            (folder / EXPORT_FILE).unlink()  # it holds paths of the server
            return shutil.make_archive(str(verification.folder / "accepted"), "zip", folder)

    def drop(self, session: str) -> None:
        """Forget the image of a visitor."""
        with self._lock:
            found = self._found.pop(session, None)
        if found is not None:
            found[1].cleanup()
