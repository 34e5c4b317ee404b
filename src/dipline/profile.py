"""A profile for a scheduler: the commented template in ``config/`` with the words of a site filled in."""

import json
import os
import re
from pathlib import Path

from dipline import registry, store
from dipline.study import StudyError

TEMPLATES = registry.PACKAGE.parent.parent / "config"
LINE = re.compile(r"^( *)(?:# )?([\w-]+): (.*?)( +)# ((?:no )?--[\w-]+)(.*)$")
FORMS = {  # option: what it may be
    "--partition": (r"[\w.,-]+", "a name, as in `sinfo -s`, or several with commas"),
    "--cpu-partition": (r"[\w.,-]+", "a name, as in `sinfo -s`, or several with commas"),
    "--account": (r"[\w.-]+", "a name, as in `sacctmgr show associations user=$USER format=account`"),
    "--qos": (r"[\w.-]+", "a name, as in `sacctmgr show qos format=name`"),
    "--constraint": (r"[\w.&|*()\[\]-]+", "features of nodes, as in `sinfo -o %f`"),
    "--gres": (r"\w+(:[\w.]+)?:[1-9]\d*", "as in gpu:1 or gpu:a100:1"),
    "--logdir": (r"[^\s'\"#]+", "a folder"),
    "--jobs": (r"[1-9]\d*", "a number, 1 or more"),
}


def user_folder(scheduler):
    """Where Snakemake looks for profiles, whatever the working directory."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "snakemake" / scheduler


def write(scheduler, options, folder, force=False):
    """Write ``folder/config.yaml``; the file.

    Args:
        options: {"--partition": "gpu", …}; None: not given.

    Raises StudyError: values that cannot be, all of them at once; a profile that is there already, without ``force``.
    """
    given = {name: str(value) for name, value in options.items() if value is not None}
    faults = [
        f"{name}: found {value!r}, allowed: {FORMS[name][1]}"
        for name, value in given.items()
        if not re.fullmatch(FORMS[name][0], value)
    ]
    file = Path(folder) / "config.yaml"
    if file.exists() and not force:
        faults.append(f"{file}: there already; edit it, or add --force to write it anew")
    if faults:
        raise StudyError(faults)
    given.setdefault("--cpu-partition", given["--partition"])
    template = (TEMPLATES / scheduler / "config.yaml").read_text()
    store.write_text(file, filled(template, given))
    return file


def filled(template, given):
    """The template with the values of options in the lines that name them.

    A line of an option that is not given stays as it stands, most often as a comment; a line of ``no --option`` counts where
    the option is not given.
    """
    lines = []
    for line in template.splitlines():
        if match := LINE.match(line):
            indent, key, value, gap, option, more = match.groups()
            name = option.removeprefix("no ")
            if (name in given) != option.startswith("no "):
                text = f"{indent}{key}: {_value(value, given.get(name))}"
                line = f"{text:<{len(line) - len(f'# {option}{more}')}}# {option}{more}"
        lines.append(line)
    return "\n".join(lines) + "\n"


def _value(example, value):
    """``value`` in the form of the template's: a word for Snakemake's Python, a plain word; a number or switch stays the template's."""
    if value is None or example in ("0", "true"):
        return example
    return json.dumps(f"'{value}'") if example.startswith('"\'') else value
