"""Claims about what removes degradation: each changes one thing that is thought to cause it."""

from ablation.report.arms import Claim

CLAIMS: tuple[Claim, ...] = ()
