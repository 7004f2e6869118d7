"""Nested Python state (optimizer, samplers, random generators) as one safetensors file and one JSON file; no pickle.

``<name>.json`` holds the structure, in which every tensor and array is a reference into ``<name>.safetensors``:

    null, true, "text", 12, 0.5        themselves (whole numbers of 2**53 and more, and their negatives: {"int": "0x..."})
    {"text": "<hex of its UTF-8>"}     a string with halves of surrogate pairs, which JSON would join
    {"float": "nan" | "inf" | "-inf"}  a float that JSON lacks
    [...]                              a list
    {"tuple": [...]}                   a tuple
    {"dict": {...}}                    a dict with string keys; where a key is an int or such a string:
    {"items": [[key, value], ...]}
    {"ordered": {"dict": ...}}         a collections.OrderedDict (a module's state_dict)
    {"tensor": key, "dtype": ..., "shape": [...]}    a torch tensor
    {"array": key, "dtype": ..., "shape": [...]}     a numpy array
    {"scalar": "<hex of its bytes>", "dtype": ...}   a numpy scalar

The safetensors file carries the SHA-256 of the JSON text, so that files of two different savings are never mixed.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ftft.errors import UserError
from ftft.files import FORMAT, VERSION, atomic_path, read_json, safetensors_os_error, write_text

KIND, FORMAT_VERSION = "tree", 1

# What every supported safetensors release stores under its own name; all other types are stored as their bytes.
_NATIVE = {"bool", "uint8", "int8", "int16", "int32", "int64", "float16", "bfloat16", "float32", "float64"}
_NUMPY = {
    *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("float16", "float32", "float64", "complex64", "complex128"),
}
_EXACT_IN_EVERY_READER = 2**53  # JSON readers of other languages hold numbers as doubles


def save_tree(folder: Path | str, name: str, tree: Any) -> None:
    """Write ``tree`` as ``folder/name.json`` and ``folder/name.safetensors``, each atomically and flushed.

    Held are dicts (and OrderedDicts) with str or int keys, lists, tuples, str, int, float, bool, None, torch tensors
    of any dense dtype, numpy arrays and scalars of bool, integer, float and complex type; types come back exactly
    (a NaN float as the standard NaN). Tensors are stored without gradient, contiguous and from any device; a
    Parameter as a plain tensor. A tensor that stands in the tree several times is stored once.
    Raises TypeError naming the place for anything else, UserError where the writing is refused.
    """
    writer = _Writer()
    try:
        structure = writer.encode(tree, "tree")
    except RecursionError:
        raise TypeError("the tree is nested too deeply, or contains itself") from None
    document = {FORMAT: f"ftft/{KIND}", VERSION: FORMAT_VERSION, "tree": structure}
    text = json.dumps(document, separators=(",", ":"), allow_nan=False) + "\n"
    json_path, tensor_path = tree_files(folder, name)
    write_text(json_path, text)
    metadata = {FORMAT: f"ftft/{KIND}", VERSION: str(FORMAT_VERSION), "structure_sha256": _sha256(text)}
    with atomic_path(tensor_path) as temporary:
        mode = temporary.stat().st_mode
        try:
            save_file(writer.tensors, temporary, metadata=metadata)
        except SafetensorError as error:
            raise safetensors_os_error(error) or error from error
        temporary.chmod(mode)  # safetensors puts a private file of its own in place


def load_tree(folder: Path | str, name: str) -> Any:
    """Read what :func:`save_tree` wrote. Tensors come on the CPU in memory of their own: nothing stays mapped, and
    what was one tensor in two places comes back as two. UserError when a file is missing, damaged, or from a newer ftft."""
    json_path, tensor_path = tree_files(folder, name)
    structure = read_json(json_path, kind=KIND, version=FORMAT_VERSION).get("tree")
    if not tensor_path.is_file():
        raise UserError(f"{tensor_path} does not exist")
    try:
        with safe_open(tensor_path, framework="pt", device="cpu") as stored:
            metadata = stored.metadata() or {}
            if metadata.get("structure_sha256") != hashlib.sha256(json_path.read_bytes()).hexdigest():
                raise UserError(f"{json_path} and {tensor_path.name} do not belong together; one of them is damaged")
            # A copy, because mapped memory is not aligned as torch's own is, and results may depend on alignment.
            return _decode(structure, lambda key: stored.get_tensor(key).clone())
    except (SafetensorError, OSError, ValueError, TypeError, KeyError, AttributeError, RuntimeError) as error:
        raise UserError(f"{tensor_path.with_suffix('')} (.json and .safetensors) is damaged: {error}") from error


def tree_files(folder: Path | str, name: str) -> tuple[Path, Path]:
    """The two files of the tree ``name`` in ``folder``: structure (JSON), tensors (safetensors)."""
    return Path(folder) / f"{name}.json", Path(folder) / f"{name}.safetensors"


class _Writer:
    """Turns a tree into its JSON structure and collects the tensors it refers to."""

    def __init__(self) -> None:
        self.tensors: dict[str, torch.Tensor] = {}
        self._known: dict[tuple[Any, ...], str] = {}
        self._alive: list[Any] = []  # an address tells tensors apart only while all of them live
        self._storages: set[int] = set()

    def encode(self, value: Any, path: str) -> Any:
        kind = type(value)
        if value is None or kind is bool:
            return value
        if kind is str:
            return value if _is_unicode(value) else {"text": value.encode("utf-8", "surrogatepass").hex()}
        if kind is int:
            return value if abs(value) < _EXACT_IN_EVERY_READER else {"int": hex(value)}
        if kind is float:
            return value if math.isfinite(value) else {"float": repr(value)}
        if kind is list:
            return [self.encode(inner, f"{path}[{index}]") for index, inner in enumerate(value)]
        if kind is tuple:
            return {"tuple": [self.encode(inner, f"{path}[{index}]") for index, inner in enumerate(value)]}
        if kind is dict:
            return self._encode_dict(value, path)
        if kind is OrderedDict:
            return {"ordered": self._encode_dict(value, path)}
        if kind is torch.Tensor or kind is torch.nn.Parameter:
            return self._encode_tensor(value, path)
        if kind is np.ndarray:
            return self._encode_array(value, path)
        if isinstance(value, np.generic) and value.dtype.name in _NUMPY:
            return {"scalar": value.tobytes().hex(), "dtype": value.dtype.name}
        raise TypeError(f"{path} is a {kind.__module__}.{kind.__qualname__}, which cannot be saved without pickle")

    def _encode_dict(self, value: Mapping[Any, Any], path: str) -> dict[str, Any]:
        for key in value:
            if type(key) is not str and type(key) is not int:
                raise TypeError(f"{path} has the key {key!r} of type {type(key).__qualname__}; keys must be str or int")
        if all(type(key) is str and _is_unicode(key) for key in value):
            return {"dict": {key: self.encode(inner, f"{path}[{key!r}]") for key, inner in value.items()}}
        return {"items": [[self.encode(key, path), self.encode(inner, f"{path}[{key!r}]")] for key, inner in value.items()]}

    def _encode_tensor(self, tensor: torch.Tensor, path: str) -> dict[str, Any]:
        if tensor.layout is not torch.strided or tensor.is_meta or tensor.is_quantized:
            what = "meta" if tensor.is_meta else "quantized" if tensor.is_quantized else str(tensor.layout)
            raise TypeError(f"{path} is a tensor of the kind {what}; only dense tensors can be saved")
        dtype = str(tensor.dtype).removeprefix("torch.")
        address = (tensor.data_ptr(), tensor.device, tensor.dtype, tuple(tensor.shape), tensor.stride(), tensor.is_conj())
        key = self._known.get((*address, tensor.is_neg())) if tensor.numel() else None
        if key is None:
            plain = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()
            key = self._add(plain if dtype in _NATIVE else plain.reshape(-1).view(torch.uint8), path)
            self._known[(*address, tensor.is_neg())] = key
            self._alive.append(tensor)
        return {"tensor": key, "dtype": dtype, "shape": list(tensor.shape)}

    def _encode_array(self, array: np.ndarray, path: str) -> dict[str, Any]:
        if array.dtype.name not in _NUMPY or not array.dtype.isnative:
            raise TypeError(f"{path} is a numpy array of the type {array.dtype}, which cannot be saved without pickle")
        plain = np.array(array, order="C")  # a writable copy: torch warns when it wraps a read-only array
        if array.dtype.name not in _NATIVE:
            plain = plain.reshape(-1).view(np.uint8)
        return {"array": self._add(torch.from_numpy(plain), path), "dtype": array.dtype.name, "shape": list(array.shape)}

    def _add(self, tensor: torch.Tensor, path: str) -> str:
        # safetensors refuses tensors that overlap in memory; a view into a storage already met is copied.
        storage = tensor.untyped_storage().data_ptr()
        if storage in self._storages:
            tensor = tensor.clone()
        self._storages.add(tensor.untyped_storage().data_ptr())
        # The number makes it unique; the path is for whoever opens the file with another tool.
        readable = path.encode("ascii", "backslashreplace").decode()
        key = f"{len(self.tensors)} {readable}"
        self.tensors[key] = tensor
        return key


def _decode(node: Any, tensor: Callable[[str], torch.Tensor]) -> Any:
    if isinstance(node, list):
        return [_decode(inner, tensor) for inner in node]
    if not isinstance(node, dict):
        return node
    tag = next(iter(node), None)
    content: Any = node[tag] if tag is not None else None
    if tag == "dict":
        return {key: _decode(inner, tensor) for key, inner in content.items()}
    if tag == "items":
        return {_decode(key, tensor): _decode(inner, tensor) for key, inner in content}
    if tag == "ordered":
        return OrderedDict(_decode(content, tensor))
    if tag == "tuple":
        return tuple(_decode(inner, tensor) for inner in content)
    if tag == "text":
        return bytes.fromhex(content).decode("utf-8", "surrogatepass")
    if tag == "int":
        return int(content, 16)
    if tag == "float":
        return float(content)
    if tag == "scalar":
        return np.frombuffer(bytes.fromhex(content), dtype=_numpy_dtype(node["dtype"]))[0]
    if tag == "tensor":
        return _decode_tensor(tensor(content), node["dtype"], node["shape"])
    if tag == "array":
        values = tensor(content).numpy()
        return values.reshape(-1).view(_numpy_dtype(node["dtype"])).reshape(node["shape"])
    raise ValueError(f"the structure holds an unknown entry {tag!r}")


def _decode_tensor(stored: torch.Tensor, dtype_name: str, shape: list[int]) -> torch.Tensor:
    dtype = getattr(torch, dtype_name, None)
    if not isinstance(dtype, torch.dtype):
        raise ValueError(f"the tensor type {dtype_name!r} is unknown to this torch")
    if stored.dtype is not dtype:
        stored = stored.reshape(-1).view(dtype)
    return stored.reshape(shape)


def _numpy_dtype(name: str) -> np.dtype[Any]:
    if name not in _NUMPY:
        raise ValueError(f"the array type {name!r} is not one that is ever written")
    return np.dtype(name)


def _is_unicode(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:  # half a surrogate pair
        return False
    return True


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
