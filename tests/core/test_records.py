import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from refiner.errors import ConfigError, InputError, OutputError
from refiner.files import atomic_write, atomic_write_all, check_writable, dumps
from refiner.records import (
    SCHEMA,
    analysis_from_dict,
    analysis_summary,
    analysis_to_dict,
    derive_seed,
    result_summary,
    to_record,
)
from refiner.taxonomy import Category
from refiner.types import Analysis, Attempt, Calls, Gap, RefinementResult, Region, Score, Size, Step, StepOutcome

parts = st.lists(st.one_of(st.integers(-(2**70), 2**70), st.text()), max_size=5)


@given(st.dictionaries(st.text(st.characters(), max_size=9), st.text(st.characters(), max_size=9), max_size=3))
def test_any_text_survives_a_json_file(document):
    """Also lone surrogates, which stand for bytes of file names that are no UTF-8."""
    assert json.loads(dumps(document).encode("utf-8")) == document


@given(parts)
def test_seeds_are_in_range_and_stable(values):
    assert 0 <= derive_seed(*values) < 2**63
    assert derive_seed(*values) == derive_seed(*values)


@given(parts, parts)
def test_different_places_have_different_seeds(first, second):
    assert first == second or derive_seed(*first) != derive_seed(*second)


def test_seeds_are_the_same_in_every_process_and_version():
    assert derive_seed(0, 1, 2, 3) == 1667824973921948469
    assert derive_seed(1) != derive_seed("1")
    assert derive_seed("a", "bc") != derive_seed("ab", "c")


units = st.floats(0, 1)
texts = st.text(max_size=20)
steps = st.builds(
    Step, stage=texts, subject=texts, outcome=st.sampled_from(get_args(StepOutcome)), text=texts, reason=texts
)


