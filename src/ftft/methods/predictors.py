"""Predictors as folders: several models that answer together, saved side by side, and loaded as one.

predictor.json      the method of `combine` with its settings, the kind of model, and the models' names; written last
<name>/             each of the models, as ``from_pretrained`` loads it alone
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftft.errors import UserError
from ftft.files import read_json, write_json
from ftft.methods import registry
from ftft.models.folder import read_config
from ftft.models.kinds import KINDS
from ftft.models.loading import load_saved
from ftft.models.processors import tokenizer_of
from ftft.models.saving import save_model
from ftft.models.settings import ModelSettings

if TYPE_CHECKING:
    import torch

PREDICTOR_FILE = "predictor.json"
VERSION = 1


def is_predictor(folder: Path | str) -> bool:
    """Whether a folder holds a predictor rather than one model."""
    return (Path(folder) / PREDICTOR_FILE).is_file()


def save_predictor(
    folder: Path,
    section: Mapping[str, Any],
    kind: str,
    models: Mapping[str, Callable[[], torch.nn.Module]],
    processor: Any,
    *,
    metadata: Mapping[str, Any],
) -> int:
    """Save the ``models``, one after the other, so that only one need be in memory, and what combines them: ``section`` of the
    recipe. Gives the number of their parameters. Raises UserError as :func:`ftft.models.saving.save_model` does."""
    parameters = 0
    for name, load in models.items():
        model = load()
        parameters += sum(one.numel() for one in model.parameters())
        save_model(folder / name, model, processor, metadata=metadata)
    content = {"rule": dict(section), "model": kind, "models": list(models)}
    write_json(folder / PREDICTOR_FILE, content, kind="predictor", version=VERSION)
    return parameters


def load_finished(folder: Path | str, kind: str, *, where: str = "model") -> tuple[torch.nn.Module, Any]:
    """(model, processor) of what a stage left in a folder: one model, or a predictor as one module, in evaluation mode.

    Raises UserError where it is missing or damaged, of another kind, or its models have different vocabularies.
    """
    if not is_predictor(folder):
        return load_saved(folder, kind, where=where)
    content = read_json(Path(folder) / PREDICTOR_FILE, kind="predictor", version=VERSION)
    if content["model"] != kind:
        raise UserError(f"{where}: the predictor in {folder} is made of models of the kind {content['model']}, not {kind}")
    loaded = {name: load_saved(Path(folder) / name, kind, where=where) for name in content["models"]}
    require_one_vocabulary({name: processor for name, (_, processor) in loaded.items()}, where)
    method = registry.build("combine", content["rule"], where)
    predictor = method.predictor({name: model for name, (model, _) in loaded.items()})
    return predictor.eval(), next(iter(loaded.values()))[1]


def predictor_models(folder: Path | str) -> list[ModelSettings]:
    """Where the models of a predictor are."""
    content = read_json(Path(folder) / PREDICTOR_FILE, kind="predictor", version=VERSION)
    return [ModelSettings(path=str(Path(folder) / name)) for name in content["models"]]


def load(folder: Path | str) -> tuple[torch.nn.Module, Any]:
    """(model, tokenizer or other processor) of a model that a run left, whatever it is: one model, as ``from_pretrained`` loads
    it, or several that answer together as one module. In evaluation mode, on the CPU.

    Raises UserError where the folder is missing or damaged, or no task of ours has such a model.
    """
    if is_predictor(folder):
        kind = str(read_json(Path(folder) / PREDICTOR_FILE, kind="predictor", version=VERSION)["model"])
        return load_finished(folder, kind)
    return load_saved(folder, _kind_of(read_config(Path(folder), "model")))


def _kind_of(config: Mapping[str, Any]) -> str:
    """The kind of a model by the class that its config names."""
    named = str((config.get("architectures") or ["none"])[0])
    if named.endswith("LMHeadModel"):  # as GPT-2 calls it
        return "causal_language_model"
    for name, kind in KINDS.items():
        ending = kind.loader.removeprefix("AutoModel")  # ForCausalLM; nothing where the bare model is loaded
        if ending and named.endswith(ending):
            return name
    if named.endswith("Model"):
        return next(name for name, kind in KINDS.items() if kind.loader == "AutoModel")
    raise UserError(f"model: there is no task here for a model of the class {named}")


def require_one_vocabulary(processors: Mapping[str, Any], where: str) -> None:
    """UserError where two tokenizers give a token different numbers: what one model says of token 7 is then about another
    token than what the other says. Processors without a tokenizer are passed over."""
    found = {name: tokenizer_of(processor) for name, processor in processors.items()}
    known = {name: tokenizer.get_vocab() for name, tokenizer in found.items() if tokenizer is not None}
    first = next(iter(known), None)
    for name, vocabulary in known.items():
        assert first is not None
        if vocabulary == known[first]:
            continue
        differing = sorted(dict(vocabulary.items() ^ known[first].items()))
        raise UserError(
            f"{where}: the models {first} and {name} have different tokenizers ({len(known[first]):,} and {len(vocabulary):,} "
            f"tokens; {differing[0]!r} is not the same in both), and what they say of a token cannot be put together; use "
            "models of one family"
        )
