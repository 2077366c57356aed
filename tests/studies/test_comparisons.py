"""What the studies compare: planted effects are found, and read on the right scale."""

import numpy as np
import pandas as pd
import pytest
from study_tables import opened, ordered

from uvlm_core.data.attributes import ATTRIBUTES
from uvlm_core.models.language_models import LM_LAYERS, parameters_of
from uvlm_core.studies import generation_heads, task_gradients, training_order
from uvlm_core.studies.affine_alignment import ONE, TWO, distortion_costs
from uvlm_core.studies.attribute_transfer import ABSENT, FALSE, PIXELS, at_end
from uvlm_core.studies.base import chance, find_study, generation_metric
from uvlm_core.studies.baselines import FIRST, GENERATION, MIXED, NO_TEXT, ONCE, REPEATED, TEXT
from uvlm_core.studies.captioned_pictures import drawing_architectures
from uvlm_core.studies.data_scaling import exchange_rates
from uvlm_core.studies.language_model_scale import STARTS, slopes
from uvlm_core.studies.learning_curves import benefit, headroom, while_learning
from uvlm_core.studies.style import MINUS
from uvlm_core.studies.trained_parts import (
    FROZEN,
    FROZEN_APART,
    FULL,
    FULL_APART,
    HIGH_RANK,
    LOW_RANK,
)
from uvlm_core.studies.when_it_helps import FACTORS, cells, design, effects
from uvlm_core.training.spec import ARCHITECTURES


def verdicts(study: str, table: pd.DataFrame, **changes) -> pd.DataFrame:
    return opened(study, table, **changes).verdicts


NAMES = (*ATTRIBUTES, "total")


def curves(gain: float, seeds=4, architectures=ARCHITECTURES) -> pd.DataFrame:
    """Learning curves from chance to full marks; the unified arm's differ by `gain` in between and
    nowhere else.
    """
    rows = []
    for architecture in architectures:
        for metric, alone in (
            ("partial", "understanding"),
            (generation_metric(architecture), "generation"),
        ):
            for seed in range(seeds):
                for fraction, way in ((0.1, 0.0), (0.2, 0.4), (0.5, 0.6), (1.0, 1.0)):
                    for name in NAMES:
                        least = chance(metric, name)
                        score = least + way * (1 - least) + 0.001 * seed
                        extra = (gain + 0.002 * (-1) ** seed) * (0 < way < 1)
                        rows += [
                            (architecture, alone, seed, fraction, metric, name, score),
                            (architecture, "unified", seed, fraction, metric, name, score + extra),
                        ]
    return pd.DataFrame(
        rows, columns=["architecture", "regime", "seed", "fraction", "metric", "attribute", "value"]
    )


def test_headroom_is_where_the_single_task_is_neither_at_chance_nor_at_full_marks():
    table = curves(0.05)
    assert headroom(table, "understanding", "partial", "time") == [0.2, 0.5]
    saturated = table[table["fraction"] == 1]
    assert headroom(saturated, "understanding", "partial", "time") == [1.0]


def test_the_benefit_is_the_mean_difference_while_there_is_headroom():
    own = curves(0.05, architectures=("VQ-VQ",))
    assert benefit(own, "understanding", "partial", "total").tolist() == pytest.approx(
        [0.052, 0.048] * 2
    )


def test_a_planted_gain_while_learning_is_found_and_the_control_is_no_part_of_it():
    table = curves(0.05)
    found = while_learning(table, "understanding")
    assert found["architecture"].tolist() == list(ARCHITECTURES) and set(found["seeds"]) == {4}
    assert found["difference"].to_numpy() == pytest.approx(0.05)
    assert (found["low"] > 0.04).all() and (found["high"] < 0.06).all()
    control = table[table["regime"] == "unified"].assign(regime="shuffled", value=0.0)
    pd.testing.assert_frame_equal(
        while_learning(pd.concat([table, control]), "understanding"), found
    )


def mixed_against(
    once: float, repeated: float, text: float, generation: float, seeds=8
) -> pd.DataFrame:
    """As the table of mutual_benefit: how far mixed training is above each baseline."""
    rows = []
    for architecture in ARCHITECTURES:
        read = generation_metric(architecture)
        for arm, metric, less in (
            (ONCE, "partial", once),
            (REPEATED, "partial", repeated),
            (TEXT, "partial", text),
            (NO_TEXT, "partial", once + 0.06),
            (GENERATION, read, generation),
            (MIXED, "partial", 0),
            (MIXED, read, 0),
        ):
            rows += [
                (architecture, arm, seed, metric, name, 0.7 + 0.01 * seed - less - noise)
                for seed in range(seeds)
                for noise in [0.001 * (-1) ** seed * (arm != MIXED)]
                for name in NAMES
            ]
    columns = ["architecture", "arm", "seed", "metric", "attribute", "value"]
    return pd.DataFrame(rows, columns=columns).assign(fraction=1.0)


def test_a_planted_benefit_is_judged_against_each_baseline_as_it_is():
    found = verdicts("mutual_benefit", mixed_against(0.1, -0.1, 0.08, 0.0))
    told = found.set_index("claim")[["matching", "verdict"]].drop_duplicates()
    assert told.to_dict("index") == {
        "understanding gains": {"matching": "examples", "verdict": "replicates"},
        "understanding gains, without text": {"matching": "examples", "verdict": "contradicts"},
        "more than repeating": {"matching": "steps", "verdict": "no"},
        "more than text": {"matching": "steps", "verdict": "yes"},
        "generation gains": {"matching": "examples", "verdict": "no effect"},
    }
    for _, own in found.groupby("claim"):  # equal ones count once
        assert set(", ".join(own["architecture"]).split(", ")) == set(ARCHITECTURES)
    assert set(found["difference"].round(9)) == {0.1, -0.06, -0.1, 0.08, 0}


