"""`src/benchmark.py`, as a user starts it: contenders in turn, whole runs, profile and JSON; a mistake is one line."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from PIL import Image
from runs import TRAIN, in_process
from torchvision import transforms
from torchvision.transforms import functional as transform

from ablation.benchmark import contenders as measuring
from ablation.benchmark.measure import bytes_per_step
from ablation.data import Images
from ablation.networks.resnet import Network


def test_the_benchmark_measures_in_turn_and_writes(tmp_path: Path) -> None:
    output, keras = tmp_path / "there" / "b.json", tmp_path / "keras"
    keras.write_text("#!/bin/sh\nwhile read -r _; do echo done; done\n")  # a Python whose Keras takes no time
    keras.chmod(0o700)
    small = "--device=cpu --threads=1 --batch-size=8 --rounds=2 --steps=1 --workers=1 --whole-runs=3"
    command = [sys.executable, str(TRAIN.with_name("benchmark.py")), *small.split(), f"--output={output}"]
    command += [f"--keras={keras}", "--busy=1"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert not re.search("USDT|gpuGetDeviceCount", done.stderr), "torch's profiler"
    assert "round 2 of 2" in done.stdout
    result = json.loads(output.read_text())
    assert list(result["contenders"]) == ["default", "reference", "usual script", "Keras notebook"]
    usual = result["contenders"]["usual script"]
    assert (usual["ratio"], usual["least"], usual["greatest"]) == (1, 1, 1)
    assert [len(rates) for rates in result["steps_per_second"].values()] == [2] * 4
    assert list(result["beside_busy_processes"]) == ["processes", "default", "Keras notebook"]
    assert result["contenders"]["Keras notebook"]["ratio"] > 10
    assert sum(one["percent"] for one in result["operations"].values()) == pytest.approx(100)
    assert result["operations"]["aten::convolution_backward"]["calls_per_step"] == 19, "layers of ResNet-20"
    assert (result["whole_runs"]["steps"], result["whole_runs"]["its steps alone"]["ratio"]) == (3, 1)
    assert result["whole_runs"]["run"]["ratio"] < 1


def test_ratios_are_taken_round_by_round() -> None:
    """A machine that is half as fast in the second round changes no ratio; a gang's step has the images of all."""
    rates = pd.DataFrame({"one": [4.0, 2.0, 4.0], "two at once": [3.0, 1.5, 2.0]})
    found = measuring.compared(rates, pd.Series([8, 16], list(rates)), 8 * rates["one"])
    assert found.loc["two at once", ["images_per_second", "ratio", "least", "greatest"]].tolist() == [32, 1.5, 1, 1.5]
    assert found.loc["one", "ms_per_step"] == 250


def test_the_usual_script_sees_torchvisions_images() -> None:
    images = Images(torch.arange(3 * 32 * 32).remainder(256).to(torch.uint8).view(1, 3, 32, 32), torch.tensor([7]))
    dataset = measuring.InMemory(images)
    dataset.transform = transforms.Compose(dataset.transform.transforms[2:])  # without the random ones
    image, label = dataset[0]
    original = transform.to_tensor(Image.fromarray(images.images[0].permute(1, 2, 0).numpy()))
    assert label == 7
    assert torch.allclose(image[1], (original[1] - 0.4822) / 0.2435)


def test_the_bytes_of_a_step_are_those_of_its_convolutions() -> None:
    network = Network(8, None, width=4)  # 3 layers of 4 channels at 8x8, 2 of 8 at 4x4, 2 of 16 at 2x2
    moved = bytes_per_step(network, torch.zeros(2, 3, 8, 8), itemsize=2)
    weights = sum(p.numel() for p in network.parameters())
    assert moved == 16 * 2 * 2 * (3 * 4 * 64 + 2 * 8 * 16 + 2 * 16 * 4) + 24 * weights
    assert network.training


WRONG = ("--rounds 0", "--whole-runs -1", "--model resnet21", "--gangs 1 x", "--bla", "--batch-size 1", "--device nope")
WRONG += ("--threads 99999999999", "--workers x", "--output /tmp", "--output /dev/full", "--output /proc/x.json")
WRONG += ("--busy x", "--keras /nope")


@pytest.mark.parametrize("arguments", [*WRONG, "--data-root /tmp"])
def test_a_mistake_is_one_line(
    arguments: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert in_process(monkeypatch, *arguments.split(), program="benchmark.py") == 2
    assert re.fullmatch(rf"[^\n]*{arguments.split()[0]}.*: .*\n", capsys.readouterr().err)
