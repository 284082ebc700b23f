"""Between the shell and Hydra: a user's mistake is one clear line and exit status 2, never a traceback.

`overrides.check` finds what can be found before Hydra composes; `translate` says what composing found.
"""

import os
import sys
import traceback
from collections.abc import Callable
from typing import Any

from hydra._internal.utils import get_args_parser
from hydra.errors import MissingConfigException
from omegaconf import OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, InterpolationResolutionError, OmegaConfBaseException

from ablation.config.overrides import CONF, check, in_words, type_of
from ablation.config.schema import OPEN_GROUPS
from ablation.errors import UserError, first_line, no_such
from ablation.program import Parser, fail, make_unbreakable, spin_briefly


def hydra_command(main: Callable[[], Any]) -> None:
    """Run `main`, which composes with Hydra, as the whole program; a mistake ends it with its line and status 2."""
    make_unbreakable()
    spin_briefly()
    asked = os.environ.get("HYDRA_FULL_ERROR", "0")
    os.environ["HYDRA_FULL_ERROR"] = "1"  # else Hydra prints its errors itself, over several lines, and exits with 1
    try:
        main()
    except UserError as error:
        fail(error)
    except Exception as error:
        if asked == "1" or not is_hydras(error):
            raise
        fail(translate(error))
    finally:
        os.environ["HYDRA_FULL_ERROR"] = asked


def check_arguments() -> None:
    """Check `sys.argv` as Hydra will read it, and put the options last. Raises UserError.

    argparse takes the overrides from one place alone, and stops with an error at `seed=0 -m model.depth=20,32`.
    """
    parser = get_args_parser()
    parser.error = Parser().error  # type: ignore[method-assign]  # its own prints several lines
    given = parser.parse_intermixed_args()
    sys.argv[1:] = [*given.overrides, *(argument for argument in sys.argv[1:] if argument not in given.overrides)]
    if not given.shell_completion:  # whose arguments are not overrides
        sweep = any(argument.startswith(("sweep=", "hydra.mode=")) for argument in given.overrides)
        check(given.overrides, multirun=given.multirun or sweep)


def is_hydras(error: BaseException) -> bool:
    """Whether Hydra or OmegaConf raised it, or what they called, and not this project's code: the input is wrong."""
    for frame, _ in reversed(list(traceback.walk_tb(error.__traceback__))):
        package = str(frame.f_globals.get("__name__")).partition(".")[0]
        if package in ("ablation", "hydra_plugins", "hydra", "omegaconf"):
            return package in ("hydra", "omegaconf")
    return False


def translate(error: BaseException) -> UserError:
    """The `UserError` that says what `error`, raised by Hydra or OmegaConf, means to the user."""
    link: BaseException | None = error
    while link is not None:
        if isinstance(link, UserError):  # Hydra wraps what a launcher or sweeper raised while it was built
            return link
        if isinstance(link, MissingConfigException) and link.options is not None:
            group, _, name = str(link.missing_cfg_file).rpartition("/")
            return no_such("choice", group, name, link.options)
        if isinstance(link, OmegaConfBaseException) and link.full_key:
            return about_key(link)
        link = link.__cause__ or link.__context__
    return broken_file(error) or UserError("command line", " ".join(sys.argv[1:]), first_line(error))


def about_key(error: OmegaConfBaseException) -> UserError:
    """The mistake in a key, or in its value."""
    key = str(error.full_key).partition("[")[0]  # schedule.milestones[0] is about schedule.milestones
    typed = [value for name, _, value in (argument.lstrip("+~").partition("=") for argument in sys.argv) if name == key]
    value = error.value if error.value is not None and key == error.full_key else (typed or [""])[-1]
    if isinstance(error, ConfigAttributeError | ConfigKeyError):
        allowed = no_such("key", key, value, [str(known) for known in error.parent_node or ()]).allowed
        hint = f"; +{key}= for another argument of its _target_" if key.partition(".")[0] in OPEN_GROUPS else ""
        return UserError(key, value, allowed + hint)
    kind = None if isinstance(error, InterpolationResolutionError) else in_words(type_of(key))
    return UserError(key, value, f"must be {kind}" if kind else first_line(error))


def broken_file(error: BaseException) -> UserError | None:
    """The mistake in the YAML file that raises this error when it is read; OmegaConf does not always name the file."""
    for path in CONF.glob("*/*.yaml"):
        try:
            OmegaConf.load(path)
        except Exception as again:
            if str(again) == str(error):
                return UserError(path.parent.name, path.stem, f"{path} cannot be read: {error}")
    return None
