"""A block of slices through one arm: load, fit, keep what is finished, write."""

import json
import resource
import sys
import traceback
from pathlib import Path

import numpy as np
import torch

from dipline import loop, registry, store, study
from dipline.loop import Diverged, fit, fitting, together
from dipline.physics.joint import Joint
from dipline.resume import Keeper, Lease, Signals
from dipline.study import StudyError


def reconstruct(y, A, arm, seed=0, inputs=None, say=None):
    """Reconstruct one image from arrays, as a job of the workflow would.

    Args:
        y: measurement as ``A`` keeps it, e.g. from ``A, y = dipline.physics.sense.build({...})``; a tensor or a numpy array.
        A: an operator of ``dipline.physics``.
        arm: what a study file says of an arm, e.g. ``{"method": "vanilla", "stop": "wmv"}``, or a method's name.
        seed: seeds networks, inputs and noise.
        inputs: images (parts, H, W) that the method needs, e.g. ``{"prior": x}``; tensors or numpy arrays. Where it takes a model, a
            torch module.
        say: takes one line of progress; None: silent.

    Returns:
        loop.Result: ``image`` (parts, H, W) in the units of the data, curves, snapshots.

    Raises:
        study.StudyError: a wrong arm. loop.Diverged: with the reason. TypeError: data that are no array. ValueError: an input of
        another modality.
    """
    arm = {"method": arm} if isinstance(arm, str) else arm
    resolved = study.resolve(study.checked_arm(arm))
    models = {n: inputs[n] for n in _models(resolved) if n in (inputs or {})}
    images = {n: _tensor(f"inputs: {n}", x, A) for n, x in (inputs or {}).items() if n not in models}
    y, inputs = _tensor("y", y, A), images | models
    _complete(resolved, inputs)
    for name, image in images.items():
        _same_kind(f"inputs: {name}", image, A, real_will_do=True)
    with loop.borrowed(y.device.type, torch.get_num_threads()):
        return fit(y, A, resolved, seed, inputs, say=say or (lambda line: None))


def _tensor(name, value, A):
    """A numpy array as a tensor in single precision beside the operator; a tensor as it is."""
    if isinstance(value, np.ndarray):
        single = torch.from_numpy(value.astype({"c": np.complex64, "f": np.float32}.get(value.dtype.kind, value.dtype)))
        return single.to(next((v.device for v in vars(A).values() if isinstance(v, torch.Tensor)), "cpu"))
    if not isinstance(value, torch.Tensor):
        raise TypeError(f"{name}: found {type(value).__name__}, allowed: a torch tensor or a numpy array")
    return value


def _models(arm):
    """Names of the inputs of a resolved arm that are models."""
    return registry.get("methods", arm["method"]).get("MODELS", ())


def _reused(arm):
    """Names of its inputs that are artefacts of other results."""
    return registry.get("methods", arm["method"]).get("REUSES", ())


def _complete(arm, given):
    """StudyError where the method needs an input that is not given."""
    lacking = [n for n in registry.get("methods", arm["method"]).get("INPUTS", ()) if n not in given]
    if lacking:
        example = json.dumps({lacking[0]: {"kind": "measurement", "file": "other.h5", "slice": 0}})
        raise StudyError([f"arm: {arm['method']} needs inputs: {', '.join(lacking)}; by hand --inputs '{example}'"])


