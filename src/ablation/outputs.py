"""Where a command writes: tried out before the work, so that a place that is none does not cost the result."""

from pathlib import Path
from tempfile import TemporaryFile

from ablation.errors import UserError


def check_writable(key: str, path: Path) -> None:
    """Raise UserError, about `key`, unless `path` could be made, with its folders, or be written in if it is one.

    It leaves nothing behind. A file is really made in the nearest folder: permissions say nothing to root, or in /proc.
    """
    try:
        place = path.absolute()
        while not exists(place):
            place = place.parent
        with TemporaryFile(dir=place if place.is_dir() else place.parent):
            pass
    except OSError as error:
        raise cannot_write(key, path, error) from None


def exists(path: Path) -> bool:
    """Whether it is there. Raises OSError for an impossible place, where Path.exists says no to some."""
    try:
        path.stat()
    except FileNotFoundError:
        return False
    return True


def cannot_write(key: str, path: Path, error: OSError) -> UserError:
    """The one line for a place that cannot be written."""
    return UserError(key, path, f"cannot be written: {error.strerror or error}")
