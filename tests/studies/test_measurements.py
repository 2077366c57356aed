"""What the studies measure without training: the data, the frozen networks, and what is in trained
models.
"""

import numpy as np
import pandas as pd
import pytest

from uvlm_core.data.smart_watch import WEATHERS, sample_watches
from uvlm_core.runs import trained
from uvlm_core.runs.store import RunStore, record_key
from uvlm_core.scoring import probing
from uvlm_core.studies import data, embedding_probes, frozen_networks, inspection
from uvlm_core.studies.base import find_study, recorded
from uvlm_core.studies.baselines import MIXED, REPEATED
from uvlm_core.training.profiles import profile


def tables(body):
    return {name: pd.DataFrame(table) for name, table in body["tables"].items()}


@pytest.fixture(scope="module")
def described(spec):
    return tables(data.DataStatistics.of(spec).run(None))


def test_shares_of_levels_and_of_lengths_add_up_to_one(described):
    table = described["statistics"]
    whole = table[table["statistic"].isin(("share", "words", "tokens"))]
    assert np.allclose(whole.groupby(["statistic", "task", "attribute"])["value"].sum(), 1)
    assert table.loc[table["statistic"] == "padding", "value"].between(0, 1, "left").all()


def test_a_bias_thins_the_understanding_rows_and_leaves_the_requests(described):
    counts = described["bias"].set_index("task")
    assert (
        counts.loc[["vqa", "caption"], "biased"] < counts.loc[["vqa", "caption"], "mentioning"]
    ).all()
    assert counts.loc["generation", "biased"] == counts.loc["generation", "mentioning"]


def test_the_gallery_shows_every_weather(described):
    assert set(described["gallery"]["weather"]) == set(WEATHERS)
    assert data.draw_gallery(described["gallery"]).subfigs


def test_what_cannot_change_the_data_does_not_name_another_record(spec):
    same = spec.vary(learning_rate=0.5, architecture="SigLIP-VQ", test_watches=7)
    assert data.DataStatistics.of(same) == data.DataStatistics.of(spec)
    assert data.DataStatistics.of(spec.vary(turns=1)) != data.DataStatistics.of(spec)
    one = inspection.EncoderTokens.of(spec.vary(architecture="SigLIP-VQ"))
    assert one == inspection.EncoderTokens.of(spec.vary(architecture="SigLIP-SigLIP", turns=1))
    assert one != inspection.EncoderTokens.of(spec.vary(architecture="VQ-VQ"))


@pytest.fixture(scope="module")
def frozen():
    (arm,) = frozen_networks.arms(profile("smoke"), None)
    small = frozen_networks.FrozenNetworks(**{**vars(arm.spec), "images": 40, "held_out": 24})
    return small.run(None)


def test_readers_read_real_watches_and_their_reconstructions(frozen):
    table = tables(frozen)["readers"]
    assert (
        table[table["metric"] == "partial credit"].groupby("inputs")["value"].mean() > 0.9
    ).all()


def test_pictures_of_a_record_are_one_row_of_watches_for_each_space(frozen):
    assert frozen["pictures"].shape == (2 * frozen_networks.SHOWN_WATCHES, 64, 64, 3)
    codes, features = np.split(frozen["pictures"].astype(float), 2)
    assert (
        0 < np.abs(codes - features).mean() < 20
    )  # of 255: the same watches, not the same pictures


def test_siglip_ranks_a_watchs_own_caption_first(frozen):
    table = tables(frozen)["captions"]
    own = table[(table["inputs"] == "full caption") & (table["attribute"] == "first")]
    assert own["value"].item() > 0.9 and own["chance"].item() == pytest.approx(1 / 24)


