"""The contract every method lives by: seven questions, one verb each, and the things that pass between them.

A method is one frozen dataclass in one file of one of the seven folders. Its fields are its settings; its verb is
the protocol of its folder, below; state lives in what the verb returns. A method may declare, as class variables:

``needs``     what must be there: "dynamics", "losses", "scoring_model", "calibration", "gradients", "frozen_base", "pairs",
              "blocks", "generation", "validation", "members", "weights", "base_weights", "base_predictions"
``offers``    what it can do: "merge", "save_adapter"
``tasks``     the tasks it serves, or ("*",)
``coupling``  what a per-example loss depends on: "none", "batch", "group" or "history"
``trainable`` "fixed" or "scheduled" (the set of trainable parameters moves during training)
``artefact``  what ``combine`` leaves: "weights", "adapter" or "predictor"
``paper``     the source, for the listing
``library``   who supplies the mechanism, where it is not ours: "peft", "torch"
``exceptions`` what of the contract suite the method does not keep, and why: {"identity": "the factors are random"}
``example``   settings it is tried with, where its defaults alone leave something to choose: {"fraction": 0.33}

All are literals, so that the listing and the recipe's validation read them without importing the file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

import numpy as np
import pyarrow as pa

from ftft.errors import UserError
from ftft.methods.questions import QUESTIONS as QUESTIONS
from ftft.tasks.contract import Batch as Batch

if TYPE_CHECKING:
    import torch

    from ftft.data.examples import EvaluationSet, Examples
    from ftft.dynamics.table import Dynamics

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


class Calibration(Protocol):
    """The rows a stage learns from, for adapters that look at data before they change the model; what it costs is counted."""

    def batches(self, count: int, size: int) -> Iterator[Batch]:
        """``count`` batches of ``size`` examples in a seeded order, beginning anew where the examples end."""
        ...

    def loss(self, model: torch.nn.Module, batch: Batch) -> torch.Tensor:
        """The task's mean loss of the batch, a scalar with gradient, under the model as it is (evaluation mode or not)."""
        ...

    def forward(self, model: torch.nn.Module, batch: Batch) -> None:
        """One forward pass without gradients, for hooks that look at activations."""
        ...


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
    """What ``combine`` leaves: ``kind`` and the state to save (name -> tensor); ``step`` it was taken from, if one."""

    kind: ArtefactKind
    state: dict[str, torch.Tensor]
    step: int | None = None


@dataclass(frozen=True)
class Checkpoint:
    """A trained state ``combine`` may use, as plain weights: the step, its validation score (higher is better) or None, a
    loader, and the ``stage`` it is the finished model of (None: a checkpoint of this stage)."""

    step: int
    score: float | None
    load: Callable[[], dict[str, torch.Tensor]]
    stage: str | None = None


class Validation(Protocol):
    """The validation sets that steer a stage, for weights that ``combine`` puts together; what it costs is counted."""

    def score(self, state: Mapping[str, torch.Tensor]) -> float:
        """How good plain weights are: higher is better, whatever the metric."""
        ...

    def batches(self, size: int, *, seed: int) -> Iterator[Batch]:
        """All examples once, in batches of at most ``size`` in a seeded order."""
        ...

    def outputs(self, state: Mapping[str, torch.Tensor], batch: Batch) -> Any:
        """The task's outputs under these weights, in evaluation mode, with gradients to ``state``'s tensors."""
        ...

    def loss(self, outputs: Any, batch: Batch) -> torch.Tensor:
        """The task's mean loss of a batch."""
        ...


@runtime_checkable
class Creator(Protocol):
    """create: where do examples come from?"""

    def create(self, examples: Examples, generators: Mapping[str, Any]) -> Examples: ...


@runtime_checkable
class Stateful(Protocol):
    """What keeps something from one batch to the next, as a tree of tensors and plain values."""

    def state(self) -> Any: ...

    def load_state(self, state: Any) -> None: ...


@runtime_checkable
class Sampler(Stateful, Protocol):
    """Chooses while the model trains, anew for every epoch. ``selection``: the examples it chooses among, each once.

    It is asked before every epoch and shown the losses of every step; with several processes all of them hold one, and show
    it the same. Its state is part of every checkpoint; random numbers come from a generator seeded by the epoch's number."""

    selection: Selection

    def choose(self, epoch: int, progress: float) -> Choice:
        """What epoch number ``epoch`` (from 0) is made of; ``progress``: the share of the training that is over, 0 to 1."""
        ...

    def observe(self, positions: np.ndarray, losses: np.ndarray) -> None:
        """The ``losses`` (float64 [B], without weights) of a step's examples at ``positions`` (int64 [B]), under the weights
        and with the dropout that the step computed with."""
        ...


