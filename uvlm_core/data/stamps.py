"""Tux Paint's stamps, a stand-in for the paper's captioned pictures (paper section 3).

Belongs here: copying Debian's package `tuxpaint-stamps-default` (GPL-2) into the cache. Not here:
reading captions and pictures (`pictures.py`). The package is never part of this repository.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from uvlm_core.data.pictures import read_pictures
from uvlm_core.environment import cache_folder

PACKAGE = "tuxpaint-stamps-default"
# path inside the package, and below the root of a system that has it installed
STAMPS_FOLDER = PurePosixPath("usr/share/tuxpaint/stamps")
LICENCE = PurePosixPath(f"usr/share/doc/{PACKAGE}/copyright")
BY_HAND = (
    f"download the .deb from https://packages.debian.org/stable/{PACKAGE} (161 MB) and run "
    "`make stamps DEB=/path/to/it`"
)


def fetch_stamps(deb: str | Path | None = None, root: str | Path = "/") -> Path:
    """Return the folder `stamps` in the cache, with the stamps and their licence.

    If it is missing, the stamps (PNG and text files) come from the package file `deb`, else from
    the system below `root` if installed there, else from `apt-get download`, which needs no root
    rights. The folder appears whole or not at all. ValueError says what went wrong.
    """
    target = cache_folder() / "stamps"
    if target.is_dir():
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as aside:
            made = Path(aside, "stamps")
            if deb is None and (Path(root) / STAMPS_FOLDER).is_dir():
                _copy(_installed(Path(root)), made)
            else:
                _copy(_packed(Path(deb) if deb else _download(Path(aside))), made)
            read_pictures(made, made, quiet=True)  # raises if a caption cannot be read
            os.rename(made, target)
    except OSError as error:
        raise ValueError(
            f"The stamps cannot be written to {target}: {error.strerror or error}."
        ) from error
    return target


def _copy(files: Iterable[tuple[PurePosixPath, bytes]], folder: Path) -> None:
    """Write the package's stamps and licence into `folder`."""
    licence = None
    for path, content in files:
        if path == LICENCE:
            licence = content
        else:
            place = folder / path.relative_to(STAMPS_FOLDER)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(content)
    if licence is None or not folder.is_dir():
        raise ValueError(
            f"The licence or the stamps are missing; the package {PACKAGE} has them ({BY_HAND})."
        )
    (folder / "copyright").write_bytes(licence)


def _wanted(path: PurePosixPath) -> bool:
    stamp = path.suffix.lower() in (".png", ".txt") and path.is_relative_to(STAMPS_FOLDER)
    return (stamp or path == LICENCE) and ".." not in path.parts


def _installed(root: Path) -> Iterator[tuple[PurePosixPath, bytes]]:
    for path in (root / LICENCE, *sorted((root / STAMPS_FOLDER).rglob("*"))):
        name = PurePosixPath(path.relative_to(root))
        if _wanted(name) and path.is_file():
            yield name, path.read_bytes()


def _packed(deb: Path) -> Iterator[tuple[PurePosixPath, bytes]]:
    """Yield the wanted files of a package, without Debian's tools.

    A package is an ar archive that holds a tar archive.
    """
    if not deb.is_file():
        raise ValueError(f"There is no package file {deb}.")
    try:
        with open(deb, "rb") as file:
            if file.read(8) != b"!<arch>\n":
                raise ValueError("it is no ar archive")
            while not (header := file.read(60)).startswith(b"data.tar"):
                if len(header) < 60:
                    raise ValueError("it has no data.tar")
                size = int(header[48:58])
                file.seek(size + size % 2, os.SEEK_CUR)  # members begin at even offsets
            # tarfile would read a cut archive as a shorter one
            if int(header[48:58]) > deb.stat().st_size - file.tell():
                raise ValueError("it is cut off")
            with tarfile.open(fileobj=file, mode="r|*") as archive:
                for member in archive:
                    if member.isfile() and _wanted(PurePosixPath(member.name)):
                        yield PurePosixPath(member.name), archive.extractfile(member).read()
    except (tarfile.TarError, EOFError, ValueError) as error:
        raise ValueError(f"{deb} is not a whole Debian package: {error}.") from error


def _download(folder: Path) -> Path:
    """Download the package file with apt-get."""
    if not shutil.which("apt-get"):
        raise ValueError(f"There is no apt-get here to fetch the stamps with; {BY_HAND}.")
    done = subprocess.run(
        ["apt-get", "download", PACKAGE], cwd=folder, capture_output=True, text=True
    )
    found = list(folder.glob(f"{PACKAGE}_*.deb"))
    if done.returncode or not found:
        said = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise ValueError(
            f"apt-get could not download {PACKAGE} ({said}); run `apt-get update` "
            f"first, or {BY_HAND}."
        )
    return found[0]


def main(arguments: list[str] | None = None) -> int:
    """Fetch the stamps and print their number; the command line of this module.

    An error is printed as one sentence and gives exit code 2.
    """
    parser = argparse.ArgumentParser(description="Bring Tux Paint's stamps into the cache.")
    parser.add_argument("--deb", help="the package file, where apt-get cannot fetch it")
    try:
        folder = fetch_stamps(parser.parse_args(arguments).deb)
        print(f"{len(read_pictures(folder, folder, quiet=True))} captioned pictures in {folder}")
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
