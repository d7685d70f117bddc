"""Keyword options that are refused when they are mistyped, by name and with a near match."""

import difflib
import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


def refuse_typos(function: Callable[P, R]) -> Callable[P, R]:
    """Have `function` answer an option that it does not know with TypeError and a near match."""
    parameters = inspect.signature(function).parameters.values()
    named = [it.name for it in parameters if it.kind is not inspect.Parameter.POSITIONAL_ONLY]

    @functools.wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        check_names(function.__name__, kwargs, named)
        return function(*args, **kwargs)

    return checked


def check_names(called: str, given: Iterable[str], known: Iterable[str]) -> None:
    """Raise TypeError for the first of `given` names that is none of the `known` ones."""
    names = [name for name in known if name != "self"]
    for name in given:
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            hint = f": did you mean {near[0]}?" if near else f": it takes {', '.join(names)}"
            raise TypeError(f"{called}() has no option {name}{hint}")


def takes_what(other: Callable[P, Any]) -> Callable[[Callable[..., R]], Callable[P, R]]:
    """Give a function that passes everything on the parameters of the one it passes it to."""

    def wrap(function: Callable[..., R]) -> Callable[P, R]:
        function.__signature__ = inspect.signature(other).replace(  # type: ignore[attr-defined]
            return_annotation=function.__annotations__.get("return")
        )
        return function

    return wrap
