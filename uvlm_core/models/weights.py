"""Loading weights from files into modules, with checks (no section of the paper).

Belongs here: every way to read weights, and the refusal of broken files and of other models'
weights. Not here: resolving a network's name (`places.py`), what networks compute (`encoders.py`,
`readers.py`).
"""

import argparse
import re
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import PreTrainedModel

from uvlm_core.files import read_json
from uvlm_core.places import adapted, fingerprint, refusing, resolve, resolve_network


def load_network(
    kind: type,
    name: str,
    what: str,
    beside: str = "",
    dtype: torch.dtype = torch.float32,
) -> PreTrainedModel:
    """Load a transformers network by shipped name, local folder or hub id.

    As in transformers, weights may be sharded, in half precision, named as in older versions, or
    pickled if no safetensors file exists. Of a pickle, only weights are read. ValueError when
    anything cannot be loaded, and for weights that are missing, unknown or of another shape.

    Args:
        kind: a class with `from_pretrained`.
        what: what the network is, for messages ("a language model").
        beside: a pattern of weights to ignore, those of a larger model that contains this one.
    """
    if adapted(name) is not None:
        raise ValueError(
            f"{name!r} is an adapter of another model, which only a language model "
            "may be; merge the two and give the merged model's folder."
        )
    folder = resolve_network(name, what)
    with refusing(name, what):
        network, report = kind.from_pretrained(
            folder,
            dtype=dtype,
            weights_only=True,
            trust_remote_code=False,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # refused below, by name
        )
    odd = [(key, "missing") for key in sorted(report["missing_keys"])]
    odd += [
        (key, f"of the shape {tuple(found)}, not {tuple(wanted)}")
        for key, found, wanted in sorted(report["mismatched_keys"])
    ]
    odd += [
        (key, "unknown")
        for key in sorted(report["unexpected_keys"])
        if not (beside and re.match(beside, key))
    ]
    if odd:
        raise ValueError(
            f"{name!r} does not hold the weights that its configuration asks for: "
            f"{odd[0][0]} is {odd[0][1]}."
        )
    return network


def load_state(path: str | Path) -> dict[str, torch.Tensor]:
    """Read a safetensors file; ValueError for a missing, truncated or other file, e.g. a pickle."""
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"There is no weights file {path.name} in {path.parent}.")
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"{path} is not a whole safetensors file ({error}); "
            "pickles and truncated files are refused."
        ) from None


def load_checkpoint(path: str | Path) -> dict:
    """Read a torch checkpoint without running any code in it.

    ValueError for a file that is missing, truncated or no checkpoint, and for one that holds code.
    """
    if not Path(path).is_file():
        raise ValueError(f"There is no checkpoint {path}.")
    try:
        # a Namespace holds training settings: names and plain values
        with torch.serialization.safe_globals([argparse.Namespace]):
            found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the zip reader and the unpickler raise errors of many kinds
        raise ValueError(
            f"{path} is not a complete file of nothing but weights ({type(error).__name__}); "
            "truncated files and other pickles are refused."
        ) from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds {type(found).__name__}, not a dictionary of weights.")
    return found


def load_into(module: torch.nn.Module, folder: str | Path) -> torch.nn.Module:
    """Load `folder/model.safetensors` into `module` and freeze it; ValueError as for `take`."""
    return take(module, load_state(Path(folder) / "model.safetensors"), folder)


def take(
    module: torch.nn.Module, state: dict[str, torch.Tensor], source: str | Path
) -> torch.nn.Module:
    """Load the weights `state`, read from `source`, into `module` and freeze it.

    ValueError names the first weight that is missing, unknown or of another shape.
    """
    own = module.state_dict()
    for name in [*own, *state]:
        if name not in state or name not in own or own[name].shape != state[name].shape:
            found = tuple(state[name].shape) if name in state else "nothing"
            wanted = tuple(own[name].shape) if name in own else "nothing"
            raise ValueError(
                f"{source} holds the weights of another model: for {name} it has "
                f"{found}, but {type(module).__name__} has {wanted}."
            )
    module.load_state_dict(state, assign=any(weight.is_meta for weight in own.values()))
    return module.eval().requires_grad_(False)


def companion_config(name: str, encoder: str) -> dict:
    """Return the configuration of a network that takes the features of `encoder`.

    ValueError when it was trained on the features of another encoder.
    """
    config = folder_config(name)
    if config.pop("of", None) != fingerprint(encoder):
        raise ValueError(
            f"{name!r} was not trained on the features of {encoder!r}; "
            "train one for it, or set the field to ''."
        )
    return config


def folder_config(name: str) -> dict:
    """Return `config.json` of one of this project's networks, {} if the file is missing.

    ValueError when it does not hold a dictionary.
    """
    path = Path(resolve(name)) / "config.json"
    config = read_json(path) if path.is_file() else {}
    if not isinstance(config, dict):
        raise ValueError(f"{path} is not the configuration of a network.")
    return config
