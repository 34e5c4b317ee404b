"""What methods that regularise by denoising share: D, scikit-image's plain denoisers or a learnt one.

The real and the imaginary part of a complex image are denoised apart; non-local means compares all colours of a photograph at once, the
others take them one by one. The plain denoisers run on the CPU, so that a GPU waits for them. A learnt one is a TorchScript module that
takes float32 (n, c, H, W), values mostly between 0 and 1 (real and imaginary parts: −1 and 1), and gives the same shape: n parts of one
channel of a complex image, or one real image of c colours.
"""

import numpy as np
import torch

KINDS = ("nlm", "wavelet", "tv")


def of(kind, sigma, model=None):
    """D, a function from images (parts, H, W) to such images.

    Args:
        kind: nlm (non-local means, h = 0.6 σ, patches of 5 within 6 pixels), wavelet (BayesShrink) or tv (Chambolle's, weight σ).
        sigma: σ, the noise that it takes the image to have.
        model: the learnt denoiser instead, which knows its own σ.
    """

    def denoised(x):
        planes = torch.view_as_real(x).movedim(-1, 1).reshape(-1, 1, *x.shape[-2:]) if x.is_complex() else x[None]
        with torch.no_grad():
            out = torch.stack([_plain(p, kind, sigma) for p in planes]) if model is None else model(planes)
        if out.shape != planes.shape:
            raise ValueError(f"inputs.denoiser: it made {tuple(out.shape)} of {tuple(planes.shape)}; give one that keeps shapes")
        if not x.is_complex():
            return out[0].to(x)
        return torch.view_as_complex(out.reshape(len(x), 2, *x.shape[-2:]).movedim(1, -1).contiguous()).to(x)

    return denoised


def _plain(plane, kind, sigma):
    """One (colours, H, W) through scikit-image."""
    from skimage import restoration

    image = plane.permute(1, 2, 0).cpu().numpy().astype(np.float64)
    if kind == "nlm":
        how = {"patch_size": 5, "patch_distance": 6, "fast_mode": True, "channel_axis": -1}
        found = restoration.denoise_nl_means(image, h=0.6 * sigma, sigma=sigma, **how)
    elif kind == "wavelet":
        found = restoration.denoise_wavelet(image, sigma=sigma, rescale_sigma=True, channel_axis=-1)
    else:
        found = restoration.denoise_tv_chambolle(image, weight=sigma, channel_axis=-1)
    return torch.from_numpy(np.ascontiguousarray(found.reshape(image.shape).transpose(2, 0, 1))).to(plane)
