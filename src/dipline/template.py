"""Files to begin with: a plug-in whose contract is filled in with something simple that works (``dipline new``)."""

import keyword
import re

from dipline import registry, store
from dipline.study import StudyError

KINDS = {"method": "methods", "network": "networks", "stopping": "stopping", "reader": "readers", "operator": "physics"}


def write(kind, name):
    """Write ``src/dipline/<folder>/<name>.py``; what to do next, in words. StudyError where the name cannot be."""
    file = registry.PACKAGE / KINDS[kind] / f"{name}.py"
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or keyword.iskeyword(name):
        raise StudyError([f"name: found {name!r}, allowed: small letters, digits and _, a letter first, as in my_{kind}"])
    if name in registry.plugins(KINDS[kind]) or file.exists():
        raise StudyError([f"name: there is a {kind} {name} already ({file}); take another name"])
    text = (registry.PACKAGE / "templates" / f"{kind}.txt").read_text()
    title = "".join(part.title() for part in name.split("_"))
    store.write_text(file, text.replace("CLASSNAME", title).replace("NAME", title, 1))
    tests = f"pytest tests/test_{KINDS[kind]}.py tests/test_architecture.py -k {name}"
    return f"{file} is written; edit it, then: {tests}{NEXT.get(kind, '').format(name)}"


NEXT = {
    "method": "\nquick look: dipline try {0} --iterations 300",
    "network": "\nquick look: dipline try vanilla --network {0} --iterations 300",
    "stopping": "\nquick look: dipline try vanilla --stop {0}",
}
