"""Every YAML is one that the command line takes."""

import pytest
from running import ROOT, call

CONFIGS = sorted(path.name for path in (ROOT / "configs").glob("*.yaml"))


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_is_parsed_and_printed_whole(name: str, capsys):
    subcommand = "predict" if name == "predict.yaml" else "fit"
    with pytest.raises(SystemExit) as ended:
        call([subcommand, "--config", f"configs/{name}", "--print_config"])
    assert ended.value.code == 0
    assert "n_embd:" in capsys.readouterr().out


def test_overlays_are_merged(capsys):
    with pytest.raises(SystemExit):
        call(["fit", "--config", "configs/sst2_mini.yaml", "--config", "configs/gpu.yaml", "--print_config"])
    printed = capsys.readouterr().out
    assert "accelerator: gpu" in printed
    assert "n_embd: 64" in printed
