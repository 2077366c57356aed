"""The paper's claims, what they compare here, and what the records say of them: the scoreboard of the README.

Belongs here: claims in short words of our own with their section, the quantity by which each is judged (fixed before
the runs, where a claim does not say otherwise), and the table of verdicts. Not here: the runs (`experiments.py`), the
verdict's rule (`statistics.py`).

    python -m uvlm_core.claims          writes the scoreboard into README.md, from the committed records
"""

import argparse
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import spearmanr
from sklearn.isotonic import IsotonicRegression
from sklearn.metrics import cohen_kappa_score

from uvlm_core import experiments
from uvlm_core.experiments import GENERATION_TIMES, UNDERSTANDING_TIMES
from uvlm_core.fidelity import READ_BACK_CHANCE
from uvlm_core.profiles import ARCHITECTURES, Profile, profile
from uvlm_core.runs import RunStore
from uvlm_core.scoring import CHANCE
from uvlm_core.smart_watch import ATTRIBUTES
from uvlm_core.statistics import interquartile_mean, mean_interval, permutation_p, verdict
from uvlm_core.weights import ROOT

HEADROOM = (0.1, 0.9)  # of the way from chance to full marks: outside, no benefit could be seen
FACTORS = ("understanding_rows", "generation_rows", "batch_counts")  # of the tables of scaling and matching
DISTORTED = ("distortions", "shared_adapter")  # of the table of alignment
BIASED = ("biases", "shuffled_attributes")  # of the table of transfer
MARKS = ("<!-- scoreboard -->", "<!-- end of scoreboard -->")  # in README.md
_GUESSES = {"partial": CHANCE, "constrained": CHANCE, "kappa": dict.fromkeys(ATTRIBUTES, 0.0),
            "read_back": READ_BACK_CHANCE, "feature_read_back": READ_BACK_CHANCE}
COLUMNS = ("claim", "architecture", "quantity", "matching", "difference", "low", "high", "p", "interquartile", "seeds",
           "verdict")


@dataclass(frozen=True)
class Claim:
    """What the paper says, where, and what it reports."""

    section: str
    words: str
    paper: str


CLAIMS = {
    "understanding gains": Claim(
        "4, figure 3", "trained on both tasks, a model understands better than trained on understanding alone",
        "in all four architectures"),
    "generation gains": Claim(
        "4, figure 3", "trained on both tasks, a model generates better than trained on generation alone",
        "in all four architectures (FID)"),
    "generation data help": Claim(
        "4.2, figure 5", "with the understanding data fixed, generation data improve understanding", "yes, SigLIP-VQ"),
    "benefit grows": Claim(
        "4.2, figure 5", "the benefit grows with the amount of generation data", "yes, SigLIP-VQ"),
    "worth of a request": Claim(
        "4.2", "a generation example is worth more to understanding than an understanding example",
        "+120k generation about equals +180k understanding: 1.5"),
    "distortion hurts": Claim(
        "4.1, figure 4", "an affine distortion of the understanding space hurts the unified model", "yes"),
    "distortion hurts more": Claim(
        "4.1, figure 4", "and more than it hurts the model of understanding alone", "which it leaves alone"),
    "alignment helps": Claim(
        "4.1", "the better the two spaces agree, the larger the benefit of training on both tasks", "yes"),
    "not by sharing": Claim(
        "4.1", "the distortion hurts the unified model with separate adapters too", "not told apart"),
    "transfer": Claim(
        "4.3, figure 6", "of an attribute that is rare in the understanding data the unified model knows more, from "
        "its generation data", "yes, nearly all"),
    "by its requests": Claim(
        "4.3", "and more than with requests that do not mention the attribute", "not told apart"),
    "by their values": Claim(
        "4.3", "and more than with requests that mention it with another watch's values", "not told apart"),
    "tokens carry it": Claim(
        "4.3, figures 7 and 8", "the image tokens of the understanding-only model carry the rare attribute too", "yes"),
    "more than pixels": Claim(
        "4.3", "and more of it than random features of the pixels (asked after the runs)", "not told apart"),
    "pictures understood": Claim(
        "5", "on captioned pictures, too, a model trained on both tasks understands better", "yes, on real images"),
    "pictures drawn": Claim("5", "and draws better", "not reported"),
    "understanding data help": Claim(
        "4.2, figure 5", "with the generation data fixed, understanding data improve generation", "yes, SigLIP-VQ"),
}