def distorted(mixed: float, alone: float, longer: float, two: float, first: float, seeds=8):
    """As the table of affine_alignment: what the distortion costs mixed training, its baselines,
    mixed training by two adapters, and training that generates first. Understanding and text loses
    nothing. Plain training on both tasks is .1 above its rows alone, and text is level with these.
    The CKA of the last layer falls by .3, that of the adapter does not."""
    costs = {
        (ONCE, ONE): (0.6, alone),
        (REPEATED, ONE): (0.8, longer),
        (TEXT, ONE): (0.6, 0.0),
        (MIXED, ONE): (0.7, mixed),
        (MIXED, TWO): (0.7, two),
        (FIRST, ONE): (0.7, first),
    }
    rows = []
    for (arm, adapters), (start, cost) in costs.items():
        for seed in range(seeds):
            end = start + 0.01 * seed
            noise = 0.001 * (-1) ** seed
            for family, dose, less in (
                ("none", 0.0, 0.0),
                ("affine", 1.0, cost + noise),
                ("affine", 0.5, 9.0),
                ("authors", 0.3, 9.0),
            ):
                how = ("VQ-VQ", arm, adapters, family, dose, seed)
                rows += [(*how, "partial", name, end - less) for name in NAMES]
                if arm == MIXED:
                    last = 0.8 - 0.3 * (dose == 1) + noise * (family == "none")
                    rows += [
                        (*how, "alignment_cka", "adapter", 0.5),
                        (*how, "alignment_cka", "layer 1", last),
                    ]
    columns = ["architecture", "arm", "adapters", "family", "dose", "seed", "metric"]
    return pd.DataFrame(rows, columns=[*columns, "attribute", "value"]).assign(fraction=1.0)


def test_a_planted_cost_of_a_distortion_is_judged_against_each_baseline_as_it_is():
    found = verdicts("affine_alignment", distorted(0.2, 0.05, 0.3, 0.1, 0.15))
    assert set(found["seeds"]) == {8}
    told = found[["claim", "matching", "verdict"]].to_numpy().tolist()
    assert told == [
        ["distortion hurts", "examples", "replicates"],
        ["distortion hurts more", "examples", "replicates"],
        ["more than for as many steps", "steps", "no"],
        ["more than for as many steps", "steps", "yes"],
        ["not by sharing", "examples", "yes"],
        ["benefit without alignment", "examples", "no"],  # .5 and .55
        ["benefit without alignment", "examples", "yes"],  # .6 and .55
        ["more than text without alignment", "steps", "no"],  # .5 and .6
        ["more than text without alignment", "steps", "no effect"],  # .6 and .6
        ["apart to the last layer", "examples", "yes"],
        ["distortion hurts generation first", "examples", "yes"],
        ["distortion hurts generation first more", "examples", "yes"],
        ["distortion hurts generation first more", "steps", "no"],
        ["generation first without alignment", "examples", "no effect"],  # .55 and .55
    ]
    wanted = [0.2, 0.15, -0.1, 0.2, 0.1, -0.05, 0.05, -0.1, 0.0, 0.3, 0.15, 0.1, -0.15, 0.0]
    assert found["difference"].tolist() == pytest.approx(wanted, abs=1e-3)


def test_a_distortion_that_costs_nothing_has_no_effect_on_any_arm():
    found = verdicts("affine_alignment", distorted(0, 0, 0, 0, 0)).set_index("claim")["verdict"]
    costs = ["distortion hurts", "distortion hurts more", "not by sharing"]
    costs += ["more than for as many steps"]
    costs += ["distortion hurts generation first", "distortion hurts generation first more"]
    assert set(found[costs]) == {"no effect"}
    assert set(found["benefit without alignment"]) == {"yes"}


def test_a_cost_is_that_of_the_same_arm_adapters_and_seed():
    table = distorted(0.2, 0.05, 0.3, 0.1, 0.15)
    costs = distortion_costs(table).set_index(["arm", "adapters", "family", "dose", "seed"])["cost"]
    assert costs[MIXED, TWO, "affine", 1.0, 3] == pytest.approx(0.1 - 0.001)
    assert set(costs.xs((0.5, 0), level=["dose", "seed"]).round(6)) == {9.0}
    lone = table[(table["seed"] > 0) | (table["family"] != "none")]
    assert 0 not in distortion_costs(lone)["seed"].to_list()


