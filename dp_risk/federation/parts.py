"""Messages come in parts, and a part may be named often: how large they are in memory."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping

from dp_risk.types import Refused

# A message is weights and a plan, or a release. Flower cuts arrays into chunks of 20 MB.
MAX_MESSAGE_BYTES, MAX_OBJECT_BYTES, MAX_OBJECTS = 256 * 2**20, 32 * 2**20, 4096
Head = Callable[[bytes], tuple[str, list[str], int]]


def check_expanded(root: str, objects: Mapping[str, bytes], most: int, head: Head) -> None:
    """Refuse what is small on the way and large in memory: one chunk or array named many times.

    Parameters
    ----------
    root : str
        Id of the message.
    objects : mapping of str to bytes
        All of its parts by id.
    most : int
        Largest size in bytes.
    head : callable
        Returns an object's kind, the ids of its children and the length of its body.

    Raises
    ------
    Refused
        If it is larger; a part that is none raises what it likes.
    """
    sizes: dict[str, int] = {}

    def size(name: str) -> int:
        if name not in sizes:
            content = objects[name]
            kind, children, length = head(content)
            body = content[len(content) - length :]
            if kind == "Array":
                named = [children[at] for at in json.loads(body)["arraychunk_ids"]]
            elif kind in ("ArrayRecord", "RecordDict"):
                named = list(json.loads(body).values())
            else:
                named = children
            sizes[name] = length + sum(size(child) for child in named)
        return sizes[name]

    if size(root) > most:
        raise Refused(f"a message that expands above {most} bytes")
