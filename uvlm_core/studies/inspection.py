"""What `embedding_probes` measures beside the runs' own probes (paper section 4.3, figures 7, 8).

`Inspection` looks into three trained models, `EncoderTokens` into what they read.

Belongs here: these measurements, and how the tables of their records are laid out. Not here: which
models are inspected and what is drawn (`embedding_probes.py`), the probes and maps
(`scoring/probing.py`), the patching (`scoring/patching.py`).
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from uvlm_core.data.conversations import make_conversations
from uvlm_core.data.smart_watch import TEST_STREAM, render_batch, sample_watches
from uvlm_core.models.kinds import KINDS
from uvlm_core.runs.store import RunStore
from uvlm_core.studies.base import Measurement, recorded
from uvlm_core.training.profiles import profile
from uvlm_core.training.spec import RunSpec

_LAID_WIDE = {  # table of a record -> its column that is a row's name, and the keys of the others
    "tokens": ("token", ["model", "place"]),
    "maps": ("value", ["model", "place", "method"]),
}


@dataclass(frozen=True)
class EncoderTokens(Measurement):
    """Probes of an encoder's concatenated tokens: the reference ceiling of the models' probes."""

    spec: RunSpec

    @classmethod
    def of(cls, spec: RunSpec) -> "EncoderTokens":
        """Return the measurement for a run's understanding side, without unrelated settings."""
        kind = spec.model.understanding
        network = KINDS[kind].network
        return cls(
            profile("laptop").spec.vary(
                architecture=f"{kind}-{kind}",
                image_size=spec.data.image_size,
                hours=spec.data.hours,
                test_watches=spec.scoring.test_watches,
                **{network: getattr(spec.model, network)},
            )
        )

    def to_dict(self) -> dict:
        return {"measurement": type(self).__name__, "spec": self.spec.to_dict()}

    @property
    def networks(self) -> tuple[str, ...]:
        return (getattr(self.spec.model, KINDS[self.spec.model.understanding].network),)

    def run(self, folder: Path) -> dict:
        """Return the record's body: scores of the metrics probe and probe_control by attribute."""
        # late: reading the record needs no torch
        from uvlm_core.models.encoders import load_encoder, vectors
        from uvlm_core.scoring import probing

        watches, images = _probed(self.spec)
        encoder = load_encoder(self.spec.model.understanding, self.spec)
        # (images, tokens * width)
        tokens = vectors(encoder, encoder.encode(images)).reshape(len(images), -1)
        found = probing.probe_scores(probing.probe(tokens, watches))
        return {"scores": [{"fraction": 1.0} | row for row in found]}


