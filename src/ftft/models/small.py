"""Small models with random weights, for demonstrations where no pretrained one is at hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ftft.data.images import require_pillow
from ftft.models.heads import seeded
from ftft.models.processors import ImagesAndTexts
from ftft.models.quiet import quiet_transformers
from ftft.models.saving import save_model

SIZE = 8  # pixels a side
TOKENS = 16  # of a text, at most
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
    require_pillow()
    from transformers import ViTImageProcessorPil

    return ViTImageProcessorPil(size={"height": SIZE, "width": SIZE})


def write_clip(folder: Path, words: Sequence[str], *, layers: int = 4, seed: int = 0) -> Path:
    """A CLIP of random weights for pictures of 8 x 8 and short texts of these ``words``, as a model folder that
    ``CLIPModel.from_pretrained`` loads; UserError where Pillow is not installed."""
    with quiet_transformers():
        from transformers import CLIPConfig, CLIPModel

        tokenizer = word_tokenizer(words)
        special = {name: getattr(tokenizer, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
        texts = {key: VISION[key] for key in ("hidden_size", "num_attention_heads", "intermediate_size")}
        texts |= {"num_hidden_layers": 2, "vocab_size": len(tokenizer), "max_position_embeddings": TOKENS, **special}
        images = {**VISION, "num_hidden_layers": layers}
        with seeded(seed):
            model = CLIPModel(CLIPConfig(text_config=texts, vision_config=images, projection_dim=32))
        processors = ImagesAndTexts(image_processor(), tokenizer)
        return save_model(folder, model, processors, metadata={"lineage": ["ftft demo CLIP (random weights)"]})


def word_tokenizer(words: Sequence[str]) -> Any:
    """One token a word, between a token that starts and one that ends the text."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    special = ["[pad]", "[unknown]", "[start]", "[end]"]
    vocabulary = {word: number for number, word in enumerate(dict.fromkeys([*special, *words]))}
    backend = Tokenizer(WordLevel(vocabulary, unk_token="[unknown]"))
    backend.pre_tokenizer = Whitespace()
    ends = [(name, vocabulary[name]) for name in ("[start]", "[end]")]
    backend.post_processor = TemplateProcessing(single="[start] $A [end]", special_tokens=ends)
    named = dict(zip(("pad_token", "unk_token", "bos_token", "eos_token"), special))
    return PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=TOKENS, **named)
