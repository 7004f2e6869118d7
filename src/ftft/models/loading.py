"""Load a pretrained model as what a task needs: safetensors only, remote code only when asked for, a seeded head.

The one place, with ``saving.py``, that knows the insides of transformers' ``from_pretrained``.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftft.errors import UserError
from ftft.models.folder import ModelFolder, folder_at, open_folder
from ftft.models.folder import resolve as resolve
from ftft.models.heads import (
    has_head,
    label_names_of,
    names_of,
    new_parameters,
    row_order,
    seeded,
    set_labels,
    settle_head,
)
from ftft.models.kinds import ModelKind, kind_of
from ftft.models.processors import first_line, load_processors, tokenizer_of
from ftft.models.quiet import quiet_transformers
from ftft.models.settings import ModelSettings

if TYPE_CHECKING:
    import torch

HUGE = 10**9  # above this a tokenizer's model_max_length means "not known"
ALIGNMENT = 64  # bytes: of all memory that torch takes on a CPU


@dataclass(frozen=True)
class LoadedModel:
    """A model with what reads its inputs (``processor``: a tokenizer, an image processor, or both). ``fingerprint``: a SHA-256
    of all that determines it but the seed. ``description``: JSON-like facts about it (source, architecture, layers,
    parameters, head, weights' hashes).
    """

    model: Any
    processor: Any
    fingerprint: str
    description: dict[str, Any]


def load_model(
    settings: ModelSettings,
    kind: str,
    label_names: Sequence[str],
    *,
    seed: int = 0,
    where: str = "model",
    dtype: torch.dtype | None = None,
    require_head: bool = False,
) -> LoadedModel:
    """The model as one of ``KINDS``, in evaluation mode, on the CPU, float32 unless ``dtype`` says else; as a classifier over
    ``label_names``.

    A classification head in the checkpoint is kept when its labels have these names (in another order: its rows are
    put in ours); else the layer that gives the logits is new, drawn from ``seed`` alone, and whatever else the head
    consists of is taken from the checkpoint where it has it. The global random state is left as it was.

    ``require_head``: for evaluating a finished model: refuse instead of making a new head. Labels without names
    (LABEL_0, ...) then count as ours, in order.

    Raises UserError for a folder that cannot be used, weights that do not fit the config, a missing tokenizer or image
    processor, more ``keep_layers`` than there are layers.
    """
    folder = open_folder(settings, where)
    names = tuple(str(name) for name in label_names)
    return _load(folder, settings, kind_of(kind), names, seed=seed, where=where, dtype=dtype, require_head=require_head)


def load_classifier(settings: ModelSettings, label_names: Sequence[str], **choices: Any) -> LoadedModel:
    """:func:`load_model` for a classifier of texts."""
    return load_model(settings, "sequence_classification", label_names, **choices)


def load_saved(path: Path | str, kind: str = "sequence_classification", *, where: str = "model") -> tuple[Any, Any]:
    """(model, processor) of a finished model in a folder, as it is: a classifier with its own labels and head, UserError if it
    has none."""
    settings = ModelSettings(path=str(path))
    if not Path(path).is_dir():
        raise UserError(f"{where}: the model folder {path} does not exist")
    folder = folder_at(Path(path), settings, where)
    known = kind_of(kind)
    names = names_of(folder.config) if known.labelled else ()
    loaded = _load(folder, settings, known, names, seed=0, where=where, dtype=None, require_head=True)
    return loaded.model, loaded.processor


def load_shapes(
    settings: ModelSettings,
    kind: str,
    label_names: Sequence[str],
    *,
    where: str = "model",
    dtype: torch.dtype | None = None,
    inside: AbstractContextManager[Any],
) -> tuple[Any, Any]:
    """(model, processor) as :func:`load_model` gives them, with new weights that are made ``inside``, where they may be of no
    numbers: no weights file is read, and none of a hub model is downloaded. UserError as there, for what the files show."""
    import transformers
    from transformers.initialization import no_init_weights

    from ftft.modelmap import keep_first_layers

    folder = open_folder(settings, where, weights=False)
    known = kind_of(kind)
    with quiet_transformers():
        config = _config(folder, settings, where)
        if known.labelled:
            set_labels(config, tuple(map(str, label_names)))
        _set_dropout(config, settings.dropout, where)
        processor = load_processors(folder, known, where)
        tokenizer = tokenizer_of(processor)
        with inside:
            try:
                with no_init_weights():  # some draw again and again until numbers are as they want them
                    found = getattr(transformers, known.loader).from_config(
                        config, dtype=dtype or _stored_dtype(folder), trust_remote_code=folder.code
                    )
                found.tie_weights()
            except Exception as error:  # as in loading: architectures without a classifier, missing packages
                raise UserError(
                    f"{where}: the model in {folder.path} cannot be loaded as {known.said}: {first_line(error)}"
                ) from None
            if settings.keep_layers is not None:
                keep_first_layers(found, settings.keep_layers)
            if tokenizer is not None:
                _fit_together(found, tokenizer, where)
    return found.eval(), processor


def _load(
    folder: ModelFolder,
    settings: ModelSettings,
    kind: ModelKind,
    names: tuple[str, ...],
    *,
    seed: int,
    where: str,
    dtype: torch.dtype | None,
    require_head: bool,
) -> LoadedModel:
    from ftft.modelmap import keep_first_layers, towers_of

    folder.tensors()  # says in one sentence that a file is cut short; from_pretrained would say it in ten lines
    hashes = folder.hashes()
    folder.require_saved(hashes, where)
    with quiet_transformers():
        config = _config(folder, settings, where)
        own_names = label_names_of(config)
        if kind.labelled:
            set_labels(config, names)
        changed = _set_dropout(config, settings.dropout, where)
        processor = load_processors(folder, kind, where)
        tokenizer = tokenizer_of(processor)
        model, info = _from_pretrained(folder, config, kind, seed, dtype, where)
        head = _head(folder, model, info, own_names, names, seed, where, require_head) if kind.labelled else "kept"
        layers = len(towers_of(model)[0][1]) if settings.keep_layers is not None else getattr(config, "num_hidden_layers", None)
        if settings.keep_layers is not None:
            keep_first_layers(model, settings.keep_layers)
        if tokenizer is not None:
            _fit_together(model, tokenizer, where)
        _align(model)
    description = {
        "source": folder.source,
        "lineage": list(folder.lineage()),
        "architecture": type(model).__name__,
        "model_type": config.model_type,
        "layers": settings.keep_layers or layers,
        "layers_of_checkpoint": layers,
        "hidden_size": getattr(config, "hidden_size", None),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "labels": list(names),
        "head": head,
        "new_parameters": sorted(new_parameters(info)),
        "unused_parameters": len(info["unexpected_keys"]),
        "dropout_set": sorted(changed),
        "max_length": tokenizer.model_max_length if tokenizer is not None and tokenizer.model_max_length < HUGE else None,
        "weights_sha256": hashes,
    }
    return LoadedModel(model.eval(), processor, folder.fingerprint(hashes, settings, names), description)


def _head(
    folder: ModelFolder,
    model: Any,
    info: dict[str, Any],
    own: tuple[str, ...],
    names: tuple[str, ...],
    seed: int,
    where: str,
    require_head: bool,
) -> str:
    """Settle the classifier's head; UserError where it would be new and must not be."""
    head = settle_head(model, info, len(names), row_order(own, names, take_unnamed=require_head), seed)
    if head == "new" and require_head:
        said = f" (its head is for the {len(own)} labels {', '.join(own)})" if has_head(model, info) else ""
        raise UserError(
            f"{where}: the model in {folder.path} has no classification head for the {len(names)} labels "
            f"{', '.join(names)}{said}; give a model that was fine-tuned for them"
        )
    return head


def _config(folder: ModelFolder, settings: ModelSettings, where: str) -> Any:
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(folder.path, local_files_only=True, trust_remote_code=settings.trust_remote_code)
    except Exception as error:  # unknown model types, wrong values: each config class checks itself in its own way
        raise UserError(f"{where}: config.json in {folder.path} cannot be used: {first_line(error)}") from None


def _set_dropout(config: Any, dropout: float | None, where: str) -> list[str]:
    """Set every dropout probability of the config; the names of those that were set."""
    if dropout is None:
        return []
    keys = [
        key
        for key, value in config.to_dict().items()
        if ("dropout" in key or key.endswith("pdrop")) and isinstance(value, (int, float)) and not isinstance(value, bool)
    ]
    if not keys:
        raise UserError(f"{where}.dropout: the config of {config.model_type} has no dropout probability to set; leave it out")
    for key in keys:
        setattr(config, key, float(dropout))
    return keys


def _from_pretrained(
    folder: ModelFolder, config: Any, kind: ModelKind, seed: int, dtype: torch.dtype | None, where: str
) -> tuple[Any, dict[str, Any]]:
    import transformers

    try:
        with seeded(seed):
            model, info = getattr(transformers, kind.loader).from_pretrained(
                folder.path,
                config=config,
                dtype=dtype or _stored_dtype(folder),
                use_safetensors=True,
                local_files_only=True,
                trust_remote_code=folder.code,
                ignore_mismatched_sizes=True,  # the head may have another number of labels; the rest is checked below
                output_loading_info=True,
            )
    except Exception as error:  # architectures without a classifier, weights of another kind, missing packages
        raise UserError(f"{where}: the model in {folder.path} cannot be loaded as {kind.said}: {first_line(error)}") from None
    _require_backbone(model, info, kind, folder, where)
    return model, info


def _align(model: Any) -> None:
    """Put weights where torch would have put them. Those that were read lie where the file has them, and on some processors a
    product's last digit depends on that: a model would give other numbers after saving and loading."""
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.data_ptr() % ALIGNMENT:
            tensor.data = tensor.data.clone()


def _stored_dtype(folder: ModelFolder) -> torch.dtype:
    """What weights are kept in where nobody says: float32, or float64 of a model that was stored in it."""
    import torch

    return torch.float64 if str(folder.config.get("dtype", "")).endswith("float64") else torch.float32


def _require_backbone(model: Any, info: dict[str, Any], kind: ModelKind, folder: ModelFolder, where: str) -> None:
    """Refuse a checkpoint that leaves part of the backbone at random values; only poolers are commonly left out."""
    from ftft.modelmap import head_parameters

    head = {name for name, _ in head_parameters(model)} if kind.labelled else set()
    random = sorted(name for name in new_parameters(info) if name not in head and "pooler" not in name)
    if random or info["error_msgs"]:
        total = sum(1 for _ in model.named_parameters())
        raise UserError(
            f"{where}: the weights in {folder.path} do not fit its config.json: {len(random)} of {total} parameters are "
            f"missing or of another shape, such as {random[0] if random else info['error_msgs'][0]}"
        )


def _fit_together(model: Any, tokenizer: Any, where: str) -> None:
    """Let tokenizer and model agree: the padding token, the inputs the model takes, the length it has positions for."""
    import inspect

    config = getattr(model.config, "text_config", model.config)
    texts = getattr(model, "text_model", model)  # of a model of two towers the one that reads them
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token_id is None:
            raise UserError(
                f"{where}: the tokenizer has neither a padding nor an end-of-text token; add a pad_token to its config"
            )
        tokenizer.pad_token = tokenizer.eos_token
    if config.pad_token_id != tokenizer.pad_token_id and _first_position(model):
        raise UserError(
            f"{where}: the tokenizer pads with token {tokenizer.pad_token_id}, but the model counts positions around token "
            f"{config.pad_token_id}; they do not belong together"
        )
    # Decoders find the last token of a text by the padding token's id.
    config.pad_token_id = tokenizer.pad_token_id
    if len(tokenizer) > texts.get_input_embeddings().weight.shape[0]:
        raise UserError(
            f"{where}: the tokenizer has {len(tokenizer)} tokens, but the model has embeddings for "
            f"{texts.get_input_embeddings().weight.shape[0]}; they do not belong together"
        )
    accepted = inspect.signature(model.forward).parameters
    tokenizer.model_input_names = [name for name in tokenizer.model_input_names if name in accepted]
    positions = getattr(config, "max_position_embeddings", None)
    if isinstance(positions, int) and positions > 0:
        tokenizer.model_max_length = min(tokenizer.model_max_length, positions - _first_position(model))


def _first_position(model: Any) -> int:
    """How many position embeddings come before the first token's: RoBERTa's begin after its padding position."""
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and getattr(module, "padding_idx", None) is not None:
            return int(module.padding_idx) + 1
    return 0