def transferred(gain: float, by_requests: float, selectivity: float, seeds=8) -> pd.DataFrame:
    """As the table of attribute_transfer: mixed training is `gain` above its rows alone on the rare
    weather, of which `by_requests` is lost if no request mentions it; it is .2 below as many steps
    and .1 above text in place of requests. Training that generates first is .1 above it.
    Probes of the last of 11 layers read the weather by `selectivity`."""
    rows = []
    for seed in range(seeds):
        start, noise = 0.3 + 0.001 * seed, 0.002 * (-1) ** seed
        for arm, value in (
            (ONCE, start),
            (REPEATED, start + gain + 0.2),
            (TEXT, start + gain - 0.1),
            (MIXED, start + gain + noise),
            (ABSENT, start + gain - by_requests),
            (FALSE, start + gain),
            (FIRST, start + gain + 0.1 + noise),
        ):
            rows += [
                (arm, seed, "partial", name, value if name == "weather" else 0.9)
                for name in ATTRIBUTES
            ]
        for layer in range(1, 12):
            at = 0.3 + selectivity * (layer == 11) + 0.001 * seed
            rows += [
                (REPEATED, seed, metric, f"weather, layer {layer}", value)
                for metric, value in (("probe", at), ("probe_control", 0.3))
            ]
    columns = ["arm", "seed", "metric", "attribute", "value"]
    return pd.DataFrame(rows, columns=columns).assign(architecture="VQ-VQ", rate=0.03, fraction=1.0)


def with_pixels(table: pd.DataFrame) -> pd.DataFrame:
    """The same with probes of random features of the pixels, and with runs of complete data."""
    rows = [
        {"arm": PIXELS, "architecture": "any", "seed": seed, "metric": "probe", "value": 0.8}
        for seed in range(8)
    ]
    pixels = pd.DataFrame(rows).assign(attribute="weather", rate=1.0, fraction=1.0)
    return pd.concat([table, table.assign(rate=1.0, value=0.99), pixels])


def test_a_planted_transfer_is_judged_as_it_is():
    changes = {"rare": ("weather",), "rate": 0.03}
    found = verdicts("attribute_transfer", with_pixels(transferred(0.3, 0.25, 0.4)), **changes)
    found = found.set_index("claim")
    assert found["verdict"].to_dict() == {
        "transfer": "replicates",
        "more than repeating": "no",
        "more than by text": "yes",
        "by its requests": "yes",
        "by their values": "no effect",
        "tokens carry it": "replicates",
        "more than pixels": "no",
        "transfer, generation first": "yes",
        "generation first, more than repeating": "no",
    }
    assert found["difference"].to_dict() == pytest.approx(
        {
            "transfer": 0.3,
            "more than repeating": -0.2,
            "more than by text": 0.1,
            "by its requests": 0.25,
            "by their values": 0.0,
            "tokens carry it": 0.4035,
            "more than pixels": 0.7035 - 0.8,
            "transfer, generation first": 0.4,
            "generation first, more than repeating": -0.1,
        }
    )
    less = verdicts("attribute_transfer", with_pixels(transferred(-0.3, 0.0, 0.0)), **changes)
    assert less.set_index("claim").loc["transfer", "verdict"] == "contradicts"
    assert found.loc["transfer", "quantity"] == (
        f"weather in 3% of the rows, {MIXED} − understanding alone"
    )


def test_only_runs_whose_understanding_data_lack_the_attribute_are_compared():
    table = transferred(0.3, 0.0, 0.0, seeds=2)
    earlier = table.assign(fraction=0.5, value=0.0)
    found = at_end(pd.concat([table, earlier, table.assign(rate=1.0)]), "partial", "weather")
    assert len(found) == 2 * 7
    assert found.set_index(["arm", "seed"])["value"][ONCE].tolist() == pytest.approx([0.3, 0.301])


def test_a_metric_that_nobody_guesses_is_refused():
    assert chance("constrained", "battery") == chance("partial", "battery")
    with pytest.raises(
        ValueError, match="metric 'exact' has no chance level; those that have one are partial, "
    ):
        chance("exact", "time")


def scaled(rate: float, seeds=8) -> pd.DataFrame:
    """As the table of data_scaling: a request is worth `rate` understanding rows, and as many steps
    on repeated rows add .1. Text rows in place of requests add half of what these do."""
    found, rows = [], 16

    def add(arm, understood, requests, metric, value, seed):
        own = ("SigLIP-VQ", arm, understood, requests, metric, value + 0.001 * seed, seed)
        found.append(own)

    for seed in range(seeds):
        for count in (2, 8, 16, 32):
            add(ONCE, count, 0, "partial", 0.1 * np.log(count), seed)
        for requests in (8, 16):
            value = 0.1 * np.log(rows + rate * requests)
            add(MIXED, rows, requests, "partial", value, seed)
            add(REPEATED, rows, requests, "partial", 0.1 * np.log(rows) + 0.1, seed)
            half = 0.05 * (np.log(rows + rate * requests) + np.log(rows))
            add(TEXT, rows, requests, "partial", half, seed)
        for count in (8, 16):
            noise = 0.01 * (-1) ** seed * (count == 8)
            add(MIXED, count, 16, "read_back", 0.02 * count + noise, seed)
        add(GENERATION, 0, 16, "read_back", 0.1, seed)
    columns = ["architecture", "arm", "understanding_rows", "generation_rows"]
    table = pd.DataFrame(found, columns=[*columns, "metric", "value", "seed"])
    return table.assign(attribute="total", fraction=1.0)


@pytest.mark.parametrize("rate", [0.0, 0.5, 0.9])
def test_the_rate_of_exchange_is_the_planted_one(rate):
    found = exchange_rates(scaled(rate, seeds=1), 16)
    assert found["rate"].to_numpy() == pytest.approx(rate, abs=1e-6) and len(found) == 2
    assert found["worth"].to_numpy() == pytest.approx(16 + rate * found["generation_rows"])
    assert not found["beyond"].any()


