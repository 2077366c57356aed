"""Frozen networks on disk: where a name leads, whether the files are whole, and what they are (their sha256).

Belongs here: paths and files of networks, and every error that a library has about them, told in
one sentence. Not here: what the networks compute (`vision.py`, `reader.py`), how the shipped ones
were made (`pretraining.py`).
"""

import argparse
import hashlib
import json
import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import PreTrainedModel
from transformers.utils import find_adapter_config_file
from transformers.utils import logging as transformers_logging

from uvlm_core.conversations import read_json
from uvlm_core.environment import ROOT, cache_folder

PRETRAINED = ROOT / "uvlm_core" / "pretrained"
FILES = (".pt", ".pth", ".bin", ".safetensors")  # suffixes of a network that is a single file
# what a network's folder is known by: suffixes, and the files of older tokenizers
_CONTENT = (".json", ".safetensors", ".bin", ".pt", ".model")
_VOCABULARIES = ("merges.txt", "vocab.txt")
_PART = r"[A-Za-z0-9][\w.-]*"
_HUB_ID = re.compile(rf"{_PART}(/{_PART})?")
_HUB_FILE = re.compile(rf"{_PART}/{_PART}(/{_PART})+")
_ADAPTER = "adapter_config.json"


def resolve(name: str) -> str:
    """Lead a network's name to what `from_pretrained` takes.

    `pretrained/vq` is a shipped folder, `cache/smollm2` one that a make target put into the cache,
    any other existing folder or file is itself (`~` is the user's home). The rest is a hub id:
    `owner/model`, or `owner/model/file` of a single file. ValueError for a name that can be none of
    them, such as a path that is not there.
    """
    if name.startswith("cache/"):
        folder = cache_folder() / name.removeprefix("cache/")
        if not os.path.isdir(folder):
            raise ValueError(f"{name!r} is not in the cache {cache_folder()}; `make {folder.name}` brings it there.")
        return str(folder)
    if name.startswith("pretrained/"):
        folder = PRETRAINED / name.removeprefix("pretrained/")
        if not os.path.isdir(folder):
            shipped = ", ".join(f"pretrained/{path.name}" for path in sorted(PRETRAINED.iterdir()))
            raise ValueError(f"{name!r} is not a shipped network; shipped are {shipped}.")
        return str(folder)
    place = os.path.expanduser(name)
    if os.path.exists(place):
        return place
    if not (_HUB_FILE if name.endswith(FILES) else _HUB_ID).fullmatch(name):
        raise ValueError(f"{name!r} is neither a folder or file that is there nor a hub id "
                         "(owner/model, or owner/model/file of a single file).")
    return name


def is_file(name: str) -> bool:
    """Whether a name leads to a single file, here or on the hub."""
    place = resolve(name)
    return os.path.isfile(place) or (name.endswith(FILES) and not os.path.isdir(place))


def resolve_folder(name: str, what: str) -> str:
    """`resolve` for a network (`what`) that is a folder or a hub id; a single file is refused."""
    if is_file(name):
        raise ValueError(f"{name!r} is a file, and {what} is a folder or a hub id (owner/model).")
    return resolve(name)


def reason(error: BaseException) -> str:
    """What a library raised, in a clause: its kind and the first sentence of what it says."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = lines[0].partition(". ")[0].rstrip(" .:") if lines else "no message"
    return f"{type(error).__name__}: {said}"


def resolve_network(name: str, what: str) -> str:
    """The same for a network of transformers', which would take defaults for a missing `config.json`."""
    folder = resolve_folder(name, what)
    if os.path.isdir(folder) and not os.path.isfile(os.path.join(folder, "config.json")):
        raise ValueError(f"{name!r} is not {what} that can be loaded: it has no config.json.")
    return folder


