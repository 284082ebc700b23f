r"""Evaluate a trained network on the test set: error, loss, and which classes it takes for which.

    python src/evaluate.py run=FOLDER                   a run's folder under results/runs: its result, or its newest
                                                        checkpoint if it is not finished
    python src/evaluate.py checkpoint=FILE KEY=VALUE... a state dict: a run's weights.pt, or another project's file

With run=, everything is as in the run; data.root, trainer.device and trainer.precision may differ.
With checkpoint=, the network and the data are named as for src/train.py, with the groups and keys of model, shortcut,
data and trainer. Names as in akamaster/pytorch_resnet_cifar10 (module., linear, shortcut) are understood:

    python src/evaluate.py checkpoint=resnet20.th model=resnet20 shortcut=A shortcut.zeros=split \
        data.mean=[0.485,0.456,0.406] data.std=[0.229,0.224,0.225]

    data.mean=, data.std=  the normalisation by channel, for pixels from 0 to 1, in place of data.normalization
    matrix=true            print the whole confusion matrix
    output=FILE            write the result: .json everything, .csv the confusion matrix

Wrong input is one line and exit status 2.
"""

import sys

from ablation.config.command_line import hydra_command


def main() -> None:
    """Show the help, or evaluate."""
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(__doc__)
        return
    from ablation.evaluation.evaluate import main as evaluate  # here, and not above: it imports torch

    evaluate(sys.argv[1:])


if __name__ == "__main__":
    hydra_command(main)
