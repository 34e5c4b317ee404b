"""The command line: one verb for each rule, and a few for people.

Every verb imports what it needs, so that --help is quick.
"""

import argparse
import contextlib
import json
import re
import sys
from pathlib import Path

from dipline import __version__

INPUTS = '{"prior": {"kind": "measurement", "file": "other.h5", "slice": 0}}'


def parser():
    about = "Cohort studies of untrained image reconstruction on MRI and CT scans."
    p = argparse.ArgumentParser(prog="dipline", description=about, fromfile_prefix_chars="@")  # @list: a long series
    p.add_argument("--version", action="version", version=f"dipline {__version__}")
    verbs = p.add_subparsers(dest="verb", required=True, metavar="VERB")

    def verb(function, *arguments):
        name = function.__name__.rstrip("_").replace("_", "-")
        v = verbs.add_parser(name, help=function.__doc__.split("\n")[0], description=function.__doc__)
        for names, options in arguments:
            v.add_argument(*names, **options)
        v.set_defaults(run=function)

    def arg(*names, **options):
        return names, options

    out = arg("--out", required=True, help="file to write")
    spec = arg("--spec", help="what the workflow passes: everything resolved, as JSON")
    slices = arg("--slices", type=_numbers, required=True, help="indices, e.g. 4,5,9 or 3-7")
    files = arg("files", nargs="+", help="the files of one scan")
    volume, study = arg("--volume", required=True), arg("study", help="a study file, or its results folder")
    root = arg("root", help="results folder of a study")
    reader = arg("--reader", default="fastmri", help="by hand: see `dipline list readers`")

    verb(check, arg("study", help="a study file"),
         arg("--config", nargs="*", default=[], help="KEY=VALUE, as for snakemake"))  # fmt: skip
    verb(list_, arg("kind", choices=["methods", "networks", "stopping", "readers", "physics", "masks"]))
    verb(show, arg("file"))
    verb(status, study,
         arg("--watch", nargs="?", const=10.0, type=_seconds, metavar="SECONDS", help="look again, every 10 s or as said, until the end"),
         arg("--json", dest="as_json", action="store_true", help="for programs"))  # fmt: skip
    verb(try_, arg("method"), arg("--task", default="mri", help="mri, ct, denoise, inpaint, superres, deblur, phase …"),
         arg("--network", help="a network's name, or 'unet: {widths: [16, 32]}'"), arg("--stop", help="a stop rule, likewise"),
         arg("--params", help="'lr: 0.01, input: zero_filled'"), arg("--iterations", type=int),
         arg("--seed", type=int, default=0), arg("--out", help="picture to write; default: try_METHOD_TASK.png"))  # fmt: skip
    verb(new, arg("kind", choices=["method", "network", "stopping", "reader", "operator"]), arg("name"))
    verb(retry, study, arg("--dataset"), arg("--volume"), arg("--acq"), arg("--arm"))
    verb(report, study, arg("--page", action="store_true", help="the page alone, from the tables and pictures that are there"))
    verb(simulate, out, spec, arg("--reader", default="phantom", help="by hand: one that makes its own patients"),
         arg("--params", default="{}", help="by hand: 'slices: 2, matrix: 64'"))  # fmt: skip
    verb(reference, files, out, volume, slices, spec, reader)
    verb(measure, files, out, arg("--heldout", help="file for the held-out samples"),
         arg("--dataset", default="scan"), volume, arg("--acq", default="acq"), slices, spec, reader,
         arg("--acquisition", help="by hand: 'mask: random, acceleration: 4'"),
         arg("--crop", default="readout", choices=["readout", "full", "image"]))  # fmt: skip
    verb(reconstruct, arg("measurement"), out, arg("--snapshots", help="file for the snapshots"), slices, spec,
         arg("--arm", help="by hand: a method's name, or 'method: vanilla, iterations: 500'"),
         arg("--seed", type=int, default=0), arg("--state", help="folder for checkpoints"),
         arg("--inputs", type=_inputs, default={}, help=f"further inputs, as JSON: {INPUTS}"))  # fmt: skip
    verb(score, arg("recons", nargs="+"), arg("--reference", required=True), arg("--measurement", required=True),
         arg("--heldout", help="default: beside the measurement"), out,
         arg("--state", help="folder of states to remove"))  # fmt: skip
    for f in (tables, panels, curves, volumes):
        verb(f, root)
    verb(export_dicom, arg("nifti", help="a volume in HU: results/<study>/volumes/<arm>/<dataset>/<acq>/seed0/<volume>.nii.gz"),
         arg("--out", required=True, help="folder to write, new or empty"),
         arg("--description", default="dipline reconstruction", help="name of the series in a viewer"))  # fmt: skip
    verb(export_bundle, study, arg("--out", help="default: results/<study>/<study>_bundle.zip"),
         arg("--compare", metavar="BUNDLE.zip", help="write nothing; say which images differ from those of a bundle"))  # fmt: skip
    verb(profile, arg("scheduler", choices=["slurm"]),
         arg("--partition", required=True, help="for reconstructions on GPUs, e.g. gpu"),
         arg("--cpu-partition", help="for all other jobs; default: the same"),
         arg("--account", help="leave out on a cluster without accounting"), arg("--qos"),
         arg("--constraint", help="features of the GPU nodes, e.g. 'a100|h100'"),
         arg("--gres", nargs="?", const="gpu:1", help="ask for cards by --gres=gpu:1, or as named; default: by --gpus=1"),
         arg("--logdir", help="folder for Slurm's own logs; default: logs/slurm"),
         arg("--jobs", help="Slurm jobs at once; default: 100"),
         arg("--out", help="folder to write; default: slurm"),
         arg("--user", action="store_true", help="write to ~/.config/snakemake/slurm, for every working directory"),
         arg("--force", action="store_true", help="write over a profile that is there"))  # fmt: skip
    verb(schema)
    return p


