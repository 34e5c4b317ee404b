"""The methods section of a study, written from what was resolved, and the papers behind it.

``methods_text`` says what was run, with every parameter that is not a default; ``write`` keeps it, with its numbered
references and their BibTeX entries, as ``CITATION.md``.
"""

import importlib.metadata
import json
import platform
import re
from functools import cache
from pathlib import Path

from dipline import __version__, registry, store
from dipline.hounsfield import MU_WATER
from dipline.report import provenance, statistics, style, tables
from dipline.study import WINDOWS

BIB = Path(__file__).with_name("references.bib")
FIXED = ("alkhouri2025survey", "snakemake")
MASKS = {
    "random": "random columns",
    "equispaced": "equispaced columns",
    "equispaced_fraction": "equispaced columns with adjusted spacing",
    "magic": "equispaced columns that use conjugate symmetry",
    "magic_fraction": "equispaced columns that use conjugate symmetry",
    "gaussian": "columns of Gaussian density",
    "gaussian_2d": "points of Gaussian density",
    "poisson": "a Poisson-disc pattern",
    "file": "a mask read from a file",
    "full": "all samples",
    "as_measured": "what the scanner measured",
}
DATA_TERMS = {"weighted": "rays weighted by their counts", "poisson": "Poisson likelihood of the counts"}
FASTMRI = {"random", "equispaced", "equispaced_fraction", "magic", "magic_fraction"}
ACCENTS = {r"{\"o}": "ö", r"{\"u}": "ü", r"{\"a}": "ä", r"{\c{c}}": "ç", r"\&": "&", "---": "–", "--": "–"}
PACKAGES = ("numpy", "scipy", "torch", "sigpy", "astra-toolbox", "scikit-image", "snakemake")


@cache
def entries():
    """{key: {"type", "raw", field: text}} of references.bib; fields are plain text."""
    found = {}
    for raw in re.findall(r"^@\w+\{.*?^\}", BIB.read_text(encoding="utf-8"), re.M | re.S):
        kind, key = re.match(r"@(\w+)\{([^,]+),", raw).groups()
        fields = {name.lower(): _plain(value) for name, value in re.findall(r"^\s+(\w+)\s*=\s*\{(.*)\},?$", raw, re.M)}
        found[key] = {"type": kind, "raw": raw, **fields}
    return found


def _plain(value):
    for code, letter in ACCENTS.items():
        value = value.replace(code, letter)
    return value.replace("{", "").replace("}", "")


def reference(key):
    """One reference as a line of text."""
    e = entries()[key]
    people = [
        " ".join([*(f"{n[0]}." for n in first.split()), last])
        for last, _, first in (p.partition(", ") for p in _people(e["author"]))
    ]
    many = len(people) > 6 or e["author"].endswith("and others")
    names = (
        f"{people[0]} et al."
        if many
        else ", ".join(people[:-1]) + " and " + people[-1]
        if len(people) > 1
        else people[0]
    )
    where = e.get("journal") or e.get("booktitle", "")
    numbers = (
        e.get("volume", "") + (f"({e['number']})" if "number" in e else "") + (f":{e['pages']}" if "pages" in e else "")
    )
    numbers = numbers if "volume" in e else numbers.replace(":", "pp. ")
    return " ".join(
        filter(
            None,
            [
                f"{names.rstrip('.')}.",
                f"{e['title']}.",
                f"{', '.join(filter(None, [where, numbers, e['year']]))}.",
                _doi(e),
            ],
        )
    )


def short(key):
    """One reference as it stands in a sentence: ``Alkhouri et al. 2024``."""
    e = entries()[key]
    last = [p.partition(", ")[0] for p in _people(e["author"])]
    many = len(last) > 2 or e["author"].endswith("and others")
    return f"{f'{last[0]} et al.' if many else ' and '.join(last)} {e['year']}"


def _people(authors):
    return [a for a in authors.split(" and ") if a != "others"]


def _doi(entry):
    return f"doi:{entry['doi']}" if "doi" in entry else ""


