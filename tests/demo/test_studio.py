"""Refining, detecting and ranking without a web server: same results as without the demo, separate for each user."""

from __future__ import annotations

import csv
import itertools
import sys
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch")

import diffusers  # noqa: E402
from support.demo_server import DETECTORS, SECRET  # noqa: E402
from support.tiny_pipelines import stable_diffusion  # noqa: E402

from refiner.demo.jobs import Job, Waiting  # noqa: E402
from refiner.demo.ranking import Entry, Ranked, Ranking, RankRequest, model_entries, rank  # noqa: E402
from refiner.demo.settings import DemoSettings  # noqa: E402
from refiner.demo.studio import AttemptProgress, Looked, Refined, RefineRequest, Studio  # noqa: E402
from refiner.errors import BusyError, ConfigError, InputError, ModelNotFoundError  # noqa: E402
from refiner.machine import Machine  # noqa: E402
from refiner.pipelines import RefinedPipeline  # noqa: E402
from refiner.types import Analysis  # noqa: E402

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def home(write_plugin, tmp_path_factory):
    """Folder of the detectors, which are found like those of an installed package."""
    folder = tmp_path_factory.mktemp("home") / "patches"
    write_plugin(folder, "patches_for_studio", DETECTORS)
    (folder / "allow").write_text(str(10**9))
    sys.path.insert(0, str(folder))
    yield folder
    sys.path.remove(str(folder))


@pytest.fixture(scope="module")
def settings(model, home):
    return DemoSettings(models={"tiny": model}, detectors={"patches": f"spots:{home}", "lost": "spots:no such folder"})


@pytest.fixture(scope="module")
def studio(settings):
    return Studio(settings)


def request(prompt="a red hand", **more):
    return RefineRequest(**{"prompt": prompt, "model": "tiny", "detector": "patches", "seed": 3, **more})


def over(events):
    """The final result at the end of the events."""
    *_, last = events
    assert last.over
    return last.result


def same(one, other):
    assert [attempt.image.tobytes() for attempt in one.attempts] == [
        attempt.image.tobytes() for attempt in other.attempts
    ]
    assert [attempt.accepted for attempt in one.attempts] == [attempt.accepted for attempt in other.attempts]
    assert (one.best, one.stop) == (other.best, other.stop)


def test_the_demo_refines_as_the_pipeline_does(studio, model, home):
    pipe = RefinedPipeline.from_pretrained(model, detector=f"spots:{home}")
    pipe.set_progress_bar_config(disable=True)
    (expected,) = pipe("a red hand", seed=3, max_rounds=2).results
    same(over(studio.refine("me", request(rounds=2))), expected)


def test_another_detector_changes_nothing_but_the_detector(home, settings, tmp_path):
    """Regression: the demo once rebuilt the pipeline without its inpainter, which is used here."""
    other = tmp_path / "other"
    other.mkdir()
    (other / "allow").write_text(str(10**9))
    model = tmp_path / "model"
    RefinedPipeline(
        stable_diffusion(),
        detector=f"spots:{home}",
        inpainter=stable_diffusion(diffusers.StableDiffusionInpaintPipeline, nine=True),
        inpaint_call={"num_inference_steps": 3},
        native=32,
    ).save_pretrained(model)
    two = {"patches": f"spots:{home}", "other": f"spots:{other}"}
    studio = Studio(DemoSettings(models={"tiny": str(model)}, detectors=two))
    pipes = [studio.refiner("tiny", detector, Job(session=""), lambda _event: None) for detector in two]
    assert pipes[0].inpainter is pipes[1].inpainter is not None
    calls = []
    pipes[0].inpainter.unet.register_forward_pre_hook(lambda *_: calls.append(1))
    wanted = {"strategy": "inpaint", "rounds": 1}
    result = over(studio.refine("me", request(detector="other", **wanted)))
    assert result.attempts[1].action == "inpaint"
    assert calls
    expected = RefinedPipeline.from_pretrained(model, detector=f"spots:{other}")
    expected.set_progress_bar_config(disable=True)
    same(result, expected("a red hand", seed=3, strategy="inpaint", max_rounds=1).results[0])


