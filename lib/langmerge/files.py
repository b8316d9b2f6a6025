"""Files: hashes, writes that are whole or absent, and YAML that takes no key twice.

Language files come from strangers: none may be large, deep, or grow by its aliases.
"""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Hashable
from pathlib import Path
from typing import TypeVar

import yaml
from pydantic import BaseModel, ValidationError
from yaml.composer import Composer
from yaml.constructor import SafeConstructor
from yaml.resolver import Resolver

from langmerge.errors import LangmergeError, readable

Model = TypeVar("Model", bound=BaseModel)

#: A language file has some ten thousand bytes and some four hundred values.
MAX_BYTES = 1_000_000
MAX_VALUES = 50_000
MAX_DEPTH = 30


def sha256(path: Path) -> str:
    """A file's SHA-256 in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_text(path: Path, text: str) -> None:
    """Write a text file under a temporary name and rename it: readers see all of it or none."""
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def append_lines(path: Path, text: str) -> None:
    """Add whole lines to a file, its folder too, on the disk before this returns.

    What a killed run left of a last line goes first, so that no reader meets half of one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    before = path.read_bytes() if path.exists() else b""
    end = before.rfind(b"\n") + 1
    with path.open("r+b" if path.exists() else "w+b") as file:
        file.truncate(end)
        file.seek(end)
        file.write(text.encode())
        file.flush()
        os.fsync(file.fileno())


def read_yaml(path: Path) -> object:
    """What a YAML file says.

    LangmergeError, naming the file, where it is not YAML in UTF-8, has a tag, is nested more
    deeply than MAX_DEPTH, is larger than MAX_BYTES, or where its aliases make more of it than
    MAX_VALUES.
    """
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise LangmergeError(f"{path} has {size:,} bytes; at most {MAX_BYTES:,} are read")
    try:
        return yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except (yaml.YAMLError, UnicodeDecodeError, ValueError) as error:
        raise LangmergeError(f"{path}: {error}") from None


def read_yaml_as(model: type[Model], path: Path) -> Model:
    """A YAML file as a pydantic model; raises LangmergeError naming the file and the key."""
    try:
        return model.model_validate(read_yaml(path))
    except ValidationError as error:
        raise LangmergeError(f"{path}: {readable(error)}") from None


if yaml.__with_libyaml__:
    from yaml.cyaml import CParser

    class _SafeLoader(Composer, CParser, SafeConstructor, Resolver):
        """yaml.SafeLoader that parses with libyaml, in a fraction of the time."""

        def __init__(self, stream: str) -> None:
            CParser.__init__(self, stream)
            Composer.__init__(self)
            SafeConstructor.__init__(self)
            Resolver.__init__(self)

else:  # a build of PyYAML without it
    _SafeLoader = yaml.SafeLoader


class _Loader(_SafeLoader):
    """YAML in which a key given twice is an error; plain YAML silently keeps the last one."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: object) -> yaml.Node | None:
        event = self.peek_event()
        if getattr(event, "tag", None) is not None:
            self._refuse(f"has the tag {event.tag!r}; tags are not read", event.start_mark)
        self.depth += 1
        if self.depth > MAX_DEPTH:
            self._refuse(f"is nested more than {MAX_DEPTH} levels deep", event.start_mark)
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def get_single_node(self) -> yaml.Node | None:
        node = super().get_single_node()
        if node is not None and _values(node, {}) > MAX_VALUES:
            self._refuse(f"its aliases make more than {MAX_VALUES:,} values of it", node.start_mark)
        return node

    @staticmethod
    def _refuse(why: str, where: yaml.Mark) -> None:
        raise yaml.composer.ComposerError(None, None, why, where)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen: set[object] = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                continue  # an error that SafeLoader reports with its place
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"{key!r} is given twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


def _values(node: yaml.Node, known: dict[int, int]) -> int:
    """How many values a node comes to when every alias is written out."""
    if id(node) not in known:
        known[id(node)] = MAX_VALUES + 1  # until it is counted: one that contains itself is endless
        inside: list[yaml.Node] = []
        if isinstance(node, yaml.SequenceNode):
            inside = node.value
        elif isinstance(node, yaml.MappingNode):
            inside = [part for pair in node.value for part in pair]
        known[id(node)] = 1 + sum(_values(part, known) for part in inside)
    return known[id(node)]
