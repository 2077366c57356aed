"""Where in a model is the knowledge, and where does it cross? (Paper section 4.3, figures 7 and 8.)

A model with little data about an attribute may fail to answer for two reasons: its image tokens
lack the attribute, or the LM does not read it from them. Linear probes with controls (pitfall 18)
measure what the tokens carry. Activation patching measures which layers the answer depends on.
Three models are inspected, trained for as many steps. One is trained on understanding alone with
complete data, and can answer. For the other two the attribute is rare: one is trained on
understanding alone, one is mixed.

Belongs here: this study's runs, measurements and figures. Not here: the probes
(`scoring/probing.py`), the patching (`scoring/patching.py`).
"""

import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from uvlm_core.data.conversations import make_conversations
from uvlm_core.data.smart_watch import render_batch, sample_watches
from uvlm_core.models.kinds import KINDS
from uvlm_core.runs.store import RunStore, record_key
from uvlm_core.studies.attribute_transfer import PIXELS
from uvlm_core.studies.attribute_transfer import STUDY as TRANSFER
from uvlm_core.studies.base import (
    Arm,
    Drawn,
    Measurement,
    OpenedStudy,
    Scale,
    Study,
    arm_of,
    recorded,
    scores,
)
from uvlm_core.studies.baselines import MIXED, REPEATED, baselines
from uvlm_core.studies.statistics import mean_interval
from uvlm_core.studies.style import (
    COLOURS,
    LINES,
    NAMES,
    PAGE,
    REFERENCES,
    draw_points,
    headline,
    known_architectures,
    need,
    spread_handles,
    theme,
)
from uvlm_core.training.profiles import Profile, profile
from uvlm_core.training.spec import RunSpec

PROBED_CLASSES = {  # what is probed -> classes; equals `probing.probe_classes()`
    "weather": 3,
    "battery": 5,
    "hour": 12,
    "weather_corner": 4,
    "battery_corner": 4,
}
MAPPED_MODELS = ("understanding", "unified")
MAP_NEIGHBOURS = 10  # of a point of a map
LEAST_TOLD = 0.5  # of the pairs: a model that tells fewer apart has no answer to carry
WHOLE_IMAGE = ("pooled", "all")  # probes of the mean token, and of all tokens concatenated
# group of tokens -> label and style; lines and markers differ as well as greys
PATCHED_GROUPS = {
    "image": ("image tokens", {"color": "black", "linestyle": "-", "marker": "o"}),
    "last": (
        "last token",
        {"color": "black", "linestyle": "--", "marker": "^", "markerfacecolor": "white"},
    ),
    "question": (
        "question",
        {"color": "#808080", "linestyle": ":", "marker": "s", "markersize": 2.5},
    ),
}
_MODELS = {  # inspected model -> words
    "complete": "complete data",
    "understanding": "rare, understanding alone",
    "unified": "rare, mixed",
}
_KEYS = ["architecture", "arm", "rate", "seed"]
_PROBES = ("architecture", "arm", "rate", "seed", "attribute", "place", "accuracy", "control")
# colours of an attribute's values, distinct from those of architectures
_VALUE_COLOURS = ("#332288", "#ddcc77", "#117733", "#aa4499", "#88ccee")
ENCODER = "encoder's tokens"  # name of the arm that probes the encoder
# drawn model (arm, whether the attribute is rare) -> label and look
_PROBED_MODELS = {
    (REPEATED, False): ("complete data", {"linestyle": ":", "marker": "D"}),
    (REPEATED, True): ("rare, understanding alone", LINES["understanding"]),
    (MIXED, True): ("rare, mixed", LINES["unified"]),
}
_EFFECTS = [
    "model",
    "attribute",
    "layer",
    "group",
    "effect",
    "low",
    "high",
    "flipped",
    "gap",
    "told",
    "samples",
]


@dataclass(frozen=True)
class ProbesScale(Scale):
    """A scale that adds the rare attribute, the inspected architecture and the number of pairs."""

    rare: str = "weather"
    inspected: str = "VQ-VQ"
    pairs: int = 40


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
        return {
            "scores": [
                {
                    "fraction": 1.0,
                    "metric": metric,
                    "attribute": row["attribute"],
                    "value": row[column],
                    "samples": row["samples"],
                }
                for row in probing.probe(tokens, watches).to_dict("records")
                for metric, column in (("probe", "accuracy"), ("probe_control", "control"))
            ]
        }


