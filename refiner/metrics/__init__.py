"""Measures of pictures and of what detectors say about them; each module is imported where it is used."""
