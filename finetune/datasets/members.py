"""Which members of an archive are safe to unpack: files and folders inside the target folder."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from finetune.errors import FinetuneError

Kind = Literal["file", "folder", "link"]  # link: also a device, and anything else that is neither file nor folder


@dataclass(frozen=True)
class Member:
    name: str
    kind: Kind


def require_safe_members(archive: Path, members: Iterable[Member]) -> None:
    """Raise FinetuneError with the first unsafe member: an absolute path, `..`, a drive, a link, a device."""
    for member in members:
        parts = re.split(r"[/\\]", member.name)
        outside = parts[0] == "" or ".." in parts or re.match(r"[A-Za-z]:", member.name) or "\0" in member.name
        if outside:
            problem = "would be written outside the folder"
        elif member.kind == "link":
            problem = "is a link or a device, which can lead outside the folder"
        else:
            continue
        raise FinetuneError(f"{archive}: member {member.name!r} {problem}; nothing was unpacked")