@dataclass(frozen=True)
class Inspection(Measurement):
    """An inspection of three trained models: probes of single tokens, maps, CKA and patching.

    It first trains the models that the cache lacks. The record's tables and their columns:

    tokens    token, and each "model, place, accuracy" and "model, place, control"
    maps      value (of the attribute), and each "model, place, method, axis"
    cka       models, first, second, cka
    patching  `_EFFECTS`
    """

    complete: RunSpec
    understanding: RunSpec
    unified: RunSpec
    rare: str
    pairs: int  # number of watch pairs

    @property
    def models(self) -> dict[str, RunSpec]:
        """The three runs by name."""
        return {name: getattr(self, name) for name in _MODELS}

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

    def run(self, folder: Path) -> dict:
        """Return the record's body: tables and counts."""
        from uvlm_core.data.smart_watch import TEST_STREAM
        from uvlm_core.models.encoders import vectors  # late: reading the record needs no torch
        from uvlm_core.runs.trained import trained_models
        from uvlm_core.scoring.alignment import representations

        watches, images = _probed(self.complete)
        models = dict(zip(_MODELS, trained_models(list(self.models.values())), strict=True))
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
        from uvlm_core.scoring import probing

        found = pd.concat(
            [
                probing.probe_places(places, watches, by_token=True).assign(model=name)
                for name, places in states.items()
            ]
        )
        found = found[found["attribute"] == self.rare]
        return _wide(found, "token", ["model", "place"], ["accuracy", "control"])

    def _maps(self, states: dict, watches: list) -> pd.DataFrame:
        from uvlm_core.scoring import probing

        last = list(states["unified"])[-1]
        found = pd.concat(
            [
                probing.maps(states[name][place].mean(1)).assign(model=name, place=place)
                for place in ("adapter", last)
                for name in MAPPED_MODELS
            ]
        )
        values = (
            [watch.weather for watch in watches]
            if self.rare == "weather"
            else (probing.probe_labels(watches)[self.rare].tolist())
        )
        wide = _wide(
            found.round({"x": 2, "y": 2}), "image", ["model", "place", "method"], ["x", "y"]
        )
        return wide.drop(columns="image").assign(value=values)

    def _patching(self, models: dict, watches: list) -> pd.DataFrame:
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
            found.append(effects.assign(model=name))
        return pd.concat(found, ignore_index=True)[_EFFECTS]


def _probed(spec: RunSpec) -> tuple[list, np.ndarray]:
    """Return the probed test watches and their images."""
    from uvlm_core.data.smart_watch import TEST_STREAM

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
    """Pivot a table to one row per `index` and one column per combination of keys and value.

    This makes the record smaller. `_long` is the inverse.
    """
    wide = table.pivot_table(index=index, columns=keys, values=values, sort=False)
    wide.columns = [", ".join(map(str, (*names[1:], names[0]))) for names in wide.columns]
    return wide.reset_index()


def _long(table: pd.DataFrame, index: list[str], keys: list[str]) -> pd.DataFrame:
    """Undo `_wide`: return the columns of `index`, then the keys, then the values."""
    parts = {column: column.rpartition(", ") for column in table if column not in index}
    rows = []
    for names in dict.fromkeys(before for before, _, _ in parts.values()):
        values = {
            value: table[column] for column, (before, _, value) in parts.items() if before == names
        }
        rows.append(
            table[index].assign(**dict(zip(keys, names.split(", "), strict=True)), **values)
        )
    return pd.concat(rows, ignore_index=True)