def generation_metric(architecture: str) -> str:
    """The metric of attributes that are read from what an architecture generates."""
    return "read_back" if architecture.endswith("VQ") else "feature_read_back"


def chance(metric: str, attribute: str) -> float:
    """What guessing scores in a metric of this study; of "total" the mean over the attributes. An unknown metric is
    refused."""
    if metric not in _GUESSES:
        raise ValueError(f"metric {metric!r} has no score of guessing; those that have are {', '.join(_GUESSES)}.")
    table = _GUESSES[metric]
    return float(np.mean([table[name] for name in (ATTRIBUTES if attribute == "total" else (attribute,))]))


def headroom(table: pd.DataFrame, baseline: str, metric: str, attribute: str) -> list[float]:
    """The fractions of the data at which the baseline arm, over its seeds, is neither at chance nor at full marks.

    If there are none, the last fraction alone.
    """
    chosen = table[(table["regime"] == baseline) & (table["metric"] == metric) & (table["attribute"] == attribute)]
    least = chance(metric, attribute)
    scores = (chosen.groupby("fraction")["value"].mean() - least) / (1 - least)
    return list(scores[scores.between(*HEADROOM)].index) or [max(chosen["fraction"])]


def benefit(table: pd.DataFrame, baseline: str, metric: str, attribute: str) -> pd.Series:
    """Unified minus a task alone, by seed: the mean over the fractions at which the latter has `headroom`."""
    fractions = headroom(table, baseline, metric, attribute)
    chosen = table[(table["metric"] == metric) & (table["attribute"] == attribute) & table["fraction"].isin(fractions)]
    wide = chosen.pivot_table(index="seed", columns="regime", values="value")
    return (wide["unified"] - wide[baseline]).dropna()


def exchange_rates(table: pd.DataFrame, rows: int, attribute: str = "total") -> pd.DataFrame:
    """How many understanding rows one generation row is worth, of one architecture's scaling table.

    The understanding-only arm's score over its rows (rising, by isotonic regression over all seeds, linear in the
    logarithm of the rows between them) is the scale; a unified run of `rows` understanding rows is read on it, and what
    it is above `rows` is divided by its generation rows. A score beyond the scale is read at its end (`beyond`).

    Columns: seed, generation_rows, worth (understanding rows), rate, beyond.
    """
    scores = table[(table["metric"] == "partial") & (table["attribute"] == attribute) & (table["fraction"] == 1)]
    alone = scores[scores["regime"] == "understanding"]
    counts = np.sort(alone["understanding_rows"].unique())
    scale = IsotonicRegression().fit(np.log(alone["understanding_rows"]), alone["value"]).predict(np.log(counts))
    unified = scores[(scores["regime"] == "unified") & (scores["understanding_rows"] == rows)
                     & (scores["batch_counts"] == "understanding")]
    found = []
    for _, run in unified.sort_values(["generation_rows", "seed"]).iterrows():
        worth = float(np.exp(np.interp(run["value"], scale, np.log(counts))))
        found.append((run["seed"], run["generation_rows"], worth, (worth - rows) / run["generation_rows"],
                      not scale[0] <= run["value"] <= scale[-1]))
    return pd.DataFrame(found, columns=["seed", "generation_rows", "worth", "rate", "beyond"])


def judge_benefit(table: pd.DataFrame) -> pd.DataFrame:
    """Verdicts on `experiments.mutual_benefit`."""
    rows = []
    for architecture in [name for name in ARCHITECTURES if (table["architecture"] == name).any()]:
        own = table[(table["architecture"] == architecture) & (table["regime"] != "shuffled")]
        for attribute in ("total", "time"):
            spread = [benefit(own, "understanding", "partial", name) for name in
                      (ATTRIBUTES if attribute == "total" else (attribute,))]
            rows.append(_row("understanding gains", architecture, f"{attribute}, partial credit, while learning",
                             "steps", benefit(own, "understanding", "partial", attribute), spread))
        metric = generation_metric(architecture)
        spread = [benefit(own, "generation", metric, name) for name in ATTRIBUTES]
        rows.append(_row("generation gains", architecture, f"total, {metric.replace('_', ' ')}, while learning",
                         "steps", benefit(own, "generation", metric, "total"), spread))
    return pd.DataFrame(rows, columns=COLUMNS)


