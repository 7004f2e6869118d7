"""Small models with random weights, for demonstrations where no pretrained one is at hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ftft.errors import UserError
from ftft.models.heads import seeded
from ftft.models.quiet import quiet_transformers
from ftft.models.saving import save_model

SIZE = 8  # pixels a side
VISION = {"hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 128, "image_size": SIZE, "patch_size": 2}


def write_vit(folder: Path, *, layers: int = 6, seed: int = 0) -> Path:
    """A vision transformer of about 0.2 M random parameters for pictures of 8 x 8, with its image processor, as a model folder.

    UserError where Pillow is not installed.
    """
    with quiet_transformers():
        from transformers import ViTConfig, ViTForImageClassification

        config = ViTConfig(**VISION, num_hidden_layers=layers)
        with seeded(seed):
            model = ViTForImageClassification(config)
        return save_model(folder, model, image_processor(), metadata={"lineage": ["ftft demo ViT (random weights)"]})


def image_processor() -> Any:
    """Scales to [-1, 1] and resizes to 8 x 8 where a picture has another size."""
    try:
        import PIL  # noqa: F401
    except ModuleNotFoundError:
        raise UserError('images are read with the package pillow, which is not installed: pip install "ftft[image]"') from None
    import transformers

    # Where processors have several backends the one on Pillow has a name of its own.
    made = getattr(transformers, "ViTImageProcessorPil", None) or transformers.ViTImageProcessor
    return made(size={"height": SIZE, "width": SIZE})
