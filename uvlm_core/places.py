"""Where a network's name leads, and what it is: its sha256 (no section of the paper).

Belongs here: names, folders and files of networks, and every error that a library has about them,
told in one sentence. Not here: reading the weights (`models/weights.py`). This module imports no
torch, so that whoever only reads records starts fast.
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
    any other existing folder or file is itself (`~` is the user's home), and the rest is a hub id:
    `owner/model`, or `owner/model/file` of a single file. ValueError for a name that can be none of
    them, such as a path that is not there.
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
            f"{name!r} is neither a folder or file that is there nor a hub id "
            "(owner/model, or owner/model/file of a single file)."
        )
    return name


def is_file(name: str) -> bool:
    """Whether a name leads to a single file, here or on the hub."""
    place = resolve(name)
    return os.path.isfile(place) or (name.endswith(FILES) and not os.path.isdir(place))


def resolve_folder(name: str, what: str) -> str:
    """`resolve` for a network that is a folder or a hub id; a file is refused, and `what` says what
    was wanted."""
    if is_file(name):
        raise ValueError(f"{name!r} is a file, and {what} is a folder or a hub id (owner/model).")
    return resolve(name)


def resolve_network(name: str, what: str) -> str:
    """The same for a network of transformers', which would take defaults for no `config.json`."""
    folder = resolve_folder(name, what)
    if os.path.isdir(folder) and not os.path.isfile(os.path.join(folder, "config.json")):
        raise ValueError(f"{name!r} is not {what} that can be loaded: it has no config.json.")
    return folder


def reason(error: BaseException) -> str:
    """What a library raised, in a clause: its kind and the first sentence of what it says."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = lines[0].partition(". ")[0].rstrip(" .:") if lines else "no message"
    return f"{type(error).__name__}: {said}"


@contextmanager
def refusing(name: str, what: str) -> Iterator[None]:
    """Turn whatever a library raises while it loads `name` into one sentence: it is not `what` that
    can be loaded.

    What the libraries themselves say is not shown: whoever loads looks at their reports.
    """
    from transformers.utils import logging as transformers_logging  # late, as it takes a second

    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity(transformers_logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    # transformers, peft, the hub, safetensors: each has errors of its own
    except Exception as error:
        here = os.path.exists(resolve(name))
        raise ValueError(
            f"{name!r} is not {what} that can be loaded ({reason(error)})."
            if here
            else f"{name!r} is neither a folder here nor {what} that the hub gives "
            f"({reason(error)})."
        ) from error
    finally:
        transformers_logging.set_verbosity(verbosity)


def adapted(name: str) -> str | None:
    """The name of the model that `name` is an adapter of (peft's), None where it is a network
    itself.

    ValueError for an adapter that names no model, one that is not there, or another adapter, and
    for a folder that holds a whole model too.
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
    """What a network is: sha256 over its configuration and weights; of a hub id, over the id
    itself.

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
    """Refuse a shipped network whose files are not the ones that `sha256.json` names."""
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
