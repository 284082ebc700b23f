"""The claims of the paper, and of what is known since, as a table.

A claim's life: it is declared, here or in `interventions`; finds its cells in a study (`arms`); is decided by its rule
(`rules`) from a number of each of their runs (`metrics`); is corrected for all the claims that are tested in the study,
and becomes a finding (`findings`), which the page, the terminal and claims.json show.

Source: He et al. 2015, Sections 3.3, 4.1 and 4.2, and Yang et al. 2019 for the gradients; the quoted numbers stand in
`paper`. Notable: everything that decides is a constant, and each margin and each minimum effect is derived from the
size of the effects that others measured. They, and the correction for the number of claims, were set on 2026-11-24,
before any run with the paper's recipe but after the records of results/reference were seen (docs/log.md lists the
verdicts that changed). A claim about a number of the paper is only asked of its own recipe.
"""

import math

from ablation.report import metrics, paper
from ablation.report.arms import Claim, plain, resnet
from ablation.report.metrics import GROWTH, RATIO, TEST, TRAIN
from ablation.report.paper import PLAIN_TEST_ERROR, PLAIN_TRAIN_ERROR, RESIDUAL_TEST_ERROR, RESIDUAL_TRAIN_ERROR
from ablation.report.rules import DifferencesWithin, Higher, MeanWithin, Rule


def quarter(higher: paper.Quoted, lower: paper.Quoted) -> Rule:
    """The minimum effect: a quarter of the published one. A smaller one is another finding than the paper's."""
    return Higher((higher.value - lower.value) / 4)


DEGRADATION = PLAIN_TRAIN_ERROR[56].value - PLAIN_TRAIN_ERROR[20].value  # 2.59 points of training error
HARDLY_DIFFERENT = DEGRADATION / 10  # plain-20 and plain-32 are 0.05 apart there, a fiftieth of it
NO_DEGRADATION = RESIDUAL_TRAIN_ERROR[20].value / 4  # what ResNet-56 may be worse: a quarter of ResNet-20's whole error
# Options A, B and C may be apart by half of what any shortcut brings at 20 layers (0.95): nearer to each other than to
# half of the way to a plain net.
OPTIONS_CLOSE = (PLAIN_TEST_ERROR[20].value - RESIDUAL_TEST_ERROR[20].value) / 2
# The paper's numbers are of one run each, and its own five runs of ResNet-110 have a spread of 0.16. Twice that is less
# than the step from 20 to 32 layers (1.24) or from 32 to 56 (0.54).
QUOTED_TOLERANCE = 2 * (RESIDUAL_TEST_ERROR[110].std or math.nan)
CONVERGED = 10.0  # far from both ends: others' ResNets have below 0.5 %, plain-110 stays above 60 %
RESPONSES_APART = 0.05  # a twentieth of the responses of a fresh net, which have a spread of 1
NO_GROWTH = (paper.GRADIENT_GROWTH.value - 1) / 4  # a layer; a quarter of the way from no growth to the theory's 1.21
TENFOLD = 1.0  # on the scale of log10; a gradient that vanishes or explodes does so by powers of ten


def near(quoted: paper.Quoted) -> Rule:
    return MeanWithin(quoted.value - QUOTED_TOLERANCE, quoted.value + QUOTED_TOLERANCE, quoted)


FIGURE_6, LEFT, MIDDLE = "Sec. 4.2, Fig. 6", "Sec. 4.2, Fig. 6 (left)", "Sec. 4.2, Fig. 6 (middle), Table 6"
FIGURE_7, TABLE_3 = "Sec. 4.2, Fig. 7", "Sec. 4.1, Table 3 (ImageNet)"
NOT_VANISHING = f"Sec. 4.1 (argued of ImageNet's plain-34); {paper.MEAN_FIELD}"
RESPONSES = Higher(RESPONSES_APART)
AS_THEORY = MeanWithin(paper.GRADIENT_GROWTH.value - NO_GROWTH, paper.GRADIENT_GROWTH.value + NO_GROWTH)
FLAT = MeanWithin(1 - NO_GROWTH, 1 + NO_GROWTH)

