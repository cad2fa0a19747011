"""Nouns by which the clauses of prompts are told apart (see ``refiner.pipelines.revisers.clauses``)."""

from __future__ import annotations

import re

from refiner.pipelines.revisers.prompt_checks import words

_MEDIA = (
    "photo photograph picture image painting drawing sketch illustration render rendering artwork portrait shot view "
    "closeup scene still depiction print poster cartoon comic watercolor watercolour engraving snapshot"
)
MEDIA = "|".join(f"{noun}s?" for noun in (*_MEDIA.split(), "close[ -]up"))
"""Pattern of the nouns that say what kind of image it is."""
SCENE = frozenset(
    words(
        f"{_MEDIA} art style mood atmosphere aesthetic vibe look feel feeling tone palette color colour scheme hue "
        "tint gradient background backdrop light lighting glow shadow illumination sunlight moonlight candlelight "
        "backlight daylight sunset sunrise dusk dawn twilight night day daytime nighttime morning evening afternoon "
        "noon midnight hour winter summer autumn spring rain fog mist haze weather sky angle perspective composition "
        "frame framing lens camera film grain resolution quality detail texture focus depth bokeh blur contrast "
        "exposure saturation filter effect masterpiece wallpaper anime manga photography oil pencil ink acrylic "
        "gouache pastel monochrome sepia vignette brushstroke stroke outline shading mm k 4k 8k hdr hd uhd dof sense "
        "touch hint century era decade year degree motion polaroid daguerreotype"
    )
)
"""Nouns that describe an image as a whole: medium, light, time, camera, quality. In the form of ``words``."""
ATTACHED = frozenset(
    words(
        "left right middle center centre top bottom side front hat cap helmet mask dress suit coat jacket shirt "
        "sweater uniform costume armor armour gown robe skirt kimono hoodie jeans boots shoes glasses"
    )
)
"""Nouns after "on the" or "in a" that belong to one thing: its side, its clothes. In the form of ``words``."""
_READ = 200
"""Number of characters in which the first noun of a text is looked for."""
_UNSTRESSED = frozenset(
    words(
        "a an the some several many another his her its their my our and or with in on at against under during one "
        "two three four five six seven eight nine ten"
    )
)
_STOPS = frozenset(
    words(
        "of in on at with from by for to under over against during through into onto between behind above below near "
        "beside is are was were has have had that which who whose where while"
    )
)


def plain(text: str) -> str:
    """Remove the syntax of weights and LoRAs from a text."""
    text = re.sub(r"<[^<>]*>", " ", text)
    text = re.sub(r":\s*[\d.]+\s*(?=[)\]}]|$)", " ", text)
    return " ".join(re.sub(r"[()\[\]{}\\]", " ", text).split())


def is_scene(text: str) -> bool:
    """Whether the first noun of a text, such as "soft light from above", is one of ``SCENE``."""
    noun = ""
    line = re.sub(r"\bblack (?:and|&) white\b", "monochrome", plain(text[:_READ]).casefold())
    line = re.sub(r"\bclose[ -]up", "closeup", line)
    for word in words(line):
        if noun and (word in _STOPS or (word.endswith("ing") and word not in SCENE)):
            break
        if noun or not (word in _UNSTRESSED or word.isdecimal()):
            noun = word
    return noun in SCENE