def test_a_seed_is_read_on_its_own_curve():
    found = exchange_rates(scaled(0.5, seeds=4), 16)  # totals rise from seed to seed
    assert found["rate"].to_numpy() == pytest.approx(0.5, abs=1e-6) and len(found) == 8


def test_a_score_beyond_the_scale_is_read_at_its_end_and_marked():
    found = exchange_rates(scaled(1.5, seeds=1), 16)
    assert found["beyond"].tolist() == [False, True]
    assert found.loc[found["beyond"], "worth"].to_numpy() == pytest.approx(32)


def test_planted_scaling_is_judged_as_it_is():
    found = verdicts("data_scaling", scaled(0.9)).set_index("claim")
    assert found["verdict"].to_dict() == {
        "generation data help": "no effect",
        "more than repeating": "no",
        "requests beyond text": "no effect",
        "benefit grows": "no effect",
        "benefit beyond text grows": "no effect",
        "understanding data help": "replicates",
        "worth of a request": "contradicts",
    }
    matched = ["examples", "steps", "steps", "examples", "steps", "examples", "examples"]
    assert found["matching"].tolist() == matched
    gain = 0.1 * np.log((16 + 0.9 * 8) / 16)
    assert found.loc["generation data help", "difference"] == pytest.approx(gain)
    assert found.loc["more than repeating", "difference"] == pytest.approx(gain - 0.1)
    assert found.loc["requests beyond text", "difference"] == pytest.approx(gain / 2)
    more = 0.05 * np.log((16 + 0.9 * 16) / (16 + 0.9 * 8))
    assert found.loc["benefit beyond text grows", "difference"] == pytest.approx(more)
    assert found.loc["understanding data help", "difference"] == pytest.approx(0.16)
    without = verdicts("data_scaling", scaled(0.9), fewer_understood=())  # no runs to compare with
    assert set(without["claim"]) == set(found.index) - {"understanding data help"}
    table = scaled(0.9)
    paper = verdicts("data_scaling", table[table["arm"] != TEXT])  # without text rows
    assert set(paper["claim"]) == {name for name in found.index if "text" not in name}


def test_a_planted_order_is_judged_against_each_baseline_and_control():
    levels = {
        ONCE: 0.7,
        training_order.SMALL: 0.72,
        REPEATED: 0.99,
        TEXT: 0.8,
        MIXED: 0.87,
        training_order.FIRST: 0.9,
        training_order.SHUFFLED: 0.87,
        training_order.NO_WORDS: 0.93,
    }
    rows = [
        ("VQ-VQ", arm, 16, seed, 1.0, "partial", "total", level + 0.01 * (-1) ** seed * (arm < "b"))
        for arm, level in levels.items()
        for seed in range(8)
    ]
    columns = ["architecture", "arm", "understanding_rows", "seed"]
    table = pd.DataFrame(rows, columns=[*columns, "fraction", "metric", "attribute", "value"])
    found = verdicts("training_order", table)
    assert found[["claim", "matching", "verdict"]].to_numpy().tolist() == [
        ["mixing helps", "examples", "replicates"],
        ["generating first helps", "examples", "yes"],
        ["text helps", "examples", "yes"],
        ["more than text", "steps", "yes"],
        ["by what is asked", "examples", "no"],
        ["more than smaller steps", "steps", "yes"],
        ["more than smaller steps", "steps", "yes"],
        ["more than repeating", "steps", "no"],
        ["more than repeating", "steps", "no"],
        ["by what is drawn", "examples", "no effect"],
    ]
    wanted = [0.17, 0.2, 0.1, 0.07, -0.06, 0.15, 0.18, -0.12, -0.09, 0]
    assert found["difference"].round(3).tolist() == wanted


def test_every_arm_of_the_orders_is_judged():
    table = ordered(seeds=2, rows=(16,))
    arms = set(table["arm"])
    quantities = verdicts("training_order", table)["quantity"]
    pairs = [text.split(", ", 2)[2].split(f" {MINUS} ") for text in quantities]
    assert {name for pair in pairs for name in pair} == arms == set(training_order.ARMS)


def map_of(mean: float, seeds=8, **planted: float) -> pd.DataFrame:
    """As the table of when_it_helps: the mean gain, and the effects of factors on it.

    `a__b` is an interaction of two: the gain where their levels agree minus that elsewhere.
    """
    rows, every = [], cells(find_study("when_it_helps").scale("smoke"))
    for cell, signs in zip(every, design(), strict=True):
        sign = dict(zip(FACTORS, signs, strict=True))
        gain = mean + sum(
            effect / 2 * np.prod([sign[factor] for factor in names.split("__")])
            for names, effect in planted.items()
        )
        for seed in range(seeds):
            noise = 0.002 * (-1) ** seed * (1 + signs.sum())  # in the mean, and in every effect
            for arm, value in ((ONCE, 0.4), (MIXED, 0.4 + gain + noise)):
                rows.append(("VQ-VQ", arm, *cell.values(), seed, value + 0.01 * seed))
    table = pd.DataFrame(rows, columns=["architecture", "arm", *FACTORS, "seed", "value"])
    return table.assign(fraction=1.0, metric="partial", attribute="total")


