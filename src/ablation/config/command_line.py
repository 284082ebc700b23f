"""Between the shell and Hydra: a user's mistake is one clear line and exit status 2, never a traceback.

`check_overrides` finds what can be found before Hydra composes: Hydra accepts some of these mistakes, and explains the
others over several lines. `translate` says what composing found.
"""

import itertools
import os
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Glob, IntervalSweep, Override, QuotedString
from hydra.errors import HydraException, MissingConfigException
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, InterpolationResolutionError, OmegaConfBaseException

from ablation.config.schema import CONF, OPEN_GROUPS, SWEEPS, Config
from ablation.errors import UserError, first_line, no_such
from ablation.program import Parser, check_output, fail, make_unbreakable, spin_briefly

UNUSED = ("hydra.run", "hydra.sweep.", "hydra.output_subdir", "hydra.job.chdir", "hydra.job.env_copy")
MOST_JOBS = 10_000  # of a sweep
NOT_INSTALLED = "is not installed: pip install -e '.[optuna]'"
# The types of the schema's single values, as a message names them.
WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text", list[float]: "a list of numbers"}
IN_WORDS: dict[Any, str] = WORDS | {kind | None: f"{words} or null" for kind, words in WORDS.items()}


def hydra_command(main: Callable[[], Any]) -> None:
    """Run `main`, which composes with Hydra, as the whole program; a mistake ends it with its line and status 2."""
    make_unbreakable()
    spin_briefly()
    asked = os.environ.get("HYDRA_FULL_ERROR", "0")
    os.environ["HYDRA_FULL_ERROR"] = "1"  # else Hydra prints its errors itself, over several lines, and exits with 1
    try:
        main()
        check_output()
    except Exception as error:
        if not isinstance(error, UserError) and (asked == "1" or not is_hydras(error)):
            raise
        fail(translate(error))
    finally:
        os.environ["HYDRA_FULL_ERROR"] = asked


def check_arguments() -> None:
    """Check `sys.argv` as Hydra will read it, and put the options last. Raises UserError."""
    parser = get_args_parser()
    parser.error = Parser().error  # type: ignore[method-assign]  # its own prints several lines
    given = parser.parse_intermixed_args()  # argparse alone stops with an error at `seed=0 -m model.depth=20,32`
    sys.argv[1:] = [*given.overrides, *(argument for argument in sys.argv[1:] if argument not in given.overrides)]
    if not given.shell_completion:  # whose arguments are not overrides
        sweep = any(argument.startswith(("sweep=", "hydra.mode=")) for argument in given.overrides)
        check_overrides(given.overrides, multirun=given.multirun or sweep)


def check_overrides(arguments: Sequence[str], multirun: bool = True, job: bool = False) -> None:
    """Raise UserError for the first override, of a command or a `job`, that is wrong; a `multirun` may give a,b,c."""
    top_keys = {entry.name for entry in fields(Config)} | {path.name for path in CONF.iterdir() if not path.suffix}
    for argument in arguments:
        key, _, text = argument.partition("=")
        try:
            override = OverridesParser.create().parse_override(argument)
        except HydraException as error:
            allowed = f"cannot be read: {first_line(error)}; key=value is needed, strange values in quotes"
            raise UserError(key, text, allowed) from None
        key = override.key_or_group
        if (top := key.replace("/", ".").partition(".")[0]) not in top_keys:
            raise UserError(key, text, no_such("key", top, text, top_keys).allowed)
        if (job and top in ("hydra", "sweep", "results")) or (key == "results" and override.is_sweep_override()):
            raise UserError(key, text, "cannot differ between the jobs of a sweep")
        if key.startswith(UNUSED):
            raise UserError(key, text, "is not used; the runs' folders are in results=FOLDER")
        if top != "hydra" and (problem := mistake(override, multirun)):  # Hydra checks its own keys
            raise UserError(key, text, problem)


def check_sweep(params: Any, arms: Any, zipped: Any) -> tuple[list[str], list[list[str]]]:
    """A sweeper's `params`, as overrides, and its `arms` with each place of the axes `zipped`. Raises UserError."""
    arguments, together, arms = axes_of("params", params), axes_of("zip", zipped), arms or [[]]
    lists = [list(arm) for arm in arms if isinstance(arm, Sequence)] if isinstance(arms, Sequence) else []
    if lists != arms or not all(isinstance(override, str) for arm in lists for override in arm):
        raise UserError("hydra.sweeper.arms", arms, "must be a list of lists of overrides such as [[seed=1]]")
    for arm in lists:
        check_overrides(arm, multirun=False, job=True)
    axes = [axis(one) for one in OverridesParser.create().parse_overrides(together)]
    if len({len(values) for values in axes}) > 1:
        raise UserError("hydra.sweeper.zip", zipped, "must have as many values for each key")
    places = list(zip(*axes, strict=True)) if axes else [()]
    return arguments, [[*arm, *place] for place in places for arm in lists]


def axes_of(name: str, given: Any) -> list[str]:
    """A mapping that a sweeper was given as overrides. Raises UserError."""
    if not isinstance(given or {}, Mapping):
        raise UserError(f"hydra.sweeper.{name}", given, "must be a mapping such as {model.depth: '20,32'}")
    arguments = [f"{key}={value}" for key, value in (given or {}).items()]
    check_overrides(arguments, job=True)
    return arguments


