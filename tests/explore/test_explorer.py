"""The explorer's widgets without a browser: what is shown equals what the records say."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from uvlm_core.environment import ROOT
from uvlm_core.explore.explorer import PAIRED, Explorer, explorer
from uvlm_core.explore.views import View, choices, shortened, tell, view
from uvlm_core.runs.store import RunStore
from uvlm_core.studies import studies
from uvlm_core.studies.base import load_study, scores
from uvlm_core.studies.statistics import mean_interval


@pytest.fixture(scope="module")
def orders():
    return load_study("training_order")


@pytest.fixture(scope="module")
def opened():
    return Explorer()


def test_the_explorer_imports_no_torch():
    code = (
        "import sys; from uvlm_core.explore.explorer import Explorer; "
        "print(Explorer().message.value, 'torch' in sys.modules, 'transformers' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert found.stdout.split() == ["False", "False"], found.stderr


def test_differences_are_those_of_the_claim(orders):
    own = orders.verdicts.query("claim == 'mixing helps'").iloc[0]
    shown = view(orders.table, ["arm"], "partial", "total", minus="understanding alone")
    rows = own["quantity"].split(" rows")[0].rpartition(" ")[2].replace(",", "")
    at = orders.table["understanding_rows"] == int(rows)
    shown = view(orders.table[at], ["arm"], "partial", "total", minus="understanding alone")
    values = shown.points.query("arm == 'mixed'")["value"]
    assert mean_interval(values) == pytest.approx((own["difference"], own["low"], own["high"]))
    told = next(each for each in tell(shown) if ": mixed " in each)
    assert f"{own['seeds']} seeds: yes." in told and "−" in told
    assert "understanding alone" not in set(shown.points["arm"])


def test_a_baseline_at_one_place_is_subtracted_everywhere():
    study = load_study("affine_alignment")
    labels = ["arm", "adapters", "family"]
    alone = view(study.table, labels, "partial", "total", "dose").points
    plain = "understanding alone, one adapter, family none"
    less = alone[alone["arm"] == plain].set_index(["panel", "seed"])["value"]
    shown = view(study.table, labels, "partial", "total", "dose", plain).points
    assert shown["at"].nunique() > 2
    for row in shown.sample(20, random_state=0).itertuples():
        one = alone.query(
            "panel == @row.panel and arm == @row.arm and at == @row.at and seed == @row.seed"
        )
        assert row.value == pytest.approx(one["value"].item() - less[row.panel, row.seed])


def test_labels_that_follow_from_others_are_left_out(orders):
    shown = view(orders.table, ["regime", "arm"], "partial", "total").points
    assert "mixed" in set(shown["arm"])
    assert shortened(["a, dose 1", "a, dose 2"]) == (["dose 1", "dose 2"], "a")
    assert shortened(["a"]) == (["a"], "")


def test_only_numbers_that_vary_can_be_on_the_axis(orders):
    assert "fraction" in choices(load_study("learning_curves").table)
    assert "seed" not in choices(orders.table) and "value" not in choices(orders.table)


def test_every_study_can_be_explored(opened):
    opened.shown.value = PAIRED
    for study in studies("laptop"):
        if study.table is scores:
            opened.study.value = study.name
            assert opened.message.value == "" and opened.picture.value[:4] == b"\x89PNG", study
            assert " − " in opened.sentence.value, study
    opened.shown.value = "scores"


def test_choices_narrow_what_is_shown_and_said(opened):
    opened.study.value = "mutual_benefit"
    opened.architectures.value, opened.seeds.value = ("VQ-VQ",), (0, 2)
    assert set(opened.view.points["panel"]) == {"VQ-VQ"}
    assert set(opened.view.points["seed"]) == {0, 2} and "2 seeds." in opened.sentence.value
    before = opened.picture.value
    opened.each.value = True
    assert opened.picture.value != before
    opened.seeds.value = ()
    assert "Nothing is left to show" in opened.message.value and opened.picture.value == b""
    opened.seeds.value = (0,)
    assert opened.message.value == "" and "1 seed." in opened.sentence.value


def test_the_record_behind_a_point_is_its_run(opened):
    opened.study.value = "training_order"
    store = RunStore(ROOT / "figures" / "runs" / "laptop")
    for label, key in opened.point.options[:3]:
        opened.point.value = key
        record = store.with_key(key)
        value = next(
            row["value"]
            for row in record["scores"]
            if (row["metric"], row["attribute"], row["fraction"]) == ("partial", "total", 1)
        )
        assert label.endswith(f": {value:.3f}") and f"{key}.json" in opened.record.value
        assert "provenance" in opened.record.value and "commit" in opened.record.value


def test_a_folder_that_is_none_and_one_without_records_are_told(opened, tmp_path):
    for folder, words in (("figures/nowhere", "is not a folder"), (tmp_path, "There is no record")):
        opened.records.value = str(folder)
        assert words in opened.message.value
    opened.records.value = "figures/runs/laptop"
    assert opened.message.value == ""
    with pytest.raises(ValueError, match="profile 'desk' is not one of smoke, laptop"):
        explorer("desk")


def test_values_are_shown_as_recorded(opened):
    opened.study.value = "mutual_benefit"
    opened.seeds.value = opened.seeds.options
    table = opened.opened.table
    for row in opened.view.points.sample(10, random_state=1).itertuples():
        own = table[(table["record"] == row.record) & (table["metric"] == opened.view.metric)]
        own = own[(own["attribute"] == opened.view.attribute) & (own["fraction"] == 1)]
        assert np.isclose(own["value"].iloc[0], row.value)


@pytest.mark.parametrize(
    ("metric", "said"),
    [("partial", "no effect"), ("token_accuracy", "no effect"), ("loss_change", "yes")],
)
def test_a_margin_is_for_shares_alone(metric, said):
    values = 0.01 + 0.001 * np.arange(8)
    points = pd.DataFrame({"value": values, "at": 1.0, "panel": "VQ-VQ", "arm": "mixed"})
    (told,) = tell(View(points.assign(seed=range(8)), metric, "all", "", "understanding alone"))
    assert told.endswith(f": {said}.")
