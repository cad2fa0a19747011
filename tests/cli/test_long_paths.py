"""A path that is too long for the system, as any argument of any sub-command, ends in a sentence and exit code 2."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from refiner.cli.main import main
from refiner.micro.world import render, sample_scene

LONG = "x" * 5000
COMMANDS = """
refine a-hand --image LONG
refine a-hand --out LONG
refine a-hand --model LONG
refine a-hand --inpainter LONG
refine a-hand --detector LONG
refine a-hand --detector vlm:LONG
refine a-hand --grounder sam:LONG --detector micro:vlm
refine a-hand --judge LONG
refine a-hand --judge clip:LONG
refine a-hand --reviser chat:LONG
refine a-hand --lora LONG
refine a-hand --endpoint-options LONG
refine a-hand --prices LONG
refine --replay LONG
refine --replay LONG.json
detect LONG
detect @LONG
detect pictures --list LONG
detect pictures --prompts LONG
detect pictures --out LONG
detect pictures --prices LONG
detect pictures --detector LONG
detect pictures --detector vlm:micro:vlm,profile=LONG
detect pictures --detector micro:probe,calibration=LONG
detect --data LONG
detect --data synthscars:LONG
report LONG
report run --out LONG
train legion --data LONG
train legion --data pictures --base LONG
train legion --config LONG
train legion --out LONG
evaluate detection --data LONG --out out
evaluate detection --data pictures --out LONG
evaluate detection --data pictures --prompts LONG --out out
evaluate semap --predictions LONG --references none.json
evaluate explanation --data pictures --references LONG --out out
evaluate detection --data pictures --detector LONG --out out
evaluate realism --data pictures --judge LONG --out out
evaluate explanation --data pictures --encoder LONG --out out
evaluate explanation --data pictures --sentence-encoder LONG --out out
evaluate refinement --data pictures --model LONG --out out
evaluate merge LONG --out out
evaluate merge judged --out LONG
evaluate semap --predictions none.json --references LONG
evaluate semap --predictions none.json --references none.json --answers LONG
evaluate semap --predictions none.json --references none.json --subset LONG
evaluate semap --predictions none.json --references none.json --encoder LONG
evaluate pad --predictions LONG --data xaigd:xaigd
evaluate pad --predictions LONG --data xaigd:xaigd --task instance
evaluate pad --predictions pictures --data xaigd:LONG
evaluate pad --predictions pictures --data xaigd:xaigd --out LONG
evaluate hps --images LONG --prompts prompts.json
evaluate hps --images pictures --prompts LONG
evaluate hps --images pictures --prompts prompts.json --model LONG
evaluate hps --benchmark LONG
evaluate aj --predictions LONG
calibrate LONG --data labelled
calibrate micro:probe --data LONG
calibrate micro:probe --data labelled --prompts LONG
calibrate micro:probe --data labelled --out LONG
rank LONG --prompts prompts.json
rank a=LONG b=pictures --prompts prompts.json
rank a=pictures b=pictures --prompts LONG
rank a=pictures b=pictures --prompts prompts.json --out LONG
rank a=pictures b=pictures --prompts prompts.json --detector LONG
verify LONG --out out
verify pictures --references LONG --out out
verify pictures --out LONG
verify run --export LONG
data convert LONG out --to coco
data convert pictures LONG --to coco
data convert pictures out --to coco --references LONG
data reconstruct LONG --vae micro --out out
data reconstruct pictures --vae LONG --out out
data reconstruct pictures --vae micro --out LONG
data pairs LONG --to trl --out out
demo --model LONG
demo --detector LONG
micro render --out LONG
micro bench --detector LONG
micro bench --out LONG
micro build --out LONG
micro build --runs LONG
""".strip().splitlines()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images, prompts, annotations and records under short names."""
    root = tmp_path_factory.mktemp("paths")
    image = render(sample_scene(np.random.default_rng(0)))
    for place, count in (("pictures", 1), ("labelled/0_real", 19), ("labelled/1_fake", 10)):
        (root / place).mkdir(parents=True)
        for number in range(count):
            image.save(root / place / f"{number}.png")
    (root / "prompts.json").write_text('{"0.png": "a hand"}')
    (root / "none.json").write_text('{"0.png": []}')
    (root / "xaigd").mkdir()
    row = '{"generator": "g", "uid": "1", "width": 9, "height": 9, "labels": []}'
    (root / "xaigd" / "labeled_test.jsonl").write_text(row)
    detecting = ("--detector", "micro:xaigd", "--out")
    assert main(["detect", str(root / "pictures"), *detecting, str(root / "run")]) in (0, 1)
    some = ("--data", str(root / "labelled"), "--limit", "2", "--shard", "1/1")
    assert main(["evaluate", "detection", *some, *detecting, str(root / "judged")]) in (0, 1)
    return root


@pytest.mark.parametrize("command", COMMANDS)
def test_a_path_that_is_too_long_is_told_in_words(
    command: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    code = main([word.replace("LONG", LONG) for word in command.split()])
    printed = capsys.readouterr()
    assert (code, printed.out) == (2, "")
    assert printed.err.startswith("refiner: ")
    assert "xxx" in printed.err
