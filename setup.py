"""What pyproject.toml cannot say: an installed copy has conf/, sweeps/ and the commands of src/ inside the package."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class WithFiles(build_py):
    """Copies them beside the modules; an editable install finds them in the checkout."""

    def run(self):
        super().run()
        if not self.editable_mode:
            package = Path(self.build_lib, "ablation")
            shutil.copytree("conf", package / "conf", dirs_exist_ok=True, ignore=shutil.ignore_patterns("sweep"))
            shutil.copytree("sweeps", package / "conf" / "sweep", dirs_exist_ok=True)  # in a checkout it is a link
            (package / "commands").mkdir(exist_ok=True)
            for command in Path("src").glob("*.py"):
                shutil.copy(command, package / "commands")


setup(cmdclass={"build_py": WithFiles})
