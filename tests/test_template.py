"""`dipline new`: what it writes passes the tests of its kind at once, and is found by name alone."""

import os
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT

from dipline import registry, template
from dipline.study import StudyError

KINDS = {"method": "methods", "network": "networks", "stopping": "stopping", "operator": "physics"}


@pytest.fixture
def checkout(tmp_path):
    """A copy of the sources and tests: the tests of this checkout run at the same time."""
    for folder in ("src", "tests", "config", "workflow"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__", "results", "*.egg-info"))
    for file in ("Snakefile", "pyproject.toml"):
        shutil.copy(ROOT / file, tmp_path)
    return tmp_path


def run(checkout, *words):
    environment = os.environ | {"PYTHONPATH": str(checkout / "src")}
    return subprocess.run([sys.executable, "-m", *words], cwd=checkout, env=environment, capture_output=True, text=True)


def test_what_is_written_passes_its_tests(checkout):
    for kind in template.KINDS:
        done = run(checkout, "dipline", "new", kind, f"my_{kind}")
        assert done.returncode == 0 and f"{template.KINDS[kind]}/my_{kind}.py is written" in done.stdout, done.stderr
    shutil.copy(checkout / "tests" / "example_method.py", checkout / "src" / "dipline" / "methods")
    assert {"my_method", "example_method"} <= set(run(checkout, "dipline", "list", "methods").stdout.split())
    files = [f"tests/test_{folder}.py" for folder in KINDS.values()]
    plain = ("-vv", "-p", "no:xdist", "-p", "no:cacheprovider")
    tests = run(checkout, "pytest", *plain, *files, "tests/test_architecture.py", "-k", "my_ or example_method")
    assert tests.returncode == 0, tests.stdout[-3000:]
    names = [*(f"my_{kind}" for kind in KINDS), "example_method"]
    assert all(name in tests.stdout for name in names), "each of them was tested"


def test_the_new_reader_reads_what_it_fakes(checkout, tmp_path):
    assert run(checkout, "dipline", "new", "reader", "grey_npy").returncode == 0
    code = (
        "from pathlib import Path; from dipline.readers import grey_npy as r; Path('d').mkdir(); r.fake('d');"
        "((name, files),) = r.list_volumes('d').items(); about, scan = r.inspect(files), r.load(files, [0]);"
        "assert list(scan.data.shape[1:]) == about['shape'] and scan.data.dtype == 'float32'"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=checkout, env=os.environ | {"PYTHONPATH": str(checkout / "src")}, text=True)
    assert done.returncode == 0


@pytest.mark.parametrize("name, said", [("vanilla", "already"), ("My-Method", "small letters"), ("class", "small letters")])
def test_names_that_cannot_be(name, said):
    before = set(registry.PACKAGE.rglob("*.py"))
    with pytest.raises(StudyError, match=said):
        template.write("method", name)
    assert set(registry.PACKAGE.rglob("*.py")) == before
