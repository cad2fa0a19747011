"""``refiner rank`` with pipelines that generate: seeds, options of the call, and resumed runs."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

torch.set_num_threads(1)

PROMPTS = {"00": "a red hand", "01": "a green clock", "02": "a blue cat"}

Cli = Callable[..., tuple[int, str, str]]


def test_identical_generators_tie(rank: Cli, model: str, tmp_path: Path) -> None:
    document = json.loads(rank(f"one={model}", f"two={model}", "--out", "o", "--json")[1])
    assert [row["place"] for row in document["systems"]] == [1, 1]
    assert document["systems"][0]["figures"] == document["systems"][1]["figures"]
    for table in document["wins"].values():
        assert table["one"]["two"] == table["two"]["one"] == {"overall": 0.5, "per_prompt": 0.5}


def test_neither_order_nor_batch_nor_company_changes_the_table(rank: Cli, model: str, tmp_path: Path) -> None:
    (tmp_path / "some").mkdir()
    for red, name in enumerate(PROMPTS):
        Image.new("RGB", (48, 40), (100 * red, 40, 40)).save(tmp_path / f"some/{name}.png")
    systems = [f"b={model},num_inference_steps=3", "some=some", f"a={model}"]
    first = rank(*systems, "--out", "one", "--json")[1]
    assert rank(*reversed(systems), "--out", "two", "--batch-size", "1", "--json")[1] == first
    (tmp_path / "p.json").write_text(json.dumps(dict(reversed(PROMPTS.items()))))
    assert json.loads(rank(*systems, "--out", "three", "--json")[1])["systems"] == json.loads(first)["systems"]
    alone = json.loads(rank("some=some", "--out", "four", "--json")[1])["systems"][0]["figures"]
    assert next(row for row in json.loads(first)["systems"] if row["name"] == "some")["figures"] == alone


def test_painted_pictures_rank_as_the_model_that_painted_them(rank: Cli, model: str, tmp_path: Path) -> None:
    prompts = {"style/00": "a red hand", "01.jpg": "a green clock", "../02": "a blue cat"}
    (tmp_path / "p.json").write_text(json.dumps(prompts))
    rank(f"model={model}", "--out", "o", "--seed", "7", "--limit", "2")
    painted = {path.relative_to(tmp_path / "o/model/pictures").as_posix() for path in tmp_path.rglob("o/**/*.png")}
    assert painted == {"style/00.png", "01.png"}
    arguments = ("folder=o/model/pictures", f"model={model}", "--seed", "7", "--limit", "2", "--out", "p", "--json")
    document = json.loads(rank(*arguments)[1])
    assert document["wins"]["CAP"]["folder"]["model"] == {"overall": 0.5, "per_prompt": 0.5}


def test_several_pictures_of_a_prompt_differ_and_are_drawn_together(rank: Cli, model: str, tmp_path: Path) -> None:
    code, out, err = rank(f"one={model}", f"two={model},guidance_scale=1.5", "--seeds", "2", "--out", "o", "--json")
    assert code == 0, err
    document = json.loads(out)
    assert (document["prompts"], document["pictures"]) == (3, 6)
    files = sorted((tmp_path / "o/one/pictures").iterdir())
    assert [path.name for path in files] == [f"{name}-{number}.png" for name in PROMPTS for number in (0, 1)]
    assert len({path.read_bytes() for path in files}) == 6


def test_a_killed_ranking_goes_on_and_takes_in_others(rank: Cli, model: str, tmp_path: Path) -> None:
    one, two = f"one={model}", f"two={model},num_inference_steps=1"
    straight = rank(one, two, "--out", "straight", "--json")[1]
    rank(one, "--out", "cut", "--batch-size", "1")
    records = tmp_path / "cut/one/records.jsonl"
    records.write_bytes(records.read_bytes()[:-200])
    (tmp_path / "cut/one/pictures/02.png").unlink()
    code, out, err = rank(one, two, "--out", "cut")
    assert (code, out) == (2, "")
    assert "--resume" in err
    assert rank(one, two, "--out", "cut", "--resume", "--json")[1] == straight
    assert (tmp_path / "cut/one/pictures/02.png").is_file()
    code, _, err = rank(one, f"two={model},num_inference_steps=4", "--out", "cut", "--resume")
    assert code == 2
    assert "num_inference_steps" in err
    code, _, err = rank(one, two, "--out", "cut", "--resume", "--seed", "1")
    assert code == 2
    assert "seed" in err


def test_the_bundled_models_are_ranked(rank: Cli, tmp_path: Path) -> None:
    arguments = ("--prompts", "micro-prompts:2", "--detector", "micro", "--judge", "micro", "--by", "HPS")
    systems = ("b=micro,num_inference_steps=8", "a=micro")
    code, out, err = rank(*systems, *arguments, "--out", "o", "--json")
    assert code == 0, err
    document = json.loads(out)
    assert set(document["wins"]) == {"CAP", "HPS", "PAR"}
    assert document["orders"]["HPS"] == [row["name"] for row in document["systems"]]
    values = [row["figures"]["HPS"]["value"] for row in document["systems"]]
    assert -1 < values[1] <= values[0] < 1
    assert "hps-micro" in document["signature"]
    with Image.open(tmp_path / "o/a/pictures/00000.png") as picture:
        assert picture.info["Source"] == "AI-generated"


def complains(rank: Cli, said: str, *arguments: str) -> None:
    code, out, err = rank(*arguments)
    assert code == 2
    assert out == ""
    assert re.fullmatch(r"refiner: (Expected .+|.+: .+)\.\n", err), err
    assert said in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("steps=4", "num_inference_steps"),
        ("prompt=x", "'prompt'"),
        ("latents=1", "'latents'"),
        ("num_inference_steps=four", "type int"),
        ("num_inference_steps=4.5", "type int"),
        ("num_inference_steps=0", "at least 1"),
        ("num_inference_steps=true", "type int"),
        ("guidance_scale=NaN", "type float"),
        ("guidance_scale=", "type float"),
    ],
)
def test_options_that_the_call_does_not_take(rank: Cli, model: str, options: str, said: str) -> None:
    complains(rank, said, f"a={model},{options}")


@pytest.mark.parametrize(
    ("index", "said"),
    [
        ("{", "model_index.json"),
        ("{}", "model_index.json"),
        ('{"_class_name": "DDPMPipeline"}', "DDPMPipeline"),
        ('{"_class_name": "os.system"}', "os.system"),
    ],
)
def test_folders_that_are_no_pipelines(rank: Cli, tmp_path: Path, index: str, said: str) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m/model_index.json").write_text(index)
    complains(rank, said, "a=m")


def test_an_option_that_the_pipeline_refuses(rank: Cli, model: str) -> None:
    complains(rank, "height=33", f"a={model},height=33")
