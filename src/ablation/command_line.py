"""Between the shell and Hydra: one clear line and exit status 2 for a user's mistake, never a traceback.

Hydra prints its errors itself, over several lines and with status 1, unless HYDRA_FULL_ERROR asks for the exception.
`hydra_command` asks for it and turns what Hydra and OmegaConf know about the fault into a `UserError`.
"""

import difflib
import os
import re
import sys
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, NoReturn

from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf.errors import OmegaConfBaseException

from ablation.config import ROOT, Config
from ablation.errors import UserError
from ablation.outcome import Outcome

USER_MISTAKE = 2
"""Exit status of a run that was never begun because the input was wrong."""


def hydra_command(main: Callable[[], Any]) -> None:
    """Run a `@hydra.main` function as the whole program, with the exit status of its outcome."""
    sys.path.insert(0, str(ROOT / "src"))  # Hydra looks for plugins here, workers for the package
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT / "src"), *filter(None, [os.environ.get("PYTHONPATH")])])
    wants_traceback = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        main()
    except UserError as error:
        fail(error)
    except (HydraException, OmegaConfBaseException) as error:
        if wants_traceback:
            raise
        fail(translate(error))


def job(work: Callable[[], Outcome]) -> Outcome:
    """`work` as one Hydra job: in a sweep its outcome is for the summary; alone, the program leaves with its status.

    It leaves from here, with SystemExit, because Hydra would forget the outcome, and add lines of its own to an error.
    """
    alone = HydraConfig.get().mode == RunMode.RUN
    try:
        outcome = work()
    except UserError as error:
        if alone:
            fail(error)
        print(error, file=sys.stderr, flush=True)
        return Outcome("", None, "failed", str(error))
    if alone:
        sys.exit(outcome.exit_status)
    return outcome


def fail(error: UserError) -> NoReturn:
    """Print the one line and leave."""
    print(error, file=sys.stderr)
    sys.exit(USER_MISTAKE)


def translate(error: BaseException) -> UserError:
    """The `UserError` that says what `error`, raised by Hydra or OmegaConf, means to the user."""
    texts = []
    chain: BaseException | None = error
    while chain is not None:
        texts.append(str(chain))
        chain = chain.__cause__ or chain.__context__
    text = "\n".join(texts)
    typed = " ".join(sys.argv[1:])

    if found := re.search(r"could not be converted to (\w+)", text) or re.search(r"(\w+) is not a subclass", text):
        value = re.search(r"Value '(.*?)'", text)
        key = re.search(r"full_key: (\S+)", text)
        kinds = {"Integer": "a whole number", "Float": "a number", "Boolean": "true or false"}
        allowed = f"must be {kinds.get(found[1], found[1])}"
        return UserError(key[1] if key else "config", value[1] if value else "", allowed)
    if found := re.search(r"Could not find '(\S+?)/(\S+)'", text):
        group, name = found[1], found[2].strip("'")
        return UserError(group, name, choices(group, name))
    if found := re.search(r"Could not override '(\S+?)'", text):
        return unknown_key(found[1].rstrip(".'"), typed)
    if found := re.search(r"In '.*?': (?:Could not .*|.*) '(\S+?)'\.?.*No match in the defaults list", text, re.DOTALL):
        return unknown_key(found[1], typed)
    if found := re.search(r"Key '(\S+)' (?:is )?not in ", text):
        key = re.search(r"full_key: (\S+)", text)
        return unknown_key(key[1] if key else found[1], typed)
    first = next((line for line in text.splitlines() if line.strip()), type(error).__name__)
    return UserError("command line", typed, first.strip())


def choices(group: str, name: str) -> str:
    """What may be chosen for `group` in place of the unknown `name`."""
    known = sorted(path.stem for path in (ROOT / "conf" / group).glob("*.yaml"))
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    return f"{hint}allowed: {', '.join(known) or 'nothing'}"


def unknown_key(key: str, typed: str) -> UserError:
    """A key, possibly nested, that the configuration does not have."""
    given = re.search(rf"(?:^|\s)[+~]*{re.escape(key)}(?:@\S+)?=(\S*)", typed)
    parent, _, last = key.rpartition(".")
    known = keys_of(parent)
    near = difflib.get_close_matches(last, known, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    return UserError(key, given[1] if given else "", f"no such key; {hint}allowed: {', '.join(known)}")


def keys_of(dotted: str) -> list[str]:
    """The keys that the schema has under `dotted` ("" is the top)."""
    node: Any = Config()
    for part in filter(None, dotted.split(".")):
        node = getattr(node, part, None)
    groups = [path.name for path in (ROOT / "conf").iterdir() if path.is_dir()]
    if not dotted:
        return sorted({entry.name for entry in fields(Config)} | set(groups) - {"hydra"})
    return sorted(entry.name for entry in fields(node)) if is_dataclass(node) else ["see " + str(Path("conf") / dotted)]
