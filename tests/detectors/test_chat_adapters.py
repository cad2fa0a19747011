"""Adapters of peft: what they add to a chat model, and which of them are refused."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from PIL import Image
from safetensors.torch import load_file, save_file
from support.tiny_chat_models import save_viewer, save_writer
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoProcessor, AutoTokenizer

from refiner.detectors.chat.backend import ChatReply, ChatRequest
from refiner.detectors.chat.loading import chat_needs
from refiner.detectors.chat.local import LocalChat
from refiner.detectors.ids import ModelId
from refiner.errors import ConfigError, ModelNotFoundError, RefinerError, UserError, WeightsError
from refiner.hub import MICRO_WEIGHTS
from refiner.repository import Repository

NEW = ["wort", "satz", "klang"]
"""Tokens that only the adapter has."""
TEMPLATE = "{% for m in messages %}Q{% endfor %}{% if add_generation_prompt %}A{% endif %}"
WEIGHTS = "adapter_model.safetensors"


@pytest.fixture(scope="module", params=["viewer", "writer", "tied writer"])
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    tied = partial(save_writer, tied=True)
    save = {"viewer": save_viewer, "writer": save_writer, "tied writer": tied}[request.param]
    return Path(save(tmp_path_factory.mktemp(request.param)))


def load(base: Path) -> tuple[Any, Any]:
    if (base / "processor_config.json").is_file():
        return AutoModelForImageTextToText.from_pretrained(base), AutoProcessor.from_pretrained(base)
    return AutoModelForCausalLM.from_pretrained(base), AutoTokenizer.from_pretrained(base)


def quiet(call: Callable[[], Any]) -> Any:
    """Call peft, which uses names that transformers has deprecated."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return call()


def tune(base: Path, folder: Path, words: list[str], **settings: Any) -> tuple[Any, Any]:
    """Save an adapter with random weights, and return its model, not merged, with its processor."""
    network, processor = load(base)
    tokenizer = getattr(processor, "tokenizer", processor)
    first = len(tokenizer)
    tokenizer.add_tokens(words)
    torch.manual_seed(2)
    if words:
        network.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        new = list(range(first, len(tokenizer)))
        tied = network.config.tie_word_embeddings
        settings["trainable_token_indices"] = new if tied else {"embed_tokens": new, "lm_head": new}
    lora = LoraConfig(target_modules="all-linear", exclude_modules=["lm_head"], r=4, **settings)
    model = quiet(lambda: get_peft_model(network, lora))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.requires_grad:
                weight.normal_(0, 8.0 if "trainable_tokens" in name else 0.2)
    quiet(lambda: model.save_pretrained(folder))
    return model, processor


