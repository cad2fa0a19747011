"""Cost of SemAP: ours, which encodes every text once, against the official evaluator with the same encoder and texts.

The authors' evaluator calls bert_score for every prediction and field, with that prediction repeated against all
references of its image. It does so again for each view, and the command in its README and its logs asks for all three.
Its way is written here from the steps of bert_score: repeated texts of a call are encoded once, sorted by their number
of words, in padded batches of 64. (bert_score 0.3.13 itself took 3 % less.) If that package is installed, one image is
also compared with it, and the largest difference to ours is reported. Both ways run in turn, 20 images each, and the
ratio is the median of the turns. The benchmark also reports the largest difference between their similarities. On a
CPU, seconds are processor time; on a GPU, wall time.

Limits of the ratio: with 6 anomalies on both sides, the evaluator sends 84 texts of an image through the network for
one view, and any way that encodes each text sends at least 24. The rest comes from less padding.

Run with ``make bench`` or ``python tests/benchmarks/semap.py [--images N] [--anomalies N] [--encoder PATH] [--json]``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from refiner.errors import ModelNotFoundError
from refiner.hub import resolve
from refiner.metrics.bertscore import PUBLISHED_ENCODER, BertScore, compare
from refiner.metrics.encoders import default_encoder
from refiner.metrics.semap import Match, similarities
from refiner.types import Claim

IN_A_TURN = 20
WORDS = 40
"""Most words of a text; AnomReason's phenomena and reasonings have about 20 to 45 tokens."""


def random_images(count: int, anomalies: int, tokenizer: Any, seed: int = 0) -> list[Match]:
    """Images with different texts of 15 to 40 words, and as many predictions as references."""
    rng = np.random.default_rng(seed)
    words = sorted(word for word in tokenizer.get_vocab() if word.isascii() and word.isalpha())

    def text() -> str:
        return " ".join(words[at] for at in rng.integers(len(words), size=rng.integers(15, WORDS + 1)))

    def side() -> tuple[Claim, ...]:
        return tuple(Claim(explanation=text(), reasoning=text()) for _ in range(anomalies))

    return [Match(f"{at}.png", side(), side()) for at in range(count)]


def small_encoder(folder: Path) -> Path:
    """An encoder of MiniLM's size with random weights, used if none is installed; speed does not depend on weights."""
    from transformers import BertConfig, BertModel, BertTokenizerFast

    letters = "abcdefghijklmnopqrstuvwxyz"
    words = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *(a + b + c for a in letters for b in letters for c in "aeo"),
    ]
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(words), hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536
    )
    BertModel(config).save_pretrained(folder)
    BertTokenizerFast(vocab={word: at for at, word in enumerate(words)}, model_max_length=512).save_pretrained(folder)
    return folder


class Official:
    """The steps of bert_score for each call; no text is kept from one call to the next."""

    def __init__(self, scorer: BertScore) -> None:
        self.model, self.tokenizer, self.encoded = scorer.model, scorer.tokenizer, 0

    @torch.no_grad()
    def f1(self, candidates: Sequence[str], references: Sequence[str]) -> NDArray[np.float32]:
        """F1 of each candidate with its own reference."""
        texts = sorted({*candidates, *references}, key=lambda text: len(text.split(" ")), reverse=True)
        held = {}
        for begin in range(0, len(texts), 64):
            batch = texts[begin : begin + 64]
            inputs = self.tokenizer(batch, padding=True, truncation=True, return_tensors="pt").to(self.model.device)
            hidden = self.model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])[0].cpu()
            for text, rows, mask in zip(batch, hidden, inputs["attention_mask"].cpu(), strict=True):
                held[text] = rows[mask.bool()]
            self.encoded += len(batch)
        ours, theirs = ([held[text] for text in side] for side in (candidates, references))
        return self._match(*(torch.nn.utils.rnn.pad_sequence(side, batch_first=True) for side in (ours, theirs)))

    def _match(self, ours: torch.Tensor, theirs: torch.Tensor) -> NDArray[np.float32]:
        masks = [side.abs().sum(-1) > 0 for side in (ours, theirs)]
        unit = [torch.nn.functional.normalize(side, dim=-1) for side in (ours, theirs)]
        cosines = unit[0] @ unit[1].transpose(1, 2)
        means = []
        for best, mask in zip((cosines.amax(2), cosines.amax(1)), masks, strict=True):
            weights = mask.float()
            weights[:, 0] = 0
            weights[torch.arange(len(weights)), mask.sum(1) - 1] = 0
            means.append((best * weights).sum(1) / weights.sum(1))
        precision, recall = means
        return (2 * precision * recall / (precision + recall)).numpy()

    def similarity(self, image: Match) -> NDArray[np.float32]:
        """F1 of phenomena and of reasonings, (2, predictions, references), with one call per prediction and field."""
        fields = ("phenomenon", "reasoning")
        wanted = {field: [getattr(one, field) for one in image.references] for field in fields}
        rows = [
            [self.f1([getattr(one, field)] * len(image.references), wanted[field]) for field in fields]
            for one in image.predictions
        ]
        return np.array(rows).transpose(1, 0, 2)


