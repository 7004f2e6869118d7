"""The layer of a classifier that gives its logits: kept from the checkpoint, put into our labels' order, or drawn anew."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any


def names_of(config: Mapping[str, Any]) -> tuple[str, ...]:
    """The label names of a config.json, in the order of their numbers; generic ones where it names none."""
    named = config.get("id2label") or {0: "LABEL_0", 1: "LABEL_1"}
    return tuple(str(named[key]) for key in sorted(named, key=int))


def label_names_of(config: Any) -> tuple[str, ...]:
    """The label names of a loaded config."""
    return names_of({"id2label": config.id2label})


def set_labels(config: Any, names: tuple[str, ...]) -> None:
    """Write the label names into a config."""
    config.id2label = dict(enumerate(names))
    config.label2id = {name: index for index, name in enumerate(names)}
    config.problem_type = None  # a checkpoint for regression or several labels must not decide our loss
    if hasattr(config, "use_cache"):
        config.use_cache = False  # a classifier reads a text once


def row_order(own: tuple[str, ...], names: tuple[str, ...], *, take_unnamed: bool) -> list[int] | None:
    """Which row of the checkpoint's head is each of our labels', or None where the labels are others."""
    ours, theirs = [one.casefold() for one in names], [one.casefold() for one in own]
    if ours == theirs or (take_unnamed and len(own) == len(names) and theirs == [f"label_{i}" for i in range(len(own))]):
        return list(range(len(names)))
    if sorted(ours) == sorted(theirs) and len(set(ours)) == len(ours):
        return [theirs.index(one) for one in ours]
    return None


def settle_head(model: Any, info: dict[str, Any], labels: int, order: list[int] | None, seed: int) -> str:
    """Keep, reorder or renew the layer that gives the logits; which of them it was ("kept", "reordered", "new")."""
    import torch

    from ftft.modelmap import label_layer

    name, layer = label_layer(model, labels)
    if f"{name}.weight" in new_parameters(info):
        return "new"
    if order is None:
        for parameter in layer.parameters():
            parameter._is_hf_initialized = False  # type: ignore[attr-defined]
        with seeded(seed):
            # The architecture's own way of drawing a new layer, as from_pretrained uses it for a missing one.
            model._init_weights(layer)
        return "new"
    if order == sorted(order):
        return "kept"
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(parameter[order].clone())
    return "reordered"


def has_head(model: Any, info: dict[str, Any]) -> bool:
    """Whether the checkpoint holds the layer that gives the logits, perhaps for another number of labels."""
    from ftft.modelmap import label_layer

    return f"{label_layer(model, model.config.num_labels)[0]}.weight" not in info["missing_keys"]


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw from ``seed`` inside, and leave the global random state untouched (the CUDA ones are not used)."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(seed)
        yield


def new_parameters(info: dict[str, Any]) -> set[str]:
    """The parameters that the checkpoint did not give, by transformers' loading report."""
    return {*info["missing_keys"], *(name for name, *_ in info["mismatched_keys"])}
