"""A study is one file: one that is written here is found, planned, run, judged and drawn."""

import importlib
import json
import sys
import textwrap
from dataclasses import replace

import pandas as pd
import pytest

from uvlm_core import plan
from uvlm_core import studies as package
from uvlm_core.environment import ROOT
from uvlm_core.studies import base, scoreboard
from uvlm_core.studies.base import (
    Claim,
    Comparison,
    Measurement,
    Scale,
    Study,
    StudyError,
    judge,
    load_study,
    open_study,
)
from uvlm_core.training import profiles

TOY = """
    from dataclasses import dataclass

    from uvlm_core.studies.base import (
        Arm, Claim, Comparison, Drawn, Measurement, Scale, Study, arm_of)
    from uvlm_core.studies.style import COLUMN, draw_mean, look_of, new_figure, theme


    @dataclass(frozen=True)
    class Shade(Measurement):
        size: int

        def run(self, folder):
            return {"scores": [{"fraction": 1.0, "metric": "shade", "attribute": "all",
                                "value": 0.1 + self.size, "samples": 1}],
                    "counts": {"shades": self.size}}


    def arms(base, scale):
        found = [arm_of(base.spec.vary(architecture=name, regime=regime, seed=seed))
                 for name in scale.architectures for seed in range(scale.seeds)
                 for regime in ("understanding", "unified")]
        return [*found, Arm(Shade(3), {"architecture": "none", "regime": "none", "seed": 0})]


    def compare(table, scale):
        chosen = table[(table["metric"] == "partial") & (table["attribute"] == "total")]
        last = chosen[chosen["fraction"] == 1]
        wide = last.pivot_table(index="seed", columns="regime", values="value")
        yield Comparison("VQ-VQ", "total", wide["unified"] - wide["understanding"])


    @theme()
    def draw(opened):
        table = opened.table
        shown = table[(table["metric"] == "partial") & (table["attribute"] == "total")]
        figure = new_figure(COLUMN, 2.4)
        for place, (_, own) in enumerate(shown.groupby("regime")):
            draw_mean(figure.gca(), place, own["value"], look_of("VQ-VQ", own["regime"].iloc[0]))
        return Drawn(figure, shown)


    STUDY = Study(
        name="toy", number=99, section="none", question="Is this a study?",
        scales={"smoke": Scale(1, ("VQ-VQ",))}, arms=arms,
        claims=(Claim("toys help", "a toy helps", "none", compare),), figures={"toy": draw},
        findings={"toy": lambda opened: f"There are {len(opened.table)} scores."})
"""