def test_a_candidate_that_is_picked_is_in_the_image_as_the_pipeline_puts_it(studio, model, home):
    wanted = {"strategy": "inpaint", "rounds": 2}
    shown = over(studio.refine("me", request(**wanted)))
    pipe = RefinedPipeline.from_pretrained(model, detector=f"spots:{home}")
    pipe.set_progress_bar_config(disable=True)
    options = {"strategy": "inpaint", "max_rounds": 2, "keep_candidates": True}
    (expected,) = pipe("a red hand", seed=3, **options).results
    assert [len(one.images) for one in shown.candidates] == [len(one.images) for one in expected.candidates]
    last = len(shown.candidates[0].images) - 1
    picked = over(studio.pick("me", 0, last))
    same(picked, expected.with_choice({0: last}))
    assert picked.attempts[-1].choice == {0: last}
    again = over(studio.pick("me", 0, 0))
    assert [attempt.choice for attempt in again.attempts[-2:]] == [{0: last}, {0: 0}]


def test_only_the_user_who_refined_can_pick_and_only_what_there_is(studio):
    over(studio.refine("me", request(strategy="inpaint", rounds=1)))
    for session in ("you", ""):
        with pytest.raises(InputError, match="refine an image again"):
            list(studio.pick(session, 0, 0))
    for region, candidate in ((9, 0), (0, 9)):
        with pytest.raises(ConfigError, match=r"[Rr]egion"):
            list(studio.pick("me", region, candidate))
    studio.forget("me")
    with pytest.raises(InputError, match="refine an image again"):
        list(studio.pick("me", 0, 0))


def test_candidates_of_a_few_users_are_kept(studio):
    kept = over(studio.refine("user 0", request(rounds=0)))
    for number in range(40):
        studio._keep(f"user {number}", kept)
    assert [studio.latest(f"user {number}") is None for number in (0, 31, 32, 39)] == [True, True, False, False]
    for number in range(40):
        studio.forget(f"user {number}")


def test_progress_is_told_step_by_step_and_attempt_by_attempt(studio):
    events = list(studio.refine("me", request(rounds=1)))
    counts = [len(event.result.attempts) for event in events if isinstance(event, Refined)]
    assert counts == sorted(counts)
    assert counts[0] == 1
    steps = [(event.attempt, event.step) for event in events if isinstance(event, AttemptProgress)]
    assert steps == sorted(steps)
    assert {(0, 0), (0, 1), (0, 2), (1, 1)} <= set(steps)
    assert [event.over for event in events if isinstance(event, Refined)][-2:] == [False, True]


def test_two_at_once_get_what_each_would_get_alone(studio):
    wanted = [request("a red hand", rounds=2), request("a green clock", rounds=2, seed=4)]
    alone = [over(studio.refine("me", each)) for each in wanted]
    streams = [studio.refine(str(at), each) for at, each in enumerate(wanted)]
    together = [[], []]
    for pair in itertools.zip_longest(*streams):
        for told, event in zip(together, pair, strict=True):
            told += [event] if event is not None else []
    for told, expected in zip(together, alone, strict=True):
        same(over(told), expected)


def test_stopping_between_attempts_keeps_the_best_so_far(studio):
    events = studio.refine("me", request(rounds=6))
    seen = next(event for event in events if isinstance(event, Refined))
    studio.desk.stop("me")
    result = over(events)
    assert result.stop == "interrupted"
    assert len(result.attempts) < 7
    assert result.attempts[0].image == seen.result.attempts[0].image
    assert result.best == max(attempt.index for attempt in result.attempts if attempt.accepted)


def test_stopping_in_the_middle_of_painting_leaves_the_models_usable(studio):
    events = studio.refine("me", request())
    next(event for event in events if isinstance(event, AttemptProgress) and event.step == 1)
    studio.desk.stop("me")
    for event in events:
        assert not isinstance(event, Refined) or event.over
    same(over(studio.refine("me", request(rounds=1))), over(studio.refine("me", request(rounds=1))))


def test_a_given_picture_is_refined(studio):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    result = over(studio.refine("me", request(image=image, rounds=1)))
    assert result.attempts[0].action == "given"
    assert result.attempts[0].image == image


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"prompt": " "}, InputError, "Write a prompt first"),
        ({"prompt": "x" * 1001}, InputError, "Choose a shorter prompt: at most 1000 characters, this one has 1001"),
        ({"rounds": 7}, ConfigError, "Choose 0 to 6 rounds instead of 7"),
        ({"rounds": -1}, ConfigError, "Choose 0 to 6 rounds instead of -1"),
        ({"seed": -1}, ConfigError, "Choose a seed from 0"),
        ({"seed": 2**63}, ConfigError, "Choose a seed from 0"),
        ({"model": "../x"}, ConfigError, "no model '../x' here: choose one of tiny"),
        ({"detector": "micro"}, ConfigError, "no detector 'micro' here: choose one of patches, lost"),
        ({"strategy": "magic"}, ConfigError, "strategy must be one of"),
        ({"detector": "lost"}, ModelNotFoundError, "no such folder"),
    ],
)
def test_requests_are_checked(studio, change, error, words):
    with pytest.raises(error, match=words):
        list(studio.refine("me", request(**change)))


