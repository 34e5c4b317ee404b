"""Image quality. Every function takes (image, reference), a volume (slices, H, W), (slices, colours, H, W) or a part of one, real.

psnr, ssim and nmse are fastMRI's (its evaluate.py): one value for the volume, no rescaling of the image. `data_range`
is always explicit; fastMRI's is the maximum of the reference volume. Computed in float64.
"""

import numpy as np


def _pair(image, reference):
    image, reference = np.asarray(image), np.asarray(reference)
    if image.shape != reference.shape or image.ndim not in (2, 3, 4):
        raise ValueError(f"image {image.shape}, reference {reference.shape}: allowed: equal shapes, "
                         "(slices, H, W), (slices, colours, H, W) or a part of one")
    if np.iscomplexobj(image) or np.iscomplexobj(reference):
        raise ValueError("complex image: take the magnitude before scoring")
    return image.astype(np.float64), reference.astype(np.float64)


def rmse(image, reference):
    """Root mean square error, in the unit of the images."""
    image, reference = _pair(image, reference)
    return float(np.sqrt(np.mean((image - reference) ** 2)))


def nmse(image, reference):
    """||x - ref||^2 / ||ref||^2; nan if the reference is zero everywhere."""
    image, reference = _pair(image, reference)
    return _ratio(np.sum((image - reference) ** 2), np.sum(reference ** 2))


def psnr(image, reference, data_range):
    """10 log10(data_range^2 / mean((x - ref)^2)) in dB; inf if the images are identical."""
    error = rmse(image, reference)
    _check_range(data_range)
    return float(20 * np.log10(data_range / error)) if error else float("inf")


def ssim(image, reference, data_range, gaussian=False):
    """Mean structural similarity of the slices and colours, the border of a window dropped.

    fastMRI's: a 7 x 7 uniform window, sample covariance. ``gaussian``: that of Wang et al. (2004), an 11 x 11 Gaussian of σ = 1.5.
    """
    from skimage.metrics import structural_similarity  # late: it takes most of the import time

    image, reference = _pair(image, reference)
    _check_range(data_range)
    slices = zip(*(a.reshape(-1, *a.shape[-2:]) for a in (image, reference)), strict=True)
    how = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False} if gaussian else {}
    return float(np.mean([structural_similarity(ref, x, data_range=data_range, **how) for x, ref in slices]))


def hfen(image, reference):
    """High-frequency error ||LoG(x) - LoG(ref)|| / ||LoG(ref)|| (Ravishankar & Bresler 2011); nan if that is 0 / 0."""
    from scipy.ndimage import convolve

    image, reference = _pair(image, reference)
    # edges repeated, not zero-padded: HU of -1000 up to the border would otherwise count as a sharp edge in both images
    kernel = log_kernel().reshape((1,) * (image.ndim - 2) + (15, 15))
    error, norm = (np.sum(convolve(a, kernel, mode="nearest") ** 2) for a in (image - reference, reference))
    return float(np.sqrt(_ratio(error, norm)))


def log_kernel(size=15, sigma=1.5):
    """Laplacian of Gaussian: (r^2 - 2 sigma^2) / sigma^4 times a Gaussian of sum 1, then its mean removed, so sum 0."""
    axis = np.arange(size) - size // 2
    r2 = axis[:, None] ** 2 + axis ** 2
    gauss = np.exp(-r2 / (2 * sigma ** 2))
    kernel = (r2 - 2 * sigma ** 2) / sigma ** 4 * gauss / gauss.sum()
    return kernel - kernel.mean()


def _ratio(error, norm):
    return float(error / norm) if norm else float("nan")


def _check_range(data_range):
    if not data_range > 0:
        raise ValueError(f"data_range: found {data_range}, allowed: above 0, as the maximum of the reference")