def main(argv=None):
    args = vars(parser().parse_args(argv))
    args.pop("verb")
    run = args.pop("run")
    from dipline.registry import UnknownPlugin
    from dipline.store import AGAIN, Corrupt, Unwritable, disk_full
    from dipline.study import StudyError

    try:
        run(**args)
    except StudyError as error:
        sys.exit("\n".join([*error.problems, f"{len(error.problems)} problem(s); nothing was started"]))
    except (Corrupt, UnknownPlugin) as error:
        sys.exit(str(error))
    except FileNotFoundError as error:
        sys.exit(f"{error.filename}: no such file; correct the name")
    except BrokenPipeError:
        sys.exit(1)
    except OSError as error:
        if not (full := error if isinstance(error, Unwritable) else disk_full(error.filename or "output", error)):
            sys.exit(f"{error.filename or error}: {error.strerror}; correct that and run again")
        with contextlib.suppress(OSError):  # the log may lie on the same full disk
            print(full, file=sys.stderr, flush=True)
        sys.exit(AGAIN)
    except Exception as error:
        if type(error).__name__ in ("Interrupted", "Lost"):
            print(f"leaving: {error}; run again to continue", flush=True)
            sys.exit(AGAIN)
        raise


def _numbers(text):
    if not re.fullmatch(r"\d+(-\d+)?(,\d+(-\d+)?)*", text):
        raise argparse.ArgumentTypeError(f"found {text!r}, allowed: numbers of slices, e.g. 4,5,9 or 3-7")
    parts = [p.split("-") for p in text.split(",")]
    return [n for p in parts for n in range(int(p[0]), int(p[-1]) + 1)]


def _seconds(text):
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"found {text!r}, allowed: seconds, e.g. 10; name the study before --watch")
    return seconds


