"""The studies: one question, one file (paper sections 4 and 5, and the set-up of section 3).

Belongs here: the studies (`<name>.py`, each ending with `STUDY = Study(...)`), what they share
(such as `base.py`), and code that iterates over them (such as `scoreboard.py`). Not here: how a run
is carried out (`runs/`), how an answer or an image is scored (`scoring/`).

A new study is a file here, a notebook and a test. No list of studies needs editing.
"""

import importlib
import pkgutil

from uvlm_core.training.profiles import profile


def studies(drawn_in: str | None = None) -> list:
    """Return the `STUDY` of every module in this package, ordered by notebook number and name.

    With the name of a profile, only those whose figures are drawn in it: they have a scale there,
    and do not wait for their runs. ValueError for an unknown profile.
    """
    modules = [
        importlib.import_module(f"{__name__}.{found.name}")
        for found in pkgutil.iter_modules(__path__)
    ]
    found = [module.STUDY for module in modules if hasattr(module, "STUDY")]
    if drawn_in is not None:
        profile(drawn_in)
        found = [
            study for study in found if drawn_in in study.scales and drawn_in not in study.waiting
        ]
    return sorted(found, key=lambda study: (study.number, study.name))
