"""Computing with the shapes of tensors alone: what a step would cost is counted without weights, and without computing it.

Inside :class:`ShapesOnly` every tensor is torch's FakeTensor: it says its shape, its type and the device that it stands for,
which is what attention is dispatched by, and holds no numbers. Where a program asks for a number all the same it gets 1 (the
norm of a gradient, whether a mask is empty), all numbers are alike, and a mask takes everything. What is multiplied with what
in a batch does not depend on either; where a method's course does, what is counted here is no prediction of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorConverter, FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from ftft.engine.precision import device_here

aten = torch.ops.aten
INDEXING = (aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default)

MOST_ANSWERS = 50_000  # a step, its optimizer's included, asks for a few for each parameter at most


class _Ones(TorchDispatchMode):
    """Answers what only numbers could: every number is 1, every mask is true everywhere. RuntimeError for a program that asks
    without end, as for numbers that are drawn until they are good."""

    def __init__(self) -> None:
        super().__init__()
        self.answered = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is aten._local_scalar_dense.default:
            self.answered += 1
            if self.answered > MOST_ANSWERS:
                raise RuntimeError(f"a program asked for {MOST_ANSWERS} numbers of tensors that have none")
            dtype = args[0].dtype
            return True if dtype == torch.bool else 1.0 if dtype.is_floating_point else 1
        if func is aten.allclose.default:
            return True
        if func is aten.bincount.default:
            weights, least = (*args[1:], None, 0)[:2] if len(args) > 1 else (None, 0)
            least = (kwargs or {}).get("minlength", least)
            return args[0].new_empty(max(1, least), dtype=torch.int64 if weights is None else weights.dtype)
        if func in INDEXING:
            args = (args[0], _whole(args[1]), *args[2:])
        return func(*args, **(kwargs or {}))


def _whole(indices: Sequence[torch.Tensor | None]) -> list[torch.Tensor | None]:
    """The same indices with the positions that a mask takes in the mask's place: all of them."""
    found: list[torch.Tensor | None] = []
    for index in indices:
        if index is None or index.dtype not in (torch.bool, torch.uint8):
            found.append(index)
        else:
            found += [index.new_empty(index.numel(), dtype=torch.int64) for _ in range(index.ndim)]
    return found


class _Copies(TorchFunctionMode):
    """A tensor without numbers is copied as a tensor, and not byte by byte from where its numbers would be."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.Tensor.__deepcopy__:
            tensor, memo = args
            return memo.setdefault(id(tensor), tensor.detach().clone().requires_grad_(tensor.requires_grad))
        return func(*args, **(kwargs or {}))


class _Forgetful(FakeTensorConverter):
    """Remembers no tensor: a parameter that something refers to cannot be moved with its module."""

    def set_tensor_memo(self, t: torch.Tensor, v: Any) -> None:
        pass


class ShapesOnly:
    """Tensors that are made inside have shapes and no numbers, and stand for some on ``device``; those made before are taken
    for their shapes. What is made inside one cannot be used inside another."""

    def __init__(self) -> None:
        self.device = device_here()
        self._mode = FakeTensorMode(allow_non_fake_inputs=True)
        self._mode.fake_tensor_converter = _Forgetful()
        self._entered: list[ExitStack] = []

    def __enter__(self) -> None:
        entered = ExitStack()
        entered.enter_context(self._mode)
        entered.enter_context(_Ones())
        entered.enter_context(_Copies())
        entered.enter_context(self.device)
        self._entered.append(entered)

    def __exit__(self, *failure: Any) -> None:
        self._entered.pop().close()


@contextmanager
def with_numbers() -> Iterator[None]:
    """New tensors have numbers again, inside :class:`ShapesOnly`; those without have none still, and asking for one fails."""
    with _disable_current_modes():
        yield
