"""What comes with a model to make inputs of rows: its tokenizer, its image processor, or both."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ftft.data.images import require_pillow
from ftft.errors import UserError
from ftft.models.folder import IMAGE_PROCESSOR_FILES, ModelFolder, require_tokenizer
from ftft.models.kinds import ModelKind


@dataclass(frozen=True)
class ImagesAndTexts:
    """Both processors of a model of images and texts, saved side by side as ``AutoProcessor`` looks for them."""

    image_processor: Any
    tokenizer: Any

    def save_pretrained(self, folder: Path | str) -> None:
        """Write the files of both."""
        self.image_processor.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)


def require_processors(folder: ModelFolder, kind: ModelKind, where: str) -> None:
    """UserError where a file is missing that what the kind reads with is made from."""
    for name in kind.reads:
        READS[name][0](folder, where)


def load_processors(folder: ModelFolder, kind: ModelKind, where: str) -> Any:
    """The tokenizer, the image processor, or :class:`ImagesAndTexts`, as the kind reads; UserError where one cannot be had."""
    loaded = {name: READS[name][1](folder, where) for name in kind.reads}
    return ImagesAndTexts(**loaded) if len(loaded) > 1 else next(iter(loaded.values()))


def tokenizer_of(processor: Any) -> Any:
    """The tokenizer among what comes with a model, or None."""
    found = getattr(processor, "tokenizer", processor)
    return found if hasattr(found, "model_max_length") else None


def load_tokenizer(folder: ModelFolder, where: str) -> Any:
    """The tokenizer of a model folder, padding on the right; UserError when there is none or it cannot be read."""
    from transformers import AutoTokenizer

    require_tokenizer(folder, where)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder.path, local_files_only=True, trust_remote_code=folder.code)
    except Exception as error:  # tokenizers, sentencepiece and converters each raise what they like
        raise UserError(f"{where}: the tokenizer in {folder.path} cannot be loaded: {first_line(error)}") from None
    tokenizer.padding_side = tokenizer.truncation_side = "right"
    return tokenizer


def require_image_processor(folder: ModelFolder, where: str) -> None:
    """UserError when no file says how the model wants its images, or the package that reads images is missing."""
    if not any((folder.path / name).is_file() for name in IMAGE_PROCESSOR_FILES):
        raise UserError(
            f"{where}: {folder.path} has no {IMAGE_PROCESSOR_FILES[0]}, which says how the model wants its images; copy the "
            "base model's file beside it"
        )
    require_pillow(f"{where}: ")


def load_image_processor(folder: ModelFolder, where: str) -> Any:
    """The image processor of a model folder, the one on Pillow and numpy: it needs no torchvision, and where that is installed
    the same images give the same numbers. UserError when there is none or it cannot be read."""
    # From its own module: at the top level of transformers older releases have a stand-in that asks for torchvision.
    from transformers.models.auto.image_processing_auto import AutoImageProcessor

    require_image_processor(folder, where)
    try:
        return AutoImageProcessor.from_pretrained(
            folder.path, local_files_only=True, trust_remote_code=folder.code, backend="pil"
        )
    except Exception as error:  # every processor's class checks its settings in its own way
        raise UserError(f"{where}: the image processor in {folder.path} cannot be loaded: {first_line(error)}") from None


def first_line(error: Exception) -> str:
    """The first line of an error's message, or its class."""
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return lines[0].strip() if lines else type(error).__name__


READS: dict[str, tuple[Callable[[ModelFolder, str], None], Callable[[ModelFolder, str], Any]]] = {
    "tokenizer": (require_tokenizer, load_tokenizer),
    "image_processor": (require_image_processor, load_image_processor),
}
