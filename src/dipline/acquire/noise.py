"""Noise added to k-space, coil compression, and where the chance of a measurement comes from."""

import hashlib

import numpy as np


def seed_of(volume, acquisition, purpose):
    """From the volume's name, the acquisition's seed and the purpose; not from the slices that happen to be chosen."""
    return int.from_bytes(hashlib.sha256(f"{volume}/{acquisition['seed']}/{purpose}".encode()).digest()[:8], "big")


def add_noise(kspace, snr_db, rng):
    """k-space plus complex white noise, of the same shape and type.

    SNR in dB = 10 log10(P / sigma^2): P = mean |k|^2 over the acquired (nonzero) samples, sigma^2 = E|n|^2 of a complex
    sample. Samples that are exactly zero were not acquired and stay zero. Noise is drawn for every position: at equal P,
    a mask does not change it.
    """
    sigma = deviation(kspace, snr_db)
    noise = rng.standard_normal((2, *kspace.shape)) * (sigma / np.sqrt(2))
    return (kspace + (noise[0] + 1j * noise[1]) * (kspace != 0)).astype(kspace.dtype)


def deviation(kspace, snr_db):
    """sigma of :func:`add_noise`."""
    acquired = kspace != 0
    if not acquired.any():
        raise ValueError("noise: k-space holds no acquired (nonzero) sample; check mask and scan")
    power = np.mean(np.abs(kspace[acquired].astype(np.complex128)) ** 2)
    return np.sqrt(power * 10 ** (-snr_db / 10))


def compression_matrix(samples, n):
    """(n, coils): the n virtual coils with most energy in the calibration samples (coils, m) (Buehrer et al. 2007).

    Its rows are orthonormal: white noise stays white, and with n = coils nothing is lost.
    """
    coils = len(samples)
    if not 1 <= n <= coils:
        raise ValueError(f"coil compression: found {n} virtual coils, allowed: 1 to {coils}")
    gram = samples.astype(np.complex128) @ samples.conj().T
    return np.linalg.eigh(gram)[1][:, ::-1][:, :n].conj().T


def compress_coils(kspace, matrix):
    """k-space (…, coils, rows, columns) in virtual coils (…, n, rows, columns)."""
    return np.einsum("vc,...crw->...vrw", matrix, kspace, optimize=True).astype(kspace.dtype)