def _inputs(text):
    try:
        data = json.loads(text)
        sound = all(set(g) == {"kind", "file", "slice"} for g in data.values())
    except (ValueError, AttributeError, TypeError):
        sound = False
    if not sound:
        kinds = "kind: measurement, recon or file (.npy); slice: a number or \"same\""
        raise argparse.ArgumentTypeError(f"found {text!r}, allowed: JSON like {INPUTS}; {kinds}")
    return data


def _yaml(text, alone):
    """'key: value, key: value' as a dict; a word alone is the value of the key ``alone``."""
    import yaml

    from dipline.study import StudyError

    try:
        data = yaml.safe_load(text if text.lstrip().startswith("{") or ":" not in text else "{" + text + "}")
    except yaml.YAMLError:
        raise StudyError([f"found {text!r}, allowed: 'key: value, key: value' as in a study file"]) from None
    return data if isinstance(data, dict) else {alone: data}


# what the rules call


def simulate(out, spec, reader, params):
    """Write one synthetic patient in its true file format.

    By hand: dipline simulate --out scan_7.h5 --params 'slices: 2, matrix: 64'. The number in the name is the patient's seed.
    """
    from dipline import measure as m
    from dipline import registry
    from dipline.study import StudyError

    if spec is not None:
        return m.simulate(out, json.loads(spec))
    plugin = registry.get("readers", reader)
    if not plugin.get("READS_AS"):
        makers = [name for name, p in registry.plugins("readers").items() if p.get("READS_AS")]
        raise StudyError([f"reader: {reader} reads scans and makes none, allowed: {', '.join(makers)}"])
    values, problems = registry.check_parameters(plugin, _yaml(params, "parameter"))
    if problems:
        raise StudyError([f"params.{key}: {problem}" for key, problem in problems])
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    name = out.stem if re.search(r"_\d+$", out.stem) else f"{out.stem}_{values.get('first_seed', 1)}"
    plugin.load().write(name, out, **values)


def reference(files, out, volume, slices, spec, reader):
    """Write the truth of a fully sampled scan, which only scores and pictures read."""
    from dipline import measure as m

    m.reference(files, out, volume, slices, json.loads(spec) if spec else {"reader": reader, "params": {}})
    _reason(out, by_hand=spec is None)


def measure(files, out, heldout, dataset, volume, acq, slices, spec, reader, acquisition, crop):
    """Turn a scan into what an arm may see: mask, noise, coil maps.

    By hand: dipline measure scan.h5 --out m.h5 --volume scan --slices 0 --acquisition 'mask: random, acceleration: 4'
    """
    from dipline import measure as m
    from dipline import registry
    from dipline import study as s

    by_hand = spec is None
    if by_hand:
        modality = registry.get("readers", reader).get("MODALITY")
        alone = {"mri": "mask", "ct": "views", "image": "task"}[modality]
        acquired = s.checked_acquisition(_yaml(acquisition or "mask: as_measured", alone), modality)
        spec = {
            "reader": reader, "params": {}, "crop": crop, "maps": s.Maps().model_dump(), "physics": acquired.physics,
            "acq": acquired.model_dump(),
        }  # fmt: skip
    else:
        spec = json.loads(spec)
    m.measure(files, out, heldout or _beside(out, ".heldout.h5"), dataset, volume, acq, slices, spec)
    _reason(out, by_hand)


def _reason(file, by_hand):
    """Print why a file holds nothing; a person sees it in the status as well, the workflow goes on."""
    from dipline import store

    head = store.attributes(file)
    if head["status"] == "failed":
        print(f"{file}: failed: {head['reason']}", flush=True)
        if by_hand:
            sys.exit(1)


