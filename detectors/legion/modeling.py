"""LEGION's network (papers/legion.md section 4.1, figure 3a), built from classes of transformers.

Legend for shapes: B images, L text tokens with the image's N tokens among them, S [SEG] tokens in the whole batch,
D width of the language model, V vocabulary, C width of SAM's decoder, h x w SAM's embedding grid.

One departure from the paper's text, taken from its code: the mask of a [SEG] token is decoded from the hidden state one
place before it, which is the state that predicts it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedConfig,
    PreTrainedModel,
    SamConfig,
    SamModel,
)

from refiner.detectors.legion.decoding import Answer, CleanRule, Decoder, Lookup
from refiner.detectors.legion.layouts import MODEL_TYPE


class LegionConfig(PreTrainedConfig):
    """Configuration of the network and its prompt.

    Args:
        llava: a ``LlavaConfig`` as a dict: CLIP tower, projector and language model.
        sam: a ``SamConfig`` as a dict; the [SEG] states are projected to the width of its decoder.
        verdict_width: hidden width of the real/fake head; 0 if the checkpoint has no such head.
        seg_token_id: id of ``[SEG]``.
        prompt: text before the answer; contains ``<image>`` exactly once.
        max_new_tokens: longest answer, in tokens.
        clean_threshold: minimum probability, in [0, 1], of the answer for a clean image; None: only greedy decoding.
        published: whether the weights were trained with the published code. Then the images are prepared and the
            answers are read as that code does it; ``detectors/legion/reading.py`` has the rules.
        examples: typical answers of the model, from which decoding guesses tokens. They save time and do not change
            the results.
    """

    model_type = MODEL_TYPE

    def __init__(
        self,
        *,
        llava: dict[str, Any] | None = None,
        sam: dict[str, Any] | None = None,
        verdict_width: int = 2048,
        seg_token_id: int = 32004,
        prompt: str = "",
        max_new_tokens: int = 512,
        clean_threshold: float | None = 0.5,
        published: bool = False,
        examples: Sequence[str] = (),
        **kwargs: Any,
    ) -> None:
        self.llava = llava or {}
        self.sam = sam or {}
        self.verdict_width = verdict_width
        self.seg_token_id = seg_token_id
        self.prompt = prompt
        self.max_new_tokens = max_new_tokens
        self.clean_threshold = clean_threshold
        self.published = published
        if not isinstance(examples, list | tuple) or not all(isinstance(text, str) for text in examples):
            raise ValueError(f"Expected a list of texts as examples, got {examples!r:.80}: correct config.json.")
        self.examples = list(examples)
        super().__init__(**kwargs)


@dataclass(frozen=True, kw_only=True)
class LegionOutput:
    """Output of one teacher-forced pass."""

    logits: Tensor
    """Float (B, L, V)."""
    mask_logits: Tensor
    """Float (S, 4h, 4w), one per [SEG] in reading order, over SAM's padded square; flawed pixels are above 0."""
    verdict_logits: Tensor | None
    """Float (B, 2), fake before real (the paper's code labels real 1); None without a real/fake head."""
    vision: Tensor
    """Float (B, 1 + N, width of the tower), CLS first."""
    sam: Tensor
    """Float (B, C, h, w)."""


def verdict_head(features: int, width: int) -> nn.Sequential:
    """The MLP of equation 1, from a CLS feature to logits, fake before real."""
    return nn.Sequential(nn.Linear(features, width), nn.ReLU(), nn.Linear(width, 2))


