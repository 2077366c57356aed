"""Where in a model is the knowledge, and where does it cross? (Paper section 4.3, figures 7 and 8.)

A model with little data about an attribute may fail to answer for two reasons: its image tokens
lack the attribute, or the LM does not read it from them. Linear probes with controls (pitfall 18)
measure what the tokens carry. Activation patching measures which layers the answer depends on.
Three models are inspected, trained for as many steps. One is trained on understanding alone with
complete data, and can answer. For the other two the attribute is rare: one is trained on
understanding alone, one is mixed.

Belongs here: this study's runs, figures and findings. Not here: what is measured in the three
models (`inspection.py`), the probes (`scoring/probing.py`), the patching (`scoring/patching.py`).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import pandas as pd

from uvlm_core.data.attributes import find_attribute
from uvlm_core.runs.store import RunStore, record_key
from uvlm_core.studies.attribute_transfer import PIXELS
from uvlm_core.studies.attribute_transfer import STUDY as TRANSFER
from uvlm_core.studies.base import Arm, Drawn, OpenedStudy, Scale, Study, arm_of, scores
from uvlm_core.studies.baselines import MIXED, REPEATED, baselines
from uvlm_core.studies.inspection import EncoderTokens, Inspection
from uvlm_core.studies.style import (
    COLOURS,
    LINES,
    NAMES,
    PAGE,
    REFERENCES,
    draw_points,
    entry,
    headline,
    known_architectures,
    new_figure,
    spread_handles,
    theme,
)
from uvlm_core.training.profiles import Profile

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ENCODER = "encoder's tokens"  # name of the arm that probes the encoder
MAP_NEIGHBOURS = 10  # of a point of a map
LEAST_TOLD = 0.5  # of the pairs: a model that tells fewer apart has no answer to carry


@dataclass(frozen=True)
class ProbedModel:
    """One of the three models: the arm that trains it, and how it is drawn."""

    arm: str
    rare: bool  # whether few of its understanding rows mention the attribute
    words: str
    look: dict


_MODELS = {  # by the names of `Inspection`
    "complete": ProbedModel(REPEATED, False, "complete data", {"linestyle": ":", "marker": "D"}),
    "understanding": ProbedModel(
        REPEATED, True, "rare, understanding alone", LINES["understanding"]
    ),
    "unified": ProbedModel(MIXED, True, "rare, mixed", LINES["unified"]),
}
_PROBE_METRICS = {"probe": "accuracy", "probe_control": "control"}  # metric -> column
_KEYS = ["architecture", "arm", "rate", "seed", "attribute"]
# colours of an attribute's values, distinct from those of architectures
_VALUE_COLOURS = ("#332288", "#ddcc77", "#117733", "#aa4499", "#88ccee")
_THIN = {"linewidth": 1.0, "markersize": 4}
# patched tokens -> label, shift that keeps bars apart, and look; greys differ in lines and markers
_PATCHED = {
    "image": ("image tokens", -0.08, _THIN | {"color": "black", "linestyle": "-", "marker": "o"}),
    "last": (
        "last token",
        0.08,
        _THIN | {"color": "black", "linestyle": "--", "marker": "^", "markerfacecolor": "white"},
    ),
    "question": (
        "question",
        0,
        _THIN | {"color": "#808080", "linestyle": ":", "marker": "s", "markersize": 2.5},
    ),
}


@dataclass(frozen=True)
class ProbesScale(Scale):
    """A scale that adds the rare attribute, the inspected architecture and the number of pairs."""

    POSITIVE: ClassVar[tuple[str, ...]] = ("seeds", "pairs")

    rare: str = "weather"
    inspected: str = "VQ-VQ"
    pairs: int = 40


def arms(base: Profile, scale: ProbesScale) -> list[Arm]:
    """Return the probed arms, the encoders' tokens and, last, the inspection.

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
    found, probed = [], {"probe_watches": base.spec.scoring.test_watches}
    for seed in range(scale.seeds):
        for name in transfer.architectures:
            same = {"seed": seed, "architecture": name} | probed
            complete = baselines(base, transfer, transfer.seen, **same)[REPEATED]
            found.append(arm_of(complete, arm=REPEATED, rate=1.0))
    wanted = (REPEATED, MIXED, PIXELS)
    found += [arm for arm in TRANSFER.arms(base, transfer) if arm.labels["arm"] in wanted]
    inspected = {
        (arm.labels["arm"], arm.labels["rate"] < 1): arm.spec.canonical()
        for arm in found
        if arm.labels["seed"] == 0 and arm.labels["architecture"] == scale.inspected
    }
    three = {name: inspected[model.arm, model.rare] for name, model in _MODELS.items()}
    labels = {"regime": "none", "rate": 1.0, "arm": ENCODER, "seed": 0}
    tokens = [
        Arm(EncoderTokens.of(base.spec.vary(architecture=name)), labels | {"architecture": name})
        for name in transfer.architectures
    ]
    return [*found, *tokens, Arm(Inspection(**three, rare=scale.rare, pairs=scale.pairs), {})]


