"""What a table of dynamics prints as: one short line."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa

from ftft.dynamics.table import Dynamics


def test_dynamics_print_as_one_short_line(random_dynamics) -> None:
    dynamics = random_dynamics(1200, 4)
    dynamics.metadata["source"] = "online"
    assert repr(dynamics) == str(dynamics) == "Dynamics(1,200 examples; epochs 0-3; 3 classes; source online)"
    assert repr(dynamics.only_epochs([0, 2])) == "Dynamics(1,200 examples; epochs 0, 2; 3 classes; source online)"
    bare = replace(dynamics, logits=None, pair_probability=np.zeros((4, 1200), dtype=np.float32), metadata={})
    assert repr(bare) == "Dynamics(1,200 examples; epochs 0-3; pair_probability)"
    none = Dynamics(pa.array([], pa.string()), (), np.zeros((0, 0), dtype=bool))
    assert repr(none) == "Dynamics(0 examples; epochs none)"
