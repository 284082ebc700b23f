"""src/analyze.py: each analysis against networks and functions worked out by hand; its file, mistakes and figures."""

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from records_factory import paper_study, write
from runs import cut_off, finish, folder_of, in_process, small
from torch import Tensor, nn
from torch.nn import functional as F

from ablation.analysis.correlation import gradient_correlation
from ablation.analysis.lesions import lesions, refit_batch_norm
from ablation.analysis.slices import ALPHAS, loss_slice, moves
from ablation.data import Images, Normalization
from ablation.networks.resnet import Network
from ablation.networks.shortcuts import projection, zero_padding
from ablation.report import reporting
from ablation.report.content import Table
from ablation.runs.record import analysis

UNCHANGED = Normalization(torch.zeros(3, 1, 1), torch.ones(3, 1, 1))
SHORTCUTS = {"plain": None, "A": zero_padding, "B": projection}


def random_images(count: int, seed: int = 0) -> Images:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(256, (count, 3, 8, 8), generator=generator, dtype=torch.uint8)
    return Images(images, torch.randint(10, (count,), generator=generator))


def network_of(shortcut: str, depth: int = 14) -> Network:
    torch.manual_seed(1)
    network = Network(depth, SHORTCUTS[shortcut], width=4).eval()
    for name, value in network.state_dict().items():
        if "bn" in name and value.is_floating_point():  # so that no batch norm is the identity
            value.add_(0.5 * torch.rand(value.shape))
    return network


def logits_without(network: Network, deleted: str, x: Tensor) -> Tensor:
    """The network written out, block by block, without the one `deleted`."""
    x = network.bn1(network.conv1(x)).relu()
    for name in (f"layer{stage}.{place}" for stage in (1, 2, 3) for place in (0, 1)):
        block = network.get_submodule(name)
        branch = block.bn2(block.conv2(block.bn1(block.conv1(x)).relu())) if name != deleted else 0
        if block.residual:
            x = (branch + (block.downsample(x) if block.downsample else x)).relu()
        elif name != deleted:
            x = branch.relu()
    return network.fc(x.mean((2, 3)))


@pytest.mark.parametrize("shortcut", SHORTCUTS)
def test_lesions(shortcut: str) -> None:
    """A plain block that changes the shape cannot be deleted; the network itself stays as it is."""
    network, test, train = network_of(shortcut), random_images(40), random_images(60, seed=1)
    before = copy.deepcopy(network.state_dict())
    found = lesions(network, train, test, UNCHANGED)
    assert found["deleted"] == ["", *(f"layer{stage}.{place}" for stage in (1, 2, 3) for place in (0, 1))]
    for name, error, refitted in zip(*(found[key] for key in ("deleted", "errors", "refitted")), strict=True):
        if shortcut == "plain" and name in ("layer2.0", "layer3.0"):
            assert (error, refitted) == (None, None)
            continue
        twin = copy.deepcopy(network)
        for measured in (error, refitted):
            with torch.no_grad():
                wrong = logits_without(twin, name, test.images / 255).argmax(1) != test.labels
            assert measured == pytest.approx(100 * float(wrong.float().mean()), abs=1e-4), name
            twin.train()
            for norm in (module for module in twin.modules() if isinstance(module, nn.BatchNorm2d)):
                norm.momentum = 1.0  # the running statistics are those of the last batch, which is all images
            logits_without(twin, name, train.images / 255)
            twin.eval()
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


def test_batch_norm_is_refitted_to_the_mean_over_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ablation.training.evaluation.BATCH_ELSEWHERE", 20)
    network, images = network_of("A"), random_images(60)
    refit_batch_norm(network, images, UNCHANGED)
    batches = [network.conv1(batch / 255).detach() for batch in images.images.split(20)]
    for statistic, of_batch in ((network.bn1.running_mean, Tensor.mean), (network.bn1.running_var, Tensor.var)):
        expected = torch.stack([of_batch(batch, (0, 2, 3)) for batch in batches]).mean(0)
        torch.testing.assert_close(statistic, expected)
    assert not network.training


