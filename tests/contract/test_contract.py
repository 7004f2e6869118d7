"""What every method keeps, whoever wrote it: found like the registry finds them, each tried on a tiny model in seconds.

A method that cannot keep one of these declares it with a reason (``exceptions: ClassVar[dict[str, str]]``), under the name
in ``EXCEPTIONS``.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from contract_tasks import EXAMPLES, OF_IMAGES, TRIED, sentences
from contract_trial import BATCH, Stopped, Trial

from ftft.data.examples import EvaluationSet
from ftft.data.hashing import fingerprint_examples
from ftft.dynamics.table import Dynamics
from ftft.errors import UserError
from ftft.methods import registry
from ftft.methods.contract import PROTOCOLS, Artefact, Checkpoint, Choice, Sampler
from ftft.methods.header import DECLARATIONS, MethodHeader
from ftft.methods.questions import OF_MODELS
from ftft.tasks.causal_language_modelling import CausalLanguageModelling
from ftft.tasks.contract import coupling_of
from ftft.tasks.pixels import as_model
from ftft.tasks.text_classification import TextClassification

EXCEPTIONS = ("identity", "micro_batches", "learns", "merge", "records")
METHODS = registry.list_methods()
SERVING = [one for one in METHODS if any(one.serves(task) for task in TRIED)]
SAMPLERS = [one for one in SERVING if one.question == "select" and "losses" in one.needs]
TRAINED = [one for one in SERVING if one.question in ("adapt", "objective", "optimize")] + SAMPLERS
RATES = {"optimize": None, "adapt": 0.05, "objective": 0.05, "select": 0.05}  # of plain SGD beside another method


def named(headers: list[MethodHeader]) -> Any:
    return pytest.mark.parametrize("header", headers, ids=lambda one: f"{one.question}.{one.name}")


def kind(header: MethodHeader) -> str:
    """The task that a method is tried on."""
    return next(task for task in TRIED if header.serves(task))


def section(header: MethodHeader) -> dict[str, Any]:
    return {"name": header.name, **header.example}


def planned(header: MethodHeader, steps: int) -> int:
    """Steps of a trial: a sampler shows what it does after its first epoch of 6 steps."""
    return steps + 12 * (header in SAMPLERS)


def everywhere(headers: list[MethodHeader], without: str = "") -> Any:
    """The methods, but for those that declare with a reason that they do not keep ``without`` of the contract, each on the task
    it is tried on, and on every task of images that it serves.

    What meets the model's layers and the batches of the task could differ there, and is tried. What sees neither is not tried
    again: headers, recipes, what chooses by ids, losses and dynamics, what measures predictions, an optimizer's rate of 0.
    Nor is the same seed twice, which a resumed training that ends as the straight one shows, nor whether an optimizer finds
    the way with the two towers, which takes some of them more steps than a trial has."""

    def holds(one: MethodHeader, task: str) -> bool:
        if without == "micro_batches":
            return coupling_of(TRIED[task].task) == "none"
        return (without, one.question, task) != ("learns", "optimize", "image_text")

    cases = [
        pytest.param(one, task, id=f"{one.question}.{one.name}" + f"-{task}" * (task != kind(one)))
        for one in headers
        if without not in one.exceptions
        for task in dict.fromkeys([kind(one), *([] if one in SAMPLERS else filter(one.serves, OF_IMAGES))])
        if holds(one, task)
    ]
    return pytest.mark.parametrize(("header", "task"), cases)


@pytest.fixture
def trial(tiny_model: Callable[..., Any], tiny_tokenizer: Any, request: pytest.FixtureRequest) -> Callable[..., Trial]:
    def make(header: MethodHeader, task: str | None = None, **changes: Any) -> Trial:
        parts, task = {header.question: section(header)}, task or kind(header)
        if "pairs" in header.needs:
            parts["adapt"] = {"name": "lora"}
        if task in OF_IMAGES:
            changes["image_processor"] = request.getfixturevalue("tiny_image_processor")
        return Trial(tiny_model, tiny_tokenizer, parts, RATES.get(header.question), kind=task, **changes)

    return make


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


# -- every method ----------------------------------------------------------------------------------------------------


@named(METHODS)
def test_the_header_says_what_the_class_does(header: MethodHeader) -> None:
    method = registry.build(header.question, section(header), header.question)
    assert isinstance(method, PROTOCOLS[header.question])
    for name in DECLARATIONS:
        if hasattr(method, name):
            declared, read = getattr(method, name), getattr(header, name)
            assert read == (tuple(declared) if name in ("needs", "roles", "offers", "tasks") else declared)
    assert {one.name: one.default for one in header.settings} | dict(header.example) == dataclasses.asdict(method)
    assert header.summary.endswith(".") and all(one.help for one in header.settings)
    assert set(header.exceptions) <= set(EXCEPTIONS) and all(header.exceptions.values())


@named(METHODS)
def test_a_recipe_holds_the_method_and_gives_it_back(header: MethodHeader) -> None:
    checked = registry.validate_section(header.question, section(header), header.question)
    written = yaml.safe_dump(recipe_value(checked))
    again = registry.validate_section(header.question, yaml.safe_load(written), header.question)
    assert registry.build(header.question, again, "here") == registry.build(header.question, section(header), "here")


def recipe_value(value: Any) -> Any:
    """As YAML has it: lists for tuples."""
    if isinstance(value, dict):
        return {key: recipe_value(inner) for key, inner in value.items()}
    return [recipe_value(inner) for inner in value] if isinstance(value, (list, tuple)) else value


# -- methods that train ----------------------------------------------------------------------------------------------


@everywhere([one for one in TRAINED if one.question == "adapt"], without="identity")
def test_the_adapted_model_says_what_the_model_said(header: MethodHeader, task: str, trial: Callable[..., Trial]) -> None:
    tried = trial(header, task)
    expected = tried.logits(tried.model())
    adapted = tried.assembled(tried.model()).adapted
    torch.testing.assert_close(tried.logits(adapted.model), expected, rtol=0, atol=1e-10)


@everywhere(TRAINED)
def test_only_what_is_declared_trainable_changes(header: MethodHeader, task: str, trial: Callable[..., Trial]) -> None:
    trained = trial(header, task).train(3)
    trainable = {
        name
        for name, parameter in trained.assembled.adapted.model.named_parameters()
        if any(parameter is one for group in trained.assembled.optimizer.param_groups for one in group["params"])
    }
    changed = {name for name, value in trained.state.items() if not torch.equal(value, trained.at_start[name])}
    assert changed and changed <= trainable


@everywhere(TRAINED, without="learns")
def test_the_right_classes_become_more_probable(header: MethodHeader, task: str, trial: Callable[..., Trial]) -> None:
    """Over all examples, at one of three learning rates: which one suits is not the contract's business."""
    tried = trial(header, task)
    if header.question != "optimize":
        tried.parts["optimize"] = "adamw"
    before = tried.confidence(tried.model())
    after = []
    for tried.rate in (1e-2, 1e-3, 1e-1):
        after.append(tried.confidence(tried.train(36).assembled.adapted.model))
        if after[-1] > before + 0.02:
            return
    pytest.fail(f"{before} before, {after} after")


