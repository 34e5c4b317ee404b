"""Upsampling and reflection as torch does them, for a GPU: gradients whose bits repeat, and memory that stays channels-last.

torch's own gradients of bilinear upsampling and of reflection either add in an order that changes from run to run, or take a detour that
costs three times a whole step of a small network. On a CPU torch's functions are used as they are.
"""

from functools import lru_cache

import torch
from torch import nn
from torch.nn import functional as F


def upsample(x, size, mode, align_corners=None):
    """``F.interpolate`` of (N, C, h, w) to ``size`` (H, W)."""
    if x.is_cuda and mode == "bilinear":
        return Bilinear.apply(x, tuple(size), align_corners)
    return F.interpolate(x, size, mode=mode, align_corners=align_corners)


class Conv(nn.Conv2d):
    """A convolution that keeps the size of its input, but for its stride."""

    def __init__(self, i, o, size, stride=1, padding="zeros"):
        super().__init__(i, o, size, stride, size // 2, padding_mode=padding)

    def forward(self, x):
        if x.is_cuda and self.padding_mode == "reflect" and self.padding == (1, 1):
            return F.conv2d(Reflected.apply(x), self.weight, self.bias, self.stride)
        return super().forward(x)


@lru_cache(maxsize=64)
def matrix(n, m, align_corners, device):
    """What linear interpolation from n to m points does, (m, n)."""
    return F.interpolate(torch.eye(n, device=device)[None], m, mode="linear", align_corners=align_corners)[0].T.contiguous()


class Bilinear(torch.autograd.Function):
    """Its gradient is two products with small matrices: interpolation is separable."""

    @staticmethod
    def forward(ctx, x, size, align_corners):
        ctx.sizes = tuple(zip(x.shape[-2:], size, strict=True))
        ctx.align_corners = align_corners
        return torch.ops.aten.upsample_bilinear2d(x, size, bool(align_corners))  # F.interpolate would take the detour here as well

    @staticmethod
    def backward(ctx, grad):
        rows, columns = (matrix(n, m, ctx.align_corners, grad.device).to(grad.dtype).T for n, m in ctx.sizes)
        g = grad.permute(0, 2, 3, 1).contiguous()  # nothing to do where memory is channels-last
        n, h, w, c = g.shape
        g = torch.matmul(rows, g.view(n, h, w * c)).view(n, -1, w, c)
        return torch.matmul(columns, g).permute(0, 3, 1, 2), None, None


class Reflected(torch.autograd.Function):
    """One pixel on every side."""

    @staticmethod
    def forward(ctx, x):
        n, c, h, w = x.shape
        out = torch.empty((n, c, h + 2, w + 2), dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
        out[..., 1:-1, 1:-1] = x
        out[..., 0, 1:-1], out[..., -1, 1:-1] = x[..., 1, :], x[..., -2, :]
        out[..., 0], out[..., -1] = out[..., 2], out[..., -3]
        return out

    @staticmethod
    def backward(ctx, grad):
        rows = grad[..., 1:-1, :].clone(memory_format=torch.channels_last)
        rows[..., 1, :] += grad[..., 0, :]
        rows[..., -2, :] += grad[..., -1, :]
        both = rows[..., 1:-1].clone(memory_format=torch.channels_last)
        both[..., 1] += rows[..., 0]
        both[..., -2] += rows[..., -1]
        return both
