"""Share of a refine call's time inside each network, and outside of all networks.

``outside`` is everything that is not inside an outermost module of a network: schedulers, tokenizers, the Python code
of diffusers, crops, masks, pasting, records. What a detector does between its modules, such as choosing the next token,
also counts as outside. Seconds are processor time; in one thread this equals the time on an idle machine. ``repeated``
are rows that a network gets a second time in the same call. ``saving_at_most`` is the share of the call's time that a
cache of the network's outputs could save.

Run with ``make bench`` or ``python tests/benchmarks/overhead.py [--prompts N] [--json]``. ``projection.py`` estimates
the share for larger models.
"""

from __future__ import annotations

import argparse
import functools
import json
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline

from refiner import RefinedPipeline
from refiner.metrics.intervals import bootstrap_interval
from refiner.pipelines.bench import Case, cases

Networks = Mapping[str, torch.nn.Module]


class Clock:
    """Measures the seconds inside networks, by module.

    Args:
        networks: the networks to time.
        calls: calls that are not timed. They show each network's outermost modules, and how many rows a network gets
            twice in one call. Together they must call every module that timed calls use.
    """

    def __init__(self, networks: Networks, calls: Sequence[Callable[[], Any]]) -> None:
        self.names = {
            id(module): f"{name}.{path}" for name, net in networks.items() for path, module in net.named_modules()
        }
        self.seconds: dict[str, float] = defaultdict(float)
        self.outermost: dict[int, torch.nn.Module] = {}
        self.rows: Counter[str] = Counter()
        self.repeated: Counter[str] = Counter()
        self.depth = 0
        modules = [module for network in networks.values() for module in network.modules()]
        for call in calls:
            self.seen: set[int] = set()
            with _hooked(modules, self._note, self._leave):
                call()

    def _note(self, module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self.depth == 0:
            name = self.names[id(module)]
            self.outermost[id(module)] = module
            tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, torch.Tensor)]
            if kwargs.get("past_key_values") is not None:
                tensors = []  # a token's row depends on all tokens before it
            for row in zip(*(tensor for tensor in tensors if tensor.ndim), strict=False):
                key = hash((name, *(part.float().numpy().tobytes() for part in row)))
                self.rows[name] += 1
                self.repeated[name] += key in self.seen
                self.seen.add(key)
        self.depth += 1

    def _leave(self, *_: Any) -> None:
        self.depth -= 1

    def _enter(self, *_: Any) -> None:
        if self.depth == 0:
            self.began = time.process_time()
        self.depth += 1

    def _stop(self, module: torch.nn.Module, *_: Any) -> None:
        self.depth -= 1
        if self.depth == 0:
            self.seconds[self.names[id(module)]] += time.process_time() - self.began

    def time(self, call: Callable[[], Any]) -> dict[str, float]:
        """Seconds of one call, by outermost module, and ``outside``."""
        self.seconds.clear()
        with _hooked(list(self.outermost.values()), self._enter, self._stop):
            began = time.process_time()
            call()
            whole = time.process_time() - began
        return {**self.seconds, "outside": whole - sum(self.seconds.values())}


@contextmanager
def _hooked(modules: list[torch.nn.Module], enter: Callable[..., None], leave: Callable[..., None]) -> Iterator[None]:
    """Call ``enter`` and ``leave`` around the forward pass of each module."""
    handles = [module.register_forward_pre_hook(enter, with_kwargs=True) for module in modules]
    handles += [module.register_forward_hook(leave, always_call=True) for module in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def micro(prompts: int) -> dict[str, Any]:
    """Shares of the time of refine calls with the bundled models, with a bootstrap 95 % interval over calls."""
    pipe = RefinedPipeline.from_pretrained("micro")
    pipe.set_progress_bar_config(disable=True)
    networks = {
        **networks_of(pipe.pipe),
        **{f"inpainter's {name}": network for name, network in networks_of(pipe.inpainter).items()},
        "detector": pipe.detector.model,
        "judge": pipe.judge.model,
    }

    def refine(case: Case) -> None:
        _ = pipe.stream(case.scene.caption, seed=case.number, index=case.number).result

    calls = [functools.partial(refine, case) for case in cases(prompts + prompts // 2, 1)]
    clock = Clock(networks, calls[prompts:])
    found = [clock.time(call) for call in calls[:prompts]]
    modules = [*clock.rows, "outside"]
    table = np.array([[call.get(name, 0.0) for name in modules] for call in found])
    share = dict(zip(modules, (table.sum(axis=0) / table.sum()).tolist(), strict=True))
    outside = bootstrap_interval(
        table[:, -1],
        table.sum(axis=1),
        statistic=lambda part, whole, axis: part.sum(axis=axis) / whole.sum(axis=axis),
        resamples=5000,
    )
    by_network: dict[str, float] = defaultdict(float)
    for name, part in share.items():
        by_network[name.partition(".")[0]] += part
    return {
        "calls": prompts,
        "seconds_a_call": round(float(table.sum(axis=1).mean()), 3),
        "share": {name: round(part, 4) for name, part in by_network.items()},
        "outside_ci95": [round(bound, 4) for bound in outside],
        "repeated": {
            name: {"rows": f"{again} of {clock.rows[name]}", "saving_at_most": share[name] * again / clock.rows[name]}
            for name, again in clock.repeated.items()
            if again
        },
    }


def networks_of(pipe: DiffusionPipeline) -> dict[str, torch.nn.Module]:
    return {"denoiser": pipe.unet, "autoencoder": pipe.vae, "text encoder": pipe.text_encoder}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=24)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(json.dumps(micro(options.prompts), indent=None if options.json else 2))


if __name__ == "__main__":
    main()
