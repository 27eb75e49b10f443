"""A user's mistake, told in three parts: got, expected, how to fix."""

from collections.abc import Iterable


class UserError(Exception):
    """What the user typed can't be done; the command line prints it and exits with 2.

    Args:
        got: what was found, in the words that the user typed.
        expected: what would have been right.
        fix: what to do now.
    """

    def __init__(self, got: str, expected: str, fix: str):
        super().__init__(got, expected, fix)  # args must rebuild the object, or it can't cross a process
        self.got, self.expected, self.fix = got, expected, fix

    def __str__(self) -> str:
        return f"{self.got}\n  expected: {self.expected}\n  fix: {self.fix}"


def unknown(kind: str, name: str, known: Iterable[str], see: str = "python -m gwfbench list") -> UserError:
    """The error for a name that is not among `known`, with the nearest one suggested."""
    from difflib import get_close_matches

    known = sorted(known)
    near = get_close_matches(name, known, n=1, cutoff=0.5)
    return UserError(
        got=f"no {kind} '{name}'",
        expected=f"one of {', '.join(known)}" if known else f"there is no {kind} to choose",
        fix=(f"did you mean '{near[0]}'? " if near else "") + f"See: {see}",
    )


def require(ok: bool, got: str, expected: str, fix: str) -> None:
    """Raise `UserError(got, expected, fix)` unless `ok`: for the `__post_init__` of tasks and methods."""
    if not ok:
        raise UserError(got, expected, fix)
