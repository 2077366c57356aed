"""The environment: variables that are set and empty, and where the cache is."""

import os
from pathlib import Path

import pytest

from uvlm_core import environment
from uvlm_core.environment import ROOT, cache_folder


def test_the_cache_is_where_the_environment_says(cache, monkeypatch, tmp_path):
    assert cache_folder() == cache
    monkeypatch.delenv("UVLM_CACHE")
    assert cache_folder() == ROOT / ".cache"
    monkeypatch.setenv("UVLM_CACHE", "")  # set and empty: the default
    assert cache_folder() == ROOT / ".cache"
    monkeypatch.setenv("UVLM_CACHE", "~/cache")
    assert cache_folder() == Path.home() / "cache"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("UVLM_CACHE", "some/cache")
    assert cache_folder() == tmp_path / "some" / "cache"


@pytest.mark.parametrize(
    ("variables", "found"),
    [
        ({}, (1, 0)),
        ({"WORLD_SIZE": "", "RANK": "", "LOCAL_RANK": ""}, (1, 0)),
        ({"WORLD_SIZE": "3", "RANK": "2"}, (3, 2)),
        ({"WORLD_SIZE": "", "RANK": "0"}, (1, 0)),
    ],
)
def test_the_processes_are_those_of_the_launcher(variables, found, monkeypatch):
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert environment.processes() == found
    # accelerate would take an empty one for a number
    assert "" not in map(os.environ.get, variables)


@pytest.mark.parametrize("name", ["WORLD_SIZE", "RANK"])
@pytest.mark.parametrize("value", ["three", "-1", "1.5", "²"])
def test_a_number_of_processes_that_is_none_is_refused(name, value, monkeypatch):
    monkeypatch.setenv(name, value)
    said = f"^The environment variable {name} is '{value}', not a whole number.$"
    with pytest.raises(ValueError, match=said):
        environment.processes()
