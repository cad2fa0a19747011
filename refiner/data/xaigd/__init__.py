"""X-AIGD: annotated images as a data set or record by record, and predictions in the official layout."""

from refiner.data.xaigd.annotations import XaigdFolder, XaigdImage
from refiner.data.xaigd.dataset import XaigdData

__all__ = ["XaigdData", "XaigdFolder", "XaigdImage"]
