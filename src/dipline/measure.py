"""From a scan to what an arm may see (``measure``), and to the truth that only scores see (``reference``).

What differs between MRI, CT and photographs stands in ``measure_mri``, ``measure_ct`` and ``measure_image``.
"""

import os
from pathlib import Path

from dipline import measure_ct, measure_image, measure_mri, registry, store

MODALITIES = {"mri": measure_mri, "ct": measure_ct, "image": measure_image}


def simulate(out, spec):
    """Write one embedded patient in its true file format."""
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    registry.get("readers", spec["reader"]).load().write(out.stem, out, **spec["params"])


def reference(files, out, volume, slices, spec):
    """Write the truth of the chosen slices, and how it is scored: the range of values over all slices, windows, metrics."""
    reader = registry.get("readers", spec["reader"]).load()
    files = [Path(f) for f in files]
    attributes = {"kind": "reference", "volume": volume, "status": "done", "reason": ""}
    content = {}
    try:
        scan = reader.load(files, slices, **spec["params"])
        if scan.mask is not None:
            attributes |= {"status": "none", "reason": "the scan is undersampled: there is no truth"}
        else:
            kind = MODALITIES[scan.modality]
            views = kind.truth(scan)
            extents = [kind.extent(v) for v in views]
            for s in set(range(reader.inspect(files, **spec["params"])["slices"])) - set(slices):
                try:
                    extents += [kind.extent(v) for v in kind.truth(reader.load(files, [s], **spec["params"]))]
                except ValueError:
                    continue  # an unreadable slice that nobody asked for
            content = {s: {"view": v} for s, v in zip(slices, views, strict=True)}
            attributes["range"] = max(high for _, high in extents) - min(low for low, _ in extents)
            attributes["scores"] = kind.SCORES
    except ValueError as error:
        attributes |= {"status": "failed", "reason": str(error)}
    store.write(out, content, attributes | {"provenance": _provenance("reference", spec, files)})


def measure(files, out, heldout, dataset, volume, acq, slices, spec):
    """Undersample or project, add noise, calibrate, and write one self-contained file.

    A scan that cannot be used gives a file whose status is ``failed``, with the reason; only what another attempt can
    mend (disk, memory, signal) is an exception.
    """
    files = [Path(f) for f in files]
    attributes = {
        "kind": "measurement", "dataset": dataset, "volume": volume, "acq": acq, "physics": spec["physics"],
        "status": "done", "reason": "",
    }  # fmt: skip
    content, shared, kept = {}, {}, ({}, {})
    try:
        scan = registry.get("readers", spec["reader"]).load().load(files, slices, **spec["params"])
        content, shared, kept, found = MODALITIES[scan.modality].measured(scan, files[0], volume, spec)
        attributes |= found | {
            "modality": scan.modality, "affine": scan.affine.tolist(), "voxel": [float(v) for v in scan.voxel],
            "meta": scan.meta, "warnings": scan.warnings + found["warnings"],
        }  # fmt: skip
    except ValueError as error:
        attributes |= {"status": "failed", "reason": str(error)}
    attributes["provenance"] = _provenance("measure", spec, files)
    store.write(heldout, kept[0], {"kind": "heldout", "status": "done" if kept[0] else "none"}, kept[1])
    store.write(out, content, attributes, shared)


def _provenance(verb, spec, files):
    """A series of many files counts as one input: the files' own names may say who was scanned."""
    found = [f for f in files if os.access(f, os.R_OK)]
    return store.provenance(verb, spec, found if len(found) == 1 else [found] if found else [])
