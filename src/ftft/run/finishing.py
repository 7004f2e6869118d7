"""What a trained stage leaves in the store: the model that `combine` makes of its checkpoints, its dynamics, and the record of
how it came about."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ftft.dynamics.parquet import write_dynamics
from ftft.engine.assembly import needs_of
from ftft.engine.checkpoint import CheckpointFolder
from ftft.engine.choosing import ChoosingSchedule
from ftft.engine.loop import Outcome, Training, best_folder
from ftft.engine.provenance import provenance
from ftft.errors import UserError
from ftft.files import copy_file
from ftft.methods import registry
from ftft.methods.contract import Adapted, Artefact, Checkpoint, Selection
from ftft.methods.created import FILE
from ftft.methods.predictors import save_predictor
from ftft.models.loading import LoadedModel, load_saved
from ftft.models.saving import save_model
from ftft.run.other_models import load_other
from ftft.run.searching import Searched
from ftft.run.selections import learned_prior
from ftft.run.store import StageFolder
from ftft.run.validating import WeightsOnValidation

if TYPE_CHECKING:
    from ftft.run.stages import StageRun


@dataclass
class Trained:
    """A stage after its training: the ``run`` it is of, the ``model`` it began with (whose weights training has changed in
    place), what ``adapt`` made of it, how the ``training`` went, and what was ``searched`` before it."""

    run: StageRun
    model: LoadedModel
    adapted: Adapted
    training: Training
    outcome: Outcome
    searched: Searched | None = None

    def finish(self, folder: StageFolder, selection: Selection, preparing: float) -> None:
        """Write model, dynamics and record into ``folder`` and mark it finished. ``preparing``: the seconds before the first
        step."""
        run, training = self.run, self.training
        combiner = registry.build("combine", run.stage.combine, f"{run.where}.combine")
        validation = self._validation() if "validation" in needs_of(combiner) else None
        artefact = combiner.combine(self._base_state, [*self._checkpoints(), *self._members()], validation)
        prior = dict(zip(run.data.train.label_names, learned_prior(selection, run.data.train).tolist()))
        metadata = {
            "lineage": list(self.model.description.get("lineage", ())),
            "training_prior": prior,
            "precision": training.precision,
        }
        parameters = self._save(folder.path("model"), artefact, metadata)
        if training.dynamics is not None:
            write_dynamics(training.dynamics.dynamics(), folder.path("dynamics.parquet"))
        training.ledger.observe_memory("training")
        summary = {
            "model": dict(self.model.description),
            "seed": run.seed,
            "precision": training.precision,
            "parameters": parameters,
            "trainable_parameters": sum(p.numel() for group in training.optimizer.param_groups for p in group["params"]),
            "artefact": {"kind": artefact.kind, "step": artefact.step},
            "selection": {"rule": dict(selection.rule), "counts": dict(selection.counts), "examples": len(selection)},
            "training": self._course(),
            "resume_differences": self._resume_differences(),
            "preparing_seconds": preparing,
            "steered_by": self._steered_by(),
            "flops_by_shape": training.flops.state()["known"],
            "provenance": provenance(),
        }
        ledger, creation = training.ledger, run.creation
        if self.searched is not None:
            summary["search"] = self.searched.to_json()
            ledger = ledger.merge(self.searched.ledger)
        if creation is not None:
            copy_file(creation.folder.path(FILE), folder.path(FILE))
            created = creation.created
            summary["creation"] = {"rule": dict(created.rule), "counts": dict(created.counts), "key": creation.folder.key}
            ledger = creation.ledger.merge(ledger)
        folder.finish({"summary": summary, "ledger": ledger.to_json()})

    def _course(self) -> dict[str, Any]:
        """How the training went, step by step."""
        outcome, schedule = self.outcome, self.training.schedule
        return {
            "steps": outcome.steps,
            "planned": outcome.planned,
            "steps_per_epoch": schedule.steps_per_epoch,
            "stopped_early": outcome.stopped_early,
            "best_step": outcome.best_step,
            "best_score": outcome.best_score,
            "history": outcome.history,
            "losses": outcome.losses,
            **({"epochs": schedule.counts} if isinstance(schedule, ChoosingSchedule) else {}),
            "weights": {str(step): digest for step, digest in outcome.weights.items()},
        }

    def _resume_differences(self) -> list[str]:
        """What changed where the training, or the making of its examples, was interrupted."""
        made = [] if self.run.creation is None else self.run.creation.resume_differences
        return list(dict.fromkeys([*made, *self.outcome.resume_differences]))

    def _steered_by(self) -> dict[str, str]:
        """The sets that had a say in what came out, and their roles."""
        steering = list(self.run.steering_sets().values()) if self.training.validate else []
        target = self.run.selection_target()
        searched = [] if self.searched is None else [self.run.data.evaluation[name] for name in self.searched.search.on]
        return {one.name: one.role for one in [*steering, *([] if target is None else [target]), *searched]}

    def _base_state(self) -> dict[str, torch.Tensor]:
        return dict(self.run.load().model.state_dict())

    def _validation(self) -> WeightsOnValidation:
        plain = self.run.load().model
        return WeightsOnValidation(self.run.steering(self.model, self.training), plain.to(self.training.accelerator.device))

    def _save(self, place: Path, artefact: Artefact, metadata: Mapping[str, Any]) -> int:
        """Save what ``combine`` made; the number of its parameters."""
        run, processor = self.run, self.model.processor
        if artefact.kind != "predictor":
            plain = self._plain(artefact.state)
            save_model(place, plain, processor, metadata=metadata)
            return sum(one.numel() for one in plain.parameters())
        dtype = next(iter(self.adapted.model.parameters())).dtype

        def member(name: str) -> torch.nn.Module:
            # Anew: a state may be the trained model's own tensors, which loading another into that model would overwrite.
            model = run.load(dtype).model
            model.load_state_dict(artefact.members[name])
            return model

        models: dict[str, Any] = {name: partial(member, name) for name in artefact.members}
        models |= {role: partial(load_other, run, role, dtype) for role in run.stage.other_models}
        return save_predictor(place, run.stage.combine, run.task.model, models, processor, metadata=metadata)

    def _plain(self, state: Mapping[str, torch.Tensor]) -> torch.nn.Module:
        """The model as it was loaded, with the weights of ``state``."""
        plain = self.adapted.model
        if self.adapted.plain_state is not None:  # its modules were wrapped or replaced
            plain = self.run.load(next(iter(plain.parameters())).dtype).model
        plain.load_state_dict(state)
        return plain

    def _checkpoints(self) -> list[Checkpoint]:
        """The states ``combine`` may use, as plain weights: the best by validation score, where it was kept, and the last."""
        training, outcome, model = self.training, self.outcome, self.adapted.model
        last = {name: value.clone() for name, value in model.state_dict().items()}

        def merged(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
            model.load_state_dict(state)
            return self.adapted.merged()

        found = []
        best, folder = outcome.best_step, training.folder
        if training.keep_best and best is not None:
            found.append(Checkpoint(best, self._goodness(outcome.best_score), lambda: merged(_best_state(folder, best))))
        last_score = None
        if outcome.history and outcome.history[-1]["step"] == outcome.steps and training.stop_score is not None:
            last_score = self._goodness(training.stop_score(outcome.history[-1]["scores"]))
        found.append(Checkpoint(outcome.steps, last_score, lambda: merged(last)))
        return found

    def _members(self) -> Iterator[Checkpoint]:
        """The finished models of the stages in ``use_models_of``; UserError where one is of another shape."""
        run, others = self.run, self.run.stage.use_models_of
        shapes = {name: value.shape for name, value in self._base_state().items()} if others else {}
        for name in others:
            finished = run.earlier[name]

            def load(folder: Path = finished.model_folder, name: str = name) -> dict[str, torch.Tensor]:
                state = dict(load_saved(folder, run.task.model, where=f"{run.where}.use_models_of")[0].state_dict())
                if {one: value.shape for one, value in state.items()} != shapes:
                    raise UserError(
                        f"{run.where}.use_models_of: the model of stage {name} has other weights than this stage's; "
                        "models that are combined begin from one pretrained model"
                    )
                return state

            yield Checkpoint(finished.summary["training"]["steps"], None, load, stage=name)

    def _goodness(self, score: float | None) -> float | None:
        """The score as ``combine`` compares it: higher is better, also where the metric is a loss."""
        stopping = self.training.stopping
        return score if stopping is None or score is None else stopping.goodness(score)


def _best_state(folder: Path | None, step: int | None) -> dict[str, torch.Tensor]:
    assert folder is not None and step is not None
    return CheckpointFolder(best_folder(folder)).load(step).trees["model"]
