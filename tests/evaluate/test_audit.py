"""``refiner rank`` with several detectors: each ranks as it does alone, and their agreement is what one counts."""

from __future__ import annotations

import csv
import json
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from refiner.cli.main import main
from refiner.errors import ModelError
from refiner.evaluate.audit import detector_folder
from refiner.protocols import PaintJob

PROMPTS = {f"{at:02d}": f"a cat number {at}" for at in range(6)}

EYES = """
import numpy as np
from refiner.detectors.scripted import ScriptedDetector
from refiner.errors import UnreadableOutputError
from refiner.masks import box_of
from refiner.taxonomy import Category
from refiner.types import Analysis, Region, Size

def build(folder, device, dtype):
    name = str(folder).replace("\\\\", "/").rpartition("/")[2]
    channels = {"red": (0,), "blue": (2,), "both": (0, 2)}.get(name, ())

    def answer(image):
        pixels = np.asarray(image).astype(int)
        if name in ("mute", "deaf") or (name == "blue" and pixels[0, 0, 1] > 250):
            return UnreadableOutputError("Expected a list of flaws, got babble.", raw="babble")
        regions = []
        for channel in channels:
            mask = pixels[..., channel] > 110
            if mask.any():
                severity = round(float(pixels[..., channel][mask].mean() - 110) / 145, 3)
                regions.append(
                    Region(mask=mask, box=box_of(mask), name="spot", category=Category.COLOR, severity=severity)
                )
        return Analysis(size=Size(*mask.shape) if channels else Size(*pixels.shape[:2]), detector=name, regions=regions)

    return ScriptedDetector(answer, name=name)
"""

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def audit(
    write_plugin: Callable[[Path, str, str], str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Cli:
    """Run ``refiner rank`` in ``tmp_path``, with detectors that see red, blue or both, or never give an answer.

    Takes the names of the detectors first.
    """
    write_plugin(tmp_path / "plugin", "eyes_for_ranking", EYES)
    monkeypatch.syspath_prepend(str(tmp_path / "plugin"))
    monkeypatch.delitem(sys.modules, "eyes_for_ranking", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p.json").write_text(json.dumps(PROMPTS))

    def run(detectors: str, *arguments: object) -> tuple[int, str, str]:
        given = [str(argument) for argument in arguments]
        given += [] if "--prompts" in given else ["--prompts", "p.json"]
        for name in detectors.split():
            (tmp_path / name).mkdir(exist_ok=True)
            given += ["--detector", f"spots:{name}"]
        code = main(["rank", *given])
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


def folder(path: Path, reds: Sequence[int], blues: Sequence[int], *, loud: Sequence[str] = ()) -> str:
    """A generator of an image for each prompt, with a red and a blue square of these values; returns its argument.

    The blue-seeing detector gives no answer about ``loud`` images.
    """
    path.mkdir(parents=True)
    for name, red, blue in zip(PROMPTS, reds, blues, strict=True):
        pixels = np.full((32, 40, 3), 90, dtype=np.uint8)
        pixels[4:14, 4:14, 0], pixels[4:14, 24:34, 2] = red, blue
        pixels[0, 0, 1] = 255 if name in loud else 90
        Image.fromarray(pixels).save(path / f"{name}.png")
    return f"{path.name}={path}"


def three(root: Path) -> tuple[str, ...]:
    """Generators that get redder from a to c, and bluer from c to a, but for two prompts of b."""
    return (
        folder(root / "a", [120] * 6, [250] * 6),
        folder(root / "b", [160] * 6, [200, 200, 200, 200, 90, 90]),
        folder(root / "c", [200] * 6, [90] * 6),
    )


def document(answer: tuple[int, str, str], code: int = 0) -> dict[str, Any]:
    assert answer[0] == code, answer[2]
    found: dict[str, Any] = json.loads(answer[1])
    return found


def records(run: Path) -> list[dict[str, Any]]:
    """The records of a run, without their times."""
    return [json.loads(line) | {"seconds": 0} for line in (run / "records.jsonl").read_text().splitlines()]


def taus(found: dict[str, Any]) -> dict[str, dict[str, float | None]]:
    [pair] = found["agreement"]
    return {name: pair["tau"][name] for name in pair["tau"]}


def test_each_detector_ranks_as_it_does_alone(audit: Cli, tmp_path: Path) -> None:
    systems = three(tmp_path)
    found = document(audit("red blue", *systems, "--out", "o", "--json"))
    assert [row["name"] for row in found["detectors"]] == ["spots:red", "spots:blue"]
    for row in found["detectors"]:
        name = row["name"].removeprefix("spots:")
        alone = document(audit(name, *systems, "--out", f"alone-{name}", "--json"))
        assert row["ranking"] == alone
        assert json.loads((tmp_path / "o" / row["folder"] / "rank.json").read_text()) == alone
        for generator in "abc":
            place = tmp_path / "o" / row["folder"] / generator
            assert records(place) == records(tmp_path / f"alone-{name}" / generator)
        assert {path.name for path in (tmp_path / "o" / row["folder"]).iterdir()} == {
            path.name for path in (tmp_path / f"alone-{name}").iterdir()
        }


def test_opposite_detectors_disagree(audit: Cli, tmp_path: Path) -> None:
    found = document(audit("red blue both", *three(tmp_path), "--json"))
    assert [row["ranking"]["orders"]["CAP"] for row in found["detectors"]][:2] == [["a", "b", "c"], ["c", "b", "a"]]
    pairs = {(pair["one"][6:], pair["other"][6:]): pair for pair in found["agreement"]}
    assert set(pairs) == {("red", "blue"), ("red", "both"), ("blue", "both")}
    assert pairs["red", "blue"]["tau"]["CAP"] == {"value": -1, "low": -1, "high": -1, "undefined": 0}
    assert (pairs["red", "blue"]["prompts"], pairs["red", "blue"]["pictures"]) == (6, 6)
    assert found["by"] == "CAP"
    assert "kendall_tau_b" in found["signature"]


def test_a_pair_does_not_depend_on_order_or_company(audit: Cli, tmp_path: Path) -> None:
    systems = three(tmp_path)
    all_three = document(audit("red blue both", *systems, "--out", "1", "--json"))["agreement"]
    [turned] = document(audit("both red", *reversed(systems), "--out", "2", "--json"))["agreement"]
    [pair] = [each for each in all_three if (each["one"], each["other"]) == ("spots:red", "spots:both")]
    assert turned == pair | {"one": "spots:both", "other": "spots:red"}


def test_ties_and_undefined_orders(audit: Cli, tmp_path: Path) -> None:
    """Red ties a and b; blue sees nothing anywhere, so that no order of its is known."""
    systems = (
        folder(tmp_path / "a", [150] * 6, [90] * 6),
        folder(tmp_path / "b", [150] * 6, [90] * 6),
        folder(tmp_path / "c", [200] * 6, [90] * 6),
    )
    code, out, err = audit("red blue", *systems, "--out", "o")
    assert code == 0, err
    assert "CAP undefined, MAI undefined, AF undefined, PAR undefined" in out
    found = json.loads((tmp_path / "o/rank.json").read_text())
    unknown = {"value": None, "low": None, "high": None, "undefined": 1}
    assert taus(found) == dict.fromkeys(("CAP", "MAI", "AF", "PAR"), unknown)
    assert "undefined" in (tmp_path / "o/report.html").read_text()
    agreeing = taus(document(audit("red both", *systems, "--out", "p", "--json")))
    assert agreeing["CAP"]["value"] == 1, "a pair that both tie counts in neither way"
    alone = document(audit("red both", systems[0], "--out", "q", "--json"))
    assert taus(alone)["CAP"]["value"] is None, "a single generator has no order"


# Failures


def test_a_detector_that_fails_on_an_image_costs_its_own_record(audit: Cli, tmp_path: Path) -> None:
    systems = (
        folder(tmp_path / "a", [120] * 6, [250] * 6, loud=("01",)),
        folder(tmp_path / "b", [160] * 6, [200] * 6, loud=("01", "02")),
    )
    code, out, err = audit("red blue", *systems, "--out", "o", "--json")
    found = document((code, out, err), 1)
    red, blue = (row["ranking"] for row in found["detectors"])
    assert (red["pictures"], blue["pictures"]) == (6, 4)
    assert [row["errors"] for row in red["systems"]] == [{}, {}]
    assert {row["name"]: row["errors"] for row in blue["systems"]} == {
        "a": {"UnreadableOutputError": 1}, "b": {"UnreadableOutputError": 2}
    }  # fmt: skip
    assert (found["agreement"][0]["pictures"], found["agreement"][0]["tau"]["CAP"]["value"]) == (4, -1)
    assert "spots:blue: images without scores: 2 of b, 1 of a; 4 of 6 images are compared." in err
    assert "spots:red: images" not in err


def test_a_detector_that_fails_on_everything_does_not_cost_the_others(audit: Cli, tmp_path: Path) -> None:
    systems = three(tmp_path)
    code, out, err = audit("red mute blue", *systems, "--out", "o")
    assert code == 1
    assert "spots:mute: The generators have no analysed images in common" in err
    found = json.loads((tmp_path / "o/rank.json").read_text())
    assert [row["ranking"] is None for row in found["detectors"]] == [False, True, False]
    assert [(pair["pictures"], pair["tau"]["CAP"]["value"]) for pair in found["agreement"]] == [
        (0, None), (6, -1), (0, None)
    ]  # fmt: skip
    assert "spots:red and spots:blue, 6 prompts: CAP -1 (the same in every draw)" in out
    assert "no analysed images in common" in (tmp_path / "o/report.html").read_text()
    code, out, err = audit("mute deaf", *systems, "--out", "p")
    assert (code, out) == (2, "")
    assert re.search(r"spots:mute: The generators have no .*; spots:deaf: The generators have no .*\.\n$", err)


def test_added_detectors_leave_the_others_alone(audit: Cli, tmp_path: Path) -> None:
    systems = three(tmp_path)
    straight = document(audit("red blue both", *systems, "--out", "straight", "--json"))
    audit("red both", *systems, "--out", "o")
    records = tmp_path / "o" / detector_folder("spots:both") / "b/records.jsonl"
    untouched = tmp_path / "o" / detector_folder("spots:red") / "b/records.jsonl"
    records.write_bytes(records.read_bytes()[:-150])
    before = untouched.read_bytes()
    code, out, err = audit("red blue both", *systems, "--out", "o")
    assert (code, out) == (2, "")
    assert "--resume" in err
    assert document(audit("red blue both", *systems, "--out", "o", "--resume", "--json")) == straight
    assert untouched.read_bytes() == before


@pytest.mark.parametrize(
    ("detectors", "arguments", "said"),
    [
        ("red red", ("a=a",), "different detectors"),
        ("red blue", ("a=a", "--by", "HPS", "--judge", "micro"), "does not depend on the detector"),
        ("red blue", ("Detectors=a",), "another name than 'detectors'"),
        ("red blue", ("a=a", "--detector", "no such/detector at all"), "detector"),
    ],
)
def test_complaints_are_one_sentence(
    audit: Cli, tmp_path: Path, detectors: str, arguments: tuple[str, ...], said: str
) -> None:
    folder(tmp_path / "a", [150] * 6, [90] * 6)
    code, out, err = audit(detectors, *arguments, "--out", "o")
    assert (code, out) == (2, "")
    assert re.fullmatch(r"refiner: (Expected .+|.+: .+)\.\n", err), err
    assert said in err
    assert not list((tmp_path).glob("o/**/records.jsonl"))


# Generating


def test_images_are_generated_once_for_all_detectors(
    audit: Cli, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    painted = count_images(monkeypatch)
    systems = (f"one={model}", f"two={model},num_inference_steps=3", folder(tmp_path / "old", [120] * 6, [200] * 6))
    found = document(audit("both red", *systems, "--out", "o", "--seed", "7", "--json"))
    assert sorted(painted) == sorted([*PROMPTS.values()] * 2)
    alone = document(audit("red", *systems, "--out", "p", "--seed", "7", "--json"))
    assert found["detectors"][1]["ranking"] == alone
    run = tmp_path / "o" / found["detectors"][1]["folder"] / "two"
    assert records(run) == records(tmp_path / "p/two")
    descriptions = [json.loads((place / "run.json").read_text()) for place in (run, tmp_path / "p/two")]
    assert [each["system"] for each in descriptions[:1]] == [each["system"] for each in descriptions[1:]]
    painted.clear()
    assert document(audit("both red", *systems, "--out", "o", "--seed", "7", "--resume", "--json")) == found
    assert painted == []
    code, _, err = audit("both red", *systems, "--out", "o", "--seed", "8", "--resume")
    assert (code, "seed: 7 there, 8 here" in err) == (2, True)
    code, _, err = audit("both red", *systems, "--out", "p", "--seed", "7", "--resume")
    assert (code, "Expected records of this task" in err) == (2, True)


def test_an_image_that_cannot_be_generated_is_tried_again(
    audit: Cli, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        count_images(patch, failing="a cat number 3")
        code, out, err = audit("red both", f"one={model}", "--out", "o", "--json")
    found = document((code, out, err), 1)
    assert [row["ranking"]["pictures"] for row in found["detectors"]] == [5, 5]
    assert err.count("The image of '03' was not generated (out of paint): pass --resume to try again.") == 2
    assert sorted(path.name for path in (tmp_path / "o/one/pictures").iterdir()) == [
        f"{name}.png" for name in PROMPTS if name != "03"
    ]
    painted = count_images(monkeypatch)
    again = document(audit("red both", f"one={model}", "--out", "o", "--resume", "--json"))
    assert painted == ["a cat number 3"]
    assert again == document(audit("red both", f"one={model}", "--out", "p", "--json"))


def count_images(monkeypatch: pytest.MonkeyPatch, failing: str = "") -> list[str]:
    """The prompts that are painted from now on; one of them fails."""
    from refiner.pipelines.painting.painter import DiffusersPainter

    painted: list[str] = []
    generate = DiffusersPainter.generate

    def counting(self: DiffusersPainter, jobs: Sequence[PaintJob]) -> list[Image.Image]:
        if any(job.prompt == failing for job in jobs):
            raise ModelError("out of paint.")
        painted.extend(job.prompt for job in jobs)
        return generate(self, jobs)

    monkeypatch.setattr(DiffusersPainter, "generate", counting)
    return painted


# Files


def test_files_say_what_the_document_says(audit: Cli, tmp_path: Path) -> None:
    found = document(audit("red blue", *three(tmp_path), "--out", "o", "--json"))
    assert json.loads((tmp_path / "o/rank.json").read_text()) == found
    ranks, wins, rows = (
        list(csv.DictReader((tmp_path / "o" / name).read_text().splitlines()))
        for name in ("rank.csv", "wins.csv", "agreement.csv")
    )
    assert [(row["detector"], row["name"]) for row in ranks] == [
        (f"spots:{detector}", name) for detector, order in (("red", "abc"), ("blue", "cba")) for name in order
    ]
    assert {row["detector"] for row in wins} == {"spots:red", "spots:blue"}
    assert [(row["by"], row["prompts"]) for row in rows] == [(name, "6") for name in ("CAP", "MAI", "AF", "PAR")]
    assert float(rows[0]["value"]) == taus(found)["CAP"]["value"]


def test_people_get_tables_and_a_page_that_needs_nothing_else(audit: Cli, tmp_path: Path) -> None:
    code, out, _ = audit("red blue", *three(tmp_path), "--out", "o")
    assert code == 0
    assert re.search(r"places by CAP +spots:red +spots:blue\na +1 +3\nb +2 +2\nc +3 +1\n", out)
    assert "spots:red and spots:blue, 6 prompts: CAP -1 (the same in every draw)" in out
    page = (tmp_path / "o/report.html").read_text()
    assert page.count("<svg") == 4
    assert "<script" not in page
    assert not re.search(r"(src|href)=\"(https?:|//|/)", page)
    links = re.findall(r'href="([^"#]+)"', page)
    assert len(links) == 2 + 6
    assert all((tmp_path / "o" / link).is_file() for link in links)


def test_names_of_detectors_are_escaped(audit: Cli, tmp_path: Path) -> None:
    code, _, err = audit("red <script>alert(1)<", *three(tmp_path), "--out", "o")
    assert code == 0, err
    page = (tmp_path / "o/report.html").read_text()
    assert "<script" not in page
    assert "spots:&lt;script&gt;alert(1)&lt;" in page


@pytest.mark.parametrize("name", ["..", "../x", "a/b", "vlm:Qwen/Qwen3@http://127.0.0.1:8000/v1", "é" * 200, "micro."])
def test_folders_of_detectors_are_apart_and_below_their_own(name: str) -> None:
    found = Path(detector_folder(name))
    assert found.parent == Path("detectors")
    assert len(found.name) < 100
    assert detector_folder(name) != detector_folder(f"{name}x")
    assert detector_folder("micro") == "detectors/micro"