def judge_matching(tables: dict[str, pd.DataFrame], rows: int) -> pd.DataFrame:
    """Verdicts on `experiments.matching`: the understanding total at the end of runs of `rows` rows."""
    found = []
    for rule, table in tables.items():
        for architecture in dict.fromkeys(table["architecture"]):
            own = table[table["architecture"] == architecture]
            spread = [_difference(own, name) for name in ATTRIBUTES]
            found.append(_row("understanding gains", architecture, f"total, partial credit, {rows:,} rows", rule,
                              _difference(own, "total"), spread))
    return pd.DataFrame(found, columns=COLUMNS)


def judge_scaling(table: pd.DataFrame, rows: int) -> pd.DataFrame:
    """Verdicts on `experiments.data_scaling` of a base of `rows` rows."""
    found = []
    for architecture in [name for name in ARCHITECTURES if (table["architecture"] == name).any()]:
        own = table[(table["architecture"] == architecture) & (table["fraction"] == 1)]
        metric = generation_metric(architecture)

        def score(arm, understanding, generation, counts, metric, attribute, own=own):
            chosen = own[(own["regime"] == arm) & (own["understanding_rows"] == round(understanding))
                         & (own["generation_rows"] == round(generation)) & (own["batch_counts"] == counts)
                         & (own["metric"] == metric) & (own["attribute"] == attribute)]
            return chosen.set_index("seed")["value"]

        def answers(times, attribute, score=score):
            return score("unified" if times else "understanding", rows, times * rows, "understanding", "partial",
                         attribute)

        def drawn(times, attribute, score=score, metric=metric):
            return score("unified" if times else "generation", times * rows, rows, "generation", metric, attribute)

        least, most = GENERATION_TIMES[0], GENERATION_TIMES[-1]
        for claim, of, low, high, unit in (
                ("generation data help", answers, 0, most, "generation"),
                ("benefit grows", answers, least, most, "generation"),
                ("understanding data help", drawn, 0, UNDERSTANDING_TIMES[-1], "understanding")):
            found.append(_row(claim, architecture, f"total, {unit} x {high} minus x {low}", "steps",
                              (of(high, "total") - of(low, "total")).dropna(),
                              [(of(high, name) - of(low, name)).dropna() for name in ATTRIBUTES]))
        rates = exchange_rates(own, rows)
        rates = rates[rates["generation_rows"] == rows].set_index("seed")["rate"]
        found.append(_row("worth of a request", architecture, f"rate at {rows:,} generation rows, minus 1", "steps",
                          rates - 1, [rates - 1]))
    return pd.DataFrame(found, columns=COLUMNS)


def distortion_costs(table: pd.DataFrame, regime: str, attribute: str = "total",
                     sharing: str = "shared") -> pd.DataFrame:
    """What each distortion costs an arm of `experiments.alignment_table`, by seed: the plain arm minus the distorted.

    A distortion of the width has adapters of its own on both sides, so a unified arm with it is held against the plain
    one with separate adapters. Columns: architecture, family, dose, side, place, seed, cost.
    """
    scores = table[(table["metric"] == "partial") & (table["attribute"] == attribute) & (table["fraction"] == 1)
                   & (table["regime"] == regime)]
    plain = scores[scores["family"] == "none"].set_index(["architecture", "sharing", "seed"])["value"]
    rows = []
    for _, run in scores[(scores["family"] != "none") & (scores["sharing"] == sharing)].iterrows():
        held = "separate" if run["family"] == "width" and regime == "unified" else sharing
        rows.append((*run[["architecture", "family", "dose", "side", "place", "seed"]],
                     plain[run["architecture"], held, run["seed"]] - run["value"]))
    return pd.DataFrame(rows, columns=["architecture", "family", "dose", "side", "place", "seed", "cost"])