@everywhere([one for one in TRAINED if one.question == "adapt"], without="merge")
def test_merged_weights_say_what_the_adapted_model_says(header: MethodHeader, task: str, trial: Callable[..., Trial]) -> None:
    tried = trial(header, task)
    trained = tried.train(4)
    merged, plain = trained.assembled.adapted.merged(), tried.model()
    assert {name: value.shape for name, value in merged.items()} == {k: v.shape for k, v in plain.state_dict().items()}
    plain.load_state_dict(merged)
    expected = tried.logits(trained.assembled.adapted.model)
    torch.testing.assert_close(tried.logits(plain), expected, rtol=0, atol=1e-10)
    assert not torch.allclose(expected, tried.logits(tried.model()), rtol=0, atol=1e-6), "nothing was learned to merge"


@everywhere(TRAINED)
def test_killed_and_resumed_equals_straight(
    header: MethodHeader, task: str, trial: Callable[..., Trial], tmp_path: Path
) -> None:
    tried = trial(header, task, dropout=0.2, dtype=torch.float32)
    steps = planned(header, 9)
    straight = tried.train(steps)
    for stop_after in (3, 7):
        with pytest.raises(Stopped):
            tried.train(steps, folder=tmp_path, stop_after=stop_after)
    resumed = tried.train(steps, folder=tmp_path)
    assert resumed.losses == straight.losses
    assert_same(resumed.state, straight.state)


