"""What is installed is what was tested, under licences that bind no user; and nothing is fetched that was not asked for."""

import ast
import importlib.util
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from running import ROOT
from without_network import two_runs

REQUIREMENTS = ROOT / "requirements"
MAKE = shutil.which("make")


def script(name: str) -> ModuleType:
    """A program of requirements/ as a module."""
    spec = importlib.util.spec_from_file_location(name, REQUIREMENTS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def versions(path: Path) -> dict[str, str]:
    """Name to version of a file of pinned requirements."""
    return {canonicalize_name(name): version for name, version in re.findall(r"^([\w.-]+)==([^\s\\;]+)", path.read_text(), re.MULTILINE)}


def test_every_version_that_is_tested_has_its_hashes_but_torch():
    hashed = versions(REQUIREMENTS / "hashes.txt")
    tested = versions(ROOT / "constraints.txt") | versions(REQUIREMENTS / "build.txt")
    assert {name: version for name, version in tested.items() if name != "torch"} == hashed
    for entry in re.split(r"\n(?=\S)", (REQUIREMENTS / "hashes.txt").read_text().split("\n", 2)[2]):
        assert re.fullmatch(r"\S+==\S+ \\(\n    --hash=sha256:[0-9a-f]{64}( \\)?)+\n?", entry), entry[:80]


def test_every_version_that_is_tested_is_one_that_pyproject_admits():
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    tested = versions(ROOT / "constraints.txt")
    for line in (*project["dependencies"], *project["optional-dependencies"]["dev"]):
        requirement = Requirement(line)
        assert requirement.specifier.contains(tested[canonicalize_name(requirement.name)]), line
    (lightning,) = [Requirement(line) for line in project["dependencies"] if line.startswith("lightning")]
    assert not any(lightning.specifier.contains(bad) for bad in ("2.6.2", "2.6.3"))  # compromised releases


@pytest.mark.skipif(MAKE is None, reason="make is not on this machine")
def test_make_install_checks_hashes_before_anything_of_a_package_runs():
    said = subprocess.run([MAKE, "-n", "-B", "install"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    installs = [line for line in said.splitlines() if "pip install" in line]
    assert "--require-hashes --no-deps --requirement requirements/hashes.txt" in installs[0]
    assert "--constraint constraints.txt --no-build-isolation" in installs[1]
    assert len(installs) == 2


def test_an_audit_fails_for_a_known_vulnerability_and_says_what_it_could_not_ask(capsys):
    audit = script("audit")
    good, unknown = {"name": "good", "version": "1", "vulns": []}, {"name": "unknown", "skip_reason": "not found"}
    bad = {"name": "bad", "version": "2", "vulns": [{"id": "CVE-1", "fix_versions": ["3"]}]}
    assert audit.report([good, bad, unknown]) == 1
    said = capsys.readouterr().out
    assert "bad 2: CVE-1, mended in 3" in said
    assert "audited 2 of 3 packages: 1 known vulnerabilities" in said
    assert "not audited: the index says nothing of unknown" in said
    assert audit.report([good]) == 0
    assert audit.audit("no-such-program") == 0
    assert audit.audit(shutil.which("false") or "false") == 0  # as pip-audit without a network: an error, and no findings
    assert capsys.readouterr().out.count("not audited: pip-audit is not there or reached no index") == 2


def test_the_licences_of_all_that_is_tested_are_listed_and_none_binds_a_user():
    licences = script("licences")
    page = (ROOT / "docs" / "licences.md").read_text()
    listed = {
        canonicalize_name(name): (version, said)
        for name, version, said in re.findall(r"^\| ([\w.-]+) \| (\S+) \| (.+) \|$", page, re.MULTILINE)
    }
    listed.pop("package")
    tested = versions(ROOT / "constraints.txt") | versions(REQUIREMENTS / "build.txt")
    assert {name: version.partition("+")[0] for name, (version, _) in listed.items()} == tested  # +cpu is a build
    assert not [name for name, (_, said) in listed.items() if said == "not said"]
    bound = licences.copyleft(licences.closure("rope-gpt2") - {"rope-gpt2"})
    assert [line for line in bound if not re.search(r"MPL[- ]2\.0", line)] == []  # MPL: of changed files of that package alone


def _calls(name: str) -> Iterator[tuple[str, dict[str, ast.expr]]]:
    """Where a function is called in the package, and its keywords."""
    for path in sorted((ROOT / "rope_gpt2").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(name):
                yield f"{path.name}:{node.lineno}", {word.arg: word.value for word in node.keywords if word.arg}


@pytest.mark.parametrize(
    ("function", "keyword", "value"),
    [("torch.load", "weights_only", True), (".from_pretrained", "trust_remote_code", False)],
)
def test_every_call_that_could_run_code_says_that_it_may_not(function: str, keyword: str, value: bool):
    found = dict(_calls(function))
    assert len(found) >= 3
    for place, words in found.items():
        assert isinstance(words.get(keyword), ast.Constant), place
        assert words[keyword].value is value, place


@pytest.mark.slow
def test_import_fit_predict_and_evaluate_use_no_network_unasked():
    two_runs()  # an error there is one here


def test_the_hook_that_shows_this_sees_a_connection():
    code = (
        "import sys; sys.path.insert(0, 'tests')\n"
        "import without_network as w; sys.addaudithook(w.refuse_network)\n"
        "import urllib.request, socket\n"
        "for use in (lambda: urllib.request.urlopen('http://127.0.0.1:9'), lambda: socket.create_connection(('127.0.0.1', 9))):\n"
        "    try: use()\n"
        "    except OSError: pass\n"
        "print(len(w.TRIED))"
    )
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert int(ran.stdout) >= 2


def test_every_test_that_the_documentation_names_is_there():
    named = set(re.findall(r"\b(test_\w+)(?!\w*\.py)\b", (ROOT / "docs" / "reliability.md").read_text()))
    files = {path.stem: path.read_text() for path in (ROOT / "tests").rglob("test_*.py")}
    defined = set(re.findall(r"^def (test_\w+)\(", "\n".join(files.values()), re.MULTILINE))
    assert named - defined - files.keys() == set()
