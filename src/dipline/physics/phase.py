"""Fourier phase retrieval: the magnitudes of an oversampled Fourier transform, without their phases.

    A x = |F P x|,   P pads the image with zeros, F the orthonormal DFT

Shifts, the image turned by 180 degrees, and its sign leave the magnitudes as they are: scores allow for these (:func:`aligned`).
Fienup, Applied Optics 1982.
"""

import torch

from dipline.physics.sampled import Sampled, checked

CITE = ("fienup1982",)
AMBIGUOUS = True  # scores call aligned()
REFUSES = [({"precondition": "> 0"}, "0: magnitudes are no linear measurement; leave it out")]


def build(arrays, device="cpu"):
    """Operator and data of one image.

    Args:
        arrays: ``data`` float (colours, units), magnitudes; ``shape`` (colours, H, W); ``index`` (units,), places of the transform
            read row by row; ``padded`` (rows, columns), its size.

    Returns:
        (operator, y), y float32 (colours, units).
    """
    y = checked(arrays, "padded")
    return Magnitudes(arrays["padded"], arrays["shape"], arrays["index"]).to(device), y.to(device)


class Magnitudes(Sampled):
    """See the module's docstring."""

    linear = False

    def __init__(self, padded, shape, index=None):
        self.padded = tuple(int(n) for n in padded)
        super().__init__(shape, index, self.padded[0] * self.padded[1])

    def plane(self, x):
        transform = torch.fft.fft2(x, s=self.padded, norm="ortho")
        # the gradient of |z| at 0 would be 0/0
        return (transform.real.square() + transform.imag.square() + 1e-12).sqrt().flatten(1)

    def init(self, y):
        """The image of these magnitudes with phases of 0, moved to the middle of the frame."""
        magnitudes = self.whole(y).reshape(len(y), *self.padded)
        image = torch.fft.ifft2(magnitudes, norm="ortho").real
        (H, W), (rows, columns) = self.domain[1:], self.padded
        return image.roll((H // 2, W // 2), (-2, -1))[:, :H, :W] * (rows * columns / (H * W)) ** 0.5

    @classmethod
    def example(cls):
        return cls((12, 14), (1, 6, 7), [i for i in range(168) if i % 5])


def aligned(view, truth):
    """``view`` (…, H, W) turned, moved and signed such that it is nearest to ``truth``, all colours and slices alike; float32 arrays."""
    a, b = torch.as_tensor(view), torch.as_tensor(truth)
    best, found = -1.0, a
    for turned in (a, a.flip((-2, -1))):
        match = torch.fft.ifft2((torch.fft.fft2(turned).conj() * torch.fft.fft2(b)).reshape(-1, *b.shape[-2:]).sum(0)).real
        at = int(match.abs().argmax())
        if float(match.flatten()[at].abs()) > best:
            best = float(match.flatten()[at].abs())
            moved = turned.roll((at // match.shape[1], at % match.shape[1]), (-2, -1))
            found = moved * match.flatten()[at].sign()
    return found.numpy()