def test_planted_main_effects_are_recovered_exactly_and_judged_as_they_are():
    table = map_of(0.1, understanding_rows=0.2, optimizer=-0.1, sharing=0.01)
    found = verdicts("when_it_helps", table)
    assert found["claim"].tolist() == ["generation helps on average"] + 7 * ["the gain depends"]
    assert found["difference"].tolist() == pytest.approx([0.1, 0.2, 0, 0, -0.1, 0, 0.01, 0])
    none = "no effect"
    assert found["verdict"].tolist() == ["yes", "yes", none, none, "no", none, none, none]
    assert set(found["seeds"]) == {8} and set(found["matching"]) == {"examples"}
    assert found["quantity"].tolist() == [
        "total, mixed \N{MINUS SIGN} understanding alone, mean of 16 cells",
        "gain in total, 16 rows minus 8 rows",
        "gain in total, 16 requests minus 8 requests",
        "gain in total, image loss 1 minus image loss 0.2",
        "gain in total, AdamW minus Muon",
        "gain in total, random language model minus pre-trained language model",
        "gain in total, separate adapters minus shared adapters",
        "gain in total, with text minus no text",
    ]


def test_a_planted_interaction_is_in_its_own_row_and_in_no_main_effect():
    scale = find_study("when_it_helps").scale("smoke")
    found = effects(map_of(0, optimizer__sharing=0.3), scale)
    means = found.groupby("effect")["difference"].mean()
    (own,) = (name for name in means.index if "optimizer x sharing" in name)
    assert own.split(" or ") == [
        "understanding_rows x language_model",
        "generation_rows x image_loss_weight",
        "optimizer x sharing",
    ]
    assert len(means) == 1 + 7 + 7
    wanted = {name: 0.3 * (name == own) for name in means.index}
    assert means.to_dict() == pytest.approx(wanted)


def test_a_seed_without_every_cell_says_nothing_of_an_effect():
    table = map_of(0.1, seeds=3)
    lost = (table["seed"] == 1) & (table["arm"] == MIXED) & (table["optimizer"] == "Muon")
    found = effects(table[~lost], find_study("when_it_helps").scale("smoke"))
    assert set(found["seed"]) == {0, 2}


def gradients(
    cosine: float, shuffled: float, understood: float, drawn: float, others: float, seeds=8
) -> pd.DataFrame:
    """As the table of task_gradients: cosines with true and other images, and by how much rows of
    each kind, and requests with other images, lower the loss beyond what momenta do. The two sides
    are as alike as the gradients."""
    rows = []
    for seed in range(seeds):
        noise = 0.0005 * (-1) ** seed
        for arm, agree, lowered in (
            (MIXED, cosine + 10 * noise, drawn + noise),
            (training_order.SHUFFLED, shuffled, others),
        ):
            for fraction, share in ((0.25, 0.5), (0.5, 1.5), (1.0, 1.0)):
                own = [("gradient_cosine", "all", agree * share)]
                own += [("gradient_cosine", "layer 1, MLP", 9.0), ("gradient_ratio", "all", 9.0)]
                if fraction < 1:
                    momenta = -0.02 * share
                    own += [
                        ("loss_change", f"one {kind} step", momenta - share * value)
                        for kind, value in (
                            ("understanding", understood),
                            ("generation", lowered),
                            ("empty", 0.0),
                        )
                    ]
                alike = (agree + 0.2, agree - 0.2, agree * share)  # the last changes over time
                own += [
                    ("alignment_cka", place, value)
                    for place, value in zip(("layer 1", "layer 2", "layer 3"), alike, strict=True)
                ]
                own.append(("alignment_cka", "adapter", 9.0))
                rows += [("VQ-VQ", arm, seed, fraction, *each) for each in own]
    columns = ["architecture", "arm", "seed", "fraction", "metric", "attribute", "value"]
    return pd.DataFrame(rows, columns=columns)


@pytest.mark.parametrize(
    ("planted", "judged", "story"),
    [
        # true images' gradients agree and lower the loss, others' do neither
        (
            (0.3, 0.0, 0.01, 0.008, 0.0),
            ["yes", "yes", "yes", "no", "yes", "yes"],
            "shared features",
        ),
        # both agree alike and do as much as understanding rows
        (
            (0.3, 0.3, 0.01, 0.01, 0.01),
            ["yes", "no effect", "yes", "undecided", "undecided", "no effect"],
            "better optimisation",
        ),
        # both agree alike, but what a step does depends on what is drawn
        ((0.3, 0.3, 0.01, 0.02, 0.0), ["yes", "no effect", "yes", "yes", "yes", "no effect"], ""),
        ((-0.3, -0.1, 0.01, -0.01, 0.0), ["no", "no", "no", "no", "no", "no"], "forgetting"),
        # nothing planted: momenta alone lower the loss, and are no one's
        (
            (0.0, 0.0, 0.01, 0.0, 0.0),
            ["no effect", "no effect", "undecided", "no", "undecided", "no effect"],
            "",
        ),
    ],
)
def test_planted_gradients_are_judged_as_they_are_and_fit_their_story(planted, judged, story):
    table = gradients(*planted)
    found = opened("task_gradients", table)
    assert found.verdicts["verdict"].tolist() == judged
    cosine, shuffled, understood, drawn, others = planted
    wanted = [cosine, cosine - shuffled, 1000 * drawn, drawn / understood - 1]
    wanted += [1000 * (drawn - others), cosine - shuffled]
    assert found.verdicts["difference"].tolist() == pytest.approx(wanted, abs=1e-6)
    assert task_gradients.stories(found) == {"VQ-VQ": story}
    said = task_gradients.headline_of_cosines(found)
    assert said.endswith(f"{story} in VQ-VQ" if story else "none of the three stories")
    told = task_gradients.tell_cosines(found)
    assert (f"this fits {story}, because" if story else "fit none of the three") in told
    few = opened("task_gradients", table[table["seed"] < 2])  # too few to decide anything
    assert task_gradients.stories(few) == {"VQ-VQ": ""}


