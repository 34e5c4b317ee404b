"""Who may import whom, what a plug-in's file must say, what a rule may hold: read from the sources, nothing is run."""

import ast
import re
from functools import cache
from pathlib import Path
from typing import get_args

import pytest

from dipline import registry, study

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "dipline"
MODULES = {
    ".".join(p.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): p
    for p in PACKAGE.rglob("*.py")
}
PLUGIN_FOLDERS = sorted({folder for folders in registry.FOLDERS.values() for folder in folders})
PLUGINS = [
    (folder, p)
    for folder in PLUGIN_FOLDERS
    for p in sorted((PACKAGE / folder).glob("*.py"))
    if p.stem not in registry.SHARED
]
CLASSES = {"regularised", "early stopping", "re-parameterised", "pre-trained", "classical"}
RULES = sorted((ROOT / "workflow" / "rules").glob("*.smk"))


@cache
def tree(path):
    return ast.parse(path.read_text())


def statements(path, late):
    """Import statements of a file; ``late``: those inside functions as well."""
    if late:
        return [n for n in ast.walk(tree(path)) if isinstance(n, ast.Import | ast.ImportFrom)]
    found, todo = [], list(tree(path).body)
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Import | ast.ImportFrom):
            found.append(node)
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            todo += [n for n in ast.iter_child_nodes(node) if isinstance(n, ast.stmt)]
    return found


def imports(path, late=True):
    """Full names of the modules that a file imports; of our own package, down to the module."""
    names = set()
    for node in statements(path, late):
        if isinstance(node, ast.Import):
            names |= {a.name for a in node.names}
            continue
        assert not node.level, f"{path}: a relative import; write the full name"
        for a in node.names:
            inner = f"{node.module}.{a.name}"
            names.add(inner if inner in MODULES else node.module)
    return names


def ours(path, late=True):
    """Our own modules among the imports, without the prefix ``dipline.``."""
    return {n.removeprefix("dipline.") for n in imports(path, late) if n.startswith("dipline.")}


@cache
def reached(module):
    """Every module, foreign ones included, that importing a module of ours imports (late imports aside)."""
    seen, todo = set(), [module]
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        seen.add(name)
        if name in MODULES:
            todo += imports(MODULES[name], late=False)
    return seen


def files(folder):
    return sorted((PACKAGE / folder).glob("*.py"))


def ids(values):
    return [f"{folder}/{p.stem}" for folder, p in values]


# ---------------------------------------------------------------- the walk itself


def test_the_walk_sees_imports_of_every_form(tmp_path):
    """Guards the tests below against a walk that sees nothing."""
    file = tmp_path / "x.py"
    file.write_text(
        "import torch.nn\nfrom dipline.methods import base, vanilla\nfrom dipline.loop import fit\n"
        "if True:\n    import sigpy as sp\n"
        "def f():\n    from dipline import score\n"
    )
    assert imports(file) == {
        "torch.nn",
        "dipline.methods.base",
        "dipline.methods.vanilla",
        "dipline.loop",
        "sigpy",
        "dipline.score",
    }
    assert "dipline.score" not in imports(file, late=False) and "sigpy" in imports(file, late=False)
    assert "torch" in reached("dipline.loop") and len(MODULES) > 40


# ---------------------------------------------------------------- who may import whom (design section 3)


@pytest.mark.parametrize("folder, path", PLUGINS, ids=ids(PLUGINS))
def test_plugins_never_import_their_siblings(folder, path):
    siblings = {f"{folder}.{p.stem}" for p in files(folder)} - {f"{folder}.{s}" for s in registry.SHARED}
    assert not ours(path) & siblings


