"""Thrift's compact protocol, as far as Parquet writes its footers and page headers in it."""

from __future__ import annotations

from typing import Any

__all__ = ["ThriftReader"]


class ThriftReader:
    """Reads Thrift's compact protocol: a struct is a dict by field number.

    Raises:
        ValueError: More than ``n_values`` values, or one of a kind that Parquet does not use here.
        IndexError: The data ends too early.
    """

    def __init__(self, data: memoryview, at: int, n_values: int) -> None:
        self.at = at
        self._data, self._left = data, n_values

    def struct(self) -> dict[int, Any]:
        """The struct that starts here; :attr:`at` moves behind it."""
        fields: dict[int, Any] = {}
        number = 0
        while head := self._byte():
            number = number + (head >> 4) if head >> 4 else self._number()
            if number in fields:  # of which readers may take the first or the last
                raise ValueError("damaged Thrift")
            fields[number] = self._value(head & 15)
        return fields

    def _value(self, kind: int) -> Any:
        self._left -= 1
        if self._left < 0:
            raise ValueError("Thrift of too many values")
        if kind in (1, 2):
            return kind == 1
        if kind == 3:
            return self._byte()
        if kind in (4, 5, 6):
            return self._number()
        if kind == 8:
            length = self._varint()
            self.at += length
            return bytes(self._data[self.at - length : self.at])
        if kind == 9:
            return self._list()
        if kind == 12:
            return self.struct()
        raise ValueError("damaged Thrift")

    def _list(self) -> list[Any]:
        head = self._byte()
        length, kind = head >> 4, head & 15
        if kind in (1, 2):  # as items, flags are encoded otherwise; Parquet has none here
            raise ValueError("damaged Thrift")
        return [self._value(kind) for _ in range(self._varint() if length == 15 else length)]

    def _byte(self) -> int:
        byte = self._data[self.at]
        self.at += 1
        return byte

    def _varint(self) -> int:
        value = 0
        for shift in range(0, 70, 7):
            byte = self._byte()
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
        raise ValueError("damaged Thrift")

    def _number(self) -> int:
        value = self._varint()
        return (value >> 1) ^ -(value & 1)