class Numbers:
    """Numbers for references in the order of their first mention."""

    def __init__(self):
        self.keys = []

    def __call__(self, *keys):
        for key in keys:
            if key not in entries():
                raise LookupError(f'references.bib holds no entry "{key}"{registry.nearest(key, entries())}')
            if key not in self.keys:
                self.keys.append(key)
        return f" [{', '.join(str(n) for n in sorted({self.keys.index(k) + 1 for k in keys}))}]" if keys else ""


def methods_text(plan, facts=None):
    """(paragraphs with [n] marks, keys of the references in that order); ``facts``: what ``study_provenance`` found."""
    number, facts = Numbers(), facts or provenance.study_provenance(plan)
    text = [_design(plan, number), *(_data(plan, d, number) for d in plan.study.datasets)]
    text += [_arms(plan, number), _scores(plan, number)]
    if papers := [k for k in dict.fromkeys(q.source for q in plan.study.published) if k in entries()]:
        text.append(f"Published numbers beside ours are those of their authors{number(*papers)}; none was computed here.")
    text.append(_software(facts, number))
    return text, number.keys


def _design(plan, number):
    study = plan.study
    seeds, volumes = len(study.seeds), sum(len(v) for v in plan.volumes.values())
    return (
        f"Untrained networks of the Deep Image Prior family{number('ulyanov2018', FIXED[0])} and classical "
        f"methods were compared on {style.count(volumes, 'volume')} "
        f"in {style.count(len(study.datasets), 'dataset')}. Reconstructions whose result depends on chance were "
        "repeated with "
        f"{style.count(seeds, 'random seed')} ({_list(study.seeds)}). No reconstruction was given a reference "
        "image of the scan it is scored on; "
        f"jobs were run with Snakemake{number(FIXED[1])}."
    )


def _list(items):
    items = [str(i) for i in items]
    return items[0] if len(items) == 1 else ", ".join(items[:-1]) + " and " + items[-1]


def _data(plan, name, number):
    d, modality = plan.study.datasets[name], plan.study.modality(name)
    counts = [len(v["chosen"]) for v in plan.volumes[name].values()]
    slices = (
        f"{min(counts)} to {max(counts)}" if counts and min(counts) != max(counts) else str(counts[0] if counts else 0)
    )
    left = sum(1 for dataset, _ in plan.problems if dataset == name)
    text = (
        f"Dataset {name}: {style.count(len(counts), 'volume')} ({KINDS[modality]}, reader {d.reader}), {slices} "
        f"{'slice' if slices == '1' else 'slices'} each"
    )
    text += (
        f"; {style.count(left, 'scan')} could not be used and {'is' if left == 1 else 'are'} listed as missing."
        if left
        else "."
    )
    simulated = any(v.get("simulated") for v in plan.volumes[name].values())
    if simulated:
        text += " The scans are synthetic: simulated patients written in the format that the reader reads."
    if modality == "ct":
        text += (
            f" Hounsfield units became attenuation (water {MU_WATER:g}/mm); line integrals and the forward operator of all arms "
            f"are those of the ASTRA toolbox{number('vanaarle2016')}, images to start from are filtered back-projections"
            f"{number('kak1988')}."
        )
    if modality == "mri":
        crop = {"readout": "oversampling along the readout was removed", "full": "the full field of view was kept",
                "image": "the fully sampled image was cropped before undersampling"}[d.crop]  # fmt: skip
        text += f" Of the k-space, {crop}."
        maps = {
            "espirit": "Coil sensitivities were estimated from the acquired samples alone by ESPIRiT",
            "full": "Coil sensitivities were estimated from the full data, which no real scan offers, by ESPIRiT",
            "given": "Coil sensitivities came with the data",
        }[d.maps.method]  # fmt: skip
        if d.maps.method != "given":
            maps += f"{number('uecker2014')} ({style.count(d.maps.sets, 'set')} of maps)"
        operator = registry.get("physics", "sense").get("CITE", ())
        text += f" {maps}; they enter the forward operator of all arms{number(*operator)}."
        text += (
            " Images are zero where no coil sees them (outside the support of the sensitivities), the reference is not; this "
            "changes PSNR."
        )
    return text + " " + " ".join(_acquisition(plan, name, acq, number) for acq in d.acquisitions)


