"""The seven questions that fine-tuning methods answer, and the verb that answers each; no heavy import here."""

from __future__ import annotations

QUESTIONS = ("create", "select", "adapt", "objective", "optimize", "combine", "evaluate")

ASKED = {
    "create": "Where do examples come from?",
    "select": "Which examples does the model learn from?",
    "adapt": "Which parameters may change, and in what form?",
    "objective": "What is minimised?",
    "optimize": "How is each step taken?",
    "combine": "What comes out at the end?",
    "evaluate": "How good, how robust, at what price?",
}

# The one function a method of each question must define, as the protocols of `contract.py` type it.
VERBS = {
    "create": "create",
    "select": "select",
    "adapt": "adapt",
    "objective": "start",
    "optimize": "start",
    "combine": "combine",
    "evaluate": "evaluate",
}

# What an evaluator needs that is asked once a model and not once an evaluation set.
OF_MODELS = ("weights", "base_weights", "base_predictions")
