"""Profiles: how a released vision-language critic is asked, and how it answers, as a small TOML file.

::

    instruction = "List the flaws of this image, which was to show: {prompt}"    # or instruction_file = "PATH"
    needs_prompt = true             # refuse images without a prompt (false)
    prompt_mark = "{prompt}"        # what stands for the prompt in the instruction
    max_tokens = 2048               # first limit of the answer

    [answer]
    form = "list"                   # or "verdict": a sentence that calls the image real or generated
    block = "answer"                # the element that holds the answer; "" for the whole text
    list = "regions"                # the key of the list; "" if the answer is the list itself

    [fields]                        # field of a flaw -> key in the answer
    box = "box_2d"
    category = "label"

    [boxes]
    scale = "thousand"              # or "pixels" of the image as shown, or "unit" (shares of the sides)
    order = "xyxy"                  # or "yxyx"

    [categories]                    # label -> category of the taxonomy; "" to choose by the words of the flaw
    misalignment = "misalignment"
    artifact = ""

    [severity]                      # the importance that is worst, and the one that is no flaw
    worst = 100
    none = 0

    [verdict]                       # words that call the image generated or real
    fake = ["fake"]
    real = ["real"]

    [image]                         # the image is scaled to this number of pixels
    least_pixels = 65536
    most_pixels = 1310720

Paths are relative to the file. All keys but the instruction may be left out. The bundled profiles lie in ``profiles/``
beside this module and are chosen by their name.
"""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final, Literal, get_args

from refiner.detectors.reading.boxes import BoxFormat
from refiner.errors import ConfigError
from refiner.reading import read_text, reason_of
from refiner.taxonomy import Category

Form = Literal["list", "verdict"]
FIELDS: Final = ("name", "location", "explanation", "reasoning", "category", "severity", "score", "box")
"""The fields of a flaw that an answer may have."""
MAX_BYTES: Final = 1_000_000
"""Bytes of a profile or an instruction at most."""
_MOST: Final = 1_000_000
"""Largest importance, in either direction."""
_FOLDER: Final = Path(__file__).parent / "profiles"


@dataclass(frozen=True, kw_only=True)
class Profile:
    """How a model is asked, and how it answers; the module says what each key means.

    Raises:
        ConfigError: a value cannot be used.
    """

    name: str
    """As the user wrote it."""
    instruction: str
    """"" if the user must name its file."""
    needs_prompt: bool = False
    prompt_mark: str = "{prompt}"
    max_tokens: int = 2048
    form: Form = "list"
    block: str = ""
    list: str = ""
    fields: Mapping[str, str] = field(default_factory=lambda: {name: name for name in FIELDS})
    boxes: BoxFormat = field(default_factory=BoxFormat)
    categories: Mapping[str, str] = field(default_factory=dict)
    worst: float = 1.0
    none: float = 0.0
    fake: tuple[str, ...] = ("fake",)
    real: tuple[str, ...] = ("real",)
    least_pixels: int = 1
    most_pixels: int = 64_000_000

    def __post_init__(self) -> None:
        self._check(self.form in get_args(Form), f"answer.form must be {' or '.join(get_args(Form))}")
        self._check(0 < self.max_tokens <= 1_000_000, "max_tokens must be from 1 to 1000000")
        known = all(-_MOST <= bound <= _MOST for bound in (self.worst, self.none))
        self._check(known, f"severity.worst and severity.none must be from {-_MOST} to {_MOST}")
        self._check(self.worst != self.none, "severity.worst and severity.none must differ")
        self._check(0 < self.least_pixels <= self.most_pixels, "image.least_pixels must be from 1 to most_pixels")
        self._check(bool(self.prompt_mark), "prompt_mark must not be empty")
        self._check(not set(self.fake) & set(self.real), "verdict.fake and verdict.real must have no word in common")
        self._check(bool(self.fake and self.real), "verdict.fake and verdict.real must each have a word")
        block = self.block
        self._check(not block or block.isidentifier(), "answer.block must be the name of an element, such as answer")
        for name in self.fields:
            self._check(name in FIELDS, f"fields may be {', '.join(FIELDS)}, not {name}")
        for label, category in self.categories.items():
            known = not category or category in set(Category)
            self._check(known, f"the category of {label} must be one of {', '.join(Category)}, or empty")
        if self.needs_prompt and self.instruction:
            self._check(self.prompt_mark in self.instruction, f"the instruction must have {self.prompt_mark}")

    @property
    def version(self) -> str:
        """The name without its folder, and the first digits of a checksum of all that decides requests and answers."""
        content = repr([(item.name, getattr(self, item.name)) for item in fields(self) if item.name != "name"])
        return f"{Path(self.name).stem} {hashlib.sha256(content.encode()).hexdigest()[:8]}"

    def _check(self, holds: bool, words: str) -> None:
        if not holds:
            raise ConfigError(f"The profile {self.name!r} cannot be used, because {words}: change the file.")


