import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from refiner import hub
from refiner.errors import ConfigError, ModelNotFoundError, WeightsError
from refiner.hub import Card, checksum, micro_parts, read_card, resolve, verify, write_card

FACTS = {"name": "spots 1", "recipe": "made by hand", "seed": 3, "data": "none", "domain": "micro"}


@pytest.fixture
def folder(tmp_path):
    """Two weight files and their card."""
    (tmp_path / "unet").mkdir()
    save_file({"a": np.arange(6.0).reshape(2, 3)}, tmp_path / "model.safetensors")
    save_file({"b": np.ones(4, dtype=np.float16)}, tmp_path / "unet" / "model.safetensors")
    write_card(tmp_path, Card(**FACTS, scores={"f1": np.float32(0.5)}, settings={"steps": 10}))
    return tmp_path


@pytest.fixture
def bundled(folder, tmp_path_factory, monkeypatch):
    """The folder as a bundled part ``micro:generator``, next to an empty ``micro:legion``."""
    weights = tmp_path_factory.mktemp("weights")
    folder.rename(weights / "generator")
    (weights / "legion").mkdir()
    monkeypatch.setattr(hub, "MICRO_WEIGHTS", weights)
    return weights


def test_a_card_round_trips(folder):
    card = read_card(folder)
    assert card == Card(
        **FACTS,
        scores={"f1": 0.5},
        settings={"steps": 10},
        sha256={name: checksum(folder / name) for name in ("model.safetensors", "unet/model.safetensors")},
    )
    verify(folder)


def test_a_card_needs_weights_and_plain_values(tmp_path, folder):
    (tmp_path / "empty").mkdir()
    with pytest.raises(WeightsError, match="holds no weights"):
        write_card(tmp_path / "empty", Card(**FACTS))
    with pytest.raises(ConfigError, match="plain JSON"):
        write_card(folder, Card(**FACTS, scores={"f1": float("nan")}))
    assert read_card(folder).scores == {"f1": 0.5}


@pytest.mark.parametrize("text", ["", "{", "[]", '{"name": 1}', '{"unknown": 1}', "\x00"])
def test_a_card_that_cannot_be_read_says_so(folder, text):
    (folder / "card.json").write_text(text)
    with pytest.raises(WeightsError, match=r"The card .*card\.json' cannot be read"):
        verify(folder)


def damage(folder, how):
    path = folder / "unet" / "model.safetensors"
    data = path.read_bytes()
    if how == "missing":
        path.unlink()
    elif how == "truncated":
        path.write_bytes(data[:-1])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "pointer":
        path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 90\n")
    elif how == "changed":
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))


@pytest.mark.parametrize("how", ["missing", "truncated", "empty", "pointer", "changed"])
def test_damaged_weights_are_named(folder, how):
    damage(folder, how)
    with pytest.raises(WeightsError, match=r"unet/model\.safetensors"):
        verify(folder)


def test_a_missing_shard_is_named(folder):
    shards = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(shards))
    with pytest.raises(WeightsError, match="00001-of-00002"):
        verify(folder)
    (folder / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(WeightsError, match="weight index"):
        verify(folder)


def test_a_folder_without_weights_is_refused(tmp_path):
    with pytest.raises(WeightsError, match="holds no weights"):
        verify(tmp_path)


def test_only_bundled_folders_need_a_card(bundled, tmp_path_factory):
    generator, other = bundled / "generator", tmp_path_factory.mktemp("other")
    verify(generator)
    save_file({"a": np.ones(2)}, other / "model.safetensors")
    verify(other)
    (generator / "card.json").unlink()
    with pytest.raises(WeightsError, match=r"card\.json"):
        verify(generator)


def test_a_folder_is_its_own_id(folder):
    assert resolve(folder, "generator") == folder
    assert resolve(str(folder), "detector") == folder


def test_plain_micro_is_the_part_that_fits(bundled):
    assert resolve("micro", "generator") == bundled / "generator"
    assert resolve("micro", "detector") == bundled / "legion"
    assert resolve("micro:legion", "generator") == bundled / "legion"
    assert micro_parts() == ["micro:generator", "micro:legion"]


@pytest.mark.parametrize(("model", "kind"), [("micro", "judge"), ("micro:nothing", "detector"), ("micro:", "judge")])
def test_unknown_parts_name_the_known_ones(bundled, model, kind):
    with pytest.raises(ModelNotFoundError, match="micro:generator, micro:legion"):
        resolve(model, kind)


@pytest.mark.parametrize("part", ["micro:..", "micro:../x", "micro:generator/unet", "micro:/"])
def test_parts_cannot_leave_their_folder(bundled, part):
    with pytest.raises(ModelNotFoundError):
        resolve(part, "generator")


@pytest.mark.parametrize("model", ["", " ", "./nowhere", "/no/such/folder", "a/b/c", "two words", "x--y/z", "@main"])
def test_what_is_neither_folder_nor_id_is_refused(bundled, model):
    with pytest.raises(ModelNotFoundError, match="no such folder"):
        resolve(model, "generator")


@pytest.mark.parametrize("kind", ["generator", "detector"])
def test_offline_an_unknown_id_is_one_sentence(kind, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelNotFoundError, match=r"'nobody/nothing'.*cannot be reached and nothing is cached.*bundled"):
        resolve("nobody/nothing@v1", kind)
