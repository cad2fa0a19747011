"""Data sets written in other formats: images as PNG files, and files of annotations."""

from refiner.data.writing.conversion import FORMATS, Converted, check_target, convert_data

__all__ = ["FORMATS", "Converted", "check_target", "convert_data"]