# fmt: off
PAPERS: tuple[Claim, ...] = (
    # slug, claim, source, networks, metric, rule, scope
    Claim("degradation-train", "Degradation: plain-56 has a higher training error than plain-20",
          LEFT, (plain(56), plain(20)), TRAIN, quarter(PLAIN_TRAIN_ERROR[56], PLAIN_TRAIN_ERROR[20])),
    Claim("degradation-test", "Degradation: plain-56 has a higher test error than plain-20",
          LEFT, (plain(56), plain(20)), TEST, quarter(PLAIN_TEST_ERROR[56], PLAIN_TEST_ERROR[20])),
    Claim("plain-20-32", "Plain-20 and plain-32 have nearly the same training error: only deeper plain nets degrade",
          LEFT, (plain(20), plain(32)), TRAIN, DifferencesWithin(-HARDLY_DIFFERENT, HARDLY_DIFFERENT)),
    Claim("no-degradation", "Shortcuts end degradation: ResNet-56 has no higher training error than ResNet-20",
          MIDDLE, (resnet(56), resnet(20)), TRAIN, DifferencesWithin(high=NO_DEGRADATION)),
    Claim("depth-helps-train", "With shortcuts depth helps: ResNet-56 has a lower training error than ResNet-20",
          MIDDLE, (resnet(20), resnet(56)), TRAIN, quarter(RESIDUAL_TRAIN_ERROR[20], RESIDUAL_TRAIN_ERROR[56])),
    Claim("depth-helps-test", "With shortcuts depth helps: ResNet-56 has a lower test error than ResNet-20",
          MIDDLE, (resnet(20), resnet(56)), TEST, quarter(RESIDUAL_TEST_ERROR[20], RESIDUAL_TEST_ERROR[56])),
    *(Claim(f"residual-beats-plain-{depth}", f"ResNet-{depth} has a lower test error than plain-{depth}",
            FIGURE_6, (plain(depth), resnet(depth)), TEST, quarter(plain_error, RESIDUAL_TEST_ERROR[depth]))
      for depth, plain_error in (PLAIN_TEST_ERROR | {110: paper.PLAIN_110}).items()),
    *(Claim(f"table-6-{depth}", f"ResNet-{depth} (option A) has a test error of {quoted} %", quoted.source,
            (resnet(depth, "A"),), TEST, near(quoted), "paper") for depth, quoted in RESIDUAL_TEST_ERROR.items()),
    Claim("resnet-110-converges", f"ResNet-110 converges if its learning rate is {paper.WARMUP_RATE.value:g} until its "
          f"training error is below {paper.WARMUP_ERROR.value:g} %",
          paper.WARMUP_RATE.source, (resnet(110),), TRAIN, MeanWithin(high=CONVERGED), "paper", every_run=True),
    Claim("plain-110-fails", f"Plain-110 does not converge: its error stays above {paper.PLAIN_110.value:g} %",
          paper.PLAIN_110.source, (plain(110),), TRAIN, MeanWithin(low=paper.PLAIN_110.value), "paper"),
    Claim("depth-110-apart", "Plain-110 has a higher training error than ResNet-110",
          FIGURE_6, (plain(110), resnet(110)), TRAIN, quarter(paper.PLAIN_110, paper.RESIDUAL_1202)),
    Claim("1202-trains", f"ResNet-1202 has a training error below {paper.RESIDUAL_1202.value:g} %",
          paper.RESIDUAL_1202.source, (resnet(1202),), TRAIN, MeanWithin(high=paper.RESIDUAL_1202.value), "paper",
          every_run=True),
    Claim("1202-overfits", "ResNet-1202 has a higher test error than ResNet-110",
          "Sec. 4.2, Table 6", (resnet(1202), resnet(110)), TEST,
          quarter(RESIDUAL_TEST_ERROR[1202], RESIDUAL_TEST_ERROR[110])),
    *(Claim(f"responses-smaller-{depth}", f"The layers of ResNet-{depth} have smaller responses than plain-{depth}'s",
            FIGURE_7, (plain(depth), resnet(depth)), metrics.RESPONSE, RESPONSES) for depth in (20, 56)),
    *(Claim(f"responses-fall-{few}-{many}", f"The layers of ResNet-{many} have smaller responses than ResNet-{few}'s",
            FIGURE_7, (resnet(few), resnet(many)), metrics.RESPONSE, RESPONSES) for few, many in ((20, 56), (56, 110))),
    *(Claim(f"explosion-{depth}", f"Batch norm makes plain-{depth}'s gradients explode at the start: in the first "
            f"stage they grow by {paper.GRADIENT_GROWTH.value:.2f} a layer towards the input",
            paper.MEAN_FIELD, (plain(depth),), GROWTH[1], AS_THEORY) for depth in (20, 56)),
    *(Claim(f"explosion-56-stage-{stage}", f"In stage {stage} plain-56's gradients grow towards the input as well",
            paper.MEAN_FIELD, (plain(56),), GROWTH[stage], MeanWithin(low=1 + NO_GROWTH)) for stage in (2, 3)),
    *(Claim(f"no-explosion-56-stage-{stage}", f"With shortcuts they do not: in stage {stage} ResNet-56's stay level",
            paper.MEAN_FIELD, (resnet(56),), GROWTH[stage], FLAT) for stage in (2, 3)),
    Claim("shortcuts-calm-56", "In the first stage plain-56's gradients grow faster than ResNet-56's",
          paper.MEAN_FIELD, (plain(56), resnet(56)), GROWTH[1], Higher(NO_GROWTH)),
    Claim("ratio-start", "At the start gradients do not vanish, they explode: the first third of plain-56's layers has "
          "at least ten times the gradient of the last third", NOT_VANISHING, (plain(56),), RATIO["start"],
          MeanWithin(low=TENFOLD)),
    Claim("ratio-end", "After training they do not vanish either: the first third of plain-56's layers has at least a "
          "tenth of the gradient of the last third", NOT_VANISHING, (plain(56),), RATIO["end"],
          MeanWithin(low=-TENFOLD)),
    Claim("ratio-training", "Training takes the explosion away: plain-56's ratio falls at least tenfold",
          paper.MEAN_FIELD, (plain(56),), metrics.EVENED, MeanWithin(low=TENFOLD)),
    *(Claim(f"shortcuts-close-{depth}",
            f"At {depth} layers options A, B and C have nearly the same test error: projections are not essential",
            TABLE_3, (resnet(depth, "A"), resnet(depth, "B"), resnet(depth, "C")), TEST,
            DifferencesWithin(-OPTIONS_CLOSE, OPTIONS_CLOSE)) for depth in (20, 56)),
    Claim("notebook", f"The notebook's ResNet-20 has a test error of {paper.NOTEBOOK} %, selected on the test set",
          paper.NOTEBOOK.source, (resnet(20, "avgpool"),), metrics.BEST_TEST, near(paper.NOTEBOOK), "notebook"),
)
# fmt: on
