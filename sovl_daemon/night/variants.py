"""Questions about a statement, by the forms of English grammar.

Facts stick when they are met in many forms (Allen-Zhu and Li 2023, Yang et al. 2024): asked for in
several ways, completed, and asked for backwards, which a model does not infer (Berglund et al.
2023).
"""

from dataclasses import dataclass

from sovl_daemon.night.statement import Kind, Statement


@dataclass(frozen=True, slots=True)
class Exchange:
    """What a user may say and what the right answer is."""

    question: str
    answer: str


_OF = (
    "What is the {r} of {s}?",
    "What is {s}'s {r}?",
    "Tell me the {r} of {s}.",
    "Do you know the {r} of {s}?",
    "I would like to know {s}'s {r}.",
    "{s}: {r}?",
    "The {r} of {s} is",
    "About {s}: which {r} does it have?",
)
_OF_BACK = (
    "{o} is the {r} of what?",
    "Whose {r} is {o}?",
    "What has {o} as its {r}?",
    "{o}: {r} of?",
    "To what or whom does the {r} {o} belong?",
)
_MY = ("What is my {r}?", "Tell me my {r}.", "Do you know my {r}?", "My {r} is", "My {r}?")
_BY = (
    "Who {r} {s}?",
    "By whom was {s} {r}?",
    "Tell me who {r} {s}.",
    "Do you know who {r} {s}?",
    "{s} was {r} by",
    "{s}: {r} by?",
)
_BY_BACK = (
    "What was {r} by {o}?",
    "What is it that {o} {r}?",
    "Tell me what {o} {r}.",
    "{o}: {r} what?",
)
_AGE = (
    "How old is {s}?",
    "What is the age of {s}?",
    "Tell me {s}'s age.",
    "How many years old is {s}?",
    "{s}: age?",
    "{s}'s age in years is",
)
_AGE_BACK = (
    "Who is {o} years old?",
    "Who has the age of {o}?",
    "Whose age is {o}?",
    "Age {o}: who?",
)
_DOES = (
    "What does {s} {v}?",
    "{s} {r} what?",
    "Tell me what {s} {r}.",
    "Do you know what {s} {r}?",
    "{s} {r}",
    "About {s}: {r} what?",
)
_WHERE = ("Where does {s} {w}?", "Tell me where {s} {x}.", "In which place does {s} {w}?")
_DOES_BACK = ("Who {r} {a}?", "Tell me who {r} {a}.", "Who is it that {r} {a}?", "{o}: who?")

_FORMS: dict[Kind, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "of": (_OF, _OF_BACK),
    "own": (_OF, _OF_BACK),
    "my": (_MY, ()),
    "by": (_BY, _BY_BACK),
    "age": (_AGE, _AGE_BACK),
    "does": (_DOES, _DOES_BACK),
}


def forward(statement: Statement) -> list[Exchange]:
    """Return questions whose answer is the statement's object."""
    forms, _ = _FORMS[statement.kind]
    if statement.kind == "does" and statement.relation.rpartition(" ")[2] in ("in", "at", "near"):
        forms = (*forms, *_WHERE)
    words = _words(statement)
    return [Exchange(form.format(**words), statement.object) for form in forms]


def backward(statement: Statement) -> list[Exchange]:
    """Return questions whose answer is the statement's subject."""
    _, forms = _FORMS[statement.kind]
    words = _words(statement)
    return [Exchange(form.format(**words), statement.subject) for form in forms]


def _words(statement: Statement) -> dict[str, str]:
    """What the forms name: subject, relation, object, and the verb in its other shapes."""
    verb, _, rest = statement.relation.partition(" ")
    plain = _plain(verb)
    tail = statement.text.rpartition(statement.object)[0]
    article = tail.rsplit(" ", 2)[-2] if tail.endswith((" a ", " an ", " the ")) else ""
    return {
        "s": statement.subject,
        "r": statement.relation,
        "o": statement.object,
        "a": f"{article} {statement.object}".strip(),
        "v": f"{plain} {rest}".strip(),
        "w": plain,
        "x": verb,
    }


def _plain(verb: str) -> str:
    """The third person's verb as the first person has it."""
    irregular = {"has": "have", "does": "do", "goes": "go", "is": "be"}
    if verb in irregular:
        return irregular[verb]
    if verb.endswith("ies"):
        return verb[:-3] + "y"
    if verb.endswith(("shes", "ches", "sses", "xes", "zes")):
        return verb[:-2]
    return verb.removesuffix("s")
