"""The README's commands run as they stand."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from running import ROOT, call

README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```bash\n(.*?)```", README, flags=re.DOTALL)
COMMANDS = [line.split("#")[0].strip() for block in BLOCKS for line in block.splitlines() if line.split("#")[0].strip()]
SCRIPTS = [command for command in COMMANDS if command.startswith(("python ", "rope-gpt2 "))]
# What needs SST-2, a GPU, or another command's result: its options are parsed to the end.
PARSED = [command for command in SCRIPTS if re.search(r"sst2|gpu |--ckpt_path", command)]
RUN = [command for command in SCRIPTS if command not in PARSED]
PROGRAMS = ("python evaluate.py", "python train.py", "rope-gpt2 convert to-gpt-neox")


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that looks like a checkout, in which the commands run one after another and find what those before them made."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("checkpoints", "configs", "data", "rope_gpt2", "rope_gpt2_command.py", "train.py", "evaluate.py"):
        (folder / name).symlink_to(ROOT / name)
    return folder


def test_the_readme_has_commands():
    assert {"make evaluate", "make test"} <= set(COMMANDS)
    assert len(RUN) >= 5


@pytest.mark.parametrize("command", [command for command in COMMANDS if command.startswith("make ")])
def test_a_make_command_is_known(command: str):
    assert subprocess.run([*shlex.split(command), "-n"], cwd=ROOT, capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize("command", [next(command for command in RUN if command.startswith(program)) for program in PROGRAMS])
def test_a_command_runs_in_a_process_of_its_own(command: str, checkout: Path):
    program, *arguments = shlex.split(command)
    start = [sys.executable] if program == "python" else [sys.executable, str(Path(sys.executable).with_name(program))]
    done = subprocess.run([*start, *arguments], cwd=checkout, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", RUN)
def test_a_command_runs(command: str, checkout: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """One after another in one process: importing torch anew for each would take longer than most of them."""
    monkeypatch.chdir(checkout)
    program, *arguments = shlex.split(command)
    script = "evaluate" if arguments[0] == "evaluate.py" else "train"
    try:
        code = call([script, *arguments[1:]] if program == "python" else arguments)
    except SystemExit as ended:  # of --help
        code = int(ended.code or 0)
    assert code == 0, capsys.readouterr().err


@pytest.mark.parametrize("command", PARSED)
def test_a_command_is_parsed(command: str, capsys):
    from rope_gpt2.commands.evaluate_options import build_parser

    script, *arguments = shlex.split(command)[1:]
    if script == "evaluate.py":
        assert build_parser().parse_args(arguments)
        return
    position = arguments.index("--ckpt_path") if "--ckpt_path" in arguments else None
    if position is not None:  # of a run that this test does not make
        del arguments[position : position + 2]
    with pytest.raises(SystemExit) as ended:
        call([*arguments, "--print_config"])
    assert ended.value.code == 0


def test_the_python_example_runs():
    (example,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    done = subprocess.run([sys.executable, "-c", example], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert "sentiment : " in done.stdout


def test_every_link_to_a_file_leads_somewhere():
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", README) if "://" not in link]
    assert links
    assert all((ROOT / link).exists() for link in links)


def test_every_config_stands_in_the_readme():
    assert all(path.name in README for path in (ROOT / "configs").glob("*.yaml"))