def from_the_package(scorer: BertScore, folder: Path, image: Match) -> float:
    """Largest difference between our F1 and that of the package bert_score, called as the evaluator calls it."""
    from bert_score import BERTScorer

    judge = BERTScorer(model_type=str(folder), num_layers=scorer.layer, lang="en", device=str(scorer.model.device))
    apart = 0.0
    for field in ("phenomenon", "reasoning"):
        ours, theirs = ([getattr(one, field) for one in side] for side in (image.predictions, image.references))
        wanted = [judge.score([text] * len(theirs), theirs)[2].numpy() for text in ours]
        found = compare(scorer.encode(ours), scorer.encode(theirs)).f1
        apart = max(apart, float(np.abs(found - np.array(wanted)).max()))
    return apart


def measure(encoder: str | Path | None, images: int, anomalies: int) -> dict[str, Any]:
    """Seconds and encoded texts of both ways, their ratio for one and three views, and their largest difference."""
    scorer = BertScore.from_pretrained(encoder)
    official = Official(scorer)
    matches = random_images(images, anomalies, scorer.tokenizer)
    official.similarity(matches[0])
    scorer.encode(["one text that warms up"])
    official.encoded = scorer.encoded = 0
    clock = time.process_time if scorer.model.device.type == "cpu" else time.perf_counter
    slow, fast, furthest = [], [], 0.0
    for at in range(0, images, IN_A_TURN):
        turn = matches[at : at + IN_A_TURN]
        began = clock()
        theirs = np.array([official.similarity(image) for image in turn])
        between = clock()
        found = list(similarities(turn, scorer, ("predictions", "references"), []))
        fast.append(clock() - between)
        slow.append(between - began)
        ours = np.array([[each.explanation, each.reasoning] for each in found])
        furthest = max(furthest, float(np.abs(theirs - ours).max()))
    folder = default_encoder(PUBLISHED_ENCODER)[1] if encoder is None else resolve(encoder, "judge")
    package = from_the_package(scorer, folder, matches[0]) if find_spec("bert_score") else None
    ratio = statistics.median(one / other for one, other in zip(slow, fast, strict=True))
    return {
        "encoder": scorer.signature,
        "images": images,
        "anomalies": anomalies,
        "threads": torch.get_num_threads(),
        "official": {"seconds": sum(slow), "texts_encoded": official.encoded},
        "ours": {"seconds": sum(fast), "texts_encoded": scorer.encoded, "images_per_second": images / sum(fast)},
        "ratio_one_view": ratio,
        "ratio_three_views": 3 * ratio,
        "largest_difference": furthest,
        "largest_difference_to_the_package": package,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--anomalies", type=int, default=6)
    parser.add_argument("--encoder", help="folder or hub id (the default encoder, or a random one of MiniLM's size)")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        try:
            figures = measure(options.encoder, options.images, options.anomalies)
        except ModelNotFoundError:
            if options.encoder is not None:
                raise
            figures = measure(small_encoder(Path(folder)), options.images, options.anomalies)
    print(json.dumps(figures) if options.json else json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
