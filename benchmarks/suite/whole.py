"""A file that is written whole, or the one that was there stays."""

from contextlib import suppress
from pathlib import Path

from benchmarks.suite.record import ResultsError


def write_whole(path: Path, text: str, *, option: str) -> None:
    """Raises `ResultsError` naming `option`, which says where the file goes, when it cannot be written."""
    part = path.with_name(f"{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(text)
        part.replace(path)
    except OSError as error:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise ResultsError(f"cannot write {path}: {error.strerror or error}; free some space or give another {option}") from None
