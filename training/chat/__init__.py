"""Tuning chat models with images through trl and peft: what the recipes of several papers share."""