class LegionModel(PreTrainedModel):
    """CLIP tower, projector, language model, [SEG] projection, SAM encoder and mask decoder, verdict head."""

    config_class = LegionConfig
    base_model_prefix = ""
    main_input_name = "pixel_values"
    _supports_sdpa = True
    _no_split_modules = ("SamModel",)

    def __init__(self, config: LegionConfig) -> None:
        super().__init__(config)
        llava_config = LlavaConfig(**config.llava)
        sam_config = SamConfig(**config.sam)
        width, out = llava_config.text_config.hidden_size, sam_config.mask_decoder_config.hidden_size
        self.llava = LlavaForConditionalGeneration(llava_config)
        self.sam = SamModel(sam_config)
        self.text_hidden_fcs = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, out))
        self.prediction_head: nn.Sequential | None = None
        if config.verdict_width:
            self.prediction_head = verdict_head(llava_config.vision_config.hidden_size, config.verdict_width)
        self.post_init()

    def encode_image(self, pixel_values: Tensor) -> Tensor:
        """Run the CLIP tower: (B, 3, H, W) -> (B, 1 + N, width), the output of the layer that LLaVA uses."""
        output = self.llava.model.vision_tower(pixel_values, output_hidden_states=True)
        return output.hidden_states[self.llava.config.vision_feature_layer]

    def verdict(self, vision: Tensor) -> Tensor | None:
        """Equation 1: (B, 1 + N, width) -> logits (B, 2), fake before real; None without a real/fake head."""
        return None if self.prediction_head is None else self.prediction_head(vision[:, 0])

    def embed(self, input_ids: Tensor, vision: Tensor) -> Tensor:
        """Embed the text, with the projected patches at the image tokens: (B, L), (B, 1 + N, .) -> (B, L, D)."""
        embeds = self.llava.get_input_embeddings()(input_ids)
        patches = self.llava.model.multi_modal_projector(vision[:, 1:]).to(embeds.device, embeds.dtype)
        places = (input_ids == self.llava.config.image_token_index).unsqueeze(-1).to(embeds.device)
        return embeds.masked_scatter(places, patches)

    def encode_ground(self, sam_pixel_values: Tensor) -> Tensor:
        """Run the SAM encoder: (B, 3, H, W) -> (B, C, h, w)."""
        return self.sam.vision_encoder(sam_pixel_values).last_hidden_state

    def decode_masks(self, ground: Tensor, states: Tensor) -> Tensor:
        """Equation 3: SAM embeddings (S, C, h, w) and language states (S, D), row by row -> mask logits (S, 4h, 4w)."""
        height, width = ground.shape[-2:]
        if not len(states):
            return ground.new_zeros(0, 4 * height, 4 * width)
        prompts = self.text_hidden_fcs(states)[:, None, None, :]
        dense = self.sam.prompt_encoder.no_mask_embed.weight.reshape(1, -1, 1, 1).expand(1, -1, height, width)
        place = self.sam.get_image_wide_positional_embeddings().to(ground.dtype)
        masks, _ = self.sam.mask_decoder(
            image_embeddings=ground,
            image_positional_embeddings=place.expand(len(ground), -1, -1, -1),
            sparse_prompt_embeddings=prompts.to(ground.device, ground.dtype),
            dense_prompt_embeddings=dense,
            multimask_output=False,
        )
        return masks[:, 0, 0]

    def forward(self, input_ids: Tensor, pixel_values: Tensor, sam_pixel_values: Tensor) -> LegionOutput:
        """Run one teacher-forced pass over known answers.

        Args:
            input_ids: int (B, L), padded on the right, where the causal mask hides the padding.
            pixel_values: input of the CLIP tower, float (B, 3, H, W).
            sam_pixel_values: input of the SAM encoder, float (B, 3, H, W).
        """
        vision = self.encode_image(pixel_values)
        embeds = self.embed(input_ids, vision)
        hidden = self.llava.model.language_model(inputs_embeds=embeds, use_cache=False).last_hidden_state
        rows, places = (input_ids == self.config.seg_token_id).nonzero(as_tuple=True)
        ground = self.encode_ground(sam_pixel_values)
        return LegionOutput(
            logits=self.llava.lm_head(hidden),
            mask_logits=self.decode_masks(ground[rows], hidden[rows, places - 1]),
            verdict_logits=self.verdict(vision),
            vision=vision,
            sam=ground,
        )

    @torch.inference_mode()
    def answer(
        self, input_ids: Tensor, vision: Tensor, clean: Sequence[int] = (), known: Lookup | None = None
    ) -> Answer:
        """Decode one answer for each image greedily.

        Args:
            input_ids: the prompt, int (L,), shared by all images.
            vision: features of the images, float (B, 1 + N, width).
            clean: ``CleanRule.tokens``.
            known: earlier answers, from which tokens are guessed. They save time and do not change the results.
        """
        embeds = self.embed(input_ids.expand(len(vision), -1), vision)
        threshold = self.config.clean_threshold
        rule = CleanRule(tokens=clean, threshold=threshold) if threshold is not None else CleanRule()
        return Decoder(self.llava, embeds, known or Lookup(), rule, self.config.max_new_tokens).write()
