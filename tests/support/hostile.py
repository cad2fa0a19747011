"""Seeded hostile inputs: mutations of valid values, texts and files, as damage, other programs and attackers make them.

The input of a seed, a name and a number is always the same, so that a failure can be repeated.
"""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable, Iterator
from typing import Any

_LONG = "x" * 20_000
_DEEP: Any = None
for _ in range(300):
    _DEEP = [_DEEP]
SCALARS: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, -(2**31), 2**63, 2**64, 10**9, 10**30, 10**400, -(10**400), 0.5, -0.0, 1e308,
    -1e308, 5e-324, float("nan"), float("inf"), -float("inf"), "", " ", "x", "0", "-1", "NaN", "1e999", "null", "\0",
    "\ud800", "\udcff", "\ufeff", "\u202e", "é", "e\u0301", "../../etc/passwd", "/etc/passwd", "C:\\x\\1.png",
    "a\\1.png", "a/" * 3000, _LONG, "<script>", "%s%n{0}", "\r\n", "AAAA", "=" * 9, "eJwDAAAAAAE=", "PP`~", "0" * 5000,
    "\x1b[2J",
)  # fmt: skip
"""Values that no reader expects."""
_WORDS = (
    "{", "}", "[", "]", ",", ":", '"', "```", "```json\n", "<think>", "</think>", "<tag>", "<box>", "</box>", "[SEG]",
    "<p>", "</p>", "\0", "\ud800", "\ufeff", "NaN", "Infinity", "1e999", "-1", "99999999999999999999", "null", "None",
    "true", "real", "fake", "generated", "[[0, 0, 1000, 1000]]", "[1, 2", "\\u", "\\ud800", "\n", "\t", " " * 50, "é",
    "e\u0301", "- ", "1. ", "{" * 200, "[" * 200, '{"a":' * 200, "0" * 5000,
)  # fmt: skip
_ENCODINGS = ("utf-8", "utf-8", "utf-8", "utf-8-sig", "utf-16", "utf-16-be", "utf-32", "utf-7")


def numbered(seed: int, name: str, number: int) -> random.Random:
    """The source of randomness of one input."""
    return random.Random(f"{seed}/{name}/{number}")


def _changes(rng: random.Random) -> int:
    """How many changes: mostly one; sometimes none, which shows that the valid input is read."""
    return rng.choice((0, 1, 1, 1, 1, 1, 2, 3))


