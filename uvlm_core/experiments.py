"""Which runs each figure needs, named as the paper names them, and the tables that they make.

Belongs here: experiments as lists of specs, the tables of their runs and of what these are held against without a
model, and what is known of the authors' own runs. Not here: how a run is carried out (`runs.py`), what is claimed of
the numbers (`claims.py`), how a figure looks (`figures.py`).

Specs are those that were asked for; several may be carried out by one run (`RunSpec.canonical`).
"""

from pathlib import Path

import numpy as np
import pandas as pd
import torch

from uvlm_core import probing
from uvlm_core.conversations import AttributeBias, make_conversations
from uvlm_core.distortion import Distort, Distortion, strength
from uvlm_core.evaluation import STREAM
from uvlm_core.processing import Processor
from uvlm_core.profiles import ARCHITECTURES, REGIMES, Profile, RunSpec
from uvlm_core.runs import SCORE_COLUMNS, RunStore, record_key, run_grid
from uvlm_core.smart_watch import Watch, render_batch, sample_watches
from uvlm_core.vision import load_encoder, vectors

ARMS = {  # what an arm changes in the profile's spec, in the order of drawing
    "understanding": {"regime": "understanding"},
    "generation": {"regime": "generation"},
    "unified": {"regime": "unified"},
    "shuffled": {"regime": "unified", "shuffled_requests": True},  # control: each request with another row's image
}
CONTROL = ("VQ-VQ", 2)  # the architecture that has the control, and its seeds: what it shows is no close call
GENERATION_TIMES = (0.5, 1, 2, 3)  # the paper's, of the base number of rows
UNDERSTANDING_TIMES = (0.5, 1, 2, 3)
ALONE_TIMES = (0.25, 0.5, 1, 2, 3)  # understanding rows without generation: the scale on which rows are exchanged
AFFINE = ("affine", "authors")  # distortions of the paper's figure, in every seed; the others in two
FEWER = 2
PLACEMENTS = (("understanding", "after"), ("generation", "before"), ("generation", "after"))  # beside the paper's
RARE = {"weather": ("weather",), "battery": ("battery",), "corners": ("weather_corner", "battery_corner"),
        "time": ("time",)}  # what is made rare together: the two corners tell of each other
FIRM = ("weather", "battery")  # rare attributes that have every arm at `firm_rates` in every seed
PIXEL_FEATURES = 128  # random ones of the pixels: as many as the laptop's LM is wide
MATCHINGS = ("steps", "examples", "tokens")
SWITCHES = {  # pitfall -> what brings the original's behaviour or setting back; 9 is a rule of scoring and needs no run
    "3: padding image in every step": {"padding_image": True},
    "10: hours 0..12": {"hours": 13},
    "alpha 0.2": {"image_loss_weight": 0.2},  # no pitfall: the paper's, where the laptop profile has 1
}

# The authors' record (not ours): unified models at 7B, partial credit, one run each, 10 checkpoints of which the first
# and the last are known; from the history of their public code.
AUTHORS = pd.DataFrame(
    [("VQ-VQ", 0.1, "total", 0.891), ("VQ-VQ", 1.0, "total", 0.940), ("VQ-VQ", 0.1, "time", 0.557),
     ("VQ-VQ", 1.0, "time", 0.737), ("SigLIP-SigLIP", 0.1, "total", 0.366), ("SigLIP-SigLIP", 1.0, "total", 0.963)],
    columns=["architecture", "fraction", "attribute", "value"])
# The same, of their affine recipe at strength 0.3, VQ-VQ, understanding-only (total; their own test set and questions)
AUTHORS_DISTORTED = pd.DataFrame([("VQ-VQ", "understanding", "authors", 0.3, "total", 0.656),
                                  ("VQ-VQ", "understanding", "authors", 0.3, "time", 0.511)],
                                 columns=["architecture", "regime", "family", "dose", "attribute", "value"])