@named(TRAINED)
def test_the_same_seed_twice_is_the_same(header: MethodHeader, trial: Callable[..., Trial]) -> None:
    tried = trial(header, dropout=0.2, dtype=torch.float32)
    one, other = (tried.train(planned(header, 4)) for _ in range(2))
    assert one.losses == other.losses
    assert_same(one.state, other.state)


@everywhere([one for one in TRAINED if one.coupling == "none"], without="micro_batches")
def test_one_batch_equals_its_micro_batches(header: MethodHeader, task: str, trial: Callable[..., Trial]) -> None:
    tried = trial(header, task)
    weights = np.linspace(0.5, 1.5, EXAMPLES)
    whole, parts = (tried.train(planned(header, 4), micro=micro, weights=weights) for micro in (BATCH, 1))
    np.testing.assert_allclose(whole.losses, parts.losses, rtol=0, atol=1e-10)
    for name, value in whole.state.items():
        torch.testing.assert_close(value, parts.state[name], rtol=0, atol=1e-9)


@everywhere(TRAINED)
def test_its_cost_is_reported(header: MethodHeader, task: str, trial: Callable[..., Trial]) -> None:
    trained = trial(header, task).train(2)
    books = trained.training.ledger.effective
    assert books["training"].flops > 0 and books["training"].steps == 2 and books["training"].examples == 2 * BATCH
    looked = books.get("calibration")
    assert (looked is not None and looked.flops > 0) == ("calibration" in header.needs)


@everywhere([one for one in TRAINED if one.question == "objective"])
def test_an_objective_gives_each_examples_loss(header: MethodHeader, task: str, trial: Callable[..., Trial]) -> None:
    tried = trial(header, task)
    assembled = tried.assembled(tried.model())
    batch = tried.task.collate(tried.data(), np.arange(BATCH))
    loss = tried.method("objective").start(assembled.models, tried.task)(batch)
    assert loss.per_example.shape == (BATCH,) and loss.per_example.dtype == torch.float32 and not loss.per_example.requires_grad
    assert loss.total.requires_grad and torch.isfinite(loss.total) and len(loss.outputs) == BATCH


@named([one for one in TRAINED if one.question == "optimize"])
def test_at_a_learning_rate_of_0_nothing_moves(header: MethodHeader, trial: Callable[..., Trial]) -> None:
    tried = trial(header)
    model = tried.model()
    assembled = tried.assembled(model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for group in assembled.optimizer.param_groups:
        group["lr"] = 0.0
    task, data = tried.task, tried.data()
    loss_of = tried.method("objective").start(assembled.models, task)

    def closure() -> float:
        loss = loss_of(task.collate(data, np.arange(BATCH)))
        if torch.is_grad_enabled():
            assembled.optimizer.zero_grad()
            (loss.total / BATCH).backward()
        return float(loss.total.detach()) / BATCH

    for step in range(2):
        for hook in assembled.before_step:
            hook(step, 2, assembled.optimizer)
        if getattr(assembled.optimizer, "needs_closure", False):
            assembled.optimizer.step(closure)  # type: ignore[arg-type]
        else:
            closure()
            assembled.optimizer.step()
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=1e-12)


# -- methods that choose, combine and measure ---------------------------------------------------------------------------


def of(question: str) -> list[MethodHeader]:
    return [one for one in SERVING if one.question == question]


@named([one for one in of("select") if one not in SAMPLERS])
def test_a_selection_is_of_the_pool_and_the_same_every_time(header: MethodHeader) -> None:
    method = registry.build("select", section(header), "select")
    pool, dynamics = TRIED[kind(header)].examples(), some_dynamics()
    given = {"scoring": _Embedding()} if "scoring_model" in header.needs else {}
    chosen, again = (method.select(pool, dynamics, seed=3, **given) for _ in range(2))
    assert 0 < len(chosen) <= len(pool) and chosen.ids.equals(again.ids) and np.array_equal(chosen.weights, again.weights)
    assert set(chosen.ids.to_pylist()) <= set(pool.ids.to_pylist())
    assert chosen.weights.shape == (len(chosen),) and float(chosen.weights.mean()) == pytest.approx(1.0)
    assert chosen.counts["pool"] == len(pool) and json.loads(json.dumps(dict(chosen.rule)))["name"] == header.name
    backwards = np.arange(len(pool))[::-1]
    reordered = method.select(pool.take(backwards), dynamics, seed=3, **given)
    assert sorted(reordered.ids.to_pylist()) == sorted(chosen.ids.to_pylist()), "the order of the rows is no reason"