@dataclass(frozen=True)
class Inspection(Measurement):
    """An inspection of three trained models: probes of single tokens, maps, CKA and patching.

    It first trains the models that the cache lacks. The record's tables, as `read` returns them:

    tokens    token (its number, "pooled" or "all"), model, place, accuracy, control
    maps      value (of the attribute), model, place, method, x, y
    cka       models, first, second (their places), cka
    patching  model, and the columns of `patching.patch_effects`
    """

    complete: RunSpec
    understanding: RunSpec
    unified: RunSpec
    rare: str
    pairs: int  # number of watch pairs

    @property
    def models(self) -> dict[str, RunSpec]:
        """The three runs by name."""
        return {name: getattr(self, name) for name in ("complete", "understanding", "unified")}

    def to_dict(self) -> dict:
        return {
            "measurement": type(self).__name__,
            "rare": self.rare,
            "pairs": self.pairs,
            "models": {name: spec.to_dict() for name, spec in self.models.items()},
        }

    @property
    def networks(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name for spec in self.models.values() for name in spec.networks))

    def cost(self) -> float:
        return sum(spec.cost() for spec in self.models.values())

    def read(self, store: RunStore, name: str) -> pd.DataFrame:
        """Return a table of the record; ValueError when there is no record."""
        table = recorded(self, store, name)
        return _long(table, *_LAID_WIDE[name]) if name in _LAID_WIDE else table

    def run(self, folder: Path) -> dict:
        """Return the record's body: tables and counts."""
        # late: reading the record needs no torch
        from uvlm_core.models.encoders import vectors
        from uvlm_core.runs.trained import trained_models
        from uvlm_core.scoring.alignment import representations

        watches, images = _probed(self.complete)
        models = dict(zip(self.models, trained_models(list(self.models.values())), strict=True))
        talks = make_conversations(watches, "vqa", TEST_STREAM)
        states = {}  # model -> place -> (images, tokens, width)
        for name, (model, processor, encoder, _) in models.items():
            outputs = encoder.encode(images)
            states[name] = {"encoder": vectors(encoder, outputs)} | representations(
                model, processor, talks, outputs
            )
        tables = {
            "tokens": self._tokens(states, watches),
            "maps": self._maps(states, watches),
            "cka": _likeness(states),
            "patching": self._patching(models, watches),
        }
        return {
            "tables": {name: table.to_dict("list") for name, table in tables.items()},
            "counts": {"test watches": len(watches), "pairs": self.pairs},
        }

    def _tokens(self, states: dict, watches: list) -> pd.DataFrame:
        """Return the probes of single tokens and of whole images, laid wide."""
        from uvlm_core.scoring import probing

        found = pd.concat(
            [
                probing.probe_places(places, watches, by_token=True).assign(model=name)
                for name, places in states.items()
            ]
        )
        found = found[found["attribute"] == self.rare]
        return _wide(found, *_LAID_WIDE["tokens"], ["accuracy", "control"])

    def _maps(self, states: dict, watches: list) -> pd.DataFrame:
        """Return the maps of the mean token where the LM begins and ends, laid wide."""
        from uvlm_core.scoring import probing

        last = list(states["unified"])[-1]
        found = pd.concat(
            [
                probing.maps(states[name][place].mean(1)).assign(model=name, place=place)
                for place in ("adapter", last)
                for name in ("understanding", "unified")
            ]
        )
        wide = _wide(found.round({"x": 2, "y": 2}), "image", _LAID_WIDE["maps"][1], ["x", "y"])
        values = (
            [watch.weather for watch in watches]
            if self.rare == "weather"
            else probing.probe_labels(watches)[self.rare].tolist()
        )
        return wide.drop(columns="image").assign(value=values)

    def _patching(self, models: dict, watches: list) -> pd.DataFrame:
        """Return the effects of patching in each model, on the same pairs of watches."""
        from uvlm_core.scoring import patching

        found, couples = [], patching.pairs_of(watches[: self.pairs], self.rare)
        for name, (model, processor, encoder, _) in models.items():
            sides = [
                encoder.encode(render_batch(side, self.complete.data.image_size))
                for side in zip(*couples, strict=True)
            ]
            effects = patching.patch_effects(
                model, processor, couples, self.rare, sides, tuple(patching.GROUPS[:3])
            )
            effects.insert(0, "model", name)
            found.append(effects)
        return pd.concat(found, ignore_index=True)


def _probed(spec: RunSpec) -> tuple[list, np.ndarray]:
    """Return the probed test watches and their images."""
    watches = sample_watches(TEST_STREAM, spec.scoring.test_watches, "test", hours=spec.data.hours)
    return watches, render_batch(watches, spec.data.image_size)


def _likeness(states: dict) -> pd.DataFrame:
    """Return linear CKA of the mean token between all places of two models."""
    from uvlm_core.scoring.alignment import linear_cka

    pooled = {
        name: {place: tokens.mean(1) for place, tokens in places.items()}
        for name, places in states.items()
    }
    rows = [
        (f"{first} / {second}", one, other, linear_cka(pooled[first][one], pooled[second][other]))
        for first, second in (("unified", "understanding"), ("unified", "complete"))
        for one in states[first]
        for other in states[second]
    ]
    return pd.DataFrame(rows, columns=["models", "first", "second", "cka"])


def _wide(table: pd.DataFrame, index: str, keys: list[str], values: list[str]) -> pd.DataFrame:
    """Pivot a table to one row per `index` and one column such as "unified, layer 1, accuracy".

    A column's name holds the keys and the value's name. This makes the record smaller. `_long` is
    the inverse.
    """
    wide = table.pivot_table(index=index, columns=keys, values=values, sort=False)
    wide.columns = [", ".join(map(str, (*names[1:], names[0]))) for names in wide.columns]
    return wide.reset_index()


def _long(table: pd.DataFrame, index: str, keys: list[str]) -> pd.DataFrame:
    """Undo `_wide`: return the column `index`, then the keys, then the values."""
    parts = {}  # keys -> value's name -> column
    for column in table.columns.drop(index):
        named, _, value = column.rpartition(", ")
        parts.setdefault(named, {})[value] = table[column]
    return pd.concat(
        [
            table[[index]].assign(**dict(zip(keys, named.split(", "), strict=True)), **values)
            for named, values in parts.items()
        ],
        ignore_index=True,
    )
