"""What a model's files say about it, without loading a weight: for ``ftft check``. No torch here."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ftft.errors import UserError
from ftft.files import sha256_file
from ftft.models.folder import ModelFolder, has_tokenizer, open_folder
from ftft.models.kinds import kind_of
from ftft.models.processors import require_processors
from ftft.models.settings import ModelSettings

LAYER = re.compile(r"(?:^|\.)(?:layer|layers|h|blocks?)\.(\d+)\.")
LAYER_KEYS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
HIDDEN_KEYS = ("hidden_size", "d_model", "n_embd", "dim")
POSITION_KEYS = ("max_position_embeddings", "n_positions")


@dataclass(frozen=True)
class ModelHeader:
    """A model as its files describe it.

    ``parameters``: numbers in the weights files; ``kept_parameters``: those left after ``keep_layers``. ``names``: what
    the model is known as (its source, what its config and card say it came from). ``sha256``: of ``model.safetensors``,
    None for shards and hub models. ``datasets``: what its card lists as training data.
    """

    source: str
    architecture: str
    model_type: str
    layers: int
    hidden_size: int | None
    parameters: int
    kept_parameters: int
    max_positions: int | None
    labels: tuple[str, ...]
    has_tokenizer: bool
    license: str | None
    datasets: tuple[str, ...]
    names: tuple[str, ...]
    sha256: str | None


def inspect(settings: ModelSettings, where: str = "model", *, kind: str = "sequence_classification") -> ModelHeader:
    """Read config, safetensors header, card and file names of a model; of a hub model only these are downloaded.

    Raises UserError for everything that loading would refuse and these files show: a missing folder, weights that are
    not safetensors or cut short, another SHA-256, a missing tokenizer or image processor (what the ``kind`` reads with), code
    of its own, more ``keep_layers`` than layers.
    """
    folder = open_folder(settings, where, weights=False)
    config = {**(folder.config.get("text_config") or {}), **folder.config}  # of two towers the texts' says how long they are
    layers = _first(config, LAYER_KEYS)
    if settings.keep_layers is not None and not (isinstance(layers, int) and 1 <= settings.keep_layers <= layers):
        raise UserError(
            f"{where}.keep_layers is {settings.keep_layers}, but the model has {layers or 'an unknown number of'} layers"
            + (f"; give a number from 1 to {layers}" if layers else "")
        )
    require_processors(folder, kind_of(kind), where)
    sizes = _sizes(folder, settings)
    card = _card(folder.path)
    named = folder.config.get("id2label") or {}
    return ModelHeader(
        source=folder.source,
        architecture=(config.get("architectures") or [config.get("model_type", "unknown")])[0],
        model_type=str(config.get("model_type", "unknown")),
        layers=layers or 0,
        hidden_size=_first(config, HIDDEN_KEYS),
        parameters=sum(sizes.values()),
        kept_parameters=sum(size for name, size in sizes.items() if _is_kept(name, settings.keep_layers)),
        max_positions=_first(config, POSITION_KEYS),
        labels=tuple(str(named[key]) for key in sorted(named, key=int)),
        has_tokenizer=has_tokenizer(folder.path),
        license=str(card["license"]) if card.get("license") else None,
        datasets=_strings(card.get("datasets")),
        names=tuple(dict.fromkeys([*folder.lineage(), *_strings(card.get("base_model"))])),
        sha256=sha256_file(folder.weights[0]) if len(folder.weights) == 1 else None,
    )


def require_positions(header: ModelHeader, longest: int | None, where: str, *, written: int = 0) -> None:
    """UserError, led by ``where``, for inputs of more tokens than the model has positions for: ``longest``, of which so many
    are ``written`` behind ``task.max_length`` others."""
    if longest is not None and header.max_positions is not None and 0 < header.max_positions < longest:
        behind, both = (f" and task.answer_tokens is {written}", "both together ") if written else ("", "")
        raise UserError(
            f"{where}: the model has positions for {header.max_positions} tokens, but task.max_length is "
            f"{longest - written}{behind}; give {both}at most {header.max_positions}"
        )


def _first(config: Mapping[str, Any], keys: tuple[str, ...]) -> int | None:
    return next((config[key] for key in keys if isinstance(config.get(key), int)), None)


def _is_kept(name: str, keep: int | None) -> bool:
    layer = LAYER.search(name)
    return keep is None or layer is None or int(layer.group(1)) < keep


def _sizes(folder: ModelFolder, settings: ModelSettings) -> dict[str, int]:
    """Tensor name -> number of its elements."""
    if folder.weights:
        # Whole-number tensors are buffers that older versions stored, such as position_ids.
        return {name: math.prod(shape) for name, (dtype, shape) in folder.tensors().items() if "F" in dtype}
    from huggingface_hub import HfApi

    repository, _, revision = (settings.hub or "").partition("@")
    try:
        metadata = HfApi().get_safetensors_metadata(repository, revision=revision or None)
    except Exception:  # the weights may stand in the bot's conversion (see folder.py), where loading finds them
        return {}
    return {name: math.prod(tensor.shape) for file in metadata.files_metadata.values() for name, tensor in file.tensors.items()}


def _card(folder: Path) -> dict[str, Any]:
    """The YAML block in front of a model card, or nothing where there is no readable one."""
    import yaml

    try:
        text = (folder / "README.md").read_text(encoding="utf-8")
        front = yaml.safe_load(text.split("---", 2)[1]) if text.startswith("---") else None
    except (OSError, UnicodeDecodeError, IndexError, yaml.YAMLError):
        return {}
    return front if isinstance(front, dict) else {}


def _strings(value: Any) -> tuple[str, ...]:
    values = value if isinstance(value, list) else [value] if value else []
    return tuple(str(one) for one in values)
