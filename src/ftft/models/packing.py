"""Whether a model keeps apart the sequences that stand in one row, tried out on the model itself.

Tried with two rows, as batches have them: transformers' flash attention tells packed sequences in a batch of one row alone, and
lets those of several rows see one another.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ftft.errors import UserError

if TYPE_CHECKING:
    import torch

BEFORE, LENGTH = 7, 5  # tokens of the sequence in front, and of the one that is looked at
ROWS = 2
TOLERANCE = 1e-3  # of the largest logit: float32 leaves about 1e-6, a sequence that sees the one before it 0.1 and more


def require_separate(model: torch.nn.Module, where: str) -> None:
    """UserError, led by ``where``, for a language model that says other logits of a sequence behind another one in its row than
    of the sequence alone. Its mode, weights and random numbers stay as they are."""
    import torch

    device = next(model.parameters()).device
    vocabulary = int(model.get_input_embeddings().num_embeddings)  # type: ignore[operator]
    tokens = (torch.arange(BEFORE + LENGTH, device=device) * 7 + 3)[None] % vocabulary
    positions = torch.cat([torch.arange(BEFORE, device=device), torch.arange(LENGTH, device=device)])[None]
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            alone = model(input_ids=tokens[:, BEFORE:], use_cache=False).logits[0]
            packed = model(input_ids=tokens.repeat(ROWS, 1), position_ids=positions.repeat(ROWS, 1), use_cache=False).logits
    except TypeError:  # it takes no positions
        packed = None
    finally:
        model.train(was_training)
    # A gap that is no number is none to rely on.
    if packed is None or packed.shape[1] != BEFORE + LENGTH or not _gap(packed[:, BEFORE:], alone) <= TOLERANCE:
        raise UserError(
            f"{where}: in one row {type(model).__name__} does not keep sequences apart, so that they would learn from one "
            "another; leave pack out"
        )


def _gap(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).abs().max() / other.abs().max())
