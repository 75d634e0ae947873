"""fit, predict and evaluate of a tiny model in one process in which any use of the network is an error; and two such processes.

    python tests/without_network.py FOLDER

The folder then holds the run of fit (`fit/version_0`), `predictions.csv` and the run of evaluate (`run`).
"""

import functools
import os
import subprocess
import sys
import tempfile
from pathlib import Path

TRIED: list[str] = []  # what would have left this machine
_ON_NETWORK = ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto", "socket.sendmsg", "urllib.Request")
_FOLDERS = tempfile.TemporaryDirectory()


@functools.cache
def two_runs() -> tuple[Path, Path]:
    """The folders of two processes that did the same, with other hashes of strings and at the same time; run once for all tests.

    Raises:
        AssertionError: if a command failed, or the network was used.
    """
    folders = Path(_FOLDERS.name) / "first", Path(_FOLDERS.name) / "second"
    started = [
        subprocess.Popen(
            [sys.executable, __file__, str(folder)],
            cwd=Path(__file__).parent.parent,
            env={name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"} | {"PYTHONHASHSEED": str(seed)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for seed, folder in enumerate(folders, start=1)
    ]
    for process in started:
        text, _ = process.communicate(timeout=500)
        assert process.returncode == 0, text
    return folders


def refuse_network(event: str, arguments: tuple[object, ...]) -> None:
    """An audit hook: it sees every use of Python's sockets, and cannot be taken out again."""
    if event in _ON_NETWORK:
        TRIED.append(f"{event} {arguments[1:]}")
        raise ConnectionRefusedError(f"{event}: no network here")


def main(folder: Path) -> int:
    """0 where all three commands went well and nothing tried to leave, not even in vain."""
    sys.addaudithook(refuse_network)
    from running import fit_arguments

    from rope_gpt2.commands.main import main as command

    last = folder / "fit" / "version_0" / "checkpoints" / "last.ckpt"
    predict = ["predict", "--config", "configs/predict.yaml", "--data.seeds", "1", "--ckpt_path", str(last)]
    grid = ["--shots", "0", "2", "--seeds", "2", "--limit", "60"]
    codes = [
        command(fit_arguments(folder / "fit", trainer__max_epochs="1")),
        command([*predict, "--predictions.output", str(folder / "predictions.csv")]),
        command(["evaluate", "--checkpoint", str(last), *grid, "--output", str(folder / "run")]),
    ]
    print(f"exit codes {codes}, uses of the network {TRIED}")
    return int(any(codes) or bool(TRIED))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