def test_what_a_model_says_of_paths_and_keys_is_not_told(studio, home):
    black = Image.new("RGB", (64, 64))
    result = over(studio.refine("me", request(image=black, rounds=0)))
    told = str(result.attempts[0].error) + result.attempts[0].reason
    assert "babble" in told
    for looked in studio.detect("me", black, ["patches"]):
        told += str(looked.answers) if isinstance(looked, Looked) else ""
    assert SECRET not in told
    assert str(home) not in told


def test_detectors_answer_one_by_one_and_one_that_fails_does_not_silence_the_others(studio, home):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 120, 3), dtype=np.uint8))
    looked = [event for event in studio.detect("me", image, ["lost", "patches"]) if isinstance(event, Looked)]
    assert [list(event.answers) for event in looked] == [["lost"], ["lost", "patches"]]
    assert [event.over for event in looked] == [False, True]
    assert "no such folder" in looked[-1].answers["lost"]
    answer = looked[-1].answers["patches"]
    assert isinstance(answer, Analysis)
    assert answer.detector == "patches 1"


def test_no_detector_or_one_that_is_not_offered(studio):
    with pytest.raises(ConfigError, match="at least one detector"):
        studio.detect("me", Image.new("RGB", (64, 64)), [])
    with pytest.raises(ConfigError, match="no detector 'micro'"):
        studio.detect("me", Image.new("RGB", (64, 64)), ["micro"])


def test_more_jobs_than_there_is_room_for_are_refused(settings, studio):
    small = Studio(DemoSettings(models=settings.models, detectors=settings.detectors, running=1, waiting=1))
    small._refiners, small._detectors = studio._refiners, studio._detectors
    free = threading.Event()
    block = small.desk.run("other", lambda _job, tell: (tell("in"), free.wait(60)))
    next(block)
    waiting = small.refine("me", request(rounds=0))
    assert next(waiting) == Waiting(ahead=1)
    with pytest.raises(BusyError, match="2 jobs are running or waiting"):
        list(small.refine("you", request(rounds=0)))
    free.set()
    assert over(waiting).stop == "rounds"


def rankings(studio, folder, *entries, prompts=("a red hand", "a green clock"), **more):
    folder.mkdir()
    wanted = RankRequest(entries=entries, prompts=prompts, detector="patches", **more)
    *_, last = rank(studio, "me", wanted, folder)
    assert isinstance(last, Ranked)
    return last


def pictures(folder, *names):
    folder.mkdir()
    for at, name in enumerate(names):
        Image.new("RGB", (64, 64), (40 + 90 * at, 60, 60)).save(folder / name)
    return tuple(str(folder / name) for name in names)


def test_models_and_pictures_are_ranked(studio, tmp_path):
    entries = model_entries({"tiny": "x"})
    own = Entry(name="my own", files=pictures(tmp_path / "in", "b.png", "a.png"))
    ranked = rankings(studio, tmp_path / "out", entries["tiny"], entries["tiny 4 steps"], own)
    assert {system["name"] for system in ranked.document["systems"]} == {"tiny", "tiny 4 steps", "my own"}
    assert ranked.document["pictures"] == 2
    with open(ranked.files["csv"], newline="") as table:
        assert len(list(csv.DictReader(table))) == 3
    with zipfile.ZipFile(ranked.files["zip"]) as archive:
        names = archive.namelist()
    assert {"rank.csv", "rank.json", "report.html", "tiny/report.html", "tiny/pictures/00000.png"} <= set(names)
    assert not any("uploads" in name for name in names)
    again = rankings(studio, tmp_path / "again", entries["tiny"], entries["tiny 4 steps"], own)
    assert again.document == ranked.document
    by_name = {name: [each for each in ranked.worst if each.name == name] for name in ranked.document["orders"]["CAP"]}
    assert [each.name for each in ranked.worst] == [name for name in by_name for _ in range(2)]
    for shown in by_name.values():
        severities = [sum(region.severity for region in each.analysis.regions) for each in shown]
        assert severities == sorted(severities, reverse=True)
        assert {each.prompt for each in shown} == {"a red hand", "a green clock"}