def probe_table(arms: list[Arm], store: RunStore) -> pd.DataFrame:
    """Return the probes of every arm, one row per attribute and place.

    Columns: architecture, arm, rate, seed, attribute (what is probed), place (empty for
    pixels and concatenated tokens), accuracy, control (for random labels), record.
    """
    table = scores([arm for arm in arms if arm.labels], store)
    table = table[table["metric"].isin(_PROBE_METRICS)].replace({"metric": _PROBE_METRICS})
    wide = table.set_index([*_KEYS, "record", "metric"])["value"].unstack("metric", sort=False)
    wide = wide.reset_index().rename_axis(columns=None)
    parts = wide["attribute"].str.partition(", ")
    wide = wide.assign(attribute=parts[0], place=parts[2])
    return wide[[*_KEYS, "place", "accuracy", "control", "record"]]


# What is looked at


def last_layer(places: pd.Series) -> str:
    """Return the place with the highest number among "layer 1", "layer 2" and so on."""
    layers = places[places.str.startswith("layer ", na=False)]
    return max(layers, key=lambda place: int(place.removeprefix("layer ")))


def of_model(table: pd.DataFrame, name: str) -> pd.DataFrame:
    """Return the rows of `probe_table` about one of the three models, in any architecture."""
    model = _MODELS[name]
    return table[(table["arm"] == model.arm) & ((table["rate"] < 1) == model.rare)]


def in_last_layer(table: pd.DataFrame, attribute: str) -> pd.DataFrame:
    """Return the rows of `probe_table` about an attribute in the last layer."""
    own = table[table["attribute"] == attribute]
    return own[own["place"] == last_layer(own["place"])]


def _inspected(opened: OpenedStudy, name: str) -> pd.DataFrame:
    """Return a table of the inspection (`Inspection`)."""
    return opened.arms[-1].spec.read(opened.store, name)


def _drawn(opened: OpenedStudy, figure: "Figure", shown: pd.DataFrame) -> Drawn:
    """Return a figure of the inspection, with its record and its three models."""
    inspection = opened.arms[-1].spec
    models = {name: record_key(spec) for name, spec in inspection.models.items()}
    facts = {"pairs": inspection.pairs, "rare": inspection.rare, "models": models}
    return Drawn(figure, shown, facts, records=[record_key(inspection)], seeds=1)


def _rare(opened: OpenedStudy) -> str:
    """Return the rare attribute in words."""
    return NAMES.get(opened.scale.rare, opened.scale.rare)


def _chance_of(attribute: str) -> float:
    """Return the accuracy of a probe that guesses."""
    return 1 / find_attribute(attribute).probe_classes


# Figures