@pytest.fixture(scope="module")
def inspected(spec, new_model, processor, encoders, tmp_path_factory):
    """A record of three untrained models, and the measurement."""
    spec = spec.vary(test_watches=24)
    measured = inspection.Inspection(spec, spec.vary(seed=1), spec.vary(seed=2), "weather", pairs=3)
    models = [
        (new_model("VQ-VQ", seed=seed), processor, encoders["VQ"], encoders["VQ"])
        for seed in (1, 2, 3)
    ]
    points = pd.DataFrame({"method": "UMAP", "image": range(24), "x": 0.123, "y": np.arange(24.0)})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trained, "trained_models", lambda specs: models)
        patch.setattr(probing, "maps", lambda vectors: points)  # UMAP takes long to import
        body = measured.run(None)
    store = RunStore(tmp_path_factory.mktemp("records"))
    store.save(measured, body)
    return measured, store


def test_an_inspection_probes_every_token_at_every_place_of_three_models(inspected):
    measured, store = inspected
    found = measured.read(store, "tokens")
    places = ["encoder", "adapter", "layer 1", "layer 2"]
    assert len(found) == 3 * len(places) * (16 + 2)
    assert list(dict.fromkeys(found["place"])) == places
    assert found[["accuracy", "control"]].stack().between(0, 1).all()


def test_an_inspection_patches_each_layer_and_group(inspected):
    table = recorded(*inspected, "patching")
    first = table[(table["layer"] == 0) & (table["group"] == "image")]
    assert len(table) == 3 * 3 * 3 and first["effect"].to_numpy() == pytest.approx(
        1
    )  # all that differs is there


def test_likeness_is_one_where_models_share_the_encoder(inspected):
    table = recorded(*inspected, "cka")
    own = table[(table["first"] == "encoder") & (table["second"] == "encoder")]
    assert own["cka"].to_numpy() == pytest.approx(1, abs=1e-4)


def test_a_wide_table_is_its_long_one_again():
    long = pd.DataFrame(
        [
            (model, place, token, 0.1 * token, 0.5)
            for model in "ab"
            for place in ("x", "layer 1")
            for token in range(3)
        ],
        columns=["model", "place", "token", "accuracy", "control"],
    )
    wide = inspection._wide(long, "token", ["model", "place"], ["accuracy", "control"])
    assert len(wide) == 3
    again = inspection._long(wide, "token", ["model", "place"])
    pd.testing.assert_frame_equal(again[list(long)], long, check_dtype=False)


def test_an_inspection_is_named_by_its_three_runs(spec):
    one = inspection.Inspection(spec, spec, spec, "weather", 3)
    other = inspection.Inspection(spec, spec, spec.vary(seed=1), "weather", 3)
    assert record_key(one) != record_key(other)


def test_the_probes_are_of_the_runs_of_attribute_transfer():
    base = profile("laptop")
    arms = embedding_probes.arms(base, find_study("embedding_probes").scale("laptop"))
    runs = {record_key(spec) for spec in find_study("attribute_transfer").specs(base)}
    looked_into = {record_key(spec) for spec in arms[-1].spec.models.values()}
    # complete data are of no use to transfer
    assert len(looked_into) == 3 and len(looked_into & runs) == 2
    assert not {arm.labels["regime"] for arm in arms[:-1]} & {"generation"}
    found = {(arm.labels["arm"], arm.labels["rate"]) for arm in arms[:-1]}
    probed = {(REPEATED, 1.0), (REPEATED, 0.03), (MIXED, 0.03)}
    assert found == probed | {(embedding_probes.PIXELS, 1.0), (embedding_probes.ENCODER, 1.0)}


def test_runs_that_there_are_none_of_are_refused():
    with pytest.raises(
        ValueError,
        match="There are no runs of 'time' and 'VQ-VQ'; rare in the smoke profile are weather",
    ):
        embedding_probes.arms(profile("smoke"), embedding_probes.ProbesScale(1, rare="time"))


def test_the_last_layer_is_that_of_the_highest_number():
    places = pd.Series(["encoder", "layer 9", "layer 10", "adapter", None])
    assert embedding_probes.last_layer(places) == "layer 10"


def test_the_statistics_are_of_the_turns_that_the_runs_have():
    spec = profile("smoke").spec.vary(turns=4, fewest_turns=1, images=40)
    watches = sample_watches(0, 40)
    talks = data.DataStatistics.of(spec)._talks(watches, "vqa")
    assert {len(talk.turns) for talk in talks} == {1, 2, 3, 4}
