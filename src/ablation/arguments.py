"""Arguments of the commands that are not Hydra's: a mistake in them is one line, as everywhere."""

import argparse
import sys
from typing import NoReturn

from ablation.errors import UserError


class Parser(argparse.ArgumentParser):
    """argparse with the house's one-line errors."""

    def error(self, message: str) -> NoReturn:
        """Instead of the usage and a message."""
        raise UserError("arguments", " ".join(sys.argv[1:]), f"{message}; --help shows what is allowed")
