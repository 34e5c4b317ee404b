"""The study of `make methods` has every method and network; its table says what the numbers are."""

import methods
import pandas as pd
import pytest
import yaml

from dipline import registry
from dipline.plan import Plan
from dipline.study import split

STUDY = methods.common.ROOT / "config" / "studies" / "methods.yaml"
ARMS = yaml.safe_load(STUDY.read_text())["arms"].values()


@pytest.mark.parametrize("name", [n for n, p in registry.plugins("methods").items() if p.get("CLASS") != "classical"])
def test_every_method_has_an_arm_or_a_reason(name):
    assert any(arm["method"] == name for arm in ARMS) != (name in methods.WITHOUT), (
        "add an arm (one line) to config/studies/methods.yaml, or say in WITHOUT of tests/benchmarks/methods.py why there is none"
    )


@pytest.mark.parametrize("name", registry.plugins("networks"))
def test_every_network_has_an_arm_or_a_reason(name):
    used = [split(arm["network"])[0] for arm in ARMS if "network" in arm]
    assert (name in used) != (name in methods.WITHOUT), "an arm such as {method: vanilla, network: deep_decoder}, or a reason in WITHOUT"


def test_reasons_are_of_what_there_is():
    assert set(methods.WITHOUT) <= {*registry.plugins("methods"), *registry.plugins("networks")} and all(methods.WITHOUT.values())


PSNR = {
    ("brain", "R4"): {"zero_filled": 20.0, "vanilla": 25.0, "aseq": 19.5, "double_dip": 20.0},
    ("photo", "noise"): {"degraded": 20.0, "vanilla": 26.0, "aseq": 20.5},
}
SECONDS = {"vanilla": 5.0, "aseq": 4.0, "double_dip": 20.0, "zero_filled": 0.1, "degraded": 0.1}
ITERATIONS = {"vanilla": 500, "aseq": 200, "double_dip": 1000, "zero_filled": 1, "degraded": 1}


def test_table_and_losers(tmp_path, monkeypatch):
    """Cost: seconds of an iteration over those of vanilla, each a mean over seeds; who loses is said by name, a draw is no loss."""
    monkeypatch.chdir(tmp_path)
    plan = Plan.load(yaml.safe_load(STUDY.read_text()), STUDY)
    rows = []
    for (dataset, acq), arms in PSNR.items():
        for arm, psnr in arms.items():
            for seed in (0, 1):
                own = {"dataset": dataset, "acq": acq, "arm": arm, "seed": seed, "volume": "one", "slice": ""}
                apart = {"stopped": -0.5, "peak": 1, "last": -2}
                rows += [own | {"metric": "psnr", "which": which, "value": psnr + more + seed} for which, more in apart.items()]
                rows += [own | {"metric": "seconds", "which": "stopped", "value": SECONDS[arm] * (0.5 + seed)}]
                rows += [own | {"metric": "iterations", "which": "stopped", "value": ITERATIONS[arm]}]
    lines = methods.page(plan, pd.DataFrame(rows))
    assert "## photo, noise, all pixels, Gaussian noise of 25/255" in lines
    start = next(i for i, line in enumerate(lines) if line.startswith("## brain, R4"))
    cells = {line.split("|")[1].strip(): [c.strip() for c in line.split("|")[2:-1]] for line in lines[start + 2 : start + 8]}
    assert cells["arm"] == ["stopped", "peak", "last", "iterations", "seconds", "iteration / vanilla's"]
    assert cells["vanilla"] == ["25.00", "26.50", "23.50", "500", "5.0", "1.00"]
    assert cells["aseq"] == ["19.50", "21.00", "18.00", "200", "4.0", "2.00"] and cells["double_dip"][-1] == "2.00"
    closing = lines[lines.index("## Untrained arms that lose to zero-filled, FBP or the degraded image") + 2 :]
    assert closing == ["- one, aseq: -0.50 dB (R4, zero_filled)", ""]
    fine = pd.DataFrame(rows)
    fine.loc[fine.arm == "aseq", "value"] += 10
    assert methods.page(plan, fine)[-2:] == ["None.", ""]
