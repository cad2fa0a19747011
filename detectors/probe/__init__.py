"""A detector that finds flaws in the features of the generator's denoiser."""

from refiner.detectors.family import Family, loader
from refiner.detectors.probe.config import MODEL_TYPE

__all__ = ["FAMILY"]

FAMILY = Family(
    name="probe",
    load=loader("refiner.detectors.probe.detector:ProbeDetector.from_pretrained"),
    recognise=lambda config, _folder: config.get("model_type") == MODEL_TYPE,
)
