"""Which runs each figure needs, named as the paper names them.

Belongs here: experiments as lists of specs, and the tables that figures are drawn from. Not here: how a run is carried
out (`runs.py`), how a figure looks (`figures.py`).
"""

from pathlib import Path

import pandas as pd

from uvlm_core.profiles import Profile, RunSpec
from uvlm_core.runs import RunStore, run_grid

ARMS = {  # what an arm changes in the profile's spec, in the order of drawing
    "understanding": {"regime": "understanding"},
    "generation": {"regime": "generation"},
    "unified": {"regime": "unified"},
    "shuffled": {"regime": "unified", "shuffled_requests": True},  # control: each request with another row's image
}
# The authors' record (not ours): their unified VQ-VQ at 7B, partial credit, one run, 10 checkpoints of which the first
# and the last are known; from the history of their public code.
AUTHORS_VQ_VQ = pd.DataFrame(
    [(0.1, "total", 0.891), (1.0, "total", 0.940), (0.1, "time", 0.557), (1.0, "time", 0.737)],
    columns=["fraction", "attribute", "value"])


def mutual_benefit(base: Profile, seeds: int, architectures: tuple[str, ...] = ("VQ-VQ",),
                   arms: tuple[str, ...] = tuple(ARMS)) -> list[RunSpec]:
    """Section 4, figure 3: both regimes against each task alone, and the control with shuffled requests."""
    unknown = [arm for arm in arms if arm not in ARMS]
    if unknown:
        raise ValueError(f"arm {unknown[0]!r} is not one of {', '.join(ARMS)}.")
    return [base.spec.vary(architecture=architecture, seed=seed, **ARMS[arm])
            for seed in seeds_of(seeds) for architecture in architectures for arm in arms]


def seeds_of(count: int) -> range:
    """Seeds 0 .. count - 1; a count below 1 is refused."""
    if type(count) is not int or count < 1:
        raise ValueError(f"seeds {count!r} is not an integer from 1 up.")
    return range(count)


def run(specs: list[RunSpec], records: str | Path, workers: int = 2) -> pd.DataFrame:
    """Load or train the runs: one tidy table, with the arm's name in the column `regime`.

    Columns: architecture, regime (one of `ARMS`), seed, fraction, metric, attribute, value, samples.
    """
    store = RunStore(Path(records))
    run_grid(specs, store, workers)
    table = store.table(specs, factors=("shuffled_requests",))
    table["regime"] = table["regime"].where(~table["shuffled_requests"], "shuffled")
    return table.drop(columns="shuffled_requests")