@st.composite
def analyses(draw):
    size = Size(draw(st.integers(1, 12)), draw(st.integers(1, 12)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    box = (0, 0, draw(st.integers(1, size.width)), draw(st.integers(1, size.height)))
    places = ((None, None), (None, box), (rng.random(tuple(size)) < 0.5, box))
    chosen = [draw(st.sampled_from(places)) for _ in range(draw(st.integers(0, 3)))]
    regions = tuple(
        Region(
            mask=mask,
            box=box,
            name=draw(texts),
            location=draw(texts),
            explanation=draw(texts),
            reasoning=draw(texts),
            category=draw(st.sampled_from(Category)),
            severity=draw(units),
            score=draw(units),
        )
        for mask, box in chosen
    )
    return Analysis(
        size=size,
        regions=regions,
        fake_probability=draw(st.none() | units),
        heatmap=draw(st.sampled_from([None, rng.random(tuple(size), dtype=np.float32)])),
        tags=tuple(draw(st.lists(texts, max_size=2))),
        raw=draw(texts),
        detector=draw(texts),
        trace=tuple(draw(st.lists(steps, max_size=2))),
        gaps=tuple(draw(st.lists(st.sampled_from(get_args(Gap)), unique=True))),
    )


def same_array(first, second):
    return second is None if first is None else np.array_equal(first, second) and first.dtype == second.dtype


@given(analyses())
def test_analysis_round_trip_is_exact_with_arrays(analysis):
    back = analysis_from_dict(json.loads(dumps(analysis_to_dict(analysis, arrays=True))))
    assert analysis_to_dict(back, arrays=True) == analysis_to_dict(analysis, arrays=True)
    assert same_array(analysis.heatmap, back.heatmap)
    for before, after in zip(analysis.regions, back.regions, strict=True):
        assert same_array(before.mask, after.mask)
        assert (before.box, before.category, before.severity) == (after.box, after.category, after.severity)
    assert back.burden == analysis.burden
    assert back.trace == analysis.trace
    assert back.gaps == analysis.gaps


def test_records_from_before_there_were_traces_and_gaps_are_read():
    stored = analysis_to_dict(Analysis(size=Size(3, 3), detector="d"))
    assert "trace" not in stored
    del stored["gaps"]
    assert analysis_from_dict(stored).trace == ()
    assert analysis_from_dict(stored).gaps == ()


@given(analyses())
def test_analysis_round_trip_without_arrays_keeps_the_rest(analysis):
    back = analysis_from_dict(json.loads(dumps(analysis_to_dict(analysis))))
    measured = {"artifact_ratio": None}  # counted from the masks
    assert analysis_to_dict(back) | measured == analysis_to_dict(analysis) | measured
    assert all(region.mask is None for region in back.regions)


@pytest.mark.parametrize(
    "change",
    [
        {"size": [3]},
        {"heatmap": "AAAA"},
        {"regions": [{"name": "x"}]},
        {"tags": None},
        {"fake_probability": 7},
        {"detector": None, "size": "ab"},
        {"trace": None},
        {"trace": [3]},
        {"trace": [{"stage": "a", "subject": "b", "outcome": "guessed"}]},
        {"trace": [{"stage": "a", "subject": "b", "outcome": "found", "text": None}]},
        {"trace": [{"stage": "a", "subject": "b", "outcome": ["found"]}]},
        {"trace": [{"stage": "a", "subject": "b", "outcome": "found", "depth": 1}]},
        {"gaps": None},
        {"gaps": ["guessed"]},
        {"gaps": [["unverified"]]},
        {"gaps": ["unverified", "unverified"]},
    ],
)
def test_an_analysis_that_cannot_be_read_says_so(change):
    data = analysis_to_dict(Analysis(size=Size(3, 3), detector="d")) | change
    with pytest.raises(InputError, match="The stored analysis cannot be read"):
        analysis_from_dict(data)


def result():
    size = Size(20, 24)
    mask = np.zeros(tuple(size), dtype=bool)
    mask[2:6, 3:9] = True
    region = Region(mask=mask, box=(3, 2, 9, 6), name="the hand", category=Category.ANATOMY)
    attempts = tuple(
        Attempt(
            index=index,
            action=action,
            prompt="a hand",
            seed=5,
            image=Image.new("RGB", (24, 20)),
            analysis=Analysis(size=size, detector="d", regions=(region,) * (2 - index), fake_probability=0.5),
            scores=(Score(name="hps", value=value),),
            accepted=True,
            reason="better",
            painted=mask if index else None,
            seconds=1.5,
            calls=Calls(denoiser_rows=10, detector_calls=1),
        )
        for index, (action, value) in enumerate([("generate", 0.25), ("inpaint", float("nan"))])
    )
    return RefinementResult(prompt="a hand", attempts=attempts, best=1, stop="rounds")


def keys(value):
    """The structure of a document: all keys, at every level."""
    if isinstance(value, dict):
        return {key: keys(item) for key, item in value.items()}
    return [keys(value[0])] if isinstance(value, list) and value and isinstance(value[0], dict) else None


def test_the_documents_shape_is_the_promised_one():
    fields = ("name", "location", "explanation", "reasoning", "category", "severity", "score", "box")
    analysis = dict.fromkeys(("fake_probability", "artifact_ratio", "unplaced", "gaps", "tags"))
    analysis |= {"regions": [dict.fromkeys(fields)]}
    attempt = dict.fromkeys(("index", "action", "prompt", "seed", "accepted", "reason"))
    attempt |= {"scores": {"hps": None}, "analysis": analysis}
    document = result_summary(result(), {"best": "out/best.png"})
    assert keys(document) == {
        "prompt": None,
        "stop": None,
        "best": None,
        "attempts": [attempt],
        "files": {"best": None},
    }
    assert keys(analysis_summary(result().attempts[0].analysis)) == analysis


def contains(large, small):
    if isinstance(small, dict):
        return all(key in large and contains(large[key], value) for key, value in small.items())
    if isinstance(small, list):
        return len(large) == len(small) and all(map(contains, large, small))
    return large == small


def test_the_record_is_a_superset_of_the_document_and_valid_json():
    files = {"best": "best.png"}
    record = to_record(result(), {"rounds": 3}, files)
    assert contains(record, result_summary(result(), files))
    assert json.loads(dumps(record)) == record
    assert record["schema"] == SCHEMA
    assert record["config"] == {"rounds": 3}
    assert record["attempts"][1]["scores"] == {"hps": None}
    assert record["environment"]["versions"].keys() >= {"refiner", "numpy", "torch", "diffusers"}
    assert record["environment"]["seconds"] == [1.5, 1.5]


def test_equal_runs_have_equal_records_but_for_their_environment():
    first, second = (to_record(result(), None, {}) for _ in range(2))
    del first["environment"], second["environment"]
    assert first == second


@pytest.mark.parametrize("value", [object(), float("nan"), {1, 2}])
def test_settings_that_json_cannot_carry_are_refused(value):
    with pytest.raises(ConfigError, match="plain JSON values"):
        to_record(result(), {"rounds": value}, {})


def test_writing_replaces_and_leaves_nothing_beside(tmp_path):
    path = atomic_write(tmp_path / "a.json", "old")
    atomic_write(path, b"\xff\x00new")
    assert path.read_bytes() == b"\xff\x00new"
    assert os.listdir(tmp_path) == ["a.json"]


def test_written_files_are_readable_as_the_umask_says(tmp_path):
    plain = tmp_path / "plain"
    plain.write_text("x")
    assert atomic_write(tmp_path / "a", "x").stat().st_mode == plain.stat().st_mode


@pytest.mark.parametrize("name", ["no/such/folder/a.json", "file/a.json"])
def test_a_place_that_cannot_be_written_is_named(tmp_path, name):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"Cannot write the file .*a\.json"):
        atomic_write(tmp_path / name, "x")


LIMITED = """
import resource, signal, sys
from pathlib import Path
from refiner.errors import OutputError
from refiner.files import atomic_write_all
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    atomic_write_all(Path(sys.argv[1]), {"a": b"new", "b": b"x" * 200_000, "c": b"new"})
except OutputError as error:
    print(error)
"""


def test_a_disk_that_fills_up_destroys_nothing(tmp_path):
    """The file size limit of the kernel stops the write halfway, like a full disk."""
    for name in "ab":
        (tmp_path / name).write_text("old")
    command = [sys.executable, "-P", "-c", LIMITED, str(tmp_path)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "Cannot write the file" in said
    assert os.strerror(errno.EFBIG).lower() in said
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a": "old", "b": "old"}


def test_an_interrupted_write_cleans_up(tmp_path, monkeypatch):
    def interrupt(_handle):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        atomic_write_all(tmp_path, {"a": b"new"})
    assert not list(tmp_path.iterdir())


def test_checking_a_folder_makes_it_and_leaves_it_empty(tmp_path):
    folder = check_writable(tmp_path / "new" / "folder")
    assert folder.is_dir()
    assert not list(folder.iterdir())


@pytest.mark.parametrize("place", ["/proc/refiner-cannot-write-here", "file", "file/below", "nul\0byte"])
def test_checking_refuses_what_cannot_be_written(tmp_path, place):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="Cannot write to the folder"):
        check_writable(Path(place) if place.startswith("/") else tmp_path / place)
