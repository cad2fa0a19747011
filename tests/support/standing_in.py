"""Small models that stand in for the large ones of README and docs."""

from __future__ import annotations

import json
from pathlib import Path

from PIL import Image

from refiner.detectors.reading.boxes import BoxFormat
from refiner.detectors.vlm.questions import finding
from support.tiny_chat_models import save_teller
from support.tiny_locators import save_locator

FLAW = {"name": "the hand", "category": "anatomy", "explanation": "six fingers", "bbox_2d": [9, 9, 500, 600]}

PIPELINES = (
    "stabilityai/stable-diffusion-xl-base-1.0",
    "black-forest-labs/FLUX.1-dev",
    "black-forest-labs/FLUX.1-Fill-dev",
    "Qwen/Qwen-Image",
    "Qwen/Qwen-Image-Edit-2511",
)


def teller_in(folder: Path) -> str:
    """Folder of a tiny model that finds the same flaw in every image."""
    question = finding(Image.new("RGB", (64, 64), "red"), "", BoxFormat(scale="thousand"), thorough=True)
    return str(save_teller(folder, [json.dumps({"regions": [FLAW], "verdicts": []})], [question]))


def names_of_models(folder: Path, model: str) -> dict[str, str]:
    """Names in README and docs -> what stands in for them.

    Args:
        folder: where the small models are written.
        model: a small Stable Diffusion pipeline, which stands in for every pipeline.
    """
    teller = teller_in(folder / "qwen-teller")
    return {
        **dict.fromkeys(PIPELINES, model),
        "stabilityai/sd-vae-ft-mse": f"{model}/vae",
        **{f"Qwen/Qwen3-VL-{size}-Instruct": teller for size in ("2B", "4B", "8B")},
        "gpt-5": teller,
        "IDEA-Research/grounding-dino-tiny": str(save_locator(folder / "owlvit")),
        "sam:sam_vit_h_4b8939.pth": "box",
        "sam:facebook/sam2.1-hiera-large": "box",
        "anomagent:Qwen/Qwen3-VL-8B-Instruct@http://gpu-box:8000/v1,cache=answers": "anomagent:micro:anomreason",
        "legion:legion-2/model": "micro:legion",
        "fakexplain:fx-2/model": "micro:fakexplain",
        "anomreason:ar/model": "micro:anomreason",
        "xaigd:xd/model": "micro:xaigd",
        "aligngemini:semantic:meaning/model/semantic+dda:dda/model/pixel": "micro:aligngemini",
        "vlm:MODEL@http://127.0.0.1:8000/v1": "micro:vlm",
        ', variant="fp16"': "",
        ".enable_model_cpu_offload()": '.to("cpu")',
        ", quantization_config=four_bits": "",
        '"cuda"': '"cpu"',
        "torch.float16": "torch.float32",
        "torch.bfloat16": "torch.float32",
    }  # fmt: skip
