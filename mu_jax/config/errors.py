"""What a bad setting, and bad input of any kind, raises."""

import difflib


class InputError(ValueError):
    """Bad input from outside: the message is one sentence saying what was got, what was expected, and the fix."""


def require(condition: bool, key: str, got: object, expected: str) -> None:
    """InputError, with the flag that changes the setting, unless the condition holds."""
    if not condition:
        raise InputError(f"{key} is {got!r}, but expected {expected}; change it with --config.{key}=VALUE.")


def one_of(key: str, got: str, choices: tuple[str, ...]) -> None:
    """InputError, with the nearest choice, for a name that is none of them."""
    close = difflib.get_close_matches(str(got), choices, n=1)
    hint = f" (did you mean {close[0]!r}?)" if close and got not in choices else ""
    require(got in choices, key, got, "one of " + ", ".join(choices) + hint)
