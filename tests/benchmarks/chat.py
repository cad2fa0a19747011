"""Cost of a chat model for each image: seconds, calls and tokens, in this process and behind an endpoint.

In this process: one image at a time against batches of 8. Behind ``transformers serve`` on loopback, in a separate
process: one request at a time against 8 concurrent ones, and the cache while it is filled and while it is read. The
question is the detector's own. The images are flawed images of the micro world. All ways must give the same answers.

Run with ``python tests/benchmarks/chat.py [--model ID] [--images N] [--json]``. Without a model it uses ``micro:vlm``
if that is bundled, else a model with a few thousand random weights.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from refiner.detectors.chat.backend import ChatBackend, ChatReply, ChatRequest
from refiner.detectors.chat.endpoint import EndpointChat, EndpointSettings
from refiner.detectors.chat.local import LocalChat
from refiner.detectors.vlm.questions import box_format, finding
from refiner.hub import micro_parts, resolve
from refiner.micro.flaws import inject
from refiner.micro.world import sample_scene

sys.path.insert(0, str(Path(__file__).parents[1]))
from support.served import TransformersServer
from support.tiny_chat_models import save_viewer

BATCH = 8


def questions(count: int, kind: str) -> list[ChatRequest]:
    """The detector's question for ``count`` images."""
    rng = np.random.default_rng(41_000_000)
    pictures = [inject(sample_scene(rng, 1 + n % 4), rng, 1).image for n in range(count)]
    return [finding(picture, "", box_format(kind), thorough=True) for picture in pictures]


def ask(backend: ChatBackend, requests: Sequence[ChatRequest], together: int) -> tuple[dict[str, float], list[str]]:
    """Ask ``together`` requests at a time; the cost for each image, and the answers."""
    before, began, texts = backend.ledger, time.perf_counter(), []
    for start in range(0, len(requests), together):
        for reply in backend.complete(requests[start : start + together]):
            if not isinstance(reply, ChatReply):
                raise reply
            texts.append(reply.text)
    seconds, count, spent = time.perf_counter() - began, len(requests), backend.ledger
    return {
        "seconds": seconds / count,
        "images_per_second": count / seconds,
        **{
            name: (getattr(spent, name) - getattr(before, name)) / count
            for name in ("calls", "cached", "prompt_tokens", "completion_tokens")
        },
    }, texts


def measure(model: str, count: int, limit: int) -> dict[str, Any]:
    """Measure all ways.

    Raises:
        SystemExit: two ways give different answers.
    """
    here = LocalChat.from_pretrained(model, device="cpu", batch_size=BATCH, max_tokens=limit)
    requests = questions(count, here.model.config.model_type)
    server = TransformersServer()
    with tempfile.TemporaryDirectory() as cache:
        settings = EndpointSettings(max_tokens=limit, concurrency=BATCH, timeout=600)
        plain, kept = (EndpointChat(model, base_url=server.url, cache=c, settings=settings) for c in (None, cache))
        ways: list[tuple[str, ChatBackend, int]] = [
            ("here, one at a time", here, 1), (f"here, batches of {BATCH}", here, BATCH),
            ("endpoint, one at a time", plain, 1), (f"endpoint, {BATCH} under way", plain, BATCH),
            ("endpoint, filling the cache", kept, BATCH), ("endpoint, from the cache", kept, BATCH),
        ]  # fmt: skip
        try:
            for backend in (here, plain):  # load the model, and find out which requests the server accepts
                ask(backend, requests[:1], 1)
            rows, answers = {}, set()
            for name, backend, together in ways:
                rows[name], texts = ask(backend, requests, together)
                answers.add(tuple(texts))
        finally:
            server.stop()
    if len(answers) > 1:
        raise SystemExit("The answers differ between the ways of asking.")
    return {"model": model, "images": count, "ways": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", help="folder or id of a chat model that takes images")
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=256, help="most tokens of an answer (256)")
    parser.add_argument("--threads", type=int, default=2, help="threads of the model in this process (2)")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        model = options.model or ("micro:vlm" if "micro:vlm" in micro_parts() else str(save_viewer(folder, 8192)))
        document = measure(str(resolve(model, "detector")), options.images, options.tokens)
    if options.json:
        print(json.dumps(document))
        return
    rows = document["ways"]
    for name, row in rows.items():
        print(f"{name:28} " + "  ".join(f"{key} {value:.3g}" for key, value in row.items()))
    one, batch = (rows[name]["images_per_second"] for name in ("here, one at a time", f"here, batches of {BATCH}"))
    print(f"a batch of {BATCH} against one at a time, images per second: {batch / one:.2f} times")


if __name__ == "__main__":
    main()
