"""The run-time checks of the tests: beartype on the package's functions, and jaxtyping's axes where a signature has some.

jaxtyping's own hook binds each call of each function to its signature and checks the arguments twice, which took more than half
of a test's time; few functions have axes. Functions within functions are left out: they would be checked anew at each call.
"""

import inspect
from typing import Any

import jaxtyping
from beartype import BeartypeConf, beartype

_jaxtyped = jaxtyping.jaxtyped
typechecked = beartype(conf=BeartypeConf(is_pep484_tower=True))  # to which an int is a float, as in static typing


def _checked(definition, typechecker):
    if inspect.isclass(definition):
        return _jaxtyped(definition, typechecker=typechecker)
    if "<locals>" in definition.__qualname__:
        return definition
    definition.__annotations__ = {name: _hint(hint, definition) for name, hint in definition.__annotations__.items()}
    has_axes = any("Tensor, " in str(hint) for hint in definition.__annotations__.values())
    return _jaxtyped(typechecked(definition), typechecker=None) if has_axes else typechecked(definition)


def _hint(hint, function):
    """The type that an annotation names; Any where it is not known yet, or to mypy alone."""
    try:
        return eval(hint, function.__globals__) if isinstance(hint, str) else hint
    except NameError:
        return Any


def install(package):
    """Check ``package`` from its first import on."""
    jaxtyping.jaxtyped = lambda *, typechecker: lambda definition: _checked(definition, typechecker)
    jaxtyping.install_import_hook(package, "typechecker.typechecked")
