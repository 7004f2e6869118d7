"""Open one saved checkpoint of a Trainer, peft or TRL run: safetensors only, local files only, in evaluation mode."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ftft.errors import UserError
from ftft.models.folder import folder_at, read_config, read_safetensors_header
from ftft.models.loading import load_classifier
from ftft.models.processors import load_tokenizer
from ftft.models.quiet import quiet_transformers
from ftft.models.settings import ModelSettings

ADAPTER_CONFIG, ADAPTER = "adapter_config.json", "adapter_model.safetensors"
Kind = Literal["classifier", "language_model"]


@dataclass(frozen=True)
class SavedModel:
    """A loaded checkpoint. ``columns``: for each of the data's labels the column of the logits that is about it.
    ``tokenizer_folder``: where the tokenizer came from."""

    kind: Kind
    model: Any
    tokenizer: Any
    tokenizer_folder: Path
    architecture: str
    columns: tuple[int, ...] = ()


def open_saved(folder: Path, label_names: Sequence[str]) -> SavedModel:
    """The model in ``folder``, whole or a peft adapter on its base model (a local folder).

    Raises UserError where the weights are not safetensors, parts of the model would be random, the labels do not fit,
    or the model is neither a sequence classifier nor a causal language model.
    """
    if (folder / ADAPTER_CONFIG).is_file():
        return _open_adapter(folder, label_names)
    where = folder.name
    config = read_config(folder, where)
    if _kind(config, folder) == "language_model":
        model, tokenizer = _language_model(folder)
        return SavedModel("language_model", model, tokenizer, folder, type(model).__name__)
    loaded = load_classifier(ModelSettings(path=str(folder)), label_names, where=where, require_head=True)
    columns = tuple(range(len(label_names)))  # the loader has put the head's rows into the order of the labels
    return SavedModel("classifier", loaded.model, loaded.processor, folder, loaded.description["architecture"], columns)


def _kind(config: Mapping[str, Any], folder: Path) -> Kind:
    names = [str(name) for name in config.get("architectures") or []]
    if any(name.endswith("ForSequenceClassification") for name in names):
        return "classifier"
    if any(name.endswith(("ForCausalLM", "LMHeadModel")) for name in names):
        return "language_model"
    raise UserError(
        f"the model in {folder} is {names[0] if names else 'of no named architecture'}; dynamics are computed for sequence "
        "classifiers and causal language models"
    )


def _language_model(folder: Path) -> tuple[Any, Any]:
    import torch
    from transformers import AutoModelForCausalLM

    checked = folder_at(folder, ModelSettings(path=str(folder)), folder.name)
    checked.tensors()
    with quiet_transformers():
        tokenizer = load_tokenizer(checked, folder.name)
        try:
            model, info = AutoModelForCausalLM.from_pretrained(
                folder, dtype=torch.float32, use_safetensors=True, local_files_only=True, output_loading_info=True
            )
        except (OSError, ValueError, RuntimeError) as error:
            raise UserError(f"the language model in {folder} cannot be loaded: {str(error).splitlines()[0]}") from None
    if info["missing_keys"] or info["mismatched_keys"]:
        missing = sorted({*info["missing_keys"], *(name for name, *_ in info["mismatched_keys"])})
        raise UserError(f"the weights in {folder} do not fit its config.json: {missing[0]} is missing or of another shape")
    return model.eval(), tokenizer


def _open_adapter(folder: Path, label_names: Sequence[str]) -> SavedModel:
    if not (folder / ADAPTER).is_file():
        raise UserError(
            f"{folder} holds a peft adapter without {ADAPTER}; convert it once, where you trust the file, by loading it with "
            "peft and saving it with save_pretrained(folder)"
        )
    adapter = read_config(folder, folder.name, ADAPTER_CONFIG)
    base = _base_folder(adapter, folder)
    saved = set(read_safetensors_header(folder / ADAPTER))
    if adapter.get("task_type") == "CAUSAL_LM":
        model, tokenizer = _language_model(base)
        return SavedModel("language_model", _with_adapter(model, folder), tokenizer, base, type(model).__name__)
    if adapter.get("task_type") != "SEQ_CLS":
        raise UserError(
            f'{folder} holds an adapter with the task_type {adapter.get("task_type")!r}; it must be "SEQ_CLS" or "CAUSAL_LM"'
        )
    named = read_config(base, base.name).get("id2label") or {}
    own = [str(named[key]) for key in sorted(named, key=int)]
    names = own if len(own) == len(label_names) else list(label_names)
    loaded = load_classifier(ModelSettings(path=str(base)), names, where=folder.name)
    _require_trained_head(loaded.model, loaded.description, saved, len(names), folder)
    return SavedModel(
        "classifier",
        _with_adapter(loaded.model, folder),
        loaded.processor,
        base,
        loaded.description["architecture"],
        _columns(names, label_names),
    )


def _base_folder(adapter: Mapping[str, Any], folder: Path) -> Path:
    name = str(adapter.get("base_model_name_or_path") or "")
    found = [path for path in (Path(name), folder / name) if name and path.is_dir()]
    if not found:
        raise UserError(
            f"the adapter in {folder} belongs to the base model {name!r}, which is not a folder here; write the folder of the "
            f"base model into base_model_name_or_path of its {ADAPTER_CONFIG}"
        )
    return found[0]


def _with_adapter(model: Any, folder: Path) -> Any:
    try:
        from peft import PeftModel
    except ImportError:
        raise UserError(f"{folder} holds a peft adapter, and peft is not installed; pip install 'ftft[peft]'") from None

    try:
        with quiet_transformers():
            return PeftModel.from_pretrained(model, str(folder), is_trainable=False, local_files_only=True).eval()
    except (RuntimeError, ValueError, KeyError, OSError) as error:
        raise UserError(f"the adapter in {folder} does not fit its base model: {str(error).splitlines()[0]}") from None


def _require_trained_head(model: Any, description: Mapping[str, Any], saved: set[str], labels: int, folder: Path) -> None:
    """Whatever the base model lacks must come with the adapter; the run's own random values are known to nobody else."""
    from ftft.modelmap import label_layer

    needed = set(description["new_parameters"])
    if description["head"] == "new":
        needed.add(f"{label_layer(model, labels)[0]}.weight")
    lost = sorted(name for name in needed if not any(key.endswith(f".{name}") for key in saved))
    if lost:
        raise UserError(
            f"neither the adapter in {folder} nor its base model holds {lost[0]}, so the trained model cannot be rebuilt; a "
            "run must name it in the adapter's modules_to_save"
        )


def _columns(own: Sequence[str], names: Sequence[str]) -> tuple[int, ...]:
    """The column of each of ``names`` where both name the same labels, else the order as it is."""
    ours, theirs = [name.casefold() for name in names], [name.casefold() for name in own]
    if sorted(ours) == sorted(theirs) and len(set(ours)) == len(ours):
        return tuple(theirs.index(name) for name in ours)
    return tuple(range(len(names)))