def arms(base: Profile, scale: ProbesScale) -> list[Arm]:
    """Return the probed arms, the encoders' tokens and the inspection.

    The arms with the attribute rare are those of `attribute_transfer`. ValueError if that has no
    runs of the scale's rare attribute and architecture.
    """
    transfer = TRANSFER.scale(base.name)
    if scale.rare not in transfer.rare or scale.inspected not in transfer.architectures:
        raise ValueError(
            f"There are no runs of {scale.rare!r} and {scale.inspected!r}; rare in the {base.name} "
            f"profile are {', '.join(transfer.rare)}, its architectures "
            f"{', '.join(transfer.architectures)}."
        )
    transfer = replace(transfer, seeds=scale.seeds)
    found = [
        arm_of(
            baselines(
                base,
                transfer,
                transfer.seen,
                seed=seed,
                architecture=name,
                probe_watches=base.spec.scoring.test_watches,
            )[REPEATED],
            arm=REPEATED,
            rate=1.0,
        )
        for seed in range(scale.seeds)
        for name in transfer.architectures
    ]
    wanted = (REPEATED, MIXED, PIXELS)
    found += [arm for arm in TRANSFER.arms(base, transfer) if arm.labels["arm"] in wanted]
    labels = {"regime": "none", "rate": 1.0, "arm": ENCODER, "seed": 0}
    tokens = [
        Arm(EncoderTokens.of(base.spec.vary(architecture=name)), labels | {"architecture": name})
        for name in transfer.architectures
    ]
    three = {
        name: next(
            arm.spec.canonical()
            for arm in found
            if arm.labels["seed"] == 0
            and arm.labels["architecture"] == scale.inspected
            and arm.labels["arm"] == trained
            and arm.labels["rate"] == rate
        )
        for name, trained, rate in (
            ("complete", REPEATED, 1.0),
            ("understanding", REPEATED, transfer.rate),
            ("unified", MIXED, transfer.rate),
        )
    }
    return [*found, *tokens, Arm(Inspection(**three, rare=scale.rare, pairs=scale.pairs), {})]


def probe_table(arms: list[Arm], store: RunStore) -> pd.DataFrame:
    """Return the probes of every arm, one row per attribute and place.

    Columns: architecture, arm, rate, seed, attribute (what is probed), place (empty for
    pixels and concatenated tokens), accuracy, control (for random labels), record.
    """
    table = scores([arm for arm in arms if arm.labels], store)
    own = table[table["metric"].isin(("probe", "probe_control"))]
    wide = (
        own.set_index([*_KEYS, "attribute", "record", "metric"])["value"]
        .unstack("metric", sort=False)
        .reset_index()
    )
    parts = wide["attribute"].str.partition(", ")
    wide = wide.assign(attribute=parts[0], place=parts[2])
    wide = wide.rename(columns={"probe": "accuracy", "probe_control": "control"}).rename_axis(
        columns=None
    )
    return wide[[*_KEYS, "attribute", "place", "accuracy", "control", "record"]]


def inspection_of(opened: OpenedStudy) -> Inspection:
    """Return the measurement of the three models."""
    return opened.arms[-1].spec


def _looked_into(opened: OpenedStudy, name: str) -> tuple[pd.DataFrame, dict]:
    """Return a table of the inspection, and the `Drawn` arguments that its figures share."""
    inspection = inspection_of(opened)
    models = {name: record_key(spec) for name, spec in inspection.models.items()}
    return recorded(inspection, opened.store, name), {
        "facts": {"pairs": inspection.pairs, "rare": inspection.rare, "models": models},
        "records": [record_key(inspection)],
        "seeds": 1,
    }


# Figures


def short(place: str) -> str:
    """Return a place in a model as a tick label."""
    return {"encoder": "enc", "adapter": "in"}.get(place, place.removeprefix("layer "))


def probed_rows(table: pd.DataFrame, attribute: str) -> pd.DataFrame:
    """Return the rows of `probe_table` that `draw_probes` shows: an attribute's, of some arms."""
    need(table, "embedding_probes", _PROBES)
    drawn = pd.Series(False, table.index)
    for arm, rare in _PROBED_MODELS:
        drawn |= (table["arm"] == arm) & ((table["rate"] < 1) == rare)
    return table[(table["attribute"] == attribute) & (drawn | (table["arm"] == PIXELS))]


