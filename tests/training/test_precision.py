"""bfloat16 on a CPU that has no instructions for it."""

import csv
import platform
from pathlib import Path

import pytest
import torch
import yaml
from running import call, fit_arguments

from rope_gpt2.commands.devices import choose_device
from rope_gpt2.training import precision as rooms


@pytest.fixture
def without_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU of AVX2, as most laptops have it: what torch is asked says no."""
    monkeypatch.setattr(rooms.platform, "machine", lambda: "x86_64")
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(rooms.torch.cpu, name, lambda: False)


@pytest.fixture
def without_accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    """auto means the CPU."""
    monkeypatch.setattr(rooms.torch.accelerator, "is_available", lambda: False)


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists() or platform.machine() != "x86_64", reason="Linux on x86 lists what a CPU can do")
def test_bfloat16_is_found_where_the_kernel_lists_it():
    flags = next(line for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if line.startswith("flags")).split()
    assert rooms.has_bfloat16() == (torch.backends.mkldnn.is_available() and not {"avx512_bf16", "amx_tile"}.isdisjoint(flags))


@pytest.mark.parametrize("asked", ["bf16-mixed", "bf16-true", "bf16", "16-mixed", 16])
@pytest.mark.parametrize("accelerator", ["cpu", "auto"])
def test_a_cpu_without_bfloat16_computes_in_float32(without_bfloat16, without_accelerator, asked: str, accelerator: str):
    assert rooms.bearable_precision(asked, accelerator) == "32-true"
    assert choose_device("cpu", "auto") == ("cpu", "32-true")


def test_bfloat16_by_name_is_obeyed_with_a_line_about_its_speed(without_bfloat16, capsys):
    assert choose_device("cpu", "bf16-true") == ("cpu", "bf16-true")
    assert capsys.readouterr().err == (
        "--precision bf16-true: this CPU has no instructions for bfloat16 and is many times slower in it; --precision 32-true is faster\n"
    )
    choose_device("cpu", "32-true")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("asked", ["32-true", "16-true", "64-true", 32, None])
def test_other_precisions_are_kept_there(without_bfloat16, without_accelerator, asked: str | int | None):
    assert rooms.bearable_precision(asked, "auto") == asked


@pytest.mark.parametrize("accelerator", ["gpu", "cuda", "mps"])
def test_a_device_other_than_the_cpu_keeps_bfloat16(without_bfloat16, accelerator: str):
    assert rooms.bearable_precision("bf16-mixed", accelerator) == "bf16-mixed"


def test_auto_keeps_bfloat16_where_it_finds_a_gpu(without_bfloat16, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(rooms.torch.accelerator, "is_available", lambda: True)
    assert rooms.bearable_precision("bf16-mixed", "auto") == "bf16-mixed"


def test_a_cpu_with_bfloat16_keeps_it(monkeypatch: pytest.MonkeyPatch, without_accelerator):
    monkeypatch.setattr(rooms, "has_bfloat16", lambda: True)
    assert rooms.bearable_precision("bf16-mixed", "auto") == "bf16-mixed"


def test_a_fit_in_bfloat16_says_that_it_computes_in_float32_and_does(without_bfloat16, tmp_path: Path, capsys):
    def losses(folder: str, precision: str) -> list[str]:
        chosen = {"trainer.accelerator": "cpu", "trainer.precision": precision, "trainer.max_steps": "3", "trainer.log_every_n_steps": "1"}
        chosen["export.folder"] = str(tmp_path / folder / "pretrained")
        assert call(fit_arguments(tmp_path / folder, **{name.replace(".", "__"): value for name, value in chosen.items()})) == 0
        with (tmp_path / folder / "version_0" / "metrics.csv").open(encoding="utf-8") as file:
            return [row["train/loss"] for row in csv.DictReader(file) if row["train/loss"]]

    ours = losses("asked", "bf16-mixed")
    said = [line for line in capsys.readouterr().err.splitlines() if "bfloat16" in line]
    assert said == [
        "trainer.precision bf16-mixed: this CPU has no instructions for bfloat16 (AMX, AVX-512-BF16) and would be many times slower in it; "
        "computing in float32 (32-true)"
    ]
    config = yaml.safe_load((tmp_path / "asked" / "version_0" / "config.yaml").read_text(encoding="utf-8"))
    assert config["trainer"]["precision"] == "32-true"
    assert len(ours) == 3
    assert ours == losses("plain", "32-true")
    assert "bfloat16" not in capsys.readouterr().err


@pytest.mark.parametrize(
    "cast",
    [torch.Tensor.bfloat16, lambda numbers: numbers.to(torch.bfloat16), lambda numbers: numbers.to(dtype=torch.bfloat16, copy=True)],
    ids=["bfloat16()", "to(bfloat16)", "to(dtype=bfloat16)"],
)
def test_what_bfloat16_gives_is_a_float32_copy_for_the_time_being(cast):
    numbers = torch.rand(8)
    with rooms.Float32ForBfloat16():
        copied = cast(numbers)
        assert numbers.to(torch.float64).dtype == torch.float64
        assert torch.equal(copied, numbers)
        copied.zero_()
    assert copied.dtype == torch.float32
    assert numbers.any()
    assert numbers.bfloat16().dtype == torch.bfloat16