@pytest.mark.parametrize(
    "folder, allowed",
    [
        ("methods", {"methods.base", "methods.denoisers", "methods.penalties", "methods.subnetwork", "physics.base"}),
        ("baselines", {"baselines.base", "methods.base", "methods.denoisers", "methods.penalties", "physics.base"}),
        ("networks", {"networks.base", "networks.resample"}),
        ("stopping", {"stopping.base"}),
        ("physics", {"physics.base", "physics.filters", "physics.matrix", "physics.sampled", "acquire.views", "hounsfield"}),
        ("readers", {"readers.base", "readers.hdf5", "readers.dicom_file", "readers.dicom_series", "readers.personal"}),
        ("acquire", {"acquire.masks"}),
        ("calibrate", {"acquire.masks"}),
    ],
)
def test_folders_import_their_base_alone(folder, allowed):
    assert files(folder)
    for path in files(folder):
        assert ours(path) <= allowed, f"{path}: {ours(path) - allowed}"


MAY = {  # module: what it may import of ours; plug-ins are loaded through the registry
    "registry": set(),
    "metrics": set(),
    "store": set(),
    "cards": set(),
    "lease": set(),
    "study": {"registry", "faults", "acquisitions"},  # the last two late: they import the models
    "faults": {"acquisitions", "registry", "store", "study", "acquire.masks"},
    "acquisitions": {"study", "acquire.degrade", "acquire.masks", "acquire.views"},
    "links": {"readers.personal"},
    "index": {"links", "registry", "store", "study"},
    "inputs": {"registry", "study"},
    "plan": {"faults", "index", "inputs", "links", "measure_mri", "registry", "study"},
    "bundle": {"plan", "registry", "report.provenance", "store", "study"},
    "preview": {"links", "registry", "store", "study"},
    "profile": {"registry", "store", "study"},
    "status": {"lease", "store"},
    "template": {"registry", "store", "study"},
    "trial": {"loop", "measure", "metrics", "registry", "report.panels", "report.style", "store", "study"},
    "hounsfield": set(),
    "measure": {"registry", "store", "measure_mri", "measure_ct", "measure_image"},
    "measure_mri": {"acquire.masks", "acquire.noise", "calibrate.espirit", "readers.cfl", "store"},
    "measure_image": {"acquire.degrade", "acquire.noise"},
    "measure_ct": {"acquire.noise", "acquire.views", "hounsfield"},
    "loop": {"recorded", "registry", "methods.base", "methods.penalties", "stopping.base"},
    "recorded": set(),
    "resume": {"lease", "store", "loop"},
    "blocks": {"loop", "physics.joint", "registry", "resume", "store", "study"},
    "score": {"metrics", "registry", "store"},
}


@pytest.mark.parametrize("module", MAY)
def test_modules_import_what_they_may(module):
    found = ours(PACKAGE / f"{module}.py")
    assert found <= MAY[module], f"{module} imports {found - MAY[module]}"


def test_no_module_imports_itself_in_the_end():
    for module in MODULES:
        assert not any(module in reached(name) for name in imports(MODULES[module], late=False)), module


def test_every_module_has_its_rule():
    free = {"cli", "export", "export_dicom", "__init__", "__main__"}  # the command line may import everything
    assert {p.stem for p in PACKAGE.glob("*.py")} - free == set(MAY)


LIGHT = ["study", "cards", "faults", "acquisitions", "index", "inputs", "registry", "store", "plan", "preview", "profile", "cli", "measure"]
LIGHT += ["lease", "status"]
LIGHT += [f"readers.{p.stem}" for p in files("readers")] + [f"report.{p.stem}" for p in files("report")]


@pytest.mark.parametrize("module", [m for m in LIGHT if not m.endswith("__init__")])
def test_no_torch_on_a_login_node(module):
    foreign = {n.split(".")[0] for n in reached(f"dipline.{module}")}
    assert not foreign & {"torch", "astra", "sigpy", "snakemake"}


@pytest.mark.parametrize("module", ["study", "faults", "index", "registry", "store", "plan", "preview", "profile", "cli"])
def test_no_pictures_on_a_login_node(module):
    assert not {n.split(".")[0] for n in reached(f"dipline.{module}")} & {
        "matplotlib",
        "skimage",
        "scipy",
        "pandas",
        "nibabel",
        "jinja2",
    }


