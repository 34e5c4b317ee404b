"""What an arm is given: its measurement and what comes from elsewhere, and which jobs cannot have it.

An acquisition that suits no scan, a slice that nobody chose, or blocks that do not fit, are faults of the study. A scan
that does not allow an acquisition (undersampled already, too large, a centre too small for coil maps), or a prior whose
scan cannot be used or does not exist, costs the jobs that need it and no others. A scan that allows no acquisition at all
is left out as a whole.
"""

from dipline import registry
from dipline.study import local


def given(plan, job, block):
    """{name: {"kind", "file", "slice"}} of the inputs of one block of a planned job; ``kind``: measurement, recon or file."""
    found = {}
    for name, i in plan.study.arms[job.arm].inputs.items():
        d, v, acq = _source(plan, job, i)
        if i.file:
            kind, file = "file", str(local(i.file))
        elif i.arm is None:
            kind, file = "measurement", plan.measurement(d, v, acq)
        else:
            seeds = plan.study.arm_seeds(i.arm)
            other = job._replace(dataset=d, volume=v, acq=acq, arm=i.arm, seed=job.seed if job.seed in seeds else seeds[0])
            holder = _holder(plan, d, v, i.arm, _needed(i, plan.blocks(*job[:2], job.arm)[block]))
            kind, file = "recon", plan.recons(other)[holder]
        found[name] = {"kind": kind, "file": file, "slice": i.slice}
    return found


def _source(plan, job, i):
    """(dataset, volume, acquisition) that an input comes from."""
    d = i.dataset or job.dataset
    own = i.arm is not None and d == job.dataset
    acq = i.acq or (job.acq if own else next(iter(plan.study.datasets[d].acquisitions), None))
    return d, job.volume if i.volume == "same" else i.volume, acq


def _needed(i, slices):
    """Slices of an input that a block of slices takes."""
    return slices if i.slice == "same" else [i.slice]


def _holder(plan, dataset, volume, arm, slices):
    """Number of the block of another arm that holds all the slices, or None."""
    blocks = plan.blocks(dataset, volume, arm).values()
    return next((n for n, held in enumerate(blocks) if set(slices) <= set(held)), None)


def unmade(plan):
    """({(dataset, volume, acq): why that scan cannot be measured so}, faults of acquisitions that suit no scan at all)."""
    found, faults = {}, []
    for d, dataset in plan.study.datasets.items():
        for acq in dataset.acquisitions:
            wanted, lost = plan.study.acquisition(d, acq), {}
            for v, scan in plan.volumes[d].items():
                try:
                    wanted.try_on(scan, dataset)
                except ValueError as error:
                    lost[v] = str(error)
            if lost and len(lost) == len(plan.volumes[d]):
                v, reason = next(iter(lost.items()))
                also = f" and {len(lost) - 1} more" if len(lost) > 1 else ""
                faults.append(f"datasets.{d}.acquisitions.{acq}.{reason} ({v}{also})")
            else:
                found |= {(d, v, acq): f"acquisition {acq}: {reason}" for v, reason in lost.items()}
    return found, faults


def useless(plan):
    """{(dataset, volume): why} of scans that allow no acquisition; not where that is a fault of the study."""
    found = {}
    for d, dataset in plan.study.datasets.items():
        for v in plan.volumes[d]:
            reasons = [plan.unmade.get((d, v, acq)) for acq in dataset.acquisitions]
            if all(reasons):
                found[d, v] = "; ".join(reasons)
    return found


class Check:
    """Looks through the inputs of all jobs of a plan.

    Attributes:
        faults: of the study, one line each.
        unfed: {(dataset, volume, acq, arm): reason} of jobs that cannot have their inputs.
    """

    def __init__(self, plan):
        self.plan, self.unfed, self._told, self._seen, self.faults = plan, {}, {}, {}, []
        for job in plan.possible:
            if reason := self._reason(job):
                self.unfed[job[:4]] = reason
        self.faults += [f"{key}: {found[0]}{self._more(found)}; {advice}" for (key, advice), found in self._told.items()]

    @staticmethod
    def _more(found):
        n = len(dict.fromkeys(found)) - 1
        return f" ({n} more like this)" if n else ""

    def _reason(self, job):
        """Why a job cannot run, or nothing."""
        if reason := self.plan.unmade.get(job[:3]):
            return reason
        if job[:4] not in self._seen:
            self._seen[job[:4]] = ""
            inputs = self.plan.study.arms[job.arm].inputs.items()
            reasons = [self._lack(job, f"arms.{job.arm}.inputs.{name}", i) for name, i in inputs if i.file is None]
            self._seen[job[:4]] = next(filter(None, reasons), "")
        return self._seen[job[:4]]

    def _lack(self, job, key, i):
        """What an input lacks for one job, or nothing; faults of the study are noted."""
        plan, (d, v, acq) = self.plan, _source(self.plan, job, i)
        entry = plan.volumes[d].get(v)
        if entry is None and (d, v) in plan.problems:
            return f"{key}: {d}/{v} is left out ({plan.problems[d, v]})"
        if entry is None:
            known = {*plan.volumes[d], *(name for dataset, name in plan.problems if dataset == d)}
            if i.volume != "same":
                fault = f'dataset {d} has no volume "{v}"{registry.nearest(v, known)}'
                return self._fault(key, fault, "name one that it has")
            if not known & set(plan.volumes[job.dataset]):
                fault = f"dataset {d} has no volume of the name of any in {job.dataset}"
                return self._fault(key, fault, "name one by volume:")
            return f"{key}: dataset {d} has no volume {v}"
        for slices in plan.blocks(job.dataset, job.volume, job.arm).values():
            needed = _needed(i, slices)
            if max(needed) >= entry["slices"]:
                return f"{key}: {d}/{v} has slices 0 to {entry['slices'] - 1}, needed: {max(needed)}"
            if missing := sorted(set(needed) - set(entry["chosen"])):
                fault = f"slice {missing[0]} of {d}/{v} is not among its chosen slices"
                return self._fault(key, fault, f"widen slices: of dataset {d}")
            if i.arm and _holder(plan, d, v, i.arm, needed) is None:
                fault = f"the blocks of {job.arm} are larger than those of {i.arm}"
                return self._fault(key, fault, "give both the same block")
        if reason := self.plan.unmade.get((d, v, acq)):
            return f"{key}: {d}/{v} cannot be measured so ({reason})"
        upstream = i.arm and self._reason(job._replace(dataset=d, volume=v, acq=acq, arm=i.arm))
        return f"{key}: {i.arm} cannot run on {d}/{v}: {upstream}" if upstream else ""

    def _fault(self, key, found, advice):
        """Note a fault of the study, which is no reason to leave out a job."""
        self._told.setdefault((key, advice), []).append(found)
        return ""