@theme()
def draw_probes(table: pd.DataFrame, attribute: str) -> Figure:
    """Draw the accuracy of linear probes of an image's mean token by place in the model.

    One architecture per panel. `table` comes from `probed_rows`.
    """
    need(table, "embedding_probes", _PROBES)
    models, name = table[table["arm"] != PIXELS], NAMES.get(attribute, attribute)
    names, places = known_architectures(models), list(dict.fromkeys(models["place"]))
    figure = Figure(figsize=(PAGE, 2.9))
    grid = figure.subplots(1, len(names), squeeze=False, sharey=True)[0]
    for axes, architecture in zip(grid, names, strict=True):
        pixels = table.loc[table["arm"] == PIXELS, "accuracy"]
        axes.axhline(pixels.mean(), **REFERENCES["baseline"])
        axes.axhline(1 / PROBED_CLASSES[attribute], **REFERENCES["chance"])
        for place, ((arm, rare), (_, look)) in enumerate(_PROBED_MODELS.items()):
            run = models[
                (models["architecture"] == architecture)
                & (models["arm"] == arm)
                & ((models["rate"] < 1) == rare)
            ]
            at = run["place"].map(places.index) + 0.12 * (place - 1)  # so that bars do not overlap
            draw_points(axes, at, run["accuracy"], {"color": COLOURS[architecture]} | look)
        axes.set(title=architecture, xlabel="encoder, adapter (in),\nlayers of the LM")
        axes.set_xticks(range(len(places)), [short(place) for place in places])
        axes.grid(False, axis="x")
    grid[0].set_ylabel(f"accuracy of a probe, {name}")
    handles = [
        *(
            Line2D([], [], color="black", label=words, **look)
            for words, look in _PROBED_MODELS.values()
        ),
        Line2D([], [], label="random features of the pixels", **REFERENCES["baseline"]),
        Line2D([], [], label="chance", **REFERENCES["chance"]),
        *spread_handles(models),
    ]
    headline(figure, headline_of_probes(models, attribute), handles)
    return figure


def headline_of_probes(models: pd.DataFrame, attribute: str) -> str:
    """Say how often probes of the last layer of understanding-only models are right.

    Only if they beat their control decidedly in every architecture, the tokens "carry" it.
    """
    last = models[models["place"] == last_layer(models["place"])]
    last = last[last["arm"] == REPEATED]
    rare, whole = last[last["rate"] < 1], last[last["rate"] == 1]
    selectivity = (rare["accuracy"] - rare["control"]).groupby(rare["architecture"])
    name = NAMES.get(attribute, attribute)
    carried = all(mean_interval(values)[1] > 0 for _, values in selectivity)
    first = (
        f"The image tokens carry the {name} even where it is rare:"
        if carried
        else f"Where the {name} is rare,"
    )
    return (
        f"{first} in the last layer\na probe is right in {rare['accuracy'].mean():.0%} "
        f"of the cases, after complete data in {whole['accuracy'].mean():.0%}"
    )


@theme()
def draw_tokens(table: pd.DataFrame, attribute: str) -> Figure:
    """Draw the selectivity of probes of single image tokens, laid out as in the image.

    One panel for the encoder, which the models share, and one for the last layer of each model.
    Columns of `table`: model, place, token, selectivity.
    """
    need(table, "embedding_probes_tokens", ("model", "place", "token", "selectivity"))
    last, name = last_layer(table["place"]), NAMES.get(attribute, attribute)
    panels = {
        f"{place}\n{_MODELS[model] if place == last else 'of all models'}": own
        for (place, model), own in table.groupby(["place", "model"], sort=False)["selectivity"]
    }
    figure = Figure(figsize=(PAGE, 2.2))
    grid = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (words, own) in zip(grid, panels.items(), strict=True):
        side = math.isqrt(len(own))
        image = axes.imshow(own.to_numpy().reshape(side, side), vmin=0, vmax=1, cmap="Greys")
        axes.set(xticks=[], yticks=[], title=words, xlabel=f"mean {own.mean():.2f}")
        axes.grid(False)
    figure.colorbar(image, ax=grid, shrink=0.8, label="selectivity")
    means = [own.mean() for own in panels.values()]
    headline(
        figure,
        f"Single tokens tell the {name} by a mean selectivity of {means[0]:.2f} in the encoder, "
        f"and of {min(means[1:]):.2f} to {max(means[1:]):.2f} in {last}",
    )
    return figure


