"""Linear probes and maps of image tokens (paper section 4.3, figures 7 and 8; pitfall 18).

Belongs here: linear probes with their controls and score rows, t-SNE and UMAP of a model's image
tokens. Not here: how tokens are taken from a model (`alignment.py`), whether the model uses them
(`patching.py`).

A probe is a linear map from one vector per image to an attribute. Its accuracy is measured on
held-out attribute combinations, so that no near-duplicate crosses the split. Its control has random
labels per combination; selectivity is accuracy minus the control's. No probe can know the control's
held-out labels, so the control is at chance unless something leaks. Unlike the control of Hewitt
and Liang (2019), it does not measure memorisation. The baseline is a probe of random features of
the pixels.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from sklearn import config_context
from sklearn.linear_model import Ridge
from sklearn.manifold import TSNE
from sklearn.model_selection import GroupKFold
from sklearn.preprocessing import StandardScaler

from uvlm_core.data.attributes import icons_first
from uvlm_core.data.smart_watch import Watch

FOLDS = 5
PENALTY = 10.0  # ridge penalty on the probes' weights, for standardised inputs


def probe_classes() -> dict[str, int]:
    """Return what is probed and its number of classes: weather, battery (fifths), hour, corners.

    The order is that of the controls' random stream.
    """
    return {attribute.probe_name: attribute.probe_classes for attribute in icons_first()}


def probe_labels(watches: Sequence[Watch]) -> dict[str, np.ndarray]:
    """Return the class numbers (watches,) of everything that is probed."""
    return {
        attribute.probe_name: np.array([attribute.probe_class(watch) for watch in watches])
        for attribute in icons_first()
    }


def combinations_of(watches: Sequence[Watch]) -> np.ndarray:
    """Number the watches' combinations of probed attributes, (watches,)."""
    labels = np.stack(list(probe_labels(watches).values()), 1)
    return np.unique(labels, axis=0, return_inverse=True)[1].ravel()


def random_labels(
    labels: dict[str, np.ndarray], combinations: np.ndarray, seed: int
) -> dict[str, np.ndarray]:
    """Draw the control's labels: one random class of each attribute per combination."""
    rng, classes = np.random.default_rng(seed), probe_classes()
    return {
        name: rng.integers(classes[name], size=combinations.max() + 1)[combinations]
        for name in labels
    }


def random_features(images: np.ndarray, width: int, seed: int) -> np.ndarray:
    """Return the baseline, (images, width): random ReLU features of the pixels.

    `images` is uint8 (images, height, width, 3).
    """
    pixels = images.reshape(len(images), -1) / 127.5 - 1
    weights = (
        np.random.default_rng(seed).standard_normal((pixels.shape[1], width))
        / pixels.shape[1] ** 0.5
    )
    return np.maximum(pixels @ weights, 0)


def probe(vectors: np.ndarray, watches: Sequence[Watch], seed: int = 0) -> pd.DataFrame:
    """Fit and score linear probes of all attributes on one vector per image, (images, width).

    One ridge regression predicts the one-hot labels of all attributes and controls; the largest
    output of an attribute is its answer. Accuracies are NaN if a vector is not finite. Columns:
    attribute, accuracy, control, selectivity, chance, samples. ValueError for fewer than ten
    watches or combinations of attributes, or unless each watch has one vector.
    """
    if vectors.ndim != 2 or len(vectors) != len(watches) or len(watches) < 2 * FOLDS:
        raise ValueError(
            f"A probe needs one vector for each of at least {2 * FOLDS} watches, not "
            f"an array {vectors.shape} for {len(watches)} watches."
        )
    labels, combinations, classes = probe_labels(watches), combinations_of(watches), probe_classes()
    if combinations.max() + 1 < 2 * FOLDS:
        raise ValueError(
            f"A probe needs watches of at least {2 * FOLDS} combinations of "
            f"attributes, and these have {combinations.max() + 1}."
        )
    columns = ["attribute", "accuracy", "control", "selectivity", "chance", "samples"]
    if not np.isfinite(vectors).all():  # from a run that diverged
        return pd.DataFrame(
            [(name, np.nan, np.nan, np.nan, 1 / classes[name], len(watches)) for name in labels],
            columns=columns,
        )
    targets = {
        (name, kind): values
        for kind, some in (
            ("accuracy", labels),
            ("control", random_labels(labels, combinations, seed)),
        )
        for name, values in some.items()
    }
    onehot = np.hstack([np.eye(classes[name])[values] for (name, _), values in targets.items()])
    right = dict.fromkeys(targets, 0)
    for fitted, rest in GroupKFold(FOLDS, shuffle=True, random_state=seed).split(
        vectors, groups=combinations
    ):
        # checked above; looking at the numbers again costs as much as fitting
        with config_context(assume_finite=True, skip_parameter_validation=True):
            scaled = StandardScaler().fit(vectors[fitted]).transform(vectors)
            model = Ridge(PENALTY).fit(scaled[fitted], onehot[fitted])
            outputs = model.predict(scaled[rest])
        start = 0
        for (name, kind), values in targets.items():
            answers = outputs[:, start : start + classes[name]].argmax(1)
            right[name, kind] += int((answers == values[rest]).sum())
            start += classes[name]
    rows = [
        (
            name,
            right[name, "accuracy"] / len(watches),
            right[name, "control"] / len(watches),
            (right[name, "accuracy"] - right[name, "control"]) / len(watches),
            1 / classes[name],
            len(watches),
        )
        for name in labels
    ]
    return pd.DataFrame(rows, columns=columns)


