"""Files that no program asked for: what file managers, editors and network disks leave anywhere.

They are passed over wherever whorl looks at a folder's content: never read, never deleted, and
no reason to refuse what lies beside them.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import PurePath

__all__ = ["is_clutter"]

PATTERNS = (
    *(".ds_store", "._*", ".appledouble", ".localized", "icon\r", "__macosx"),  # macOS
    *(".spotlight-v100", ".trashes", ".fseventsd"),
    *("thumbs.db", "ehthumbs.db", "desktop.ini", "$recycle.bin", "system volume information"),
    *(".directory", ".trash-*", "lost+found"),  # Linux desktops and disks
    *(".nfs*", ".fuse_hidden*", ".smbdelete*", ".afs*", "@eadir"),  # network disks
    *("*~", ".*.sw?", "#*#", ".#*", "*.bak", "*.orig"),  # editors
    *(".stfolder", ".sync-conflict*", ".dropbox", ".dropbox.cache"),  # synchronised folders
)


def is_clutter(path: PurePath | str) -> bool:
    """Whether a file, or a folder it lies in, is such a one; path: relative to the folder."""
    parts = PurePath(path).parts
    return any(fnmatchcase(part.lower(), pattern) for part in parts for pattern in PATTERNS)