@pytest.fixture
def toy(spec, tmp_path, monkeypatch):
    """A study's file beside those of the package, and tiny networks in the smoke profile."""
    (tmp_path / "toy.py").write_text(textwrap.dedent(TOY))
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path)])
    monkeypatch.setitem(
        profiles.PROFILES,
        "smoke",
        replace(profiles.PROFILES["smoke"], spec=spec.vary(images=160, test_watches=12)),
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(
        base,
        "run_grid",
        lambda specs, store, workers: [  # in this process: workers know no toy
            store.load(some) or store.save(some, *base_execute(some, tmp_path / "work"))
            for some in specs
        ],
    )
    yield importlib.import_module("uvlm_core.studies.toy")
    sys.modules.pop("uvlm_core.studies.toy")
    delattr(package, "toy")


def base_execute(spec, folder):
    from uvlm_core.runs.carry_out import execute_run

    folder.mkdir(exist_ok=True)
    return execute_run(spec, folder)


def test_a_study_that_is_a_file_is_planned_run_judged_and_drawn(toy, tmp_path, capsys):
    runs = plan.plan(profiles.profile("smoke")).set_index("quantity")["value"]
    assert runs["99 toy"] == 2  # a measurement trains nothing
    homes = {"records": tmp_path / "records", "figures": tmp_path / "figures"}
    with pytest.raises(StudyError) as refused:
        open_study("toy", "smoke", **homes)
    assert "3 of 3 runs of toy have no record in" in str(refused.value)
    assert "takes a time that no record tells: set train = True" in str(refused.value)
    assert not (tmp_path / "records").exists() and capsys.readouterr().out == ""
    opened = open_study("toy", "smoke", train=True, **homes)
    assert "3 arms, carried out by 3 runs" in capsys.readouterr().out
    assert set(opened.table.loc[opened.table["metric"] == "shade", "value"]) == {3.1}
    assert opened.verdicts[["study", "claim", "verdict"]].values.tolist() == [
        ["toy", "toys help", "undecided"]
    ]
    opened.show("toy")
    shown = pd.read_csv(tmp_path / "figures" / "toy.csv")
    assert set(shown["regime"]) == {"understanding", "unified"} and "record" not in shown
    facts = json.loads((tmp_path / "figures" / "toy.json").read_text())
    assert len(facts["records"]) == 2 and facts["profile"] == "smoke"
    own = opened.table[opened.table["metric"] == "partial"]["samples"]
    assert facts["counts"] == {"shades": 3, "partial": f"{own.min():.0f} to {own.max():.0f}"}
    assert f"There are {len(opened.table)} scores." in capsys.readouterr().out
    page = scoreboard.results_page([opened])
    assert (
        "## Toy" in page and "| a toy helps (none) | does not ask | VQ-VQ | total | steps |" in page
    )
    assert "toy" in {study.name for study in package.studies()}
    with pytest.raises(StudyError, match="2 of 5 runs .*takes about 1 minute with 4 workers: set"):
        open_study("toy", "smoke", 2, 4, **homes)
    # a notebook shows the sentence alone
    assert StudyError("why")._render_traceback_() == ["StudyError: why"]


def test_folders_follow_from_the_profile(toy):
    opened = load_study("toy", "smoke")
    assert opened.store.folder == ROOT / "figures" / "runs" / "smoke"
    assert opened.folder == ROOT / "build" / "figures" / "smoke"


def test_what_a_study_does_not_have_is_refused_by_name(toy, tmp_path):
    with pytest.raises(ValueError, match="study 'toys' is not one of .*mutual_benefit.*toy"):
        load_study("toys")
    with pytest.raises(
        ValueError, match="The study toy has no scale for profile 'laptop'; it has one for smoke"
    ):
        load_study("toy")
    with pytest.raises(
        ValueError, match="'rows' is not a setting of the study toy; its settings are seeds, arch"
    ):
        load_study("toy", "smoke", rows=3)
    for name in ("toys.toy", "toy.py", "../toy", ""):
        with pytest.raises(ValueError, match=f"study '{name}' is not one of"):
            load_study(name)
    opened = load_study("toy", "smoke", records=tmp_path / "none")
    with pytest.raises(ValueError, match="There is no record .*json; run `make figures` first"):
        opened.table  # noqa: B018
    with pytest.raises(ValueError, match="figure 'toys' is not one of toy"):
        opened.show("toys")


def test_studies_have_names_of_their_own_numbers_of_notebooks_and_figures_of_their_own():
    found = package.studies()
    assert len({study.name for study in found}) == len(found)
    figures = [name for study in found for name in study.figures]
    assert len(set(figures)) == len(figures) and all(
        set(study.findings) <= set(study.figures) for study in found
    )
    assert [study.number for study in found] == sorted(study.number for study in found)


def test_studies_of_a_profile_have_a_scale_there_and_do_not_wait_for_runs(toy, monkeypatch):
    def named(profile_name=None):
        return {study.name for study in package.studies(profile_name)}

    assert "toy" in named("smoke") and "toy" not in named("laptop") and "toy" in named()
    monkeypatch.setattr(toy, "STUDY", replace(toy.STUDY, waiting=("smoke",)))
    assert "toy" not in named("smoke") and "toy" in named()


def judged(*compared, **claim) -> pd.DataFrame:
    claim = Claim("it helps", "it helps", "4", lambda table, scale: compared, **claim)
    study = Study("some", 1, "4", "?", {}, None, {}, claims=(claim,))
    return judge(study, pd.DataFrame(), Scale(8))


def test_a_comparison_that_the_same_runs_carry_out_counts_once():
    values = pd.Series([0.1, 0.2, 0.15, 0.1] * 2)
    found = judged(
        Comparison("SigLIP-VQ", "total", values),
        Comparison("VQ-VQ", "total", values + 0.1),
        Comparison("SigLIP-SigLIP", "total", values.copy()),
        Comparison("VQ-VQ", "time", values),
    )
    assert list(found.columns) == list(base.VERDICT_COLUMNS)
    assert found[["architecture", "quantity"]].values.tolist() == [
        ["SigLIP-VQ, SigLIP-SigLIP", "total"],
        ["VQ-VQ", "total"],
        ["VQ-VQ", "time"],
    ]
    assert set(found["verdict"]) == {"yes"} and set(found["seeds"]) == {8}


def test_claims_of_the_paper_replicate_and_a_claim_may_have_its_own_margin():
    values = pd.Series([0.02, 0.03] * 4)
    assert judged(Comparison("VQ-VQ", "total", values), reported="yes")["verdict"].tolist() == [
        "no effect"
    ]
    assert judged(Comparison("VQ-VQ", "total", values), reported="yes", margin=0.01)[
        "verdict"
    ].tolist() == ["replicates"]
    assert judged(Comparison("VQ-VQ", "total", pd.Series([], dtype=float))).empty


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (
            ("VQ-VQ",),
            "better than A (+0.205), D (+0.055); worse than B (\N{MINUS SIGN}0.205); "
            "as good as C (+0.000); undecided against E (+0.100)",
        ),
        (
            ("VQ-VQ", "SigLIP-VQ"),
            "better than A (VQ-VQ +0.205, SigLIP-VQ +0.206), D (VQ-VQ +0.055, SigLIP-VQ +0.056); "
            "worse than B (VQ-VQ \N{MINUS SIGN}0.205, SigLIP-VQ \N{MINUS SIGN}0.204); "
            "as good as C (VQ-VQ +0.000, SigLIP-VQ +0.001); "
            "undecided against E (VQ-VQ +0.100, SigLIP-VQ +0.101)",
        ),
    ],
)
def test_an_arm_is_said_to_be_better_or_worse_as_it_is_judged(names, said):
    level, noise = pd.Series([0.2, 0.21] * 4), pd.Series([0.005, -0.005] * 4)
    pairs = {"A": level, "B": -level, "C": noise, "D": noise + 0.055, "E": 60 * noise + 0.1}
    found = [
        Comparison(name, f"total, minus {words}", values + 0.001 * number)
        for words, values in pairs.items()
        for number, name in enumerate(names)
    ]
    claim = Claim("gains", "it gains", "4", lambda table, scale: found, "yes")
    study = Study("some", 1, "4", "?", {}, None, {}, claims=(claim,))
    opened = base.OpenedStudy(study, None, Scale(8), [], None, ROOT)
    opened.__dict__["table"] = pd.DataFrame()
    baselines = {words: ("gains", f"minus {words}") for words in (*pairs, "no such arm")}
    assert base.tell_contrasts(opened, baselines) == said