def block(measurement, out, snapshots, slices, spec, seed, state, given):
    """Reconstruct the slices of one measurement and write images and snapshots.

    Args:
        measurement: file of ``measure``.
        slices: indices.
        spec: the resolved arm, device, threads and code (``Plan.reconstruct_spec``).
        state: folder for checkpoints and finished slices; kept until the score has seen the result.
        given: {name: {"kind", "file", "slice"}}, the arm's further inputs.

    A fault of scan or arm becomes a slice with status ``failed``. Raises loop.Interrupted after a signal.
    """
    say = lambda line: print(line, flush=True)  # noqa: E731
    signals = Signals()
    spec = json.loads(spec)
    head, held = store.read(measurement, names=())
    store.checked(measurement, head, "measurement")
    if head["status"] == "done" and not set(slices) <= set(held):
        raise store.absent(measurement, sorted(set(slices) - set(held)), held)
    _complete(spec["arm"], given)
    spec = {"engine": registry.ENGINE, "code": _code(spec["arm"], head["physics"])} | spec
    there = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(there if spec["device"] == "auto" else spec["device"])
    loop.set_up(device.type, spec["threads"])
    files = [measurement, *(g["file"] for g in given.values())]
    runs_on = {"device": _device_name(device), "threads": torch.get_num_threads()}
    provenance = store.provenance("reconstruct", spec, files, seed=seed, given=given, **runs_on)
    block_of = [list(slices)] if "mode" in spec["arm"] else []
    identity = json.dumps([spec, seed, provenance["inputs"], given, device.type, *block_of]).encode()
    folder = Path(state) / store.checksum(np.frombuffer(identity, np.uint8))[:16]
    lease = Lease(folder)
    lease.acquire(signals)
    try:
        images, views, arm, before = {}, {}, spec["arm"], None
        files = lambda fitted: folder / f"s{fitted[0]:03d}.h5"  # noqa: E731
        for group in _groups(slices, arm.get("mode"), device):
            left = [fitted for fitted in group if not files(fitted).exists()]
            for fitted in group:
                if fitted not in left:
                    say(f"{_called(fitted)}: finished before, taken from {files(fitted)}")
            fits = []
            for fitted in left:
                say(f"{_called(fitted)}: {arm['method']}, seed {seed}, on {provenance['device']}, {provenance['threads']} threads")
                keeper = Keeper(files(fitted).with_suffix(".pt"), lease, signals)
                fit_of = _fit(measurement, head, fitted, arm, seed, device, given, keeper, say, before)
                fits.append(_kept(files(fitted), fit_of, len(left)))
            together(fits, device)
            if left and signals.seen:
                raise loop.Interrupted(f"{', '.join(map(_called, left))} is finished and kept")
            for fitted in group:
                images |= store.read(files(fitted))[1]
                views |= store.read(files(fitted).with_suffix(".snapshots.h5"))[1]
            before = Keeper(files(group[0]).with_suffix(".networks.pt"), lease, signals) if arm.get("mode") == "chain" else None
        if lease.mine():
            attributes = {"kind": "recon", "seed": seed, "provenance": provenance, "status": _status(images)}
            store.write(snapshots, views, {"kind": "snapshots"})
            store.write(out, images, attributes)
    finally:
        lease.release()


def _groups(slices, mode, device):
    """[[indices of one problem]] of every group, whose problems are fitted side by side: a batch, which a CPU has no room for."""
    problems = [list(slices)] if mode == "joint" else [[index] for index in slices]
    return [problems] if mode == "batch" and device.type == "cuda" else [[problem] for problem in problems]


def _called(fitted):
    return f"slice {', '.join(map(str, fitted))}"


def _kept(file, fit, among):
    """Run one of ``among`` fits that share the device, step by step, and keep what it returns."""
    results, shots = yield from fit
    for result in results.values():
        if "seconds" in result:
            result["seconds"] /= among
    store.write(file.with_suffix(".snapshots.h5"), shots, {})
    store.write(file, results, {})
    file.with_suffix(".pt").unlink(missing_ok=True)


def _code(arm, physics):
    """Hash of the sources behind an arm, for a job by hand, which would hand over old results; the workflow's spec brings its own."""
    rules = [name for rule in (arm["stop"], *arm["watch"]) for name in rule]
    used = [("methods", arm["method"]), ("physics", physics), *(("networks", n) for n in arm["network"] or {})]
    return registry.code_hash(registry.code_files(*used, *(("stopping", n) for n in rules)))


def _status(images):
    return "done" if all(i["status"] == "done" for i in images.values()) else "failed"


def _fit(measurement, head, indices, arm, seed, device, given, keeper, say, before):
    """({slice: what the recon file holds of it}, {slice: what the snapshot file holds}) of one slice, or of several as one problem; a
    generator as ``loop.fitting`` is.

    ``before``: where a neighbour's networks are kept, of a chain.
    """
    files = {name: g["file"] for name, g in given.items()}
    try:
        if head["status"] != "done":
            raise Diverged(f"no measurement: {head['reason']}")
        build = registry.get("physics", head["physics"]).load().build
        operators, parts = zip(*(build(store.arrays(measurement, i), device=device) for i in indices), strict=True)
        models = {name: _model(given[name]["file"], device) for name in given if name in _models(arm)}
        models |= {name: _artefact(name, g, indices[0]) for name, g in given.items() if name in _reused(arm)}
        given = {name: g for name, g in given.items() if name not in models}
        images = [{name: _input(g, i, A) for name, g in given.items()} for i, A in zip(indices, operators, strict=True)]
        if arm.get("mode") == "joint":
            A = Joint(operators)
            y, inputs = A.joined(parts), {name: torch.cat([of[name] for of in images]) for name in given}
        else:
            (A,), (y,), (inputs,) = operators, parts, images
        networks = (before and before.load()) or []
        if networks:
            arm = arm | {"iterations": max(1, round(arm["warm"] * arm["iterations"]))}
            say("starts from its neighbour's network")
        result = yield from fitting(y, A, arm, seed, inputs | models, keeper, say, networks)
        if arm.get("mode") == "chain":
            Keeper(keeper.file.with_suffix(".networks.pt"), keeper.lease, keeper.signals).save(result.networks)
    except (Diverged, store.Absent, ValueError, torch.linalg.LinAlgError) as error:
        if not isinstance(error, Diverged | store.Absent):  # it may be a fault of the program
            say(traceback.format_exc().rstrip())
        reason = f"{_blamed(error, files)}{error}"
        say(f"{_called(indices)} failed: {reason}")
        return {i: {"status": "failed", "reason": reason} for i in indices}, {i: {} for i in indices}
    found, shots, share = {}, {}, len(result.image) // len(indices)
    for n, (index, A, y) in enumerate(zip(indices, operators, parts, strict=True)):
        own = slice(n * share, (n + 1) * share)
        views = result.snapshots[:, n] if arm.get("mode") == "joint" and len(result.snapshots) else result.snapshots
        found[index] = _content(A, y, result, result.image[own], result.last[own], device)
        found[index]["seconds"] /= len(indices)
        shots[index] = {"views": views, "steps": np.array(result.snapshot_steps), "scale": result.view_scale}
    return found, shots