def _acquisition(plan, dataset, acq, number):
    a = plan.study.acquisition(dataset, acq)
    said, kind = [], getattr(a, "mask", None)
    heads = [tables.attributes(plan.measurement(dataset, v, acq)) for v in plan.volumes[dataset]]
    if kind:
        said.append(MASKS.get(kind, kind) + (number("zbontar2018") if kind in FASTMRI else ""))
    said += tables.words(a, heads)
    if getattr(a, "acceleration", None):
        centre = getattr(a, "center_fraction", None)
        said.append(
            f"requested acceleration {a.acceleration:g}, centre fraction "
            f"{0.32 / a.acceleration if centre is None else centre:.3g}"
        )
    achieved = sorted(v for h in heads if (v := h.get("acceleration_achieved")))
    if achieved:
        low, high = f"{achieved[0]:.2f}", f"{achieved[-1]:.2f}"
        said.append(f"achieved acceleration {low if low == high else f'{low} to {high}'}")
    if getattr(a, "noise_snr", None) is not None:
        said.append(f"complex Gaussian noise added {a.noise_snr:g} dB below the mean power of the samples")
    if getattr(a, "coils", None):
        said.append(f"coils compressed to {a.coils}")
    if getattr(a, "holdout", None):
        samples = {"ct": "views", "image": "measured values"}.get(plan.study.modality(dataset), "acquired samples")
        said.append(f"{100 * a.holdout:g} % of the {samples} kept from all arms")
    return f"Acquisition {acq}: {', '.join(said) or 'as stored'}."


def _arms(plan, number):
    study = plan.study
    said = [f"{_arm(study, arm, number)}" for arm in study.arms]
    return f"Arms (parameters other than the defaults of dipline {__version__} are named). " + " ".join(said)


def _arm(study, name, number):
    arm, acqs = (
        study.arms[name],
        [(d, a) for d, dataset in study.datasets.items() if study.solves(name, d) for a in dataset.acquisitions],
    )
    method = registry.get("methods", arm.method)
    r = study.resolved(name, acqs[0][1] if acqs else None)
    parts = [f"{name}: {method.summary.rstrip('.')}{number(*method.get('CITE', ()))}"]
    parts += _changed(r["params"], method.defaults())
    for network, params in (r["network"] or {}).items():
        plugin = registry.get("networks", network)
        parts.append(
            f"network {network}{number(*plugin.get('CITE', ()))}" + _bracket(_changed(params, plugin.defaults()))
        )
    parts.append(
        style.count(r["iterations"], "iteration")
        + ("" if method.get("CLASS") == "classical" else " at most" if "fixed" not in r["stop"] else "")
    )
    for rule, params in r["stop"].items():
        plugin = registry.get("stopping", rule)
        if rule != "fixed":
            parts.append(
                f"stopped by {rule}{number(*plugin.get('CITE', ()))}" + _bracket(_changed(params, plugin.defaults()))
            )
    if r["average"]:
        parts.append(f"running average of the outputs with decay {r['average']:g}")
    if r["data_term"] != "least_squares":
        parts.append(f"data term: {DATA_TERMS[r['data_term']]}{number('sauer1993')}")
    if r["precondition"]:
        parts.append(f"preconditioned ({r['precondition']:g})")
    if r.get("schedule"):
        parts.append("learning rates on half a cosine to 0")
    for name, weight in r.get("penalty", {}).items():
        kind = "isotropic " * (name == "tv_isotropic")
        parts.append(f"{kind}total variation of the image added to the loss with weight {weight:g}{number('liu2019')}")
    watched = [w for rule in r["watch"] for w in rule]
    if watched:
        parts.append(
            "watched by "
            f"{_list(watched)}{number(*(c for w in watched for c in registry.get('stopping', w).get('CITE', ())))}"
        )
    for key, given in arm.inputs.items():
        parts.append(f"{key} from {given.dataset or given.arm or 'a file'}")
    for acq, over in arm.per_acquisition.items():
        parts.append(f"at {acq} {json.dumps(over, sort_keys=True)}")
    if not acqs:
        parts.append("not run on any dataset")
    return "; ".join(parts) + "."


def _changed(params, defaults):
    return [
        f"{key} = {value:g}" if isinstance(value, float) else f"{key} = {value}"
        for key, value in params.items()
        if value != defaults.get(key)
    ]


def _bracket(parts):
    return f" ({', '.join(parts)})" if parts else ""


