"""Embedded photographs of different kinds, free of rights, that scikit-image ships; written as PNG, read by ``images``.

``set: reported`` is for tables, ``set: tuning`` for choosing settings: no image is in both.
"""

from pathlib import Path

import numpy as np
from PIL import Image

MODALITY = "image"
READS_AS = "images"
SUFFIX = ""  # a scan is a folder
PARAMETERS = {
    "images": 4,  # the first so many of the set
    "set": ("reported", "tuning"),
    "size": 128,
    "colour": ("keep", "grey"),
}
COHORT = ("images", "set")
BOUNDS = {"images": ">= 1, <= 10", "size": ">= 16"}
SETS = {
    "reported": ("astronaut", "camera", "chelsea", "retina", "coffee", "moon", "hubble_deep_field", "clock", "gravel", "brick"),
    "tuning": ("rocket", "coins", "page", "immunohistochemistry", "cell", "text", "grass", "horse", "colorwheel", "microaneurysms"),
}


def names(images, set, size, colour):
    """Names of the images."""
    return list(SETS[set][:images])


def describe(images, set, size, colour):
    """What the index says of each of them, written or not; colours are told by the file."""
    shape = [1 if colour == "grey" else 3, size, size]
    return {"slices": 1, "shape": shape, "recon_shape": [size, size], "undersampled": False, "warnings": []}


def write(name, out, size, colour):
    """Write one image to ``out``/0001.png: its middle square, made ``size`` pixels large."""
    from skimage import data, transform

    image = np.asarray(getattr(data, name)(), float)
    image = image / 255 if image.max() > 1 else image
    side = min(image.shape[:2])
    top, left = ((n - side) // 2 for n in image.shape[:2])
    middle = image[top : top + side, left : left + side]
    if colour == "grey" and middle.ndim == 3:
        middle = middle @ [0.2125, 0.7154, 0.0721]
    small = transform.resize(middle, (size, size), order=3, anti_aliasing=True)
    Path(out).mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.round(np.clip(small, 0, 1) * 255).astype(np.uint8)).save(Path(out) / "0001.png")
