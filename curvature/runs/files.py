"""Files that are whole or not there: written under a temporary name, then renamed."""

import json
import os
import secrets
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from curvature.runs.messages import one_line


class CannotWriteError(OSError):
    """No room, no right, no folder: the file isn't there, or is what it was before."""


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write ``text`` as UTF-8; the folder is made where it is missing."""
    write_whole(path, lambda file: file.write(text.encode()))


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write ``value`` as JSON that people can read."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path, what: str) -> dict[str, Any]:
    """The object in a JSON file; another content is refused with its line."""
    require_file(path, what)
    try:
        value = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON ({one_line(error)}).") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path} is no {what}: it is not an object {{…}}.")
    return value


def write_whole(path: str | os.PathLike[str], write: Callable[[BinaryIO], object]) -> None:
    """Let ``write`` fill a file that takes the name ``path`` only once it is safe on disk."""
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a directory; name a file to write.")
    if path.exists() and not path.is_file():  # /dev/stdout, say, can't be renamed onto
        with path.open("wb") as file:
            write(file)
        return
    temporary = path.with_name(f".{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("xb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        if error.errno is None:
            raise
        raise CannotWriteError(
            error.errno, f"can't be written ({error.strerror})", str(path)
        ) from error
    finally:
        with suppress(OSError):  # where the folder itself is out of reach
            temporary.unlink(missing_ok=True)


def require_file(path: Path, what: str, *, empty: bool = False) -> None:
    """Refuse what can't be read as a file, in one line each; ``empty``: it may be."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        link = f" (a link to {os.readlink(path)})" if path.is_symlink() else ""
        raise FileNotFoundError(f"There is no {what} at {path}{link}.") from None
    except NotADirectoryError:
        raise NotADirectoryError(
            f"There is no {what} at {path}: {path.parent} is a file."
        ) from None
    except OSError as error:
        raise OSError(f"The {what} {path} can't be read: {error.strerror}.") from None
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(f"{path} is a directory, not a {what}.")
    if not stat.S_ISREG(mode):
        raise ValueError(f"{path} is neither a file nor a link to one, so it is no {what}.")
    if not empty and path.stat().st_size == 0:
        raise ValueError(f"{path} is empty, so it is no {what}: it may have been cut short.")