def test_a_slice_of_a_quadratic_loss() -> None:
    """|w|^2 of each row w of a matrix, which moves along d, |d| = |w|: at a and -a it adds up to 2 (1 + a^2) |w|^2."""
    layer = nn.Linear(5, 3)
    own, bias = layer.weight.detach().clone(), layer.bias.detach().clone()
    values = torch.stack([layer.weight.detach().square().sum(1) for _ in moves(layer)])
    expected = 2 * (1 + torch.tensor(ALPHAS)[:, None] ** 2) * own.square().sum(1)
    torch.testing.assert_close(values + values.flip(0), expected)
    assert torch.equal(layer.bias, bias)


def test_a_slice_of_a_network() -> None:
    """The middle is the network's own loss; batch norm and biases do not move, nor does the network itself."""
    network, train = network_of("A", 8), random_images(30)
    before = copy.deepcopy(network.state_dict())
    found = loss_slice(network, train, random_images(1), UNCHANGED)
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    loss = F.cross_entropy(network(train.images / 255), train.labels)
    assert found["losses"][ALPHAS.index(0.0)] == pytest.approx(loss.item(), rel=1e-5)
    twin = copy.deepcopy(network)
    *_, _ = moves(twin)
    changed = {name for name, value in twin.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {name for name, value in before.items() if value.dim() > 1}


class Function(nn.Module):
    """A scalar function of the pixels, as the one logit of a network."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x).flatten(1).sum(1, keepdim=True)


@pytest.mark.parametrize(
    ("function", "cosine"),
    [
        (lambda x: 3 * x, 1),  # the same gradient everywhere
        (lambda x: (x - 0.5) ** 2, 1 / 1.01**0.5),  # the pixels themselves, with noise of a tenth of their size
        (lambda x: (1e6 * x).sin(), 0),  # white noise
    ],
)
def test_correlation(function: Callable[[Tensor], Tensor], cosine: float) -> None:
    found = gradient_correlation(Function(function), random_images(200), random_images(1), UNCHANGED)
    assert found["images"] == 128
    assert found["cosine"] == pytest.approx(cosine, abs=0.01)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run that has been analyzed."""
    finish(small(results := tmp_path_factory.mktemp("results"), "optimizer.lr=0.03"))
    folder = folder_of(results)
    with pytest.MonkeyPatch.context() as patch:
        assert in_process(patch, str(folder), "--images", "400", program="analyze.py") == 0
    return folder


def test_the_file_beside_the_record(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Undamaged, the network has its record's error. An analysis made again replaces itself, and a damaged file."""
    made = analysis.read(run)
    assert set(made) == {"lesions", "slice", "correlation"}
    record = json.loads((run / "record.json").read_text())
    assert made["lesions"]["errors"][0] == record["metrics"]["test_error"]
    assert (made["lesions"]["images"], made["slice"]["images"], made["correlation"]["images"]) == (359, 400, 128)
    copied = shutil.copytree(run, tmp_path / "published")
    (copied / "weights.pt").unlink()
    wrong = made["correlation"] | {"cosine": 9.0}
    for content, kept in (("{", set()), (json.dumps(made | {"correlation": wrong}), {"lesions", "slice"})):
        (copied / analysis.FILE).write_text(content)
        assert in_process(monkeypatch, "--only", "correlation", str(copied), program="analyze.py") == 0
        found = analysis.read(copied)
        assert set(found) == kept | {"correlation"}
        assert found["correlation"]["cosine"] == made["correlation"]["cosine"]


MISTAKES = {
    "RUN --only lesion": "--only=lesion: must be some of lesions, slice, correlation",
    "RUN --images 0": "--images: must be a whole number from 1",
    "data.root=x": "run=data.root=x: needs the folder of a finished run",
    "RUN UNFINISHED": "run=UNFINISHED: is not the folder of a finished run",
    "RUN NOWHERE": "run=NOWHERE: is not the folder of a finished run",
    "RUN PUBLISHED": "run=PUBLISHED: has no weights.pt, like all published records; --only correlation needs none",
    "RUN seed=1": "seed=1: is the run's own",
}


@pytest.fixture(scope="module")
def places(run: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A finished run, an unfinished one, no run, and a run without weights; none of them analyzed."""
    cut_off(small(folder := tmp_path_factory.mktemp("unfinished")), after=4)
    places = {"RUN": folder / "run", "UNFINISHED": folder_of(folder), "NOWHERE": folder / "nowhere"}
    shutil.copytree(run, places["RUN"], ignore=shutil.ignore_patterns(analysis.FILE))
    without_weights = shutil.ignore_patterns(analysis.FILE, "weights.pt")
    return places | {"PUBLISHED": shutil.copytree(run, folder / "published", ignore=without_weights)}


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_is_one_line_and_nothing_is_written(
    case: str, places: dict[str, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    line = MISTAKES[case]
    for name, place in places.items():
        case, line = case.replace(name, str(place)), line.replace(name, str(place))
    assert in_process(monkeypatch, *case.split(), program="analyze.py") == 2
    shown = capsys.readouterr()
    assert line in shown.err
    assert (shown.out, shown.err.count("\n")) == ("", 1)
    assert not (places["RUN"] / analysis.FILE).exists()


def made_up(depth: int) -> dict[str, Any]:
    blocks = (depth - 2) // 2
    lists = {"errors": [10.0] + [20.0] * (blocks - 1) + [None], "refitted": [15.0] * (blocks + 1)}
    return {
        "lesions": {"images": 1000, "deleted": ["x"] * (blocks + 1)} | lists,
        "slice": {"images": 1000, "seed": 0, "alphas": [-1.0, 0.0, 1.0], "losses": [None, 0.1, 30.0]},
        "correlation": {"images": 128, "noise": 0.1, "cosine": 0.3},
    }


DAMAGED = {
    "{": "not complete JSON",
    "[]": "not complete JSON",
    '{"lesions": 5}': "lesions is 5",
    '{"correlation": {"images": 1, "noise": 0.1, "cosine": "high"}}': "correlation is {'cosine': 'high'",
    '{"correlation": {"images": 1, "noise": 0.1}}': "correlation is {'images': 1, 'noise': 0.1}",
    '{"slice": {"images": 1, "seed": 0, "alphas": [0.0], "losses": []}}': "lists of slice have different lengths",
    '{"slice": {"images": 1, "seed": 0, "alphas": [], "losses": []}}': "no values",
}


@pytest.mark.parametrize("losses", [1, 3])
def test_lists_of_different_lengths_are_damaged(losses: int, tmp_path: Path) -> None:
    alphas = [0.0] * (4 - losses)
    found = {"slice": {"images": 1, "seed": 0, "alphas": alphas, "losses": [1.0] * losses}}
    (tmp_path / analysis.FILE).write_text(json.dumps(found))
    with pytest.raises(ValueError, match="lists of slice have different lengths"):
        analysis.read(tmp_path)


def test_the_report_shows_the_analyses_and_lists_damaged_ones(tmp_path: Path) -> None:
    """A run whose analyses cannot be read counts as it would without them."""
    records = paper_study(seeds=2, depths=[20, 56])
    folders = [write(tmp_path, made | {"layers": []}, points=0) for made in records]
    contents = [json.dumps(made_up(made["config"]["model"]["depth"])) for made in records]
    contents[: len(DAMAGED)] = DAMAGED
    for folder, content in zip(folders, contents, strict=True):
        (folder / analysis.FILE).write_text(content)
    content = reporting.gather([tmp_path])
    reporting.illustrate(content, tmp_path / "figures", [])
    (part,) = content.sections[0].parts
    assert [len(cell.runs) for cell in part.subject.cells] == [2] * 4
    captions = {illustration.kind: illustration.caption for illustration in part.illustrations}
    assert {"lesions", "slice", "correlation"} < set(captions)
    assert all("one seed each" in captions[kind] for kind in ("lesions", "slice", "correlation"))
    assert "ResNet-56 10.0 % whole, without a block 20.0 % in the median, refitted 15.0 %" in captions["lesions"]
    (table,) = (block.frame for block in content.leftovers if isinstance(block, Table))
    listed = dict(zip(table["file"], table["reason"], strict=True))
    for folder, reason in zip(folders, DAMAGED.values(), strict=False):
        assert reason in next(text for file, text in listed.items() if folder.name in file)