@runtime_checkable
class Selector(Protocol):
    """select: which examples does the model learn from? ``dynamics`` is None where the method does not need them. A method
    that chooses while training needs "losses" and gives a :class:`Sampler`."""

    def select(self, examples: Examples, dynamics: Dynamics | None, *, seed: int) -> Selection | Sampler: ...


class ScoringModel(Protocol):
    """What a selector looks at the data with: the model that the recipe names in ``use_model_of`` (a finished stage's), or else
    the stage's own before training. It is loaded when it is asked something, and what that costs is counted."""

    def embed(self, examples: Examples) -> np.ndarray:
        """The mean over its tokens of the last hidden states of every example, float32 [N, H]."""
        ...

    def target(self, name: str) -> Examples:
        """The inputs of an evaluation set with split validation, to select towards; UserError for any other. A method names
        it in its setting ``target``, by which the stage's key and the result know of it."""
        ...


@runtime_checkable
class ScoringSelector(Protocol):
    """select, for a method that needs "scoring_model"."""

    def select(
        self, examples: Examples, dynamics: Dynamics | None, *, seed: int, scoring: ScoringModel
    ) -> Selection | Sampler: ...


@runtime_checkable
class Adapter(Protocol):
    """adapt: which parameters may change, and in what form? ``calibration`` is there for a method that needs it."""

    def adapt(self, model: torch.nn.Module, calibration: Calibration | None) -> Adapted: ...


@runtime_checkable
class Objective(Protocol):
    """objective: what is minimised? ``start`` gives the function of one micro-batch. A function that keeps
    something from one batch to the next is :class:`Stateful` (each process has its own)."""

    def start(self, models: Models, task: Any) -> Callable[[Batch], Loss]: ...


@runtime_checkable
class OptimizerMethod(Protocol):
    """optimize: how is each step taken? ``start`` gives a torch optimizer over the trainable parameters; its state dict holds
    all it needs to go on after an interruption.

    The engine computes the loss and its gradient, clips, and calls ``step()``. An optimizer whose class has
    ``needs_closure = True`` gets ``step(closure)`` instead: every call of the closure gives the loss (a float) under the
    weights as they are, of the same examples and with the same random numbers, and leaves the clipped gradient unless it is
    called under ``torch.no_grad()``. An optimizer may have ``before_step``, a :data:`StepHook`."""

    learning_rate: float

    def start(self, trainables: Trainables) -> torch.optim.Optimizer: ...


@runtime_checkable
class Combiner(Protocol):
    """combine: what comes out at the end? ``needs_best`` asks the engine to keep the checkpoint with the best score.

    ``base`` loads the weights before training. ``checkpoints``: this stage's, then the finished models of the stages that the
    recipe names in ``use_models_of``, for a method that needs "members". ``validation`` is there for a method that needs it."""

    needs_best: bool

    def combine(
        self,
        base: Callable[[], dict[str, torch.Tensor]],
        checkpoints: Sequence[Checkpoint],
        validation: Validation | None,
    ) -> Artefact: ...


@runtime_checkable
class Evaluator(Protocol):
    """evaluate: how good on one set? ``probabilities``: float64 [N, C] over the set's own classes (merged where it merges)."""

    def evaluate(
        self, evaluation_set: EvaluationSet, probabilities: np.ndarray, *, seed: int, context: Mapping[str, Any]
    ) -> Mapping[str, Any]: ...


class Measured(Protocol):
    """A finished model as an evaluator sees it that looks at more than predictions on one set. A model is loaded when it is
    asked for; what a method may ask for is what it needs, and what that cost is counted."""

    @property
    def sets(self) -> Mapping[str, EvaluationSet]:
        """The recipe's evaluation sets."""
        ...

    def model(self) -> torch.nn.Module:
        """The finished model in plain weights, in evaluation mode on the CPU ("weights")."""
        ...

    def base(self) -> torch.nn.Module:
        """The model before training, likewise; what its checkpoint lacked is drawn as it was for training ("base_weights")."""
        ...

    def probabilities(self, name: str) -> np.ndarray:
        """The finished model's on a set, float64 [N, K] over the set's own classes."""
        ...

    def base_probabilities(self, name: str) -> np.ndarray:
        """Those of the model before training, whose checkpoint brought its head ("base_predictions")."""
        ...


@runtime_checkable
class ModelEvaluator(Protocol):
    """evaluate, for a method that needs "weights", "base_weights" or "base_predictions": what became of the model as a whole?

    It gives its figures as JSON-like values, and under ``sentence`` what they say, in one sentence without a full stop. It
    stands beside the evaluator of predictions in the recipe's list."""

    def evaluate(self, measured: Measured, *, seed: int) -> Mapping[str, Any]: ...


PROTOCOLS: dict[str, type] = {
    "create": Creator,
    "select": Selector,
    "adapt": Adapter,
    "objective": Objective,
    "optimize": OptimizerMethod,
    "combine": Combiner,
    "evaluate": Evaluator,
}
