"""Names of splits: one split however its name is spelled.

Letter case and white space around a name don't count, and the two splits that edgemm itself knows, ``train`` and
``unlabelled``, are known in their other spellings. Other names stay the data's own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from edgemm.data.dataset import UNLABELLED
from edgemm.runtime.errors import DataError

_OURS = {"training": "train", "unlabeled": UNLABELLED, "un-labelled": UNLABELLED, "un-labeled": UNLABELLED}
_ALIKE = (
    frozenset({"val", "valid", "validation", "validate", "dev", "development"}),
    frozenset({"test", "testing", "eval", "evaluation"}),
)


def split_of(name: str) -> str:
    """Return the split that a name means.

    Law: applied again it changes nothing.
    """
    folded = name.strip().lower()
    return _OURS.get(folded, folded)


def find_split(name: str, splits: Sequence[str]) -> str:
    """Return which of the data's splits a recipe names, which may spell it otherwise.

    Raises:
        DataError: none of them, or several.
    """
    if name in splits:
        return name
    found = [each for each in splits if split_of(each) == split_of(name)]
    found = found or [each for each in splits if any({split_of(each), split_of(name)} <= names for names in _ALIKE)]
    if len(found) != 1:
        raise DataError(f"no split '{name}' in the data; there are {', '.join(splits)}")
    return found[0]


def spelling_notes(names: Iterable[str], *, where: str) -> list[str]:
    """Return lines on names that are read as others, and on splits that are measured apart though they may be one.

    Args:
        names: as the data spells them.
        where: begins the lines.
    """
    names = list(dict.fromkeys(names))
    notes = [f"note: {where}: split '{name}' is read as '{split_of(name)}'" for name in names if split_of(name) != name]
    splits = list(dict.fromkeys(map(split_of, names)))
    for alike in _ALIKE:
        if len(apart := [split for split in splits if split in alike]) > 1:
            both = " and ".join(map(repr, apart))
            notes.append(f"note: {where}: splits {both} are measured apart; if they are one, give them one name")
    return notes