def hostile_value(rng: random.Random, value: Any) -> Any:
    """A JSON value with up to three changes, each anywhere."""
    changed = copy.deepcopy(value)
    for _ in range(_changes(rng)):
        places = list(_places(changed))
        if not places or rng.random() < 0.02:
            changed = _odd(rng)
        else:
            _change(rng, *rng.choice(places))
    return changed


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Each container in a JSON value with each of its keys, but not within what a change has put deep into it."""
    waiting = [value]
    for _ in range(500):
        if not waiting:
            return
        part = waiting.pop()
        keys = list(part) if isinstance(part, dict) else range(len(part)) if isinstance(part, list) else ()
        for key in keys:
            yield part, key
            waiting.append(part[key])


def _odd(rng: random.Random) -> Any:
    shapes: tuple[Callable[[], Any], ...] = (
        lambda: rng.choice(SCALARS),
        lambda: rng.choice(SCALARS),
        list,
        dict,
        lambda: [rng.choice(SCALARS) for _ in range(rng.randrange(5))],
        lambda: {str(rng.choice(SCALARS))[:9]: rng.choice(SCALARS)},
        lambda: [[rng.choice(SCALARS)] * 3] * 2,
        lambda: copy.deepcopy(_DEEP),
        lambda: [0] * rng.choice((3, 10_000)),
    )
    return rng.choice(shapes)()


def _change(rng: random.Random, part: Any, key: Any) -> None:
    kind = rng.randrange(8)
    old = part[key]
    if kind == 0:
        del part[key]
    elif kind == 1 and isinstance(part, list):
        part.insert(key, copy.deepcopy(old) if rng.random() < 0.5 else _odd(rng))
    elif kind == 1:
        part[rng.choice((f"{key} ", key.upper(), "", "\ud800", "x"))] = part.pop(key)
    elif kind == 2:
        part[key] = rng.choice(([old], {"a": old}, str(old), [old] * 40))
    elif kind == 3 and isinstance(old, int | float) and not isinstance(old, bool):
        part[key] = rng.choice(
            (-old, old * 10**9, _more(old), old * 10**400 if isinstance(old, int) else old, str(old))
        )
    elif kind == 3 and isinstance(old, str):
        part[key] = hostile_text(rng, old)
    else:
        part[key] = _odd(rng)


def _more(number: int | float) -> int | float:
    """A number with a fraction, or the same one if it is too large for any."""
    try:
        return number + 0.5
    except OverflowError:
        return number


def hostile_text(rng: random.Random, text: str) -> str:
    """A text with up to three changes: pieces cut, doubled, exchanged or put in, numbers replaced, or cut off."""
    for _ in range(_changes(rng)):
        at, end = sorted(rng.randrange(len(text) + 1) for _ in range(2))
        end = min(end, at + rng.choice((1, 3, 30, 3000)))
        kind = rng.randrange(7)
        if kind == 0:
            text = text[:at]
        elif kind == 1:
            text = text[:at] + text[end:]
        elif kind == 2:
            text = text[:end] + text[at:end] * rng.choice((1, 2, 50)) + text[end:]
        elif kind == 3:
            text = "".join(rng.choice(_WORDS) if c.isdigit() and rng.random() < 0.3 else c for c in text)
        elif kind == 4:
            text = text[:at] + "".join(rng.sample(text[at:end], end - at)) + text[end:]
        else:
            text = text[:at] + rng.choice(_WORDS) + text[end if kind == 5 else at :]
        text = text[:200_000]
    return text


def hostile_bytes(rng: random.Random, data: bytes) -> bytes:
    """The bytes of a file with up to three changes: cut off, bits flipped, parts doubled or left out, zeros put in."""
    for _ in range(_changes(rng)):
        at, end = sorted(rng.randrange(len(data) + 1) for _ in range(2))
        kind = rng.randrange(8)
        if kind == 0:
            data = data[:at]
        elif kind in (1, 2) and data:
            changed = bytearray(data)
            for _ in range(rng.choice((1, 4, 60))):
                changed[rng.randrange(len(data))] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
            data = bytes(changed)
        elif kind == 3:
            data = data[:at] + data[end:]
        elif kind == 4:
            data = data[:at] + data[at:end] * 2 + data[end:]
        elif kind == 5:
            data = data[:at] + bytes(rng.choice((1, 4, 1000))) + data[at:]
        elif kind == 6:  # a length or a count in the header of a file
            start = rng.randrange(min(len(data), 80) + 1)
            data = data[:start] + rng.choice((b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", bytes(4))) + data[start + 4 :]
        else:
            data = rng.choice((b"[", b'{"a":', b"\xff\xfe", b"\xef\xbb\xbf", b"\0", b"PK\x03\x04")) * 2000 + data
        data = data[:400_000]
    return data


def hostile_json(rng: random.Random, value: Any, *, lines: bool = False) -> bytes:
    """A file of JSON, or of JSON Lines from a list: with a hostile value, in an odd encoding, or with damaged bytes."""
    kind = rng.random()
    changed = hostile_value(rng, value) if kind < 0.7 else value
    rows = changed if lines and isinstance(changed, list) else [changed]
    text = "\n".join(json.dumps(row, ensure_ascii=rng.random() < 0.5) for row in rows)
    text = hostile_text(rng, text) if 0.7 <= kind < 0.85 else text
    data = text.encode(rng.choice(_ENCODINGS), "replace" if rng.random() < 0.5 else "backslashreplace")
    return hostile_bytes(rng, data) if kind >= 0.85 else data
