"""The packages: what may import what, what their heads say, and names that stand for one thing."""

import ast
import sys
from collections import defaultdict
from pathlib import Path

import pytest

from uvlm_core.environment import ROOT
from uvlm_core.studies import studies

CODE = ROOT / "uvlm_core"
# a module imports from its own place and from the places before it
ORDER = (
    ("environment",),
    ("files",),
    ("places",),
    ("data",),
    ("models",),
    ("training",),
    ("scoring",),
    ("runs",),
    ("pretraining",),
    ("studies",),
    ("explore",),
    ("notebooks", "lmms", "plan"),
    ("report",),
)
RANK = {name: rank for rank, names in enumerate(ORDER) for name in names}
PACKAGES = sorted(path.parent for path in CODE.glob("*/__init__.py"))


def modules() -> dict[str, Path]:
    """Every module of the package by its name; a package by its own."""
    paths = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts): path
        for path in sorted(CODE.rglob("*.py"))
    }
    return {name.removesuffix(".__init__"): path for name, path in paths.items()}


def imported(tree: ast.AST, known: dict) -> set[str]:
    """The modules of this package that a module imports, at its head or late in a function."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute here"
            whole = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in known else node.module for name in whole}
    return found & known.keys()


@pytest.fixture(scope="module")
def graph() -> dict[str, set[str]]:
    known = modules()
    return {name: imported(ast.parse(path.read_text()), known) for name, path in known.items()}


def place(module: str) -> str:
    return module.split(".")[1]


def test_no_import_goes_up(graph):
    own = graph.keys() - {"uvlm_core"}
    assert {place(name) for name in own} <= RANK.keys()
    up = [
        f"{name} -> {other}"
        for name in own
        for other in graph[name] - {"uvlm_core"}
        if place(name) != place(other) and RANK[place(name)] <= RANK[place(other)]
    ]
    assert up == []


def test_no_import_comes_back_to_where_it_began(graph):
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join((*path[path.index(name) :], name))
        if name not in done:
            for other in sorted(graph[name]):
                visit(other, (*path, name))
            done.add(name)

    for name in sorted(graph):
        visit(name, ())
    assert done == graph.keys()


@pytest.mark.parametrize("folder", PACKAGES, ids=lambda folder: folder.name)
def test_a_package_says_what_belongs_there_and_where_the_paper_has_it(folder):
    head = ast.get_docstring(ast.parse((folder / "__init__.py").read_text()))
    assert head and "section" in head and "Not here" in head
    assert 3 <= len(head.splitlines()) <= 9


def test_every_module_has_a_head(graph):
    heads = {
        name: ast.get_docstring(ast.parse(path.read_text())) for name, path in modules().items()
    }
    assert [name for name, head in heads.items() if not head] == []


def test_a_constant_has_a_name_of_its_own():
    places = defaultdict(set)
    for module, path in modules().items():
        for node in ast.parse(path.read_text()).body:
            targets = (
                node.targets
                if isinstance(node, ast.Assign)
                else [node.target]
                if isinstance(node, ast.AnnAssign)
                else []
            )
            for each in (each for target in targets for each in ast.walk(target)):
                if isinstance(each, ast.Name) and each.id.isupper():
                    places[each.id].add(module)
    del places["STUDY"]  # by which a study is found
    assert {name: found for name, found in places.items() if len(found) > 1} == {}


def test_tests_lie_as_what_they_test():
    folders = {
        path.parent.relative_to(ROOT / "tests").parts
        for path in (ROOT / "tests").rglob("test_*.py")
    }
    assert {parts[0] for parts in folders if parts} <= {folder.name for folder in PACKAGES}
    names = [path.name for path in (ROOT / "tests").rglob("*.py")]
    assert len(names) == len(set(names))  # pytest imports them by their names alone


# what the machine with the GPU must have, beside Python; docs/clusters.md names them
FOR_RECORDS = {
    *("torch", "transformers", "peft", "torch_fidelity", "safetensors", "tokenizers", "accelerate"),
    *("numpy", "scipy", "pandas", "sklearn", "PIL", "matplotlib", "seaborn"),
    *("huggingface_hub", "filelock", "joblib", "tqdm"),
}


def test_making_records_needs_no_notebooks():
    """What only notebooks, maps or clusters need is imported late, in a function."""
    paths, seen, needed = modules(), set(), set()
    waiting = ["uvlm_core.studies.records", "uvlm_core.runs.carry_out", "uvlm_core.runs.__main__"]
    waiting += [f"uvlm_core.studies.{study.name}" for study in studies()]
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        for node in ast.parse(paths[name].read_text()).body:
            if isinstance(node, ast.Import):
                needed |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module.startswith("uvlm_core"):
                whole = {f"{node.module}.{alias.name}" for alias in node.names}
                waiting += {name if name in paths else node.module for name in whole}
            elif isinstance(node, ast.ImportFrom):
                needed.add(node.module.split(".")[0])
    assert len(seen) > 40
    assert needed - sys.stdlib_module_names <= FOR_RECORDS
