"""One small problem, one method, at once: what whoever invents a method runs all day (``dipline try``).

A task is an embedded patient or photograph and an acquisition. It goes the way of the workflow (``measure``, ``blocks``, ``metrics``),
in a temporary folder.
"""

import tempfile
from pathlib import Path

import numpy as np
import torch

from dipline import loop, measure, metrics, registry, store
from dipline import study as studies

MRI = {"reader": "phantom", "params": {"slices": 1, "matrix": 96, "coils": 8, "contrast": "t1"}, "name": "patient_101.h5"}
CT = {"reader": "phantom_ct", "params": {"slices": 1, "matrix": 96, "body": "torso"}, "name": "patient_101"}
PHOTO = {"reader": "samples", "params": {"size": 96}, "name": "rocket"}
TASKS = {
    "mri": MRI | {"acq": {"mask": "equispaced", "acceleration": 6, "center_fraction": 0.0833, "noise_snr": 10}},
    "ct": CT | {"acq": {"views": 24, "photons": 1e5}},
    "denoise": PHOTO | {"acq": {"task": "denoise", "sigma": 25}},
    "inpaint": PHOTO | {"acq": {"task": "inpaint", "missing": 0.5}},
    "superres": PHOTO | {"acq": {"task": "superres", "factor": 4}},
    "deblur": PHOTO | {"acq": {"task": "deblur", "sigma": 2}},
    "deblur_blind": PHOTO | {"acq": {"task": "deblur_blind", "sigma": 1}},
    "blur_nonlinear": PHOTO | {"acq": {"task": "blur_nonlinear", "sigma": 2}},
    "phase": PHOTO | {"acq": {"task": "phase"}},
    "gaussian": PHOTO | {"params": {"size": 64}, "acq": {"task": "gaussian", "rate": 0.25}},
}


class Watch:
    """A keeper that keeps nothing: the loop asks it after every step, and it tells how far the loop is."""

    def __init__(self, advance):
        self.advance = advance

    def load(self):
        return None

    def leaving(self):
        self.advance()
        return False

    def due(self):
        return False


def problem(task, folder):
    """(operator, y, truth, range, inputs) of a task; ``inputs``: a prior, where there is another contrast of the same patient."""
    t = TASKS[task]
    plugin = registry.get("readers", t["reader"])
    params = plugin.defaults() | t["params"]
    own = {k: v for k, v in params.items() if k not in plugin.get("COHORT", ())}
    modality, reading = plugin.get("MODALITY"), {"reader": plugin.get("READS_AS"), "params": {}}
    acquired = studies.checked_acquisition(t["acq"], modality)
    spec = reading | {"physics": acquired.physics, "acq": acquired.model_dump()}
    if modality == "mri":
        spec |= {"crop": "readout", "maps": studies.Maps().model_dump()}

    def measured(name, own, spec):
        scan = folder / name / t["name"]
        measure.simulate(scan, {"reader": t["reader"], "params": own})
        measure.measure([scan], folder / f"{name}.h5", folder / f"{name}.held.h5", task, scan.stem, "acq", [0], spec)
        return scan, registry.get("physics", acquired.physics).load().build(store.arrays(folder / f"{name}.h5", 0))

    scan, (A, y) = measured("scan", own, spec)
    measure.reference([scan], folder / "truth.h5", scan.stem, [0], reading)
    head, content = store.read(folder / "truth.h5")
    inputs = {}
    if modality == "mri":
        full = studies.checked_acquisition({"mask": "full"}, modality).model_dump()
        _, (B, z) = measured("prior", own | {"contrast": "t2"}, spec | {"acq": full})
        inputs["prior"] = B.init(z)
    return A, y, content[0]["view"], head, inputs


def checked(arm, task):
    """The resolved arm; StudyError where it is wrong, or does not solve the task."""
    if task not in TASKS:
        raise studies.StudyError([f"--task: found {task}, allowed: {', '.join(TASKS)}{registry.nearest(task, TASKS)}"])
    resolved = studies.resolve(studies.checked_arm(arm), snapshots=60)
    plugin = registry.get("methods", resolved["method"])
    solved = [t for t in TASKS if studies.takes(plugin.get("TASKS"), kind(t), t)]
    if task not in solved:
        allowed = ", ".join(solved)
        raise studies.StudyError([f"--task: found {task}, allowed with {plugin.name}: {allowed}"])
    lacking = [name for name in plugin.get("INPUTS", ()) if (name, kind(task)) != ("prior", "mri")]
    if lacking:
        raise studies.StudyError([f"--task: {plugin.name} needs {', '.join(lacking)}, which {task} has not; write a study for it"])
    return resolved


