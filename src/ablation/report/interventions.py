"""Claims about what removes degradation: each changes one thing that is thought to cause it, or to cure it.

They are asked of any study with the networks that they name (`sweeps/rates`, `interventions`, `width`), and docs/why.md
tells what came of them. All were written down before their runs (commit c159813), margins included.
"""

from ablation.report.arms import Claim, plain, resnet
from ablation.report.metrics import GROWTH, TRAIN
from ablation.report.rules import DifferencesWithin, Higher, MeanWithin

NO_HIGHER = 0.5  # points of training error: 7 of the digits' 1,438 images, where degradation is 67 points
NEARLY_ONE = 0.05  # of a growth a layer: a quarter of what a plain net's has above 1 (1.21 in theory)

HE_2015, HE_2016 = "He et al. 2015, Sec. 4.2", "He et al. 2016, arXiv 1603.05027, Table 1"
DIRACNETS, LI = "DiracNets, arXiv 1706.00388", "Li et al. 2018, arXiv 1712.09913"
LARS = "LARS: You et al. 2017, arXiv 1708.03888"
RATE = "optimizer.lr"
HIGHER, NO_HIGHER_THAN = Higher(NO_HIGHER), DifferencesWithin(high=NO_HIGHER)


# fmt: off
CLAIMS: tuple[Claim, ...] = (
    # slug, claim, source, networks, metric, rule
    Claim("best-rate-degradation", "At its best rate each, plain-56 has a higher training error than plain-20",
          HE_2015, (plain(56, best_of=RATE), plain(20, best_of=RATE)), TRAIN, HIGHER),
    Claim("best-rate-shortcuts", "At its best rate each, ResNet-56 has no higher training error than ResNet-20",
          HE_2015, (resnet(56, best_of=RATE), resnet(20, best_of=RATE)), TRAIN, NO_HIGHER_THAN),
    Claim("dirac-growth", "With the identity added to its kernels, plain-56's gradients do not explode at the start",
          DIRACNETS, (plain(56, "model.init", "dirac"),), GROWTH[1], MeanWithin(1 - NEARLY_ONE, 1 + NEARLY_ONE)),
    Claim("dirac-helps", "The identity added to its kernels at the start lowers plain-56's training error",
          DIRACNETS, (plain(56), plain(56, "model.init", "dirac")), TRAIN, HIGHER),
    Claim("dirac-ends-degradation",
          "With the identity added to the kernels at the start, plain-56 has no higher training error than plain-20",
          DIRACNETS, (plain(56, "model.init", "dirac"), plain(20, "model.init", "dirac")), TRAIN, NO_HIGHER_THAN),
    Claim("lars-helps", "Steps of the same length in every layer (LARS) lower plain-56's training error",
          LARS, (plain(56, "optimizer.name", "sgd"), plain(56, "optimizer.name", "lars")), TRAIN, HIGHER),
    Claim("lars-ends-degradation", "With LARS, plain-56 has no higher training error than plain-20",
          LARS, (plain(56, "optimizer.name", "lars"), plain(20, "optimizer.name", "lars")), TRAIN, NO_HIGHER_THAN),
    Claim("warmup-helps", "A warm-up of 30 % of the steps lowers plain-56's training error",
          HE_2015, (plain(56, "schedule.peak", 0.01), plain(56, "schedule.peak", 0.3)), TRAIN, HIGHER),
    Claim("longer-warmup-helps", "A warm-up of 60 % of the steps lowers plain-56's training error further",
          HE_2015, (plain(56, "schedule.peak", 0.3), plain(56, "schedule.peak", 0.6)), TRAIN, HIGHER),
    *(Claim(f"width-{width // 16}-helps", f"{width} channels in place of 16 lower plain-56's training error",
            LI, (plain(56, "model.width", 16), plain(56, "model.width", width)), TRAIN, HIGHER) for width in (32, 64)),
    Claim("width-4-ends-degradation", f"With 64 channels plain-56 has a training error below {NO_HIGHER:g} %",
          LI, (plain(56, "model.width", 64),), TRAIN, MeanWithin(high=NO_HIGHER)),
    Claim("scaled-growth", "Shortcuts scaled by 0.5 bring the explosion back at the start of ResNet-56",
          HE_2016, (resnet(56, "scaled"), resnet(56, "A")), GROWTH[1], Higher(NEARLY_ONE)),
    *(Claim(f"{name}-hurts", f"Shortcuts {what} give ResNet-56 a higher training error",
            HE_2016, (resnet(56, name), resnet(56, "A")), TRAIN, HIGHER)
      for name, what in (("scaled", "scaled by 0.5"), ("dropout", "with dropout of half of their values"))),
)
# fmt: on
