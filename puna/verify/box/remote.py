"""An object of the program under test as the judge sees it: a reference whose uses become calls into the other process.

Where it holds plain data (an instance of a subclass of `list`, say) it is compared as that data. Else it never equals plain data
and does not compute with it: the program's own operators would then be told the expected value, or would be the judge. Between
two objects of the program its own operators decide.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator
from typing import Any, Protocol

NOTHING = object()


class Caller(Protocol):
    """Calls into the program."""

    def call(self, function: Any, *args: Any, **kwargs: Any) -> Any:
        """The result of a function of the program or of the standard library, computed there."""

    def look(self, remote: Remote) -> Any:
        """What an object of the program holds by now."""


class Remote:
    """A reference. `number` is the object's in the other process, `plain` what it holds or NOTHING."""

    __slots__ = ("__weakref__", "_caller", "_number", "_plain")

    def __init__(self, caller: Caller, number: int, plain: Any = NOTHING):
        for name, value in (("_caller", caller), ("_number", number), ("_plain", plain)):
            object.__setattr__(self, name, value)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._caller.call(self, *args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name not in ("__name__", "__doc__", "__qualname__", "__annotations__", "__dict__"):
            raise AttributeError(name)
        return self._caller.call(getattr, self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._caller.call(setattr, self, name, value)

    def __iter__(self) -> Iterator[Any]:
        iterator = self._caller.call(iter, self)
        if not isinstance(iterator, Remote):
            raise TypeError("an iterator was expected")
        while True:
            try:
                yield self._caller.call(next, iterator)
            except StopIteration:
                return

    def __next__(self) -> Any:
        return self._caller.call(next, self)

    def __setitem__(self, key: Any, value: Any) -> None:
        self._caller.call(operator.setitem, self, key, value)

    def __delitem__(self, key: Any) -> None:
        self._caller.call(operator.delitem, self, key)

    def __enter__(self) -> Any:
        return self._caller.call(operator.methodcaller, "__enter__")(self)

    def __exit__(self, *error: object) -> None:
        self._caller.call(operator.methodcaller, "__exit__", None, None, None)(self)

    def __instancecheck__(self, value: Any) -> bool:
        return self._caller.call(isinstance, value, self) is True

    def __subclasscheck__(self, value: Any) -> bool:
        return self._caller.call(issubclass, value, self) is True

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        import copy

        return self._caller.call(copy.deepcopy, self)

    def __copy__(self) -> Any:
        import copy

        return self._caller.call(copy.copy, self)

    def __hash__(self) -> int:
        return hash(("remote", self._number)) if self._plain is NOTHING else hash(self._plain)


def _held(value: Any) -> Any:
    """What an object holds now, NOTHING if it holds no plain data; a plain value itself."""
    if not isinstance(value, Remote) or type(value._plain) not in (list, dict, set):
        return value._plain if isinstance(value, Remote) else value
    return value._caller.look(value)


def _unary(function: Any, kind: Any = None) -> Any:
    def method(self: Remote, *args: Any) -> Any:
        if self._plain is not NOTHING and function not in (str, repr):
            return function(_held(self), *args)
        found = self._caller.call(function, self, *args)
        if kind is not None and type(found) is not kind:
            raise TypeError(f"{function.__name__}() of the program's object gave no {kind.__name__}")
        return found

    return method


def _binary(function: Any, *, swapped: bool = False, unlike: Any = NOTHING) -> Any:
    def method(self: Remote, other: Any) -> Any:
        mine, theirs = _held(self), _held(other)
        if mine is not NOTHING and theirs is not NOTHING:
            return function(theirs, mine) if swapped else function(mine, theirs)
        if isinstance(other, Remote):
            return self._caller.call(function, *((other, self) if swapped else (self, other)))
        if unlike is not NOTHING:
            return unlike
        raise TypeError(f"{function.__name__} of an object of the program and a plain value is not judged")

    return method


for _function in (operator.add, operator.sub, operator.mul, operator.truediv, operator.floordiv, operator.mod, operator.pow,
                  operator.matmul, operator.and_, operator.or_, operator.xor, operator.lshift, operator.rshift):  # fmt: skip
    _name = _function.__name__.strip("_")
    setattr(Remote, f"__{_name}__", _binary(_function))
    setattr(Remote, f"__r{_name}__", _binary(_function, swapped=True))
for _function in (operator.lt, operator.le, operator.gt, operator.ge):
    setattr(Remote, f"__{_function.__name__}__", _binary(_function))
Remote.__eq__ = _binary(operator.eq, unlike=False)  # type: ignore[method-assign]
Remote.__ne__ = _binary(operator.ne, unlike=True)  # type: ignore[method-assign]
_UNARY: dict[str, tuple[Any, type | None]] = {  # a function, and the type of what it must give
    "len": (len, int), "bool": (bool, bool), "str": (str, str), "repr": (repr, str), "int": (int, int), "float": (float, float),
    "index": (operator.index, int), "format": (format, str), "round": (round, None), "abs": (abs, None),
    "neg": (operator.neg, None), "getitem": (operator.getitem, None),
}  # fmt: skip
for _name, (_of, _kind) in _UNARY.items():
    setattr(Remote, f"__{_name}__", _unary(_of, _kind))