def test_a_planted_gain_of_each_trained_part_is_judged_as_it_is():
    gained = {FROZEN_APART: 0.0, FROZEN: 0.02, LOW_RANK: 0.1, HIGH_RANK: -0.1}
    gained |= {FULL_APART: 0.15, FULL: 0.2}
    rows = [
        ("VQ-VQ", part, arm, seed, 0.5 + 0.01 * seed + more + 0.001 * (-1) ** seed * (arm == MIXED))
        for part, gain in gained.items()
        for arm, more in (
            (ONCE, 0.0),
            (TEXT, gain - 0.07 * (part == FULL)),
            (REPEATED, 0.2),
            (MIXED, gain),
        )
        for seed in range(8)
    ]
    table = pd.DataFrame(rows, columns=["architecture", "trained", "arm", "seed", "value"])
    table = table.assign(fraction=1.0, metric="partial", attribute="total")
    found = verdicts("trained_parts", table)
    parts = list(gained)[:4]
    told = found.set_index("quantity")[["matching", "verdict"]].apply(tuple, axis=1).to_dict()
    minus = "mixed \N{MINUS SIGN}"
    assert told == {
        **{
            f"total, {part}, {minus} {ONCE}": ("examples", verdict)
            for part, verdict in zip(parts, ("no effect", "no effect", "yes", "no"), strict=True)
        },
        **{f"total, {part}, {minus} {REPEATED}": ("steps", "no") for part in parts},
        **{
            f"total, {part}, {minus} {TEXT}": ("steps", "no effect")
            for part in (*parts, FULL_APART)
        },
        f"total, mixed, {FROZEN} \N{MINUS SIGN} {FROZEN_APART}": ("examples", "no effect"),
        f"total, {minus} {TEXT}, {FULL} \N{MINUS SIGN} {FROZEN}": ("steps", "replicates"),
        f"total, {FULL_APART}, {minus} {ONCE}": ("examples", "yes"),
    }
    wanted = [*list(gained.values())[:4], -0.2, -0.18, -0.1, -0.3, 0, 0, 0, 0, 0, 0.02, 0.07, 0.15]
    assert found["difference"].to_numpy() == pytest.approx(wanted, abs=1e-9)
    level = table.assign(value=0.5 + 0.01 * table["seed"])
    assert set(verdicts("trained_parts", level)["verdict"]) == {"no effect"}


def heads_with(gained: dict, drawn: dict, noise=0.001, seeds=8) -> pd.DataFrame:
    """As the table of generation_heads: by (architecture, head) what mixed training gains over its
    rows alone, and how far above .5 generation alone draws. Mixed training draws .1 better, and
    understands .2 less than repeated rows, and .07 more than with text in place of requests."""
    rows = []
    for (name, head), gain in gained.items():
        read = generation_metric(name)
        for seed in range(seeds):
            level = 0.5 + 0.01 * seed
            odd = noise * (-1) ** seed
            rows += [
                (name, head, arm, seed, metric, attribute, value)
                for attribute in NAMES
                for arm, metric, value in (
                    (ONCE, "partial", level),
                    (REPEATED, "partial", level + gain + 0.2),
                    (TEXT, "partial", level + gain - 0.07),
                    (MIXED, "partial", level + gain + odd * (1 + ("flow" in head))),
                    (GENERATION, read, level + drawn[name, head] + odd * ("flow" in head)),
                    (MIXED, read, level + drawn[name, head] + 0.1 + 2 * odd),
                )
            ]
    columns = ["architecture", "head", "arm", "seed", "metric", "attribute", "value"]
    return pd.DataFrame(rows, columns=columns).assign(fraction=1.0)


