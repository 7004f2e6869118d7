"""What the adapters that peft supplies share: wrap by a public configuration, start from given factors, train the head too,
merge to plain weights."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from ftft.errors import UserError, did_you_mean
from ftft.methods.contract import Adapted, LowRankPair
from ftft.modelmap import ModelMap, head_parameters

if TYPE_CHECKING:
    import torch

ADAPTER = "default"  # the name peft gives an only adapter
WRAPPED = "base_model.model."  # where peft keeps the model it wraps
BASE = "base_layer"  # where a wrapped layer keeps the layer it was


def configuration(kind: str, options: Mapping[str, Any]) -> Any:
    """peft's configuration of the type ``kind`` ("lora", "ia3", ...) with these options.

    Raises UserError for an unknown type or option, with the nearest spelling, and for what peft itself refuses.
    """
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    known = {str(getattr(one, "value", one)).lower(): made for one, made in PEFT_TYPE_TO_CONFIG_MAPPING.items()}
    if kind.lower() not in known:
        raise UserError(f'adapt: peft has no adapter of the type "{kind}"{did_you_mean(kind.lower(), sorted(known))}')
    made = known[kind.lower()]
    fields = {field.name for field in dataclasses.fields(made)}
    for name in options:
        if name not in fields:
            raise UserError(f'adapt.options: {made.__name__} has no option "{name}"{did_you_mean(name, sorted(fields))}')
    try:
        return made(**options)
    except (TypeError, ValueError) as error:
        raise UserError(f"adapt.options: {made.__name__} refuses them: {_sentence(error)}") from None


def projections(model: torch.nn.Module, roles: Iterable[str] | None = None) -> list[str]:
    """The module names of the attention and MLP projections of every layer, or of those with these roles ("query", "value",
    "up", ...), as the model map knows them."""
    found = ModelMap.of(model)
    wanted = None if roles is None else set(roles)
    layers = [*found.attention, *found.mlp]
    if wanted is not None:
        there = sorted({role for layer in layers for role in layer})
        for role in wanted:
            if role not in there:
                raise UserError(f'adapt.targets: {type(model).__name__} has no projection "{role}"{did_you_mean(role, there)}')
    return [name for layer in layers for role, name in layer.items() if wanted is None or role in wanted]


def require_rank(model: torch.nn.Module, names: Iterable[str], rank: int, *, times: int = 1) -> None:
    """UserError where a module named has a weight with fewer than ``times * rank`` rows or columns."""
    for name in names:
        least = min(model.get_parameter(f"{name}.weight").shape)
        if times * rank > least:
            most = f"at most {least}" if times == 1 else f"at most 1/{times} of that, {least // times}"
            raise UserError(f"adapt.rank is {rank}, but the narrower side of {name} is {least} wide; give {most}")


def wrap(model: torch.nn.Module, config: Any, initialise: Callable[[Mapping[str, Any]], None] | None = None) -> Adapted:
    """``model`` with peft's adapter around it; the adapter's parameters and the head are trainable, nothing else.

    ``initialise`` is called with LoRA's layers, by the names their weights' modules had in ``model``, and may give them other
    factors than peft did (:func:`start_from`).

    Raises UserError for an adapter that this architecture cannot have, or that cannot be merged into plain weights.
    """
    from peft import get_peft_model
    from peft.tuners.tuners_utils import BaseTuner

    if config.is_prompt_learning:
        raise _unmergeable(config.peft_type.value)
    names, head, dtype = list(model.state_dict()), {name for name, _ in head_parameters(model)}, next(model.parameters()).dtype
    try:
        with warnings.catch_warnings():
            # peft asks transformers for something by an old name; nobody who reads that can do anything about it.
            warnings.filterwarnings("ignore", ".*is_gradient_checkpointing.* is deprecated", FutureWarning)
            wrapped = get_peft_model(model, config)
    except (TypeError, ValueError, NotImplementedError, KeyError, RuntimeError) as error:
        raise UserError(
            f"adapt: peft cannot put {config.peft_type.value} on {type(model).__name__}: {_sentence(error)}"
        ) from None
    if not isinstance(wrapped.base_model, BaseTuner):
        raise _unmergeable(config.peft_type.value)
    if initialise is not None:
        initialise(lora_layers(wrapped))
    for name, parameter in wrapped.named_parameters():
        own = name.removeprefix(WRAPPED)
        if own in head:
            parameter.requires_grad_(True)
        elif own not in names and f".{BASE}." not in own and parameter.is_floating_point():
            parameter.data = parameter.data.to(dtype)  # peft makes adapters in float32, also of a float64 model
    return Adapted(wrapped, plain_state=lambda: plain_state(wrapped, names), pairs=tuple(low_rank_pairs(wrapped)))


def lora_layers(wrapped: torch.nn.Module) -> dict[str, Any]:
    """peft's LoRA layers, by the names their base layers had before the model was wrapped."""
    return {
        name.removeprefix(WRAPPED): module
        for name, module in wrapped.named_modules()
        if ADAPTER in getattr(module, "lora_A", {}) and ADAPTER in getattr(module, "lora_B", {})
    }


