"""The strict notebook runner behind `make figures` (`python -m uvlm_core.notebooks`).

Belongs here: finding notebooks, checking their parameters, running each with papermill in a kernel
of this Python, and keeping its files only on success. Not here: what a notebook shows
(`notebooks/`), how figures are saved (`studies/style.py`) and published (`studies/publishing.py`),
which runs are trained (`runs/`).

A notebook has one cell tagged `parameters`, which only assigns literals. It declares the standard
names (`STANDARD`) that it uses, and this runner sets them. `-p name=value` overrides any other
parameter. papermill only warns about an unknown parameter; this runner refuses it.

A study that waits for its runs (`Study.waiting`) is left out, unless its notebook is named.

Two notebooks run at a time, each in a thread that waits for its kernel. Their grids take turns to
train runs (`UVLM_TURNS`), because each grid uses all workers.
"""

import argparse
import ast
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import chdir, contextmanager
from pathlib import Path

import joblib
import nbformat
import papermill
from jupyter_client.manager import AsyncKernelManager
from nbclient.exceptions import DeadKernelError
from papermill.exceptions import PapermillExecutionError
from traitlets.config import Config

from uvlm_core.environment import ROOT
from uvlm_core.runs.backends import local_gpus, open_backend
from uvlm_core.studies import studies
from uvlm_core.studies.publishing import publish
from uvlm_core.training.profiles import profile

STANDARD = ("profile", "seeds", "workers", "records", "figures")
JOBS = 2  # notebooks at a time
PATIENCE = 10.0  # s between interrupting a notebook and killing it
LEAST_SPACE = 200 * 2**20  # bytes; the records and figures of the laptop profile need less
_A = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
    list: "a list",
    dict: "an object",
}


class NotebookFailed(RuntimeError):
    """Failure of a notebook; the message says in one sentence where and why."""


def find_notebooks(folder: Path, number: str | None = None) -> list[Path]:
    """Return the notebooks `NN_name.ipynb` of a folder in order, or those called `number`.

    `number` is "02" or "02_mutual_benefit". ValueError when nothing is found.
    """
    found = sorted(folder.glob("[0-9][0-9]_*.ipynb"))
    chosen = [
        path
        for path in found
        if number is None or path.stem == number or path.stem.startswith(f"{number}_")
    ]
    if not found:
        raise ValueError(f"There is no notebook NN_name.ipynb in {_shown(folder)}.")
    if not chosen:
        raise ValueError(
            f"notebook {number!r} is not one of {', '.join(path.stem for path in found)}."
        )
    return chosen


def declared_parameters(path: Path) -> dict[str, object]:
    """Return the names and default values in a notebook's parameters cell.

    ValueError when the file is not a notebook or its cell does not only assign literals.
    """
    try:
        notebook = nbformat.read(path, as_version=4)
    # nbformat raises another type for each kind of invalid notebook
    except Exception as error:
        raise ValueError(
            f"{_shown(path)} is not a readable notebook ({_sentence(error)})."
        ) from None
    cells = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", ())]
    if len(cells) != 1:
        raise ValueError(
            f"{path.stem} has {len(cells)} cells tagged 'parameters'; it must have one."
        )
    declared = {}
    try:
        for statement in ast.parse(cells[0].source).body:
            (target,) = (
                [statement.target] if isinstance(statement, ast.AnnAssign) else statement.targets
            )
            declared[target.id] = ast.literal_eval(statement.value)
    except (SyntaxError, ValueError, AttributeError, TypeError):
        raise ValueError(
            f"The parameters cell of {path.stem} may hold lines `name = literal` only."
        ) from None
    for name, default in declared.items():
        if default is not None and type(default) not in _A:
            raise ValueError(
                f"Parameter {name} of {path.stem} is {default!r}, which JSON cannot express."
            )
    return declared