def _content(A, y, result, image, last, device):
    """What the recon file holds of one slice of a result."""
    x = torch.from_numpy(image).to(device)
    residual = {"residual": float(A.residual(x, y) / y.abs().square().sum())} if A.complete else {}
    return {
        "status": "done", "reason": "", "image": image, "view": A.view(x).cpu().numpy().astype(np.float32),
        "last_view": A.view(torch.from_numpy(last).to(device)).cpu().numpy().astype(np.float32),
        "losses": np.array(result.losses, np.float64).reshape(-1, 2), "iterations": result.iterations,
        "chosen": result.chosen, "watched": result.watched, "scale": result.scale,
        "seconds": result.seconds, "memory_mb": _memory(device), "checksum": store.checksum(image), **residual,
        **{f"artefact_{k}": v.cpu().numpy() for k, v in result.artefacts.items()},
    }  # fmt: skip


def _input(given, index, A):
    """One further input as an image (parts, H, W) of A's size: a measurement's starting image, a reconstruction, an array in a file."""
    index = index if given["slice"] == "same" else given["slice"]
    if given["kind"] == "measurement":
        head = store.attributes(given["file"])
        if head["status"] != "done":
            raise Diverged(f"{given['file']}: {head['reason']}")
        B, y = registry.get("physics", head["physics"]).load().build(store.arrays(given["file"], index))
        image = B.init(y)
    elif given["kind"] == "recon":
        content = store.read(given["file"], index)[1][index]
        if content["status"] != "done":
            raise Diverged(f"{given['file']}: {content['reason']}")
        image = torch.from_numpy(content["image"])
    else:
        image = torch.from_numpy(np.load(given["file"], allow_pickle=False))
    if tuple(image.shape[-2:]) != tuple(A.domain[-2:]):
        needed = f"{tuple(A.domain[-2:])}, the size of the scan after its crop"
        raise ValueError(f"{given['file']}: an image of {tuple(image.shape[-2:])}, needed: {needed}")
    _same_kind(given["file"], image, A, real_will_do=given["kind"] == "file")
    return image.reshape(-1, *image.shape[-2:])[: A.domain[0]].to(A.dtype)


def _artefact(name, given, index):
    """What another reconstruction left besides its image, e.g. a mask of its network."""
    index = index if given["slice"] == "same" else given["slice"]
    store.checked(given["file"], store.attributes(given["file"]), "recon")
    content = store.read(given["file"], index)[1][index]
    if content["status"] != "done":
        raise Diverged(f"{given['file']}: {content['reason']}")
    if f"artefact_{name}" not in content:
        raise ValueError(f"{given['file']}: slice {index} holds no {name}; name a result of a method that makes one")
    return torch.from_numpy(content[f"artefact_{name}"])


def _blamed(error, files):
    """The file of the input that a method finds fault with, to stand ahead of what it says."""
    return next((f"{file}: " for name, file in files.items() if str(error).startswith(f"inputs.{name}: ")), "")


def _model(file, device):
    """A learnt model of a TorchScript file, as it was saved."""
    try:
        return torch.jit.load(file, map_location=device).eval()
    except RuntimeError as error:
        raise ValueError(f"{file}: no TorchScript file that this version of torch reads ({str(error).splitlines()[0]})") from None


def _same_kind(name, image, A, real_will_do=False):
    """ValueError for an image of another modality: of a complex one, half would be lost where the operator takes real ones."""
    if image.is_complex() != A.complex and not (A.complex and real_will_do):
        of = ["real (CT)", "complex (MRI)"]
        needed = f"{of[A.complex]}; give one of the same modality"
        raise ValueError(f"{name}: found an image that is {of[image.is_complex()]}, needed: {needed}")


def _device_name(device):
    return torch.cuda.get_device_name() if device.type == "cuda" else "cpu"


def _memory(device):
    """Peak memory in MB: of the device, or of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)