def alignment_benefit(table: pd.DataFrame) -> pd.DataFrame:
    """The measured alignment of unified models beside their benefit over understanding alone with the same distortion.

    Of `experiments.alignment_table`, distortions of the understanding side: one row a model, measure, place in the
    model and time. Columns: architecture, family, dose, place, sharing, seed, fraction (0: before training), metric,
    attribute (where in the model), alignment, benefit.
    """
    table = table[(table["side"] == "understanding")]
    keys = ["architecture", "family", "dose", "place", "seed"]
    total = table[(table["metric"] == "partial") & (table["attribute"] == "total") & (table["fraction"] == 1)]
    alone = total[total["regime"] == "understanding"].set_index(keys)["value"]
    unified = total[total["regime"] == "unified"].set_index([*keys, "sharing"])["value"]
    measured = table[table["metric"].str.startswith("alignment_")].copy()
    runs = [tuple(run) for run in measured[[*keys, "sharing"]].itertuples(index=False)]
    measured["benefit"] = [unified[run] - alone[run[:-1]] for run in runs]
    columns = [*keys, "sharing", "fraction", "metric", "attribute"]
    return measured.rename(columns={"value": "alignment"})[[*columns, "alignment", "benefit"]].reset_index(drop=True)


def alignment_slopes(benefits: pd.DataFrame, metric: str = "alignment_cka", where: str = "adapter") -> pd.Series:
    """Spearman's rank correlation of alignment after training and benefit over one architecture's models, by seed.

    `benefits` as `alignment_benefit` has it. The undistorted models and those of the affine families: every seed has
    them all, and they share their adapters.
    """
    chosen = benefits[(benefits["fraction"] == 1) & (benefits["metric"] == metric) & (benefits["attribute"] == where)
                      & (benefits["sharing"] == "shared") & (benefits["place"] == "before")
                      & benefits["family"].isin(("none", *experiments.AFFINE))]
    return pd.Series({seed: spearmanr(group["alignment"], group["benefit"]).statistic
                      for seed, group in chosen.groupby("seed")}, dtype=float).dropna()


def judge_alignment(table: pd.DataFrame) -> pd.DataFrame:
    """Verdicts on `experiments.alignment_table`, on the largest dose of the affine family."""
    found, benefits = [], alignment_benefit(table)
    largest = table.loc[table["family"] == "affine", "dose"].max()
    for architecture in [name for name in ARCHITECTURES if (table["architecture"] == name).any()]:
        own = table[table["architecture"] == architecture]

        def cost(regime, attribute="total", sharing="shared", own=own):
            costs = distortion_costs(own, regime, attribute, sharing)
            chosen = costs[(costs["family"] == "affine") & (costs["dose"] == largest) & (costs["place"] == "before")
                           & (costs["side"] == "understanding")]
            return chosen.set_index("seed")["cost"]

        what = f"total, affine dose 0 minus {largest:g}"
        for claim, value, quantity in (
                ("distortion hurts", lambda name: cost("unified", name), f"{what}, unified"),
                ("distortion hurts more", lambda name: cost("unified", name) - cost("understanding", name),
                 f"{what}, unified minus understanding"),
                ("not by sharing", lambda name: cost("unified", name, "separate"),
                 f"{what}, unified, separate adapters")):
            found.append(_row(claim, architecture, quantity, "steps", value("total"), map(value, ATTRIBUTES)))
        slopes = alignment_slopes(benefits[benefits["architecture"] == architecture])
        if len(slopes):
            found.append(_row("alignment helps", architecture,
                              "rank correlation of CKA at the adapters with the benefit, affine families", "steps",
                              slopes, [slopes]))
    return pd.DataFrame(found, columns=COLUMNS)


def rare_scores(table: pd.DataFrame, metric: str = "partial", others: bool = False) -> pd.DataFrame:
    """The score of the rare attribute (of the corners the mean of both) in `experiments.transfer_table`; with `others`
    the mean over those that are not rare.

    For models of complete data a row for each rare attribute, with rate 1. Columns: architecture, arm, rare, rate,
    rare_in, seed, value.
    """
    keys = ["architecture", "arm", "rare", "rate", "rare_in", "seed"]
    scores = table[(table["metric"] == metric) & (table["fraction"] == 1)]
    found = []
    for name, parts in experiments.RARE.items():
        if (table["rare"] == name).any():
            meant = [part for part in ATTRIBUTES if (part in parts) != others]
            own = scores[scores["rare"].isin((name, "none")) & scores["attribute"].isin(meant)]
            found.append(own.groupby(keys, sort=False)["value"].mean().reset_index().assign(rare=name))
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame(columns=[*keys, "value"])