@theme()
def draw_probes(opened: OpenedStudy) -> Drawn:
    """Draw the accuracy of linear probes of an image's mean token by place in the model.

    One architecture per panel, with probes of random pixel features as the baseline.
    """
    table, attribute = opened.table, opened.scale.rare
    shown = table[(table["attribute"] == attribute) & (table["arm"] != ENCODER)]
    models, pixels = shown[shown["arm"] != PIXELS], shown[shown["arm"] == PIXELS]
    names, places = known_architectures(models), list(dict.fromkeys(models["place"]))
    shortened = {"encoder": "enc", "adapter": "in"}
    ticks = [shortened.get(place, place.removeprefix("layer ")) for place in places]
    figure = new_figure(PAGE, 2.9)
    grid = figure.subplots(1, len(names), squeeze=False, sharey=True)[0]
    for axes, architecture in zip(grid, names, strict=True):
        axes.axhline(pixels["accuracy"].mean(), **REFERENCES["baseline"])
        axes.axhline(_chance_of(attribute), **REFERENCES["chance"])
        own = models[models["architecture"] == architecture]
        for number, (name, model) in enumerate(_MODELS.items()):
            run = of_model(own, name)
            at = run["place"].map(places.index) + 0.12 * (number - 1)  # so that bars do not overlap
            look = {"color": COLOURS[architecture]} | model.look
            draw_points(axes, at, run["accuracy"], look)
        axes.set(title=architecture, xlabel="encoder, adapter (in),\nlayers of the LM")
        axes.set_xticks(range(len(places)), ticks)
        axes.grid(False, axis="x")
    grid[0].set_ylabel(f"accuracy of a probe, {_rare(opened)}")
    handles = [
        *(entry(color="black", label=model.words, **model.look) for model in _MODELS.values()),
        entry(label="random features of the pixels", **REFERENCES["baseline"]),
        entry(label="chance", **REFERENCES["chance"]),
        *spread_handles(models),
    ]
    headline(figure, headline_of_probes(opened), handles)
    return Drawn(figure, shown, {"rare": attribute})


def headline_of_probes(opened: OpenedStudy) -> str:
    """Say how often probes of the last layer are right, beside probes of the pixels."""
    table, attribute = opened.table, opened.scale.rare
    last = in_last_layer(table, attribute)
    rare, complete = of_model(last, "understanding"), of_model(last, "complete")
    pixels = table[(table["arm"] == PIXELS) & (table["attribute"] == attribute)]
    return (
        f"In the last layer a probe tells the rare {_rare(opened)} in "
        f"{rare['accuracy'].mean():.0%} of the cases,\nafter complete data in "
        f"{complete['accuracy'].mean():.0%}; random features of the pixels reach "
        f"{pixels['accuracy'].mean():.0%}"
    )


@theme()
def draw_tokens(opened: OpenedStudy) -> Drawn:
    """Draw the selectivity of probes of single image tokens, laid out as in the image.

    One panel for the encoder, which the models share, and one for the last layer of each model.
    """
    table = _inspected(opened, "tokens")
    table = table[table["token"].str.isdigit()]  # not of whole images
    table = table.assign(selectivity=table["accuracy"] - table["control"])
    last, first = last_layer(table["place"]), table["model"].iloc[0]
    shared = (table["place"] == "encoder") & (table["model"] == first)
    columns = ["model", "place", "token", "selectivity"]
    shown = table.loc[shared | (table["place"] == last), columns]
    panels = {
        f"{place}\n{_MODELS[model].words if place == last else 'of all models'}": own
        for (place, model), own in shown.groupby(["place", "model"], sort=False)["selectivity"]
    }
    figure = new_figure(PAGE, 2.2)
    grid = figure.subplots(1, len(panels), squeeze=False)[0]
    most = max(0.1, math.ceil(10 * shown["selectivity"].max()) / 10)
    for axes, (words, own) in zip(grid, panels.items(), strict=True):
        side = math.isqrt(len(own))
        image = axes.imshow(own.to_numpy().reshape(side, side), vmin=0, vmax=most, cmap="Greys")
        axes.set(xticks=[], yticks=[], title=words, xlabel=f"mean {own.mean():.2f}")
        axes.grid(False)
    figure.colorbar(image, ax=grid, shrink=0.8, label="selectivity")
    encoder, *means = [own.mean() for own in panels.values()]
    headline(
        figure,
        f"Single tokens tell the {_rare(opened)} by a mean selectivity of {encoder:.2f} in the "
        f"encoder, and of {min(means):.2f} to {max(means):.2f} in {last}",
    )
    return _drawn(opened, figure, shown)