def check_parameters(given: dict[str, object], declared: dict[str, object], where: str) -> None:
    """Raise ValueError for an undeclared parameter or one of another type than its default.

    A whole number passes as a number, and anything passes for a default of None. Booleans are not
    numbers.
    """
    for name, value in given.items():
        if name not in declared:
            allowed = ", ".join(declared) or "none"
            raise ValueError(
                f"{name!r} is not a parameter of {where}; its parameters are {allowed}."
            )
        default = declared[name]
        if not _is_like(value, default):
            raise ValueError(
                f"Parameter {name} of {where} is {value!r}, but must be {_A[type(default)]}."
            )
        if (
            isinstance(default, list)
            and default
            and not all(_is_like(item, default[0]) for item in value)
        ):
            raise ValueError(
                f"Parameter {name} of {where} is {value!r}, but each item must be "
                f"{_A[type(default[0])]}."
            )


def run_notebook(
    path: Path, parameters: dict[str, object], build: Path, figures: Path, alone: bool = True
) -> list[Path]:
    """Execute one notebook; on success only, move it and its figures into place.

    Call it within `kernel_environment`, which several notebooks may share.

    Args:
        path: path of the notebook.
        parameters: checked values for its parameters cell. `figures`, if among them, is replaced by
            an empty folder below `build`; its files move to the folder `figures` at the end.
        build: folder of the executed notebook: `NN_name.ipynb`, or on failure
            `NN_name.failed.ipynb` with the error in it.
        figures: folder of the figure files.
        alone: whether no other notebook runs at the same time.

    Returns: the final paths of the figure files.
    Raises: NotebookFailed; `figures` and an earlier successful notebook stay unchanged.
    """
    work = Path(tempfile.mkdtemp(prefix=f".{path.stem}-", dir=build))
    made, executed = work / "figures", work / path.name
    made.mkdir()
    if "figures" in parameters:
        parameters = parameters | {"figures": _shown(made)}
    config = Config(
        _Kernel={
            "transport_encryption": "required",
            "connection_file": str(work / "connection.json"),
        }
    )
    try:
        notebook = papermill.execute_notebook(
            _unformatted(path),
            _unformatted(executed),
            parameters,
            kernel_name="python3",
            language="python",
            progress_bar=False,
            coalesce_streams=True,
            stderr_file=_Progress(path.stem, alone),
            config=config,
            kernel_manager_class=_Kernel,
        )
        code = [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]
        # papermill counts sys.exit() as success
        if any(cell.execution_count is None for cell in code):
            raise NotebookFailed(f"{path.stem} ended before its last cell.")
        files = publish(made, figures)
        os.replace(executed, build / path.name)
        (build / f"{path.stem}.failed.ipynb").unlink(missing_ok=True)
        return files
    # any error becomes one sentence for the caller, so that the other notebooks still run
    except Exception as error:
        failed = ""
        if executed.exists():
            os.replace(executed, build / f"{path.stem}.failed.ipynb")
            failed = f" (see {_shown(build / f'{path.stem}.failed.ipynb')})"
        raise NotebookFailed(_reason(path, error) + failed) from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def main(arguments: list[str] | None = None) -> int:
    """Run the notebooks that the command line asks for; return 0 if all of them succeeded."""
    parser = _parser()
    try:
        options = parser.parse_args(arguments)
        chosen = profile(options.profile)
        build, figures, records = _folders(options)
        notebooks = find_notebooks(options.notebooks, options.notebook)
        if options.notebook is None:
            notebooks = _without_waiting(notebooks, chosen.name)
        overrides = dict(_assignment(text) for text in options.parameters)
        standard = {
            "profile": chosen.name,
            "workers": options.workers or len(local_gpus()) or joblib.cpu_count(),
            "records": _shown(records),
            "figures": "",
            "train": True,  # by hand a notebook only reads records, unless it is told to train
        }
        # without --seeds, the study's scale decides
        standard |= {"seeds": options.seeds} if options.seeds else {}
        asked = {name for name in ("seeds", "workers") if getattr(options, name) is not None}
        plan = _plan(notebooks, standard, overrides, asked)
        # report an unusable cluster now, not in the first notebook that trains
        open_backend().close()
        variables = {}
        if options.replicate:  # features and checkpoints of earlier runs must not be reused either
            variables["UVLM_CACHE"] = str(build / "cache")
            _remove(build)
        for folder in (build, figures, records):
            _check_writable(folder)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    variables["UVLM_FIGURES"] = str(figures)  # a figure that has not changed need not be redrawn
    with kernel_environment(variables):
        return _run_all(plan, build, figures)


