"""Names of files and folders that tell who was scanned, or when: how they are known, and what stands in their place."""

import re
import unicodedata
from functools import cache
from itertools import count, product
from pathlib import Path

FOLDER = ".scans"  # in a study's results: holds the links whose names tell nothing (``links``)
MONTHS = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]
LONG = ["january", "february", "march", "april", "may", "june", "july", "august", "september", "october", "november", "december"]
FOREIGN = {"mrz": 3, "maerz": 3, "mai": 5, "sept": 9, "okt": 10, "dez": 12}  # the usual other spellings
PARTS = {
    "Y": r"(?:19|20)\d\d", "y": r"\d\d", "M": r"(?:0[1-9]|1[0-2])", "D": r"(?:0[1-9]|[12]\d|3[01])", "-": "[-_. ]",
    "m": r"(?:0?[1-9]|1[0-2])", "d": r"(?:0?[1-9]|[12]\d|3[01])", "~": "[-_. ]*", "N": f"(?:{'|'.join([*LONG, *FOREIGN, *MONTHS])})",
}  # fmt: skip
ORDERS = "YMD DMY MDY Y-m-d d-m-Y m-d-Y y-M-D D-M-y M-D-y d~N~Y d~N~y N~D~Y N~d-Y Y~N~d"  # with a year of two digits: separated
CLOCK = r"(?:[-_.T ]?(?:[01]\d|2[0-3])[-_.: ]?[0-5]\d(?:[-_.: ]?[0-5]\d(?:\.?\d{1,6})?)?)?"
A_DATE = "|".join("".join(PARTS[c] for c in order) for order in ORDERS.split())
MARK = re.compile(rf"\d+(?:\.\d+){{4,}}|(?<!\d)(?:{A_DATE}){CLOCK}(?!\d)", re.IGNORECASE)  # a UID or a date in a name


def plain(text):
    """Letters and digits alone, without case and accents: ``DOE^Zoë`` and ``doe_zoe`` are the same."""
    return "".join(c for c in unicodedata.normalize("NFKD", str(text)).casefold() if c.isalnum())


@cache
def spellings(date):
    """A date of a header (``20170312…``) as people write it, `plain`, from five characters on; nothing where it is none."""
    found = re.match(r"((?:\d\d){2})[-.]?(0[1-9]|1[0-2])[-.]?(\d\d)", date)
    if not found:
        return frozenset()
    (year, month, day), number = found.groups(), int(found[2])
    names = [MONTHS[number - 1], LONG[number - 1], *(name for name, n in FOREIGN.items() if n == number)]
    parts = product({day, str(int(day))}, {month, str(number), *names}, {year, year[2:]})
    written = (text for d, m, y in parts for text in (d + m + y, m + d + y, y + m + d))
    return frozenset(text for text in written if len(text) > 4)


def tells(name, words):
    """Whether a file's or folder's name holds one of a header's words (`plain`) on who and when."""
    bare = plain(name)
    return any(word == bare or (len(word) > 2 and word in bare) for word in words)


def private(name, words=()):
    """Whether a name tells, or looks like a date or UID."""
    return tells(name, words) or bool(MARK.search(name))


def shown(path, words):
    """The path as messages may show it: ``*`` for the parts that tell, and for dates and UIDs. A link of ours tells nothing."""
    if FOLDER in Path(path).parts:
        return Path(path)
    return Path(*("*" if tells(part, words) else MARK.sub("*", part) for part in Path(path).parts))


def named(groups):
    """{name: files} of pairs (name, files), in order; no name is given twice, and ``series_01`` stands for an empty one."""
    found, out = {}, {}
    for name, files in groups:
        found.setdefault(name, []).append(files)
    for name, volumes in sorted(found.items(), key=lambda item: (len(item[1]) > 1, item[0])):
        numbered = (f"{name}_{i}" if name else f"series_{i:02d}" for i in count(1))
        names = [name] if name and len(volumes) == 1 else (n for n in numbered if n not in out)
        for files, unique in zip(volumes, names, strict=False):
            out[unique] = files
    return dict(sorted(out.items()))
