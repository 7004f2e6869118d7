"""The contract every method lives by: seven questions, one verb each, and the things that pass between them.

A method is one frozen dataclass in one file of one of the seven folders. Its fields are its settings; its verb is
the protocol of its folder, below; state lives in what the verb returns. A method may declare, as class variables:

``needs``     what must be there: "dynamics", "losses", "scoring_model", "calibration", "gradients", "frozen_base",
              "own_parameters" (that the model's own weights learn, and no others in their place), "pairs", "blocks", "closure",
              "generation", "validation", "members", "weights", "base_weights", "base_predictions"
``roles``     the pretrained models it needs beside the stage's own, as the recipe's ``other_models`` names them
``offers``    what it can do: "merge", "save_adapter", "members" (it takes other stages' models where the recipe names some)
``tasks``     the tasks it serves, or ("*",)
``sharded``   whether it works while every process holds a shard of the weights only (``train.sharding: fsdp2``); what touches
              the weights in training (adapt, objective, optimize, select with "losses") and does not say so is refused there
``coupling``  what a per-example loss depends on: "none", "batch", "group" or "history"
``trainable`` "fixed" or "scheduled" (the set of trainable parameters moves during training)
``artefact``  what ``combine`` leaves: "weights", "adapter" or "predictor"
``searched``  what a search varies where the recipe does not say: {"objective.hinge": {"low": 1e-4, "high": 10.0}}
``paper``     the source, for the listing
``library``   who supplies the mechanism, where it is not ours: "peft", "torch"
``exceptions`` what of the contract suite the method does not keep, and why: {"identity": "the factors are random"}
``example``   settings it is tried with, where its defaults alone leave something to choose: {"fraction": 0.33}

All are literals, so that the listing and the recipe's validation read them without importing the file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from ftft.methods.questions import QUESTIONS as QUESTIONS
from ftft.methods.values import Adapted as Adapted
from ftft.methods.values import Artefact as Artefact
from ftft.methods.values import ArtefactKind as ArtefactKind
from ftft.methods.values import Checkpoint as Checkpoint
from ftft.methods.values import Choice as Choice
from ftft.methods.values import Created as Created
from ftft.methods.values import Loss as Loss
from ftft.methods.values import LowRankPair as LowRankPair
from ftft.methods.values import Models as Models
from ftft.methods.values import Selection as Selection
from ftft.methods.values import StepHook as StepHook
from ftft.methods.values import Trainables as Trainables
from ftft.tasks.contract import Batch as Batch

if TYPE_CHECKING:
    import torch

    from ftft.data.examples import EvaluationSet, Examples
    from ftft.dynamics.table import Dynamics


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


class Writer(Protocol):
    """A model that writes: the one that the recipe names in ``use_model_of`` (a finished stage's), or else the stage's own
    before training. It is loaded when it is first asked, and what that costs is counted."""

    def write(self, examples: Examples, most: int) -> list[str | None]:
        """What the model greedily answers to every example, whose own last answer it does not see; None where that has not
        ended after ``most`` tokens, or does not fit into the task's length."""
        ...


@runtime_checkable
class Creator(Protocol):
    """create: where do examples come from? It needs "generation"."""

    def create(self, examples: Examples, writer: Writer) -> Created: ...


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

    def predictions(self, examples: Examples) -> np.ndarray:
        """What the task keeps of every example for evaluation, float32 [N, K]: the probabilities of the classes, or the columns
        that the task names (of a language model :data:`ftft.tasks.sequences.PREDICTIONS`)."""
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
    something from one batch to the next is :class:`Stateful` (each process has its own); one that changes with the steps has
    ``before_step``, a :data:`StepHook`. Random numbers that ``start`` draws are the same in all processes; those that the
    function draws are each process' own."""

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
class PredictorCombiner(Combiner, Protocol):
    """combine, for a method whose artefact is a "predictor": what comes out is no set of weights but several models and a rule
    for what they say together, at every example or at every token that is decoded."""

    def predictor(self, models: Mapping[str, torch.nn.Module]) -> torch.nn.Module:
        """One module that the task's forward takes like one of them (a causal language model: with keys and values, so that it
        writes). ``models``: the artefact's members and those of ``roles``, by name, in evaluation mode, all of one vocabulary
        or of the same classes. Equal models say together what each of them says."""
        ...


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
