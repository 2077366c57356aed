"""Tables of the studies out of random numbers, and a study that is opened upon one, for tests."""

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from uvlm_core.data.attributes import ATTRIBUTES
from uvlm_core.models.kinds import KINDS, kinds_of
from uvlm_core.models.language_models import LM_LAYERS, parameters_of
from uvlm_core.runs.store import RunStore
from uvlm_core.scoring.alignment import MEASURES
from uvlm_core.scoring.probing import probe_classes
from uvlm_core.studies.affine_alignment import ONE, TWO
from uvlm_core.studies.attribute_transfer import ABSENT, FALSE
from uvlm_core.studies.base import REGIME_CHANGES, OpenedStudy, find_study, generation_metric
from uvlm_core.studies.baselines import FIRST, GENERATION, MIXED, NO_TEXT, ONCE, REPEATED, TEXT
from uvlm_core.studies.captioned_pictures import drawn_metric
from uvlm_core.studies.generation_heads import NEEDED
from uvlm_core.studies.language_model_scale import STARTS
from uvlm_core.studies.trained_parts import PARTS
from uvlm_core.studies.training_order import ARMS, SHUFFLED
from uvlm_core.studies.when_it_helps import cells
from uvlm_core.training.profiles import profile

SCORES = ["architecture", "regime", "seed", "fraction", "metric", "attribute", "value", "samples"]
DISTORTED = ["arm", "adapters", "family", "dose"]


def opened(name: str, table: pd.DataFrame, profile_name: str = "smoke", **changes) -> OpenedStudy:
    """A study, its scale changed, upon a table and no records."""
    study = find_study(name)
    scale = replace(study.scale(profile_name), **changes)
    found = OpenedStudy(
        study, profile(profile_name), scale, [], RunStore("nowhere"), Path("nowhere")
    )
    found.__dict__["table"] = table.assign(
        record="0"
    )  # what `cached_property` would have put there
    return found


def scores(architectures=("VQ-VQ",), seeds=3) -> pd.DataFrame:
    """A table of learning_curves, out of random numbers."""
    rng = np.random.default_rng(0)
    rows = []
    for architecture in architectures:
        read = generation_metric(architecture)
        distance = {"read_back": "reader_frechet", "feature_read_back": "feature_frechet"}[read]
        for arm in REGIME_CHANGES:
            metrics = [
                ("partial", name)
                for name in (*ATTRIBUTES, *ATTRIBUTES["time"].parts, "total")
                if arm != "generation"
            ]
            if arm != "understanding":
                metrics += [
                    (read, name) for name in (*ATTRIBUTES, *ATTRIBUTES["time"].parts, "total")
                ]
                metrics += [(distance, "9 against 9"), (f"{distance}_floor", "9 against 9")]
            rows += [
                (architecture, arm, seed, fraction, metric, name, rng.random(), 9)
                for seed in range(seeds)
                for fraction in (0.05, 0.5, 1.0)
                for metric, name in metrics
            ]
            if arm == "unified":  # measured before training too
                rows += [
                    (architecture, arm, seed, 0.0, "alignment_cka", "adapter", rng.random(), 9)
                    for seed in range(seeds)
                ]
    return pd.DataFrame(rows, columns=SCORES)


def scaling(architectures=("VQ-VQ",), seeds=3) -> pd.DataFrame:
    """A table of data_scaling at its smoke scale, out of random numbers."""
    rng, rows = np.random.default_rng(1), []
    for name in architectures:
        runs = [(ONCE, count, 0) for count in (8, 16, 32)]
        runs += [(arm, 16, requests) for arm in (MIXED, TEXT, REPEATED) for requests in (8, 16)]
        runs += [(GENERATION, 0, 16), (MIXED, 8, 16)]
        rows += [
            (name, "", seed, 1.0, metric, attribute, 0.5 + 0.3 * rng.random(), 9, *run)
            for run in runs
            for seed in range(seeds)
            for attribute in ("total", "time")
            for metric in ("partial", generation_metric(name))
        ]
    return pd.DataFrame(rows, columns=[*SCORES, "arm", "understanding_rows", "generation_rows"])


def distorted(architectures=("VQ-VQ",), seeds=3) -> pd.DataFrame:
    """A table of affine_alignment at its smoke scale, out of random numbers."""
    rng, rows = np.random.default_rng(2), []
    judged = [(arm, ONE) for arm in (ONCE, REPEATED, TEXT, MIXED, FIRST)] + [(MIXED, TWO)]
    arms = [(*arm, *how) for how in (("none", 0.0), ("affine", 1.0)) for arm in judged]
    arms += [(arm, ONE, "authors", 0.3) for arm in (ONCE, MIXED)]
    for name, how, seed in itertools.product(architectures, arms, range(seeds)):
        start = (name, "unified" if how[0] == MIXED else "understanding", seed)
        metrics = ["partial"] + [generation_metric(name)] * (how[0] == MIXED)
        rows += [
            (*start, 1.0, metric, attribute, 0.6 + 0.3 * rng.random(), 9, *how)
            for metric in metrics
            for attribute in ("total", *ATTRIBUTES)
        ]
        rows += [
            (*start, fraction, f"alignment_{measure}", where, rng.random(), 9, *how)
            for fraction in (0.0, 1.0)
            for measure in MEASURES
            for where in ("adapter", "layer 1")
            if how[0] == MIXED
        ]
    return pd.DataFrame(rows, columns=[*SCORES, *DISTORTED])


