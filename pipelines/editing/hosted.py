"""Edit models behind an OpenAI-compatible endpoint, which have ``/images/edits``."""

from __future__ import annotations

import base64
import io
import json
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from refiner.detectors.chat import refusals
from refiner.detectors.chat.cache import AnswerCache, cache_key
from refiner.detectors.chat.connection import Connection
from refiner.detectors.chat.options import EDIT_OPTIONS, EDIT_PREFIX, EndpointSettings, read_options
from refiner.detectors.chat.wire import Answered, FaultError, counted, fetched
from refiner.detectors.ids import parse_id
from refiner.errors import ConfigError, ModelError
from refiner.images import load_image, open_image, png_bytes
from refiner.ledger import Ledger
from refiner.pipelines.config import RefineConfig
from refiner.pipelines.editing.calls import fitted
from refiner.pipelines.editing.editors import Editor
from refiner.pipelines.editing.instructions import avoiding
from refiner.pipelines.painting.crops import Crop, CropInpainter, Painted

_NATIVE, _MULTIPLE = 1024, 16
"""Side of the square crops that are sent, in pixels, and what sides are multiples of. All services take 1024x1024."""
_OPTIONAL = ("mask", "size", "response_format", "seed", "n")
"""Fields that are left out if a server refuses them."""
_FIXED = ("image", "prompt", *_OPTIONAL)
"""Fields that cannot be set by ``extra_body``."""


class _Edited(NamedTuple):
    """An answer that was read."""

    image: Image.Image
    text: str
    """The image file in base64."""
    prompt_tokens: int
    completion_tokens: int


class HostedEditor:
    """An edit model behind an endpoint, as the ``inpainter=`` of a pipeline.

    Each crop is a request, with the mask as the transparent part of an image; requests run in parallel. Fields that a
    server refuses (mask, size, format, seed, number of images) are left out from then on. Failed connections, broken
    answers and the statuses 429 and 5xx are tried again. A crop without a usable answer is not changed.

    Args:
        model: the server's name of the model.
        base_url: such as ``http://127.0.0.1:8000/v1``; None: ``OPENAI_BASE_URL``, else the hosted service.
        key_variable: environment variable that holds the key. If it is not set, a placeholder is sent.
        cache: folder that stores answers, by model, crop, instruction and seed; None stores nothing.
        settings: timeouts, retries and limits. Crops are at most 1024 or ``max_side`` pixels wide and high on average.

    Raises:
        MissingExtraError: the ``openai`` package is not installed.
        ConfigError: the address contains a key, or ``extra_body`` sets what refiner sets itself.
        OutputError: the cache cannot be written.
    """

    editor = Editor()
    multiple, cell = _MULTIPLE, 1

    def __init__(
        self,
        model: str,
        *,
        base_url: str | None = None,
        key_variable: str = "OPENAI_API_KEY",
        cache: str | Path | None = None,
        settings: EndpointSettings | None = None,
    ) -> None:
        self.name, self.settings = model, settings or EndpointSettings()
        fixed = next((name for name in _FIXED if name in self.settings.extra_body), None)
        if fixed is not None:
            raise ConfigError(f"The field {fixed!r} of a request cannot be set by extra_body: leave it out.")
        self._connection = Connection(
            model, base_url=base_url, key_variable=key_variable, settings=self.settings, feature="A hosted edit model"
        )
        self._cache = None if cache is None else AnswerCache(cache)
        self._refused = set[str]()
        self._remarks = list[str]()

    def __repr__(self) -> str:
        return f"HostedEditor({self.name!r}, base_url={self._connection.base_url!r})"

    @property
    def native(self) -> int:
        """Side of the square crops that are sent, in pixels."""
        return max(_MULTIPLE, min(_NATIVE, self.settings.max_side))

    def ledgers(self) -> Mapping[str, Ledger]:
        """The costs so far, by the name of the model."""
        return {self.name: self._connection.ledger}

    def remarks(self) -> list[str]:
        """Return the notes for the user since the last call."""
        said, self._remarks = self._remarks, []
        return said

    def close(self) -> None:
        """Close the connections."""
        self._connection.client.close()

    def paint(self, crops: Sequence[Crop]) -> list[Painted]:
        """Edit crops, each as its prompt says.

        Returns:
            For each crop the edited one, fitted to it: float (H, W, 3) in [0, 1], or why there is none.

        Raises:
            ConfigError, ModelNotFoundError: the server does not accept the key, or does not have the model.
        """
        stop = threading.Event()
        with ThreadPoolExecutor(max(1, min(self.settings.concurrency, len(crops)))) as pool:
            try:
                return list(pool.map(lambda crop: self._painted(crop, stop), crops))
            finally:
                stop.set()  # after an interrupt, end the waits between attempts
                pool.shutdown(cancel_futures=True)

    def _painted(self, crop: Crop, stop: threading.Event) -> Painted:
        width, height = crop.image.size
        fields = {
            "prompt": avoiding(crop.prompt, crop.negative_prompt),
            "image": png_bytes(crop.image), "mask": _see_through(crop),
            "size": f"{width}x{height}", "response_format": "b64_json", "seed": crop.seed, "n": 1,
        }  # fmt: skip
        try:
            edited = self._answer(fields, stop)
        except ModelError as error:
            self._connection.add(failed=1)
            return error
        return fitted(np.asarray(edited.image, dtype=np.float32) / np.float32(255), crop)

    def _answer(self, fields: Mapping[str, Any], stop: threading.Event) -> _Edited:
        files = {name: base64.b64encode(fields[name]).decode() for name in ("image", "mask")}
        key = cache_key({"edit": self.name, **fields, **files, "extra_body": dict(self.settings.extra_body)})
        known = None if self._cache is None else self._cache.get(key)
        if known is not None:
            self._connection.add(cached=1)
            return _Edited(_decoded(known.text), known.text, known.prompt_tokens, known.completion_tokens)
        edited = self._ask(fields, stop)
        if self._cache is not None:
            _, text, prompt, completion = edited
            self._cache.put(key, Answered(text, "stop", prompt, completion))
        return edited

    def _ask(self, fields: Mapping[str, Any], stop: threading.Event) -> _Edited:
        """Send a request until it is answered."""
        failures = attempts = 0
        while True:
            sent = {name: value for name, value in fields.items() if name not in self._refused}
            attempts += 1
            try:
                edited = self._connection.send(partial(self._send, sent), retry=failures > 0)
                self._connection.add(images=1)
                return edited
            except FaultError as fault:
                if not self._adapt(sent, fault):
                    failures += 1
                    self._connection.wait(fault, failures=failures, attempts=attempts, stop=stop)

    def _send(self, fields: Mapping[str, Any]) -> _Edited:
        connection = self._connection
        files = {name: (f"{name}.png", fields[name], "image/png") for name in ("image", "mask") if name in fields}
        texts = {name: value for name, value in fields.items() if name not in files and name != "prompt"}
        edit = connection.client.images.with_streaming_response.edit
        call: Any = partial(edit, model=self.name, prompt=fields["prompt"], **files)
        content = fetched(
            lambda: call(extra_body={**texts, **self.settings.extra_body}), self.settings.timeout, connection.scrub
        )
        connection.add(pictures=1)
        return _read(content)

    def _adapt(self, sent: Mapping[str, Any], fault: FaultError) -> bool:
        """Leave out a field that the server refuses, if it can be left out; returns whether there is one."""
        refused = refusals.refused_field(fault.param, fault.said, sent, _OPTIONAL) if fault.refusal else None
        if refused not in _OPTIONAL:
            return False
        if refused == "seed" and "seed" not in self._refused:
            self._remarks.append(f"The server of {self.name} takes no seed, so that another run gives other images.")
        self._refused.add(refused)
        return True


