"""Column types that are the same in every database: clean text, JSON of a known type, words of an enum."""

from __future__ import annotations

import enum
import json
from collections.abc import Iterable
from typing import Any, TypeVar

import msgspec
from sqlalchemy import Dialect, Row, Text
from sqlalchemy.types import TypeDecorator

RecordT = TypeVar("RecordT", bound=msgspec.Struct)


def clean(text: str) -> str:
    """The text without what a database refuses: NUL becomes U+FFFD, a lone surrogate a question mark."""
    if not text.isascii():
        text = text.encode("utf-8", "replace").decode()
    return text.replace("\0", "\ufffd")


class Clean(TypeDecorator[str]):
    """Text from outside, stored as `clean` makes it."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        """From Python to the database."""
        return None if value is None else clean(value)


class Json(TypeDecorator[Any]):
    """JSON text that is read back as `kind`; what JSON cannot say (a lone surrogate) is replaced."""

    impl = Text
    cache_ok = True

    def __init__(self, kind: Any = Any) -> None:
        super().__init__()
        self.kind = kind
        self._decode = msgspec.json.Decoder(kind).decode

    def process_bind_param(self, value: Any, dialect: Dialect) -> str | None:
        """From Python to the database; None is NULL."""
        return None if value is None else encode(value)

    def process_result_value(self, value: str | None, dialect: Dialect) -> Any:
        """From the database to Python; raises msgspec.ValidationError when it is not a `kind`."""
        return None if value is None else self._decode(value)


class Word(TypeDecorator[Any]):
    """A member of an enum of strings, stored as its value."""

    impl = Text
    cache_ok = True

    def __init__(self, words: type[enum.StrEnum]) -> None:
        super().__init__()
        self.words = words

    def process_bind_param(self, value: enum.StrEnum | None, dialect: Dialect) -> str | None:
        """From Python to the database."""
        return None if value is None else value.value

    def process_result_value(self, value: str | None, dialect: Dialect) -> enum.StrEnum | None:
        """From the database to Python."""
        return None if value is None else self.words(value)


def records(kind: type[RecordT], rows: Iterable[Row[Any]]) -> list[RecordT]:
    """Rows as structs; their columns are the struct's fields in that order. Mappings would cost more."""
    names = kind.__struct_fields__
    return [kind(**dict(zip(names, row, strict=True))) for row in rows]


def encode(value: Any) -> str:
    """JSON for a column, whatever text a hostile job put into the value."""
    try:
        return msgspec.json.encode(value).decode()
    except UnicodeEncodeError:
        plain = json.dumps(msgspec.to_builtins(value), ensure_ascii=False)
        return plain.encode("utf-8", "replace").decode()