@pytest.mark.parametrize(
    ("entries", "prompts", "words"),
    [
        ((Entry(name="a", model="tiny"),), ("x",), "at least two generators to rank, not 1"),
        ((Entry(name="a", model="tiny"), Entry(name="A", model="tiny")), ("x",), "two have the same"),
        (
            (Entry(name="a", model="tiny"), Entry(name="b", files=("1.png",))),
            ("x", "y"),
            "2 images of 'b'.*there are 1",
        ),
        ((Entry(name="a", model="tiny"),) * 2, (), "Write 1 to 24 prompts"),
        ((Entry(name="a", model="tiny"),) * 2, ("x",) * 25, "Write 1 to 24 prompts, one per line; there are 25"),
        (
            (Entry(name="a", model="tiny"),) * 2,
            ("x" * 1001,),
            "at most 1000 characters, the longest has 1001",
        ),
    ],
)
def test_rankings_are_checked(studio, tmp_path, entries, prompts, words):
    with pytest.raises((InputError, ConfigError), match=words):
        rank(studio, "me", RankRequest(entries=entries, prompts=prompts, detector="patches"), tmp_path)


@pytest.mark.parametrize("name", ["", " a", "a/b", "..", "../x", "a.png", "x" * 41, "a\0b", "<b>", "a\nb", "con:x"])
def test_names_that_are_no_plain_words_are_refused(name):
    with pytest.raises(InputError, match="Choose a name"):
        Entry(name=name)


@pytest.mark.parametrize("label", ["micro", "org/model-1.0", "<b>", "x" * 90, "vlm:a@b"])
def test_every_model_can_be_ranked(label):
    entries = model_entries({label: "id"})
    assert len(entries) == 3
    assert {entry.model for entry in entries.values()} == {label}


def stopped_at(studio, folder, home, done):
    """The final events of a ranking of three generators that is stopped when ``done`` of them are done."""
    entries = tuple(model_entries({"tiny": "x"}).values())
    wanted = RankRequest(entries=entries, prompts=("x", "y", "z", "w"), detector="patches")
    seen = home / "seen"
    (home / "allow").write_text(str((int(seen.read_text()) if seen.exists() else 0) + 4 * done))
    events = rank(studio, "me", wanted, folder)
    next(event for event in events if isinstance(event, Ranking) and event.name == entries[done].name)
    studio.desk.stop("me")
    (home / "allow").write_text(str(10**9))
    return [event for event in events if isinstance(event, Ranked)]


def test_a_ranking_that_is_stopped_ranks_those_that_are_done(studio, tmp_path, home):
    (ranked,) = stopped_at(studio, tmp_path, home, 2)
    assert {system["name"] for system in ranked.document["systems"]} == {"tiny", "tiny 4 steps"}
    assert ranked.left == ("tiny 10 steps",)
    with zipfile.ZipFile(ranked.files["zip"]) as archive:
        assert {Path(name).parts[0] for name in archive.namelist() if "/" in name} == {"tiny", "tiny 4 steps"}


def test_a_ranking_that_is_stopped_with_one_done_ends_without_one(studio, tmp_path, home):
    assert stopped_at(studio, tmp_path, home, 1) == []
    assert not list(tmp_path.glob("rank.csv"))


def test_words_that_the_bundled_models_do_not_know_are_refused(home, tmp_path):
    studio = Studio(DemoSettings(models={"micro": "micro"}, detectors={"patches": f"spots:{home}"}))
    with pytest.raises(InputError, match="not 'astronaut'"):
        list(studio.refine("me", request("an astronaut", model="micro")))
    entries = tuple(model_entries({"micro": "x"}).values())
    wanted = RankRequest(entries=entries, prompts=("a red hand", "an astronaut"), detector="patches")
    with pytest.raises(InputError, match="not 'astronaut'"):
        list(rank(studio, "me", wanted, tmp_path))
    assert list(tmp_path.rglob("*.png")) == []


def test_models_are_loaded_for_the_machine_of_the_settings(model, home):
    machine = Machine.choose("cpu", "bfloat16")
    studio = Studio(DemoSettings(models={"tiny": model}, detectors={"patches": f"spots:{home}"}, machine=machine))
    pipe = studio.refiner("tiny", "patches", Job(session=""), lambda _event: None)
    assert pipe.dtype is torch.bfloat16
    assert over(studio.refine("me", request(rounds=0))).settings["pipeline"]["dtype"] == "bfloat16"