AUTHORS_RATE = 1.5  # the same: +120k generation rows about equal +180k understanding rows (section 4.2, SigLIP-VQ)


def mutual_benefit(base: Profile, seeds: int, architectures: tuple[str, ...] = ARCHITECTURES) -> list[RunSpec]:
    """Section 4, figure 3: both tasks against each alone; for one architecture the control with shuffled requests."""
    return [base.spec.vary(architecture=architecture, seed=seed, **change)
            for seed in seeds_of(seeds) for architecture in architectures for arm, change in ARMS.items()
            if arm != "shuffled" or (architecture == CONTROL[0] and seed < CONTROL[1])]


def sized(base: Profile, understanding: float, generation: float, **changes) -> RunSpec:
    """A run of so many understanding and generation rows, scored at its end only; captions in the profile's share."""
    share = base.spec.caption_examples / (base.spec.vqa_examples + base.spec.caption_examples)
    captions = round(understanding * share)
    return base.spec.vary(vqa_examples=round(understanding) - captions, caption_examples=captions,
                          generation_examples=round(generation), fractions=(1.0,), **changes)


def data_scaling(base: Profile, seeds: int) -> list[RunSpec]:
    """Section 4.2, figure 5: one task's rows stay, the other's grow; and understanding alone, which sets the scale.

    What grows comes beside what stays, step by step, so the arms of one direction take the same number of steps. The
    last point of the scale is the understanding arm of `mutual_benefit`.
    """
    rows, specs = base.scaling_rows, []
    for seed in seeds_of(seeds):
        for architecture in base.scaled:
            arm = {"seed": seed, "architecture": architecture}
            specs += [sized(base, times * rows, 0, regime="understanding", **arm) for times in ALONE_TIMES]
            specs.append(base.spec.vary(regime="understanding", **arm))
            specs += [sized(base, rows, times * rows, **arm) for times in GENERATION_TIMES]
            specs.append(sized(base, rows, rows, regime="generation", batch_counts="generation", **arm))
            specs += [sized(base, times * rows, rows, batch_counts="generation", **arm)
                      for times in UNDERSTANDING_TIMES]
    return specs


def matching(base: Profile, seeds: int) -> dict[str, list[RunSpec]]:
    """Understanding and unified arms of one comparison under each rule of matching (pitfall 1), by the rule's name.

    steps     the same understanding rows in the same optimiser steps; generation rows come beside them
    examples  the same understanding rows, steps of one size: the unified arm takes more of them (the paper's)
    tokens    as many tokens in steps of one size: the understanding arm sees more rows
    """
    rows, found = base.scaling_rows, {name: [] for name in MATCHINGS}
    ratios = {architecture: _tokens_ratio(base.spec.vary(architecture=architecture)) for architecture in base.matched}
    for seed in seeds_of(seeds):
        for architecture in base.matched:
            arm = {"seed": seed, "architecture": architecture}
            alone = sized(base, rows, rows, regime="understanding", **arm)
            mixed = sized(base, rows, rows, batch_counts="all", **arm)
            found["steps"] += [alone, sized(base, rows, rows, **arm)]
            found["examples"] += [alone, mixed]
            more = rows * (1 + ratios[architecture])
            found["tokens"] += [sized(base, more, rows, regime="understanding", **arm), mixed]
    return found


def switches(base: Profile, seeds: int) -> dict[str, list[RunSpec]]:
    """VQ-VQ, unified and understanding-only, as it is and with each original behaviour brought back, by its name."""
    rows = base.scaling_rows
    return {name: [sized(base, rows, rows, architecture="VQ-VQ", seed=seed, regime=regime, **change)
                   for seed in seeds_of(seeds) for regime in ("understanding", "unified")]
            for name, change in {"as it is": {}, **SWITCHES}.items()}


