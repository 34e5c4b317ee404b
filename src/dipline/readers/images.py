"""Photographs: PNG, JPEG and TIFF, grey or colour, 8 or 16 bits a value.

Every file is a volume of one slice, named after it. Values become 0 (black) to 1 (white); the camera's orientation (EXIF) is applied,
palettes become colours. Nothing else of a file's header is kept.
"""

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from dipline.readers import base
from dipline.readers.base import ReadError, Scan

MODALITY = "image"
PARAMETERS = {
    "colour": ("keep", "grey"),
    "size": 0,  # pixels of a side: the middle square, made so large; 0: the image as it is
}
BOUNDS = {"size": ">= 0"}
ENDINGS = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
GREY = np.array([0.2125, 0.7154, 0.0721], np.float32)  # luminance, ITU-R BT.709
FULL = {"1": 1, "L": 255, "RGB": 255, "I;16": 65535, "I;16B": 65535, "I": 65535}  # white of a mode of Pillow


def list_volumes(path, colour="keep", size=0):
    """{name: [files]} of a folder (with its subfolders) or of one file."""
    path = Path(path)
    if path.is_file():
        return {path.stem: [path]}
    if not path.is_dir():
        raise ReadError(f"{path}: no such file or folder; correct the dataset's `path` in the study file")
    found = {}
    for file in sorted(p for p in path.rglob("*") if p.suffix.lower() in ENDINGS and not p.name.startswith(".")):
        found.setdefault(file.stem, []).append(file)
    if not found:
        raise ReadError(f"{path}: holds no image ({', '.join(ENDINGS)}); correct the dataset's `path`")
    return found


def inspect(files, colour="keep", size=0):
    """Shape (colours, rows, columns) of an image, from its header."""
    with base.reading(_single(files)) as file, Image.open(file) as image:
        _check(file, image)
        width, height = ImageOps.exif_transpose(image).size if image.getexif() else image.size
    rows, columns = (size, size) if size else (height, width)
    colours = 1 if colour == "grey" or image.mode not in ("RGB", "P") else 3
    about = {"shape": [colours, rows, columns], "recon_shape": [rows, columns], "undersampled": False}
    return {"slices": 1, **about, "bytes": 4 * colours * width * height, "warnings": []}


def load(files, slices, colour="keep", size=0):
    """The image as a Scan, float32 (1, colours, rows, columns) in [0, 1]."""
    with base.reading(_single(files)) as file, Image.open(file) as image:
        _check(file, image)
        base.check_choice(file, slices, (1, 3, image.height, image.width))
        warnings = _opaque(file, image)
        image = ImageOps.exif_transpose(image)
        if image.mode in ("P", "RGBA", "LA", "PA"):
            image = image.convert("L" if image.mode == "LA" else "RGB")
        values = np.asarray(image, np.float32) / FULL[image.mode]
    values = values[None] if values.ndim == 2 else values.transpose(2, 0, 1)
    if colour == "grey" and len(values) == 3:
        values = np.tensordot(GREY, values, 1)[None]
    if size:
        values = square(values, size)
    if values.min() == values.max():
        raise ReadError(f"{file}: every pixel is {values.flat[0]:.3g}; allowed: an image; leave it out")
    return Scan(MODALITY, values[None], list(slices), recon_shape=values.shape[1:], warnings=warnings)


def square(values, size):
    """The middle square of an image (colours, rows, columns), float32 (colours, size, size)."""
    from skimage.transform import resize

    side = min(values.shape[1:])
    top, left = ((n - side) // 2 for n in values.shape[1:])
    middle = values[:, top : top + side, left : left + side]
    return np.clip(resize(middle, (len(values), size, size), order=3, anti_aliasing=size < side), 0, 1).astype(np.float32)


def fake(folder):
    """A colour image of 8 bits and a grey one of 16."""
    rng, folder = np.random.default_rng(0), Path(folder)
    Image.fromarray(rng.integers(0, 256, (20, 24, 3), np.uint8)).save(folder / "colour.png")
    Image.fromarray(rng.integers(0, 65536, (18, 22), np.uint16)).save(folder / "grey.tif")


def _single(files):
    """An embedded image is a folder that holds one."""
    folder = Path(files[0])
    return [next(iter(sorted(folder.glob("*.png"))), folder)] if folder.is_dir() else files


def _check(file, image):
    """Refuse what would be read wrongly."""
    if getattr(image, "n_frames", 1) > 1:
        raise ReadError(f"{file}: {image.n_frames} pages; allowed one; save each as a file of its own")
    if image.format == "PNG" and _header(file)[0] == 16 and _header(file)[1] in (2, 6):
        raise ReadError(f"{file}: a colour PNG of 16 bits; allowed 8 bits, or grey of 16; save it so")
    if image.mode not in (*FULL, "P", "RGBA", "LA", "PA"):
        raise ReadError(f"{file}: colours of kind {image.mode}; allowed grey or RGB of 8 or 16 bits; convert it")


def _header(file):
    """(bits, colour type) of a PNG, whose reader makes 8 bits of 16 without a word."""
    with open(file, "rb") as f:
        start = f.read(26)
    return start[24], start[25]


def _opaque(file, image):
    """Warnings; ReadError where an image is partly transparent."""
    if image.mode not in ("RGBA", "LA", "PA") and "transparency" not in image.info:
        return []
    if np.asarray(image.convert("RGBA"))[..., 3].min() < 255:
        raise ReadError(f"{file}: an alpha channel with transparent pixels; allowed none; put it on a background first")
    return [f"{file.name}: an alpha channel, opaque everywhere, was left out"]