def reconstruct(measurement, out, snapshots, slices, spec, arm, seed, state, inputs):
    """Reconstruct slices of a measurement with one arm; resumes from a checkpoint where one lies in --state.

    By hand: dipline reconstruct m.h5 --out r.h5 --slices 0 --arm 'method: vanilla, iterations: 500'
    """
    from dipline import cards
    from dipline import study as s

    if spec is None:
        resolved = s.resolve(s.checked_arm(_yaml(arm or "vanilla", "method")))
        spec = json.dumps({"arm": resolved, "device": s.device("auto", resolved["method"]), "threads": 1})
    cards.claim(json.loads(spec)["device"])
    from dipline import blocks as r  # after the card is chosen: it imports torch

    snapshots, state = snapshots or _beside(out, ".snapshots.h5"), state or _beside(out, ".state")
    r.block(measurement, out, snapshots, slices, spec, seed, state, inputs)


def score(recons, reference, measurement, heldout, out, state):
    """Score the reconstructions of one volume against its reference and its held-out samples."""
    from dipline import score as s

    shots = [_beside(r, ".snapshots.h5") for r in recons]
    s.score(recons, shots, reference, measurement, heldout or _beside(measurement, ".heldout.h5"), out, state)


def _beside(path, suffix):
    return str(Path(path).with_suffix(suffix))


def tables(root):
    """Collect all scores into metrics.csv, failures.csv and tables/."""
    from dipline.plan import Plan
    from dipline.report import tables as t

    t.write(Plan.open(_root(root)))


def panels(root):
    """Draw reference, arms and error maps."""
    from dipline.plan import Plan
    from dipline.report import panels as p

    p.write(Plan.open(_root(root)))


def curves(root):
    """Draw PSNR over iterations with the chosen stops, and scores over what the acquisitions vary."""
    from dipline.plan import Plan
    from dipline.report import curves as c
    from dipline.report import sweeps

    plan = Plan.open(_root(root))
    c.write(plan)
    sweeps.write(plan)


def volumes(root):
    """Write the reconstructed volumes as NIfTI and HDF5."""
    from dipline import export
    from dipline.plan import Plan

    export.volumes(Plan.open(_root(root)))


# what people call


def _root(study):
    """The results folder of a study, given by its file or by the folder."""
    from dipline import study as s

    root = Path(study)
    if not root.is_dir():
        name = s.read(study).get("study")
        if not isinstance(name, str):
            raise s.StudyError([f"{study}: study: missing; write one, e.g. study: knee4x"])
        root = Path("results") / name
    if not (root / "study.resolved.yaml").is_file():
        raise s.StudyError([f"{study}: no results in {root}; run snakemake first, in the folder that holds results/"])
    return root


def report(study, page=False):
    """Build the report from what is on disk, complete or not."""
    from dipline.plan import Plan
    from dipline.report import curves, html, panels, sweeps, tables

    plan = Plan.open(_root(study))
    for part in () if page else (tables, panels, curves, sweeps):
        part.write(plan)
    print(html.write(plan))


def check(study, config):
    """Say everything that is wrong with a study and its scans, then what would run.

    Problems of the study end with status 1; unreadable scans are listed and left out.
    """
    import yaml

    from dipline import preview
    from dipline import study as s
    from dipline.plan import Plan

    data = s.read(study)
    for item in config:
        key, _, value = item.partition("=")
        data = s.merged(data, {key: yaml.safe_load(value)})
    print(preview.text(Plan.load(data, study)))


def list_(kind):
    """List plug-ins of a kind, one line each; methods with class, tasks, papers and parameters."""
    from dipline import preview

    print(preview.listing(kind))


def show(file):
    """Say what a measurement, reconstruction or reference file holds, provenance included."""
    from dipline import preview

    print(preview.of_file(file))


def status(study, watch, as_json):
    """Say how far a study is: what is done, what runs where, what failed and why.

    It reads what is on disk, and asks squeue where there is Slurm; Ctrl-C ends --watch.
    """
    from dipline import status as s
    from dipline.plan import Plan

    look = s.Survey(Plan.open(_root(study))).look
    show = json.dumps if as_json else s.text
    if watch is None:
        return print(show(look()))
    with contextlib.suppress(KeyboardInterrupt):
        s.watch(look, show, watch)