def test_a_planted_gain_of_each_head_is_judged_as_it_is_and_codes_are_not():
    heads = [("VQ-VQ", "codes")]
    heads += [
        (name, head) for name in ("VQ-SigLIP", "VQ-Latent") for head in ("regression", "flow")
    ]
    heads.append(("VQ-Latent", "image flow"))
    gained = dict(zip(heads, (0.3, 0.1, 0.2, 0.0, -0.1, 0.08), strict=True))
    drawn = dict(zip(heads, (0.3, 0.1, 0.3, 0.1, 0.1, 0.04), strict=True))
    found = verdicts("generation_heads", heads_with(gained, drawn))
    minus = "mixed \N{MINUS SIGN}"
    apart = "flow \N{MINUS SIGN} regression"
    told = {
        (row["architecture"], row["quantity"]): (row["matching"], row["verdict"])
        for row in found.to_dict("records")
    }
    reads = {"VQ-SigLIP": "feature read back", "VQ-Latent": "read back"}
    alone = f"total, partial credit, {{}}, {minus} {ONCE}"
    wanted = {
        ("VQ-SigLIP", alone.format("regression")): ("examples", "replicates"),
        ("VQ-SigLIP", alone.format("flow")): ("examples", "yes"),
        ("VQ-Latent", alone.format("regression")): ("examples", "no effect"),
        ("VQ-Latent", alone.format("flow")): ("examples", "no"),
        ("VQ-Latent", alone.format("image flow")): ("examples", "yes"),
    }
    for name, head in heads[1:]:
        wanted[name, f"total, partial credit, {head}, {minus} {REPEATED}"] = ("steps", "no")
        wanted[name, f"total, partial credit, {head}, {minus} {TEXT}"] = ("steps", "yes")
        quantity = f"total, {reads[name]}, {head}, {minus} {GENERATION}"
        wanted[name, quantity] = ("examples", "yes")
    for name, head, drew, kept in (
        ("VQ-SigLIP", "", "yes", "yes"),
        ("VQ-Latent", "", "no effect", "no"),
        ("VQ-Latent", "image ", "no", "yes"),
    ):
        wanted[name, f"total, {reads[name]}, {GENERATION}, {head}{apart}"] = ("examples", drew)
        quantity = f"total, partial credit, {minus} {ONCE}, {head}{apart}"
        wanted[name, quantity] = ("examples", kept)
    assert told == wanted and len(found) == len(wanted)
    differences = found.groupby("claim", sort=False)["difference"].apply(list).to_dict()
    assert {claim: pytest.approx(values) for claim, values in differences.items()} == {
        "understanding gains by regression": [0.1],
        "understanding gains by others": [0.2, 0.0, -0.1, 0.08],
        "more than repeating, by head": [-0.2] * 5,
        "more than text, by head": [0.07] * 5,
        "generation gains, by head": [0.1] * 5,
        "sampling draws better": [0.2, 0.0, -0.06],
        "no smaller benefit by sampling": [0.1, -0.1, 0.08],
    }
    # nothing planted: repeating is .2 above and drawing .1, and the rest is no effect
    level = heads_with(dict.fromkeys(heads, 0.0), dict.fromkeys(heads, 0.0))
    nothing = verdicts("generation_heads", level)
    nothing = nothing[~nothing["claim"].str.endswith(", by head")]
    assert set(nothing["verdict"]) == {"no effect"}  # equal ones of two architectures share a row
    assert nothing["architecture"].str.split(", ").map(len).sum() == 11


def test_the_run_with_pictures_is_in_no_comparison():
    heads = {("VQ-VQ", "codes"): 0.1, ("VQ-SigLIP", "regression"): 0.1, ("VQ-SigLIP", "flow"): 0.1}
    table = heads_with(heads, heads)
    extra = table[(table["arm"] == MIXED) & (table["seed"] == 0) & (table["head"] == "codes")]
    more = pd.concat([table, extra.assign(arm=generation_heads.PICTURED, value=9.0)])
    plain, found = (opened("generation_heads", each) for each in (table, more))
    pd.testing.assert_frame_equal(found.verdicts, plain.verdicts)
    for name in ("gains", "read_backs"):
        of = getattr(generation_heads, name)
        pd.testing.assert_frame_equal(of(more), of(table))


def by_size(slope: float, start: float, seeds=8) -> pd.DataFrame:
    """As the table of language_model_scale: a gain of .1 at a million parameters and `slope` more
    for ten times as many, `start` less from random weights; repeating gains .3."""
    rows = []
    for seed in range(seeds):
        for count in map(parameters_of, LM_LAYERS):
            for model, arms in STARTS.items():
                gain = 0.1 + (slope + 0.002 * (-1) ** seed) * np.log10(count / 1e6)
                gained = {ONCE: 0.0, REPEATED: 0.3, MIXED: gain - start * (model == "random")}
                gained[TEXT] = 0.5 * gained[MIXED]
                rows += [
                    ("VQ-VQ", model, count, arm, seed, 0.4 + 0.01 * seed + gained[arm])
                    for arm in arms
                ]
    columns = ["architecture", "language_model", "parameters", "arm", "seed", "value"]
    table = pd.DataFrame(rows, columns=columns)
    return table.assign(fraction=1.0, metric="partial", attribute="total")


@pytest.mark.parametrize(
    ("slope", "start", "grows", "larger"),
    [
        (0.16, 0.12, "yes", "yes"),
        (-0.16, -0.12, "no", "no"),
        (0.02, 0.0, "no effect", "no effect"),
    ],
)
def test_a_planted_slope_over_sizes_and_a_planted_start_are_judged_as_they_are(
    slope, start, grows, larger
):
    found = verdicts("language_model_scale", by_size(slope, start))
    assert found["claim"].tolist() == [
        *["gains by size"] * 7,
        *["gains by size over text"] * 7,
        *["grows with the language model"] * 2,
        *["more if pre-trained"] * 2,
        *["gains by size over repeating"] * 3,
    ]
    growth, starts = found.iloc[14:16], found.iloc[16:18]  # over its rows alone, and text with them
    for part, wanted, verdict in ((growth, slope, grows), (starts, start, larger)):
        assert part["difference"].tolist() == pytest.approx([wanted, wanted / 2], abs=1e-9)
        assert set(part["verdict"]) == {verdict}
    counts = np.array([parameters_of(name) for name in LM_LAYERS])
    gain = 0.1 + slope * np.log10(counts / 1e6)
    others = np.delete(gain, 1)  # without the shipped one, which mutual benefit judges
    over = [*others, *(gain - start)]
    wanted = [*over, *(0.5 * np.array(over)), *(others - 0.3)]
    judged = found.drop(index=range(14, 18))
    assert judged["difference"].to_numpy() == pytest.approx(wanted)
    matched = ["examples"] * 7 + ["steps"] * 7 + ["examples", "steps"] * 2 + ["steps"] * 3
    assert found["matching"].tolist() == matched
    minus = f"mixed \N{MINUS SIGN} {ONCE}"
    assert found["quantity"].iloc[[0, 3, 4, 14, 16]].tolist() == [
        f"total, 0.17 M parameters, pre-trained, {minus}",
        f"total, 0.17 M parameters, random, {minus}",
        f"total, 0.93 M parameters, random, {minus}",
        f"total, {minus}, pre-trained, per factor of ten in parameters",
        f"total, {minus}, pre-trained \N{MINUS SIGN} random, mean over sizes",
    ]


