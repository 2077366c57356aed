"""Experiments as lists of runs, and the tables that they make."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from uvlm_core import experiments, runs
from uvlm_core.conversations import AttributeBias
from uvlm_core.distortion import Distortion
from uvlm_core.experiments import (
    AFFINE,
    ARMS,
    FEWER,
    MATCHINGS,
    RARE,
    alignment,
    alignment_table,
    data_scaling,
    matching,
    mutual_benefit,
    probe_table,
    seeds_of,
    sized,
    switches,
    transfer,
    transfer_table,
)
from uvlm_core.profiles import ARCHITECTURES, profile
from uvlm_core.runs import RunStore

BASE = profile("laptop")
NETWORKS = ("language_model", "tokenizer", "semantic_encoder", "vq_tokenizer", "reader", "feature_reader",
            "feature_decoder")


def test_mutual_benefit_takes_every_arm_of_every_architecture_and_seed_and_the_control_of_one():
    specs = mutual_benefit(BASE, 3)
    arms = {(s.seed, s.architecture, s.regime) for s in specs if not s.shuffled_requests}
    assert len(arms) == 3 * 4 * 3
    assert {(s.architecture, s.seed) for s in specs if s.shuffled_requests} == {("VQ-VQ", 0), ("VQ-VQ", 1)}
    assert len(specs) == 3 * 4 * 3 + 2
    assert len({s.canonical() for s in specs if s.seed == 2}) == 2 + 2 + 4  # arms of one task are shared


def test_arms_differ_from_the_profile_in_what_their_name_says_only():
    for arm, spec in zip(ARMS, mutual_benefit(BASE, 1, ("VQ-VQ",)), strict=True):
        assert spec == BASE.spec.vary(**ARMS[arm]) and spec.steps == BASE.spec.steps


@pytest.mark.parametrize("name", ["smoke", "laptop"])
def test_scaling_lets_one_task_grow_and_keeps_the_other_and_the_steps(name):
    base = profile(name)
    rows = base.scaling_rows
    specs = [spec for spec in data_scaling(base, 1) if spec.fractions == (1.0,) and spec.architecture == "SigLIP-VQ"]
    first = [s for s in specs if s.regime == "unified" and s.batch_counts == "understanding"]
    second = [s for s in specs if s.batch_counts == "generation"]
    assert {s.understanding_rows for s in first} == {s.generation_rows for s in second} == {rows}
    assert [s.generation_rows / rows for s in first] == [0.5, 1, 2, 3]
    assert [s.understanding_rows / rows for s in second] == [0, 0.5, 1, 2, 3]
    assert len({s.steps for s in first}) == len({s.steps for s in second}) == 1
    alone = [s for s in specs if s.regime == "understanding"]
    assert [s.understanding_rows / rows for s in alone] == [0.25, 0.5, 1, 2, 3]
    assert all(s.generation_rows == 0 for s in alone)


def test_sizes_are_split_between_questions_and_captions_as_in_the_profile():
    spec = sized(BASE, 1000, 300)
    assert (spec.understanding_rows, spec.generation_rows) == (1000, 300)
    share = BASE.spec.caption_examples / BASE.spec.understanding_rows
    assert spec.caption_examples == round(1000 * share) and spec.fractions == (1.0,)


def test_the_rules_of_matching_hold_what_they_name_equal():
    found, rows = matching(replace(BASE, matched=("VQ-VQ",)), 1), BASE.scaling_rows
    assert tuple(found) == MATCHINGS
    (alone, unified), (same, mixed), (more, again) = found.values()
    assert alone.steps == unified.steps and alone.understanding_rows == unified.understanding_rows == rows
    assert same == alone and mixed.understanding_rows == rows and mixed.steps == 2 * alone.steps
    assert again == mixed and more.steps == -(-more.understanding_rows // more.batch_size)
    ratio = experiments._tokens_ratio(BASE.spec)
    assert more.understanding_rows == pytest.approx(rows * (1 + ratio), abs=1) and 0.3 < ratio < 1


def test_alignment_crosses_dose_regime_sharing_and_place():
    base = replace(BASE, doses={"affine": (0.5, 1.0), "authors": (0.3,), "warp": (5.0,), "permutation": (1.0,)})
    specs = alignment(base, 3)
    assert len(set(specs)) == len(specs) == len({spec.canonical() for spec in specs})  # nothing is run for nothing
    affine = [s for s in specs if s.shared_adapter and len(s.distortions) == 1 and s.distortions[0].family == "affine"
              and (s.distortions[0].side, s.distortions[0].place) == ("understanding", "before")]
    doses = {(s.architecture, s.regime, s.seed): set() for s in affine}
    for s in affine:
        doses[s.architecture, s.regime, s.seed].add(s.distortions[0].dose)
    assert len(doses) == 2 * 2 * 3 and set(map(frozenset, doses.values())) == {frozenset((0.5, 1.0))}
    plain = [s for s in specs if not s.distortions]
    assert len(plain) == 3 * 2 * 3 and sum(not s.shared_adapter for s in plain) == 3 * 2
    others = {(s.distortions[0].family, s.seed) for s in specs if s.distortions} - {
        (family, seed) for family in AFFINE for seed in range(3)}
    assert others == {(family, seed) for family in ("warp", "permutation") for seed in range(FEWER)}
    assert {s.steps for s in specs} == {base.alignment_rows // base.spec.batch_size}
    assert not any(d.family == "permutation" for s in specs for d in s.distortions if s.architecture != "VQ-VQ")


def test_the_table_of_alignment_has_distortions_in_plain_columns():
    table = pd.DataFrame({"distortions": [(), (Distortion("warp", 2, "generation", "after"),)],
                          "shared_adapter": [True, False], "value": [1.0, 2.0]})
    found = alignment_table(table)
    assert found.to_dict("records") == [
        {"value": 1.0, "family": "none", "dose": 0.0, "side": "understanding", "place": "before", "sharing": "shared"},
        {"value": 2.0, "family": "warp", "dose": 2.0, "side": "generation", "place": "after", "sharing": "separate"}]


def test_strengths_are_told_of_every_dose_of_a_space(spec):
    base = replace(BASE, spec=spec, doses={"affine": (0.5,), "permutation": (1.0,), "width": (2.0,)})
    table = experiments.distortion_strengths(base, watches=4).set_index(["architecture", "family"])
    assert set(table.index) == {("VQ-VQ", "affine"), ("VQ-VQ", "permutation"), ("VQ-VQ", "width"),
                                ("SigLIP-SigLIP", "affine"), ("SigLIP-SigLIP", "width")}
    assert table.loc[("VQ-VQ", "affine"), "condition"] == pytest.approx(10**0.5, rel=1e-4)
    assert table.loc[("SigLIP-SigLIP", "affine"), "shift"] == pytest.approx(0.5, rel=1e-4)


def test_a_switch_changes_one_thing():
    plain, *switched = switches(BASE, 1).values()
    assert len(switched) == len(experiments.SWITCHES)
    for specs, change in zip(switched, experiments.SWITCHES.values(), strict=True):
        assert specs == [spec.vary(**change) for spec in plain]


@pytest.mark.parametrize(("arguments", "message"), [
    (dict(seeds=0), "seeds 0 is not an integer from 1"), (dict(seeds=2.0), "seeds 2.0 is not"),
    (dict(seeds=True), "seeds True is not")])
@pytest.mark.parametrize("experiment", [mutual_benefit, data_scaling, matching, alignment, transfer])
def test_a_bad_request_is_refused_by_name(experiment, arguments, message):
    with pytest.raises(ValueError, match=message):
        experiment(profile("smoke"), **arguments)


def test_an_unknown_architecture_is_refused_by_name():
    with pytest.raises(ValueError, match="architecture 'VQ' is not one of SigLIP-VQ"):
        mutual_benefit(BASE, 1, ("VQ",))


def test_seeds_count_from_zero():
    assert list(seeds_of(3)) == [0, 1, 2]


def test_the_table_has_every_asked_arm_under_its_own_name_though_runs_are_shared(spec, tmp_path, monkeypatch):
    specs = [some.vary(**{name: getattr(spec, name) for name in NETWORKS})
             for some in mutual_benefit(profile("smoke"), 2)]
    store, values = RunStore(tmp_path), {}
    for number, some in enumerate(dict.fromkeys(some.canonical() for some in specs)):
        rows = [{"fraction": fraction, "metric": "partial", "attribute": "time", "value": number + fraction,
                 "samples": 3} for fraction in (0.5, 1.0)]
        values[some] = [row["value"] for row in rows]
        store.save(some, {"scores": rows}, Image.new("RGB", (2, 2)))
    monkeypatch.setattr(runs, "_train", lambda *arguments: pytest.fail("a run that has a record was trained"))
    table = experiments.run(specs, tmp_path, factors=("generation_rows",))
    assert list(table.columns) == ["architecture", "regime", "seed", "generation_rows", "fraction", "metric",
                                   "attribute", "value", "samples"]
    assert len(table) == 2 * len(specs)
    for some in specs:
        arm = "shuffled" if some.shuffled_requests else some.regime
        own = table[(table["architecture"] == some.architecture) & (table["regime"] == arm)
                    & (table["seed"] == some.seed)]
        assert own["value"].tolist() == values[some.canonical()]
        assert set(own["generation_rows"]) == {some.generation_rows}
    assert set(table["architecture"]) == set(ARCHITECTURES)


def test_a_table_of_a_run_without_a_record_is_refused(spec, tmp_path):
    with pytest.raises(ValueError, match="There is no record .*json; run `make figures` first"):
        experiments.table([spec], RunStore(tmp_path))


FULL = replace(BASE, transferred=("VQ-VQ", "SigLIP-VQ", "SigLIP-SigLIP"), firm_rates=(0.03, 0.1),
               rates=dict.fromkeys(RARE, (0.0, 0.003, 0.01, 0.03, 0.1)))


def test_transfer_has_every_arm_at_the_firm_rates_and_more_rates_with_the_first_seed():
    specs = transfer(FULL, 2)
    assert len(set(specs)) == len(specs)
    own = {seed: [s for s in specs if s.seed == seed and s.architecture == "SigLIP-VQ"] for seed in (0, 1)}
    rare = {seed: {(s.biases[0].attribute, s.biases[0].rate) for s in found if s.biases} for seed, found in own.items()}
    assert rare[1] == {(name, rate) for name in ("weather", "battery") for rate in (0.03, 0.1)}
    assert len(rare[0]) == 4 * 5
    weather = [s for s in own[1] if s.biases and s.biases[0] == AttributeBias("weather", 0.03)]
    absent = AttributeBias("weather", 0.0, ("generation",))
    assert {(s.regime, s.biases[1:], s.shuffled_attributes) for s in weather} == {
        ("understanding", (), ()), ("unified", (), ()), ("unified", (absent,), ()), ("unified", (), ("weather",))}
    whole = [s.regime for s in own[1] if not s.biases]
    assert sorted(whole) == ["understanding", "unified"]
    reverse = [s for s in own[0] if s.biases and s.biases[0].tasks == ("generation",)]
    assert {s.regime for s in reverse} == {"generation", "unified"} and len(reverse) == 2 * 2 * 2
    corners = [s for s in own[0] if s.biases and s.biases[0].attribute == "weather_corner"]
    assert all({bias.attribute for bias in s.biases} == {"weather_corner", "battery_corner"} for s in corners)
    assert {rate: sum(s.biases[0].rate == rate for s in corners) for rate in (0.01, 0.03, 0.1)} == {
        0.01: 2, 0.03: 4, 0.1: 4}  # with the controls at the firm rates
    assert {s.steps for s in specs} == {FULL.transfer_rows[0] // BASE.spec.batch_size}


def test_the_table_of_transfer_names_arms_rates_and_what_is_rare_where():
    specs = [s for s in transfer(FULL, 1) if s.architecture == "VQ-VQ"]
    table = pd.DataFrame({"regime": s.regime, "biases": s.biases, "shuffled_attributes": s.shuffled_attributes,
                          "value": float(number)} for number, s in enumerate(specs))
    found = transfer_table(table)
    assert found["value"].tolist() == table["value"].tolist()
    assert set(found["rare"]) == {"none", *RARE} and set(found["rare_in"]) == {"none", "understanding", "generation"}
    assert (found["rate"] == 1).tolist() == (found["rare"] == "none").tolist()
    for (_, row), spec in zip(found.iterrows(), specs, strict=True):
        told = [bias for bias in spec.biases if "generation" in bias.tasks]
        expected = ("shuffled" if spec.shuffled_attributes else "absent" if told and len(told) < len(spec.biases)
                    else spec.regime)
        assert row["arm"] == expected
        assert (row["rare_in"] == "generation") == (bool(told) and len(told) == len(spec.biases))


def test_the_table_of_probes_pairs_each_with_its_control():
    rows = [dict(architecture="VQ-VQ", regime="unified", seed=0, fraction=1.0, metric=metric, samples=9, value=value,
                 attribute="weather, layer 2", rare="weather", rate=0.1, rare_in="understanding", arm="absent")
            for metric, value in (("probe", 0.9), ("probe_control", 0.3), ("partial", 0.5))]
    (found,) = probe_table(pd.DataFrame(rows)).to_dict("records")
    assert (found["attribute"], found["place"]) == ("weather", "layer 2") and found["arm"] == "absent"
    assert (found["accuracy"], found["control"]) == (0.9, 0.3) and found["selectivity"] == pytest.approx(0.6)


def test_what_probes_are_held_against_is_of_their_watches_and_no_model():
    base = replace(profile("smoke"), transferred=("VQ-VQ", "SigLIP-VQ"))
    pixels, tokens = experiments.pixel_probes(base, 2), experiments.encoder_probes(base)
    assert set(pixels["seed"]) == {0, 1} and set(pixels["samples"]) == {base.spec.test_watches}
    assert not np.array_equal(*(pixels.loc[pixels["seed"] == seed, "accuracy"] for seed in (0, 1)))
    assert set(zip(tokens["architecture"], tokens["arm"], strict=True)) == {
        (name, "encoder's tokens") for name in base.transferred}
    pd.testing.assert_frame_equal(pixels, experiments.pixel_probes(base, 2))
