"""Reconstructed CT volumes as a derived DICOM series that a viewer opens: HU in int16, and nothing of the source."""

import hashlib
from pathlib import Path

import numpy as np
import pydicom
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid
from pydicom.valuerep import format_number_as_ds

from dipline import export, store
from dipline.hounsfield import AIR

TO_LPS = np.diag([-1.0, -1.0, 1.0])  # DICOM's axes point to the left and the back, NIfTI's to the right and the front
UNKNOWN = (  # must be there, may be empty
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "AccessionNumber",
    "ReferringPhysicianName", "StudyID", "Manufacturer", "AcquisitionNumber", "KVP", "PatientPosition",
    "PositionReferenceIndicator",
)  # fmt: skip


def from_nifti(file, folder, description):
    """The series of an exported volume (``export``), without the slices that hold no image. Returns the files written.

    ValueError where it holds no HU.
    """
    import nibabel as nib

    try:
        image = nib.load(file)
        if not isinstance(image, nib.Nifti1Image):
            raise ValueError(type(image).__name__)
        volume = np.asarray(image.dataobj, np.float32).transpose(2, 1, 0)
    except (OSError, nib.filebasedimages.ImageFileError, ValueError) as error:
        raise ValueError(f"{file}: no NIfTI volume ({error}); name one below results/<study>/volumes/") from None
    said, unit = (bytes(image.header[key]).rstrip(b"\0").decode(errors="replace") for key in ("descrip", "intent_name"))
    if unit != "HU" and volume.min() > -200:
        raise ValueError(f"{file}: no value below -200, so no Hounsfield units; name the volume of a CT dataset")
    # by their values: the header has no room for a long list
    empty = np.flatnonzero((volume == AIR).all((1, 2))) if said.startswith(export.NO_IMAGE) else ()
    if len(empty) == len(volume):
        raise ValueError(f"{file}: no slice holds an image; name another volume")
    return dicom_series(volume, image.affine, description, folder, empty=empty)


def dicom_series(volume, affine, description, folder, study=None, thickness=None, empty=()):
    """Write one file a slice, ``IM0001.dcm`` …, into a folder that is new or empty; returns the files written.

    UIDs are new: they follow from the values, so that the same volume gives the same files.

    Args:
        volume: HU, float (slices, rows, columns); rounded to whole numbers.
        affine: 4x4, (column, row, slice) to RAS mm, columns and rows at right angles.
        description: shown by viewers as the name of the series.
        study: any text; series that share it share study and frame of reference, so that viewers show them together.
        thickness: of a slice, mm; None: unknown, and left empty. It does not follow from the affine, which has the
            distance from slice to slice: every second slice of 4 mm is 8 mm away and still 4 mm thick.
        empty: slices, counted from 0, that hold no image: they get no file. The others keep their numbers and places.

    Raises:
        ValueError: the volume, the affine or the folder cannot be used.
    """
    volume, affine, folder = np.asarray(volume), np.asarray(affine, float), Path(folder)
    _check(volume, affine, folder)
    axes, origin = TO_LPS @ affine[:3, :3], TO_LPS @ affine[:3, 3]
    size = np.linalg.norm(axes, axis=0)
    across, down = (axes[:, :2] / size[:2]).T
    stored = np.clip(np.rint(volume), -32768, 32767).astype("<i2")
    key = hashlib.sha256(
        stored.tobytes() + affine.tobytes() + f"{stored.shape} {thickness} {description}".encode()
    ).hexdigest()

    def uid(what, of=key):
        return generate_uid(entropy_srcs=["dipline", str(of), what])

    same = pydicom.Dataset()
    for name in UNKNOWN:
        setattr(same, name, None)
    text = "".join(c if c.isprintable() and c != "\\" else " " for c in description)[:64]
    for name, value in {
        "SpecificCharacterSet": "ISO_IR 192", "SOPClassUID": CTImageStorage, "Modality": "CT",
        "ImageType": ["DERIVED", "SECONDARY", "AXIAL"], "SeriesDescription": text, "SeriesNumber": 1,
        "DerivationDescription": "reconstructed by dipline; not for clinical use", "PatientIdentityRemoved": "YES",
        "DeidentificationMethod": "written without any data of the patient", "BurnedInAnnotation": "NO",
        "StudyInstanceUID": uid("study", study or key), "FrameOfReferenceUID": uid("frame", study or key),
        "SeriesInstanceUID": uid("series"), "ImageOrientationPatient": _texts(*across, *down),
        "PixelSpacing": _texts(size[1], size[0]), "SliceThickness": None if thickness is None else _texts(thickness)[0],
        "SpacingBetweenSlices": _texts(abs(np.cross(across, down) @ axes[:, 2]))[0], "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2", "Rows": volume.shape[1], "Columns": volume.shape[2],
        "BitsAllocated": 16, "BitsStored": 16, "HighBit": 15, "PixelRepresentation": 1, "RescaleIntercept": "0",
        "RescaleSlope": "1", "RescaleType": "HU", "WindowCenter": "40", "WindowWidth": "400",
    }.items():  # fmt: skip
        setattr(same, name, value)
    written = []
    for s in sorted(set(range(len(stored))) - set(map(int, empty))):
        one = pydicom.Dataset()
        one.update(same)
        one.file_meta = pydicom.dataset.FileMetaDataset()
        one.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        one.SOPInstanceUID, one.InstanceNumber = uid(f"slice {s}"), s + 1
        one.ImagePositionPatient, one.PixelData = _texts(*(origin + s * axes[:, 2])), stored[s].tobytes()
        file = folder / f"IM{s + 1:04d}.dcm"
        with store.written(file) as part:
            one.save_as(part, enforce_file_format=True)
        written.append(file)
    return written


def _texts(*values):
    """Numbers as DICOM has them, 16 characters at most; no minus before a zero."""
    return [format_number_as_ds(float(v) + 0.0) for v in values]


def _check(volume, affine, folder):
    if volume.ndim != 3 or not volume.size:
        raise ValueError(f"volume: shape {volume.shape}; allowed (slices, rows, columns)")
    if not np.isfinite(volume).all():
        raise ValueError("volume: NaN or Inf; allowed HU; leave out the slices that failed")
    if affine.shape != (4, 4) or not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
        raise ValueError(f"affine: {affine.tolist()}; allowed 4x4 with an inverse")
    columns, rows = affine[:3, 0], affine[:3, 1]
    if abs(columns @ rows) > 1e-4 * np.linalg.norm(columns) * np.linalg.norm(rows):
        raise ValueError(
            "affine: columns and rows are not at right angles, which DICOM cannot state; resample the volume"
        )
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(
            f"{folder}: exists and is not empty; allowed a new folder, so that no series is mixed; choose one"
        )
