"""Reads Qt's compiled resources (.rcc, format versions 1 to 3): one file that holds a tree of files."""

import struct
import zlib
from pathlib import Path

_COMPRESSED, _DIRECTORY, _ZSTANDARD = 1, 2, 4


class QtResources:
    """The files of one .rcc file, decompressed when they are asked for.

    Args:
        path: An .rcc file.

    Raises:
        ValueError: It is not a resource file.
    """

    def __init__(self, path: Path) -> None:
        self._content = path.read_bytes()
        try:
            magic, version, self._tree, self._data, self._names = struct.unpack_from(">4s4I", self._content)
            if magic != b"qres":
                raise ValueError(f"{path} is not a Qt resource file")
            self._node_size = 14 if version == 1 else 22
            self._files: dict[str, tuple[int, int]] = {}
            self._index(0, "")
        except (struct.error, IndexError, RecursionError) as error:
            raise ValueError(f"{path} is a damaged Qt resource file") from error

    def __contains__(self, name: str) -> bool:
        return name in self._files

    def read(self, name: str) -> bytes:
        """Returns the content of one file.

        Raises:
            KeyError: There is no such file.
            ValueError: It is compressed in a way that is not supported here, or damaged.
        """
        flags, offset = self._files[name]
        (size,) = struct.unpack_from(">I", self._content, offset)
        content = self._content[offset + 4 : offset + 4 + size]
        if flags & _ZSTANDARD:
            raise ValueError(f"{name} is compressed with Zstandard, which is not supported")
        try:
            return zlib.decompress(content[4:]) if flags & _COMPRESSED else content
        except zlib.error as error:
            raise ValueError(f"{name} is damaged") from error

    def _index(self, node: int, path: str) -> None:
        start = self._tree + node * self._node_size
        name_offset, flags = struct.unpack_from(">IH", self._content, start)
        if node:
            path = f"{path}/{self._name(name_offset)}" if path else self._name(name_offset)
        if flags & _DIRECTORY:
            count, first = struct.unpack_from(">II", self._content, start + 6)
            for child in range(first, first + count):
                self._index(child, path)
        else:
            # Between flags and offset lie the country and the language.
            self._files[path] = flags, self._data + struct.unpack_from(">I", self._content, start + 10)[0]

    def _name(self, offset: int) -> str:
        start = self._names + offset
        (length,) = struct.unpack_from(">H", self._content, start)
        return self._content[start + 6 : start + 6 + 2 * length].decode("utf-16-be")