@contextmanager
def refusing(name: str, what: str) -> Iterator[None]:
    """Turn whatever a library raises while it loads `name` into one sentence: it is not `what`.

    What the libraries themselves say is not shown: whoever loads looks at their reports.
    """
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity(transformers_logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except Exception as error:  # transformers, peft, the hub: each has errors of its own
        here = os.path.exists(resolve(name))
        fault = (f"is not {what} that can be loaded" if here else
                 f"is neither a folder here nor {what} that the hub gives")
        raise ValueError(f"{name!r} {fault} ({reason(error)}).") from error
    finally:
        transformers_logging.set_verbosity(verbosity)


def load_network(kind: type, name: str, what: str, beside: str = "",
                 dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """Load a network by shipped name, local folder or hub id, as transformers loads it.

    So weights may be in parts, of half precision, and under the names of older versions. Where
    there is no safetensors file a pickle is read, and nothing but the weights in it. ValueError for
    whatever cannot be loaded, for weights that are missing and for weights that are unknown.

    Args:
        kind: a class with `from_pretrained`.
        what: what the network is, for messages ("a language model").
        beside: a pattern of weights that may be there unread: those of a larger model around it.
    """
    if adapted(name) is not None:
        raise ValueError(f"{name!r} is an adapter of another model, which only a language model "
                         "may be; merge the two and give the folder of what comes out.")
    folder = resolve_network(name, what)
    with refusing(name, what):
        network, report = kind.from_pretrained(
            folder, dtype=dtype, weights_only=True, trust_remote_code=False,
            output_loading_info=True, ignore_mismatched_sizes=True)  # refused here, by name
    odd = [(key, "missing") for key in sorted(report["missing_keys"])]
    odd += [(key, f"of the shape {tuple(found)}, not {tuple(wanted)}")
            for key, found, wanted in sorted(report["mismatched_keys"])]
    odd += [(key, "unknown") for key in sorted(report["unexpected_keys"])
            if not (beside and re.match(beside, key))]
    if odd:
        raise ValueError(f"{name!r} does not hold the weights that its configuration asks for: "
                         f"{odd[0][0]} is {odd[0][1]}.")
    return network


def adapted(name: str) -> str | None:
    """The name of the model that `name` is an adapter of (peft's); None for a whole network.

    ValueError for an adapter that names no model, one that is not there, or another adapter, and
    for a folder that holds a whole model too.
    """
    place = resolve(name)
    with refusing(name, "an adapter"):
        path = None if is_file(name) else find_adapter_config_file(place)
    if path is None:
        return None
    config = read_json(Path(path))
    base = config.get("base_model_name_or_path") if isinstance(config, dict) else None
    if not (isinstance(base, str) and base):
        raise ValueError(f"{name!r} is an adapter, and its {_ADAPTER} names no model "
                         "(base_model_name_or_path).")
    if any(any(Path(place).glob(whole)) for whole in ("model*.safetensors", "pytorch_model*.bin")):
        raise ValueError(f"{name!r} holds an adapter and a whole model; give a folder of one.")
    try:
        found = resolve(base)
    except ValueError as error:
        raise ValueError(f"{name!r} is an adapter of a model that cannot be found: {error}"
                         ) from None
    if os.path.exists(os.path.join(found, _ADAPTER)):
        raise ValueError(f"{name!r} is an adapter of {base!r}, which is an adapter too; merge one.")
    return base


@lru_cache(maxsize=64)
def fingerprint(name: str) -> str:
    """What a network is: sha256 over its configuration and weights; of a hub id, over the id.

    An adapter is known by the model that it changes, too. ValueError for a file that cannot be
    read.
    """
    folder = Path(resolve(name))
    digest = hashlib.sha256()
    try:
        if folder.is_file():
            return _sha256(folder)
        if not folder.is_dir():
            digest.update(f"hub:{name}".encode())
            return digest.hexdigest()
        for path in sorted(folder.iterdir()):
            content = path.suffix in _CONTENT or path.name in _VOCABULARIES
            if content and path.is_file() and path.name != "sha256.json":
                digest.update(path.name.encode() + _sha256(path).encode())
    except OSError as error:
        raise ValueError(f"{name!r} cannot be read ({error.strerror or error}: {error.filename})."
                         ) from error
    base = adapted(name)
    if base is not None:
        digest.update(fingerprint(base).encode())
    return digest.hexdigest()


def load_state(path: str | Path) -> dict[str, torch.Tensor]:
    """Read a safetensors file; a missing, truncated or other file (a pickle, say) is refused in one sentence."""
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"There is no weights file {path.name} in {path.parent}.")
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is not a whole safetensors file ({error}); "
                         "pickles and truncated files are refused.") from None


