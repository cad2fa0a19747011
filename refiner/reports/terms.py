"""What the pages call a figure, and what each term on them means: the one place for headings and legends.

The name of a figure is a term with parts before and after it, such as ``heatmap_IoU_per_image`` or ``f1@0.7``. A legend
explains the term and each part once.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from refiner.metrics.ranking import FIGURES


class Term(NamedTuple):
    """A term of the pages."""

    heading: str
    meaning: str


_PAIR: Final = "a predicted and a true one whose texts are at least as similar as the number after @"
TERMS: Final[Mapping[str, Term]] = {
    **{name: Term(name.replace("_", " "), meaning) for name, meaning in FIGURES.items()},
    # pixels
    "iou": Term("IoU", "intersection over union: pixels in both masks, divided by pixels in any of them"),
    "IoU": Term("IoU", "intersection over union: pixels in both masks, divided by pixels in any of them"),
    "miou": Term("mIoU", "mean of the IoU of the flawed and of the clean pixels"),
    "PixP": Term("PixP", "precision of pixels: share of the reported pixels that are flawed"),
    "PixR": Term("PixR", "recall of pixels: share of the flawed pixels that are reported"),
    "PixF1": Term("PixF1", "harmonic mean of PixP and PixR"),
    "par": Term("PAR", "perceptual artifact ratio: share of flawed pixels"),
    "predicted_par": Term("predicted PAR", "perceptual artifact ratio by the detector: share of the reported pixels"),
    "region_iou": Term("region IoU", "IoU of the predicted and the true boxes of an image"),
    "flagged": Term("flagged", "share of these images in which the detector reports any pixel"),
    # verdicts
    "accuracy": Term("accuracy", "share of right verdicts, generated or real"),
    "balanced_accuracy": Term("balanced accuracy", "mean of the accuracies on generated and on real images"),
    "precision": Term("precision", "share of what was reported that is true"),
    "recall": Term("recall", "share of what is true that was reported"),
    "f1": Term("F1", "harmonic mean of precision and recall"),
    "tp": Term("TP", f"true positives: generated images called generated; of explanations: {_PAIR}"),
    "fp": Term("FP", "false positives: real images called generated; of explanations: predicted ones without a pair"),
    "tn": Term("TN", "true negatives: real images called real"),
    "fn": Term("FN", "false negatives: generated images called real; of explanations: true ones without a pair"),
    "decided": Term("decided", "share with a verdict; the others are left open"),
    "probability": Term("probability", "the detector's probability that the image is generated"),
    "fake_probability": Term("fake probability", "the detector's probability that the image is generated, mean"),
    "margin": Term("margin", "distance of the probability from the threshold; below 0 if the verdict is wrong"),
    # texts
    "semap": Term("SemAP", "share of the predicted explanations that say the same as a true one"),
    "semf1": Term("SemF1", "harmonic mean of SemAP and the share of the true explanations that were found"),
    "rouge_l": Term("ROUGE-L", "longest common sequence of words of the predicted and the true text, as an F1"),
    "bleu_2": Term("BLEU-2", "share of the predicted text's words and pairs of words that are in the true text"),
    "css": Term("CSS", "cosine of the sentence embeddings of the predicted and the true text"),
    "word_accuracy": Term("word accuracy", "share of the wanted words that can be read in the image"),
    "edit_distance": Term("edit distance", "changed letters, divided by the letters of the wanted words; 0 is best"),
    "read": Term("read", "words that are read as wanted"),
    "misspelt": Term("misspelt", "words that are read with other letters"),
    "unreadable": Term("unreadable", "words that are read only with doubt"),
    "missing": Term("missing", "words that are nowhere in the image"),
    "words": Term("words", "words that the prompts ask for"),
    "all_read": Term("all read", "share of the images in which all wanted words are read"),
    "holds": Term("holds", "share of the statements about the prompt that are true of the image"),
    "statements": Term("statements", "statements that the prompts make about their images"),
    "all_hold": Term("all hold", "share of the images for which all statements are true"),
    "share": Term("share", "share of an image's statements that are true of it"),
    # defects by type, box and description
    "DetTypeF1": Term("DetTypeF1", "F1 of whether an image has a defect of this type"),
    "ClnAcc": Term("ClnAcc", "share of the images without such a defect that are called clean"),
    "BoxF1": Term("BoxF1", "F1 of the boxes, matched one to one"),
    "box_f1": Term("BoxF1", "F1 of the boxes, matched one to one"),
    "DescCos": Term("DescCos", "mean cosine of the descriptions of matched boxes"),
    "ImpAcc": Term("ImpAcc", "how near the importance of matched boxes is: 1 minus their distance"),
    "ImpBucket": Term("ImpBucket", "share of the matched boxes whose importance is in the right one of three classes"),
    # realism and refinement
    "score": Term("score", "how well an image fits its prompt, by the judge"),
    "hps": Term("HPS", "Human Preference Score: how well an image fits its prompt, by a model of what people prefer"),
    "clip": Term("CLIP", "similarity of an image and its prompt, by a model that was trained on images with captions"),
    "intensity": Term("intensity", "sum of the severities of an image's flaws"),
    "rate": Term("rate", "share of the images with a flaw of this category"),
    "per_image": Term("per image", "flaws of this category per image"),
    "flaws": Term("flaws", "flaws that the detector finds in an image"),
    "burden": Term("burden", "sum of severity times confidence over an image's flaws"),
    "better_share": Term("better share", "share of the images whose burden fell"),
    "worse_share": Term("worse share", "share of the images whose burden rose"),
    "rounds": Term("rounds", "rounds of the loop: repair, look again, keep or put back"),
    "accepted": Term("accepted", "attempts that were accepted"),
    "failed_attempts": Term("failed attempts", "attempts that ended with an error"),
    "denoiser_rows": Term("denoiser rows", "images times denoiser passes, guidance counted: the cost of the loop"),
    "detector_calls": Term("detector calls", "images that the detector analysed"),
    "before": Term("before", "of the start image"),
    "last": Term("last", "of the last image that the loop made"),
    "best": Term("best", "of the image that was kept"),
    # counts
    "images": Term("images", "number of images"),
    "scored": Term("scored", "samples that have figures"),
    "coverage": Term(
        "coverage",
        "images with an answer, of all images. Unreadable: the answer could not be understood. Failed: there is none. "
        "Cut short: it ended at the limit of its tokens. Unverified: flaws in it were not checked. Unplaced: the place "
        "of a flaw is not known",
    ),
    # calibration
    "threshold": Term("threshold", "an image counts as generated if its score is above it"),
    "false_positive_rate": Term("false-positive rate", "share of the real images that count as generated"),
    "abstention_band": Term("abstention band", "scores for which the verdict stays open, as it would often be wrong"),
    "share_in_the_band": Term("share in the band", "share of the images whose score lies in the abstention band"),
    "wrong_verdicts": Term("wrong verdicts", "share of the images on the wrong side of the threshold"),
    "map": Term("map", "how scores become probabilities: isotonic (steps) or Platt's (a curve)"),
    "log_loss": Term("log loss", "minus the logarithm of the probability of what is true, mean; 0 is best"),
    "brier": Term("Brier", "squared distance of the probability from what is true, mean; 0 is best"),
    "calibration_error": Term("calibration error", "mean distance of probability and share of generated images (ECE)"),
    "tau": Term("tau", "Kendall's rank correlation of two orders, from -1 (reversed) to 1 (the same)"),
}  # fmt: skip
"""By the name of the figure or column, without the parts below."""
BEFORE: Final[Mapping[str, Term]] = {
    "heatmap_": Term("heat map", "of the detector's heat map, stretched to 0 to 1 and cut at 0.5, as a mask"),
    "PAR>0_": Term("PAR > 0", "over the images with a true flaw"),
    "PAR=0_": Term("PAR = 0", "over the images without a true flaw"),
}
AFTER: Final[Mapping[str, Term]] = {
    "_per_image": Term("per image", "mean over the images; without it, the pixels of all images are counted together"),
    "_pooled": Term("pooled", "the pixels of all images are counted together; without it, the mean over the images"),
    "_before": TERMS["before"],
    "_last": TERMS["last"],
    "_best": TERMS["best"],
    "_change": Term("change", "of the image that was kept, minus that of the start image"),
    "_artifact": Term("artifact", "of flaws in the image itself"),
    "_misalignment": Term("misalignment", "of what the image does not show as the prompt asks"),
    "_gans": Term("GANs", "mean over the generators that are generative adversarial networks"),
    "_diffusion": Term("diffusion", "mean over the generators that are diffusion models"),
    "_group_mean": Term("group mean", "mean over the groups, each counts alike"),
}
_AT: Final = re.compile(r"(.+?)@([\d.]+)(.*)")


class _Parsed(NamedTuple):
    heading: str
    terms: tuple[Term, ...]


def heading(name: str) -> str:
    """What a page calls a figure, such as "mIoU pooled"; other names keep their letters, without underscores."""
    return _parsed(name).heading


def legend(names: Iterable[str]) -> dict[str, str]:
    """Heading of each term in the names of figures -> what it means; of equal headings, the first one's.

    Names without a known term are left out.
    """
    found: dict[str, str] = {}
    for term in (term for name in names for term in _parsed(name).terms):
        found.setdefault(term.heading, term.meaning)
    return found


def _parsed(name: str) -> _Parsed:
    if name in TERMS:
        return _Parsed(TERMS[name].heading, (TERMS[name],))
    if found := _AT.fullmatch(name):
        inner = _parsed(f"{found[1]}{found[3]}")
        first, *rest = inner.heading.split(" ", 1)
        at = Term("@", "only pairs count whose IoU (boxes) or similarity (texts) is at least the number behind it")
        return _Parsed(" ".join([f"{first} @{found[2]}", *rest]), (*inner.terms, at) if inner.terms else ())
    for part, term in BEFORE.items():
        if name.startswith(part):
            inner = _parsed(name.removeprefix(part))
            return _Parsed(f"{term.heading} {inner.heading}", (*inner.terms, term) if inner.terms else ())
    for part, term in AFTER.items():
        if name.endswith(part):
            inner = _parsed(name.removesuffix(part))
            return _Parsed(f"{inner.heading} {term.heading}", (*inner.terms, term) if inner.terms else ())
    return _Parsed(name.replace("_", " "), ())
