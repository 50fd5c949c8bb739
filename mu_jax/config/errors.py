"""What a bad setting, and bad input of any kind, raises."""

import difflib

_LONGEST = 2_000


class InputError(ValueError):
    """Bad input from outside: the message is one sentence saying what was got, what was expected, and the fix.

    It is on one line whatever it quotes, by `one_line`.
    """

    def __init__(self, message: object) -> None:
        super().__init__(one_line(message))


def one_line(message: object) -> str:
    """The text, with a blank for each character that a terminal would obey rather than show (line breaks, escapes).

    Of thousands of characters, those in the middle are left out.
    """
    text = "".join(character if character.isprintable() else " " for character in str(message).strip())
    if len(text) > _LONGEST:
        text = f"{text[: _LONGEST // 2]} … {text[-_LONGEST // 2 :]}"
    return text


def require(condition: bool, key: str, got: object, expected: str) -> None:
    """InputError, with the flag that changes the setting, unless the condition holds."""
    if not condition:
        raise InputError(f"{key} is {got!r}, but expected {expected}; change it with --config.{key}=VALUE.")


def one_of(key: str, got: object, choices: tuple[str, ...]) -> None:
    """InputError, with the nearest choice, for a name that is none of them."""
    close = difflib.get_close_matches(str(got), choices, n=1)
    hint = f" (did you mean {close[0]!r}?)" if close and got not in choices else ""
    require(got in choices, key, got, "one of " + ", ".join(choices) + hint)