def transferred(architectures=("VQ-VQ",), seeds=3) -> pd.DataFrame:
    """A table of attribute_transfer, out of random numbers; the attributes of its smoke scale."""
    rng, rows = np.random.default_rng(4), []
    arms = (ONCE, REPEATED, TEXT, MIXED, ABSENT, FALSE, FIRST)
    for name, arm, seed in itertools.product(architectures, arms, range(seeds)):
        drawn = () if arm in (ONCE, REPEATED, TEXT) else (generation_metric(name),)
        found = [(metric, attribute) for attribute in ATTRIBUTES for metric in ("partial", *drawn)]
        found += [
            (metric, f"{attribute}, {place}")
            for metric in ("probe", "probe_control")
            for attribute in probe_classes()
            for place in ("encoder", "adapter", "layer 1")
        ]
        found += [("constrained", attribute) for attribute in ("weather", "weather_corner")]
        regime = "unified" if drawn else "understanding"
        rows += [
            (name, regime, seed, 1.0, metric, attribute, rng.random(), 9, arm, 0.2)
            for metric, attribute in found
        ]
    rows += [
        ("any", "none", seed, 1.0, metric, attribute, rng.random(), 9, "random features", 1.0)
        for seed in range(seeds)
        for metric in ("probe", "probe_control")
        for attribute in probe_classes()
    ]
    return pd.DataFrame(rows, columns=[*SCORES, "arm", "rate"])


def probed(architectures=("VQ-VQ",), seeds=3) -> pd.DataFrame:
    """A table of embedding_probes, out of random numbers."""
    rng, rows = np.random.default_rng(8), []
    arms = [(REPEATED, 1.0), (REPEATED, 0.1), (MIXED, 0.1)]
    for name, (arm, rate), seed in itertools.product(architectures, arms, range(seeds)):
        rows += [
            (name, arm, rate, seed, attribute, place, *rng.random(2))
            for attribute in probe_classes()
            for place in ("encoder", "adapter", "layer 1", "layer 2")
        ]
    rows += [
        ("any", "random features", 1.0, seed, attribute, "", 0.7, 0.3)
        for seed in range(seeds)
        for attribute in probe_classes()
    ]
    rows += [
        (name, "encoder's tokens", 1.0, 0, attribute, "", 0.9, 0.3)
        for name in architectures
        for attribute in probe_classes()
    ]
    columns = ["architecture", "arm", "rate", "seed", "attribute", "place"]
    return pd.DataFrame(rows, columns=[*columns, "accuracy", "control"])


def pictured(architectures=("VQ-VQ",), seeds=3) -> pd.DataFrame:
    """A table of captioned_pictures, out of random numbers."""
    rng, rows = np.random.default_rng(5), []
    for name, arm, seed in itertools.product(
        architectures, (ONCE, REPEATED, GENERATION, MIXED, SHUFFLED), range(seeds)
    ):
        told = [("token_accuracy", "caption", 51), ("caption_retrieval", "first 5", 51)]
        drawn = [(drawn_metric(name), "first 5", 50), ("drawn_retrieval_tokenizer", "first 5", 50)]
        drawn += [
            (f"efficientnet_kernel{end}", "9 against 9", 50) for end in ("", "_floor", "_tokenizer")
        ]
        scored = told * (arm != GENERATION) + drawn * (arm not in (ONCE, REPEATED))
        rows += [
            (name, "unified", seed, 1.0, metric, attribute, rng.random(), samples, arm)
            for metric, attribute, samples in scored
        ]
    return pd.DataFrame(rows, columns=[*SCORES, "arm"])


def cosines(architectures=("VQ-SigLIP",), seeds=3) -> pd.DataFrame:
    """A table of learning_curves, of features, out of random numbers."""
    rng = np.random.default_rng(3)
    rows = [
        (name, regime, seed, 1.0, f"feature_cosine{end}", attribute, rng.random(), 9)
        for name in architectures
        for regime in ("generation", "unified")
        for seed in range(seeds)
        for end in ("", "_forced", "_floor")
        for attribute in ("all", "weather", "battery", "time")
    ]
    rows += [
        ("none", "none", 0, 1.0, "feature_cosine_ceiling", attribute, 0.9, 9)
        for attribute in ("all", "time")
    ]
    return pd.DataFrame(rows, columns=SCORES)