def axis(override: Override, study: bool = False) -> list[str]:
    """The values of one argument, each as an override of its own; in a `study` the two ends of an interval."""
    key, value = override.get_key_element(), override.value()
    if study and isinstance(value, IntervalSweep):
        return [f"{key}={value.start}", f"{key}={value.end}"]
    if not override.is_sweep_override():
        return [f"{key}={override.get_value_element_as_str()}"]
    if not override.is_discrete_sweep():
        raise UserError(key, override.get_value_string(), "has no values to list; allowed: a,b or choice() or range()")
    return [f"{key}={value}" for value in itertools.islice(override.sweep_string_iterator(), MOST_JOBS + 1)]


def mistake(override: Override, multirun: bool) -> str | None:
    """What is wrong with the override of a key that exists, in words."""
    key, value, asked = override.key_or_group, override.value(), type_of(override.key_or_group)
    if override.package is not None:
        return f"has one place in the configuration: leave out @{override.package}"
    is_group = (CONF / key).exists() and not isinstance(value, dict)
    if (is_group and override.is_force_add()) or (override.is_add() and (is_group or asked is not None)):
        return "it is there already: leave out the +"
    if is_group:
        names = value.list if isinstance(value, ChoiceSweep) else [value]
        if key == "sweep" and not isinstance(value, str):  # the axes of two would not multiply: Hydra drops both
            sweeps = sorted(path.stem for path in SWEEPS.glob("*.yaml"))
            return f"a sweep is one name, with no -m before it; allowed: {', '.join(sweeps)}"
        if override.is_delete() or not all(isinstance(name, str | QuotedString | Glob) for name in names):
            return "must be the name of one choice: a group cannot be left out"
    elif override.is_delete() and key.partition(".")[0] not in OPEN_GROUPS:
        return "cannot be removed"
    elif asked in (bool, bool | None) and isinstance(value, int | float) and value not in (0, 1):
        return f"must be {IN_WORDS[asked]}"
    if override.is_sweep_override() and not multirun:
        return "several values make a sweep: put -m before them; a list is [1,2]"
    return None


def type_of(key: str) -> Any:
    """The type that the schema gives a dotted key; None for a key that the schema leaves open or does not have."""
    found: Any = Config
    for part in key.split("."):
        found = get_type_hints(found).get(part) if is_dataclass(found) else None
    return found


def is_hydras(error: BaseException) -> bool:
    """Whether Hydra or OmegaConf raised it, or what they called, and not this project's code: the input is wrong."""
    names = [str(f.f_globals.get("__name__")) for f, _ in traceback.walk_tb(error.__traceback__)]
    names = [name.removeprefix("hydra_plugins.").partition(".")[0] for name in names]
    last = [name for name in names if name.startswith(("ablation", "hydra", "omegaconf"))][-1:]
    return last not in ([], ["ablation"])


def translate(error: BaseException, given: Sequence[str] | None = None) -> UserError:
    """The `UserError` that says what `error`, raised by Hydra or OmegaConf, means to the user, and in which file.

    `given`: the overrides that were composed, those of the command line by default.
    """
    given = sys.argv[1:] if given is None else given
    links = [error]
    while link := links[-1].__cause__ or links[-1].__context__:
        links.append(link)
    path = next((path for link in links if (path := file_at_fault(link))), None)
    for link in links:
        if isinstance(link, UserError):  # Hydra wraps what a launcher or sweeper raised while it was built
            return link
        found = None
        if isinstance(link, MissingConfigException) and link.options is not None:
            group, _, name = str(link.missing_cfg_file).rpartition("/")
            found = no_such("choice", group, name, link.options)
            found = UserError(group, name, NOT_INSTALLED) if (group, name) == ("hydra/sweeper", "optuna") else found
        elif isinstance(link, OmegaConfBaseException) and link.full_key:
            found = about_key(link, given)
        if found:
            return UserError(found.key, found.value, f"{found.allowed} (in {path})") if path else found
    says = next((text for link in links if (text := str(link).partition("full_key:")[0])), type(error).__name__)
    says = "it contains itself" if isinstance(links[-1], RecursionError) else says
    if path:
        return UserError(str(path.parent.relative_to(CONF)), path.stem, f"{path} cannot be read: {says}")
    return UserError("command line", " ".join(given), says)


def file_at_fault(error: BaseException) -> Path | None:
    """The file of conf/ that Hydra was reading or merging when it raised this; its message does not always name it."""
    found = None
    for frame, _ in traceback.walk_tb(error.__traceback__):
        seen = frame.f_locals
        name = seen.get("config_path") or seen.get("path") or getattr(seen.get("default"), "config_path", None)
        if str(frame.f_globals.get("__name__")).startswith("hydra.") and isinstance(name, str):
            path = CONF / (name if name.endswith(".yaml") else f"{name}.yaml")
            found = path if path.parent != CONF and path.is_file() else found
    return found


def about_key(error: OmegaConfBaseException, given: Sequence[str]) -> UserError:
    key = str(error.full_key).partition("[")[0]  # schedule.milestones[0] is about schedule.milestones
    typed = [value for name, _, value in (argument.lstrip("+~").partition("=") for argument in given) if name == key]
    value = error.value if error.value is not None and key == error.full_key else (typed or [""])[-1]
    if isinstance(error, ConfigAttributeError | ConfigKeyError):
        if key in ("sweep", "experiment"):
            return UserError(key, value, "its file needs `# @package _global_` as the first line")
        allowed = no_such("key", key, value, [str(known) for known in error.parent_node or ()]).allowed
        hint = f"; +{key}= for another argument of its _target_" if key.partition(".")[0] in OPEN_GROUPS else ""
        return UserError(key, value, allowed + hint)
    kind = None if isinstance(error, InterpolationResolutionError) else IN_WORDS.get(type_of(key))
    return UserError(key, value, f"must be {kind}" if kind else first_line(error))
