"""The scale benchmark with studies that cost nothing: it counts what it says it counts."""

import scale


def test_plans_count_blocks(monkeypatch):
    monkeypatch.setattr(scale, "PLANS", [((1, 4, 1, 2), 2)])
    ((reconstructions, block, jobs, wall, cpu, memory),) = scale.plans()
    assert (reconstructions, block, jobs) == ("8", 2, "4") and float(cpu) > 0 and 50 < float(memory) < 1000 and float(wall) > 0


def test_the_largest_study_is_what_the_page_says():
    sizes = [volumes * slices * acquisitions * arms for (volumes, slices, acquisitions, arms), _ in scale.PLANS]
    assert min(sizes) == 100 and max(sizes) == 128_000 and len(scale.ARMS) == 10


def test_verdicts_follow_the_figures():
    rows = [("128,000", 1, "128,000", "181.0", "1", "3999")]
    text = "\n".join(scale.page(rows, 2.0, 2.5, [(1, "yes", "2", "3", "1", "0")]))
    assert "180 s: does not hold; at most 4000 MB: holds" in text
    assert "Both at most 6 s: holds; a Slurm job: does not hold" in text
    assert "Both at most 6 s: does not hold; a" in "\n".join(scale.page(rows, 3.0, 3.5, []))
