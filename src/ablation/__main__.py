"""`python -m ablation train model=resnet20` or `ablation train ...`: the commands of src/, for an installed package."""

import runpy
import sys

from ablation.config.schema import PACKAGE
from ablation.errors import UserError
from ablation.program import fail


def main() -> None:
    files = [*(PACKAGE / "commands").glob("*.py")] or PACKAGE.parent.glob("*.py")  # the former by setup.py
    commands = {path.stem: str(path) for path in files}
    if (name := "".join(sys.argv[1:2])) not in commands:
        fail(UserError("command", name, f"must be one of {', '.join(sorted(commands))}"))
    sys.argv = [commands[name], *sys.argv[2:]]
    runpy.run_path(commands[name], run_name="__main__")


if __name__ == "__main__":
    main()