class HostedInpainter(CropInpainter):
    """An inpainter over a hosted edit model, which also counts what it costs.

    Args:
        editor: the model.
        config: settings for crops, feathering and pasting.
    """

    def __init__(self, editor: HostedEditor, config: RefineConfig) -> None:
        apart = replace(config, batch_size=max(config.batch_size, editor.settings.concurrency), mixed_strengths=1.0)
        super().__init__(
            editor.paint, native=editor.native, multiple=editor.multiple, cell=editor.cell, config=apart
        )  # fmt: skip
        self._editor = editor

    def ledgers(self) -> Mapping[str, Ledger]:
        """See ``HostedEditor.ledgers``."""
        return self._editor.ledgers()

    def remarks(self) -> list[str]:
        """See ``CropInpainter.remarks``; with those of the editor."""
        return [*super().remarks(), *self._editor.remarks()]


def is_hosted(place: object) -> bool:
    """Whether an id names a hosted edit model."""
    return str(place).startswith(EDIT_PREFIX)


def load_editor(id_: str) -> HostedEditor:
    """Load a hosted edit model by its id, ``edit:MODEL@URL`` with options.

    Raises:
        ConfigError: there is no address, or an option is wrong.
        MissingExtraError, OutputError: see ``HostedEditor``.
    """
    model = parse_id(id_.removeprefix(EDIT_PREFIX), EDIT_OPTIONS)
    if model.base_url is None or not model.model:
        raise ConfigError(f"Expected an edit model as edit:MODEL@URL, got {id_!r}: name the model and its server.")
    options = read_options(model)
    return HostedEditor(model.model, base_url=model.base_url, cache=options.cache, settings=options.settings)


def local(inpainter: Any) -> Any:
    """Return an inpainter that is a pipeline on this machine; None for a hosted one."""
    return None if isinstance(inpainter, HostedEditor) else inpainter


def _see_through(crop: Crop) -> bytes:
    """Encode a crop as PNG whose masked part is transparent."""
    picture = crop.image.convert("RGBA")
    picture.putalpha(Image.fromarray(np.where(crop.mask, 0, 255).astype(np.uint8)))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def _read(content: bytes) -> _Edited:
    """Read the image in the body of an answer; raises ``FaultError`` if there is none."""
    try:
        body = json.loads(content)
        text = body["data"][0]["b64_json"]
        if not isinstance(text, str):
            raise TypeError
    except (ValueError, RecursionError):
        raise FaultError("an answer that is not JSON", again=True) from None
    except (KeyError, IndexError, TypeError, AttributeError):
        raise FaultError("JSON without an image in b64_json", again=False) from None
    text = text.partition(",")[2] if text.startswith("data:") else text
    usage = body.get("usage")
    tokens = (max(counted(usage, name) for name in names) for names in _TOKENS)
    return _Edited(_decoded(text), text, *tokens)


_TOKENS = (("input_tokens", "prompt_tokens"), ("output_tokens", "completion_tokens"))
"""Names of the numbers of tokens, which differ between services."""


def _decoded(text: str) -> Image.Image:
    """Decode an image file in base64 to RGB; raises ``FaultError`` if it is none, or too large."""
    try:
        return load_image(open_image(io.BytesIO(base64.b64decode(text, validate=True))))
    except Exception as error:  # a decoder may raise any exception for damaged data
        raise FaultError(f"an answer that is not a usable image ({str(error)[:200]})", again=False) from None
