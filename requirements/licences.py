"""Installed packages → docs/licences.md: what this package needs, under which licences, and whether any of them binds its users.

`make licences` writes it, from what stands in the metadata of the installed packages (PEP 639, else classifiers, else free text).
"""

import re
import sys
from collections.abc import Iterator, Sequence
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from packaging.markers import default_environment
from packaging.requirements import Requirement

OURS = "rope-gpt2"
TARGET = Path(__file__).parent.parent / "docs" / "licences.md"
COPYLEFT = re.compile(r"GPL|AGPL|EUPL|CeCILL|OSL|SSPL|\bMPL|Mozilla|\bEPL|Eclipse|CDDL", re.IGNORECASE)
HEAD = """\
# Licences of what is installed

Written by `make licences` from the metadata of the installed packages, with the CPU build of torch: the CUDA build brings NVIDIA's
libraries, under NVIDIA's own terms. This package is under Apache-2.0; it ships none of these, pip fetches them.

MPL-2.0 asks of who changes a file of that package, and passes the file on, to pass it on under MPL-2.0 as well; it asks nothing of
programs that use the package. Wheels may carry libraries of others: those of numpy and scipy libgfortran (GPL-3.0 with GCC's runtime
exception) and libquadmath (LGPL-2.1), those of scikit-learn and torch libgomp (as libgfortran). They are loaded as they come and
ask nothing of programs that use them; who passes the wheels on passes their licences on, which lie in them.
"""


def closure(name: str, extras: Sequence[str] = ()) -> set[str]:
    """Names of all installed packages that a package needs, itself included."""
    found: set[str] = set()
    waiting = [(name, tuple(extras))]
    seen: set[tuple[str, tuple[str, ...]]] = set()
    while waiting:
        one, asked = waiting.pop()
        if (one, asked) in seen:
            continue
        seen.add((one, asked))
        try:
            package = distribution(one)
        except PackageNotFoundError:
            continue  # asked for on other systems, or by an older Python
        found.add(package.metadata["Name"])
        waiting += [(needed.name, tuple(sorted(needed.extras))) for needed in _needs(package, asked)]
    return found


def _needs(package: Distribution, extras: Sequence[str]) -> Iterator[Requirement]:
    for line in package.requires or ():
        requirement = Requirement(line)
        places: list[dict[str, Any]] = [{**default_environment(), "extra": extra} for extra in ("", *extras)]
        if requirement.marker is None or any(requirement.marker.evaluate(place) for place in places):
            yield requirement


def licence_of(package: Distribution) -> str:
    """As its metadata says, in a line."""
    metadata = package.metadata
    if "License-Expression" in metadata:
        return metadata["License-Expression"]
    named = [line.rpartition(" :: ")[2] for line in metadata.get_all("Classifier") or () if line.startswith("License :: ")]
    named = [name for name in named if name != "OSI Approved"]
    if named:
        return "; ".join(named)
    text = " ".join(metadata["License"].split()) if "License" in metadata else ""
    return text if 0 < len(text) <= 60 else "not said"


def table(names: set[str]) -> str:
    """A row for each package."""
    packages = sorted((distribution(name) for name in names), key=lambda package: package.metadata["Name"].lower())
    rows = [f"| {package.metadata['Name']} | {package.version} | {licence_of(package)} |" for package in packages]
    return "\n".join(("| package | version | licence |", "|---|---|---|", *rows))


def copyleft(names: set[str]) -> list[str]:
    """Those whose licence asks something of who passes on changes or programs."""
    named = {name: licence_of(distribution(name)) for name in names}
    return sorted(f"{name} ({licence})" for name, licence in named.items() if COPYLEFT.search(licence))


def render() -> str:
    """The page."""
    needed = closure(OURS) - {OURS}
    for_work = closure(OURS, ["dev"]) - {OURS} - needed
    bound = {"to use it": copyleft(needed), "to work on it": copyleft(for_work)}
    said = [f"Copyleft among what is installed {what}: {', '.join(names) or 'none'}." for what, names in bound.items()]
    parts = (HEAD, "\n".join(said) + "\n", "## To use it\n", table(needed) + "\n", "## To work on it as well\n", table(for_work) + "\n")
    return "\n".join(parts)


if __name__ == "__main__":
    TARGET.write_text(render(), encoding="utf-8")
    sys.stdout.write(f"wrote {TARGET}\n")