def _without_waiting(notebooks: list[Path], profile_name: str) -> list[Path]:
    """Return the notebooks but for those of studies that wait for their runs in the profile."""
    waiting = {
        f"{study.number:02d}_{study.name}": study
        for study in studies()
        if profile_name in study.waiting
    }
    for path in notebooks:
        if path.stem in waiting:
            study = waiting[path.stem]
            runs = len(study.specs(profile(profile_name)))
            print(
                f"{path.stem} is left out, because not all of its {runs} runs are made; "
                f"`make figures NOTEBOOK={study.number:02d}` makes the others and draws them."
            )
    return [path for path in notebooks if path.stem not in waiting]


def _run_all(plan: list[tuple[Path, dict]], build: Path, figures: Path) -> int:
    """Run notebooks `JOBS` at a time, report on each, and return the exit status."""

    def run(number: int, path: Path, parameters: dict) -> str:
        _say(f"[{number}/{len(plan)}] {path.stem} ...")
        started = time.monotonic()
        files = run_notebook(path, parameters, build, figures, alone=len(plan) == 1)
        pictures = ", ".join(_shown(file) for file in files if file.suffix == ".png") or "no figure"
        return (
            f"[{number}/{len(plan)}] {path.stem} in {time.monotonic() - started:.0f} s: {pictures}"
        )

    failures, told = 0, set()
    pool = ThreadPoolExecutor(JOBS)
    running = {
        pool.submit(run, number, *each): each[0] for number, each in enumerate(plan, start=1)
    }
    waiting = set(running)
    try:
        while waiting:
            done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            for future in sorted(done, key=list(running).index):
                told.add(future)
                try:
                    _say(future.result())
                except NotebookFailed as failure:
                    failures += 1
                    print(failure, file=sys.stderr, flush=True)
    except KeyboardInterrupt:
        begun = [
            path.stem
            for future, path in running.items()
            if not future.cancel() and future not in told
        ]
        _Kernel.interrupt_all()
        print(
            f"{' and '.join(begun)} {'was' if len(begun) == 1 else 'were'} interrupted; the runs "
            "that have a record "
            "keep it.",
            file=sys.stderr,
        )
        return 130
    finally:
        pool.shutdown()
    return 1 if failures else 0


def _say(line: str) -> None:
    """Print a line in one write, because several threads print."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _plan(
    notebooks: list[Path], standard: dict, overrides: dict, asked: set[str]
) -> list[tuple[Path, dict]]:
    """Return each notebook with its parameters; all are checked before the first one runs."""
    declared = {path: declared_parameters(path) for path in notebooks}
    for name in sorted(asked):
        if not any(name in parameters for parameters in declared.values()):
            raise ValueError(
                f"{name!r} is not a parameter of {', '.join(path.stem for path in notebooks)}."
            )
    plan = []
    for path in notebooks:
        parameters = {
            name: value for name, value in standard.items() if name in declared[path]
        } | overrides
        check_parameters(parameters, declared[path], path.stem)
        plan.append((path, parameters))
    return plan


def _folders(options: argparse.Namespace) -> tuple[Path, Path, Path]:
    """Return the folders of executed notebooks, figures and records, by options or profile."""
    if options.replicate and (options.figures or options.records):
        raise ValueError(
            "--replicate has figures and records of its own; leave out --figures and --records."
        )
    build = options.build / ("replicate" if options.replicate else "") / options.profile
    home = (
        (build / "figures", build / "runs")
        if options.replicate
        else (ROOT / "figures" / options.profile, ROOT / "figures" / "runs" / options.profile)
    )
    return (
        build.resolve(),
        (options.figures or home[0]).resolve(),
        (options.records or home[1]).resolve(),
    )


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m uvlm_core.notebooks",
        description="Run the notebooks into figures.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--profile", default="laptop", help="smoke, laptop, smollm or paper (default: %(default)s)"
    )
    parser.add_argument(
        "--seeds", type=_count, metavar="N", help="seeds per arm (default: the study's)"
    )
    parser.add_argument(
        "--workers",
        type=_count,
        metavar="N",
        help="runs at a time (default: one a GPU, else a core)",
    )
    parser.add_argument(
        "--notebook", metavar="NN", help="run this one only, such as 02 (default: all)"
    )
    parser.add_argument(
        "-p",
        dest="parameters",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="override a notebook's parameter by a JSON value; may be repeated",
    )
    parser.add_argument(
        "--replicate",
        action="store_true",
        help="start from empty records below build/replicate, and leave figures/ alone",
    )
    parser.add_argument("--notebooks", type=Path, default=ROOT / "notebooks", metavar="FOLDER")
    parser.add_argument(
        "--build",
        type=Path,
        default=ROOT / "build",
        metavar="FOLDER",
        help="gets the executed notebooks, in a folder per profile (default: build)",
    )
    parser.add_argument("--figures", type=Path, metavar="FOLDER", help="default: figures/PROFILE")
    parser.add_argument(
        "--records", type=Path, metavar="FOLDER", help="default: figures/runs/PROFILE"
    )
    return parser


class _Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one sentence (ValueError), without the usage."""

    def error(self, message):
        raise ValueError(f"{message[0].upper()}{message[1:]}")


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) >= 1):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 up.")
    return int(text)


