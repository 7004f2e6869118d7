"""The names of the scores of training dynamics and what each means; `scores.py` computes them. No import of numpy here."""

from __future__ import annotations

ScoreName = str  # one of SCORES; a setting so annotated is checked against them in editors too

SCORES: dict[str, str] = {
    "confidence": "mean over epochs of the gold label's probability; low means hard to learn",
    "variability": "standard deviation over epochs of the gold label's probability; high means ambiguous",
    "correctness": "number of epochs in which the gold label was predicted",
    "forgetting": "number of times a right prediction turned wrong; 1000 where it was never right",
    "threshold_closeness": "confidence times one minus confidence; high near the decision threshold",
    "entropy": "mean over epochs of the predicted distribution's entropy, in nats",
    "aum": "area under the margin: mean over epochs of the gold logit minus the largest other; low means mislabelled",
    "el2n": "length of the error vector (probabilities minus one-hot label) in the last epoch",
    "dyn_unc": "mean over windows of epochs of the gold probability's standard deviation",
    "dual": "mean over windows of that standard deviation times one minus the window's mean probability",
    "loss": "mean over epochs of the cross-entropy of the gold label, in nats",
    "random": "a seeded random number: the honest baseline of every selection",
}

# Below these numbers of recorded epochs the score says nothing, and a selection by it is refused.
MINIMUM_EPOCHS: dict[str, int] = {"variability": 2, "dyn_unc": 3, "dual": 3}