def alignment(base: Profile, seeds: int) -> list[RunSpec]:
    """Section 4.1, figure 4: models of both regimes whose understanding space is distorted, by family and dose; unified
    ones with a distortion elsewhere, and with adapters that are kept apart (pitfalls 2 and 4).

    The largest affine dose stands for all where a distortion is crossed with something else.
    """
    specs, largest = [], max(base.doses["affine"])
    for seed in seeds_of(seeds):
        for architecture in base.distorted:
            def arm(*distortions, regime="unified", shared=True, architecture=architecture, seed=seed):
                return sized(base, base.alignment_rows, base.alignment_rows, architecture=architecture, seed=seed,
                             regime=regime, shared_adapter=shared, distortions=distortions)
            chosen = [Distortion(family, dose) for family, doses in base.doses.items() for dose in doses
                      if (family in AFFINE or seed < FEWER)
                      and (family != "permutation" or architecture.startswith("VQ"))]
            for regime in ("understanding", "unified"):
                specs += [arm(regime=regime), *(arm(one, regime=regime) for one in chosen)]
            specs += [arm(shared=False), arm(Distortion("affine", largest), shared=False)]
            if seed < FEWER:
                specs += [arm(Distortion("affine", largest, *where)) for where in PLACEMENTS]
                specs.append(arm(Distortion("affine", largest, *PLACEMENTS[0]), regime="understanding"))
    return specs


def alignment_table(table: pd.DataFrame) -> pd.DataFrame:
    """The table of `alignment`, as `run` gives it with the factors distortions and shared_adapter, in plain columns.

    family ("none" without one), dose, side, place, sharing ("shared", or "separate" where adapters that could be shared
    are kept apart; with a distortion of the width none can, and it counts as asked for).
    """
    found = [each[0] if each else Distortion("affine", 0.0) for each in table["distortions"]]
    none = [not each.changes for each in found]
    return table.drop(columns=["distortions", "shared_adapter"]).assign(
        family=["none" if plain else each.family for each, plain in zip(found, none, strict=True)],
        dose=[each.dose for each in found], side=[each.side for each in found], place=[each.place for each in found],
        sharing=np.where(table["shared_adapter"], "shared", "separate"))


def pictures(base: Profile, seeds: int, captions: str = "", folder: str = "", sam: bool = False) -> list[RunSpec]:
    """Section 5: both tasks against each alone on captioned pictures, those of the profile or of a caption file."""
    spec = base.picture_spec
    if captions:
        spec = spec.vary(pictures=captions, picture_folder=folder, sam_pictures=sam)
    return [spec.vary(architecture=architecture, seed=seed, **change)
            for seed in seeds_of(seeds) for architecture in base.pictured for arm, change in ARMS.items()
            if arm != "shuffled" or (architecture == CONTROL[0] and seed < CONTROL[1])]


def transfer(base: Profile, seeds: int) -> list[RunSpec]:
    """Section 4.3, figure 6: an attribute is rare in the understanding data, and the generation data have it.

    Arms by rare attribute and rate, named in `transfer_table`, and models of complete data. In every seed `FIRM`
    attributes at the profile's firm rates, with both controls. The first seed has more: all attributes and rates, the
    controls of the others at the firm rates, too, and for `FIRM` the reverse direction: rare in the requests, complete
    in the understanding data.
    """
    specs = []
    for seed in seeds_of(seeds):
        for architecture in base.transferred:
            def arm(*biases, regime="unified", shuffled=(), architecture=architecture, seed=seed):
                return sized(base, *base.transfer_rows, architecture=architecture, seed=seed, regime=regime,
                             biases=biases, shuffled_attributes=shuffled, probe_watches=base.spec.test_watches)
            specs += [arm(regime=regime) for regime in REGIMES if seed == 0 or regime != "generation"]
            for name, rates in base.rates.items():
                for rate in rates:
                    firm = name in FIRM and rate in base.firm_rates
                    rare = [AttributeBias(part, rate) for part in RARE[name]]
                    if firm or seed == 0:
                        specs += [arm(*rare, regime="understanding"), arm(*rare)]
                    if firm or (seed == 0 and rate in base.firm_rates):
                        absent = [AttributeBias(part, 0.0, ("generation",)) for part in RARE[name]]
                        specs += [arm(*rare, *absent), arm(*rare, shuffled=RARE[name])]
                    if firm and seed == 0:
                        drawn = [AttributeBias(part, rate, ("generation",)) for part in RARE[name]]
                        specs += [arm(*drawn, regime="generation"), arm(*drawn)]
    return specs


