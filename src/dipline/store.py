"""Files between jobs: HDF5 with the arrays, and with every attribute needed to lead a number back to its origin.

    measurement  slices/<n>/…  arrays of one slice (kspace, maps)     shared/…  arrays of all (mask, view_shape)
    recon        slices/<n>/   image, view, last_view, losses          attributes: status, reason, iterations, …
    snapshots    slices/<n>/   views (float16, divided by the attribute scale), steps
    reference    slices/<n>/   view

Every file is built in memory, written under a temporary name and renamed: a full disk must not meet HDF5 half way, which
then crashes. No torch here.
"""

import contextlib
import errno
import hashlib
import io
import json
import os
import platform
import subprocess
import sys
import time
from functools import cache
from pathlib import Path

import h5py
import numpy as np

from dipline import __version__

AGAIN = 75  # EX_TEMPFAIL: the status of a job that another attempt may finish


class Corrupt(OSError):
    """A file of ours cannot be read; the message says which and what to do."""


class Absent(Corrupt):
    """A file of ours lacks a slice that is asked for."""


class Unwritable(OSError):
    """A file cannot be written, most often because the disk is full: nothing that was finished is lost, another attempt may succeed."""


def disk_full(path, error):
    """The :class:`Unwritable` behind an OSError that says so of ``path``'s disk; None behind another."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error):
        return Unwritable(f"{path}: disk full; free space and run again; what was finished is kept")
    return None


@contextlib.contextmanager
def written(path):
    """A temporary name beside ``path``; renamed to it when the block ends well, removed otherwise. Raises Unwritable."""
    path = Path(path)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield part
        os.replace(part, path)
    except (Corrupt, Unwritable):
        raise
    except OSError as error:
        fault = error.strerror or " ".join(str(error).split())
        other = Unwritable(f"{path}: cannot be written ({fault}); correct that and run again; what was finished is kept")
        raise disk_full(path, error) or other from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink()


def write_text(path, text):
    with written(path) as part:
        part.write_text(text)


def write(path, slices, attributes, shared=None):
    """Write one file.

    Args:
        slices: {index: {name: array or attribute}}; arrays become datasets, all else attributes.
        attributes: of the whole file; dicts and lists are stored as JSON.
        shared: {name: array} for all slices.
    """
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as f:
        _attributes(f, attributes)
        for name, array in (shared or {}).items():
            f.create_dataset(f"shared/{name}", data=array)
        for index, content in slices.items():
            group = f.create_group(f"slices/{index:03d}")
            arrays = {k: v for k, v in content.items() if isinstance(v, np.ndarray) and v.ndim}
            for name, array in arrays.items():
                packed = {"compression": "gzip", "compression_opts": 1} if array.size > 4096 else {}
                group.create_dataset(name, data=array, **packed)
            _attributes(group, {k: v for k, v in content.items() if k not in arrays})
    with written(path) as part:
        part.write_bytes(buffer.getbuffer())


def _attributes(node, values):
    for key, value in values.items():
        node.attrs[key] = json.dumps(value) if isinstance(value, dict | list | tuple | None) else value


@contextlib.contextmanager
def opened(path):
    try:
        with h5py.File(path, "r") as f:
            yield f
    except (Corrupt, Unwritable):
        raise
    except OSError as error:
        if not Path(path).exists():
            raise Corrupt(f"{path}: no such file; correct the name") from error
        advice = "delete the file and run Snakemake again, it will be made anew"
        raise Corrupt(f"{path}: cannot be read ({error}); {advice}") from error


def attributes(path):
    with opened(path) as f:
        return decoded(f)


def peek(path, *names):
    """Some attributes of a file, JSON not decoded, in a third of the time of :func:`attributes`: for thousands of files.

    Raises KeyError where one is missing, OSError where the file cannot be read.
    """
    file, found = h5py.h5f.open(os.fsencode(path), h5py.h5f.ACC_RDONLY), []
    for name in names:
        attribute = h5py.h5a.open(file, name.encode())
        value = np.empty((), attribute.dtype)
        attribute.read(value)
        found.append(value[()].decode() if isinstance(value[()], bytes) else value[()])
    return found


def checked(path, head, kind):
    """``head``, the attributes of ``path``, when the file is of that kind; Corrupt otherwise."""
    if head.get("kind") != kind:
        found = f"a {head['kind']} file" if "kind" in head else "no file that dipline wrote"
        raise Corrupt(f"{path}: found {found}, needed: a {kind} file; correct the name, or the order of the files")
    return head


def decoded(node):
    out = {}
    for key, value in node.attrs.items():
        value = value.item() if isinstance(value, np.generic) else value
        if isinstance(value, str) and value[:1] in "[{n":
            with contextlib.suppress(ValueError):
                value = json.loads(value)
        out[key] = value
    return out


def read(path, index=None, names=None):
    """(attributes of the file, {slice: {arrays and attributes}}).

    Args:
        index: this slice alone.
        names: these arrays alone.
    """
    with opened(path) as f:
        groups = f.get("slices", {})
        wanted = [f"{index:03d}"] if index is not None else list(groups)
        content = {}
        for name in wanted:
            group = _slice(path, groups, int(name))
            content[int(name)] = {k: v[()] for k, v in group.items() if names is None or k in names} | decoded(group)
        return decoded(f), content


def arrays(path, index):
    """The arrays of one slice of a measurement, those of all slices included."""
    with opened(path) as f:
        shared = {k: v[()] for k, v in f["shared"].items()} if "shared" in f else {}
        return shared | {k: v[()] for k, v in _slice(path, f.get("slices", {}), index).items()}


def _slice(path, groups, index):
    name = f"{index:03d}"
    if name not in groups:
        raise absent(path, [index], map(int, groups))
    return groups[name]


def absent(path, wanted, held):
    """The error of slices that a file does not hold."""
    listed = lambda numbers: ", ".join(map(str, numbers)) or "none"  # noqa: E731
    return Absent(f"{path}: holds no slice {listed(wanted)} (has {listed(held)}); choose among them")


def checksum(array):
    """SHA-256 of an array's bytes: what "same bits" means."""
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


def file_hash(path):
    """SHA-256 of a file, or of the files of a folder or list, one after the other."""
    if isinstance(path, list) or Path(path).is_dir():
        files = path if isinstance(path, list) else sorted(p for p in Path(path).iterdir() if p.is_file() and p.name[0] != ".")
        return hashlib.sha256("".join(map(file_hash, files)).encode()).hexdigest()
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


@cache
def commit():
    """The commit of the checkout that runs, "" outside one or without git."""
    ask = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(ask, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def provenance(verb, spec, inputs, **more):
    """Where a result comes from: command, versions, resolved spec, hashes of inputs.

    Time and host stand here, outside every checksum. Inputs are keyed by their paths as given: two may share a name.
    """
    program = "dipline" if sys.argv[0].endswith("__main__.py") else Path(sys.argv[0]).name
    versions = {m: sys.modules[m].__version__ for m in ("numpy", "torch", "h5py", "sigpy", "astra") if m in sys.modules}
    return {
        "verb": verb, "command": " ".join([program, *sys.argv[1:]]), "dipline": __version__,
        "commit": commit(), "python": platform.python_version(), "versions": versions, "spec": spec,
        "inputs": {f"{len(p)} files" if isinstance(p, list) else str(p): file_hash(p) for p in inputs},
        "host": platform.node(), "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), **more,
    }  # fmt: skip