def kappas(table: pd.DataFrame) -> pd.DataFrame:
    """Cohen's kappa of the confusions in `experiments.transfer_table`, in its columns, with metric "kappa".

    0 for answers that do not depend on what is shown, however many of them happen to be near the truth: a model that
    says "50%" of every battery has partial credit .75 and kappa 0. Of the rare attributes only.
    """
    own = table[table["metric"] == "confusion"]
    parts = own["attribute"].str.extract("^(?P<attribute>.*): (?P<true>.*) > (?P<said>.*)$")
    own = own.assign(**parts, samples=own["value"] * own["samples"])  # answers of each kind
    keys = [name for name in table.columns if name not in ("value", "samples")]
    found = [(*key, cohen_kappa_score(group["true"], group["said"], sample_weight=group["samples"]),
              round(group["samples"].sum())) for key, group in own.groupby(keys, sort=False)]
    return pd.DataFrame(found, columns=[*keys, "value", "samples"])[list(table.columns)].assign(metric="kappa")


def judge_transfer(table: pd.DataFrame, rates: tuple[float, ...], pixels: pd.DataFrame) -> pd.DataFrame:
    """Verdicts on `experiments.transfer_table`, on the mean over the firm `rates` of each rare attribute of
    `experiments.FIRM`; `pixels` as `experiments.pixel_probes` has them."""
    pixels = pixels.set_index(["attribute", "seed"])["accuracy"]
    found = []
    scores = rare_scores(table)
    scores = scores[(scores["rare_in"] == "understanding") & scores["rate"].isin(rates)]
    rated = ", ".join(f"{rate:.1%}".replace(".0%", "%") for rate in rates)
    for architecture in [name for name in ARCHITECTURES if (table["architecture"] == name).any()]:
        for rare in [name for name in experiments.FIRM if (scores["rare"] == name).any()]:
            own = scores[(scores["architecture"] == architecture) & (scores["rare"] == rare)]
            mean = own.groupby(["seed", "arm"])["value"].mean().unstack()
            for claim, baseline in (("transfer", "understanding"), ("by its requests", "absent"),
                                    ("by their values", "shuffled")):
                differences = (mean["unified"] - mean[baseline]).dropna()
                found.append(_row(claim, architecture, f"{rare} at {rated}, unified minus {baseline}", "steps",
                                  differences, [differences]))
            probes = _last_probes(table, architecture, rare, rates)
            for claim, less, words in (("tokens carry it", probes["probe_control"], "its control"),
                                       ("more than pixels", pixels[rare], "that of the pixels")):
                differences = (probes["probe"] - less).dropna()
                found.append(_row(claim, architecture, f"{rare} at {rated}, probe of the last layer minus {words}, "
                                  "understanding", "steps", differences, [differences]))
    return pd.DataFrame(found, columns=COLUMNS)


def judge_pictures(table: pd.DataFrame) -> pd.DataFrame:
    """Verdicts on `experiments.pictures`: how well the words of test captions are told, and which test picture a drawn
    one is nearest to."""
    found, last = [], table[table["fraction"] == 1]
    for architecture in [name for name in ARCHITECTURES if (table["architecture"] == name).any()]:
        own, drawn = last[last["architecture"] == architecture], drawn_metric(architecture)
        for claim, metric, attribute, baseline, words in (
                ("pictures understood", "token_accuracy", "caption", "understanding", "token accuracy of captions"),
                ("pictures drawn", drawn, "first 5", "generation", "drawn picture among the 5 nearest")):
            chosen = own[(own["metric"] == metric) & (own["attribute"] == attribute)]
            wide = chosen.pivot_table(index="seed", columns="regime", values="value")
            differences = (wide["unified"] - wide[baseline]).dropna()
            found.append(_row(claim, architecture, f"{words}, unified minus {baseline}", "steps", differences,
                              [differences]))
    return pd.DataFrame(found, columns=COLUMNS)


def drawn_metric(architecture: str) -> str:
    """The metric of retrieval from what an architecture draws of captioned pictures."""
    return "drawn_retrieval" if architecture.endswith("VQ") else "feature_drawn_retrieval"


