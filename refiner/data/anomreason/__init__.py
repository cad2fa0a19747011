"""AnomReason: generated images whose semantic anomalies are told in words, and real images (arXiv 2510.10231).

``FOLDER`` holds the images in ``1_fake/`` and ``0_real/``, and JSON files beside them:

- image name -> list of anomalies (``AnomReason_After_HITL.json``): see ``refiner.data.anomreason.anomalies``;
- image name -> text that says why the image looks real (``Real_image_caption_....json``), if there are real images;
- ``dataset_split_list.json``: split -> list of image names; optional.

The data set was not at hand: names and layout are those of the authors' code, which reads it.
"""

from refiner.data.anomreason.anomalies import (
    FAKE,
    REAL,
    AnomalySet,
    Answers,
    anomalies_at,
    from_regions,
    index_anomalies,
    index_descriptions,
    label_of,
    read_anomalies,
    read_answers,
    to_document,
    to_entry,
)
from refiner.data.anomreason.subset import Subset, read_subset
from refiner.data.names import basename

__all__ = [
    "FAKE",
    "REAL",
    "AnomalySet",
    "Answers",
    "Subset",
    "anomalies_at",
    "basename",
    "from_regions",
    "index_anomalies",
    "index_descriptions",
    "label_of",
    "read_anomalies",
    "read_answers",
    "read_subset",
    "to_document",
    "to_entry",
]
