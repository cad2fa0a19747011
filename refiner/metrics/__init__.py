"""Metrics of images and of detectors' answers. Each module is imported only where it is used."""
