"""A stage's search: short trials of other settings, each scored on validation sets; the stage then trains with the best.

Ask and tell: what trial n tries depends on the seed, on n and on how the trials before it went, and on nothing else. Trials
are kept one by one in ``search.json`` of the stage's folder, so that an interrupted search goes on with the one it was at and
ends as an undisturbed one. Trial 0 is the recipe's own settings. All that trials cost is booked under `search`.

A trial trains a copy of the stage's model for a few steps at a constant learning rate, without warm-up, so that the rate that
is applied is the rate that was drawn.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from ftft.engine.ledger import PHASES, Ledger
from ftft.engine.loop import TrainingLoop
from ftft.engine.settings import Range, SearchSettings, StopSettings
from ftft.engine.stopping import EarlyStopping
from ftft.errors import Diverged, Interrupted, UserError
from ftft.files import read_json, write_json
from ftft.run.search_space import applied, settings_of
from ftft.run.validating import SteeringSets

if TYPE_CHECKING:
    from accelerate import Accelerator

    from ftft.data.examples import EvaluationSet
    from ftft.methods.contract import Sampler, Selection
    from ftft.models.loading import LoadedModel
    from ftft.run.stages import StageRun
    from ftft.run.store import StageFolder

VERSION = 1
RESULTS, JOURNAL = "search.json", "search.jsonl"
PATIENCE = 10**9  # a trial is never stopped early


@dataclass(frozen=True)
class Tried:
    """One trial: what was ``drawn`` from the ranges, the ``settings`` it stands for, and its ``score`` as measured, None where
    the training diverged."""

    drawn: dict[str, float]
    settings: dict[str, float]
    score: float | None


@dataclass
class Searched:
    """The trials so far, and what they cost."""

    search: SearchSettings
    tried: list[Tried] = field(default_factory=list)
    ledger: Ledger = field(default_factory=Ledger)

    @property
    def best(self) -> Tried | None:
        """The first of the best-scored trials; None where none has a score."""
        scored = [one for one in self.tried if one.score is not None]
        return max(scored, key=lambda one: goodness(self.search, one.score), default=None)

    def to_json(self) -> dict[str, Any]:
        """For the stage's summary: what was found, and every trial."""
        best = self.best
        assert best is not None
        return {
            "on": list(self.search.on),
            "metric": self.search.metric,
            "steps": self.search.steps,
            "settings": best.settings,
            "trial": self.tried.index(best),
            "score": best.score,
            "trials": [{"settings": one.settings, "score": one.score} for one in self.tried],
        }


def search_sets(run: StageRun) -> dict[str, EvaluationSet]:
    """The validation sets that a stage's search scores its trials on."""
    search = run.stage.search
    return {} if search is None else {name: run.data.evaluation[name] for name in search.on}


def found_by_search(name: str, found: Mapping[str, Any]) -> str:
    """What a stage's search found, of :meth:`Searched.to_json`, in one sentence without a full stop."""
    trials, metric = found["trials"], str(found["metric"]).replace("_", " ")
    own = trials[0]["score"]
    best = ", ".join(f"{path} {value:.3g}" for path, value in found["settings"].items()) or "the recipe's own settings"
    before = "no score" if own is None else f"{own:.3f}"
    return (
        f"stage {name} was trained with the best of {len(trials)} trials of {found['steps']} steps: {best} ({metric} "
        f"{found['score']:.3f} on {', '.join(found['on'])}, and {before} with the recipe's own settings)"
    )


def goodness(search: SearchSettings, score: float | None) -> float:
    """Higher is better, whatever the metric; minus infinity for no score."""
    if score is None:
        return -math.inf
    return EarlyStopping(StopSettings(patience=PATIENCE, metric=search.metric)).goodness(score)


def ask(search: SearchSettings, tried: Sequence[Tried], seed: int) -> dict[str, float]:
    """What the next trial draws from the ranges, by setting."""
    number = len(tried)
    if number == 0:
        return {}
    own = int(np.random.SeedSequence([seed, 0x5EA2C4, number]).generate_state(1)[0])
    if search.sampler == "random":
        generator = np.random.default_rng(own)
        return {path: _between(one, float(generator.random())) for path, one in search.space.items()}
    return _ask_tpe(search, tried[1:], own)


def _between(one: Range, share: float) -> float:
    if one.scale == "linear":
        return one.low + share * (one.high - one.low)
    return math.exp(math.log(one.low) + share * (math.log(one.high) - math.log(one.low)))


def _ask_tpe(search: SearchSettings, tried: Sequence[Tried], seed: int) -> dict[str, float]:
    """By optuna's TPE, told anew of all trials: its answer then depends on them and on the seed alone."""
    import optuna

    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed))
        ranges = {
            path: optuna.distributions.FloatDistribution(one.low, one.high, log=one.scale == "log")
            for path, one in search.space.items()
        }
        for one in tried:
            failed = one.score is None
            state = optuna.trial.TrialState.FAIL if failed else optuna.trial.TrialState.COMPLETE
            value = None if failed else goodness(search, one.score)
            study.add_trial(optuna.trial.create_trial(params=one.drawn, distributions=ranges, value=value, state=state))
        return {path: float(value) for path, value in study.ask(ranges).params.items()}
    finally:
        optuna.logging.set_verbosity(before)


