"""Files that a table names, found as other systems write their names."""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path

from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.files.tables.text import lines_of, undecodable

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_DRIVE = re.compile(r"[A-Za-z]:[\\/]")
_TEXT_FILE = re.compile(r"[^\r\n]{1,400}\.txt", re.IGNORECASE)


class FileFinder:
    """Finds files by the names that stand in a table.

    Parameters
    ----------
    home : Path
        The table's own folder.
    images : Path
        What relative paths of images are relative to.
    """

    def __init__(self, home: Path, images: Path) -> None:
        self.home = home
        self.images = images
        self._listings: dict[Path, dict[str, str | None]] = {}

    def find(self, name: str) -> str:
        """Return the path of an image; of one that does not exist, the path as it is named.

        Backslashes part folders where the name as it stands does not exist, and letters may be
        composed in another way (a macOS disk holds decomposed ones). A web address stays one.

        Raises
        ------
        InputError
            If it begins with a drive of Windows.
        """
        return self._find(name.strip(), self.images)

    def _find(self, name: str, folder: Path) -> str:
        if _ADDRESS.match(name):
            return name
        plain = folder / name
        try:
            if plain.exists():
                return str(plain)
            if _DRIVE.match(name) and not Path(name).is_absolute():
                raise InputError(
                    "a file is named by a drive of Windows: name it relative to the table, or to "
                    "the folder of the images (--images)"
                )
            names = (name, name.replace("\\", "/"))
            candidates = (self._spelled(folder, Path(item)) for item in names)
            return str(next((path for path in candidates if path is not None), plain))
        except (OSError, ValueError):  # too long a name, or a character 0
            return str(plain)

    def _spelled(self, folder: Path, name: Path) -> Path | None:
        """Follow a path part by part, whichever way its letters are composed."""
        path = Path(name.anchor) if name.is_absolute() else folder
        for part in name.relative_to(name.anchor).parts:
            step = path / part
            if not step.exists():
                entry = self._listing(path).get(unicodedata.normalize("NFC", part))
                if entry is None:
                    return None
                step = path / entry
            path = step
        return path

    def _listing(self, folder: Path) -> dict[str, str | None]:
        """Return the names in a folder by their composed form, None where two have the same."""
        if folder not in self._listings:
            entries: dict[str, str | None] = {}
            for entry in folder.iterdir() if folder.is_dir() else ():
                key = unicodedata.normalize("NFC", entry.name)
                if not entry.name.isascii():
                    entries[key] = None if key in entries else entry.name
            self._listings[folder] = entries
        return self._listings[folder]

    def text_file(self, text: str, encoding: str | None, limit: int) -> str | None:
        """Return the contents of the text file that a cell names, None if it names none.

        Parameters
        ----------
        text : str
            What stands in the cell. One line that ends in ``.txt`` is a name, relative to the
            table's folder or that of the images.
        encoding : str or None
        limit : int
            Characters above which the file is not read to its end.

        Raises
        ------
        InputError
            If it cannot be read. The message does not name it.
        """
        name = text.strip()
        if not _TEXT_FILE.fullmatch(name):
            return None
        paths = (Path(self._find(name, folder)) for folder in (self.home, self.images))
        path = next((path for path in paths if path.is_file()), None)
        if path is None:
            raise InputError("the report is the name of a text file that does not exist")
        try:
            with path.open("rb") as handle:
                large = len(handle.read(4 * limit + 1)) > 4 * limit
            content = "" if large else "".join(lines_of(path, encoding))
        except (OSError, InputError):
            raise InputError("the report's text file cannot be read") from None
        if large:
            raise InputError(f"the report's text file is longer than {limit:,} characters")
        if undecodable(content, encoding):
            raise InputError(f"the report's text file is not {encoding or 'UTF-8'} text")
        return content
