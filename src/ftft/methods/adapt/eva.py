"""EVA: start LoRA's A from the directions in which a layer's inputs vary most, and give rank to the layers where they say most.

    A_l [r_l, n] = the r_l leading principal directions (rows, orthonormal) of layer l's inputs [tokens, n],   B_l = 0
    r_l: of all layers' directions, each with its share of the variance of its own layer's inputs, the R = r * layers largest
         are taken, of one layer at most rho * r; a layer that gets none keeps its plain weight

Paischer et al. 2024, arXiv 2410.07170, section 3, and peft's ``get_eva_state_dict``, which is used: an incremental PCA
(the mean is taken off) batch by batch, in evaluation mode and without padding, until every direction taken has a cosine of at
least tau with what it was one batch before; layers with the same input share theirs. The scale stays alpha / r, by
alpha_l = alpha r_l / r, unless ``adjust_scaling`` is off. With ``whiten`` row i is divided by
sqrt(sigma_i), the singular value of the inputs seen.

Peft's code is followed where it says more than the paper: a direction counts as found by its cosine with the sign (signs are
made alike before), not by the cosine's size, and the decompositions are random ones with a seed of their own. Peft by default
also leaves out tokens without a label, as of prompts; here all but padding count, whatever the task.

Where we correct peft (0.21): with ``whiten`` it divides the rows that layers share once for every layer, so that query, key
and value start from rows divided by sigma^(3/2), which is undone here. It goes through the data for ever where the directions
never settle or every batch is too short; here at most ``batches`` batches are looked at. It decomposes in 2 rho r
components, so that layers and batches narrower than that fail inside torch; here they are refused, or passed over.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from ftft.errors import UserError
from ftft.settings import setting

if TYPE_CHECKING:
    import torch

    from ftft.methods.contract import Adapted, Batch, Calibration


@dataclass(frozen=True)
class EVA:
    """LoRA that starts along the principal directions of the layers' inputs and has its ranks where these explain most."""

    needs: ClassVar[tuple[str, ...]] = ("calibration",)
    offers: ClassVar[tuple[str, ...]] = ("merge", "pairs")
    tasks: ClassVar[tuple[str, ...]] = ("text_classification", "causal_language_modelling", "image_classification")
    sharded: ClassVar[bool] = True
    trainable: ClassVar[str] = "fixed"
    paper: ClassVar[str] = "Paischer et al. 2024, arXiv 2410.07170"
    library: ClassVar[str] = "peft"
    example: ClassVar[dict[str, int]] = {"rank": 4}

    rank: int = setting(16, "mean rank r; layers must have at least 2 rho r inputs", origin="the authors' scripts", ge=1)
    alpha: float = setting(16.0, "the update's scale is alpha / r", origin="alpha equal to the rank", gt=0)
    rho: float = setting(2.0, "a layer has at most rank rho r; 1 leaves every layer r", origin="peft", ge=1)
    tau: float = setting(0.99, "cosine with the batch before from which a direction counts as found", origin="peft", gt=0, le=1)
    whiten: bool = setting(False, "divide every direction by the square root of its singular value", origin="peft")
    adjust_scaling: bool = setting(True, "scale by alpha / r in every layer; by alpha / r_l otherwise", origin="peft")
    batches: int = setting(500, "calibration batches looked at, at most", ge=2)
    batch_size: int = setting(16, "examples of a calibration batch", origin="the authors' scripts", ge=1)
    targets: list[str] | None = setting(
        None, "roles of the projections (query, key, value, output, up, gate, down); by default all"
    )

    def adapt(self, model: torch.nn.Module, calibration: Calibration | None) -> Adapted:
        """``model`` with low-rank layers where the inputs ask for them, computing what it did.

        Raises UserError for a role that the model has not, a layer with fewer than 2 rho r inputs, batches that hold too few
        tokens, and directions that do not settle within ``batches`` batches.
        """
        from ftft.methods.peft_layers import ADAPTER, configuration, projections, wrap

        assert calibration is not None, "declared in needs"
        names = projections(model, self.targets)
        found = self._directions(model, names, calibration)
        ranks = {name: len(rows) for name, rows in found.items() if len(rows)}

        def initialise(layers: Mapping[str, Any]) -> None:
            for name, layer in layers.items():
                kept = layer.get_base_layer().weight
                layer.lora_A[ADAPTER].weight.data = found[name].to(kept.device, kept.dtype).clone()

        options = {
            "r": self.rank,
            "lora_alpha": self.alpha,
            "target_modules": list(ranks),
            "rank_pattern": ranks,
            "alpha_pattern": {name: self.alpha * r / self.rank for name, r in ranks.items()} if self.adjust_scaling else {},
        }
        return wrap(model, configuration("lora", options), initialise)

    def _directions(self, model: torch.nn.Module, names: list[str], calibration: Calibration) -> dict[str, torch.Tensor]:
        """For each layer named its rows of A [r_l, n], r_l >= 0."""
        from peft import EvaConfig
        from peft.tuners.lora.eva import get_eva_state_dict

        from ftft.methods.peft_layers import configuration

        components = 2 * round(self.rho * self.rank)
        for name in names:
            width = _inputs(model.get_submodule(name))
            if width < components:
                raise UserError(
                    f"adapt.rank is {self.rank} and adapt.rho {self.rho:g}, but EVA needs layers with at least 2 rho r = "
                    f"{components} inputs and {name} has {width}; give a smaller rank or rho"
                )
        eva = EvaConfig(rho=self.rho, tau=self.tau, whiten=self.whiten)
        config = configuration("lora", {"r": self.rank, "target_modules": names, "init_lora_weights": "eva", "eva_config": eva})
        modules = [model.get_submodule(name) for name in names]
        training, hooks = model.training, [set(module._forward_hooks) for module in modules]
        try:
            rows = get_eva_state_dict(
                model,
                _Batches(calibration, self.batches, self.batch_size, components, _positions(model, modules[0], calibration)),
                peft_config=config,
                forward_fn=lambda model, given: calibration.forward(model, given.batch),
                prepare_model_inputs_fn=lambda given, _: _mask(given.batch),
                prepare_layer_inputs_fn=lambda inputs, mask, _: _rows(inputs[0], mask),
                gather_distributed_inputs=False,  # every process looks at the same batches
                show_progress_bar=False,
            )
        finally:
            model.train(training)
            for module, before in zip(modules, hooks, strict=True):
                for key in set(module._forward_hooks) - before:  # where peft was interrupted
                    del module._forward_hooks[key]
        return whitened_once(rows) if self.whiten else rows


