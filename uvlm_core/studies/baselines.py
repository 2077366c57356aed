"""Mixed training and its baselines, with the same understanding rows (paper section 4).

Mixed training has more rows and so takes more steps. Its gain in understanding is therefore
measured against baselines that learn to understand only. One sees the same rows, shown as often
(the paper's comparison). Another repeats these rows for as many steps. If mixed training has text
rows, which the paper's has not, a third sees them in place of the requests.

Belongs here: these arms' runs, which several studies share. Not here: what a study compares
(`mutual_benefit.py`, `training_order.py`), the paper's runs at full size (`learning_curves.py`).
"""

from dataclasses import dataclass, replace
from typing import ClassVar

from uvlm_core.studies.base import Scale, sized
from uvlm_core.training.profiles import Profile
from uvlm_core.training.spec import RunSpec
from uvlm_core.training.stages import Stage

ONCE, REPEATED = "understanding alone", "alone for longer"  # by more epochs
GENERATION, MIXED = "generation alone", "mixed"
FIRST = "generation first"
TEXT, NO_TEXT = "understanding and text", "mixed without text"


@dataclass(frozen=True)
class MixedScale(Scale):
    """With the rows of each kind.

    Where there are fewer understanding rows than `seen`, they are shown more often: all arms but
    the longer baseline see `seen`.
    """

    POSITIVE: ClassVar[tuple[str, ...]] = ("seeds", "seen", "generation_rows")

    seen: int = 0
    generation_rows: int = 0
    text_rows: int = 0


def baselines(base: Profile, scale: MixedScale, rows: int, **same) -> dict[str, RunSpec]:
    """Return the specs of mixed training on `rows` understanding rows, and of its baselines.

    `same` holds further fields of all of them.
    """
    texts, epochs = scale.text_rows, scale.seen / rows
    more = scale.generation_rows + texts
    # the paper's weights of the image loss, of codes and of features, and its steps of one size
    same |= {"image_loss_weight": 0.2, "feature_loss_weight": 1.0, "batch_counts": "all"}
    # enough to see whether drawing is learned
    same |= {"generated_watches": min(100, base.spec.scoring.generated_watches)}
    both = sized(base, rows, scale.generation_rows, text_examples=texts, **same)
    mixed = both.vary(stages=[Stage(epochs, 1, 1)])
    alone = both.vary(regime="understanding", text_examples=0)
    found = {
        ONCE: alone.vary(stages=[Stage(epochs)]),
        REPEATED: alone.vary(stages=[Stage(epochs + more / rows)]),
        GENERATION: mixed.vary(regime="generation"),
        MIXED: mixed,
    }
    if texts:  # as often as they replace the requests, so in as many steps
        again = Stage(epochs, text=more / texts)
        found[TEXT] = mixed.vary(regime="understanding", stages=[again])
    return found


def generation_first(mixed: RunSpec) -> RunSpec:
    """Return the same rows as mixed training has, with the understanding rows after all others."""
    (stage,) = mixed.training.stages
    drawn, understood = replace(stage, understanding=0), replace(stage, generation=0, text=0)
    return mixed.vary(stages=[drawn, understood])
