"""Experiments as lists of runs."""

import pytest
from PIL import Image

from uvlm_core import experiments, runs
from uvlm_core.experiments import ARMS, mutual_benefit, seeds_of
from uvlm_core.profiles import profile
from uvlm_core.runs import RunStore, record_key


def test_mutual_benefit_takes_every_arm_of_every_architecture_and_seed_once():
    specs = mutual_benefit(profile("smoke"), 2, ("VQ-VQ", "SigLIP-VQ"))
    arms = {(s.seed, s.architecture, s.regime, s.shuffled_requests) for s in specs}
    assert len(arms) == len(specs) == 2 * 2 * 4
    assert {seed for seed, *_, shuffled in arms if shuffled} == {0, 1}
    assert {(regime, shuffled) for _, _, regime, shuffled in arms} == {
        ("understanding", False), ("generation", False), ("unified", False), ("unified", True)}


def test_arms_differ_from_the_profile_in_what_their_name_says_only():
    base = profile("laptop")
    for arm, spec in zip(ARMS, mutual_benefit(base, 1), strict=True):
        assert spec == base.spec.vary(**ARMS[arm])
        assert spec.steps == base.spec.steps


@pytest.mark.parametrize(("arguments", "message"), [
    (dict(seeds=0), "seeds 0 is not an integer from 1"), (dict(seeds=2.0), "seeds 2.0 is not"),
    (dict(seeds=True), "seeds True is not"), (dict(seeds=1, arms=("both",)), "arm 'both' is not one of understanding"),
    (dict(seeds=1, architectures=("VQ",)), "architecture 'VQ' is not one of SigLIP-VQ")])
def test_a_bad_request_is_refused_by_name(arguments, message):
    with pytest.raises(ValueError, match=message):
        mutual_benefit(profile("smoke"), **arguments)


def test_seeds_count_from_zero():
    assert list(seeds_of(3)) == [0, 1, 2]


def test_the_table_calls_the_control_shuffled_and_keeps_every_score(spec, tmp_path, monkeypatch):
    base = profile("smoke")
    specs = [some.vary(**{name: getattr(spec, name) for name in (
        "language_model", "tokenizer", "semantic_encoder", "vq_tokenizer", "reader")})
        for some in mutual_benefit(base, 2)]
    store, values = RunStore(tmp_path), {}
    for number, some in enumerate(specs):
        rows = [{"fraction": fraction, "metric": "partial", "attribute": "time", "value": number + fraction,
                 "samples": 3} for fraction in (0.5, 1.0)]
        arm = "shuffled" if some.shuffled_requests else some.regime
        values |= {(arm, some.seed, row["fraction"]): row["value"] for row in rows}
        store.save(some, {"scores": rows}, Image.new("RGB", (2, 2)))
    monkeypatch.setattr(runs, "_train", lambda *arguments: pytest.fail("a run that has a record was trained"))
    table = experiments.run(specs, tmp_path)
    assert list(table.columns) == ["architecture", "regime", "seed", "fraction", "metric", "attribute", "value",
                                   "samples"]
    assert table.set_index(["regime", "seed", "fraction"])["value"].to_dict() == values
    assert len({record_key(some) for some in specs}) == len(specs)