def base_weight(layer: Any) -> torch.Tensor:
    """The frozen weight of a LoRA layer as [m, n], outputs by inputs, in at least float32 (GPT-2 keeps it the other way)."""
    import torch

    weight = layer.get_base_layer().weight.detach()
    weight = weight.to(torch.promote_types(weight.dtype, torch.float32))
    return weight.T if layer.fan_in_fan_out else weight


def start_from(layer: Any, down: torch.Tensor, up: torch.Tensor) -> None:
    """Let a LoRA layer start from ``down`` [r, n] and ``up`` [m, r] and still compute what it computed: their scaled product
    is taken out of the frozen weight. It is that of the factors as rounded to the weight's precision, in float32 or finer."""
    import torch

    kept = layer.get_base_layer().weight
    weight = base_weight(layer)
    down, up = (factor.detach().to(kept.device, kept.dtype).contiguous() for factor in (down, up))
    layer.lora_A[ADAPTER].weight.data, layer.lora_B[ADAPTER].weight.data = down, up
    rest = weight - layer.scaling[ADAPTER] * (up.to(weight.dtype) @ down.to(weight.dtype))
    with torch.no_grad():
        kept.copy_(rest.T if layer.fan_in_fan_out else rest)


def require_merge(wrapped: Any, names: Iterable[str]) -> None:
    """UserError where :func:`plain_state` would fail, found out before anything is trained, on one layer of each kind; the
    layers stay as they are."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    state, kind = wrapped.state_dict(), wrapped.peft_config[ADAPTER].peft_type.value
    for name in names:
        if not any(place in state for place in _places(name)):
            raise UserError(
                f"adapt.options: {kind} would keep {name} in another place, out of which it is not merged; leave "
                "modules_to_save and trainable_token_indices out (the head is trained without)"
            )
    first = {type(module): module for module in reversed(list(wrapped.modules())) if isinstance(module, BaseTunerLayer)}
    for layer in first.values():
        before = {name: value.clone() for name, value in layer.state_dict().items()}
        try:
            layer.merge()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that the other layers are not merged
                wrapped.unmerge_adapter()
        except (AttributeError, NotImplementedError, RuntimeError, ValueError) as error:
            raise _unmergeable(kind, f" ({_sentence(error)})") from None
        layer.load_state_dict(before)


def _unmergeable(kind: str, why: str = "") -> UserError:
    instead = "choose an adapter that can, such as lora, vera, ia3 or oft"
    return UserError(f"adapt: peft's {kind} cannot be merged into plain weights{why}; {instead}")


def plain_state(wrapped: Any, names: Iterable[str]) -> dict[str, torch.Tensor]:
    """The weights by the ``names`` of the model before it was wrapped, the adapter merged in; ``wrapped`` stays as it is."""
    before = {name: value.clone() for name, value in wrapped.state_dict().items()}
    wrapped.merge_adapter()
    merged = wrapped.state_dict()
    plain = {name: next(merged[place] for place in _places(name) if place in merged).clone() for name in names}
    wrapped.unmerge_adapter()
    wrapped.load_state_dict(before)  # taking the update out again leaves rounding behind
    return plain


def _places(name: str) -> tuple[str, str]:
    """Where the tensor ``name`` of a model may be after it was wrapped, in its state: within a wrapped layer, or alone."""
    owner, _, last = name.rpartition(".")
    return f"{WRAPPED}{owner}.{BASE}.{last}", WRAPPED + name


def low_rank_pairs(wrapped: torch.nn.Module) -> list[LowRankPair]:
    """The linear layers' updates scaling * B A; none where the adapter is no LoRA, or scales its update by norms (DoRA)."""
    found = []
    for name, module in wrapped.named_modules():
        down, up = getattr(module, "lora_A", {}), getattr(module, "lora_B", {})
        if ADAPTER not in down or ADAPTER not in up or getattr(module, "use_dora", {}).get(ADAPTER, False):
            continue
        if down[ADAPTER].weight.ndim == 2:
            scaling = float(module.scaling[ADAPTER])
            found.append(LowRankPair(f"{name}.{BASE}.weight", down[ADAPTER].weight, up[ADAPTER].weight, scaling))
    return found


def _sentence(error: Exception) -> str:
    return str(error).strip().splitlines()[0].rstrip(".") if str(error).strip() else type(error).__name__
