"""What the readers of HDF5 files share: the ISMRMRD header, texts, and guards against damaged files."""

import mmap
import struct
import xml.etree.ElementTree as ElementTree
from contextlib import contextmanager

import h5py
import numpy as np

from dipline.readers.base import LARGEST, ReadError

HEAP = b"GCOL\1\0\0\0"  # how HDF5 marks a heap
FAKE_HEADER = b"""<ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD"><encoding>
<encodedSpace><matrixSize><x>32</x><y>24</y><z>1</z></matrixSize>
<fieldOfView_mm><x>64</x><y>48</y><z>5</z></fieldOfView_mm></encodedSpace>
<reconSpace><matrixSize><x>16</x><y>24</y><z>1</z></matrixSize>
<fieldOfView_mm><x>32</x><y>48</y><z>5</z></fieldOfView_mm></reconSpace>
<encodingLimits><kspace_encoding_step_1><minimum>0</minimum><maximum>19</maximum><center>10</center>
</kspace_encoding_step_1></encodingLimits><trajectory>cartesian</trajectory></encoding></ismrmrdHeader>"""


class Header:
    """An encoding's numbers in an ISMRMRD header, each within its limits.

    ``where`` opens every message; ``unsafe`` ends the one on a text that must not be parsed, ``invalid`` the one on a
    text that cannot be (``{}`` stands for the parser's words).
    """

    def __init__(self, text, where, unsafe, invalid):
        self.where = where
        if len(text) > 1_000_000 or b"<!DOCTYPE" in text or b"<!ENTITY" in text:
            raise ReadError(f"{where}: over 1 MB or with a DOCTYPE; allowed plain ISMRMRD XML; {unsafe}")
        try:
            self.root = ElementTree.fromstring(text.rstrip(b"\0"))
        except (ElementTree.ParseError, ValueError, LookupError) as problem:
            raise ReadError(f"{where}: {invalid.format(problem)}") from problem

    def text(self, path):
        """The text at a path below `encoding`, None where there is no such element."""
        return self.root.findtext("{*}encoding/" + "/".join("{*}" + part for part in path.split("/")))

    def number(self, path, low, high, kind=int):
        found = self.text(path)
        try:
            value = kind(found)
        except (TypeError, ValueError):
            value = None
        if value is None or not low <= value <= high:
            raise ReadError(f"{self.where}: {path} is {found}; allowed {low} to {high}; correct the header")
        return value

    def matrix(self, space, axes="xy"):
        """Samples along the axes (x: readout, y: phase encode) of `encodedSpace` or `reconSpace`."""
        return tuple(self.number(f"{space}/matrixSize/{axis}", 1, LARGEST) for axis in axes)

    def field_of_view(self, space, axes="xy"):
        """The same in mm."""
        return tuple(self.number(f"{space}/fieldOfView_mm/{axis}", 1e-3, 1e5, float) for axis in axes)

    def columns(self):
        """(first, last + 1) of the measured columns, counted as fastMRI does; None where the header does not say."""
        step = "encodingLimits/kspace_encoding_step_1"
        if self.text(step) is None:
            return None
        last = self.number(f"{step}/maximum", 0, LARGEST)
        centre, (encoded,) = self.number(f"{step}/center", 0, last + 1), self.matrix("encodedSpace", "y")
        return encoded // 2 - centre, encoded // 2 - centre + last + 1


@contextmanager
def raw_bytes(file):
    """The bytes of a file, as they are needed."""
    with open(file, "rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as raw:
        yield raw


def heap_objects(file, raw, at):
    """{index: (start, length)} of the objects in the heap at byte `at`.

    Texts and other data of variable length lie in such heaps. HDF5 2.0 never returns from a damaged one in which an
    object has no size, and reserves as many gigabytes as a damaged length says; so they are read without it.
    """
    size = int.from_bytes(raw[at + 8 : at + 16], "little")
    if raw[at : at + 8] != HEAP or at + size > len(raw):
        raise ReadError(f"{file}: a heap is damaged; copy or download it again")
    objects, place, end = {}, at + 16, at + size
    while place + 16 <= end:
        index, length = struct.unpack("<H6xQ", raw[place : place + 16])
        step = 16 + (length + 7) // 8 * 8 if index else length
        if step < 16 or place + step > end:
            raise ReadError(f"{file}: a heap is damaged; copy or download it again")
        if index:
            objects[index] = place + 16, length
        place += step
    return objects


def read_text(file, dataset):
    """The bytes of a dataset that holds one text."""
    check_size(file, dataset)
    if dataset.shape not in ((), (1,)):
        raise ReadError(f"{file}: {dataset.name}: shape {dataset.shape}; allowed one text; write the file again")
    if dataset.dtype.kind == "S":
        return bytes(np.asarray(dataset[()]).reshape(-1)[0])
    kind, place = h5py.check_string_dtype(dataset.dtype), dataset.id.get_offset()
    if kind is None or place is None:
        raise ReadError(f"{file}: {dataset.name}: {dataset.dtype}; allowed text; write the file again")
    with raw_bytes(file) as raw:
        length, at, index = struct.unpack("<IQI", raw[place : place + 16])
        start, most = heap_objects(file, raw, at + dataset.file.userblock_size).get(index, (0, 0))
        return raw[start : start + min(length, most)]


def check_size(file, dataset):
    """The dataset, unless it claims to be larger than the file can hold (deflate packs 1000 to 1)."""
    if not isinstance(dataset, h5py.Dataset):
        raise ReadError(f"{file}: found a group where a dataset belongs; copy, convert or download the file again")
    packed = dataset.id.get_create_plist().get_nfilters() > 0
    chunk = int(np.prod([int(n) for n in dataset.chunks or ()], dtype=object)) * dataset.dtype.itemsize
    most = file.stat().st_size * (1100 if packed else 1)
    if max(dataset.nbytes, chunk if packed else 0) > most:
        raise ReadError(
            f"{file}: {dataset.name}: shape {dataset.shape} does not fit into {file.stat().st_size} bytes; "
            "copy or download it again, with all its data in one file"
        )
    return dataset
