"""Arrays inside JSON: zlib'd little-endian bytes in base64, with shape and type; nothing is unpickled.

What a comparison needs of a cell's predictions is packed small: log-probabilities relative to the row's largest, as
float16. The largest is exactly 0, so the predicted class is kept exactly (unless two differ by less than 6e-8), and a
probability is kept to about 1e-3 of its log-odds, in order. Statistics of sequences are few and are kept as they are.
"""

from __future__ import annotations

import base64
import binascii
import math
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from ftft.errors import UserError

TYPES = ("<f2", "<f4", "<i4", "|u1")
LARGEST = 2**31  # bytes of an array that is read: a document that asks for more is damaged or hostile
FLOOR = float(np.finfo(np.float16).min)  # log-probability differences below -65504 are all the same


def pack(array: np.ndarray) -> dict[str, Any]:
    """An array of one of ``TYPES`` as a JSON mapping; ValueError for any other type."""
    kind = array.dtype.newbyteorder("<").str
    if kind not in TYPES:
        raise ValueError(f"arrays of type {array.dtype} are not packed")
    content = np.ascontiguousarray(array, dtype=kind).tobytes()
    data = base64.b64encode(zlib.compress(content, 9)).decode("ascii")
    return {"type": kind, "shape": list(array.shape), "zlib": data}


def unpack(document: Mapping[str, Any], what: str) -> np.ndarray:
    """The array of :func:`pack`; UserError, led by ``what``, where the document is damaged."""
    try:
        kind, shape = document["type"], [int(size) for size in document["shape"]]
        if kind not in TYPES or min(shape, default=0) < 0:
            raise ValueError("unknown type or shape")
        size = math.prod(shape) * np.dtype(kind).itemsize
        if size > LARGEST:
            raise ValueError(f"{size} bytes")
        stream = zlib.decompressobj()
        # One byte more than is due, so that a longer content is noticed and a bomb is never unpacked.
        content = stream.decompress(base64.b64decode(document["zlib"], validate=True), size + 1)
        if len(content) != size:
            raise ValueError("another length than its shape says")
        return np.frombuffer(content, dtype=kind).reshape(shape)
    except (KeyError, TypeError, ValueError, AttributeError, binascii.Error, zlib.error) as error:
        raise UserError(f"{what} is damaged: {error}") from None


def pack_probabilities(probabilities: np.ndarray) -> dict[str, Any]:
    """Probabilities float64 [N, K], rows summing to 1, as packed relative log-probabilities."""
    with np.errstate(divide="ignore"):
        logarithms = np.log(probabilities)
    relative = np.maximum(logarithms - logarithms.max(axis=1, keepdims=True), FLOOR)
    return pack(relative.astype(np.float16))


def unpack_probabilities(document: Mapping[str, Any], what: str) -> np.ndarray:
    """Probabilities float64 [N, K] of :func:`pack_probabilities`; UserError where the document is damaged."""
    relative = unpack(document, what)
    if relative.ndim != 2 or not np.isfinite(relative).all():
        raise UserError(f"{what} is damaged: not a table of log-probabilities")
    odds = np.exp(relative.astype(np.float64))
    return np.asarray(odds / odds.sum(axis=1, keepdims=True))