@named(of("create"))
def test_what_is_made_has_parents_and_is_the_same_every_time(header: MethodHeader) -> None:
    """From the same answers the same examples, each with an id of its own and the id of a parent; their rule can be written."""
    method, pool = registry.build("create", section(header), "create"), TRIED[kind(header)].examples()
    created, again = (method.create(pool, _Writing()) for _ in range(2))
    examples, parents = created.examples, created.parents.to_pylist()
    assert examples.ids.equals(again.examples.ids) and examples.fingerprint == again.examples.fingerprint
    assert len(examples) == len(parents) == len(created.sources) > 0 and set(parents) <= set(pool.ids.to_pylist())
    assert len(set(examples.ids.to_pylist())) == len(examples) and examples.inputs.keys() == pool.inputs.keys()
    found = fingerprint_examples(examples.ids, examples.inputs, examples.labels, examples.label_names)
    assert found == examples.fingerprint, "a fingerprint is of what the examples say"
    assert json.loads(json.dumps([dict(created.rule), dict(created.counts)]))[0]["name"] == header.name


@named(SAMPLERS)
def test_a_sampler_chooses_among_the_pool_by_what_it_saw(header: MethodHeader) -> None:
    """In every epoch some of the pool, each once; the same for the same losses, out of a stored state too, whatever the order
    of the rows."""
    method, pool = registry.build("select", section(header), "select"), sentences()
    one, again = (method.select(pool, None, seed=3) for _ in range(2))
    reordered = method.select(pool.take(np.arange(EXAMPLES)[::-1]), None, seed=3)
    assert isinstance(one, Sampler) and one.selection.ids.equals(again.selection.ids)
    assert one.selection.ids.equals(reordered.selection.ids), "the order of the rows is no reason"
    assert len(set(one.selection.ids.to_pylist()) & set(pool.ids.to_pylist())) == len(one.selection)
    assert one.selection.counts["pool"] == EXAMPLES and json.loads(json.dumps(dict(one.selection.rule)))["name"] == header.name
    assert np.all(one.selection.weights == 1.0)
    losses, chosen = np.random.default_rng(0), []
    for epoch in range(6):
        choices = [sampler.choose(epoch, epoch / 6) for sampler in (one, again, reordered)]
        for choice in choices:
            positions = choice.positions
            weights = _ones_or(choice)
            assert 0 < len(positions) == len(np.unique(positions)) and set(positions) <= set(range(len(one.selection)))
            assert weights.shape == positions.shape and (weights > 0).all() and np.isfinite(weights).all()
            assert np.array_equal(positions, choices[0].positions) and np.array_equal(weights, _ones_or(choices[0]))
        chosen.append(tuple(choices[0].positions))
        seen = losses.gamma(2.0, size=len(choices[0].positions))
        for sampler in (one, again, reordered):
            sampler.observe(choices[0].positions, seen)
        fresh = method.select(pool, None, seed=3)
        fresh.load_state(one.state())
        again = fresh
    assert len(set(chosen)) > 1, "nothing is chosen"


@named([one for one in of("select") if "dynamics" in one.needs])
def test_a_selector_that_needs_dynamics_says_so(header: MethodHeader) -> None:
    with pytest.raises(UserError, match="needs training dynamics"):
        registry.build("select", section(header), "select").select(sentences(), None, seed=0)