def _last_probes(table: pd.DataFrame, architecture: str, rare: str, rates: tuple[float, ...]) -> pd.DataFrame:
    """The probe of a rare attribute in the understanding-only model's last layer and its control, by seed."""
    own = table[(table["architecture"] == architecture) & (table["arm"] == "understanding") & (table["rare"] == rare)
                & table["rate"].isin(rates) & table["metric"].isin(("probe", "probe_control"))]
    last = own[own["attribute"] == own.loc[own["attribute"].str.startswith(f"{rare}, layer"), "attribute"].iloc[-1]]
    return last.groupby(["seed", "metric"])["value"].mean().unstack()


def _difference(table: pd.DataFrame, attribute: str) -> pd.Series:
    """Unified minus understanding-only at the end, by seed."""
    chosen = table[(table["metric"] == "partial") & (table["attribute"] == attribute) & (table["fraction"] == 1)]
    wide = chosen.pivot_table(index="seed", columns="regime", values="value")
    return (wide["unified"] - wide["understanding"]).dropna()


def _row(claim: str, architecture: str, quantity: str, matching: str, differences: pd.Series,
         spread: Iterable[pd.Series]) -> tuple:
    """One line of the table; `spread` has the differences by attribute, for their interquartile mean."""
    return (claim, architecture, quantity, matching, *mean_interval(differences), permutation_p(differences),
            interquartile_mean(np.concatenate([np.asarray(part) for part in spread])), len(differences),
            verdict(differences))


def judge(base: Profile, records: Path) -> pd.DataFrame:
    """The verdicts on all claims at a profile's numbers of seeds, from records that are there."""
    store, rows = RunStore(records), base.scaling_rows
    matched = {rule: experiments.table(specs, store, FACTORS)
               for rule, specs in experiments.matching(base, base.scaling_seeds).items()}
    return pd.concat([
        judge_benefit(experiments.table(experiments.mutual_benefit(base, base.seeds), store)),
        judge_matching(matched, rows),
        judge_scaling(experiments.table(experiments.data_scaling(base, base.scaling_seeds), store, FACTORS), rows),
        judge_alignment(experiments.alignment_table(experiments.table(
            experiments.alignment(base, base.alignment_seeds), store, DISTORTED))),
        judge_transfer(experiments.transfer_table(experiments.table(
            experiments.transfer(base, base.transfer_seeds), store, BIASED)), base.firm_rates,
            experiments.pixel_probes(base, base.transfer_seeds)),
        judge_pictures(experiments.table(experiments.pictures(base, base.picture_seeds), store))], ignore_index=True)


def markdown(verdicts: pd.DataFrame) -> str:
    """The scoreboard as a Markdown table."""
    titles = ("claim (section)", "paper", "architecture", "compared", "matched by", "ours, 95 % interval", "seeds",
              "verdict")
    lines = [f"| {' | '.join(titles)} |", f"|{' --- |' * len(titles)}"]
    for row in verdicts.to_dict("records"):
        claim = CLAIMS[row["claim"]]
        interval = f" ({row['low']:+.3f} to {row['high']:+.3f})" if row["seeds"] > 1 else ""
        cells = (f"{claim.words} ({claim.section})", claim.paper, row["architecture"], row["quantity"], row["matching"],
                 f"{row['difference']:+.3f}{interval}", str(row["seeds"]), f"**{row['verdict']}**")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def write_scoreboard(readme: Path, text: str) -> None:
    """Put the table between the marks of a README; ValueError if it has not both of them."""
    before, mark, rest = readme.read_text(encoding="utf-8").partition(MARKS[0])
    _, end, after = rest.partition(MARKS[1])
    if not (mark and end):
        raise ValueError(f"{readme.name} has no lines {MARKS[0]} and {MARKS[1]} for the scoreboard to stand between.")
    readme.write_text(f"{before}{mark}\n\n{text}\n\n{end}{after}", encoding="utf-8")


def main(arguments: list[str] | None = None) -> int:
    """The command line; missing records are named in one sentence with exit code 2."""
    parser = argparse.ArgumentParser(description="Write the scoreboard into README.md.")
    parser.add_argument("--profile", default="laptop")
    parser.add_argument("--records", type=Path, default=ROOT / "figures" / "runs" / "laptop")
    parser.add_argument("--readme", type=Path, default=ROOT / "README.md")
    options = parser.parse_args(arguments)
    try:
        base = profile(options.profile)
        write_scoreboard(options.readme, markdown(judge(base, options.records)))
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
