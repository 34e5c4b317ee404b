"""Hounsfield units and attenuation: the one place of the conversion.

HU at the edges (files, scores, pictures), attenuation in 1/mm inside, as in LoDoPaB-CT (Leuschner et al. 2021): water
20 1/m, air 0.02 1/m. All functions take numpy arrays, torch tensors and numbers alike and keep their type.
"""

MU_WATER = 0.02  # 1/mm
MU_AIR = 2e-5  # 1/mm
AIR = -1000.0  # HU


def to_mu(hu):
    """Attenuation in 1/mm of a value in HU."""
    return hu / 1000 * (MU_WATER - MU_AIR) + MU_WATER


def to_hu(mu):
    """HU of an attenuation in 1/mm."""
    return (mu - MU_WATER) / (MU_WATER - MU_AIR) * 1000