@dataclass
class StageSearch:
    """The search of one stage. ``chosen``: what the stage learns from, and so do its trials. ``model`` is never changed."""

    run: StageRun
    folder: StageFolder
    model: LoadedModel
    chosen: Selection | Sampler
    accelerator: Accelerator
    precision: Any

    @property
    def search(self) -> SearchSettings:
        assert self.run.stage.search is not None
        return self.run.stage.search

    def find(self) -> Searched:
        """Make the trials that are missing; UserError where every one of them diverged.

        Only what diverged is kept as a trial without a score: any other error ends the search, which goes on with that trial
        once it is mended.
        """
        processes = self.run.processes
        found = processes.once(self._resume)
        why = ""
        while len(found.tried) < self.search.trials:
            number = len(found.tried)
            drawn = processes.once(lambda: ask(self.search, found.tried, self.run.seed))
            cost = Ledger()
            try:
                score: float | None = self._score(settings_of(self.run.stage, drawn), cost, found.ledger)
            except Diverged as error:
                score, why = None, f"; the last one said: {error}"  # the error itself would keep the trial's model in memory
            except Interrupted:
                processes.once(partial(self._journal, found.ledger, cost))
                raise Interrupted(
                    f"interrupted in trial {number + 1} of {self.search.trials}; those before it are kept, and the same "
                    "command goes on with it"
                ) from None
            found.tried.append(Tried(drawn, settings_of(self.run.stage, drawn), score))
            found.ledger = found.ledger.merge(_as_search(cost))
            processes.once(lambda: self._keep(found))
            best = found.best
            told = {"number": number + 1, "of": self.search.trials, "score": score, "best": best.score if best else None}
            self.run.notify({"event": "trial", "stage": self.run.name, "metric": self.search.metric, **told})
        if found.best is None:
            raise UserError(f"{self.run.where}.search: no trial gave a score{why}")
        return found

    def _score(self, values: Mapping[str, float], cost: Ledger, spent: Ledger) -> float:
        """Train a copy with these settings for the trial's steps and measure it; Diverged for a score that is no number."""
        try:
            return self._trained_and_scored(self._run_of(values), cost, spent)
        finally:
            self.accelerator.free_memory()  # it holds on to every model that it has prepared

    def _trained_and_scored(self, run: StageRun, cost: Ledger, spent: Ledger) -> float:
        started = time.perf_counter()
        run.notify = lambda event: None  # the steps of a trial are not told
        model = dataclasses.replace(self.model, model=copy.deepcopy(self.model.model))
        chosen = copy.deepcopy(self.chosen)  # a sampler remembers what it has seen
        training, _ = run.prepare(chosen, model, cost, self.accelerator, self.precision, None)
        training.journal = lambda own: self._journal(spent, own)
        loop = TrainingLoop(training)
        loop.hashed = set()  # nobody verifies a trial
        loop.run()
        preparing = time.perf_counter() - started - cost.total().seconds
        sets = search_sets(self.run)
        prepared = {name: run.task.prepare(one.examples, model.processor) for name, one in sets.items()}
        settings = StopSettings(patience=PATIENCE, metric=self.search.metric)
        steering = SteeringSets(run.task, sets, prepared, settings, self.precision, training.flops, lambda: cost)
        began, before = time.perf_counter(), training.flops.spent
        scores = run.processes.from_first(steering.scores(loop.unwrapped, run.processes))
        flops = run.processes.total(training.flops.spent - before)
        cost.add("evaluation", flops=flops, seconds=time.perf_counter() - began + max(0.0, preparing))
        score = steering.mean(scores)
        if not math.isfinite(score):
            told = f"{self.search.steps:,} step{'s' if self.search.steps > 1 else ''}"
            raise Diverged(f"after {told} {self.search.metric} is {score} on {', '.join(sets)}")
        return score

    def _journal(self, spent: Ledger, cost: Ledger) -> None:
        """What all trials took, the present one's ``cost`` included: it is lost where the search is stopped in it."""
        spent.merge(_as_search(cost)).journal(self.folder.path(JOURNAL))

    def _run_of(self, values: Mapping[str, float]) -> StageRun:
        """The stage as a trial of these settings runs it."""
        run = self.run
        stage = applied(run.stage, values, run.where)
        train = dataclasses.replace(
            stage.train,
            steps=self.search.steps, epochs=None, schedule="constant", warmup=0.0, end_at=None, evaluate_every=None,
        )  # fmt: skip
        stage = dataclasses.replace(stage, train=train, stop=None, dynamics=None, search=None, combine={"name": "last"})
        return run.with_stage(stage)

    def _keep(self, found: Searched) -> None:
        trials = [dataclasses.asdict(one) for one in found.tried]
        content = {"trials": trials, "ledger": found.ledger.to_json()}
        write_json(self.folder.path(RESULTS), content, kind="search", version=VERSION)

    def _resume(self) -> Searched:
        """The trials that were made before, and their cost; what was lost of one in progress is booked as repeated."""
        found = Searched(self.search)
        path, state = self.folder.path(RESULTS), None
        if path.exists():
            try:
                content = read_json(path, kind="search", version=VERSION)
                found.tried = [Tried(**one) for one in content["trials"]]
                state = content["ledger"]
            except (UserError, KeyError, TypeError) as error:
                self.run.warn(f"the trials kept in {path} cannot be read and are made again: {error}")
                found.tried = []
        found.ledger = Ledger.resume(state, self.folder.path(JOURNAL))
        return found


def _as_search(cost: Ledger) -> Ledger:
    return cost.moved(dict.fromkeys(PHASES, "search"))
