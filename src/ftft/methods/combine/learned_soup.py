"""Learned soup: the shares of the members are learned on the validation set, one share per member and weight tensor.

    theta_k = sum_i a_ik theta_ik,   a_k = softmax over members of c_k;   minimise the validation loss of logits * t over c, t

by AdamW with learning rate 0.05, no weight decay, 5 epochs, from equal shares and t = 1. Wortsman et al. 2022, arXiv
2203.05482, appendix I; all that is from the released code. All members are in memory at once. The temperature t only serves the
learning and is left out of the result, which must be plain weights: it changes confidence, not decisions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ftft.settings import setting

if TYPE_CHECKING:
    import torch

    from ftft.methods.contract import Artefact, Checkpoint, Validation


@dataclass(frozen=True)
class LearnedSoup:
    """Learn each weight tensor's mixture of the members on the validation set."""

    needs: ClassVar[tuple[str, ...]] = ("members", "validation")
    offers: ClassVar[tuple[str, ...]] = ()
    tasks: ClassVar[tuple[str, ...]] = ("text_classification", "image_classification")
    sharded: ClassVar[bool] = True
    artefact: ClassVar[str] = "weights"
    needs_best: ClassVar[bool] = False
    paper: ClassVar[str] = "Wortsman et al. 2022, arXiv 2203.05482"

    rate: float = setting(0.05, "learning rate of the shares", origin="released code", gt=0)
    epochs: int = setting(5, "passes over the validation sets", origin="released code", ge=0)
    batch_size: int = setting(64, "validation examples per step", origin="ours", ge=1)
    seed: int = setting(0, "order of the validation examples", ge=0)

    def combine(
        self,
        base: Callable[[], dict[str, torch.Tensor]],
        checkpoints: Sequence[Checkpoint],
        validation: Validation | None,
    ) -> Artefact:
        """The learned mixture; UserError for fewer than two members, or models of different shapes."""
        import torch

        from ftft.methods.contract import Artefact
        from ftft.methods.members import members
        from ftft.state.algebra import require_alike

        assert validation is not None
        states = [one.load() for one in members(checkpoints)]
        for state in states[1:]:
            require_alike(states[0], state)
        names = [name for name, value in states[0].items() if value.is_floating_point()]
        stacked = {name: torch.stack([state[name] for state in states]) for name in names}
        wide = {name: torch.promote_types(value.dtype, torch.float32) for name, value in stacked.items()}
        rest = {name: value for name, value in states[0].items() if name not in stacked}
        shares = torch.zeros(len(names), len(states), dtype=wide[names[0]], requires_grad=True)
        temperature = torch.ones((), dtype=shares.dtype, requires_grad=True)

        def mixed() -> dict[str, torch.Tensor]:
            mixture = torch.softmax(shares, dim=1)
            found = dict(rest)
            for share, (name, members_of) in zip(mixture, stacked.items()):
                mean = torch.tensordot(share.to(wide[name]), members_of.to(wide[name]), dims=1)
                found[name] = mean.to(members_of.dtype)
            return found

        optimizer = torch.optim.AdamW([shares, temperature], lr=self.rate, weight_decay=0.0)
        for epoch in range(self.epochs):
            for batch in validation.batches(self.batch_size, seed=self.seed + epoch):
                optimizer.zero_grad()
                validation.loss(validation.outputs(mixed(), batch) * temperature, batch).backward()
                optimizer.step()
        with torch.no_grad():
            return Artefact("weights", {name: value.detach() for name, value in mixed().items()})