@theme()
def draw_maps(opened: OpenedStudy) -> Drawn:
    """Draw t-SNE and UMAP of an image's mean token in the last layer, one point per watch.

    One method and model per panel. The colour is the attribute's value.
    """
    attribute = opened.scale.rare
    shown = _inspected(opened, "maps").rename(columns={"value": attribute})
    last = last_layer(shown["place"])
    shown = shown[shown["place"] == last]
    values = sorted(shown[attribute].unique())
    colours = dict(zip(values, _VALUE_COLOURS, strict=False))
    panels = dict(iter(shown.groupby(["method", "model"], sort=False)))
    figure = new_figure(PAGE, 2.7)
    grid = figure.subplots(1, len(panels), squeeze=False)[0]
    alike = []
    for axes, ((method, model), own) in zip(grid, panels.items(), strict=True):
        for value, colour in colours.items():
            points = own[own[attribute] == value]
            axes.plot(points["x"], points["y"], ".", color=colour, markersize=3, markeredgewidth=0)
        alike.append(neighbours_alike(own[["x", "y"]].to_numpy(), own[attribute].to_numpy()))
        axes.set(xticks=[], yticks=[], title=f"{method}\n{_MODELS[model].words}")
        axes.set_xlabel(f"{alike[-1]:.0%} of neighbours alike")
    shares = shown[attribute].value_counts(normalize=True)
    handles = [
        entry(linestyle="", marker="o", color=colour, label=value)
        for value, colour in colours.items()
    ]
    headline(
        figure,
        f"Neighbours on a map of {last} show the same {_rare(opened)} in "
        f"{min(alike):.0%} to {max(alike):.0%} of the cases, by chance in {(shares**2).sum():.0%}",
        handles,
        len(values),
    )
    return _drawn(opened, figure, shown)


def neighbours_alike(points: np.ndarray, values: np.ndarray) -> float:
    """Return the share of each point's `MAP_NEIGHBOURS` nearest points that have its value."""
    apart = ((points[:, None] - points) ** 2).sum(-1)
    np.fill_diagonal(apart, np.inf)  # a point is no neighbour of its own
    nearest = apart.argsort(axis=1)[:, : min(MAP_NEIGHBOURS, len(points) - 1)]
    return float((values[nearest] == values[:, None]).mean())


@theme()
def draw_patching(opened: OpenedStudy) -> Drawn:
    """Draw how far patching a layer and group of tokens moves the answer to the donor's.

    One model per panel, of those that tell `LEAST_TOLD` of the pairs apart, or of all if none does.
    """
    table = _inspected(opened, "patching")
    found = taking_over(table)
    names = list(found) or list(dict.fromkeys(table["model"]))
    figure = new_figure(PAGE, 2.9)
    grid = figure.subplots(1, len(names), squeeze=False, sharey=True)[0]
    for axes, name in zip(grid, names, strict=True):
        own = table[table["model"] == name]
        for level in (0, 1):
            axes.axhline(level, color="#bcbcbc", linewidth=0.6)
        for group, (_, aside, look) in _PATCHED.items():
            line = own[own["group"] == group].sort_values("layer")
            at = line["layer"] + aside
            axes.vlines(at, line["low"], line["high"], color=look["color"], linewidth=0.8)
            axes.plot(at, line["effect"], **look)
        axes.set(
            title=f"{_MODELS[name].words}\n({own['told'].iloc[0]:.0%} of pairs told apart)",
            xlabel="LM layer (0: what it reads)",
            xticks=sorted(own["layer"].unique()),
        )
    grid[0].set_ylabel("share of the way to the\ndonor's answer")
    drawn = table.loc[table["model"].isin(names), ["effect", "low", "high"]].clip(-1, 2)
    grid[0].set_ylim(min(0, drawn.min().min()) - 0.06, max(1, drawn.max().max()) + 0.06)
    bar = {"color": "black", "linestyle": "", "marker": "|", "markersize": 8}
    handles = [entry(label=words, **look) for words, _, look in _PATCHED.values()]
    handles.append(entry(label="95 % interval over pairs of watches", markeredgewidth=0.8, **bar))
    told = [f"{layer} ({_MODELS[name].words})" for name, layer in found.items()]
    sentence = (
        f"The last token takes over the answer from the image tokens at {', '.join(told)}"
        if told
        else "No model tells enough pairs apart to see which layer carries the answer"
    )
    headline(figure, sentence, handles, 4)
    return _drawn(opened, figure, table)


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