_KEYS: Final[Mapping[str, Mapping[str, type | tuple[type, ...]]]] = {
    "": {
        "instruction": str, "instruction_file": str, "needs_prompt": bool, "prompt_mark": str, "max_tokens": int,
    },
    "answer": {"form": str, "block": str, "list": str},
    "fields": dict.fromkeys(FIELDS, str),
    "boxes": {"scale": str, "order": str},
    "severity": {"worst": (int, float), "none": (int, float)},
    "verdict": {"fake": list, "real": list},
    "image": {"least_pixels": int, "most_pixels": int},
}  # fmt: skip
"""Table -> key -> type of the value; "" for the top. ``categories`` has any keys."""


def bundled_profiles() -> list[str]:
    """The names of the bundled profiles."""
    return sorted(path.stem for path in _FOLDER.glob("*.toml"))


def read_profile(profile: str | Path, instruction: str | Path | None = None) -> Profile:
    """Read a profile.

    Args:
        profile: the name of a bundled profile, or the path of a TOML file.
        instruction: the path of a text that is the instruction instead of the profile's own.

    Raises:
        ConfigError: there is no such profile, it cannot be read or used, or it has no instruction.
    """
    bundled = str(profile) in bundled_profiles()
    path = _FOLDER / f"{profile}.toml" if bundled else Path(profile).expanduser()
    if not bundled and not path.is_file():
        raise ConfigError(
            f"There is no profile {str(profile)!r}: name one of {', '.join(bundled_profiles())}, or a TOML file."
        )
    try:
        content = tomllib.loads(_read(path, "profile"))
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"The profile {str(profile)!r} is no TOML ({error}): correct the file.") from error
    _check_keys(str(profile), content)
    return _made(str(profile), content, path.parent, instruction)


def _made(name: str, content: Mapping[str, Any], folder: Path, instruction: str | Path | None) -> Profile:
    given = {key: content[key] for key in ("needs_prompt", "prompt_mark", "max_tokens") if key in content}
    for table in ("answer", "severity", "verdict", "image"):
        values = content.get(table, {}).items()
        given |= {key: tuple(value) if isinstance(value, list) else value for key, value in values}
    if "fields" in content:
        given["fields"] = dict(content["fields"])
    given["categories"] = {label.lower(): category for label, category in content.get("categories", {}).items()}
    if instruction is not None:
        text = _read(Path(instruction).expanduser(), "instruction")
    elif "instruction_file" in content:
        text = _read(folder / content["instruction_file"], "instruction")
    else:
        text = content.get("instruction", "")
    found = Profile(name=name, instruction=text.strip(), boxes=BoxFormat(**content.get("boxes", {})), **given)
    if not found.instruction:
        raise ConfigError(
            f"The profile {name!r} has no instruction of its own: name the file of the model's authors, such as "
            "instruction=FILE behind the profile."
        )
    return found


def _read(path: Path, what: str) -> str:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ValueError(f"it has more than {MAX_BYTES} bytes")
        return read_text(path)
    except (OSError, ValueError) as error:
        raise ConfigError(f"The {what} {str(path)!r} cannot be read ({reason_of(error)}): check the file.") from error


def _check_keys(name: str, content: Mapping[str, Any]) -> None:
    tables = {*_KEYS, "categories"} - {""}
    top = {key: value for key, value in content.items() if key not in tables}
    _check_table(name, "", top, {**_KEYS[""], **dict.fromkeys(tables, dict)})
    for table in tables & content.keys():
        value = content[table]
        if not isinstance(value, dict):
            raise ConfigError(f"In the profile {name!r}, {table} must be a table: write it as [{table}].")
        known = dict.fromkeys(value, str) if table == "categories" else _KEYS[table]
        _check_table(name, f"{table}.", value, known)


def _check_table(name: str, table: str, values: Mapping[str, Any], known: Mapping[str, Any]) -> None:
    for key, value in values.items():
        if key not in known:
            near = get_close_matches(key, known, n=1)
            hint = f"write {near[0]}" if near else "leave it out"
            raise ConfigError(f"The profile {name!r} has the unknown key {table}{key}: {hint}.")
        right = isinstance(value, known[key]) and (known[key] is bool or not isinstance(value, bool))
        if not right or (known[key] is list and not all(isinstance(each, str) and each for each in value)):
            raise ConfigError(
                f"In the profile {name!r}, {table}{key} has the wrong type of value, {value!r:.60}: change it."
            )
