"""`dipline try`: every task can be had, what it says is measured, wrong words are told."""

import pytest
import torch

from dipline import cli, metrics, registry, trial
from dipline import study as studies
from dipline.study import StudyError

NET = "unet: {widths: [8, 16]}"


def test_every_task_of_a_photograph_can_be_tried():
    kinds = {"mri", "ct", *studies.Degraded.model_json_schema()["properties"]["task"]["enum"]}
    assert set(trial.TASKS) == kinds - {"blur_neural"}, "all but what needs a model of the user's"


@pytest.mark.parametrize("task", trial.TASKS)
def test_a_problem_of_every_task(tmp_path, task):
    """The operator's starting image is a bad picture of the truth, and none of anything else."""
    A, y, truth, head, inputs = trial.problem(task, tmp_path)
    start = A.view(A.init(y)).numpy()
    assert start.shape == truth.shape and bool(torch.isfinite(y).all())
    assert 4 < metrics.psnr(start, truth, head["range"]) < 32
    if task == "mri":
        prior = A.view(inputs["prior"]).numpy()
        assert metrics.psnr(prior, truth, head["range"]) < 30, "another contrast, not the truth"


def test_it_says_what_it_measured(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    cli.main(["try", "vanilla", "--task", "denoise", "--network", NET, "--params", "lr: 0.01", "--iterations", "30"])
    said = capsys.readouterr().out
    assert "start 20." in said and "stopped" in said and "(iteration 30)" in said and "ms an iteration" in said
    assert (tmp_path / "try_vanilla_denoise.png").stat().st_size > 10_000
    resolved = trial.checked({"method": "degraded"}, "denoise")
    found = trial.run(resolved, "denoise", 0, lambda: None, lambda line: None)
    assert found["psnr"]["stopped"] == pytest.approx(found["psnr"]["start"]), "the degraded image is where all begin"


def test_a_method_that_needs_a_prior_gets_one():
    resolved = trial.checked({"method": "ref_guided", "iterations": 3, "network": {"unet": {"widths": [4]}}}, "mri")
    assert trial.run(resolved, "mri", 0, lambda: None, lambda line: None)["result"].iterations == 3


@pytest.mark.parametrize("words, said", [
    (["vanila"], 'did you mean "vanilla"'), (["vanilla", "--task", "denoize"], 'did you mean "denoise"'),
    (["nlm", "--task", "ct"], "--task: found ct, allowed with nlm: denoise"), (["vanilla", "--params", "lrr: 1"], 'did you mean "lr"'),
    (["ref_guided", "--task", "ct"], "needs prior, which ct has not"), (["vanilla", "--network", "unett"], 'did you mean "unet"'),
])  # fmt: skip
def test_wrong_words(words, said, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(["try", *words])
    assert said in str(end.value)
    assert "━" not in capsys.readouterr().out, "no bar of something that never began"


def test_priors_are_all_that_a_trial_can_give():
    """A method that needs something else is refused before anything is made."""
    needing = [n for n, p in registry.plugins("methods").items() if set(p.get("INPUTS", ())) - {"prior"}]
    for name in needing:
        with pytest.raises(StudyError, match="write a study for it"):
            trial.checked({"method": name}, "mri")
