"""Cost of AnomAgent for each image: calls, tokens and seconds, with and without cache and concurrency.

A server on loopback answers each request after 100 ms, by a script: some objects in each image, and for each of them
one issue in itself and one in its relations, which are verified, integrated and formatted. Tokens are estimated from
the texts at four characters each; images are not counted. All ways must give the same analyses.

Run with ``python tests/benchmarks/agent.py [--images N] [--objects N] [--latency SECONDS] [--json]``.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from refiner.detectors.anomreason.agent import AnomAgent
from refiner.detectors.chat.endpoint import EndpointChat, EndpointSettings
from refiner.detectors.grounding.base import BoxGrounder
from refiner.detectors.reading.boxes import BoxFormat
from refiner.types import Analysis

sys.path.insert(0, str(Path(__file__).parents[1]))
from support.chat_servers import ScriptedServer
from support.scripted_agent import Asked, many

CONCURRENCY = 8
"""As by default."""


class SlowServer(ScriptedServer):
    """A server that answers after a while, and estimates the tokens."""

    request_queue_size = 64

    def __init__(self, objects: int, latency: float) -> None:
        script = many(objects)
        super().__init__(lambda text: json.dumps(script(Asked(text))))
        self.latency = latency

    def document(self, body: dict[str, Any], status: int, document: Any) -> tuple[int, Any]:
        time.sleep(self.latency)
        system, user = body["messages"]
        asked = system["content"] + user["content"][-1]["text"]
        said = document["choices"][0]["message"]["content"]
        document["usage"] = {"prompt_tokens": len(asked) // 4, "completion_tokens": len(said) // 4}
        return status, document


def measure(count: int, objects: int, latency: float) -> dict[str, dict[str, float]]:
    """The cost for each image in each way.

    Raises:
        SystemExit: two ways give different analyses.
    """
    rng = np.random.default_rng(44_000_000)
    images = [Image.fromarray(rng.integers(0, 256, (512, 512, 3), dtype=np.uint8)) for _ in range(count)]
    server, answers, rows = SlowServer(objects, latency), list[Any](), dict[str, dict[str, float]]()
    with tempfile.TemporaryDirectory() as cache:
        ways: list[tuple[str, int, int, str | None]] = [
            ("one call at a time", 1, 1, None), (f"{CONCURRENCY} calls, one image", CONCURRENCY, 1, None),
            (f"{CONCURRENCY} calls, all images", CONCURRENCY, count, None),
            ("the same, filling the cache", CONCURRENCY, count, cache),
            ("the same, from the cache", CONCURRENCY, count, cache),
        ]  # fmt: skip
        for name, concurrency, together, kept in ways:
            settings = EndpointSettings(concurrency=concurrency)
            chat = EndpointChat("scripted", base_url=server.url, cache=kept, settings=settings)
            agent = AnomAgent(chat, grounder=BoxGrounder(), boxes=BoxFormat())
            began, found = time.perf_counter(), list[Analysis]()
            for start in range(0, count, together):
                found += agent.batch(images[start : start + together])
            spent = chat.ledger
            rows[name] = {"seconds": (time.perf_counter() - began) / count} | {
                cost: getattr(spent, cost) / count for cost in ("calls", "cached", "prompt_tokens", "completion_tokens")
            }
            answers.append([(each.trace, [(r.name, r.box, r.severity) for r in each.regions]) for each in found])
            chat.close()
    server.stop()
    if any(each != answers[0] for each in answers):
        raise SystemExit("The analyses differ between the ways of asking.")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--objects", type=int, default=6, help="objects in each image (6)")
    parser.add_argument("--latency", type=float, default=0.1, help="seconds until each answer (0.1)")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows = measure(options.images, options.objects, options.latency)
    if options.json:
        print(json.dumps(vars(options) | {"ways": rows}))
        return
    for name, row in rows.items():
        print(f"{name:28} " + "  ".join(f"{cost} {value:.4g}" for cost, value in row.items()))
    slow, *faster = [row["seconds"] for row in rows.values()]
    print("one call at a time, over the others, seconds: " + ", ".join(f"{slow / each:.1f}" for each in faster))


if __name__ == "__main__":
    main()