def test_nobody_but_score_and_report_knows_the_metrics():
    users = {m for m, path in MODULES.items() if "metrics" in ours(path)}
    assert {m for m in users if not m.startswith("dipline.report")} == {"dipline.score", "dipline.trial"}


# ---------------------------------------------------------------- what a plug-in's file says


@pytest.mark.parametrize("folder, path", PLUGINS, ids=ids(PLUGINS))
def test_plugin_describes_itself(folder, path):
    kind = next(k for k, folders in registry.FOLDERS.items() if folder in folders)
    plugin = registry.get(kind, path.stem)
    assert plugin.path == path
    first = plugin.summary
    assert first.endswith(".") and len(first) <= 160, first
    assert kind == "physics" or isinstance(plugin.get("PARAMETERS"), dict), (
        "PARAMETERS must be a literal dict at the top of the file"
    )
    for name, default in plugin.parameters.items():
        assert isinstance(default, bool | int | float | str | list | tuple), f"{name}: {default!r}"
        assert not isinstance(default, tuple) or len(default) > 1, f"{name}: a tuple lists the allowed values"
    values, problems = registry.check_parameters(plugin, plugin.defaults())
    assert not problems and values == plugin.defaults()


@pytest.mark.parametrize("name", registry.plugins("methods"))
def test_method_says_its_class_and_its_paper(name):
    plugin = registry.get("methods", name)
    assert plugin.get("CLASS") in CLASSES
    assert isinstance(plugin.get("ITERATIONS"), int)
    assert set(plugin.get("TASKS", ())) <= {"mri", "ct", "image", *get_args(study.Degraded.model_fields["task"].annotation)}
    assert (plugin.path.parent.name == "baselines") == (plugin.get("CLASS") == "classical")
    if network := plugin.get("NETWORK"):
        ((chosen, params),) = network.items()
        assert not registry.check_parameters(registry.get("networks", chosen), params)[1]
    assert plugin.get("CITE") or name in ("zero_filled", "degraded"), "CITE names the keys of its papers"


@pytest.mark.parametrize("name", registry.plugins("stopping"))
def test_stop_rule_warns_of_methods_that_exist(name):
    assert set(registry.get("stopping", name).get("NOT_FOR", ())) <= set(registry.plugins("methods"))


@pytest.mark.parametrize("folder, path", PLUGINS, ids=ids(PLUGINS))
def test_citations_exist(folder, path):
    keys = re.findall(r"@\w+\{\s*([^,\s]+)", (PACKAGE / "report" / "references.bib").read_text())
    assert len(keys) == len(set(keys)) > 0
    kind = next(k for k, folders in registry.FOLDERS.items() if folder in folders)
    cited = registry.get(kind, path.stem).get("CITE", ())
    assert isinstance(cited, tuple) and set(cited) <= set(keys), set(cited) - set(keys)


def test_readers_say_what_they_give():
    for plugin in registry.plugins("readers").values():
        assert plugin.get("MODALITY") in ("mri", "ct", "image")
        assert plugin.get("READS_AS") in (None, *registry.plugins("readers"))


def test_names_do_not_hide_each_other():
    """Methods and baselines share one list: two files of one name would hide one."""
    for kind, folders in registry.FOLDERS.items():
        found = [p.stem for folder in folders for p in files(folder) if p.stem not in registry.SHARED]
        assert sorted(found) == sorted(registry.plugins(kind))


# ---------------------------------------------------------------- the workflow


def rules():
    """{name: text} of every rule."""
    found = {}
    for file in RULES:
        text = file.read_text()
        starts = [m.start() for m in re.finditer(r"(?m)^(use )?rule ", text)] + [len(text)]
        for a, b in zip(starts, starts[1:], strict=False):
            if name := re.match(r"rule (\w+):", text[a:]):  # a `use rule` has the command of the rule that it names
                found[name.group(1)] = text[a:b]
    return found