@theme()
def draw_maps(table: pd.DataFrame, attribute: str) -> Figure:
    """Draw t-SNE and UMAP of an image's mean token, one point per watch.

    One method and model per panel. The colour is the attribute's value. Columns of `table`: model,
    place, method, x, y, and the attribute; one place.
    """
    need(table, "embedding_probes_maps", ("model", "place", "method", "x", "y", attribute))
    values = sorted(table[attribute].unique())
    panels = dict(iter(table.groupby(["method", "model"], sort=False)))
    figure = Figure(figsize=(PAGE, 2.7))
    grid = figure.subplots(1, len(panels), squeeze=False)[0]
    alike = []
    for axes, ((method, model), own) in zip(grid, panels.items(), strict=True):
        for value, colour in zip(values, _VALUE_COLOURS, strict=False):
            points = own[own[attribute] == value]
            axes.plot(points["x"], points["y"], ".", color=colour, markersize=3, markeredgewidth=0)
        alike.append(neighbours_alike(own[["x", "y"]].to_numpy(), own[attribute].to_numpy()))
        axes.set(xticks=[], yticks=[], title=f"{method}\n{_MODELS[model]}")
        axes.set_xlabel(f"{alike[-1]:.0%} of neighbours alike")
    one = next(iter(panels.values()))[attribute].value_counts(normalize=True)
    name = NAMES.get(attribute, attribute)
    headline(
        figure,
        f"Neighbours on a map of {table['place'].iloc[0]} show the same {name} in "
        f"{min(alike):.0%} to {max(alike):.0%} of the cases, by chance in {(one**2).sum():.0%}",
        [
            Line2D([], [], linestyle="", marker="o", color=colour, label=value)
            for value, colour in zip(values, _VALUE_COLOURS, strict=False)
        ],
        len(values),
    )
    return figure


def neighbours_alike(points: np.ndarray, values: np.ndarray) -> float:
    """Return the share of each point's `MAP_NEIGHBOURS` nearest points that have its value."""
    apart = ((points[:, None] - points) ** 2).sum(-1)
    np.fill_diagonal(apart, np.inf)  # a point is no neighbour of its own
    nearest = apart.argsort(axis=1)[:, : min(MAP_NEIGHBOURS, len(points) - 1)]
    return float((values[nearest] == values[:, None]).mean())


@theme()
def draw_patching(table: pd.DataFrame) -> Figure:
    """Draw how far patching a layer and group of tokens moves the answer to the donor's.

    One model per panel, of those that tell `LEAST_TOLD` of the pairs apart, or of all if none does.
    Columns of `table`: model, attribute, layer, group, effect, low, high (95 % interval over
    pairs), told (share of pairs with both answers right), samples (pairs).
    """
    need(
        table,
        "embedding_probes_patching",
        ("model", "attribute", "layer", "group", "effect", "low", "high", "told", "samples"),
    )
    found = taking_over(table)
    models = list(found) or list(dict.fromkeys(table["model"]))
    drawn = table[table["model"].isin(models)]
    figure = Figure(figsize=(PAGE, 2.9))
    grid = figure.subplots(1, len(models), squeeze=False, sharey=True)[0]
    for axes, model in zip(grid, models, strict=True):
        axes.axhline(0, color="#bcbcbc", linewidth=0.6)
        axes.axhline(1, color="#bcbcbc", linewidth=0.6)
        for (group, (_, look)), aside in zip(PATCHED_GROUPS.items(), (-0.08, 0.08, 0), strict=True):
            own = table[(table["model"] == model) & (table["group"] == group)].sort_values("layer")
            at = own["layer"] + aside  # so that bars do not overlap
            axes.vlines(at, own["low"], own["high"], color=look["color"], linewidth=0.8)
            axes.plot(at, own["effect"], **{"linewidth": 1.0, "markersize": 4} | look)
        told = table.loc[table["model"] == model, "told"].iloc[0]
        axes.set(
            title=f"{_MODELS[model]}\n({told:.0%} of pairs told apart)",
            xlabel="LM layer (0: what it reads)",
            xticks=sorted(table["layer"].unique()),
        )
        low = np.nanmin([0, drawn["effect"].min(), drawn["low"].min()])
        high = np.nanmax([1, drawn["effect"].max(), drawn["high"].max()])
        axes.set_ylim(max(-1.0, low) - 0.06, min(2.0, high) + 0.06)
    grid[0].set_ylabel("share of the way to the\ndonor's answer")
    handles = [
        Line2D([], [], label=words, **{"linewidth": 1.0, "markersize": 4} | look)
        for words, look in PATCHED_GROUPS.values()
    ]
    handles.append(
        Line2D(
            [],
            [],
            color="black",
            linestyle="",
            marker="|",
            markersize=8,
            markeredgewidth=0.8,
            label="95 % interval over pairs of watches",
        )
    )
    told = [f"{layer} ({_MODELS[model]})" for model, layer in found.items()]
    sentence = (
        f"The last token takes over the answer from the image tokens at {', '.join(told)}"
        if told
        else "No model tells enough pairs apart to see which layer carries the answer"
    )
    headline(figure, sentence, handles, 4)
    return figure


