"""The profile for a scheduler: the template filled in, what Snakemake makes of it, what is refused."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import ROOT

from dipline import cli, profile
from dipline.study import StudyError

TEMPLATE = ROOT / "config" / "slurm" / "config.yaml"
GIVEN = {"--partition": "gpu", "--cpu-partition": "cpu", "--account": "lab"}


def written(folder, **options):
    """The profile as Snakemake reads it; the quotes within the quotes taken off, as its evaluation does."""
    given = {f"--{key.replace('_', '-')}": value for key, value in options.items()}
    content = yaml.safe_load(profile.write("slurm", given, folder).read_text())
    plain = lambda value: value.strip("'") if isinstance(value, str) else value  # noqa: E731
    words = {key: plain(value) for key, value in content["default-resources"].items()}
    rules = {rule: {k: plain(v) for k, v in values.items()} for rule, values in content["set-resources"].items()}
    return content, words, rules


def test_the_template_is_itself_a_profile():
    content = yaml.safe_load(TEMPLATE.read_text())
    assert content["executor"] == "slurm" and content["retries"] == 3
    assert content["slurm-requeue"] is True and content["slurm-status-command"] == "squeue"


def test_each_option_stands_in_its_place(tmp_path):
    content, words, rules = written(
        tmp_path, partition="gpu", cpu_partition="cpu", account="lab", qos="long", constraint="a100|h100", logdir="logs/jobs", jobs=7
    )
    assert words == {"slurm_partition": "cpu", "slurm_account": "lab", "qos": "long"}
    assert rules["reconstruct_gpu"]["slurm_partition"] == "gpu" and rules["reconstruct_gpu"]["constraint"] == "a100|h100"
    assert "slurm_partition" not in rules["reconstruct"], "without a card: to the nodes of all other jobs"
    assert content["slurm-logdir"] == "logs/jobs" and content["jobs"] == 7 and "slurm-no-account" not in content
    assert not {"mem_mb", "runtime"} & {key for values in (words, *rules.values()) for key in values}, "the rules know better"


def test_every_option_of_the_verb_stands_in_the_template(tmp_path):
    """A line whose comment no longer names its option would silently keep the template's word."""
    markers = {m.group(5).removeprefix("no ") for line in TEMPLATE.read_text().splitlines() if (m := profile.LINE.match(line))}
    assert markers == set(profile.FORMS)
    verb = next(a for a in cli.parser()._actions if a.dest == "verb").choices["profile"]
    options = {word for action in verb._actions for word in action.option_strings} - {"-h", "--help", "--out", "--user", "--force"}
    assert options == markers


def test_only_what_was_asked_for_differs_from_the_template(tmp_path):
    before = TEMPLATE.read_text().splitlines()
    after = profile.write("slurm", {"--partition": "gpu", "--cpu-partition": "cpu", "--jobs": 100}, tmp_path).read_text().splitlines()
    changed = [line for a, b in zip(before, after, strict=True) if a != b for line in (a, b)]
    assert changed and all("slurm-no-account: true" in line for line in changed)


def test_one_partition_for_all(tmp_path):
    _, words, rules = written(tmp_path, partition="all")
    assert words == {"slurm_partition": "all"} and rules["reconstruct_gpu"]["slurm_partition"] == "all"


@pytest.mark.parametrize("account", ["lab", None])
def test_clusters_without_accounting(tmp_path, account):
    content, words, _ = written(tmp_path, partition="gpu", account=account)
    assert words.get("slurm_account") == account
    assert content.get("slurm-no-account", False) == (account is None)


def test_gres_takes_the_place_of_gpus(tmp_path):
    _, _, rules = written(tmp_path, partition="gpu", gres="gpu:a100:1")
    assert (rules["reconstruct_gpu"]["gres"], rules["reconstruct_gpu"]["gpu"]) == ("gpu:a100:1", 0)
    assert "gres" not in rules["reconstruct"]


def test_all_faults_at_once_and_nothing_is_written(tmp_path):
    wrong = {
        "--partition": "gpu nodes", "--account": "a;b", "--gres": "gpu", "--jobs": "0", "--qos": "'x'", "--constraint": "a b",
        "--logdir": "a b", "--cpu-partition": "$CPU",
    }  # fmt: skip
    with pytest.raises(StudyError) as error:
        profile.write("slurm", wrong, tmp_path)
    assert [p.split(": ")[0] for p in error.value.problems] == list(wrong)
    assert all("found" in p and "allowed" in p for p in error.value.problems)
    assert not list(tmp_path.iterdir())