@pytest.fixture(scope="module")
def tuned(base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """Folder of an adapter with three tokens of its own, and its model."""
    folder = tmp_path_factory.mktemp("adapter")
    model, processor = tune(base, folder, NEW)
    processor.save_pretrained(folder)
    return folder, LocalChat(model, processor, name="not merged", max_tokens=24)


def asks(chat: LocalChat) -> list[ChatRequest]:
    images = [Image.new("RGB", (64 + 32 * number, 64), (50 * number, 90, 10)) for number in range(5)]
    return [
        ChatRequest(user=f"{number}: what?", images=(images[number],) if chat.sees else (), max_tokens=24)
        for number in range(5)
    ]


def told(chat: LocalChat) -> list[tuple[str, int, int]]:
    replies = chat.complete(asks(chat))
    assert all(isinstance(reply, ChatReply) for reply in replies), replies
    return [(reply.text, reply.prompt_tokens, reply.completion_tokens) for reply in replies]


def test_a_merged_adapter_writes_what_the_unmerged_one_writes(base: Path, tuned: tuple[Path, LocalChat]) -> None:
    folder, unmerged = tuned
    wanted = told(unmerged)
    assert any(word in text for text, *_ in wanted for word in NEW), "the new tokens are in use"
    for model, adapter in ((folder, None), (base, folder)):
        chat = LocalChat.from_pretrained(model, adapter, device="cpu", max_tokens=24)
        assert told(chat) == wanted
        assert chat.folders == (folder, base)
        assert not any("lora" in name for name, _ in chat.model.named_parameters())
    assert wanted != told(LocalChat.from_pretrained(base, device="cpu", max_tokens=24))


def test_without_a_tokenizer_of_its_own_an_adapter_uses_that_of_the_model(base: Path, tmp_path: Path) -> None:
    model, processor = tune(base, tmp_path, [])
    wanted = told(LocalChat(model, processor, name="not merged", max_tokens=24))
    assert told(LocalChat.from_pretrained(tmp_path, device="cpu", max_tokens=24)) == wanted


def test_a_tokenizer_alone_is_put_into_the_processor_of_the_model(
    base: Path, tuned: tuple[Path, LocalChat], tmp_path: Path
) -> None:
    folder, unmerged = tuned
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    (tmp_path / "processor_config.json").unlink(missing_ok=True)
    assert told(LocalChat.from_pretrained(tmp_path, device="cpu", max_tokens=24)) == told(unmerged)


def test_a_chat_template_alone_is_used(base: Path, tmp_path: Path) -> None:
    model, processor = tune(base, tmp_path, [])
    (tmp_path / "chat_template.jinja").write_text(TEMPLATE)
    processor.chat_template = TEMPLATE
    chat = LocalChat.from_pretrained(tmp_path, device="cpu", max_tokens=24)
    if not chat.sees:  # a prompt for images needs their tokens
        assert told(chat) == told(LocalChat(model, processor, name="not merged", max_tokens=24))
        assert told(chat)[0][1] == len("QA")
    assert chat.processor.chat_template == TEMPLATE


def test_new_tokens_without_weights_are_never_random(base: Path, tmp_path: Path) -> None:
    _, processor = tune(base, tmp_path, [])
    getattr(processor, "tokenizer", processor).add_tokens(NEW)
    processor.save_pretrained(tmp_path)
    chat = LocalChat.from_pretrained(tmp_path, device="cpu")
    for layer in (chat.model.get_input_embeddings(), chat.model.get_output_embeddings()):
        assert torch.count_nonzero(layer.weight[-len(NEW) :]) == 0
        assert torch.count_nonzero(layer.weight[: -len(NEW)])


def test_what_is_needed_is_listed_without_loading(base: Path, tuned: tuple[Path, LocalChat]) -> None:
    folder, hub = str(tuned[0]), "owner/model"
    assert chat_needs(ModelId(model=str(base))) == [base]
    assert chat_needs(ModelId(model=folder)) == [base, Path(folder)]
    assert chat_needs(ModelId(model=hub, options={"adapter": folder})) == [Repository(name=hub), Path(folder)]
    both = chat_needs(ModelId(model=str(base), options={"adapter": f"{hub}@v1"}))
    assert both == [base, Repository(name=hub, revision="v1")]


@pytest.mark.parametrize(
    ("settings", "base_place"),
    [
        ({"base_model_name_or_path": "micro:vlm"}, MICRO_WEIGHTS / "vlm"),
        ({"base_model_name_or_path": "owner/model", "revision": "v2"}, Repository(name="owner/model", revision="v2")),
        (
            {"base_model_name_or_path": "owner/model@v1", "revision": "v2"},
            Repository(name="owner/model", revision="v1"),
        ),
    ],
)
def test_the_base_model_may_be_bundled_or_on_the_hub(settings: dict[str, str], base_place: Any, tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
    assert chat_needs(ModelId(model=str(tmp_path))) == [base_place, tmp_path]


def edit(**changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "adapter_config.json"
        settings = json.loads(path.read_text()) | changes
        path.write_text(json.dumps({name: value for name, value in settings.items() if value is not ...}))

    return change


def drop(part: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        weights = load_file(folder / WEIGHTS)
        save_file({name: weight for name, weight in weights.items() if part not in name}, folder / WEIGHTS)

    return change


def rename(part: str, other: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        weights = load_file(folder / WEIGHTS)
        weights |= {name.replace(part, other): weight.clone() for name, weight in weights.items() if part in name}
        save_file(weights, folder / WEIGHTS)

    return change


def widen(folder: Path) -> None:
    """As if the base model were twice as wide."""
    weights = load_file(folder / WEIGHTS)
    save_file({name: torch.cat([weight, weight], dim=-1) for name, weight in weights.items()}, folder / WEIGHTS)


def text_in(name: str, text: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text(text)


DAMAGE: dict[str, tuple[Callable[[Path], object], type[RefinerError], str]] = {
    "weights missing": (lambda folder: (folder / WEIGHTS).unlink(), WeightsError, "missing: save it as safetensors"),
    "weights cut": (
        lambda folder: (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:500]),
        WeightsError, "not a complete safetensors file",
    ),
    "a layer missing": (drop("layers.1.mlp.up_proj.lora_B"), WeightsError, "do not fit its base model"),
    "rows of tokens missing": (drop("trainable_tokens_delta"), WeightsError, "cannot be put on"),
    "a layer too many": (rename("layers.1.", "layers.7."), WeightsError, "unexpected"),
    "another width": (widen, WeightsError, "cannot be put on|do not fit"),
    "another rank": (edit(r=3), WeightsError, "use the base model that it was trained on"),
    "unknown modules": (edit(target_modules=["nowhere"]), WeightsError, "use the base model that it was trained on"),
    "an odd kind": (edit(peft_type="NOTHING"), WeightsError, "cannot be put on"),
    "no kind": (edit(peft_type=...), WeightsError, "cannot be put on"),
    "no base": (edit(base_model_name_or_path=None), WeightsError, "does not name its base model"),
    "an odd base": (edit(base_model_name_or_path=[1]), WeightsError, "does not name its base model"),
    "a base that is gone": (edit(base_model_name_or_path="/gone/away"), ModelNotFoundError, "was not found: give"),
    "no JSON": (text_in("adapter_config.json", "{"), WeightsError, "settings .* cannot be read"),
    "a list": (text_in("adapter_config.json", "[]"), WeightsError, "settings .* cannot be read"),
    "deep": (text_in("adapter_config.json", "[" * 100_000), WeightsError, "settings .* cannot be read"),
    "huge": (text_in("adapter_config.json", " " * 2_000_000), WeightsError, "larger than 1,000,000 bytes"),
    "an odd tokenizer": (text_in("tokenizer_config.json", '{"tokenizer_class": 5}'), WeightsError, "cannot be put on"),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_adapter_is_refused_in_one_sentence(
    damage: str, tuned: tuple[Path, LocalChat], tmp_path: Path
) -> None:
    shutil.copytree(tuned[0], tmp_path, dirs_exist_ok=True)
    harm, kind, message = DAMAGE[damage]
    harm(tmp_path)
    with pytest.raises(kind, match=message) as caught:
        LocalChat.from_pretrained(tmp_path, device="cpu")
    assert isinstance(caught.value, UserError)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 700


def test_an_adapter_of_another_model_is_refused(tmp_path_factory: pytest.TempPathFactory) -> None:
    folders = {name: tmp_path_factory.mktemp(name) for name in ("viewer", "writer", "adapter")}
    save_viewer(folders["viewer"])
    save_writer(folders["writer"])
    tune(folders["viewer"], folders["adapter"], [])
    with pytest.raises(WeightsError, match="use the base model that it was trained on"):
        LocalChat.from_pretrained(folders["writer"], folders["adapter"], device="cpu")


def test_what_is_no_adapter_is_refused(base: Path, tuned: tuple[Path, LocalChat], tmp_path: Path) -> None:
    for find in (lambda model, adapter: LocalChat.from_pretrained(model, adapter, device="cpu"), needs):
        with pytest.raises(WeightsError, match="is no adapter"):
            find(base, base)
        with pytest.raises(ModelNotFoundError):
            find(base, tmp_path / "nowhere")
        with pytest.raises(ConfigError, match="is an adapter itself"):
            find(tuned[0], tuned[0])
        shutil.copytree(tuned[0], tmp_path / "second", dirs_exist_ok=True)
        edit(base_model_name_or_path=str(tuned[0]))(tmp_path / "second")
        with pytest.raises(WeightsError, match="is an adapter, too: merge it"):
            find(tmp_path / "second", None)


def needs(model: Path, adapter: Path | None) -> object:
    return chat_needs(ModelId(model=str(model), options={} if adapter is None else {"adapter": str(adapter)}))


def test_a_model_is_not_changed_by_the_adapter_on_disk(base: Path, tuned: tuple[Path, LocalChat]) -> None:
    before = {path.name: path.read_bytes() for path in base.iterdir()}
    LocalChat.from_pretrained(base, tuned[0], device="cpu")
    assert {path.name: path.read_bytes() for path in base.iterdir()} == before


def test_the_models_of_peft_and_refiner_are_equal_in_weights(base: Path, tmp_path: Path) -> None:
    tune(base, tmp_path, [])
    network, _ = load(base)
    merged = quiet(lambda: PeftModel.from_pretrained(network, tmp_path).merge_and_unload()).state_dict()
    ours = LocalChat.from_pretrained(tmp_path, device="cpu").model.state_dict()
    assert merged.keys() == ours.keys()
    assert all(torch.equal(merged[name], ours[name]) for name in merged)


def test_an_adapter_is_not_for_an_endpoint() -> None:
    with pytest.raises(ConfigError, match="serve the adapter there and give its name as the model"):
        chat_needs(ModelId(model="m", base_url="http://127.0.0.1:1/v1", options={"adapter": "a"}))