def run(resolved, task, seed, advance, say):
    """Fit a resolved arm to a task.

    Args:
        advance: called at every step; say: takes a line of what a log would hold.

    Returns:
        {"result": loop.Result, "truth", "start", "stopped", "last": views, "psnr": {"start", "stopped", "peak", "last"},
        "curve": (steps, psnr)}.

    Raises:
        loop.Diverged: with the reason.
    """
    with tempfile.TemporaryDirectory() as folder:
        A, y, truth, head, inputs = problem(task, Path(folder))
    plugin = registry.get("methods", resolved["method"])
    taken = {name: inputs[name] for name in (*plugin.get("INPUTS", ()), *plugin.get("OPTIONAL", ())) if name in inputs}
    with loop.borrowed(y.device.type, 1):
        result = loop.fit(y, A, resolved, seed, taken, Watch(advance), say)
    low, high = head["scores"][0].get("clip") or (None, None)
    within = lambda x: x if low is None and high is None else np.clip(x, low, high)  # noqa: E731
    aligned = getattr(registry.get("physics", type(A).__module__.split(".")[-1]).load(), "aligned", lambda x, _: x)
    shown = lambda image: aligned(A.view(image).numpy(), truth)  # noqa: E731
    quality = lambda view: metrics.psnr(within(view), within(truth), head["range"])  # noqa: E731
    views = {"start": shown(A.init(y)), "stopped": shown(torch.from_numpy(result.image)), "last": shown(torch.from_numpy(result.last))}
    curve = [quality(aligned(f.astype(np.float32) * result.view_scale, truth)) for f in result.snapshots]
    psnr = {name: quality(view) for name, view in views.items()}
    psnr["peak"] = max([*curve, psnr["stopped"], psnr["last"]])
    steps = np.array(result.snapshot_steps) + 1
    return {"result": result, "truth": truth, **views, "psnr": psnr, "curve": (steps, curve)}


def size(task):
    """Pixels a side."""
    params = TASKS[task]["params"]
    return params.get("matrix") or params["size"]


def kind(task):
    """The modality of a task."""
    return registry.get("readers", TASKS[task]["reader"]).get("MODALITY")


def picture(found, title, file):
    """Curve, truth, starting image, what is handed over, and its error, as a PNG."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    from dipline.report import style
    from dipline.report.panels import grey, pixels

    with rc_context(style.FONT):
        figure = Figure((11, 2.9), layout="constrained")
        curve, *axes = figure.subplots(1, 5, width_ratios=[1.5, 1, 1, 1, 1])
        steps, psnr = found["curve"]
        curve.plot(steps, psnr, color=style.COLOURS[0])
        curve.axhline(found["psnr"]["start"], color=style.GREY, linestyle=":", linewidth=1)
        curve.plot([found["result"].chosen + 1], [found["psnr"]["stopped"]], "o", color=style.COLOURS[0], markeredgecolor="black")
        curve.set(xscale="log", xlabel="iteration", ylabel="PSNR (dB)", title=title)
        low, high = (float(np.percentile(found["truth"], q)) for q in (0.5, 99.7))
        for ax, name in zip(axes, ("truth", "start", "stopped"), strict=False):
            ax.imshow(pixels(found[name]), cmap="gray", vmin=low, vmax=high)
            ax.set_title(name if name == "truth" else f"{name}, {found['psnr'][name]:.2f} dB")
        error = grey(np.abs(found["stopped"].astype(float) - found["truth"]))
        axes[3].imshow(error, cmap="inferno", vmin=0, vmax=max(float(np.percentile(error, 99.5)), 1e-12))
        axes[3].set_title("|stopped − truth|")
        for ax in axes:
            ax.set_axis_off()
        with store.written(file) as part:
            figure.savefig(part, format="png", dpi=150, metadata={"Software": None})
