"""What ``--help`` shows, of the workbench's verbs and of the device's alike. Standard library only."""

from __future__ import annotations

import argparse
import inspect
import re
from collections.abc import Mapping, Sequence
from typing import Any

from edgemm.runtime.columns import WIDTH, screen_width, wrapped

EXIT_CODES = "Exit codes: 0 done, 2 an error to mend or a check that failed (a line each on stderr), 130 interrupted."
JSON_HELP = "One line of JSON on stdout instead of text; progress and warnings go to stderr."
HELP_HELP = "Show this message and exit."
_NAMES = 24  # columns that names may take beside their explanations

Section = tuple[str, Sequence[tuple[str, str]]]


def help_text(usage: str, about: str, sections: Sequence[Section], *, examples: Sequence[str]) -> str:
    """Lay out the help of one command, at most 80 columns wide.

    Args:
        usage: ``"edgemm infer [OPTIONS] BUNDLE"``.
        about: paragraphs, parted by empty lines.
        sections: title and its lines, each a name and what it means; empty ones are left out.
        examples: commands that work when pasted.
    """
    width = min(WIDTH, screen_width())
    lines = [f"Usage: {usage}"]
    for paragraph in [*inspect.cleandoc(about).split("\n\n"), EXIT_CODES]:
        lines += ["", *(f"  {line}" for line in wrapped(" ".join(paragraph.split()), width - 2))]
    given = [(title, rows) for title, rows in sections if rows]
    for title, rows in given:
        lines += ["", f"{title}:"]
        column = min(max(len(name) for name, _ in rows), _NAMES)
        for name, text in rows:
            said = wrapped(" ".join(text.split()), width - column - 4)
            if len(name) > column:
                lines.append(f"  {name}")
            else:
                lines.append(f"  {name.ljust(column)}  {said.pop(0)}")
            lines += [f"  {' ' * column}  {line}" for line in said]
    if examples:
        lines += ["", "Examples:", *(line for example in examples for line in _example(example, width))]
    return "\n".join(lines) + "\n"


def _example(command: str, width: int) -> list[str]:
    """The lines of a command: broken before an option where it is too long, so that it still works when pasted."""
    lines: list[str] = []
    for number, piece in enumerate(re.split(r" (?=--|-o )", command)):
        if number and len(f"{lines[-1]} {piece} \\") <= width:
            lines[-1] += f" {piece}"
        elif number:
            lines[-1] += " \\"
            lines.append(f"    {piece}")
        else:
            lines.append(f"  {piece}")
    return lines


class HelpParser(argparse.ArgumentParser):
    """A parser with that help. ``examples`` and ``verbs`` (name -> what it does) are set after it is made."""

    examples: Sequence[str] = ()
    verbs: Mapping[str, HelpParser] = {}

    def __init__(self, **given: Any) -> None:
        super().__init__(**given, add_help=False)
        self.add_argument("-h", "--help", action="help", help=HELP_HELP)

    def format_help(self) -> str:
        """Return the help of the command; argparse prints it for ``--help``."""
        given = [action for action in self._actions if not isinstance(action, argparse._SubParsersAction)]
        arguments = [(str(a.metavar), f"{a.help}  [required]") for a in given if not a.option_strings]
        options = [(_flags(a), str(a.help)) for a in given if a.option_strings]
        options = options[1:] + options[:1]  # --help last
        verbs = [(name, str(parser.description).partition("\n")[0]) for name, parser in self.verbs.items()]
        usage = " ".join([self.prog, "[OPTIONS]", *(["VERB ..."] if verbs else []), *(name for name, _ in arguments)])
        sections = (("Arguments", arguments), ("Options", options), ("Verbs", verbs))
        return help_text(usage, str(self.description), sections, examples=self.examples)

    def flags(self) -> list[tuple[str, str]]:
        """Return every long option and what it means, for a shell that completes it."""
        return [(action.option_strings[-1], str(action.help)) for action in self._actions if action.option_strings]


def _flags(action: argparse.Action) -> str:
    names = ", ".join(action.option_strings)
    return names if action.nargs == 0 else f"{names} {action.metavar}"
