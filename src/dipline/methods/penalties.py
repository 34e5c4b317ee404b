"""Penalties on the image that an arm adds to its method's loss, e.g. ``penalty: {tv: 0.01}``.

    loss + w R(x)      tv:            R = Σ |D₁x| + |D₂x|, anisotropic; of complex images real and imaginary part apart
                       tv_isotropic:  R = Σ √(|D₁x|² + |D₂x|² + ε²), ε = 1e-3; of complex images the modulus, whatever their phase

D₁, D₂: differences of neighbours in a column and in a row, 0 beyond the border; parts, colours and slices apart. DIP with ``tv`` is
TV-DIP (Liu, Sun, Xu, Kamilov, ICASSP 2019), which Baguer, Leuschner, Schmidt, Inverse Problems 2020, use for CT.

x has the units of the scaled data, its 99.9th percentile is about 1. R is a sum, as the data term of most methods, so that one weight
serves images of all sizes; for a method whose loss is a mean (dop) or un-squared (self_guided) it means something else.
"""

import torch

EPSILON = 1e-3


def tv(x):
    """x (parts, H, W), real or complex."""
    x = torch.view_as_real(x).movedim(-1, 0) if x.is_complex() else x
    return x.diff(dim=-2).abs().sum() + x.diff(dim=-1).abs().sum()


def tv_isotropic(x):
    """x (parts, H, W), real or complex."""
    x = torch.view_as_real(x).movedim(-1, 0) if x.is_complex() else x[None]
    squares = x.new_full(x.shape[1:], EPSILON**2)
    squares[..., :-1, :] += x.diff(dim=-2).square().sum(0)
    squares[..., :-1] += x.diff(dim=-1).square().sum(0)
    return squares.sqrt().sum()


def of(weights):
    """The function of an image that adds up what an arm asks for, {"tv": 0.01}; None where it asks for nothing."""
    terms = [(weight, {"tv": tv, "tv_isotropic": tv_isotropic}[name]) for name, weight in (weights or {}).items() if weight]
    return (lambda x: sum(weight * term(x) for weight, term in terms)) if terms else None
