"""The things that pass between the methods of a stage: what each of the seven questions leaves for the others."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa

from ftft.errors import UserError

if TYPE_CHECKING:
    import torch

    from ftft.data.examples import Examples

ArtefactKind = Literal["weights", "adapter", "predictor"]


@dataclass(frozen=True, repr=False)
class Selection:
    """What ``select`` leaves: which examples are learned from, in a stable order, and by what rule.

    ``ids``: K strings (an id may stand several times only where ``apply`` is "copies"). ``scores``: float64 [K] or
    None. ``weights``: float64 [K], mean 1 where ``apply`` is "weights", else ones. ``rule``: a JSON-like description
    that determines the selection given the dynamics. ``counts``: what a reader wants to know (pool, selected, per class).
    """

    ids: pa.Array
    weights: np.ndarray
    rule: Mapping[str, Any]
    scores: np.ndarray | None = None
    counts: Mapping[str, Any] = field(default_factory=dict)
    dynamics_fingerprint: str | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        """The number of examples and the heart of the rule, on one line; ``rule`` and ``counts`` say the rest."""
        pool = f" from {self.counts['pool']:,} examples" if "pool" in self.counts else ""
        asked = ("score", "parts", "fraction", "count", "balance", "drop_suspects", "compat", "seed")
        said = [f"{name} {self.rule[name]}" for name in asked if self.rule.get(name) not in (None, "none", 0.0)]
        said += ["lowest first"] if self.rule.get("largest") is False else []
        return f"Selection({len(self):,} rows{pool}; {self.rule.get('name', 'no')} rule{': ' * bool(said)}{', '.join(said)})"


@dataclass(frozen=True)
class Choice:
    """What is learned from in one epoch: ``positions`` int64 [K] in the sampler's selection, each once, and what their losses
    are multiplied with (``weights`` float64 [K] above 0; None for ones). The engine divides a step's sum by its number of
    examples whatever these weights are, so that 1 / p for an example kept with probability p leaves the gradient unbiased."""

    positions: np.ndarray
    weights: np.ndarray | None = None


@dataclass
class Loss:
    """What an objective gives: ``total`` (the *sum* of the examples' losses, each times its weight and its number of units;
    the engine divides by the sum of weights times units, ``batch.weights * task.units(batch)``, of the whole accumulated
    batch), ``per_example`` (float32 [B], detached), ``outputs`` (what the task's forward gave), named ``parts`` for the log."""

    total: torch.Tensor
    per_example: torch.Tensor
    outputs: Any
    parts: Mapping[str, float] = field(default_factory=dict)


@dataclass
class Models:
    """The models of a stage by role; ``main`` is trained, others (``teacher``, ``frozen``, ``copilot``) serve it.

    ``frozen`` is there for an objective that needs "frozen_base": the model as it was before ``adapt``, in evaluation mode
    and without gradients."""

    main: torch.nn.Module
    others: dict[str, torch.nn.Module] = field(default_factory=dict)

    @property
    def unwrapped(self) -> torch.nn.Module:
        """The main model without its wrapper for several processes (DDP's)."""
        found: torch.nn.Module = getattr(self.main, "module", self.main)
        return found

    def with_starts(self) -> list[tuple[str, torch.nn.Parameter, torch.Tensor]]:
        """The trainable parameters of the main model by name, each with its value in ``frozen``; one that has no counterpart
        of its name and shape there is left out."""
        starts = dict(self.others["frozen"].named_parameters())
        return [
            (name, parameter, starts[name].detach().to(parameter.device))
            for name, parameter in self.unwrapped.named_parameters()
            if parameter.requires_grad and name in starts and starts[name].shape == parameter.shape
        ]


@dataclass(frozen=True)
class LowRankPair:
    """A weight [m, n] that changes by ``scaling * up @ down``; ``weight`` is its name in the adapted model, ``down`` [r, n]
    and ``up`` [m, r] are trainable parameters of it (A and B of LoRA)."""

    weight: str
    down: torch.nn.Parameter
    up: torch.nn.Parameter
    scaling: float


# Called before the forward passes of every step with its number (from 0), the number of planned steps (an expectation where a
# sampler decides how long the epochs are: the share of the two is the share of the training that is over) and the optimizer.
# May change which parameters are trainable, and the optimizer's state of those that are not any more.
StepHook = Callable[[int, int, "torch.optim.Optimizer"], None]


@dataclass
class Adapted:
    """What ``adapt`` leaves: ``model`` (the same one, or a wrapped one), in which exactly the parameters that may change
    have ``requires_grad``, all that ever will where the set moves during training.

    ``plain_state``: the weights of the model as it was before ``adapt``, by its own names, with what was learned merged in;
    None where ``model`` still is that model. ``pairs``: the low-rank updates, for optimizers that know about them.
    ``before_step``: moves the set of trainable parameters, or what they stand for, during training. All that it needs to go
    on after an interruption lies in the step's number, the model's state and the optimizer's.
    """

    model: torch.nn.Module
    plain_state: Callable[[], dict[str, torch.Tensor]] | None = None
    pairs: tuple[LowRankPair, ...] = ()
    before_step: StepHook | None = None

    def merged(self) -> dict[str, torch.Tensor]:
        """The state of the plain model, by its names, with what was learned merged in."""
        return dict(self.model.state_dict()) if self.plain_state is None else self.plain_state()


@dataclass(frozen=True)
class Trainables:
    """What ``optimize`` works on: the trainable parameters by name, ``pairs`` of them that make low-rank updates, the
    ``model`` they belong to (for its layers and its training mode), and the run's ``seed``, the same in all its processes."""

    named: tuple[tuple[str, torch.nn.Parameter], ...]
    model: torch.nn.Module
    pairs: tuple[LowRankPair, ...] = ()
    seed: int = 0

    @classmethod
    def of(cls, model: torch.nn.Module, pairs: Sequence[LowRankPair] = (), seed: int = 0) -> Trainables:
        """The parameters of ``model`` that have ``requires_grad``; UserError where none has."""
        named = tuple((name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad)
        if not named:
            raise UserError("optimize has nothing to train; `adapt` left no parameter trainable")
        return cls(named, model, tuple(pairs), seed)

    def decay_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """Parameter groups for a torch optimizer: matrices decay; biases, norms and other vectors do not."""
        matrices = [parameter for _, parameter in self.named if parameter.ndim >= 2]
        vectors = [parameter for _, parameter in self.named if parameter.ndim < 2]
        groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
        return [group for group in groups if group["params"]]


@dataclass
class Artefact:
    """What ``combine`` leaves: ``kind`` and the state to save (name -> tensor); ``step`` it was taken from, if one.

    A "predictor" is several models that answer together, and has their states in ``members``, by name, in the place of
    ``state``. They are of the stage's own architecture; the models of the method's ``roles`` are added by whoever saves it.
    """

    kind: ArtefactKind
    state: dict[str, torch.Tensor] = field(default_factory=dict)
    step: int | None = None
    members: dict[str, dict[str, torch.Tensor]] = field(default_factory=dict)


@dataclass(frozen=True)
class Checkpoint:
    """A trained state ``combine`` may use, as plain weights: the step, its validation score (higher is better) or None, a
    loader, and the ``stage`` it is the finished model of (None: a checkpoint of this stage)."""

    step: int
    score: float | None
    load: Callable[[], dict[str, torch.Tensor]]
    stage: str | None = None


@dataclass(frozen=True)
class Created:
    """What ``create`` leaves: M ``examples`` to learn from in place of the N given ones. ``parents``: M strings, the id of the
    example each was made from. ``sources``: M strings, a word for how it came about. ``rule``: a JSON-like description that
    determines them given the examples and the model. ``counts``: what a reader wants to know."""

    examples: Examples
    parents: pa.Array
    sources: pa.Array
    rule: Mapping[str, Any]
    counts: Mapping[str, Any] = field(default_factory=dict)