def directives(text):
    """{directive: its lines} of a rule, in order."""
    parts = re.split(r"(?m)^    (\w+):", text)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


ORDER = ["input", "output", "log", "benchmark", "params", "wildcard_constraints", "threads", "resources", "conda", "shell"]


def test_sizes():
    assert len((ROOT / "Snakefile").read_text().splitlines()) <= 50
    for file in RULES:
        assert len(file.read_text().splitlines()) <= 110, file
    assert len(RULES) == 5 and len(rules()) == 11


@pytest.mark.parametrize("name", rules())
def test_rule_is_one_readable_command(name):
    found = directives(rules()[name])
    assert [d for d in ORDER if d in found] == list(found), (
        "directives in their order, and no others (no run, script, wrapper, retries)"
    )
    assert {"output", "log", "resources", "conda", "shell"} <= set(found)
    command = "".join(re.findall(r'"([^"]*)"', found["shell"]))
    assert re.match(rf"exec python -m dipline {name.split('_')[0]} .*> \{{+log\}}+ 2>&1$", command), command
    assert "params" in found, "what a result depends on, so that Snakemake runs it again when that changes"


@pytest.mark.parametrize("file", RULES, ids=lambda f: f.stem)
def test_rules_hold_no_logic(file):
    text = file.read_text()
    if file.stem == "common":
        return
    assert not re.search(r"(?m)^\s*(def|if|else|while|import|from|try|with|class)\b", text)
    for line in text.splitlines():
        assert "lambda" not in line or len(line) <= 120
    assert not re.search(r"(?m)^(rule|checkpoint) \w+:\n(?!    )", text)


def test_reconstruct_sees_no_reference():
    """Promise 1: the rule that reconstructs names no file of truth, and neither does the command it runs."""
    text = rules()["reconstruct"]
    assert "reference" not in text and "truth" not in text and "heldout" not in text and "scan" not in text
    for module in ("blocks", "loop", "resume"):
        assert "reference(" not in (PACKAGE / f"{module}.py").read_text()


def test_the_workflow_imports_the_plan_alone():
    found = set()
    for file in [ROOT / "Snakefile", *RULES]:
        found |= set(re.findall(r"(?m)^\s*(?:from|import) (dipline[\w.]*)", file.read_text()))
        for module, names in re.findall(r"(?m)^\s*from (dipline) import (.*)$", file.read_text()):
            found |= {f"{module}.{n.split(' as ')[0].strip()}" for n in names.split(",")} - {module}
    assert found - {"dipline"} <= {"dipline.plan", "dipline.study", "dipline.registry"} and "dipline.plan" in found


def test_every_verb_of_the_rules_is_in_the_command_line():
    from dipline import cli

    verbs = re.findall(r"dipline (\w+)", "".join(directives(text)["shell"] for text in rules().values()))
    choices = next(a for a in cli.parser()._actions if a.dest == "verb").choices
    assert set(verbs) <= set(choices) and len(verbs) == len(rules())


# ---------------------------------------------------------------- hygiene


SOURCES = [*MODULES.values(), ROOT / "Snakefile", *RULES, *(ROOT / "config").rglob("*.yaml")]


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_sources_name_no_machine(path):
    """No absolute path of somebody's machine, no leftover."""
    text = path.read_text()
    assert not re.search(r"/(home|work|root|Users|mnt|scratch)/", text)
    assert not re.search(r"\b(TODO|FIXME|XXX|breakpoint\(\)|print\(f?\"DEBUG)", text)


def test_the_folder_of_links_has_one_name():
    """A reader had the name once more: whoever changed it would have had names of persons in messages again."""
    found = [m for m, p in MODULES.items() if any(isinstance(n, ast.Constant) and n.value == ".scans" for n in ast.walk(tree(p)))]
    assert found == ["dipline.readers.personal"]


def test_every_module_has_a_docstring():
    for path in MODULES.values():
        assert path.stem in ("__init__", "__main__") or ast.get_docstring(tree(path)), path