def test_a_measurement_is_named_by_its_kind_and_its_settings():
    from uvlm_core.studies.attribute_transfer import PixelProbes

    one = PixelProbes(64, 12, 20, 0)
    assert isinstance(one, Measurement) and one.canonical() == one and one.networks == ()
    assert one.to_dict() == {
        "measurement": "PixelProbes",
        "image_size": 64,
        "hours": 12,
        "test_watches": 20,
        "seed": 0,
    }


@pytest.mark.parametrize(
    ("study", "changes", "message"),
    [
        ("toy", {"seeds": 0}, "seeds 0 is not an integer from 1 up"),
        ("toy", {"seeds": "2"}, "seeds '2' is not an integer from 1 up"),
        ("toy", {"architectures": "VQ-VQ"}, "architectures 'VQ-VQ' is not a list of texts"),
        ("toy", {"architectures": ("VQ-QV",)}, "architecture 'VQ-QV' is not one of SigLIP-VQ, VQ"),
        ("affine_alignment", {"seen": 0}, "seen 0 is not an integer from 1 up"),
        ("data_scaling", {"generation_rows": 0}, "generation_rows 0 is not an integer from 1 up"),
        ("data_scaling", {"fewer_requests": 8}, "fewer_requests 8 is not a list of integers from"),
        ("data_scaling", {"alone": (8, -1)}, r"alone \(8, -1\) is not a list of integers from 0"),
        ("mutual_benefit", {"text_rows": -1}, "text_rows -1 is not an integer from 0 up"),
        ("training_order", {"text_rows": 0}, "text_rows 0 is not an integer from 1 up"),
        ("training_order", {"arms": {16: ("mixd",)}}, "arm 'mixd' is not one of understanding al"),
        ("embedding_probes", {"pairs": 0}, "pairs 0 is not an integer from 1 up"),
    ],
)
def test_a_setting_that_a_scale_cannot_have_is_refused(toy, study, changes, message):
    with pytest.raises(ValueError, match=message):
        load_study(study, "smoke", **changes)
