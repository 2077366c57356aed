"""Making the missing records of studies without notebooks: `make records` (not in the paper).

Belongs here: which runs of which study are made next. Not here: how a grid of runs is carried out
(`runs/grid.py`), the notebooks that draw from the records (`notebooks.py`).

One seed of all studies asked for is finished before the next one starts. If the time runs out,
every comparison is still between arms of the same seeds. A backend that stacks runs gets all seeds
at once.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from uvlm_core.environment import ROOT
from uvlm_core.runs.backends import open_backend
from uvlm_core.runs.grid import RunsFailed, run_grid
from uvlm_core.runs.store import RunStore, record_key
from uvlm_core.studies import studies
from uvlm_core.studies.base import Study, find_study
from uvlm_core.studies.style import counted
from uvlm_core.training.profiles import PROFILES, Profile, profile


def runs_by_seed(
    asked: list[Study], base: Profile, seeds: int | None = None
) -> Iterator[tuple[int, list]]:
    """Yield each seed with the runs that no earlier seed has asked for, over several studies.

    Args:
        seeds: seeds per arm; those of each study's scale if None.
    """
    specs: dict = {}  # a run -> the first seed that asks for it
    for study in asked:
        scale = study.scale(base.name)
        scale = scale if seeds is None else replace(scale, seeds=seeds)
        for arm in study.arms(base, scale):
            seed, spec = arm.labels.get("seed", 0), arm.spec.canonical()
            specs[spec] = min(seed, specs.get(spec, seed))
    for seed in sorted(set(specs.values())):
        yield seed, [spec for spec, first in specs.items() if first == seed]


def _with_networks(specs: list) -> list:
    """Return the runs whose networks are here, and say why the others are left out."""
    found, reasons = [], Counter()
    for spec in specs:
        try:
            record_key(spec)
        except ValueError as error:  # it names the network, and what brings it
            reasons[str(error)] += 1
        else:
            found.append(spec)
    for reason, count in reasons.items():
        print(f"{counted(count, 'run')} left out: {reason}")
    return found


def main(arguments: list[str] | None = None) -> int:
    """Run the command line. A bad argument exits with 2, failed runs with 1, in one sentence."""
    parser = argparse.ArgumentParser(description="Make the records that studies lack.")
    parser.add_argument("--study", default="all", help="a study's name, or all (the default)")
    parser.add_argument("--profile", default="laptop", help=f"one of {', '.join(PROFILES)}")
    parser.add_argument("--seeds", type=int, help="seeds per arm (default: the study's)")
    parser.add_argument("--workers", type=int, default=2, help="runs at a time (default: 2)")
    parser.add_argument("--records", type=Path, help="default: figures/runs/PROFILE")
    options = parser.parse_args(arguments)
    try:
        base = profile(options.profile)
        asked = (
            [study for study in studies() if base.name in study.scales]
            if options.study == "all"
            else [find_study(options.study)]
        )
        store = RunStore(options.records or ROOT / "figures" / "runs" / base.name)
        found = [
            (f"seed {seed}", specs) for seed, specs in runs_by_seed(asked, base, options.seeds)
        ]
        with closing(open_backend()) as backend:
            if backend.all_seeds:
                found = [("all seeds", [spec for _, specs in found for spec in specs])]
        for name, specs in found:
            if options.study == "all":
                specs = _with_networks(specs)
            missing = [spec for spec in specs if store.load(spec) is None]
            print(f"{name}: {len(specs)} runs, {len(missing)} without a record")
            run_grid(missing, store, options.workers)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    except RunsFailed as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
