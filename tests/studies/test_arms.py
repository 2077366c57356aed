"""Which runs the studies ask for, and how their tables call them."""

import itertools
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from uvlm_core.data.conversations import AttributeBias
from uvlm_core.models.distortion import Distortion
from uvlm_core.models.language_models import LM_LAYERS, SHIPPED_LM, parameters_of
from uvlm_core.runs.store import RunStore, record_key
from uvlm_core.studies import attribute_transfer as transfer
from uvlm_core.studies import generation_heads, training_order
from uvlm_core.studies.affine_alignment import ONE, OTHER_SEEDS, TWO, DistortionStrengths
from uvlm_core.studies.attribute_transfer import PixelProbes
from uvlm_core.studies.base import REGIME_CHANGES, Measurement, find_study, scores, sized
from uvlm_core.studies.baselines import (
    FIRST,
    GENERATION,
    MIXED,
    NO_TEXT,
    ONCE,
    REPEATED,
    TEXT,
    MixedScale,
    baselines,
    generation_first,
)
from uvlm_core.studies.language_model_scale import STARTS
from uvlm_core.studies.learning_curves import FeatureCeiling
from uvlm_core.studies.original_behaviour import PLAIN, SWITCHES
from uvlm_core.studies.trained_parts import FULL, PARTS
from uvlm_core.studies.when_it_helps import FACTORS, cells, confounded, design, levels
from uvlm_core.training.profiles import profile
from uvlm_core.training.spec import ARCHITECTURES
from uvlm_core.training.stacked import stack_key

BASE = profile("laptop")


def arms_of(name: str, base=BASE, **changes) -> list:
    """The arms of a study that train something."""
    study = find_study(name)
    arms = study.arms(base, replace(study.scale(base.name), **changes))
    return [arm for arm in arms if not isinstance(arm.spec, Measurement)]


def specs_of(name: str, base=BASE, **changes) -> list:
    return [arm.spec for arm in arms_of(name, base, **changes)]


def test_learning_curves_take_every_arm_of_every_architecture_and_the_control_of_one():
    specs = specs_of("learning_curves", seeds=3)
    found = {
        (spec.training.seed, spec.model.architecture, spec.training.regime)
        for spec in specs
        if not spec.data.shuffled_requests
    }
    assert len(found) == 3 * 4 * 3
    control = {
        (spec.model.architecture, spec.training.seed)
        for spec in specs
        if spec.data.shuffled_requests
    }
    assert control == {("VQ-VQ", 0), ("VQ-VQ", 1)} and len(specs) == 3 * 4 * 3 + 2
    last = {spec.canonical() for spec in specs if spec.training.seed == 2}
    assert len(last) == 2 + 2 + 4  # arms of one task are shared


def test_arms_differ_from_the_profile_in_what_their_name_says_only():
    arms = arms_of("learning_curves", seeds=1, architectures=("VQ-VQ",))
    assert [arm.labels["regime"] for arm in arms] == list(REGIME_CHANGES)
    for arm, change in zip(arms, REGIME_CHANGES.values(), strict=True):
        assert arm.spec == BASE.spec.vary(architecture="VQ-VQ", shown_watches=7, **change)
        assert arm.spec.steps == BASE.spec.steps


