"""What every reader returns: a scan, or a clear error.

A reader is one file in this folder with

- ``MODALITY``: the kind of data, a literal (``"mri"``, ``"ct"`` or ``"image"``);
- ``PARAMETERS``: its options with their defaults, a literal dict;
- ``list_volumes(path, **params) -> {name: [files]}``: what lies in a folder, by names alone;
- ``inspect(files, **params) -> dict``: shape and number of slices from the headers, without reading the data;
- ``load(files, slices, **params) -> Scan``: the data of the chosen slices;
- ``fake(folder)``: a few tiny volumes in the true format, for the tests.

Readers import no torch: a login node lists scans with them.
"""

from dataclasses import dataclass, field

import numpy as np


class ReadError(ValueError):
    """A scan cannot be used; the message names the file, what was found, what is allowed and the next step."""


@dataclass
class Scan:
    """One volume in memory.

    Attributes:
        modality: ``"mri"``, ``"ct"`` or ``"image"``.
        data: MRI: centred k-space, complex64 (slices, coils, readout, phase encode). CT: HU, float32 (slices, rows, columns).
        slices: index in the file of every slice held here.
        recon_shape: (rows, columns) of the image that the scanner delivers; scores look at this centre crop.
        acquired: bool (phase encode,): columns that were measured at all (False: zero padding). None: every column.
        mask: bool (phase encode,) or (readout, phase encode): the samples of a prospectively undersampled scan. None: complete.
        maps: coil sensitivities that came with the scan, complex64 (slices, coils, readout, phase encode), or None.
        affine: 4x4, voxel index (column, row, slice) of the delivered image to RAS millimetres, as NIfTI has it.
        voxel: voxel size in mm, in the order (column, row, slice).
        meta: what else the tables or pictures may show; never anything that identifies a person.
        warnings: what was unusual but accepted; shown in the report.
    """

    modality: str
    data: np.ndarray
    slices: list[int]
    recon_shape: tuple[int, int]
    acquired: np.ndarray | None = None
    mask: np.ndarray | None = None
    maps: np.ndarray | None = None
    affine: np.ndarray = field(default_factory=lambda: np.eye(4))
    voxel: tuple[float, float, float] = (1.0, 1.0, 1.0)
    meta: dict = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
