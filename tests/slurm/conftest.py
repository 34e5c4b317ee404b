"""One throw-away Slurm and one undisturbed run of the study for all tests here, whatever the number of pytest's workers."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
from cluster import DIP, HERE, RECON, Cluster, Run, checksums, without_reconstructions
from filelock import FileLock

LAB = "DIPLINE_LAB"  # its folder, for the workers as well


def pytest_configure(config):
    config.addinivalue_line("markers", "partition(name): where the jobs run that ask for a card")
    if not hasattr(config, "workerinput"):
        os.environ[LAB] = tempfile.mkdtemp(prefix="dipline-lab-")


def pytest_unconfigure(config):
    if not hasattr(config, "workerinput"):
        folder = Path(os.environ[LAB])
        if (folder / "etc").exists():
            subprocess.run([HERE / "mini", "down", folder], check=True)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def cluster():
    if os.getuid() or not all(map(shutil.which, ("slurmctld", "slurmd", "munged"))):
        pytest.skip("needs root and Debian's slurm-wlm and munge: make test-slurm, as root")
    folder = Path(os.environ[LAB])
    with FileLock(folder / "lock"):
        if not (folder / "etc").exists():
            port = str(20000 + 30 * (os.getpid() % 1000))  # another checkout's tests may be running
            subprocess.run([HERE / "mini", "up", folder], check=True, env=os.environ | {"PORT": port})
    return Cluster(folder)


@pytest.fixture(scope="session")
def undisturbed(cluster):
    """A folder in which all images were reconstructed without Slurm and without failures."""
    folder = cluster.folder / "undisturbed"
    with FileLock(cluster.folder / "lock"):
        if not folder.exists():
            folder.mkdir()
            patients = ("patient_041", "patient_042")
            made = [RECON.format(patient, arm) for patient in patients for arm in ("tv", "dip")]
            made += [f"results/cohort/reference/brain/{patient}.h5" for patient in patients]
            line = Run(cluster, folder).line(*made, "--executor", "local", "--cores", "2")
            done = subprocess.run(line, cwd=folder, env=cluster.environment, capture_output=True, text=True, stdin=subprocess.DEVNULL)
            assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture
def want(undisturbed):
    """Checksums of the images that every test ends with."""
    return checksums(undisturbed, DIP)


@pytest.fixture
def study(cluster, undisturbed, tmp_path, request):
    """The study before its reconstructions, ready to be started; @pytest.mark.partition names where."""
    mark = request.node.get_closest_marker("partition")
    shutil.rmtree(tmp_path)
    run = Run(cluster, without_reconstructions(undisturbed, tmp_path), *(mark.args if mark else ()))
    yield run
    run.stop()