def test_a_profile_that_is_there_stays(tmp_path):
    file = profile.write("slurm", GIVEN, tmp_path)
    file.write_text("mine")
    with pytest.raises(StudyError, match="there already; edit it, or add --force"):
        profile.write("slurm", GIVEN, tmp_path)
    assert file.read_text() == "mine"
    profile.write("slurm", GIVEN, tmp_path, force=True)
    assert "executor: slurm" in file.read_text()


def test_the_verb_writes_where_snakemake_looks(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    line = ["profile", "slurm", "--partition", "gpu", "--account", "lab"]
    cli.main(line)
    cli.main([*line, "--user"])
    cli.main([*line, "--out", "elsewhere"])
    assert capsys.readouterr().out.count("snakemake --profile slurm ") == 2
    for file in ("slurm/config.yaml", "home/snakemake/slurm/config.yaml", "elsewhere/config.yaml"):
        assert yaml.safe_load((tmp_path / file).read_text())["executor"] == "slurm"
    with pytest.raises(SystemExit) as end:
        cli.main(line)
    assert "slurm/config.yaml: there already" in str(end.value.code)


STUDY = """
study: tiny
datasets:
  brain:
    reader: phantom
    params: {patients: 1, first_seed: 3, slices: 1, matrix: 32, coils: 4}
    acquisitions: {R2: {mask: equispaced, acceleration: 2, center_fraction: 0.4}}
arms: {tv: {method: tv, iterations: 5}, dip: {method: vanilla, iterations: 5}}
"""


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    """A function: {(rule, arm or ""): resources} that a dry run with the profile names for a study on a device."""
    folder = tmp_path_factory.mktemp("profile")
    # A partition of the name of a Python function: without the inner quotes it would become that function.
    profile.write("slurm", {"--partition": "any", "--cpu-partition": "all", "--gres": "gpu:1"}, folder / "gres")
    profile.write("slurm", {"--partition": "any", "--cpu-partition": "all"}, folder / "slurm")

    def ask(device, name="slurm"):
        (folder / "study.yaml").write_text(STUDY + f"device: {device}\n")
        snakemake = [str(Path(sys.executable).with_name("snakemake")), "--snakefile", str(ROOT / "Snakefile")]
        # The dry run needs no Slurm: an executor of this machine, with all else from the profile.
        line = [*snakemake, "--profile", name, "--executor", "local", "--configfile", "study.yaml", "-n", "--cores", "1"]
        run = subprocess.run(line, cwd=folder, capture_output=True, text=True)
        assert run.returncode == 0, run.stderr
        found, rule, arm = {}, "", ""
        for text in (line.strip() for line in (run.stdout + run.stderr).splitlines()):
            if text.startswith("rule "):
                rule, arm = text.split()[1].rstrip(":"), ""
            elif text.startswith("wildcards: ") and "arm=" in text:
                arm = text.split("arm=")[1].split(",")[0]
            elif text.startswith("resources: "):
                found[rule, arm] = dict(pair.split("=", 1) for pair in text.removeprefix("resources: ").split(", "))
        return found

    return ask


def test_networks_go_to_gpu_nodes_and_all_else_to_cpu_nodes(asked):
    found = asked("auto")
    on_cards = [key for key, resources in found.items() if resources.get("gpu") == "1"]
    assert on_cards == [("reconstruct_gpu", "dip")] and ("reconstruct", "tv") in found
    assert {key for key, resources in found.items() if resources.get("slurm_partition") == "any"} == set(on_cards)
    others = {r["slurm_partition"] for key, r in found.items() if key[0] not in ("reconstruct_gpu", "all")}
    assert others == {"all"} and len(found) >= 12
    assert found["reconstruct_gpu", "dip"]["slurm_extra"] == "--signal=TERM@60"


def test_every_job_says_what_memory_and_time_it_needs(asked):
    for (rule, _), resources in asked("auto").items():
        if rule != "all":
            assert int(resources["mem_mb"]) >= 1000 and int(resources["runtime"]) >= 10, rule


@pytest.mark.parametrize("name", ["slurm", "gres"])
def test_a_study_for_the_cpu_asks_for_no_card(asked, name):
    found = asked("cpu", name)
    assert ("reconstruct", "dip") in found
    for key, resources in found.items():
        assert "gpu" not in resources and "gres" not in resources and resources.get("slurm_partition", "all") == "all", key


def test_gres_alone_asks_where_the_site_wants_gres(asked):
    found = asked("auto", "gres")["reconstruct_gpu", "dip"]
    assert found["gres"] == "gpu:1" and found.get("gpu", "0") == "0"
