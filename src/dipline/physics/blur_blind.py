"""Blur by an unknown kernel: image and kernel are both looked for.

    y = (k * x)[index],   k ≥ 0, Σ k = 1, k within a frame of known size; the image continued periodically

Methods that find a kernel call :meth:`BlindBlur.blurred`; as an operator of the image alone it leaves the image as it is. Moving the kernel
one way and the image the other changes nothing: scores allow for it, by whole pixels (:func:`aligned`).
"""

import torch

from dipline.physics.sampled import Sampled, checked

AMBIGUOUS = True  # scores call aligned()
REFUSES = [
    ({"precondition": "> 0"}, "0: there is no preconditioner for a blur; leave it out"),
    ({"mode": "joint"}, "serial or chain: every image has a kernel of its own"),
    ({"stop.holdout.smooth": "> 0"}, "another stop rule: without the kernel an image does not tell the values that were left out"),
    ({"stop.discrepancy.sigma": ">= 0"}, "another stop rule: without the kernel an image does not tell the measurement"),
]


def build(arrays, device="cpu"):
    """Operator and data of one image.

    Args:
        arrays: ``data``, ``shape``, ``index`` as for pixels; ``frame`` (kh, kw), the size of the kernel.

    Returns:
        (operator, y), y float32 (colours, units).
    """
    y = checked(arrays, "frame")
    return BlindBlur(arrays["frame"], arrays["shape"], arrays["index"]).to(device), y.to(device)


class BlindBlur(Sampled):
    """See the module's docstring.

    Args:
        frame: (kh, kw) of the kernel, not larger than the image.
    """

    linear = complete = False

    def __init__(self, frame, shape, index=None):
        self.frame = tuple(int(n) for n in frame)
        super().__init__(shape, index)

    def blurred(self, x, kernel):
        """The measurement (colours, units) of an image (colours, H, W) under a kernel (kh, kw); differentiable in both."""
        return super().__call__(self.convolved(x, kernel))

    def convolved(self, x, kernel, adjoint=False):
        """k * x, periodic; ``adjoint``: its adjoint as a function of x."""
        response = self.transform(kernel)
        return torch.fft.irfft2(torch.fft.rfft2(x) * (response.conj() if adjoint else response), s=self.domain[1:])

    def transform(self, kernel):
        """The transform of a kernel whose middle, ((kh − 1) // 2, (kw − 1) // 2), lies at the origin."""
        (kh, kw), (H, W) = self.frame, self.domain[1:]
        whole = torch.nn.functional.pad(kernel, (0, W - kw, 0, H - kh))
        return torch.fft.rfft2(whole.roll((-((kh - 1) // 2), -((kw - 1) // 2)), (0, 1)))

    def plane(self, x):
        return x.flatten(1)

    def scale_of(self, x):
        """1: an image that is looked for in [0, 1] needs grey levels as they are."""
        return 1.0

    def init(self, y):
        """The blurred image itself."""
        return self.whole(y).reshape(self.domain)

    @classmethod
    def example(cls):
        return cls((3, 4), (2, 10, 9), [i for i in range(90) if i % 7])


def aligned(view, truth):
    """``view`` (…, H, W) moved by whole pixels such that it is nearest to ``truth``, all colours and slices alike; float32 arrays."""
    a, b = torch.as_tensor(view), torch.as_tensor(truth)
    match = torch.fft.ifft2((torch.fft.fft2(a).conj() * torch.fft.fft2(b)).reshape(-1, *b.shape[-2:]).sum(0)).real
    at = int(match.argmax())
    return a.roll((at // match.shape[1], at % match.shape[1]), (-2, -1)).numpy()
