"""From text files to a model folder: tokenizer, packed tokens, training, card.

What is not finished lies beside the model's folder, in ``<folder>.pretraining``: the tokenizer, the packed tokens, the plan and
the checkpoints. It is removed when the model is saved. The plan, with the SHA-256 of every file, says whether a run may go on.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ftft.errors import UserError
from ftft.files import FolderLock, read_json, sha256_file, write_json
from ftft.models.folder import MODEL_FILE
from ftft.models.quiet import quiet_transformers
from ftft.pretraining.kinds import VOCABULARY, kind_named
from ftft.pretraining.packing import Blocks, open_blocks, write_tokens
from ftft.pretraining.texts import pieces_of, require_texts
from ftft.pretraining.tokenizing import LARGEST, SMALLEST, train_tokenizer

PREPARED, TRAIN, HELD_OUT = "prepared.json", "tokens.bin", "held_out.bin"
HELD_OUT_SHARE, HELD_OUT_BLOCKS = 0.02, 256  # of the text itself, where no other is given; at most so many are measured

Notify = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Settings:
    """What to pretrain on what; ``steps`` None is what the kind takes for 20 minutes."""

    texts: tuple[Path, ...]
    kind: str
    out: Path
    steps: int | None = None
    seed: int = 0
    vocabulary: int = VOCABULARY
    column: str = "text"
    held_out: Path | None = None

    @property
    def work(self) -> Path:
        """Where an unfinished run lies."""
        return self.out.with_name(f"{self.out.name}.pretraining")

    def plan(self) -> dict[str, Any]:
        """All that determines the result, without paths."""
        kind = kind_named(self.kind)
        return {
            "kind": self.kind,
            "shape": asdict(kind) | {"steps": None},
            "steps": kind.steps if self.steps is None else self.steps,
            "seed": self.seed,
            "vocabulary": self.vocabulary,
            "column": self.column,
            "texts": [sha256_file(path) for path in self.texts],
            "held_out": None if self.held_out is None else sha256_file(self.held_out),
        }


def check(settings: Settings) -> None:
    """UserError for every setting and file that cannot be right, before anything is computed or written."""
    kind_named(settings.kind)
    if settings.steps is not None and settings.steps < 1:
        raise UserError(f"--steps is {settings.steps}; it must be at least 1")
    if settings.seed < 0:
        raise UserError(f"--seed is {settings.seed}; it must be 0 or more")
    if not SMALLEST <= settings.vocabulary <= LARGEST:
        raise UserError(
            f"--vocab is {settings.vocabulary}; it must be from {SMALLEST} (all bytes and the special tokens) to {LARGEST}"
        )
    require_texts([*settings.texts, *([settings.held_out] if settings.held_out else [])])
    out = settings.out
    if out.exists() and not out.is_dir():
        raise UserError(f"--out: {out} is a file; name a folder")
    if out.is_dir() and any(out.iterdir()) and not (out / MODEL_FILE).is_file():
        raise UserError(f"--out: {out} holds something that is not a model of this command; name another folder")


def pretrain(settings: Settings, *, notify: Notify = lambda event: None) -> dict[str, Any]:
    """Pretrain, or go on where an interrupted run of the same settings stopped; gives the report that ``ftft.json`` keeps.

    A finished model of the same settings is left as it is. Raises UserError for what :func:`check` refuses, text that cannot
    be read or is too short, a folder that belongs to other settings, and Interrupted when training was asked to stop.
    """
    check(settings)
    plan = settings.plan()
    finished = _finished(settings, plan)
    if finished is not None and not settings.work.exists():
        return finished
    with FolderLock(settings.work):
        try:
            report = _finished(settings, plan)  # another process may have ended while this one came to the lock
            if report is None:
                report = _pretrain(settings, plan, notify)
        except BaseException:
            if not (settings.work / PREPARED).exists():
                shutil.rmtree(settings.work, ignore_errors=True)  # nothing in it is of use to a later run
            raise
        shutil.rmtree(settings.work)  # of this run, or of one that was killed when its model had been saved
        return report


def _finished(settings: Settings, plan: dict[str, Any]) -> dict[str, Any] | None:
    """The report of the model that is there already; UserError where it is one of other settings."""
    if not (settings.out / MODEL_FILE).is_file():
        return None
    report = read_json(settings.out / MODEL_FILE, kind="model")
    _require_same(report.get("plan"), plan, settings.out, "holds a finished model")
    return report | {"was_finished": True}


def _require_same(found: Any, plan: dict[str, Any], folder: Path, what: str) -> None:
    if not isinstance(found, dict):
        raise UserError(f"{folder} {what} that this command did not make; name another folder with --out")
    changed = [name for name in plan if found.get(name) != plan[name]]
    if changed:
        name = changed[0]
        shown = {"texts": "other texts", "held_out": "other held-out text", "shape": "another shape of this kind"}
        told = shown.get(name, f"{name} {found.get(name)} (now {plan[name]})")
        raise UserError(f"{folder} {what} of {told}; remove it, or name another folder with --out")


def _pretrain(settings: Settings, plan: dict[str, Any], notify: Notify) -> dict[str, Any]:
    from transformers import PreTrainedTokenizerFast

    prepared = _prepare(settings, plan, notify)
    with quiet_transformers():
        tokenizer = PreTrainedTokenizerFast.from_pretrained(settings.work / "tokenizer")
    for name in ("is_local", "local_files_only"):  # how it was loaded is no part of it
        tokenizer.init_kwargs.pop(name, None)
    train, held_out = _blocks(settings, tokenizer)
    return _train(settings, plan, prepared, tokenizer, train, held_out, notify)


def _prepare(settings: Settings, plan: dict[str, Any], notify: Notify) -> dict[str, Any]:
    """The facts of the tokenised text, computed once; the file that keeps them is written last."""
    from ftft.engine.precision import device_here, resolve

    path = settings.work / PREPARED
    if path.exists():
        prepared = read_json(path, kind="pretraining")
        _require_same(prepared.get("plan"), plan, settings.work, "holds an unfinished run")
        return prepared
    kind = kind_named(settings.kind)
    notify({"event": "data", "text": "learning the tokenizer"})
    tokenizer = train_tokenizer(
        pieces_of(settings.texts, settings.column), kind.objective, vocabulary=settings.vocabulary, max_length=kind.block
    )
    with quiet_transformers():
        tokenizer.save_pretrained(settings.work / "tokenizer")
    notify({"event": "data", "text": "tokenising the text"})
    data = {"train": write_tokens(settings.work / TRAIN, pieces_of(settings.texts, settings.column), tokenizer)}
    if settings.held_out is not None:
        data["held_out"] = write_tokens(settings.work / HELD_OUT, pieces_of([settings.held_out], settings.column), tokenizer)
    _blocks(settings, tokenizer)  # refuses too short a text before anything is kept
    device = device_here()
    prepared = {"plan": plan, "data": data, "precision": resolve("auto", device), "vocabulary": len(tokenizer)}
    write_json(path, prepared, kind="pretraining")
    return prepared


def _blocks(settings: Settings, tokenizer: Any) -> tuple[Blocks, Blocks]:
    """(those to train on, those to measure on); UserError where the text is too short for one of each."""
    block = kind_named(settings.kind).block
    train = open_blocks(settings.work / TRAIN, tokenizer, block)
    if settings.held_out is not None:
        held_out = open_blocks(settings.work / HELD_OUT, tokenizer, block)
        spread = np.unique(np.linspace(0, len(held_out) - 1, HELD_OUT_BLOCKS).round().astype(int)) if len(held_out) else None
        held_out = held_out if spread is None else held_out.only(spread)
    else:
        count = min(HELD_OUT_BLOCKS, max(1, round(HELD_OUT_SHARE * len(train))))
        held_out, train = train.only(train.rows[-count:]), train.only(train.rows[:-count])
    for what, found in (("text", train), ("held-out text", held_out)):
        if not len(found):
            raise UserError(f"the {what} is too short: {settings.kind} learns from blocks of {block} tokens, and it fills none")
    return train, held_out


def _train(
    settings: Settings,
    plan: dict[str, Any],
    prepared: dict[str, Any],
    tokenizer: Any,
    blocks: Blocks,
    held_out: Blocks,
    notify: Notify,
) -> dict[str, Any]:

    from ftft.engine.precision import device_here
    from ftft.models.saving import save_model
    from ftft.pretraining.card import card
    from ftft.pretraining.loop import WARMUP, Run, blocks_seen, train
    from ftft.pretraining.masking import CHOSEN
    from ftft.pretraining.models import FINE_TUNING_DROPOUT, ready_to_save
    from ftft.pretraining.objectives import OBJECTIVES

    kind = kind_named(settings.kind)
    objective = OBJECTIVES[kind.objective](kind, tokenizer, settings.seed)
    parameters = sum(one.numel() for one in objective.model.parameters())
    counts = {"parameters": parameters, "blocks": len(blocks), "held_out": len(held_out), "tokens": blocks.block * len(blocks)}
    notify({"event": "pretraining", "kind": settings.kind, "precision": prepared["precision"], **counts})
    run = Run(
        kind=kind,
        objective=objective.to(device_here()),
        blocks=blocks,
        held_out=held_out,
        steps=plan["steps"],
        seed=settings.seed,
        precision=prepared["precision"],
        folder=settings.work / "checkpoints",
        notify=notify,
        warn=lambda sentence: notify({"event": "warning", "text": sentence}),
    )
    end = train(run)
    notify({"event": "measured", "step": run.steps, "figures": end, "when": "at the end"})
    tail = run.losses[-max(1, run.steps // 10) :]
    seen = blocks_seen(run.steps, len(blocks), kind.batch)
    report = {
        "plan": plan,
        "objective": kind.objective,
        "parameters": parameters,
        "vocabulary": len(tokenizer),
        "block": kind.block,
        "batch": kind.batch,
        "learning_rate": kind.learning_rate,
        "warmup": WARMUP,
        "chosen": CHOSEN,
        "fine_tuning_dropout": FINE_TUNING_DROPOUT,
        "precision": run.precision,
        "seconds": run.seconds,
        "tokens_seen": seen * kind.block,
        "epochs": seen / len(blocks),
        "losses": {name: float(np.mean([one[name] for one in tail])) for name in tail[0]},
        "held_out": {"start": run.start, "end": end, "blocks": len(held_out)},
        "data": prepared["data"],
    }
    save_model(settings.out, ready_to_save(objective.model.cpu()), tokenizer, metadata=report, card=card(report))
    return report
