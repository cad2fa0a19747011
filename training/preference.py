"""Train the micro judge: a CLIP in HPS's architecture and format, at the micro world's size.

Stage 1 is CLIP's contrastive loss over clean pictures and captions; every batch holds near misses of each (another
hour, word, kind or colour; colours or places swapped; a thing left out). Stage 2 adds HPS v2's preferences
(arXiv 2306.09341, section 4): for one prompt and two pictures, cross-entropy over the pair's scaled cosines. The
better one has no flaw, fewer flaws, no damage, or fits the caption; often it is another picture of the same caption,
because that is what a judge is asked to choose from. Every picture gets the slight blur, noise and colour cast of a
decoder, in amounts that say nothing about which one is better.

Both stages are helped by dense labels (what stands in each cell of the picture, and is it flawed?) through linear
heads on the image tower's second and third block, which are thrown away afterwards: with so few pictures, captions
and preferences alone say too little about where to look.

Departures from HPS v2: it starts from a pretrained CLIP, and its preferences are people's; here stage 1 stands in for
the one and the micro world's exact truth for the other. The image tower is open_clip's residual network in place of a
transformer, and the tokenizer knows the words of the micro world alone.

Run ``python -P -m refiner.training.preference --help``.
"""

from __future__ import annotations

import argparse
import dataclasses
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import open_clip
import torch
from numpy.typing import NDArray
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import Tensor, nn
from torch.nn import functional
from torchvision.transforms.functional import normalize
from transformers import PreTrainedTokenizerFast

from refiner.hub import MICRO_WEIGHTS, write_card
from refiner.metrics.hps import MEAN, STD, HPSScorer
from refiner.micro.things import BACKGROUNDS, COLOURS, KINDS
from refiner.micro.world import SIZE
from refiner.training.common import seed_everything
from refiner.training.fit import FitSettings, fit
from refiner.training.preference_data import (
    ATTRIBUTES,
    CELLS,
    PICTURES,
    Pool,
    Retouch,
    build_pool,
    changed_cells,
    damage,
    decoder_look,
    round_trip,
)
from refiner.training.preference_eval import evaluate

CONTEXT_LENGTH = 44
"""Tokens of a prompt, start and end included: the longest caption just fits."""
_LARGEST_SCALE = 100.0


@dataclass(frozen=True, kw_only=True)
class PreferenceRecipe:
    """Settings of a run; the defaults are those of the bundled weights."""

    seed: int = 31
    shards: int = 12
    shard_size: int = 250
    caption_steps: int = 400
    caption_batch: int = 20
    caption_rate: float = 1.5e-3
    preference_steps: int = 1400
    preference_batch: int = 20
    preference_rate: float = 1e-3
    weight_decay: float = 0.02
    contrastive_weight: float = 0.5  # of stage 1's loss in stage 2
    things_weight: float = 0.4
    flaws_weight: float = 1.0


