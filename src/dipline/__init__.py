"""dipline: reproducible cohort studies of untrained image reconstruction on MRI and CT scans."""

__version__ = "0.1.0"


def __getattr__(name):
    """``dipline.reconstruct``, without making every import of the package pay for torch."""
    if name == "reconstruct":
        from dipline.blocks import reconstruct

        return reconstruct
    raise AttributeError(f"module 'dipline' has no attribute '{name}'")