def mixed(architectures=("VQ-VQ",), seeds=3) -> pd.DataFrame:
    """A table of mutual_benefit, out of random numbers."""
    rng = np.random.default_rng(9)
    found = [
        (name, "unified", seed, 1.0, metric, attribute, rng.random(), 9, arm)
        for name in architectures
        for arm in (ONCE, REPEATED, TEXT, GENERATION, MIXED, NO_TEXT)
        for metric in ("partial", generation_metric(name))
        if arm in (MIXED, NO_TEXT) or (arm == GENERATION) != (metric == "partial")
        for seed in range(seeds)
        for attribute in ("total", *ATTRIBUTES, *ATTRIBUTES["time"].parts)
    ]
    return pd.DataFrame(found, columns=[*SCORES, "arm"])


def ordered(architectures=("VQ-VQ",), seeds=3, rows=(16, 8)) -> pd.DataFrame:
    """A table of training_order, out of random numbers."""
    rng = np.random.default_rng(6)
    found = [
        (name, "unified", seed, 1.0, "partial", attribute, rng.random(), 9, arm, count)
        for name in architectures
        for count in rows
        for arm in ARMS
        for seed in range(seeds)
        for attribute in ("total", *ATTRIBUTES)
    ]
    return pd.DataFrame(found, columns=[*SCORES, "arm", "understanding_rows"])


def mapped(architectures=("VQ-VQ",), seeds=3) -> pd.DataFrame:
    """A table of when_it_helps at its smoke scale, out of random numbers."""
    rng, every = np.random.default_rng(10), cells(find_study("when_it_helps").scale("smoke"))
    found = [
        (name, "unified", seed, 1.0, "partial", "total", rng.random(), 9, arm, *cell.values())
        for name in architectures
        for cell in every
        for arm in (ONCE, MIXED)
        for seed in range(seeds)
    ]
    return pd.DataFrame(found, columns=[*SCORES, "arm", *every[0]])


def gradients(architectures=("VQ-VQ",), seeds=3, fractions=(0.25, 0.5, 1.0)) -> pd.DataFrame:
    """A table of task_gradients, out of random numbers."""
    rng, rows = np.random.default_rng(10), []
    layers = [f"layer {layer}, {kind}" for layer in (1, 2, 3, 4) for kind in ("attention", "MLP")]
    for name, arm, seed, fraction in itertools.product(
        architectures, (MIXED, SHUFFLED), range(seeds), fractions
    ):
        found = [
            (metric, part)
            for metric in ("gradient_cosine", "gradient_ratio")
            for part in ("all", "embeddings", *layers)
        ]
        if fraction < 1:
            kinds = ("understanding", "generation", "empty")
            found += [("loss_change", f"one {kind} step") for kind in kinds]
        places = ("adapter", *(f"layer {layer}" for layer in (1, 2, 3, 4)))
        found += itertools.product(("alignment_cka", "alignment_neighbours"), places)
        rows += [
            (name, _REGIMES[arm], seed, fraction, metric, part, value, 4, arm)
            for metric, part in found
            for value in [rng.random() - 0.5 * (metric != "gradient_ratio")]
        ]
    return pd.DataFrame(rows, columns=[*SCORES, "arm"])


_REGIMES = {MIXED: "unified", SHUFFLED: "shuffled"}


def parted(architectures=("VQ-VQ",), seeds=3) -> pd.DataFrame:
    """A table of trained_parts, out of random numbers."""
    rng = np.random.default_rng(11)
    found = [
        (name, "unified", seed, 1.0, "partial", attribute, rng.random(), 9, arm, part)
        for name in architectures
        for part in PARTS
        for arm in (ONCE, TEXT, REPEATED, MIXED)
        for seed in range(seeds)
        for attribute in ("total", *ATTRIBUTES)
    ]
    return pd.DataFrame(found, columns=[*SCORES, "arm", "trained"])


def headed(architectures=("VQ-VQ",), seeds=3) -> pd.DataFrame:
    """A table of generation_heads, out of random numbers."""
    rng = np.random.default_rng(13)
    parts = [
        mixed((name,), seeds).assign(head=head)
        for name in architectures
        for head in NEEDED[KINDS[kinds_of(name)[1]].output]
    ]
    table = pd.concat(parts, ignore_index=True)
    return table.assign(value=rng.random(len(table)))


def sized(architectures=("VQ-VQ",), seeds=3) -> pd.DataFrame:
    """A table of language_model_scale, out of random numbers."""
    rng = np.random.default_rng(12)
    found = [
        (name, "unified", seed, 1.0, "partial", "total", rng.random(), 9, arm, start, count)
        for name in architectures
        for count in map(parameters_of, LM_LAYERS)
        for start, arms in STARTS.items()
        for arm in arms
        for seed in range(seeds)
    ]
    return pd.DataFrame(found, columns=[*SCORES, "arm", "language_model", "parameters"])


def switched(architectures=("VQ-VQ",)) -> pd.DataFrame:
    """A table of original_behaviour, out of random numbers."""
    return pd.concat(
        [
            scores(architectures).assign(switch=name)
            for name in ("as it is", "pitfall 10: hours 0 to 12")
        ]
    )