def try_(method, task, network, stop, params, iterations, seed, out):
    """Fit one method to one small embedded problem, with live progress: the quick loop of whoever invents a method.

    E.g.: dipline try vanilla --task denoise --params 'lr: 0.01' --iterations 800
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from dipline import trial

    arm = {"method": method, "iterations": iterations, "params": _yaml(params, "parameter") if params else {}}
    arm |= {key: _yaml(text, "") if ":" in text else text for key, text in (("network", network), ("stop", stop)) if text}
    resolved = trial.checked(arm, task)
    sys.stdout.reconfigure(line_buffering=True)  # a file or a pipe shows lines as they come, too
    print(f"{method}, {task}: {trial.size(task)} x {trial.size(task)} pixels, {resolved['iterations']} iterations")
    columns = TextColumn(f"{method}, {task}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns) as bar:
        steps = bar.add_task("", total=resolved["iterations"])
        found = trial.run(resolved, task, seed, lambda: bar.advance(steps), bar.console.print)
        bar.update(steps, completed=resolved["iterations"])
    file, psnr, r = out or f"try_{method}_{task}.png", found["psnr"], found["result"]
    trial.picture(found, f"{method}, {task}", file)
    print(
        f"start {psnr['start']:.2f} dB   stopped {psnr['stopped']:.2f} (iteration {r.chosen + 1})   peak {psnr['peak']:.2f}   "
        f"last {psnr['last']:.2f}\n{r.seconds:.1f} s, {1e3 * r.seconds / max(r.iterations, 1):.1f} ms an iteration   {file}"
    )


def new(kind, name):
    """Write the file of a new method, network, stop rule, reader or operator, its contract filled in with something simple."""
    from dipline import template

    print(template.write(kind, name))


def retry(study, dataset, volume, acq, arm):
    """Remove failed results, so that the next run makes those alone."""
    from dipline import preview
    from dipline.plan import Plan

    removed = preview.remove_failed(Plan.open(_root(study)), dataset, volume, acq, arm)
    print(f"{len(removed)} failed result(s) removed; run snakemake again" if removed else "nothing failed here")


def profile(scheduler, out, user, force, **options):
    """Write the profile that `snakemake --profile slurm` reads, with your cluster's words.

    E.g.: dipline profile slurm --partition gpu --cpu-partition cpu --account lab
    """
    from dipline import profile as p

    options = {f"--{key.replace('_', '-')}": value for key, value in options.items()}
    file = p.write(scheduler, options, out or (p.user_folder(scheduler) if user else scheduler), force)
    name = scheduler if user or not out else file.parent
    print(f"{file} is written; now: snakemake --profile {name} --configfile STUDY")


def export_dicom(nifti, out, description):
    """Write a reconstructed CT volume as a derived DICOM series, with new UIDs and nothing of the source.

    Slices without an image are left out; the others keep their numbers and places.
    """
    from dipline import export_dicom as e
    from dipline import study as s

    try:
        print(f"{len(e.from_nifti(nifti, out, description))} file(s) in {out}")
    except ValueError as error:
        raise s.StudyError([str(error)]) from None


def export_bundle(study, out, compare):
    """Write one zip to reproduce or publish a study, without scans and images; or compare the images with a bundle's.

    A path of the study that does not begin with a $VARIABLE is replaced. With --compare the status is 1 where an image differs.
    """
    from dipline import bundle
    from dipline.plan import Plan

    plan = Plan.open(_root(study))
    if compare:
        differ, lines = bundle.compare(plan, compare)
        print("\n".join(lines))
        sys.exit(1 if differ else 0)
    out = Path(out or plan.root / f"{plan.study.study}_bundle.zip")
    for caution in bundle.write(plan, out):
        print(f"ATTENTION: {caution}", file=sys.stderr)
    print(out)


def schema():
    """Print the JSON schema of study files (config/schema.json)."""
    from dipline import study as s

    print(json.dumps(s.schema(), indent=1))