@everywhere([one for one in of("combine") if one.artefact != "predictor"])
def test_combined_weights_are_the_models_weights(header: MethodHeader, task: str, trial: Callable[..., Trial]) -> None:
    """Names, shapes and types stay; of equal models that model comes out; one evaluation at least where it needs any."""
    method, asked = registry.build("combine", section(header), "combine"), []
    one, other = trial(header, task).model().state_dict(), trial(header, task, dropout=0.1).model().state_dict()
    one |= {"counter": torch.tensor(3), "half": torch.ones(2, dtype=torch.bfloat16)}
    other = {**{name: value + 0.1 for name, value in other.items()}, "counter": torch.tensor(4), "half": one["half"] * 2}
    two = "members" in header.needs

    def combined(own: Any, member: Any) -> Artefact:
        checkpoints = [Checkpoint(4, 0.5, lambda: dict(own))]
        if two:
            checkpoints.append(Checkpoint(4, None, lambda: dict(member), stage="a"))
        validation = _Validation(trial(header, task), asked) if "validation" in header.needs else None
        return method.combine(lambda: dict(one), checkpoints, validation)

    for artefact in (combined(other, one), combined(one, one)):
        assert artefact.kind == header.artefact
        kept = {name: (value.shape, value.dtype) for name, value in artefact.state.items()}
        assert kept == {name: (value.shape, value.dtype) for name, value in one.items()}
    assert bool(asked) == ("validation" in header.needs)
    for name, value in artefact.state.items():
        torch.testing.assert_close(value, one[name], rtol=0, atol=1e-12)


@named([one for one in METHODS if one.artefact == "predictor"])
def test_equal_models_predict_together_what_each_of_them_says(header: MethodHeader, trial: Callable[..., Trial]) -> None:
    """And the task's forward takes the predictor as it takes a model, with as many numbers an example; other models say other
    things."""
    from transformers import AutoModelForCausalLM

    method, tried = registry.build("combine", section(header), "combine"), trial(header)
    classifies = header.serves("text_classification")
    task = TextClassification(max_length=32) if classifies else CausalLanguageModelling(max_length=32, add_end=False)
    data = task.prepare(sentences(), tried.tokenizer)

    def model() -> Any:
        if classifies:
            return tried.model()
        config = tried.make_model("llama").config
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(7)
            return AutoModelForCausalLM.from_config(config).to(torch.float64).eval()

    def said(one: torch.nn.Module) -> torch.Tensor:
        with torch.no_grad():
            return task.forward(one, task.collate(data, np.arange(8))).log_softmax(dim=-1)

    states = [dict(model().state_dict()) for _ in range(2)]
    for member, same in ((states[1], True), ({k: v + 0.1 * torch.sin(v * 50) for k, v in states[1].items()}, False)):
        checkpoints = [Checkpoint(4, 0.5, lambda member=member: dict(member))]
        if "members" in header.needs:
            checkpoints.append(Checkpoint(4, None, lambda: dict(states[0]), stage="a"))
        artefact = method.combine(lambda: dict(states[0]), checkpoints, None)
        assert artefact.kind == "predictor" and artefact.members and not artefact.state
        models = {name: model() for name in (*artefact.members, *header.roles)}
        for name, state in artefact.members.items():
            models[name].load_state_dict(state)
        found = said(method.predictor(models).eval())
        assert torch.allclose(found, said(model()), rtol=0, atol=1e-10) == same


OF_WHOLE_MODELS = [one for one in of("evaluate") if set(one.needs) & set(OF_MODELS)]


@everywhere(OF_WHOLE_MODELS)
def test_an_evaluator_of_models_says_one_sentence(header: MethodHeader, task: str, trial: Callable[..., Trial]) -> None:
    """The same for the same models, another where the model moved; it asks for nothing but what it needs."""
    method = registry.build("evaluate", section(header), "evaluate")
    tried, found = trial(header, task), []
    for moved in (0.0, 0.0, 0.5):
        view = _Finished(tried, header.needs, moved)
        figures = method.evaluate(view, seed=1)
        assert isinstance(figures["sentence"], str) and figures["sentence"] and not figures["sentence"].endswith(".")
        found.append(json.dumps(dict(figures), sort_keys=True))
    assert found[0] == found[1] != found[2]