def test_baselines_see_the_same_understanding_rows_as_often_or_for_as_many_steps():
    scale = find_study("mutual_benefit").scale("laptop")
    arms = arms_of("mutual_benefit", seeds=1, architectures=("SigLIP-VQ",))
    found = {arm.labels["arm"]: arm.spec for arm in arms}
    assert list(found) == [ONCE, REPEATED, GENERATION, MIXED, TEXT, NO_TEXT]
    rows = {
        name: [stage.seen(spec.rows_of_kinds) for stage, _ in spec.schedule()]
        for name, spec in found.items()
    }
    assert all(len(stages) == 1 for stages in rows.values())
    seen, requests, texts = scale.seen, scale.generation_rows, scale.text_rows
    assert list(rows[ONCE][0].values()) == [seen, 0, 0]
    assert list(rows[REPEATED][0].values()) == [seen + requests + texts, 0, 0]
    assert list(rows[GENERATION][0].values()) == [0, requests, texts]
    assert list(rows[MIXED][0].values()) == [seen, requests, texts]
    assert list(rows[TEXT][0].values()) == [seen, 0, requests + texts]
    assert list(rows[NO_TEXT][0].values()) == [seen, requests, 0]
    assert found[TEXT].data.text_examples == texts  # repeated, as no other text was there
    assert (
        found[REPEATED].steps == found[TEXT].steps == found[MIXED].steps
        and found[ONCE].steps == seen / 8
    )
    assert {spec.alpha for spec in found.values()} == {0.2}
    features = arms_of("mutual_benefit", seeds=1, architectures=("VQ-SigLIP",))
    assert {arm.spec.alpha for arm in features} == {1.0}
    without = arms_of("mutual_benefit", seeds=1, architectures=("VQ-VQ",), text_rows=0)
    assert {arm.labels["arm"] for arm in without} == {ONCE, REPEATED, GENERATION, MIXED}


def test_studies_share_the_runs_of_mixed_training_and_its_baselines():
    shared = {
        name: {
            (arm.labels["arm"], arm.spec.canonical())
            for arm in arms_of(name, seeds=1, architectures=("VQ-VQ",))
            if arm.spec.understanding_rows == 1600
            and arm.labels["arm"] in (ONCE, REPEATED, TEXT, MIXED)
        }
        for name in ("mutual_benefit", "training_order")
    }
    assert (
        shared["mutual_benefit"] == shared["training_order"] and len(shared["training_order"]) == 4
    )


def test_an_unknown_architecture_is_refused_by_name():
    with pytest.raises(ValueError, match="architecture 'VQ' is not one of .*SigLIP-VQ"):
        arms_of("mutual_benefit", architectures=("VQ",))


