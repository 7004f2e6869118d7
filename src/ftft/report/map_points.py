"""The points of one data map, as every drawing of it takes them: a page, or a picture in a file."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa


@dataclass(frozen=True)
class MapPoints:
    """N points. ``name``: whose dynamics they are, in words. ``ids``: N strings. ``confidence``, ``variability``,
    ``correctness``: float32 [N], NaN where an example was not seen often enough (correctness also where the dynamics do not
    say); correctness is a share of the seen epochs, from 0 to 1. ``labels``: int [N], the index of the class in
    ``label_names`` (-1 for none), or None. ``selected``: bool [N], or None where no selection is known. ``quantity``: what
    confidence is the mean of, in words."""

    name: str
    ids: pa.Array
    confidence: np.ndarray
    variability: np.ndarray
    correctness: np.ndarray
    quantity: str
    labels: np.ndarray | None = None
    label_names: tuple[str, ...] = ()
    selected: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.ids)