def load_checkpoint(path: str | Path) -> dict:
    """Read a checkpoint in torch's own format, weights alone; code in it, a cut or another file is refused."""
    if not Path(path).is_file():
        raise ValueError(f"There is no checkpoint {path}.")
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):  # settings of a training: names and plain values
            found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the zip reader and the unpickler raise whatever they like
        raise ValueError(f"{path} is not a whole file of weights alone ({type(error).__name__}); truncated files and "
                         "other pickles are refused.") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds {type(found).__name__}, not a dictionary of weights.")
    return found


def load_into(module: torch.nn.Module, folder: str | Path) -> torch.nn.Module:
    """Load `folder/model.safetensors` into `module`; weights of another model are refused by the first odd name."""
    return take(module, load_state(Path(folder) / "model.safetensors"), folder)


def take(module: torch.nn.Module, state: dict[str, torch.Tensor], source: str | Path) -> torch.nn.Module:
    """Give `module` the weights of `state`, which came from `source`, and freeze it; the same refusal."""
    own = module.state_dict()
    for name in [*own, *state]:
        if name not in state or name not in own or own[name].shape != state[name].shape:
            found = tuple(state[name].shape) if name in state else "nothing"
            wanted = tuple(own[name].shape) if name in own else "nothing"
            raise ValueError(f"{source} holds the weights of another model: for {name} it has {found}, "
                             f"but {type(module).__name__} has {wanted}.")
    module.load_state_dict(state)
    return module.eval().requires_grad_(False)


def companion_config(name: str, encoder: str) -> dict:
    """The configuration of a network that takes one encoder's features; that of another encoder's is refused."""
    config = folder_config(name)
    if config.pop("of", None) != fingerprint(encoder):
        raise ValueError(f"{name!r} was not trained on the features of {encoder!r}; "
                         "train one for it, or name none (an empty text).")
    return config


def folder_config(name: str) -> dict:
    """The `config.json` of a network of this project's own, an empty one where there is none."""
    path = Path(resolve(name)) / "config.json"
    config = read_json(path) if path.is_file() else {}
    if not isinstance(config, dict):
        raise ValueError(f"{path} is not the configuration of a network.")
    return config


def write_sha256(folder: str | Path) -> None:
    """Write `sha256.json` beside a network's files."""
    folder = Path(folder)
    sums = {path.name: _sha256(path) for path in sorted(folder.iterdir()) if path.suffix in (".json", ".safetensors")
            and path.name != "sha256.json"}
    (folder / "sha256.json").write_text(json.dumps(sums, indent=1) + "\n")


def verify(folder: str | Path) -> None:
    """Refuse a shipped network whose files are not the ones that `sha256.json` names."""
    folder = Path(folder)
    if not (folder / "sha256.json").is_file():
        raise ValueError(f"{folder} has no sha256.json, so nothing says which files belong there.")
    sums = read_json(folder / "sha256.json")
    if not isinstance(sums, dict):
        raise ValueError(f"{folder / 'sha256.json'} is not an object of files and their sha256.")
    for name, wanted in sums.items():
        if not (folder / name).is_file() or _sha256(folder / name) != wanted:
            raise ValueError(f"{folder / name} is not the file that was shipped (its sha256 differs from sha256.json).")


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