@pytest.mark.parametrize("name", ["smoke", "laptop"])
def test_scaling_lets_one_task_grow_and_keeps_the_other(name):
    base = profile(name)
    scale = find_study("data_scaling").scale(name)
    arms = arms_of("data_scaling", base, seeds=1, architectures=("VQ-VQ",))
    names = (ONCE, REPEATED, TEXT, MIXED)
    found = {arm: [a for a in arms if a.labels["arm"] == arm] for arm in names}
    for arm in arms:
        rows, shown = arm.spec.rows_of_kinds, arm.labels
        assert shown["understanding_rows"] == rows["understanding"]
        if shown["arm"] in (MIXED, GENERATION):
            assert shown["generation_rows"] == rows["generation"] == 2 * rows["text"]
    grown = {
        a.labels["generation_rows"]: a.spec
        for a in found[MIXED]
        if a.labels["understanding_rows"] == scale.seen
    }
    assert list(grown) == [*scale.fewer_requests, scale.generation_rows]
    for baseline in (REPEATED, TEXT):
        assert {a.labels["generation_rows"]: a.spec.steps for a in found[baseline]} == {
            requests: spec.steps for requests, spec in grown.items()
        }
    for arm in found[TEXT]:  # all rows but those to be understood are text
        rows = arm.spec.rows_of_kinds
        assert not arm.spec.generates and 2 * rows["text"] == arm.labels["generation_rows"]
        seen = arm.spec.training.stages[0].seen(rows)
        assert seen["text"] == 3 * rows["text"] and seen["understanding"] == scale.seen
    other = {
        a.labels["understanding_rows"]
        for a in found[MIXED]
        if a.labels["generation_rows"] == scale.generation_rows
    }
    assert other == {*scale.fewer_understood, scale.seen}
    alone = [a.labels["understanding_rows"] for a in found[ONCE]]
    assert alone == sorted((*scale.alone, scale.seen))
    assert all(a.spec.steps == -(-a.labels["understanding_rows"] // 8) for a in found[ONCE])


def test_sizes_are_split_between_questions_and_captions_as_in_the_profile():
    spec = sized(BASE, 1000, 300)
    assert (spec.understanding_rows, spec.generation_rows) == (1000, 300)
    share = BASE.spec.data.caption_examples / BASE.spec.understanding_rows
    assert spec.data.caption_examples == round(1000 * share) and spec.scoring.fractions == (1.0,)


def test_a_switch_changes_one_thing():
    arms = arms_of("original_behaviour", seeds=1)
    plain = [arm.spec for arm in arms if arm.labels["switch"] == PLAIN]
    for name, change in SWITCHES.items():
        own = [arm.spec for arm in arms if arm.labels["switch"] == name]
        assert own == [spec.vary(**change) for spec in plain]


def test_alignment_distorts_both_orders_and_trains_mixed_by_one_adapter_and_by_two():
    scale = find_study("affine_alignment").scale("laptop")
    arms = [arm for arm in arms_of("affine_alignment", seeds=6) if arm.labels["arm"] != "none"]
    names = ("seed", "arm", "adapters", "family", "dose")
    found = {tuple(arm.labels[name] for name in names): arm.spec for arm in arms}
    assert len({spec.canonical() for spec in found.values()}) == len(arms)  # none is in vain
    judged = [(arm, ONE) for arm in (ONCE, REPEATED, TEXT, MIXED, FIRST)] + [(MIXED, TWO)]
    kinds = (("none", 0.0), ("affine", 1.0))
    wanted = {(seed, *arm, *how) for seed in range(6) for arm in judged for how in kinds}
    wanted |= {
        (seed, arm, ONE, *how)
        for seed in range(OTHER_SEEDS)
        for arm in (ONCE, MIXED)
        for how in scale.others
    }
    assert set(found) == wanted
    for (seed, arm, adapters, family, dose), spec in found.items():
        same = {"seed": seed, "architecture": "VQ-VQ"}
        known = baselines(BASE, scale, scale.seen, **same)
        plain = generation_first(known[MIXED]) if arm == FIRST else known[arm]
        bent = () if family == "none" else (Distortion(family, dose),)
        assert spec == plain.vary(distortions=bent, shared_adapter=adapters == ONE)


def test_a_distortion_that_leaves_no_common_adapter_is_refused():
    for changes in ({"family": "width", "dose": 2.0}, {"others": (("width", 2.0),)}):
        with pytest.raises(ValueError, match="family 'width' leaves the two spaces no common"):
            arms_of("affine_alignment", seeds=1, **changes)
    with pytest.raises(ValueError, match="'shear'"):
        arms_of("affine_alignment", seeds=1, family="shear")


def test_transfer_has_two_orders_three_baselines_and_two_controls_in_every_seed():
    scale = find_study("attribute_transfer").scale("laptop")
    arms = arms_of("attribute_transfer", seeds=2)
    specs = {(arm.labels["seed"], arm.labels["arm"]): arm.spec for arm in arms}
    assert len(set(specs.values())) == len(arms) == 2 * 7
    few = tuple(AttributeBias(name, 0.03) for name in ("weather", "weather_corner"))
    never = tuple(AttributeBias(name, 0.0, ("generation",)) for name in scale.rare)
    exchanged = ("weather", "weather_corner", "battery_corner")
    for seed in (0, 1):
        plain = baselines(BASE, scale, scale.seen, seed=seed, architecture="VQ-VQ")
        rare = {
            arm: spec.vary(biases=few, probe_watches=BASE.spec.scoring.test_watches)
            for arm, spec in plain.items()
        }
        names = (ONCE, REPEATED, TEXT, MIXED)
        assert {arm: specs[seed, arm] for arm in names} == {arm: rare[arm] for arm in names}
        absent, false = (specs[seed, arm] for arm in (transfer.ABSENT, transfer.FALSE))
        assert absent == rare[MIXED].vary(biases=few + never)
        assert false == rare[MIXED].vary(shuffled_attributes=exchanged)
        assert specs[seed, FIRST] == generation_first(rare[MIXED])
        steps = {arm: specs[seed, arm].steps for arm in names}
        assert steps[ONCE] == 200 and steps[TEXT] == steps[MIXED]
        assert abs(steps[REPEATED] - steps[MIXED]) <= 1


@pytest.mark.parametrize("name", ["smoke", "laptop", "smollm", "paper"])
def test_every_profile_runs_what_its_transfer_scale_states(name):
    scale = find_study("attribute_transfer").scale(name)
    for arm in arms_of("attribute_transfer", profile(name)):
        biases = [bias for bias in arm.spec.data.biases if "generation" not in bias.tasks]
        assert [bias.attribute for bias in biases] == list(scale.rare)
        assert {bias.rate for bias in biases} == {scale.rate} == {arm.labels["rate"]}


def test_every_order_shows_the_same_rows_equally_often_in_as_many_steps():
    scale = find_study("training_order").scale("laptop")
    requests, texts, seen = scale.generation_rows, scale.text_rows, scale.seen
    for rows in (1600, 100):
        specs = training_order.specs_of(BASE, scale, rows, seed=0, architecture="VQ-VQ")
        assert set(specs) == set(training_order.ARMS)
        shown = {
            name: [stage.seen(spec.rows_of_kinds) for stage, _ in spec.schedule()]
            for name, spec in specs.items()
        }
        for name, stages in shown.items():
            every = {kind: sum(stage[kind] for stage in stages) for kind in stages[0]}
            assert specs[name].understanding_rows == rows and specs[name].data.images == 14_000
            if name not in (ONCE, training_order.SMALL):
                assert sum(every.values()) == seen + requests + texts
                assert specs[name].steps in (1513, 1514)  # a stage may end with a part of a step
            if name != REPEATED:
                assert every["understanding"] == seen
            if specs[name].generates and "without text" not in name:
                assert (every["generation"], every["text"]) == (requests, texts)
        assert shown["text first"][0] == {"understanding": 0, "generation": 0, "text": 10_500}
        assert specs[ONCE].steps == seen / 8
        assert specs[training_order.SMALL].steps == seen
        first = shown[training_order.FIRST]
        assert [stage["understanding"] for stage in first] == [0, seen]
        assert [stage["generation"] for stage in first] == [requests, 0]


def test_the_orders_control_differs_in_whose_images_are_drawn_only():
    scale = find_study("training_order").scale("laptop")
    specs = training_order.specs_of(BASE, scale, 1600, seed=0, architecture="VQ-VQ")
    for arm, control in (
        (MIXED, training_order.SHUFFLED),
        (training_order.FIRST, training_order.SHUFFLED_FIRST),
    ):
        assert specs[control] == specs[arm].vary(shuffled_requests=True)


def test_the_map_is_balanced_orthogonal_and_of_resolution_4():
    found, scale = design(), find_study("when_it_helps").scale("laptop")
    assert found.shape == (16, 7) and len({tuple(cell) for cell in found}) == 16
    assert set(found.flat) == {-1, 1} and not found.sum(0).any()
    assert (found.T @ found == 16 * np.eye(7)).all()
    columns = dict(zip(FACTORS, found.T, strict=True))
    pairs = {
        pair: columns[pair[0]] * columns[pair[1]] for pair in itertools.combinations(FACTORS, 2)
    }
    # no interaction of two has anything of a main effect, or of the mean
    assert not any(product @ column for product in pairs.values() for column in found.T)
    assert not any(product.sum() for product in pairs.values())
    # but each is that of two other pairs
    assert [len(group) for group in confounded()] == [3] * 7
    assert [pair for group in confounded() for pair in group if pair not in pairs] == []
    for group in confounded():
        assert all((pairs[pair] == pairs[group[0]]).all() for pair in group)
    for cell, signs in zip(cells(scale), found, strict=True):
        for (name, (low, high)), sign in zip(levels(scale).items(), signs, strict=True):
            assert cell[name] == (high if sign > 0 else low)


def test_the_arms_of_a_cell_are_mixed_and_understanding_alone_at_its_levels():
    arms = arms_of("when_it_helps", seeds=1)
    assert len(arms) == 2 * 16
    for arm in arms:
        spec, labels = arm.spec, arm.labels
        rows, requests = labels["understanding_rows"], labels["generation_rows"]
        assert rows in (100, 1600) and spec.understanding_rows == rows
        ((stage, steps),) = spec.schedule()
        mixed = labels["arm"] == MIXED
        texts = requests / 2 * mixed * (labels["text"] == "with")
        seen = {"understanding": 1600, "generation": requests * mixed, "text": texts}
        assert stage.seen(spec.rows_of_kinds) == seen and steps == -(-sum(seen.values()) // 8)
        assert spec.training.image_loss_weight == labels["image_loss_weight"] or not mixed
        assert spec.training.optimizer == labels["optimizer"].lower()
        assert spec.model.random_language_model == (labels["language_model"] == "random")
        assert spec.model.shared_adapter == (labels["sharing"] == "shared")
        rates = spec.training.learning_rate, spec.training.adapter_learning_rate
        assert rates == {"Muon": (0.01, 2e-3), "AdamW": (1e-3, 1e-3)}[labels["optimizer"]]


def test_cells_share_understanding_alone_where_it_does_not_see_what_differs():
    arms = arms_of("when_it_helps", seeds=1)
    runs = {
        name: {arm.spec.canonical() for arm in arms if arm.labels["arm"] == name}
        for name in (ONCE, MIXED)
    }
    assert {name: len(own) for name, own in runs.items()} == {ONCE: 8, MIXED: 16}
    seen = {
        (
            spec.understanding_rows,
            spec.training.optimizer,
            spec.model.random_language_model,
        )
        for spec in runs[ONCE]
    }
    assert len(seen) == 8
    others = {spec.canonical() for spec in specs_of("training_order", seeds=1)}
    assert len(runs[ONCE] & others) == 2  # those of the paper's setting are there already


@pytest.mark.parametrize("name", ["smoke", "laptop"])
def test_gradients_are_measured_in_mixed_training_and_its_control_alone(name):
    base, scale = profile(name), find_study("task_gradients").scale(name)
    arms = arms_of("task_gradients", base)
    assert len(arms) == len({arm.spec.canonical() for arm in arms})
    assert (
        len(arms) == 2 * scale.seeds * len(scale.architectures) == {"smoke": 2, "laptop": 16}[name]
    )
    for mixed, control in zip(arms[::2], arms[1::2], strict=True):
        assert (mixed.labels["arm"], control.labels["arm"]) == (MIXED, training_order.SHUFFLED)
        assert control.spec == mixed.spec.vary(shuffled_requests=True)
        same = {key: mixed.labels[key] for key in ("seed", "architecture")}
        plain = baselines(base, scale, scale.seen, **same)[MIXED]
        changes = {"gradient_rows": scale.gradient_rows, "fractions": scale.fractions}
        assert mixed.spec == plain.vary(**changes) and mixed.spec.steps == plain.steps
        assert stack_key(mixed.spec) is None


def test_trained_parts_differ_from_training_in_full_in_tuning_rank_and_adapters_alone():
    found = {
        (arm.labels["trained"], arm.labels["arm"]): arm.spec
        for arm in arms_of("trained_parts", seeds=1)
    }
    names = (ONCE, TEXT, REPEATED, MIXED)
    assert set(found) == {(part, arm) for part in PARTS for arm in names}
    trained = {"tuning", "lora_rank", "lora_alpha", "shared_adapter"}
    for (part, arm), spec in found.items():
        assert spec.vary(**{name: BASE.spec.flat()[name] for name in trained}) == found[FULL, arm]
        assert spec.model.shared_adapter != ("two adapters" in part)
        tuning, rank = spec.training.tuning, spec.training.lora_rank
        assert part.startswith({"lora": f"LoRA of rank {rank}"}.get(tuning, f"{tuning} LM"))
        assert tuning != "lora" or spec.training.lora_alpha == 2 * rank


@pytest.mark.parametrize(("base", "seeds"), [(profile("smoke"), 1), (BASE, 8)])
def test_baselines_with_two_adapters_and_runs_in_full_are_not_made_again(base, seeds):
    study = find_study("trained_parts")
    own = set(study.specs(base))
    assert len(study.arms(base, study.scale(base.name))) == 24 * seeds
    assert len(own) == 18 * seeds  # 4 of each of 4 parts, and mixed with two adapters twice
    others = set(find_study("mutual_benefit").specs(base))
    assert len(own & others) == 4 * seeds
    assert {spec.training.tuning for spec in own & others} == {"full"}


def test_heads_differ_from_the_baselines_in_what_they_need_alone():
    scale = find_study("generation_heads").scale("laptop")
    arms = arms_of("generation_heads", seeds=1)
    found = {
        (arm.labels["architecture"], arm.labels["head"], arm.labels["arm"]): arm.spec
        for arm in arms
    }
    heads = {
        ("VQ-VQ", "codes"): {},
        **{(name, "regression"): generation_heads.REGRESSED for name in ("VQ-SigLIP", "VQ-Latent")},
        ("VQ-SigLIP", "flow"): generation_heads.SAMPLED_FEATURES,
        ("VQ-Latent", "flow"): generation_heads.SAMPLED_LATENTS,
        ("VQ-Latent", "image flow"): generation_heads.SAMPLED_IMAGES,
    }
    assert len(found) == len(arms) == 5 * len(heads) + 1
    for (name, head), needed in heads.items():
        assert set(needed) <= {"feature_loss", "feature_loss_weight", "feature_dropout"}
        kept = {} if head == "codes" else {"shown_watches": 5}
        plain = baselines(BASE, scale, scale.seen, seed=0, architecture=name)
        for arm, spec in plain.items():
            assert found[name, head, arm] == spec.vary(**needed, **kept)
            assert spec.vary(architecture="VQ-VQ") == found["VQ-VQ", "codes", arm]
    losses = {head: needed.get("feature_loss") for (_, head), needed in heads.items()}
    named = {"codes": None, "regression": "cosine", "flow": "flow", "image flow": "image_flow"}
    assert losses == named
    extra = found["VQ-VQ", "codes", generation_heads.PICTURED]
    assert extra == found["VQ-VQ", "codes", MIXED].vary(shown_watches=5)


@pytest.mark.parametrize(("base", "seeds"), [(profile("smoke"), 1), (BASE, 8)])
def test_heads_of_a_seed_share_understanding_alone_and_codes_are_those_of_mutual_benefit(
    base, seeds
):
    study = find_study("generation_heads")
    arms = study.arms(base, study.scale(base.name))
    for seed in range(seeds):
        for alone in (ONCE, REPEATED, TEXT):
            own = [arm for arm in arms if arm.labels["seed"] == seed and arm.labels["arm"] == alone]
            assert len(own) == 6 and len({arm.spec.canonical() for arm in own}) == 1
    runs = set(study.specs(base))
    assert len(arms) == 30 * seeds + 1 and len(runs) == 15 * seeds + 1
    shared = {arm.spec.canonical() for arm in arms if arm.labels["head"] == "codes"} & set(
        find_study("mutual_benefit").specs(base)
    )
    assert len(shared) == 5 * seeds  # all of codes but the one with pictures


def test_seeds_of_a_head_share_a_stack_and_heads_do_not():
    stacks = {}
    for arm in arms_of("generation_heads", seeds=3):
        labels = arm.labels["architecture"], arm.labels["head"], arm.labels["arm"]
        stacks.setdefault(labels, set()).add(stack_key(arm.spec.canonical()))
    assert all(len(keys) == 1 and None not in keys for keys in stacks.values())
    generating = {
        labels: keys for labels, keys in stacks.items() if labels[2] in (GENERATION, MIXED)
    }
    assert len(generating) == len(set.union(*generating.values())) == 12


def test_language_models_differ_in_size_and_start_alone_and_share_no_stack():
    found = {
        (arm.labels["parameters"], arm.labels["language_model"], arm.labels["arm"]): arm.spec
        for arm in arms_of("language_model_scale", seeds=1)
    }
    sizes = {parameters_of(name): name for name in LM_LAYERS}
    names = {(start, arm) for start, arms in STARTS.items() for arm in arms}
    assert set(found) == {(count, *each) for count in sizes for each in names}
    shipped = parameters_of(SHIPPED_LM)
    for (count, start, arm), spec in found.items():
        assert spec.model.language_model == sizes[count]
        assert spec.model.random_language_model == (start == "random")
        same = {"language_model": SHIPPED_LM, "random_language_model": False}
        assert spec.vary(**same) == found[shipped, "pre-trained", arm]
        assert arm == ONCE or spec.steps == 1513
    keys = [stack_key(spec.canonical()) for spec in found.values()]
    assert len(set(keys)) == len(found) and None not in keys
    assert stack_key(found[shipped, "random", MIXED].vary(seed=5).canonical()) in keys


@pytest.mark.parametrize(("base", "count", "shared"), [(profile("smoke"), 7, 4), (BASE, 224, 32)])
def test_runs_of_the_shipped_language_model_are_those_of_mutual_benefit(base, count, shared):
    study = find_study("language_model_scale")  # its language models are not in the cache
    own = set(study.specs(base))
    both = own & set(find_study("mutual_benefit").specs(base))
    assert (len(own), len(both)) == (count, shared)
    assert {(spec.model.language_model, spec.model.random_language_model) for spec in both} == {
        (SHIPPED_LM, False)
    }


def test_a_run_whose_language_model_is_not_in_the_cache_is_refused_with_what_brings_it():
    (spec,) = (
        arm.spec
        for arm in arms_of("language_model_scale", seeds=1)
        if arm.labels["parameters"] < 2e5 and arm.labels["arm"] == REPEATED
    )
    with pytest.raises(
        ValueError, match="'cache/language_model_tiny' .*; `make language_model_tiny` brings it"
    ):
        record_key(spec)


@pytest.mark.parametrize("name", ["smoke", "laptop"])
def test_pictures_have_mixed_training_its_baselines_and_its_control_for_every_seed(name):
    base, scale = profile(name), find_study("captioned_pictures").scale(name)
    found = arms_of("captioned_pictures", base)
    order = (ONCE, REPEATED, GENERATION, MIXED, training_order.SHUFFLED)
    assert [(arm.labels["seed"], arm.labels["arm"]) for arm in found] == [
        (seed, arm) for seed in range(scale.seeds) for arm in order
    ]
    assert len({arm.spec.canonical() for arm in found}) == len(found) == 5 * scale.seeds
    pictured = replace(base, spec=base.spec.vary(**scale.changes))
    rows = {"smoke": 16, "laptop": 2700}[name]
    sizes = MixedScale(scale.seeds, scale.architectures, rows, rows)
    wanted = baselines(pictured, sizes, rows, seed=0, architecture="VQ-VQ")
    wanted[training_order.SHUFFLED] = wanted[MIXED].vary(shuffled_requests=True)
    specs = {arm.labels["arm"]: arm.spec for arm in found[:5]}
    assert specs == wanted
    for arm, (captions, requests) in zip(
        order, [(1, 0), (2, 0), (0, 1), (1, 1), (1, 1)], strict=True
    ):
        ((stage, _),) = specs[arm].schedule()
        assert list(stage.seen(specs[arm].rows_of_kinds).values()) == [
            captions * rows,
            requests * rows,
            0,
        ]
    assert specs[REPEATED].steps == specs[MIXED].steps > specs[ONCE].steps
    assert {spec.alpha for spec in specs.values()} == {0.2}
    assert {spec.scoring.fractions for spec in specs.values()} == {(1.0,)}


def test_pictures_of_your_own_take_the_place_of_the_profiles():
    specs = specs_of("captioned_pictures", seeds=1, captions="mine.json", images="folder", sam=True)
    assert {(s.data.pictures, s.data.picture_folder, s.data.sam_pictures) for s in specs} == {
        ("mine.json", "folder", True)
    }
    assert {s.data.pictures for s in specs_of("captioned_pictures", seeds=1)} == {"stamps"}


def test_the_table_has_every_arm_under_its_own_name_though_runs_are_shared(spec, tmp_path):
    base = replace(profile("laptop"), spec=spec)
    arms = arms_of("learning_curves", base, seeds=2)
    store, values = RunStore(tmp_path), {}
    for number, some in enumerate(dict.fromkeys(arm.spec.canonical() for arm in arms)):
        rows = [
            {
                "fraction": fraction,
                "metric": "partial",
                "attribute": "time",
                "samples": 3,
                "value": number + fraction,
            }
            for fraction in (0.5, 1.0)
        ]
        values[some] = [row["value"] for row in rows]
        store.save(some, {"scores": rows}, np.zeros((1, 2, 2, 3), np.uint8))
    table = scores(arms, store)
    assert list(table.columns) == [
        "architecture",
        "regime",
        "seed",
        "record",
        "fraction",
        "metric",
        "attribute",
        "value",
        "samples",
    ]
    assert len(table) == 2 * len(arms) and set(table["architecture"]) == set(ARCHITECTURES)
    for arm in arms:
        own = table[(table[list(arm.labels)] == pd.Series(arm.labels)).all(axis=1)]
        assert own["value"].tolist() == values[arm.spec.canonical()]


def test_random_features_of_the_pixels_are_drawn_anew_for_each_seed(tmp_path):
    one, two = (PixelProbes(64, 12, 30, seed).run(tmp_path)["scores"] for seed in (0, 1))
    assert {row["metric"] for row in one} == {"probe", "probe_control"} and {
        row["samples"] for row in one
    } == {30}
    assert not np.array_equal([row["value"] for row in one], [row["value"] for row in two])
    assert one == PixelProbes(64, 12, 30, 0).run(tmp_path)["scores"]


def test_strengths_are_told_of_every_dose_of_a_space(networks, tmp_path):
    found = {
        row["attribute"]: row["value"]
        for space, name in (("VQ", "vq"), ("SigLIP", "siglip"))
        for row in DistortionStrengths(
            space, str(networks / name), 64, (("affine", 0.5), ("width", 2.0)), watches=4
        ).run(tmp_path)["scores"]
    }
    assert found["affine 0.5, condition"] == pytest.approx(10**0.5, rel=1e-4)
    assert (
        found["affine 0.5, shift"] == pytest.approx(0.5, rel=1e-4)
        and "width 2, displacement" in found
    )


def test_the_ceiling_of_features_is_a_cosine_for_each_kind_of_patch(networks, tmp_path):
    rows = FeatureCeiling(str(networks / "siglip"), 64, 4).run(tmp_path)["scores"]
    assert {row["metric"] for row in rows} == {"feature_cosine_ceiling"} and rows[0][
        "attribute"
    ] == "all"
    assert all(-1 <= row["value"] <= 1 + 1e-6 and row["fraction"] == 1 for row in rows)
