"""What an answer says: yes, no, or neither.

Two rules. `leading` is the strict one and the default: the first word, or "other". `cares` is the
rule of the only scorer that this family of papers has released; it calls everything that does not
say no a yes, and stands here so that published figures can be compared with.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Literal

Label = Literal["yes", "no"]
Verdict = Literal["yes", "no", "other"]
Rule = Literal["leading", "cares"]

_LEADING = re.compile(
    r"[\W_]*"  # quotes, markup, a list mark
    r"(?:(?P<yes>[Yy][Ee][Ss])|[Nn][Oo])"
    r"(?![^\W_])"  # "yesterday", "not", "no2"
    r"(?!['’\-][^\W_])"  # "no-one", "yes'm"
    r"(?!\W*/\W*[^\W_])"  # "yes/no"
    r"(?!\W*[|\\]\W*(?:[Yy][Ee][Ss]|[Nn][Oo])(?![^\W_]))"  # "yes | no"
    r"(?![\W_]+(?:[Oo][Rr]|[Aa][Nn][Dd])[\W_]+(?:[Yy][Ee][Ss]|[Nn][Oo])(?![^\W_]))"
)
_CARES_NO = frozenset({"No", "no", "not"})


def leading(text: str) -> Verdict:
    """Return what the first word says.

    Punctuation and markup before it do not count, nor does its case. Whatever else comes first
    ("Answer: yes", "The image shows no ...", "None", an empty text) is ``"other"``, and so is the
    choice handed back: "yes/no", "yes or no", "yes and no".

    Examples
    --------
    >>> leading("**No**, the lungs are clear."), leading("Yes."), leading("Not visible.")
    ('no', 'yes', 'other')
    """
    match = _LEADING.match(text)
    if match is None:
        return "other"
    return "yes" if match["yes"] else "no"


def cares(text: str) -> Label:
    """Return what the rule published with CARES makes of an answer, bit for bit.

    Keep the text before the first full stop, remove commas, split at single blanks; any word that
    is exactly ``No``, ``no`` or ``not`` makes it no, and everything else is yes. So an empty text,
    a refusal and ``NO`` are yes, a line break glues two words together, and "Yes, with no ..." is
    no.

    Examples
    --------
    >>> cares("There is no effusion."), cares("NO"), cares("")
    ('no', 'yes', 'yes')
    """
    words = text.split(".")[0].replace(",", "").split(" ")
    return "yes" if _CARES_NO.isdisjoint(words) else "no"


RULES: dict[str, Callable[[str], Verdict]] = {"leading": leading, "cares": cares}
"""The rules by name."""


def rule_named(name: str) -> Callable[[str], Verdict]:
    """Return a rule.

    Raises
    ------
    ValueError
        If there is none of that name.
    """
    if name not in RULES:
        raise ValueError(f"rule is {name!r}; there are: {', '.join(RULES)}")
    return RULES[name]
