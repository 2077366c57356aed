"""Names of networks: the files that they stand for, and their sha256 (no section of the paper).

Belongs here: names, folders and files of networks, and one-sentence errors in place of those that
libraries raise. Not here: reading the weights (`models/weights.py`). This module imports no torch,
so that reading records starts fast.
"""

import hashlib
import json
import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

from uvlm_core.environment import ROOT, cache_folder
from uvlm_core.files import read_json

PRETRAINED = ROOT / "uvlm_core" / "pretrained"


FILES = (".pt", ".pth", ".bin", ".safetensors")  # suffixes of a network that is a single file


# the files that enter a folder's fingerprint: by suffix, and the vocabularies of older tokenizers
_CONTENT = (".json", ".safetensors", ".bin", ".pt", ".model")


_VOCABULARIES = ("merges.txt", "vocab.txt")


_PART = r"[A-Za-z0-9][\w.-]*"


_HUB_ID = re.compile(rf"{_PART}(/{_PART})?")


_HUB_FILE = re.compile(rf"{_PART}/{_PART}(/{_PART})+")


_ADAPTER = "adapter_config.json"


def resolve(name: str) -> str:
    """Return the path or hub id that `from_pretrained` takes for a network's name.

    `pretrained/vq` is a shipped folder, and `cache/smollm2` one that a make target put into the
    cache. Any other existing folder or file stands for itself (`~` is the user's home). The rest
    are hub ids: `owner/model`, or `owner/model/file` for a single file. ValueError when the name is
    none of these, such as a missing path.
    """
    if name.startswith("cache/"):
        folder = cache_folder() / name.removeprefix("cache/")
        if not os.path.isdir(folder):
            raise ValueError(
                f"{name!r} is not in the cache {cache_folder()}; `make {folder.name}` "
                f"brings it there."
            )
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
        raise ValueError(
            f"{name!r} is neither an existing folder or file nor a hub id "
            "(owner/model, or owner/model/file of a single file)."
        )
    return name


def is_file(name: str) -> bool:
    """Return whether a name stands for a single file, here or on the hub."""
    place = resolve(name)
    return os.path.isfile(place) or (name.endswith(FILES) and not os.path.isdir(place))


def resolve_folder(name: str, what: str) -> str:
    """Resolve a folder or hub id; the ValueError for a single file says that `what` is needed."""
    if is_file(name):
        raise ValueError(f"{name!r} is a file, and {what} is a folder or a hub id (owner/model).")
    return resolve(name)


def resolve_network(name: str, what: str) -> str:
    """Resolve a transformers network; refuse a local folder without `config.json`.

    transformers would take its defaults for a missing one.
    """
    folder = resolve_folder(name, what)
    if os.path.isdir(folder) and not os.path.isfile(os.path.join(folder, "config.json")):
        raise ValueError(f"{name!r} is not {what} that can be loaded: it has no config.json.")
    return folder


def reason(error: BaseException) -> str:
    """Return the type of a library's error and the first sentence of its message."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = lines[0].partition(". ")[0].rstrip(" .:") if lines else "no message"
    return f"{type(error).__name__}: {said}"


@contextmanager
def refusing(name: str, what: str) -> Iterator[None]:
    """Turn any error while a library loads `name` into a ValueError: it is not `what`.

    Warnings and logs of the libraries are silenced; the caller checks their loading reports.
    """
    from transformers.utils import logging as transformers_logging  # late, as it takes a second

    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity(transformers_logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    # transformers, peft, the hub and safetensors each raise errors of their own
    except Exception as error:
        here = os.path.exists(resolve(name))
        raise ValueError(
            f"{name!r} is not {what} that can be loaded ({reason(error)})."
            if here
            else f"{name!r} is neither a folder here nor {what} that the hub has ({reason(error)})."
        ) from error
    finally:
        transformers_logging.set_verbosity(verbosity)


def adapted(name: str) -> str | None:
    """Return the name of the base model of a peft adapter, or None for a whole network.

    ValueError when an adapter names no model, a missing one or another adapter, and when its folder
    also holds a whole model.
    """
    place = resolve(name)
    if os.path.isdir(place) and not os.path.exists(os.path.join(place, _ADAPTER)):
        return None
    with refusing(name, "an adapter"):
        from transformers.utils import find_adapter_config_file  # late, as it takes a second

        path = None if is_file(name) else find_adapter_config_file(place)
    if path is None:
        return None
    config = read_json(Path(path))
    base = config.get("base_model_name_or_path") if isinstance(config, dict) else None
    if not (isinstance(base, str) and base):
        raise ValueError(
            f"{name!r} is an adapter, and its {_ADAPTER} names no model (base_model_name_or_path)."
        )
    if any(Path(place).glob("model*.safetensors")) or any(Path(place).glob("pytorch_model*.bin")):
        raise ValueError(f"{name!r} holds an adapter and a whole model; give a folder of one.")
    try:
        found = resolve(base)
    except ValueError as error:
        raise ValueError(
            f"{name!r} is an adapter of a model that cannot be found: {error}"
        ) from None
    if os.path.exists(os.path.join(found, _ADAPTER)):
        raise ValueError(f"{name!r} is an adapter of {base!r}, which is an adapter too; merge one.")
    return base


@lru_cache(maxsize=64)
def fingerprint(name: str) -> str:
    """Return the sha256 over a network's configuration and weights, or over a hub id itself.

    An adapter's covers its base model too. ValueError when a file cannot be read.
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
        raise ValueError(
            f"{name!r} cannot be read ({error.strerror or error}: {error.filename})."
        ) from error
    base = adapted(name)
    if base is not None:
        digest.update(fingerprint(base).encode())
    return digest.hexdigest()


def write_sha256(folder: str | Path) -> None:
    """Write `sha256.json` beside a network's files."""
    folder = Path(folder)
    sums = {
        path.name: _sha256(path)
        for path in sorted(folder.iterdir())
        if path.suffix in (".json", ".safetensors") and path.name != "sha256.json"
    }
    (folder / "sha256.json").write_text(json.dumps(sums, indent=1) + "\n")


def verify(folder: str | Path) -> None:
    """Raise ValueError unless a shipped network's files match its `sha256.json`."""
    folder = Path(folder)
    if not (folder / "sha256.json").is_file():
        raise ValueError(f"{folder} has no sha256.json, so nothing says which files belong there.")
    sums = read_json(folder / "sha256.json")
    if not isinstance(sums, dict):
        raise ValueError(f"{folder / 'sha256.json'} is not an object of files and their sha256.")
    for name, wanted in sums.items():
        if not (folder / name).is_file() or _sha256(folder / name) != wanted:
            raise ValueError(
                f"{folder / name} is not the file that was shipped (its sha256 "
                f"differs from sha256.json)."
            )


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