def _scores(plan, number):
    kinds = {plan.study.modality(d) for d in plan.study.datasets}
    said = {kind: SCORES[kind](number) for kind in SCORES if kind in kinds}
    text = "".join(f"Scores{f' of {KINDS[kind]}' if len(said) > 1 else ''} are {words} " for kind, words in said.items())
    return text + (
        f"HFEN{number('ravishankar2011')} is ‖LoG(x) − LoG(ref)‖ / ‖LoG(ref)‖ with a 15 × 15 kernel, σ = 1.5. Two results of "
        "every run are reported and never mixed: stopped, the image that the arm hands over and that a user without a "
        "reference would get, and peak, the best of the stored iterates by PSNR, an oracle. The unit of statistics is the "
        "patient: the score of the volume, then the mean over seeds. Arms were compared in pairs by the median difference, the "
        f"matched-pairs rank-biserial correlation and, with {statistics.LEAST} patients or more, the two-sided Wilcoxon "
        f"signed-rank test{number('wilcoxon1945')} with Holm's correction{number('holm1979')} over all pairs of "
        "arms of a table. Spread over seeds is reported beside spread over patients."
    )


def _mri_scores(number):
    return (
        f"those of fastMRI's evaluation{number('zbontar2018')}: PSNR, SSIM{number('wang2004')} (7 × 7 window) and NMSE of the "
        "chosen slices of a volume against the reference, without rescaling the image, the range being the maximum over all "
        "slices of the reference."
    )


def _image_scores(number):
    return (
        f"PSNR over all pixels and colours and SSIM{number('wang2004')} (11 × 11 Gaussian window, σ = 1.5, mean over colours), both images "
        "cut off at black and white, whose distance is the range; after phase retrieval the image is first moved, turned by 180 degrees "
        "and signed such that it is nearest to the reference."
    )


def _ct_scores(number):
    low, high = (f"{v:g}".replace("-", "−") for v in WINDOWS["ct"]["40_400"])
    return (
        f"the RMSE in Hounsfield units (HU), PSNR and SSIM{number('wang2004')} (7 × 7 window) of the chosen slices of a volume, "
        "both images cut off at −1000 HU (air), the range being that of all slices of the reference; PSNR and SSIM again with "
        f"both images cut off at the soft-tissue window, {low} to {high} HU, which then is the range."
    )


def _software(facts, number):
    versions = {package: list(found) for package, found in facts["versions"].items()}
    for package in PACKAGES:
        if package not in versions:
            try:
                versions[package] = [importlib.metadata.version(package)]
            except importlib.metadata.PackageNotFoundError:
                continue
    listed = [f"{package} {' / '.join(v)}" for package, v in sorted(versions.items())]
    dipline, commits, pythons = (
        facts["dipline"] or [__version__],
        facts["commit"],
        facts["python"] or [platform.python_version()],
    )
    text = (
        f"Software: dipline {' / '.join(dipline)}"
        + (f" (commit {' / '.join(commits)})" if commits else "")
        + f", Python {' / '.join(pythons)}, {', '.join(listed)}"
    )
    text += f"; baselines use SigPy{number('ong2019')}" if "ong2019" in number.keys else ""
    devices = [f"{device}" for device in facts["device"]]
    return text + (f"; computed on {_list(devices)}." if devices else ".")


KINDS = {"mri": "MRI", "ct": "CT", "image": "photographs"}
SCORES = {"mri": _mri_scores, "ct": _ct_scores, "image": _image_scores}


def bibtex(keys):
    return "\n\n".join(entries()[key]["raw"] for key in keys)


def write(plan):
    """Write CITATION.md: methods text, references, BibTeX. Returns its path."""
    paragraphs, keys = methods_text(plan)
    lines = [f"# How to describe and cite the study {plan.study.study}", "", "## Methods", ""]
    lines += [line for p in paragraphs for line in (tables.md(p), "")]
    lines += [
        "## References",
        "",
        *(f"{i}. {reference(key)}" for i, key in enumerate(keys, 1)),
        "",
        "## BibTeX",
        "",
        "```bibtex",
        bibtex(keys),
        "```",
        "",
    ]
    out = plan.root / "CITATION.md"
    store.write_text(out, "\n".join(lines))
    return out