def taking_over(table: pd.DataFrame) -> dict[str, str]:
    """Return the first layer at which the last token outweighs the image tokens, by model.

    A model that tells fewer than `LEAST_TOLD` of the pairs apart is left out.
    """
    found = {}
    for model, own in table[table["told"] >= LEAST_TOLD].groupby("model", sort=False):
        effects = own.pivot_table(index="layer", columns="group", values="effect")
        passed = effects.index[effects["last"] > effects["image"]]
        found[model] = f"layer {passed[0]}" if len(passed) else "no layer"
    return found


def show_probes(opened: OpenedStudy) -> Drawn:
    """Draw the probes of the rare attribute beside those of random pixel features."""
    attribute = inspection_of(opened).rare
    shown = probed_rows(opened.table, attribute)
    return Drawn(draw_probes(shown, attribute), shown, {"rare": opened.scale.rare})


def show_tokens(opened: OpenedStudy) -> Drawn:
    """Draw the selectivity of single tokens in the encoder and in the last layer."""
    table, common = _looked_into(opened, "tokens")
    found = _long(table[~table["token"].isin(WHOLE_IMAGE)], ["token"], ["model", "place"])
    found = found.assign(selectivity=found["accuracy"] - found["control"])
    shared = (found["place"] == "encoder") & (found["model"] == found["model"].iloc[0])
    shown = found.loc[
        shared | (found["place"] == last_layer(found["place"])),
        ["model", "place", "token", "selectivity"],
    ]
    return Drawn(draw_tokens(shown, inspection_of(opened).rare), shown, **common)


def show_maps(opened: OpenedStudy) -> Drawn:
    """Draw the t-SNE and UMAP maps of the last layer of two models."""
    table, common = _looked_into(opened, "maps")
    attribute = inspection_of(opened).rare
    shown = _long(table, ["value"], ["model", "place", "method"])
    shown = shown[shown["place"] == last_layer(shown["place"])]
    shown = shown.rename(columns={"value": attribute})
    return Drawn(draw_maps(shown, shown.columns[0]), shown, **common)


def show_patching(opened: OpenedStudy) -> Drawn:
    """Draw which layers carry the answer in the three models."""
    table, common = _looked_into(opened, "patching")
    return Drawn(draw_patching(table), table, **common)


# What the figures say


def last_layer(places: pd.Series) -> str:
    """Return the place with the highest number among "layer 1", "layer 2" and so on."""
    layers = places[places.str.startswith("layer ", na=False)]
    return max(layers, key=lambda place: int(place.removeprefix("layer ")))


