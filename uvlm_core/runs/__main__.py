"""`python -m uvlm_core.runs pack FILE` and `unpack FILE`: records from one machine to another."""

import argparse
import sys
from pathlib import Path

from uvlm_core.environment import ROOT
from uvlm_core.runs.packs import pack, unpack


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; bad input is refused in one sentence with exit code 2."""
    parser = argparse.ArgumentParser(
        prog="python -m uvlm_core.runs", description="Carry records between machines."
    )
    parser.add_argument("command", choices=("pack", "unpack"))
    parser.add_argument("file", type=Path, help="the archive")
    parser.add_argument(
        "--records",
        type=Path,
        default=ROOT / "figures" / "runs" / "laptop",
        help="the folder of records (default: those of the laptop profile)",
    )
    options = parser.parse_args(arguments)
    try:
        if options.command == "pack":
            print(f"{pack(options.records, options.file)} records are in {options.file}.")
        else:
            new, old = unpack(options.file, options.records)
            print(f"{new} records are new in {options.records}, and {old} were there.")
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