def whitened_once(rows: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Rows of unit length divided by sqrt(sigma_i), from peft's, which layers that share an input hold as one tensor, divided
    in place once for every layer whose rank reaches row i; a tensor that no other layer holds comes out as it is."""
    import torch

    def once(mine: torch.Tensor) -> torch.Tensor:
        holders = [len(other) for other in rows.values() if len(other) and other.data_ptr() == mine.data_ptr()]
        times = torch.tensor([sum(rank > row for rank in holders) for row in range(len(mine))]).to(mine)
        return mine * (mine.norm(dim=1) ** (1.0 / times - 1.0)).unsqueeze(1)

    return {name: once(mine) if len(mine) else mine for name, mine in rows.items()}


def _mask(batch: Batch) -> torch.Tensor | None:
    """Which tokens are no padding, flat; None where nothing is padded, as of images."""
    mask = batch.inputs.get("attention_mask")
    return None if mask is None else mask.bool().flatten()


def _rows(inputs: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    rows = inputs.flatten(0, -2)
    return rows if mask is None else rows[mask.to(rows.device)]


def _positions(model: torch.nn.Module, module: torch.nn.Module, calibration: Calibration) -> int:
    """How many inputs a layer gets of an example that has no padding: patches of an image. 1 where a mask counts tokens."""
    batch = next(iter(calibration.batches(1, 1)))
    if "attention_mask" in batch.inputs:
        return 1
    seen: list[int] = []
    handle = module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].flatten(0, -2).shape[0]))
    try:
        calibration.forward(model, batch)
    finally:
        handle.remove()
    return seen[0]


@dataclass(frozen=True)
class _Given:
    """A batch as peft's loop takes it: asked to go to a device it stays, for the calibration moves what it computes on."""

    batch: Batch

    def to(self, device: Any) -> _Given:
        return self


@dataclass(frozen=True)
class _Batches:
    """The calibration batches that hold at least ``tokens`` tokens (``positions`` an example where nothing is padded);
    UserError where peft asks for more than there are."""

    calibration: Calibration
    count: int
    size: int
    tokens: int
    positions: int

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[_Given]:
        most, used = 0, 0
        for batch in self.calibration.batches(self.count, self.size):
            mask = _mask(batch)
            held = self.positions * len(batch) if mask is None else int(mask.sum())
            most, used = max(most, held), used + (held >= self.tokens)
            if held >= self.tokens:
                yield _Given(batch)
        if used < 2:
            raise UserError(
                f"adapt.batch_size is {self.size}, but such calibration batches hold at most {most} tokens where EVA needs "
                f"2 rho r = {self.tokens}; give more examples a batch, or a smaller rank or rho"
            )
        raise UserError(
            f"adapt.batches is {self.count}, and after so many calibration batches of {self.size} examples EVA's directions "
            f"have not settled; give more or larger batches, or a smaller tau, rank or rho"
        )


def _inputs(module: Any) -> int:
    """The width of a projection's inputs, of a linear layer or GPT-2's transposed one."""
    return int(module.in_features if hasattr(module, "in_features") else module.weight.shape[0])