@named([one for one in of("evaluate") if one not in OF_WHOLE_MODELS])
def test_an_evaluator_measures_and_its_figures_can_be_written(header: MethodHeader) -> None:
    method = registry.build("evaluate", section(header), "evaluate")
    examples = sentences()
    one = EvaluationSet("test", examples, "id", "test")
    right = np.eye(2)[examples.labels] * 0.9 + 0.05
    if not header.serves("text_classification"):  # sequences: mean log-probability, token accuracy, tokens
        right = np.column_stack([right, 1 + np.arange(len(right))])
    context = {"train_prior": np.array([0.5, 0.5]), "validation": (examples.labels, right)}
    figures = [method.evaluate(one, probabilities, seed=1, context=context) for probabilities in (right, 1 - right, right)]
    written = [json.dumps(found, sort_keys=True, default=float) for found in figures]
    assert written[0] == written[2] != written[1]


class _Writing:
    """A model that answers every other example, and that with the number of its place."""

    def write(self, examples: Any, most: int) -> list[str | None]:
        return [f"{place}" if place % 2 else None for place in range(len(examples))]


class _Embedding:
    """A scoring model that places every sentence, and says of it, by the letters it is made of; those with a good word are the
    target."""

    def embed(self, examples: Any) -> np.ndarray:
        texts = ["".join(row) for row in zip(*(column.to_pylist() for column in examples.inputs.values()))]
        return np.array([[text.count(letter) for letter in "abcdefghijklmnop"] for text in texts], dtype=np.float32)

    def predictions(self, examples: Any) -> np.ndarray:
        found = self.embed(examples)[:, :3]
        return np.stack([-found[:, 0], found[:, 1] / 9, 1 + found[:, 2]], axis=1)

    def target(self, name: str) -> Any:
        return sentences().take(np.flatnonzero(sentences().labels == 1))


def _ones_or(choice: Choice) -> np.ndarray:
    return np.ones(len(choice.positions)) if choice.weights is None else choice.weights


def some_dynamics() -> Dynamics:
    """Logits over three epochs."""
    examples = sentences()
    logits = np.random.default_rng(0).standard_normal((3, EXAMPLES, 2)).astype(np.float32)
    seen = np.ones((3, EXAMPLES), dtype=bool)
    return Dynamics(examples.ids, (0, 1, 2), seen, examples.labels.astype(np.int32), logits=logits)


@dataclasses.dataclass
class _Finished:
    """A random model, and that model with every weight moved by noise of so many times its size."""

    tried: Trial
    needs: tuple[str, ...]
    moved: float

    @property
    def sets(self) -> dict[str, EvaluationSet]:
        return {"earlier": EvaluationSet("earlier", self.tried.examples, "forget", "test")}

    def model(self) -> torch.nn.Module:
        assert "weights" in self.needs
        return self._with(self.moved)

    def base(self) -> torch.nn.Module:
        assert "base_weights" in self.needs
        return self._with(0.0)

    def probabilities(self, name: str) -> np.ndarray:
        return self._said(self._with(self.moved))

    def base_probabilities(self, name: str) -> np.ndarray:
        assert "base_predictions" in self.needs
        return self._said(self._with(0.0))

    def _with(self, moved: float) -> torch.nn.Module:
        model, generator = self.tried.model(), torch.Generator().manual_seed(2)
        with torch.no_grad():
            for parameter in model.parameters():
                noise = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
                parameter.add_(noise, alpha=moved * float(parameter.abs().mean()))
        return model

    def _said(self, model: torch.nn.Module) -> np.ndarray:
        return torch.softmax(self.tried.logits(model), dim=-1).numpy()


class _Validation:
    """All examples as the validation set."""

    def __init__(self, tried: Trial, asked: list[str]) -> None:
        self.tried, self.asked, self.model = tried, asked, tried.model().eval()

    def _own(self, state: Any) -> dict[str, torch.Tensor]:
        return {name: value for name, value in state.items() if name not in ("counter", "half")}

    def score(self, state: Any) -> float:
        self.asked.append("score")
        self.model.load_state_dict(self._own(state))
        return self.tried.confidence(self.model)

    def batches(self, size: int, *, seed: int) -> Any:
        self.asked.append("batches")
        yield self.tried.task.collate(self.tried.data(), np.arange(EXAMPLES))

    def outputs(self, state: Any, batch: Any) -> torch.Tensor:
        return torch.func.functional_call(self.model, self._own(state), (), as_model(self.model, batch.inputs)).logits

    def loss(self, outputs: torch.Tensor, batch: Any) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(outputs, batch.labels)