def tell_probes(opened: OpenedStudy) -> str:
    """Say how well probes read the attribute in the last layer, in pixels and in the encoder."""
    inspection, table = inspection_of(opened), opened.table
    own = table[table["attribute"] == inspection.rare]
    last = own[own["place"] == last_layer(own["place"])]

    def mean(arm: str, rare: bool, rows: pd.DataFrame) -> float:
        chosen = rows[
            (rows["arm"] == arm)
            & ((rows["rate"] < 1) == rare)
            & rows["architecture"].isin((opened.scale.inspected, "any"))
        ]
        return chosen["accuracy"].mean()

    return (
        f"In the last layer of {opened.scale.inspected}, a probe of the mean token tells the "
        f"{inspection.rare} in {mean(REPEATED, False, last):.2f} of the cases after "
        f"complete data. Where it is rare, it is right in {mean(REPEATED, True, last):.2f}, and "
        f"in {mean(MIXED, True, last):.2f} if the model also learns to draw. Random features of "
        f"the pixels reach {mean(PIXELS, False, own):.2f}, the encoder's tokens side by side "
        f"{mean(ENCODER, False, own):.2f}."
    )


def tell_tokens(opened: OpenedStudy) -> str:
    """Say how well probes read the attribute from all tokens, and from their mean."""
    table = recorded(inspection_of(opened), opened.store, "tokens").set_index("token")
    places = list(dict.fromkeys(name.split(", ")[1] for name in table.columns))
    found = [
        f"{table.loc['all', f'{model}, {places[-1]}, accuracy']:.2f} from all tokens and "
        f"{table.loc['pooled', f'{model}, {places[-1]}, accuracy']:.2f} from their mean ({words})"
        for model, words in _MODELS.items()
    ]
    first = table.loc["all", f"complete, {places[0]}, accuracy"]
    return (
        f"Side by side, the encoder's tokens tell the {inspection_of(opened).rare} in "
        f"{first:.2f} of the cases. In {places[-1]} probes are right in {'; '.join(found)}. What a "
        "single token gains on the way is what attention copies into it."
    )


def tell_maps(opened: OpenedStudy) -> str:
    """Say how to read the maps, and how alike the models are by linear CKA."""
    table, _ = _looked_into(opened, "cka")
    same = table[table["first"] == table["second"]]
    found = []
    for pair, own in same.groupby("models", sort=False):
        other = _MODELS[pair.removeprefix("unified / ")].removeprefix("rare, ")
        found.append(
            f"{other} by {own['cka'].iloc[0]:.2f} at the {own['first'].iloc[0]} and by "
            f"{own['cka'].iloc[-1]:.2f} in {own['first'].iloc[-1]}"
        )
    return (
        "Clusters on a map say less than a probe does. t-SNE and UMAP give other coordinates on "
        "another machine; these come from the record. By linear CKA, the unified model agrees with "
        f"{', with '.join(found)}."
    )


def tell_patching(opened: OpenedStudy) -> str:
    """Say at which layer the answer passes from the image tokens to the last token."""
    table, _ = _looked_into(opened, "patching")
    told, layers = table.groupby("model", sort=False)["told"].first(), taking_over(table)
    found = [
        f"{_MODELS[model]}: {layers.get(model, 'not drawn')} ({share:.0%} of the pairs told apart)"
        for model, share in told.items()
    ]
    return (
        "The first layer at which the last token carries more of the answer than the image "
        f"tokens: {'; '.join(found)}. A model that tells fewer than {LEAST_TOLD:.0%} of the pairs "
        "apart has no answer to carry, and is drawn only if no model tells more."
    )


STUDY = Study(
    name="embedding_probes",
    number=6,
    section="4.3, figures 7 and 8",
    question="If a model cannot answer about an attribute, is it missing inside, or not used?",
    scales={
        "smoke": ProbesScale(1, pairs=4),
        "laptop": ProbesScale(3),
        "smollm": ProbesScale(1, inspected="SigLIP-VQ"),
        "paper": ProbesScale(1, inspected="SigLIP-VQ"),
    },
    arms=arms,
    table=probe_table,
    figures={
        "embedding_probes": show_probes,
        "embedding_probes_tokens": show_tokens,
        "embedding_probes_maps": show_maps,
        "embedding_probes_patching": show_patching,
    },
    findings={
        "embedding_probes": tell_probes,
        "embedding_probes_tokens": tell_tokens,
        "embedding_probes_maps": tell_maps,
        "embedding_probes_patching": tell_patching,
    },
)
