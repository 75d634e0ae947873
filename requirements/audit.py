"""constraints.txt → known vulnerabilities, by pip-audit: 1 where one is known, 0 where none is or nobody could be asked, which is said.

`make checks` runs it as the last check: no check may fail for want of a network.
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

CONSTRAINTS = Path(__file__).parent.parent / "constraints.txt"


def audit(program: str, timeout: float = 300) -> int:
    """Run pip-audit over the versions of constraints.txt and say what came of it.

    Args:
        program: path of pip-audit.
        timeout: seconds after which it is given up.
    """
    options = ("--requirement", str(CONSTRAINTS), "--no-deps", "--disable-pip", "--progress-spinner", "off", "--format", "json")
    try:
        ran = subprocess.run([program, *options], capture_output=True, text=True, timeout=timeout, check=False)
        packages = json.loads(ran.stdout)["dependencies"]
    except (OSError, subprocess.TimeoutExpired, ValueError, KeyError, TypeError) as error:
        print(f"not audited: pip-audit is not there or reached no index ({type(error).__name__}); run make audit where there is a network")
        return 0
    return report(packages)


def report(packages: Sequence[dict[str, object]]) -> int:
    """Print what pip-audit found.

    Args:
        packages: its `dependencies`: each with a name, and `vulns` or the reason why it was skipped, which pip-audit counts as no finding.
    """
    known = [(package, found) for package in packages for found in package.get("vulns") or ()]  # type: ignore[attr-defined]
    for package, found in known:
        print(f"{package['name']} {package['version']}: {found['id']}, mended in {', '.join(found['fix_versions']) or 'no release yet'}")
    skipped = [str(package["name"]) for package in packages if "skip_reason" in package]
    asked = len(packages) - len(skipped)
    print(f"audited {asked} of {len(packages)} packages: {len(known)} known vulnerabilities")
    if skipped:
        print(f"not audited: the index says nothing of {', '.join(skipped[:3])}{' and others' if len(skipped) > 3 else ''}")
    return 1 if known else 0


if __name__ == "__main__":
    sys.exit(audit(sys.argv[1]))
