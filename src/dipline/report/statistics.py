"""Paired comparison of arms. The unit is the patient: a volume's value (over its slices), then the mean over seeds.

For every pair of arms (a, b) of one table, d_i = a_i - b_i over the patients that both have:

    median and range of d;   matched-pairs rank-biserial correlation r = (W+ - W-) / (W+ + W-)  (Kerby 2014)
    two-sided Wilcoxon signed-rank test (differences of zero dropped), Holm's correction over the pairs of the table

The test is made with six patients or more: with five, even the clearest result has p = 2/2^5 = 0.0625.
"""

from itertools import combinations

import numpy as np
import pandas as pd
from scipy import stats

from dipline.report import style

LEAST = 6  # patients
COLUMNS = [
    "dataset", "acq", "metric", "which", "arm_a", "arm_b", "patients",
    "median_difference", "smallest_difference", "largest_difference",
    "rank_biserial", "p", "p_holm", "better", "note",
]  # fmt: skip


def patients(metrics, dataset, acq, metric, which):
    """Mean over seeds of the volume values: DataFrame (volume x arm). Volumes with a failed slice have no value."""
    rows = metrics[
        (metrics["dataset"] == dataset) & (metrics["acq"] == acq) & (metrics["metric"] == metric)
        & (metrics["which"] == which) & (metrics["slice"] == "")
    ]  # fmt: skip
    rows = rows[np.isfinite(rows["value"].astype(float))]
    return rows.pivot_table(index="volume", columns="arm", values="value", aggfunc="mean", sort=False)


def holm(p):
    """Holm's step-down correction of a list of p values; NaN stays NaN and does not count."""
    p = np.asarray(p, float)
    corrected, largest = np.full(p.shape, np.nan), 0.0
    tested = np.flatnonzero(~np.isnan(p))
    for rank, i in enumerate(tested[np.argsort(p[tested], kind="stable")]):
        largest = max(largest, min(1.0, (len(tested) - rank) * p[i]))
        corrected[i] = largest
    return corrected


def rank_biserial(difference):
    """Matched-pairs rank-biserial correlation: 1 if all differences are positive, -1 if all are negative."""
    d = difference[difference != 0]
    if not len(d):
        return 0.0
    ranks = stats.rankdata(np.abs(d))
    return float((ranks[d > 0].sum() - ranks[d < 0].sum()) / ranks.sum())


def compare(metrics, dataset, acq, metric, which="stopped"):
    """All pairs of arms of one table, one row a pair."""
    table, rows = patients(metrics, dataset, acq, metric, which), []
    direction = style.metric(metric).better
    for a, b in combinations(table.columns, 2):
        d = (table[a] - table[b]).dropna().to_numpy()
        row = {
            "dataset": dataset,
            "acq": acq,
            "metric": metric,
            "which": which,
            "arm_a": a,
            "arm_b": b,
            "patients": len(d),
            "note": "",
        }
        if len(d):
            middle = float(np.median(d))
            row |= {
                "median_difference": middle,
                "smallest_difference": d.min(),
                "largest_difference": d.max(),
                "rank_biserial": rank_biserial(d),
            }
            row["better"] = "" if not middle * direction else a if middle * direction > 0 else b
        if len(d) < LEAST:
            row["note"] = f"{style.count(len(d), 'patient')}: no test with fewer than {LEAST}"
        else:
            row["p"] = float(stats.wilcoxon(d).pvalue) if np.any(d) else 1.0
        if 0 < len(d) < len(table):
            row["note"] = "; ".join(
                filter(
                    None,
                    [row["note"], f"{len(table) - len(d)} of {len(table)} patients left out: one arm has no value"],
                )
            )
        rows.append(row)
    rows = pd.DataFrame(rows, columns=COLUMNS)
    rows["p_holm"] = holm(rows["p"])
    return rows


def table(metrics):
    """All comparisons of a study: every metric that says which arm is better, of what the arms hand over."""
    keys = metrics.loc[metrics["which"] == "stopped", ["dataset", "acq", "metric"]].drop_duplicates()
    found = [compare(metrics, *key) for key in keys.itertuples(index=False) if style.metric(key[2]).better]
    found = [f for f in found if len(f)]
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame(columns=COLUMNS)


def smallest_p(n, pairs):
    """The smallest Holm-corrected p that n patients and so many pairs can reach."""
    return min(1.0, pairs * 2 / 2**n)
