"""`python -m ablation train model=resnet20` or `ablation train ...`: the commands of src/, for an installed package."""

import runpy
import sys
from pathlib import Path

from ablation.errors import UserError
from ablation.program import fail


def main() -> None:
    package = Path(__file__).resolve().parent
    folders = (package / "commands", package.parent)  # setup.py copies src/*.py into the former
    commands = {path.stem: path for folder in folders if (folder / "train.py").exists() for path in folder.glob("*.py")}
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name not in commands:
        fail(UserError("command", name, f"must be one of {', '.join(sorted(commands))}"))
    sys.argv = [str(commands[name]), *sys.argv[2:]]
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()
