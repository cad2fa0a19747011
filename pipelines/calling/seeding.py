"""The random numbers of a call: generators, seeds, and how a record describes them."""

from __future__ import annotations

import base64
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from refiner.errors import ConfigError, InputError
from refiner.files import Json
from refiner.pipelines.calling.request import Request
from refiner.pipelines.numbers import whole_numbers

if TYPE_CHECKING:
    import torch
    from diffusers import DiffusionPipeline


class Seeding(NamedTuple):
    """The random numbers of a call."""

    generators: tuple[torch.Generator, ...]
    """One for each image; or a single one, which all images share."""
    seeds: tuple[int, ...]
    """For each image, the seed from which all seeds after the start image are derived."""
    indices: tuple[int, ...]
    """For each image, its number among those with the same prompt and seed."""
    first: tuple[int, ...]
    """For each image, the seed of its start image as far as it has one."""
    ours: bool
    """Whether refiner made the generators, from seeds."""
    default: bool
    """Whether the call gets no generator, so that the default one of the device is used, as in diffusers."""


def seeding_of(
    pipe: DiffusionPipeline, request: Request, *, seed: int | Sequence[int] | None, generator: Any, index: int = 0
) -> Seeding:
    """Build the generators and seeds of the images of a call.

    With a seed s, the k-th image of a prompt is generated with ``manual_seed(s + k)``. With generators, the later seeds
    are drawn from copies of them, so that the start images are those of the wrapped pipeline. Without both, torch's
    global random numbers are used, as in diffusers.

    Args:
        pipe: the wrapped pipeline.
        request: the call.
        seed, generator: see ``RefinedPipeline``.
        index: number of the first image among those with the same prompt and seed.

    Raises:
        ConfigError: both are given, or their number is neither one nor one for each image.
    """
    if seed is not None and generator is not None:
        raise ConfigError("seed and generator cannot both be given: pass only one of them.")
    total, texts = request.total, [text for text in request.prompts for _ in range(request.count)]
    if generator is None and seed is None:
        seed = request.config.seed
    if seed is not None:
        numbers = whole_numbers("seed", seed)
        seeds = [numbers] * total if isinstance(numbers, int) else numbers
        _check_count(len(seeds), total)
        indices = _numbered(zip(texts, seeds, strict=True), index)
        first = tuple(one + index for one, index in zip(seeds, indices, strict=True))
        return Seeding(tuple(map(seeded, first)), tuple(seeds), indices, first, ours=True, default=False)
    default = generator is None
    given = tuple(generator) if isinstance(generator, list | tuple) else (generator or default_generator(pipe),)
    _check_count(len(given), total)
    drawn = [_draw(one) for one in given]
    seeds = drawn * total if len(given) == 1 else drawn
    return Seeding(given, tuple(seeds), _numbered(zip(texts, seeds, strict=True), index), tuple(seeds), False, default)


def _check_count(count: int, total: int) -> None:
    if count not in (1, total):
        raise ConfigError(f"Expected one seed or generator, or {total} (one for each image), got {count}.")


def _numbered(keys: Iterable[tuple[str, int]], index: int) -> tuple[int, ...]:
    known: Counter[tuple[str, int]] = Counter()
    numbers = []
    for key in keys:
        numbers.append(index + known[key])
        known[key] += 1
    return tuple(numbers)


def seeded(seed: int) -> torch.Generator:
    """Return a new generator on the CPU, so that a seed gives the same noise on any device."""
    import torch

    return torch.Generator("cpu").manual_seed(int(seed))


def default_generator(pipe: DiffusionPipeline) -> torch.Generator:
    """Return the generator that diffusers uses for a pipeline if none is given."""
    import torch

    device = pipe._execution_device
    if device.type == "cuda":
        return torch.cuda.default_generators[device.index or 0]
    return torch.random.default_generator


def _copied(generator: torch.Generator) -> torch.Generator:
    import torch

    return torch.Generator(generator.device).set_state(generator.get_state())


def _draw(generator: torch.Generator) -> int:
    import torch

    copy = _copied(generator)
    return int(torch.randint(2**63 - 1, (), generator=copy, device=copy.device))


def recorded(generator: torch.Generator) -> Json:
    """Describe a generator: by its seed if it is fresh, otherwise by its state."""
    import torch

    device, seed, state = generator.device.type, generator.initial_seed(), generator.get_state()
    if torch.equal(torch.Generator(generator.device).manual_seed(seed).get_state(), state):
        return {"device": device, "seed": seed}
    return {"device": device, "state": base64.b64encode(zlib.compress(state.numpy().tobytes())).decode()}


def generator_from(document: Json) -> torch.Generator:
    """Build the generator that a record describes.

    Raises:
        InputError: the description cannot be read.
    """
    import torch

    try:
        generator = torch.Generator(document["device"])
        if "seed" in document:
            return generator.manual_seed(int(document["seed"]))
        state = zlib.decompressobj().decompress(base64.b64decode(document["state"]), 100_000)
        return generator.set_state(torch.frombuffer(bytearray(state), dtype=torch.uint8))
    except (KeyError, TypeError, ValueError, RuntimeError, zlib.error) as error:
        raise InputError(f"The generator of the record cannot be read ({error}): use the record unchanged.") from error


@contextmanager
def defaults_as(pipe: DiffusionPipeline, generator: torch.Generator) -> Iterator[None]:
    """Let the default generator of a pipeline's device continue as another generator; restore it afterwards."""
    default = default_generator(pipe)
    before = default.get_state()
    default.set_state(generator.get_state())
    try:
        yield
    finally:
        default.set_state(before)
