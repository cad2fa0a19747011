"""Tuning chat models with images through trl and peft: what the recipes of several papers share."""

from refiner.errors import MissingExtraError


def require_trl(what: str) -> None:
    """Raise MissingExtraError if trl, which ``what`` needs, is not installed."""
    try:
        import trl  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(what, "trl", "train") from error