def transfer_table(table: pd.DataFrame) -> pd.DataFrame:
    """The table of `transfer`, as `run` gives it with the factors biases and shuffled_attributes, in plain columns.

    rare is a name of `RARE`, or "none" of complete data; rate its share of the rows (1 of complete data), in the task
    `rare_in`, "understanding" or "generation". The arm is the regime, but "absent" where unified training has requests
    without the attribute, and "shuffled" where requests give it with another watch's values.
    """
    names = {parts[0]: name for name, parts in RARE.items()}
    found = []
    for regime, biases, shuffled in zip(table["regime"], table["biases"], table["shuffled_attributes"], strict=True):
        if not biases:
            found.append(("none", 1.0, "none", regime))
            continue
        first = biases[0]
        tasks = {task for bias in biases for task in bias.tasks}
        within = "generation" if tasks == {"generation"} else "understanding"
        arm = "shuffled" if shuffled else "absent" if "generation" in tasks and len(tasks) > 1 else regime
        found.append((names[first.attribute], first.rate, within, arm))
    columns = pd.DataFrame(found, columns=["rare", "rate", "rare_in", "arm"], index=table.index)
    return pd.concat([table.drop(columns=["biases", "shuffled_attributes"]), columns], axis=1)


def probe_table(table: pd.DataFrame) -> pd.DataFrame:
    """The probes of `transfer_table`: its columns without metric and value, with attribute (what is probed), place,
    accuracy, control (random labels) and selectivity."""
    own = table[table["metric"].isin(("probe", "probe_control"))]
    keys = ["architecture", "regime", "arm", "rare", "rate", "rare_in", "seed", "attribute", "samples"]
    wide = own.set_index([*keys, "metric"])["value"].unstack("metric", sort=False).reset_index()
    parts = wide["attribute"].str.split(", ", n=1, expand=True)
    wide = wide.assign(attribute=parts[0], place=parts[1], selectivity=wide["probe"] - wide["probe_control"])
    return wide.rename(columns={"probe": "accuracy", "probe_control": "control"}).rename_axis(columns=None)


def pixel_probes(base: Profile, seeds: int) -> pd.DataFrame:
    """The baseline of the probes: random features of the pixels, drawn anew for each seed, of the same watches.

    Columns: those of `probing.probe`, architecture ("any"), arm ("random features"), seed.
    """
    watches, images = _probed(base)
    return pd.concat([probing.probe(probing.random_features(images, PIXEL_FEATURES, seed), watches).assign(
        architecture="any", arm="random features", seed=seed) for seed in seeds_of(seeds)], ignore_index=True)


def encoder_probes(base: Profile) -> pd.DataFrame:
    """What can be read at most: the tokens that the understanding side of each architecture gets, side by side.

    Columns: those of `probing.probe`, architecture, arm ("encoder's tokens"), seed.
    """
    watches, images = _probed(base)
    kinds, probes = {name: name.split("-")[0] for name in base.transferred}, {}
    for kind in set(kinds.values()):  # once for the architectures that share it
        encoder = load_encoder(kind, base.spec)
        tokens = vectors(encoder, encoder.encode(images)).reshape(len(images), -1)  # (images, tokens * width)
        probes[kind] = probing.probe(tokens, watches)
    return pd.concat([probes[kind].assign(architecture=name, arm="encoder's tokens", seed=0)
                      for name, kind in kinds.items()], ignore_index=True)


