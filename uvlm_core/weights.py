"""Frozen networks on disk: where a name leads, whether the files are whole, and what they are (their sha256).

Belongs here: paths and files of networks. Not here: what the networks compute (`vision.py`, `reader.py`), how the
shipped ones were made (`pretraining.py`).
"""

import argparse
import hashlib
import json
import os
from functools import lru_cache
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parent.parent
PRETRAINED = Path(__file__).resolve().parent / "pretrained"
_CONTENT = (".json", ".safetensors", ".bin", ".pt", ".model")  # suffixes of what a network's folder is known by


def cache_folder() -> Path:
    """The folder of everything that can be rebuilt: `UVLM_CACHE`, or `.cache` in the checkout."""
    return Path(os.environ.get("UVLM_CACHE", ROOT / ".cache"))


def resolve(name: str) -> str:
    """Lead a network's name to what `from_pretrained` takes.

    `pretrained/vq` is a shipped folder, `cache/smollm2` one that a make target put into the cache, any other existing
    folder or file is itself, and the rest is a hub id (`owner/model`, or `owner/model/file` of a single file).
    """
    if name.startswith("cache/"):
        folder = cache_folder() / name.removeprefix("cache/")
        if not folder.is_dir():
            raise ValueError(f"{name!r} is not in the cache {cache_folder()}; `make {folder.name}` brings it there.")
        return str(folder)
    if name.startswith("pretrained/"):
        folder = PRETRAINED / name.removeprefix("pretrained/")
        if not folder.is_dir():
            shipped = ", ".join(f"pretrained/{path.name}" for path in sorted(PRETRAINED.iterdir()))
            raise ValueError(f"{name!r} is not a shipped network; shipped are {shipped}.")
        return str(folder)
    return name


@lru_cache(maxsize=64)
def fingerprint(name: str) -> str:
    """What a network is: sha256 over its configuration and weights; of a hub id, over the id itself."""
    folder = Path(resolve(name))
    digest = hashlib.sha256()
    if folder.is_file():
        return _sha256(folder)
    if not folder.is_dir():
        digest.update(f"hub:{name}".encode())
        return digest.hexdigest()
    for path in sorted(folder.iterdir()):
        if path.suffix in _CONTENT and path.name != "sha256.json":
            digest.update(path.name.encode() + _sha256(path).encode())
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


def companion_config(folder: str | Path, encoder: str) -> dict:
    """The configuration of a network that takes one encoder's features; that of another encoder's is refused."""
    path = Path(folder) / "config.json"
    config = json.loads(path.read_text()) if path.is_file() else {}
    if config.pop("of", None) != fingerprint(encoder):
        raise ValueError(f"{folder} was not trained on the features of {encoder!r}; "
                         "train one for it, or name none (an empty text).")
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
    for name, wanted in json.loads((folder / "sha256.json").read_text()).items():
        if not (folder / name).is_file() or _sha256(folder / name) != wanted:
            raise ValueError(f"{folder / name} is not the file that was shipped (its sha256 differs from sha256.json).")


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