def test_equal_totals_at_every_size_and_start_are_no_effect():
    table = by_size(0.0, 0.0)
    table["value"] = 0.5 + 0.01 * table["seed"]
    assert set(verdicts("language_model_scale", table)["verdict"]) == {"no effect"}


def test_a_seed_without_every_size_has_no_slope():
    gained = pd.DataFrame({10: [0.1, 0.2], 1000: [0.3, np.nan]}, index=[4, 5])
    assert slopes(gained).to_dict() == {4: pytest.approx(0.1)}


def told_and_drawn(told: dict, found: dict, seeds=8) -> pd.DataFrame:
    """As the table of captioned_pictures: token accuracy and drawn retrieval of each arm.

    Seeds differ by as much in all arms. Mixed training has a little noise of its own.
    """
    rows = [
        ("VQ-VQ", arm, seed, metric, attribute, value + 0.01 * seed, 100)
        for scored, metric, attribute in (
            (told, "token_accuracy", "caption"),
            (found, "drawn_retrieval", "first 5"),
            (dict.fromkeys(found, 1.0), "drawn_retrieval", "first 1"),
        )
        for arm, level in scored.items()
        for seed in range(seeds)
        for value in [level + 0.001 * (-1) ** seed * (arm == MIXED)]
    ]
    columns = ["architecture", "arm", "seed", "metric", "attribute", "value", "samples"]
    return pd.DataFrame(rows, columns=columns).assign(fraction=1.0)


def test_pictures_are_judged_against_each_baseline_and_the_control():
    told = {ONCE: 0.3, REPEATED: 0.5, MIXED: 0.4, training_order.SHUFFLED: 0.4}
    drawn = {GENERATION: 0.3, MIXED: 0.2, training_order.SHUFFLED: 0.9}
    found = verdicts("captioned_pictures", told_and_drawn(told, drawn))
    tokens, picture = "token accuracy of captions", "drawn picture among the 5 nearest"
    minus = f"{MIXED} \N{MINUS SIGN}"
    assert found[["claim", "quantity", "matching", "verdict"]].to_numpy().tolist() == [
        ["pictures understood", f"{tokens}, {minus} {ONCE}", "examples", "replicates"],
        ["pictures drawn", f"{picture}, {minus} {GENERATION}", "examples", "no"],
        ["more than repeating", f"{tokens}, {minus} {REPEATED}", "steps", "no"],
        [
            "by what is drawn",
            f"{tokens}, {minus} {training_order.SHUFFLED}",
            "examples",
            "no effect",
        ],
    ]
    assert found["difference"].tolist() == pytest.approx([0.1, -0.1, -0.1, 0])
    assert set(found["seeds"]) == {8}


def test_equal_scores_on_pictures_are_no_effect():
    arms = (ONCE, REPEATED, GENERATION, MIXED, training_order.SHUFFLED)
    found = verdicts("captioned_pictures", told_and_drawn(*[dict.fromkeys(arms, 0.4)] * 2))
    assert found["verdict"].tolist() == ["no effect"] * 4


def test_drawing_by_chance_is_not_judged():
    told = dict.fromkeys((ONCE, REPEATED, MIXED, training_order.SHUFFLED), 0.4)
    by_chance = {GENERATION: 0.0, MIXED: 0.0}
    found = verdicts("captioned_pictures", told_and_drawn(told, by_chance))
    assert len(found) == 3 and "pictures drawn" not in set(found["claim"])


@pytest.mark.parametrize(
    ("drawn", "shown"),
    [
        ({GENERATION: 0.05, MIXED: 0.05}, False),
        ({GENERATION: 0.02, MIXED: 0.03}, False),
        ({GENERATION: 0.07, MIXED: 0.05}, True),
        ({GENERATION: 0.05, MIXED: 0.07}, True),
        ({GENERATION: 0.05, MIXED: 0.05, training_order.SHUFFLED: 0.9}, False),
    ],
)
@pytest.mark.parametrize("seeds", [3, 8])
def test_drawing_is_shown_if_an_arm_with_true_requests_is_above_chance(drawn, shown, seeds):
    table = told_and_drawn({}, drawn, seeds)
    equal = table.assign(value=table["arm"].map(drawn))  # every seed draws as well as the others
    noise = 0.001 * (-1.0) ** table["seed"]
    assert drawing_architectures(equal.assign(value=equal["value"] + noise)) == ["VQ-VQ"] * shown
    assert drawing_architectures(equal) == ["VQ-VQ"] * shown
    assert drawing_architectures(equal[equal["seed"] == 0]) == []  # has no interval