def probe_places(
    states: dict[str, np.ndarray], watches: Sequence[Watch], by_token: bool = False, seed: int = 0
) -> pd.DataFrame:
    """Fit and score probes at every place of a model.

    `states` maps a place to (images, tokens, width); ValueError if it is empty. Probes read the
    mean over an image's tokens ("pooled"), which loses positions. With `by_token` they also read
    each token, and all tokens concatenated ("all"). Columns: place, token, then those of `probe`.
    """
    if not states:
        raise ValueError("There is no place to probe: states is empty.")
    found = []
    for place, vectors in states.items():
        found.append(probe(vectors.mean(1), watches, seed).assign(place=place, token="pooled"))
        if by_token:
            found.append(
                probe(vectors.reshape(len(vectors), -1), watches, seed).assign(
                    place=place, token="all"
                )
            )
            found += [
                probe(vectors[:, token], watches, seed).assign(place=place, token=str(token))
                for token in range(vectors.shape[1])
            ]
    table = pd.concat(found, ignore_index=True)
    return table[["place", "token", *[name for name in table if name not in ("place", "token")]]]


def probe_scores(table: pd.DataFrame) -> list[dict]:
    """Return the score rows of a table of `probe` or `probe_places`.

    Metrics `probe` and `probe_control`. Attributes such as "weather", or "weather, layer 2" if the
    table has places.
    """
    if "place" in table:
        table = table.assign(attribute=table["attribute"] + ", " + table["place"])
    return [
        {
            "metric": metric,
            "attribute": row["attribute"],
            "value": row[column],
            "samples": row["samples"],
        }
        for row in table.to_dict("records")
        for metric, column in (("probe", "accuracy"), ("probe_control", "control"))
    ]


def maps(vectors: np.ndarray, seed: int = 0) -> pd.DataFrame:
    """Return t-SNE and UMAP coordinates of one vector per image, (images, width), in their order.

    Columns: method ("t-SNE", "UMAP"), image, x, y. Results repeat for equal input and seed on one
    machine only. ValueError for fewer than ten vectors, or numbers that are not finite.
    """
    if vectors.ndim != 2 or len(vectors) < 10 or not np.isfinite(vectors).all():
        raise ValueError(
            f"A map needs at least ten vectors of finite numbers, not an array {vectors.shape}."
        )
    from umap import UMAP  # late: it compiles on import

    standard = StandardScaler().fit_transform(vectors)
    near = min(30, (len(vectors) - 1) // 3)
    found = {
        "t-SNE": TSNE(perplexity=near, random_state=seed, init="pca").fit_transform(standard),
        "UMAP": UMAP(
            n_neighbors=min(15, len(vectors) - 1), random_state=seed, n_jobs=1
        ).fit_transform(standard),
    }
    return pd.concat(
        [
            pd.DataFrame(
                {
                    "method": method,
                    "image": range(len(vectors)),
                    "x": points[:, 0],
                    "y": points[:, 1],
                }
            )
            for method, points in found.items()
        ],
        ignore_index=True,
    )
