"""LISA: AdamW on the embeddings, the head and a few blocks, which are drawn anew every so many steps.

Every ``interval`` steps, the first included, ``layers`` of the blocks are drawn uniformly and without replacement; they learn,
the other blocks are frozen. What lies outside the blocks learns always. Pan et al. 2024, arXiv 2403.17919, algorithm 1.

The paper calls the draw importance sampling; there and in its code it is uniform, as here. The paper ran every interval as a
training of its own, with fresh moments; its code (LMFlow) keeps the moments of frozen blocks, and with them the memory that
the method is to save. Here a block that is frozen loses its moments (``keep_state``: keeps them), a block that is drawn twice
in a row goes on with them. All parameters belong to the optimizer from the start, or a block frozen at first could never learn
(a trap of copies of that code, which froze all blocks before the optimizer was made: any ``layers`` gave the same loss). LMFlow
draws with numpy's global generator, which processes must seed alike; here the draw follows from the seed and the step's number.
Not to be combined with an adapter that moves the set of trainable parameters itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ftft.errors import UserError
from ftft.settings import setting

if TYPE_CHECKING:
    import torch

    from ftft.methods.contract import Trainables


@dataclass(frozen=True)
class LISA:
    """AdamW on a few randomly drawn blocks at a time, and on all that is outside the blocks."""

    learning_rate: float = setting(2e-5, "peak learning rate", origin="LMFlow, script of LISA", gt=0)
    layers: int = setting(2, "blocks that learn at a time", origin="LMFlow", ge=1)
    interval: int = setting(20, "optimizer steps between draws", origin="LMFlow", ge=1)
    keep_state: bool = setting(False, "keep the moments of frozen blocks", origin="the paper's runs; LMFlow keeps them")
    betas: tuple[float, float] = setting((0.9, 0.999), "decay of the first and second moments", origin="torch", ge=0, lt=1)
    epsilon: float = setting(1e-8, "added to the root of the second moment", origin="torch", gt=0)
    weight_decay: float = setting(0.0, "decay per step and unit of learning rate", origin="LMFlow", ge=0)
    seed: int = setting(0, "added to the run's seed, from which the blocks are drawn", origin="ours", ge=0)

    needs: ClassVar[tuple[str, ...]] = ("blocks",)
    offers: ClassVar[tuple[str, ...]] = ()
    tasks: ClassVar[tuple[str, ...]] = ("text_classification", "causal_language_modelling", "image_classification")
    sharded: ClassVar[bool] = False
    trainable: ClassVar[str] = "scheduled"
    paper: ClassVar[str] = "Pan et al. 2024, arXiv 2403.17919"
    example: ClassVar[dict[str, int]] = {"interval": 2}

    def start(self, trainables: Trainables) -> torch.optim.Optimizer:
        """AdamW over all trainable parameters, with the hook that draws; UserError where the model has too few blocks with
        trainable parameters, or none that are known."""
        from ftft.methods.optimize.adamw import AdamW
        from ftft.modelmap import blocks_of
        from ftft.nn.layer_schedule import RandomBlocks

        _, modules = blocks_of(trainables.model)
        trained = {id(parameter) for _, parameter in trainables.named}
        blocks = [[parameter for parameter in module.parameters() if id(parameter) in trained] for module in modules]
        blocks = [block for block in blocks if block]
        if self.layers > len(blocks):
            raise UserError(
                f"optimize.layers is {self.layers}, but {len(blocks)} blocks of {type(trainables.model).__name__} have "
                "trainable parameters; lower it, or choose an adapter that trains more blocks"
            )
        decay, rate = self.weight_decay, self.learning_rate
        optimizer = AdamW(learning_rate=rate, betas=self.betas, epsilon=self.epsilon, weight_decay=decay).start(trainables)
        seed = self.seed + trainables.seed
        hook = RandomBlocks(blocks, count=self.layers, interval=self.interval, seed=seed, keep_state=self.keep_state)
        optimizer.before_step = hook  # type: ignore[attr-defined]
        return optimizer