def words() -> list[str]:
    """Every word of the micro world's captions."""
    phrases = [kind.phrase for kind in KINDS.values()] + [word for kind in KINDS.values() for word in kind.attributes]
    text = " ".join([*phrases, *COLOURS, *BACKGROUNDS, "a an left of above on background"])
    return sorted(set(re.findall(r"[a-z']+", re.sub(r"\{\w+\}", " ", text))))


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Words to ids; the end token has the largest id, because CLIP's text tower reads its answer there."""
    names = ["<pad>", "<unk>", *words(), "<start>", "<end>"]
    vocabulary = {name: index for index, name in enumerate(names)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[^a-z0-9']+"), "removed")
    special = [("<start>", vocabulary["<start>"]), ("<end>", vocabulary["<end>"])]
    tokenizer.post_processor = processors.TemplateProcessing(single="<start> $A <end>", special_tokens=special)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=CONTEXT_LENGTH,
        pad_token="<pad>",
        unk_token="<unk>",
        bos_token="<start>",
        eos_token="<end>",
    )


def model_config(vocabulary: int) -> dict[str, Any]:
    """open_clip's ``model_cfg`` of the micro judge."""
    return {
        "embed_dim": 256,
        "vision_cfg": {"image_size": SIZE, "layers": [1, 2, 1, 1], "width": 32, "head_width": 64},
        "text_cfg": {
            "context_length": CONTEXT_LENGTH,
            "vocab_size": vocabulary,
            "hf_tokenizer_name": "refiner/hps-micro",
            "width": 128,
            "heads": 2,
            "layers": 3,
        },
    }


def build_scorer(seed: int) -> HPSScorer:
    """The micro judge before training, written to a folder and read back as any other."""
    seed_everything(seed)
    tokenizer = build_tokenizer()
    config = model_config(len(tokenizer))
    with tempfile.TemporaryDirectory() as folder:
        clip = open_clip.CLIP(**config)
        HPSScorer(model=clip, tokenizer=tokenizer, config=config, name="").save_pretrained(folder)
        scorer = HPSScorer.from_pretrained(folder, device="cpu")
    scorer.model.visual.to(memory_format=torch.channels_last)
    return scorer


class Trainee(nn.Module):
    """The judge's network and the heads for dense labels."""

    def __init__(self, clip: open_clip.CLIP) -> None:
        super().__init__()
        self.clip = clip
        width = model_config(0)["vision_cfg"]["width"]
        self.sizes = [len(KINDS) + 1, len(COLOURS) + len(BACKGROUNDS), len(ATTRIBUTES), 1]
        self.fine = nn.Conv2d(8 * width, 1, 1)
        self.coarse = nn.Conv2d(16 * width, sum(self.sizes), 1)
        self.blocks: dict[str, Tensor] = {}
        for name in ("layer2", "layer3"):
            clip.visual.get_submodule(name).register_forward_hook(partial(self._keep, name))

    def _keep(self, name: str, _module: nn.Module, _inputs: object, output: Tensor) -> None:
        self.blocks[name] = output

    def images(self, pictures: Tensor) -> Tensor:
        """Unit features (N, D) of pictures in [0, 1], each with a decoder's look; ``dense_loss`` goes with them."""
        pixels = normalize(decoder_look(pictures), list(MEAN), list(STD)).contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            features = self.clip.encode_image(pixels)
        return functional.normalize(features.float(), dim=-1)

    def dense_loss(self, labels: Tensor, flaws: Tensor) -> tuple[Tensor, Tensor]:
        """Cross-entropies of what stands in the last pictures' cells, and of flaws.

        Args:
            labels: (N, 3, 6, 6) as in ``Sample``.
            flaws: bool (N, 12, 12).
        """
        *logits, coarse = self.coarse(self.blocks["layer3"].float()).split(self.sizes, dim=1)
        fine, rare = self.fine(self.blocks["layer2"].float()), torch.tensor(4.0)
        truth = flaws[:, None].float()
        flaw = functional.binary_cross_entropy_with_logits(fine, truth, pos_weight=rare)
        truth = functional.max_pool2d(truth, 2)
        flaw = flaw + functional.binary_cross_entropy_with_logits(coarse, truth, pos_weight=rare)
        things = [functional.cross_entropy(rows, labels[:, at], ignore_index=-1) for at, rows in enumerate(logits)]
        return torch.stack(things).sum(), flaw

    @property
    def scale(self) -> Tensor:
        """Factor on the cosines."""
        return self.clip.logit_scale.exp().clamp(max=_LARGEST_SCALE)


def _text_features(scorer: HPSScorer, texts: list[str]) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        features = scorer.model.encode_text(scorer.tokenizer(texts))
    return functional.normalize(features.float(), dim=-1)


def contrastive_loss(images: Tensor, texts: Tensor, captions: list[str], scale: Tensor) -> Tensor:
    """CLIP's symmetric loss with surplus texts.

    Args:
        images: unit features (N, D).
        texts: unit features (M, D), M >= N; the first N belong to the images, the others are wrong for all of them.
        captions: the M texts; where a surplus one reads like an image's own, it does not count against it.
        scale: factor on the cosines.
    """
    count = len(images)
    target = torch.arange(count)
    numbers = {caption: number for number, caption in enumerate(captions)}
    own = torch.tensor([numbers[caption] for caption in captions])
    same = (own[:count, None] == own[None]) & ~torch.eye(count, len(captions), dtype=torch.bool)
    logits = (scale * images @ texts.T).masked_fill(same, -torch.inf)
    return (functional.cross_entropy(logits, target) + functional.cross_entropy(logits[:, :count].T, target)) / 2


def preference_loss(better: Tensor, worse: Tensor, scale: Tensor) -> Tensor:
    """HPS v2's loss of each pair, float (N,): cross-entropy over two scaled cosines, the better being the target."""
    return functional.softplus(scale * (worse - better))


_DUELS = (
    ("clean", "flawed"),
    ("again", "flawed"),
    ("clean", "worse"),
    ("again", "worse"),
    ("flawed", "worse"),
    ("clean", "damaged"),
    ("again", "damaged"),
)
"""Which picture of a sample is better than which; either is better than the rival's."""


class _Round(NamedTuple):
    """A batch of stage 2. Samples come three times: the better picture, the worse one, the rival's."""

    pictures: Tensor
    """(3 B, 3, 96, 96)."""
    labels: Tensor
    """(3 B, 3, 6, 6)."""
    flaws: Tensor
    """Bool (3 B, 12, 12)."""
    seen: Tensor
    """Bool (B,): whether one can tell the worse picture from the better."""


def _draw_round(pool: Pool, indices: NDArray[np.int64], rng: np.random.Generator) -> _Round:
    count, names = len(indices), (*PICTURES, "damaged")
    drawn, labels = pool.take(indices, PICTURES)
    clean, again, flawed, worse, rival = drawn.split(count)
    every = torch.stack([clean, again, flawed, worse, rival, damage(clean, again)])
    cells = [changed_cells(picture, clean) for picture in (flawed, worse, every[-1])]
    flaws = torch.stack([torch.zeros_like(cells[0])] * 2 + cells[:2] + [torch.zeros_like(cells[0])] + cells[2:])
    places = torch.cat([labels, labels[:count]]).view(len(names), count, *labels.shape[1:])
    duels = rng.integers(len(_DUELS), size=count)
    duels[(duels == _DUELS.index(("flawed", "worse"))) & ~pool.more[indices].numpy()] = 0
    better, poorer = torch.tensor([[names.index(name) for name in _DUELS[duel]] for duel in duels]).T
    roles, samples = (
        torch.cat([better, poorer, torch.full((count,), names.index("rival"))]),
        torch.arange(count).repeat(3),
    )
    seen = flaws[poorer, torch.arange(count)].flatten(1).any(1)
    return _Round(every[roles, samples], places[roles, samples], flaws[roles, samples], seen)


def _captions(pool: Pool, indices: NDArray[np.int64]) -> list[str]:
    """Captions of the samples, then those of their rivals, then the surplus ones."""
    rows = [pool.captions[index] for index in indices.tolist()]
    return [row[0] for row in rows] + [row[1] for row in rows] + [text for row in rows for text in row[2:]]


def train_captions(trainee: Trainee, scorer: HPSScorer, pool: Pool, recipe: PreferenceRecipe, folder: Path) -> None:
    """Stage 1: which caption belongs to which picture."""

    def loss_of_step(step: int) -> tuple[Tensor, Mapping[str, Tensor]]:
        rng = np.random.default_rng([recipe.seed, 1, step])
        indices = rng.choice(len(pool), recipe.caption_batch, replace=False)
        pictures, labels = pool.take(indices, (("clean", "again")[step % 2], "rival"))
        captions = _captions(pool, indices)
        images = trainee.images(pictures)
        contrast = contrastive_loss(images, _text_features(scorer, captions), captions, trainee.scale)
        things, _ = trainee.dense_loss(labels, torch.zeros(len(labels), 2 * CELLS, 2 * CELLS, dtype=torch.bool))
        figures = {"contrast": contrast.detach(), "things": things.detach(), "scale": trainee.scale.detach()}
        return contrast + recipe.things_weight * things, figures

    settings = _settings(recipe, recipe.caption_steps, recipe.caption_rate)
    fit(trainee, loss_of_step, settings, folder, "captions")


def train_preferences(trainee: Trainee, scorer: HPSScorer, pool: Pool, recipe: PreferenceRecipe, folder: Path) -> None:
    """Stage 2: which of two pictures a prompt would rather have."""
    count = recipe.preference_batch

    def loss_of_step(step: int) -> tuple[Tensor, Mapping[str, Tensor]]:
        rng = np.random.default_rng([recipe.seed, 2, step])
        indices = rng.choice(len(pool), count, replace=False)
        batch = _draw_round(pool, indices, rng)
        captions = _captions(pool, indices)[: 2 * count]
        better, poorer, rival = trainee.images(batch.pictures).split(count)
        texts, scale = _text_features(scorer, captions), trainee.scale
        good, bad, wrong = ((rows * texts[:count]).sum(1) for rows in (better, poorer, rival))
        seen = batch.seen.float()
        preference = (preference_loss(good, bad, scale) * seen).sum() / seen.sum().clamp(min=1)
        preference = preference + preference_loss(good, wrong, scale).mean()
        contrast = contrastive_loss(torch.cat([better, rival]), texts, captions, scale)
        things, flaw = trainee.dense_loss(batch.labels, batch.flaws)
        losses = {"preference": preference, "contrast": contrast, "things": things, "flaw": flaw}
        right = {"cleaner": (good > bad)[batch.seen].float().mean(), "fitting": (good > wrong).float().mean()}
        loss = preference + recipe.contrastive_weight * contrast
        loss = loss + recipe.things_weight * things + recipe.flaws_weight * flaw
        return loss, {name: value.detach() for name, value in losses.items()} | right

    settings = _settings(recipe, recipe.preference_steps, recipe.preference_rate)
    fit(trainee, loss_of_step, settings, folder, "preferences")


def _settings(recipe: PreferenceRecipe, steps: int, rate: float) -> FitSettings:
    return FitSettings(
        steps=steps,
        learning_rate=rate,
        warmup=50,
        weight_decay=recipe.weight_decay,
        ema=0.995,
        seed=recipe.seed,
        report_every=25,
        save_every=100,
    )


def train(runs: Path, recipe: PreferenceRecipe | None = None, retouch: Retouch | None = None) -> HPSScorer:
    """Both stages, or what is left of them; checkpoints and pool lie in ``runs/preference``.

    ``retouch`` is done to half the pictures, see ``build_pool``; the bundled judge had the generator's autoencoder.
    """
    recipe = recipe or PreferenceRecipe()
    folder = runs / "preference"
    pool = build_pool(folder / "pool", recipe.shards, recipe.shard_size, recipe.seed, retouch)
    scorer = build_scorer(recipe.seed)
    trainee = Trainee(scorer.model)
    train_captions(trainee, scorer, pool, recipe, folder)
    train_preferences(trainee, scorer, pool, recipe, folder)
    return scorer


def measure(judge: HPSScorer, recipe: PreferenceRecipe, pairs: int, retouch: Retouch) -> dict[str, float]:
    """Held-out figures on exact pictures, and under ``decoded/`` on retouched ones."""
    scores = evaluate(judge, seed=recipe.seed + 1, pairs=pairs)
    decoded = evaluate(judge, seed=recipe.seed + 2, pairs=pairs, retouch=retouch)
    return scores | {f"decoded/{name}": value for name, value in decoded.items()}


def save(scorer: HPSScorer, out: Path, recipe: PreferenceRecipe, scores: Mapping[str, float]) -> None:
    """Write the judge's folder with its card."""
    (out / "card.json").unlink(missing_ok=True)
    scorer.save_pretrained(out)
    write_card(
        out,
        name="hps-micro 1",
        recipe="python -P -m refiner.training.preference",
        seed=recipe.seed,
        data=f"{recipe.shards * recipe.shard_size} captions of the micro world, six pictures each, and near misses",
        domain="micro",
        scores=scores,
        settings=dataclasses.asdict(recipe),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="checkpoints and drawn pictures")
    parser.add_argument("--out", type=Path, default=MICRO_WEIGHTS / "hps", help="folder of the finished judge")
    parser.add_argument("--pairs", type=int, default=1400, help="held-out pairs of each sort to measure on")
    parser.add_argument("--autoencoder", type=Path, default=MICRO_WEIGHTS / "generator" / "vae", help="its folder")
    arguments = parser.parse_args()
    if not arguments.autoencoder.is_dir():
        parser.error(f"expected the folder of an autoencoder, got {str(arguments.autoencoder)!r}: train it first")
    recipe, retouch = PreferenceRecipe(), round_trip(arguments.autoencoder)
    scorer = train(arguments.runs, recipe, retouch)
    save(scorer, arguments.out, recipe, {})
    scores = measure(HPSScorer.from_pretrained(arguments.out), recipe, arguments.pairs, retouch)
    save(scorer, arguments.out, recipe, scores)
    for name, value in scores.items():
        print(f"{name:40s} {value:.3f}")


if __name__ == "__main__":
    main()