def _probed(base: Profile) -> tuple[list[Watch], np.ndarray]:
    """The watches of the runs' probes and their images."""
    watches = sample_watches(STREAM, base.spec.test_watches, "test", hours=base.spec.hours)
    return watches, render_batch(watches, base.spec.image_size)


def distortion_strengths(base: Profile, seed: int = 0, watches: int = 64) -> pd.DataFrame:
    """What each dose of a profile does to the tokens of its understanding spaces, as `distortion.strength` measures it.

    Columns: architecture, family, dose, displacement, length, angle, condition, shift.
    """
    images, rows = render_batch(sample_watches(0, watches), base.spec.image_size), []
    for architecture in base.distorted:
        encoder = load_encoder(architecture.split("-")[0], base.spec)
        tokens = torch.from_numpy(vectors(encoder, encoder.encode(images))).flatten(0, 1)  # (tokens, width)
        for family, doses in base.doses.items():
            for dose in doses if encoder.codes or family != "permutation" else ():
                distort = Distort(Distortion(family, dose), encoder.width, encoder.codes).draw(seed, tokens)
                rows.append({"architecture": architecture, "family": family, "dose": dose} | strength(distort, tokens))
    return pd.DataFrame(rows).reindex(columns=["architecture", "family", "dose", "displacement", "length", "angle",
                                               "condition", "shift"])


def _tokens_ratio(spec: RunSpec, count: int = 200) -> float:
    """Tokens of a generation row over those of an understanding row, over the first watches of a stream."""
    spaces = (load_encoder(kind, spec).tokens for kind in spec.architecture.split("-"))
    processor = Processor.load(spec.tokenizer, *spaces)
    watches, means = sample_watches(0, count), {}
    for task in ("vqa", "caption", "generation"):
        talks = make_conversations(watches, task, 0, spec.turns, (), spec.mention_rate)
        means[task] = sum(len(processor.row(talk, 0).ids) for talk in talks) / count
    captions = spec.caption_examples / (spec.vqa_examples + spec.caption_examples)
    return means["generation"] / ((1 - captions) * means["vqa"] + captions * means["caption"])


def seeds_of(count: int) -> range:
    """Seeds 0 .. count - 1; a count below 1 is refused."""
    if type(count) is not int or count < 1:
        raise ValueError(f"seeds {count!r} is not an integer from 1 up.")
    return range(count)


def run(specs: list[RunSpec], records: str | Path, workers: int = 2, factors: tuple[str, ...] = ()) -> pd.DataFrame:
    """Load or train what the specs need: one tidy table of their scores, with the arm's name in the column `regime`.

    Columns: architecture, regime (one of `ARMS`), seed, then `factors` (fields and properties of the specs, or
    "record", the record's key), then fraction, metric, attribute, value, samples.
    """
    store = RunStore(Path(records))
    run_grid(list(dict.fromkeys(spec.canonical() for spec in specs)), store, workers)
    return table(specs, store, factors)


def table(specs: list[RunSpec], store: RunStore, factors: tuple[str, ...] = ()) -> pd.DataFrame:
    """The same of runs that have their records; ValueError names the first one that has none."""
    rows = []
    for spec in specs:
        record = store.load(spec.canonical())
        if record is None:
            raise ValueError(f"There is no record {store.path(spec.canonical())}; run `make figures` first.")
        regime = "shuffled" if spec.shuffled_requests else spec.regime
        arm = {"architecture": spec.architecture, "regime": regime, "seed": spec.seed}
        arm |= {name: record_key(spec.canonical()) if name == "record" else getattr(spec, name) for name in factors}
        rows += [arm | score for score in record["scores"]]
    columns = ["architecture", "regime", "seed", *factors, *SCORE_COLUMNS]
    return pd.DataFrame(rows, columns=columns).astype({"value": float})
