"""Images as a model wants them: pixels in, ``pixel_values`` out, by the image processor that came with the model.

Where all images of a set fit into ``KEPT_NUMBERS`` they are processed once; else with every batch that they stand in.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from ftft.data.images import decode
from ftft.errors import UserError

if TYPE_CHECKING:
    import torch

KEPT_NUMBERS = 1 << 27  # float32 numbers of a whole set: half a gibibyte
CHUNK = 256  # images processed at once


def prepare_images(values: pa.Array, processor: Any) -> dict[str, Any]:
    """What :func:`pixel_values` needs, of a column of images (:mod:`ftft.data.images`) and an image processor."""
    kept = None
    if len(values):
        first = _processed(values.slice(0, 1), processor)
        if first.size * len(values) <= KEPT_NUMBERS:
            kept = np.empty((len(values), *first.shape[1:]), dtype=np.float32)
            for start in range(0, len(values), CHUNK):
                part = _processed(values.slice(start, CHUNK), processor)
                if part.shape[1:] != kept.shape[1:]:
                    raise _differing(kept.shape[1:], part.shape[1:])
                kept[start : start + len(part)] = part
    return {"images": values, "image_processor": processor, "kept": kept}


def pixel_values(storage: Mapping[str, Any], rows: np.ndarray) -> torch.Tensor:
    """float32 [B, C, H, W] of the images at ``rows`` int64 [B]."""
    import torch

    if storage["kept"] is not None:
        return torch.from_numpy(storage["kept"][rows])
    return torch.from_numpy(_processed(storage["images"].take(pa.array(rows)), storage["image_processor"]))


def as_model(model: torch.nn.Module, inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The inputs with their fractions in the precision of the model's weights, which convolutions ask for."""
    weight = next(model.parameters(), None)
    # A model that computes with weights it is given has none of its own, and says in which precision they are.
    dtype: Any = model.dtype if weight is None else weight.dtype
    return {name: value.to(dtype) if value.is_floating_point() else value for name, value in inputs.items()}


def _processed(values: pa.Array, processor: Any) -> np.ndarray:
    images = [decode(value) for value in values.to_pylist()]
    try:
        found = processor(images, return_tensors=None, input_data_format="channels_last")["pixel_values"]
    except (ValueError, TypeError, IndexError, KeyError) as error:  # what a processor says of sizes it cannot make
        raise UserError(f"the model's image processor cannot take the images: {' '.join(str(error).split())[:200]}") from None
    shapes = list(dict.fromkeys(np.shape(one) for one in found))
    if len(shapes) > 1:
        raise _differing(*shapes[:2])
    return np.stack([np.asarray(one, dtype=np.float32) for one in found])


def _differing(one: tuple[int, ...], other: tuple[int, ...]) -> UserError:
    return UserError(
        f"the model's image processor makes images of different shapes ({list(one)} and {list(other)}), which cannot stand in "
        "one batch; let its preprocessor_config.json resize to one size, or resize the images"
    )
