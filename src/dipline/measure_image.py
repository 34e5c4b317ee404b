"""One photograph: what is measured of it, and the truth that scores see."""

import os
from pathlib import Path

import numpy as np

from dipline.acquire import degrade, noise

SCORES = ({"clip": [0.0, 1.0], "metrics": ["psnr", "ssim_wang"]},)  # over all colours; white is 1, whatever the image


def truth(scan):
    """Views (H, W), or (colours, H, W), of the images."""
    return [image[0] if len(image) == 1 else image for image in scan.data]


def extent(view):
    """(0, 1): the range of the format, not that of the image, as is usual for photographs."""
    return 0.0, 1.0


def measured(scan, file, volume, spec):
    """Blur, sampling, missing pixels, noise, held-out values.

    Returns:
        ({slice: arrays}, arrays of all slices, the same two of the held-out values, attributes).
    """
    a = spec["acq"]
    content, common, kept = {}, {}, {}
    for s, image in zip(scan.slices, scan.data, strict=True):
        draw = lambda purpose, s=s: np.random.default_rng(noise.seed_of(volume, a, f"{purpose} {s}"))  # noqa: E731
        arrays = TASKS[a["task"]](image.astype(np.float64), a, draw)
        values = degrade.noisy(arrays.pop("data").reshape(len(image), -1), draw("noise"), a["sigma"], a["peak"], a["impulse"])
        if a["task"] == "phase":
            values = values.clip(min=0)
        index = arrays.pop("index", np.arange(values.shape[1]))
        held = np.zeros(len(index), bool)
        if a["holdout"]:
            held[draw("holdout").choice(len(index), max(1, round(a["holdout"] * len(index))), replace=False)] = True
        common |= {name: arrays.pop(name) for name in ("model",) if name in arrays}
        arrays["shape"] = np.array(image.shape)
        if (a["sigma"] or a["peak"]) and not a["impulse"] and a["task"] != "phase":  # of others it is not that of a normal distribution
            arrays["noise"] = np.array([a["sigma"] / 255, a["peak"] or 0])
        values = values[:, index] if values.shape[1] > len(index) else values
        content[s] = arrays | {"data": values[:, ~held], "index": index[~held]}
        if a["holdout"]:
            kept[s] = arrays | {"data": values[:, held], "index": index[held]}
    found = {"task": a["task"], "units": "white = 1", "warnings": []}
    return content, common, (kept, common if kept else {}), found


# {task: function(image, acquisition, generator of a purpose) -> {"data" (colours, …), "index": places that were measured, what else the
# operator needs}}


def _denoise(image, a, draw):
    return {"data": image}


def _inpaint(image, a, draw):
    there = degrade.seen(image.shape[-2:], draw("missing"), a["missing"], a["boxes"], _file(a))
    return {"data": image, "index": np.flatnonzero(there)}


def _superres(image, a, draw):
    arrays = {}
    for name, n in zip(("rows", "columns"), image.shape[-2:], strict=True):
        small = max(1, round(n / a["factor"]))
        arrays |= {name: degrade.resampling(n, small, a["filter"]), f"up_{name}": degrade.resampling(small, n, "bicubic")}
    return arrays | {"data": arrays["rows"] @ image @ arrays["columns"].T}


def _file(a):
    return Path(os.path.expandvars(a["file"])).expanduser() if a["file"] else None


def _kernel(image, a):
    kernel = degrade.kernel(a["kernel"], a["width"], a["length"], a["angle"], _file(a))
    if any(k > n for k, n in zip(kernel.shape, image.shape[-2:], strict=True)):
        raise ValueError(f"kernel: found {kernel.shape} pixels, allowed at most those of the image, {image.shape[-2:]}")
    return kernel


def _deblur(image, a, draw):
    kernel = _kernel(image, a)
    return {"data": degrade.blurred(image, kernel), "kernel": kernel}


def _deblur_blind(image, a, draw):
    kernel = _kernel(image, a)
    return {"data": degrade.blurred(image, kernel), "frame": np.array(kernel.shape)}


def _nonlinear(image, a, draw):
    kernel = _kernel(image, a)
    return {"data": degrade.nonlinear(image, kernel), "kernel": kernel}


def _neural(image, a, draw):
    import torch

    try:
        with torch.no_grad():
            found = torch.jit.load(_file(a), map_location="cpu").eval()(torch.from_numpy(image.astype(np.float32))[None])
    except RuntimeError as error:
        raise ValueError(f"file: {a['file']} fails on an image of shape {image.shape}: {str(error).strip().splitlines()[-1]}") from None
    if found.shape != (1, *image.shape):
        raise ValueError(f"file: {a['file']} made {tuple(found.shape)} of {(1, *image.shape)}; give a model that keeps shapes")
    return {"data": found[0].numpy(), "model": np.frombuffer(_file(a).read_bytes(), np.uint8)}


def _phase(image, a, draw):
    padded = [int(np.ceil(n * a["oversampling"])) for n in image.shape[-2:]]
    return {"data": np.abs(np.fft.fft2(image, s=padded, norm="ortho")), "padded": np.array(padded)}


def _gaussian(image, a, draw):
    n = image.shape[-2] * image.shape[-1]
    rows, seed = max(1, round(a["rate"] * n)), int(draw("matrix").integers(2**31))
    matrix = np.random.default_rng(seed).standard_normal((rows, n), np.float32) / np.float32(rows**0.5)
    return {"data": image.reshape(len(image), -1) @ matrix.T, "drawn": np.array([rows, seed])}


TASKS = {
    "denoise": _denoise, "inpaint": _inpaint, "superres": _superres, "deblur": _deblur, "deblur_blind": _deblur_blind,
    "blur_nonlinear": _nonlinear, "blur_neural": _neural, "phase": _phase, "gaussian": _gaussian,
}  # fmt: skip
