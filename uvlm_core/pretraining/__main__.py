"""The command line of pretraining: `python -m uvlm_core.pretraining vq`, or `make encoders`.

Belongs here: which networks there are, in the order in which they need one another, and the
language models of other sizes, which `make language_models` puts into the cache. Not here: how they
are trained (`common.py`, `text.py`, `vq.py`, `siglip.py`, `stamps.py`).
"""

import argparse
import sys
from functools import partial

import torch

from uvlm_core.environment import cache_folder
from uvlm_core.models.language_models import LM_LAYERS, SHIPPED_LM
from uvlm_core.pretraining import siglip, stamps, text, vq


def main(arguments: list[str] | None = None) -> int:
    """Train the network named on the command line, or a group of them; return the exit code.

    "all" are the shipped ones, "language_models" those that are not. The code is 2, with one
    sentence on stderr, when stamps are missing or training diverges.
    """
    # in the order of their dependencies
    networks = {
        "tokenizer": text.build_tokenizer,
        "language_model": text.build_language_model,
        "vq": vq.train_vq,
        "reader": vq.train_reader,
        "siglip": siglip.train_siglip,
        "siglip_decoder": siglip.train_decoder,
        "siglip_reader": siglip.train_feature_reader,
        "stamps_vq": stamps.train_stamps_vq,
        "stamps_siglip": stamps.train_stamps_siglip,
    }
    sizes = {
        name.removeprefix("cache/"): partial(text.bring_language_model, name)
        for name in LM_LAYERS
        if name != SHIPPED_LM
    }
    groups = {"all": list(networks), "language_models": list(sizes)}
    networks |= sizes
    parser = argparse.ArgumentParser(description="Train frozen networks and language models.")
    parser.add_argument("network", choices=[*networks, *groups])
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    wanted = groups.get(options.network, [options.network])
    without = [name for name in wanted if name.startswith("stamps_")]
    if without and not (cache_folder() / "stamps").is_dir():
        if options.network.startswith("stamps_"):
            print(
                f"{options.network} is trained on Tux Paint's stamps, which are not in the cache "
                f"{cache_folder()}; run `make stamps` first.",
                file=sys.stderr,
            )
            return 2
        print(
            f"Left out, because the stamps are not there (`make stamps` brings them): "
            f"{', '.join(without)}."
        )
        wanted = [name for name in wanted if name not in without]
    try:
        for name in wanted:
            networks[name]()
    except (ValueError, OSError) as error:  # a full disk, for example
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
