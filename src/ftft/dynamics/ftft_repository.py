"""The explicit converter of the FTFT repository's ``uid_to_logits.pt``: the only foreign tensor file ever read.

The file is a dict uid -> float32 tensor [E, C], without gold labels and without a seen mask. Its code marks an example
that the last, partial epoch did not reach by a row of zeros; only there zeros are taken to mean "not seen".
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa

from ftft.dynamics.dynamics_file import check_unique
from ftft.dynamics.table import Dynamics
from ftft.errors import UserError


def read_uid_to_logits(path: Path | str, gold: Mapping[str, int], *, zeros_are_unseen: bool = True) -> Dynamics:
    """Convert ``uid_to_logits.pt``; ``gold``: the index of the gold class of every uid (as a string).

    ``zeros_are_unseen``: whether a row of zeros in the last epoch means that the example was not seen in it; switch it
    off for a model whose head really gives zeros. Loaded with ``weights_only=True``: code in the file never runs.
    Raises UserError where the file is not such a dict, or a uid has no or an impossible gold label.
    """
    import torch

    try:
        content = torch.load(Path(path), map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except Exception as error:  # torch raises many kinds here: damaged archives, refused classes, unreadable files
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"{path} cannot be loaded as a file of plain tensors: {reason}") from None
    if not isinstance(content, dict) or not content:
        raise UserError(f"{path} must hold a non-empty dict from uid to logits, and holds {type(content).__name__}")
    shape = None
    for uid, tensor in content.items():
        if isinstance(uid, bool) or not isinstance(uid, (int, str)) or not isinstance(tensor, torch.Tensor) or tensor.ndim != 2:
            raise UserError(f"{path}: the entry {uid!r} is not a tensor of the shape [epochs, classes] under a uid")
        shape = shape or tuple(tensor.shape)
        if tuple(tensor.shape) != shape or not tensor.is_floating_point():
            raise UserError(
                f"{path}: the entry {uid!r} is {list(tensor.shape)} {tensor.dtype}, and others are {list(shape)} floats"
            )
    ids = pa.array([str(uid) for uid in content], type=pa.string())
    check_unique(ids, str(path))
    logits = np.stack([tensor.to(torch.float32).numpy() for tensor in content.values()], axis=1)
    seen = np.ones(logits.shape[:2], dtype=bool)
    if zeros_are_unseen and len(seen):
        seen[-1] = (logits[-1] != 0).any(axis=1)
    return Dynamics(
        ids=ids,
        epochs=tuple(range(len(logits))),
        seen=seen,
        gold=_gold(ids, gold, logits.shape[2], path),
        logits=logits,
        metadata={
            "source": "import",
            "format": "uid_to_logits",
            "guid_type": "int" if all(isinstance(uid, int) for uid in content) else "str",
        },
    )


def _gold(ids: pa.Array, gold: Mapping[str, int], classes: int, path: Path | str) -> np.ndarray:
    labels = np.empty(len(ids), dtype=np.int32)
    for row, uid in enumerate(ids.to_pylist()):
        label = gold.get(uid)
        if label is None:
            raise UserError(f'the table of gold labels has none for the uid "{uid}" of {path}')
        if not 0 <= label < classes:
            raise UserError(f'the gold label of "{uid}" is {label}, and {path} has {classes} classes, 0 to {classes - 1}')
        labels[row] = label
    return labels
