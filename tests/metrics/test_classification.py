"""AJ against scikit-learn, and files of verdicts of every kind."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score, precision_score, recall_score

from refiner.errors import ConfigError, InputError
from refiner.metrics.classification import BinaryCounts, evaluate_aj

pairs = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=30)
both_kinds = pairs.filter(lambda rows: len({truth for truth, _ in rows}) == 2)


def figures(truth, said):
    return {
        "accuracy": accuracy_score(truth, said),
        "precision": precision_score(truth, said, zero_division=0),
        "recall": recall_score(truth, said, zero_division=0),
        "f1": f1_score(truth, said, zero_division=0),
    }


def count(rows):
    return sum((BinaryCounts.of(*row) for row in rows), BinaryCounts())


def write(path, rows, header="image,label,score"):
    path.write_text("\n".join([header, *(",".join(map(str, row)) for row in rows)]) + "\n")
    return path


@given(both_kinds)
def test_figures_are_scikit_learns(rows):
    truth, said = zip(*rows, strict=True)
    found = count(rows).document()
    wanted = figures(truth, said) | {"balanced_accuracy": balanced_accuracy_score(truth, said)}
    assert {name: found[name] for name in wanted} == pytest.approx(wanted, abs=1e-12)
    assert found["images"] == len(rows)


@given(pairs, st.integers(0, 30))
def test_shards_add_up(rows, cut):
    assert count(rows[:cut]) + count(rows[cut:]) == count(rows)


def test_one_kind_alone_has_no_balanced_accuracy():
    counts = count([(True, True), (True, False)])
    assert counts.balanced_accuracy is None
    assert (counts.accuracy, counts.recall, counts.precision) == (0.5, 0.5, 1.0)
    assert BinaryCounts().document()["f1"] == 0


def test_perfect_and_shuffled(tmp_path):
    rows = [(f"{at}.png", at % 2, at % 2) for at in range(100)]
    assert evaluate_aj(write(tmp_path / "a.csv", rows))["balanced_accuracy"] == 1
    rows = [(f"{at}.png", at % 2, at // 2 % 2) for at in range(100)]
    assert evaluate_aj(write(tmp_path / "b.csv", rows))["balanced_accuracy"] == 0.5


@given(rows=st.lists(st.tuples(st.booleans(), st.floats(0, 1)), min_size=1, max_size=20), threshold=st.floats(0, 0.9))
def test_scores_are_held_against_the_threshold(tmp_path_factory, rows, threshold):
    table = [(at, int(truth), repr(score)) for at, (truth, score) in enumerate(rows)]
    path = write(tmp_path_factory.mktemp("aj") / "a.csv", table)
    found = evaluate_aj(path, threshold=threshold)
    truth, said = [row[0] for row in rows], [row[1] > threshold for row in rows]
    wanted = figures(truth, said)
    assert {name: found[name] for name in wanted} == pytest.approx(wanted, abs=1e-12)
    assert f"score>{threshold:g}" in found["signature"]
    json.dumps(found, allow_nan=False)


@pytest.mark.parametrize("header", ["image,label,prediction", "Name, Y_True ,y_pred", "uid,is_fake,verdict"])
@pytest.mark.parametrize(("fake", "real"), [("fake", "real"), ("1", "0"), ("1.0", "0.0"), ("Generated", "Natural")])
def test_verdicts_are_read_in_many_spellings(tmp_path, header, fake, real):
    rows = [("a", fake, fake), ("b", fake, real), ("c", real, real), ("d", real, f" {real} ")]
    found = evaluate_aj(write(tmp_path / "a.csv", rows, header))
    assert (found["tp"], found["fn"], found["tn"], found["fp"]) == (1, 1, 2, 0)
    assert "decision=verdict" in found["signature"]


def test_a_verdict_wins_over_a_score_and_may_be_a_probability(tmp_path):
    rows = [(1, 0.1, "fake"), (0, 0.9, 0.2), (1, 0.1, 0.7)]
    found = evaluate_aj(write(tmp_path / "a.csv", rows, "label,score,prediction"))
    assert found["accuracy"] == 1


@pytest.mark.parametrize(
    ("row", "kind"),
    [
        (("x", 1, "nan"), "nan_score"),
        (("x", 1, ""), "nan_score"),
        (("x", 1), "nan_score"),
        (("x", 1, "high"), "nan_score"),
        (("x", 1, "inf"), "bad_score"),
        (("x", 1, 3.7), "bad_score"),
        (("x", 1, -0.1), "bad_score"),
        (("x", 2, 0.5), "bad_label"),
        (("x", "", 0.5), "bad_label"),
        (("x", "maybe", 0.5), "bad_label"),
        (("a", 0, 0.9), "duplicate_image"),
    ],
)
def test_rows_that_cannot_be_used_are_named_and_left_out(tmp_path, row, kind):
    path = write(tmp_path / "verdicts.csv", [("a", 1, 0.9), row, ("b", 0, 0.1)])
    found = evaluate_aj(path)
    assert found["problems"] == {kind: 1}
    assert found["images"] == 2
    assert found["balanced_accuracy"] == 1
    assert "verdicts.csv: line 3" in found["problem_list"][0]


def test_the_same_uid_of_another_generator_is_another_image(tmp_path):
    rows = [("g1", "u", 1, 1), ("g2", "u", 1, 1), ("g2", "u", 1, 1)]
    found = evaluate_aj(write(tmp_path / "a.csv", rows, "generator,uid,label,score"))
    assert (found["images"], found["problems"]) == (2, {"duplicate_image": 1})


@pytest.mark.parametrize("lonely", [0, 1, 2])
def test_pairs_that_share_a_name_are_kept_apart(tmp_path, lonely):
    """Real and generated images of the same name; some have no partner, and one row is repeated."""
    pairs = [(name, label, label) for name in ("a", "b", "c") for label in (1, 0)]
    rows = [*pairs, *[(f"x{number}", 1, 1) for number in range(lonely)], ("a", 0, 0), ("b", 1, 0)]
    found = evaluate_aj(write(tmp_path / "a.csv", rows[: 6 + lonely]))
    assert (found["images"], found["problems"], found["balanced_accuracy"]) == (6 + lonely, {}, 1)
    found = evaluate_aj(write(tmp_path / "b.csv", [*[(f"{name}+", *rest) for name, *rest in pairs], *rows]))
    assert (found["images"], found["problems"]) == (12 + lonely, {"duplicate_image": 2})


def test_images_with_and_without_artifacts_are_compared(tmp_path):
    rows = [(1, 0.9, 0.2), (1, 0.9, 0.1), (1, 0.2, 0), (1, 0.8, 0), (0, 0.1, ""), (0, 0.9, ""), (1, 0.9, "nan")]
    found = evaluate_aj(write(tmp_path / "a.csv", rows, "label,score,par"))
    assert found["by_artifact_ratio"] == {
        "PAR>0": {"images": 2, "recall": 1.0, "balanced_accuracy": 0.75},
        "PAR=0": {"images": 2, "recall": 0.5, "balanced_accuracy": 0.5},
    }
    assert found["problems"] == {"bad_par": 1}
    assert evaluate_aj(write(tmp_path / "b.csv", [(1, 0.9)], "label,score"))["by_artifact_ratio"] is None


@pytest.mark.parametrize(
    "content",
    [
        "",
        "label\n1\n",
        "score,image\n0.3,a\n",
        "label,score\n",
        "label,score\nx,y\n",
        'label,score\n"1,0.3\n',
        "\x00,\x00\n",
    ],
)
def test_files_without_a_usable_row_are_refused(tmp_path, content):
    path = tmp_path / "verdicts.csv"
    path.write_text(content)
    with pytest.raises(InputError, match=r"verdicts\.csv"):
        evaluate_aj(path)


def test_wrong_arguments_are_named(tmp_path):
    with pytest.raises(InputError, match="nowhere"):
        evaluate_aj(tmp_path / "nowhere.csv")
    with pytest.raises(ConfigError, match="threshold"):
        evaluate_aj(tmp_path / "nowhere.csv", threshold=1.0)