def _assignment(text: str) -> tuple[str, object]:
    """Parse `name=value` with a JSON value."""
    name, equals, value = text.partition("=")
    if not (equals and name.isidentifier()):
        raise ValueError(f"-p {text!r} is not of the form name=value.")
    if name in STANDARD:
        raise ValueError(f"{name!r} is not set with -p; use the option --{name}.")
    try:
        return name, json.loads(value, parse_constant=lambda constant: json.loads(""))
    except json.JSONDecodeError:
        raise ValueError(
            f"Parameter {name} is {value!r}, which is not a JSON value; "
            "write a text in double quotes, within single ones for the shell."
        ) from None


def _is_like(value: object, default: object) -> bool:
    kind = type(default)
    return default is None or type(value) is kind or (kind is float and type(value) is int)


def _remove(folder: Path) -> None:
    try:
        if folder.exists():
            shutil.rmtree(folder)
    except OSError as error:
        raise ValueError(
            f"The folder {_shown(folder)} cannot be removed: {error.strerror}."
        ) from None


def _check_writable(folder: Path) -> None:
    """Refuse a folder that cannot be created or written to, or whose disk is nearly full."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            free = shutil.disk_usage(folder).free
    except OSError as error:
        raise ValueError(
            f"The folder {_shown(folder)} cannot be written: {error.strerror}."
        ) from None
    if free < LEAST_SPACE:
        raise ValueError(
            f"The disk of {_shown(folder)} has {free / 2**20:.0f} MiB left; "
            f"at least {LEAST_SPACE / 2**20:.0f} MiB are needed."
        )


@contextmanager
def kernel_environment(more: dict[str, str]) -> Iterator[None]:
    """Set the environment that kernels start with, and the project's root as their folder.

    The kernel python3 is this Python, whatever kernels are installed under that name. The user's
    IPython start-up files do not run. The connection is on 127.0.0.1 and encrypted.
    """
    before = dict(os.environ)
    with tempfile.TemporaryDirectory(prefix="uvlm-") as temporary, chdir(ROOT):
        folder = Path(temporary)
        kernel = folder / "kernels" / "python3"
        kernel.mkdir(parents=True)
        command = [
            sys.executable,
            "-m",
            "ipykernel_launcher",
            "-f",
            "{connection_file}",
            "--log-level=CRITICAL",
        ]
        (kernel / "kernel.json").write_text(
            json.dumps(
                {
                    "argv": command,
                    "display_name": "Python 3",
                    "language": "python",
                    "metadata": {"supported_encryption": ["curve"]},
                }
            )
        )
        paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        warnings = filter(None, [os.environ.get("PYTHONWARNINGS"), "ignore:IProgress"])
        os.environ.update(
            JUPYTER_PATH=str(folder),
            JUPYTER_RUNTIME_DIR=str(folder / "runtime"),
            IPYTHONDIR=str(folder / "ipython"),
            UVLM_TURNS=str(folder / "turns"),
            PYTHONPATH=os.pathsep.join(paths),
            OMP_NUM_THREADS="1",
            OMP_WAIT_POLICY="PASSIVE",
            TOKENIZERS_PARALLELISM="false",
            # a library makes tqdm look for widgets, which a headless kernel does not need
            PYTHONWARNINGS=",".join(warnings),
            **more,
        )
        os.environ.pop("MPLBACKEND", None)  # or figures would not appear in the executed notebook
        try:
            yield
        finally:
            os.environ.clear()
            os.environ.update(before)


class _Kernel(AsyncKernelManager):
    """A kernel that the main thread can stop while another thread waits for it."""

    running: set = set()

    async def start_kernel(self, **settings):
        await super().start_kernel(**settings)
        self.running.add(self)

    async def shutdown_kernel(self, **settings):
        self.running.discard(self)
        await super().shutdown_kernel(**settings)

    @classmethod
    def interrupt_all(cls) -> None:
        """Interrupt every kernel, as Ctrl-C does, and kill those alive after `PATIENCE`."""
        for signal_number, patience in ((signal.SIGINT, PATIENCE), (signal.SIGKILL, 0.0)):
            for process in cls._alive():
                process.send_signal(signal_number)
            end = time.monotonic() + patience
            while cls._alive() and time.monotonic() < end:
                time.sleep(0.05)

    @classmethod
    def _alive(cls) -> list:
        """Return the processes of the kernels that have not ended."""
        known = [kernel.provisioner and kernel.provisioner.process for kernel in list(cls.running)]
        return [process for process in known if process and process.poll() is None]


class _Progress:
    """A file that forwards a notebook's standard error to ours, line by line.

    A progress bar is shown once every 30 s; `alone` in a terminal, at every update. If other
    notebooks run too, each line begins with the notebook's name.
    """

    EVERY = 30.0  # s

    def __init__(self, name: str, alone: bool):
        self.terminal = alone and sys.stderr.isatty()
        self.start = "" if alone else f"{name}: "
        self.last = time.monotonic()
        self.rest = ""

    def write(self, text: str) -> None:
        if self.terminal:
            sys.stderr.write(text)
            return
        *lines, self.rest = (self.rest + text).split("\n")
        for line in lines:
            self._say(line.rpartition("\r")[2])
        if "\r" in self.rest:
            self.rest = self.rest.rpartition("\r")[2]
            if self.rest and time.monotonic() - self.last >= self.EVERY:
                self.last = time.monotonic()
                self._say(self.rest)

    def flush(self) -> None:
        sys.stderr.flush()

    def _say(self, line: str) -> None:
        sys.stderr.write(f"{self.start}{line}\n")  # one write, as other notebooks write too


def _reason(path: Path, error: Exception) -> str:
    if isinstance(error, NotebookFailed):
        return str(error)
    if isinstance(error, PapermillExecutionError):
        reason = f"{error.ename}: {_sentence(error.evalue)}"
        return f"{path.stem} failed in cell [{error.exec_count}] with {reason}"
    if isinstance(error, DeadKernelError):
        return f"{path.stem} failed because its kernel died, perhaps for want of memory."
    return f"{path.stem} failed with {type(error).__name__}: {_sentence(error)}"


def _sentence(error: object) -> str:
    """Return the first line of an error's text that is not empty."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "no message")


def _shown(path: Path) -> str:
    """Return a path relative to the project's root if it lies below it, else absolute."""
    path = path.resolve()
    return path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else str(path)


def _unformatted(path: Path) -> str:
    """Escape a path's braces, because papermill formats paths with `str.format`."""
    return str(path).replace("{", "{{").replace("}", "}}")


if __name__ == "__main__":
    sys.exit(main())