# What the figures say


def tell_probes(opened: OpenedStudy) -> str:
    """Say how often probes of the last layer are right, and probes of what the models read."""
    table, attribute = opened.table, opened.scale.rare
    own = table[table["architecture"].isin((opened.scale.inspected, "any"))]
    own = own[own["attribute"] == attribute]
    last = in_last_layer(own, attribute)
    models = {name: of_model(last, name)["accuracy"].mean() for name in _MODELS}
    others = own.groupby("arm")["accuracy"].mean()
    read = f"{_rare(opened).capitalize()} read correctly by a probe of"
    return (
        f"{read} the mean token in the last layer of {opened.scale.inspected}: "
        f"{_by_model(models)}.\n"
        f"{read} random features of the pixels: {others[PIXELS]:.2f}; of the encoder's "
        f"concatenated tokens: {others[ENCODER]:.2f}; by chance: {_chance_of(attribute):.2f}."
    )


def tell_tokens(opened: OpenedStudy) -> str:
    """Say how often probes of all tokens are right, and probes of their mean."""
    table = _inspected(opened, "tokens")
    last = last_layer(table["place"])
    found = table[table["place"] == last].pivot(index="token", columns="model", values="accuracy")
    read = f"{_rare(opened).capitalize()} read correctly by a probe of {last}"
    return (
        f"{read}, all tokens concatenated: {_by_model(found.loc['all'])}.\n"
        f"{read}, the mean token: {_by_model(found.loc['pooled'])}.\n"
        "A single token can hold what another one shows only because attention brought it there."
    )


def tell_maps(opened: OpenedStudy) -> str:
    """Say how to read the maps, and how alike the last layers are by linear CKA."""
    table = _inspected(opened, "cka")
    last = last_layer(table["first"])
    alike = table[(table["first"] == last) & (table["second"] == last)].set_index("models")["cka"]
    others = {name: alike[f"unified / {name}"] for name in ("complete", "understanding")}
    return (
        "Clusters on a map say less than a probe does.\n"
        "Another machine computes other coordinates from the same models, so these are drawn from "
        "the record.\n"
        f"Linear CKA of {last} between the mixed model and the others: {_by_model(others)}."
    )


def tell_patching(opened: OpenedStudy) -> str:
    """Say for each model at which layer the last token takes over the answer."""
    table = _inspected(opened, "patching")
    layers, lines = taking_over(table), []
    for name, share in table.groupby("model", sort=False)["told"].first().items():
        line = f"{_MODELS[name].words.capitalize()}: {share:.0%} of the pairs told apart"
        lines.append(
            f"{line}; the last token takes over the answer at {layers[name]}."
            if name in layers
            else f"{line}, too few to look for a layer."
        )
    lines.append(
        f"The figure shows the models that tell at least {LEAST_TOLD:.0%} of the pairs apart; if "
        "none does, it shows all."
    )
    return "\n".join(lines)


def _by_model(values: Mapping[str, float] | pd.Series) -> str:
    """Return a number of each model: "0.93 (complete data), 0.69 (rare, mixed)"."""
    return ", ".join(
        f"{values[name]:.2f} ({model.words})" for name, model in _MODELS.items() if name in values
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
        "embedding_probes": draw_probes,
        "embedding_probes_tokens": draw_tokens,
        "embedding_probes_maps": draw_maps,
        "embedding_probes_patching": draw_patching,
    },
    findings={
        "embedding_probes": tell_probes,
        "embedding_probes_tokens": tell_tokens,
        "embedding_probes_maps": tell_maps,
        "embedding_probes_patching": tell_patching,
    },
)
