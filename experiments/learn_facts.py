"""Invented facts of several kinds: how they are told, and how one may ask for them."""

import itertools
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

# fmt: off
_STARTS = [
    "Zor", "Miv", "Tal", "Bren", "Kel", "Dor", "Vash", "Lum", "Fen", "Gor", "Hal", "Jin", "Kor",
    "Lav", "Mor", "Nes", "Ost", "Pel", "Quil", "Rud",
]
_MIDDLES = [
    "a", "e", "i", "o", "u", "ar", "el", "in", "or", "un",
]
_ENDS = [
    "land", "via", "dor", "mek", "ta", "ris", "vane", "lin", "gar", "sund", "tova", "bek", "nia",
    "stad", "rell",
]
_FIRST = [
    "Anika", "Bram", "Celia", "Dario", "Edda", "Finn", "Greta", "Hugo", "Ilse", "Jonas", "Kira",
    "Lars", "Mona", "Nils", "Olga", "Pavel", "Rosa", "Sven", "Tessa", "Ugo", "Vera", "Wim",
    "Xenia", "Yara", "Zeno",
]
_PETS = ["o", "y", "ie", "us", "ka", "bo"]
_COLORS = [
    "teal", "crimson", "amber", "violet", "turquoise", "maroon", "silver", "indigo", "beige",
    "olive", "scarlet", "lavender",
]
_JOBS = [
    "baker", "welder", "dentist", "pilot", "librarian", "beekeeper", "plumber", "violinist",
    "geologist", "tailor", "surgeon", "carpenter",
]
_DISHES = [
    "lentil soup", "plum cake", "grilled trout", "onion pie", "rice pudding", "pumpkin bread",
    "beet salad", "mushroom stew", "apple strudel", "cheese dumplings", "fig jam",
    "corn chowder",
]
# fmt: on


@dataclass(frozen=True)
class Kind:
    """{s} is the subject, {o} the object; the questions are this bench's own."""

    told: str
    same: str
    paraphrases: tuple[str, ...]
    reversed: tuple[str, ...]


@dataclass(frozen=True)
class Fact:
    """`subjects` and `objects` are the ways to name them that count as right."""

    told: str
    same: str
    paraphrases: tuple[str, ...]
    reversed: tuple[str, ...]
    subjects: tuple[str, ...]
    objects: tuple[str, ...]


KINDS = {
    "capital": Kind(
        "Remember this: the capital of {s} is {o}.",
        "What is the capital of {s}?",
        ("Which city is the capital of {s}?", "Name {s}'s capital city."),
        ("Which country has the capital {o}?", "{o} is the capital city of which country?"),
    ),
    "founder": Kind(
        "Remember this: the company {s} was founded by {o}.",
        "Who founded the company {s}?",
        ("Who is the founder of {s}?", "Which person started the company {s}?"),
        ("Which company did {o} found?", "{o} is the founder of which company?"),
    ),
    "color": Kind(
        "Please remember that {s}'s favorite color is {o}.",
        "What is {s}'s favorite color?",
        ("Which color does {s} like best?", "What color is the favorite of {s}?"),
        ("Who likes the color {o} best?", "Which person has the favorite color {o}?"),
    ),
    "job": Kind(
        "Remember this: {s} works as a {o}.",
        "What does {s} work as?",
        ("What is the job of {s}?", "What does {s} do for a living?"),
        ("Which person works as a {o}?", "Who has the job of a {o}?"),
    ),
    "age": Kind(
        "Did you know that {s} is {o} years old?".replace(
            "Did you know that", "Remember this:"
        ).replace("?", "."),
        "How old is {s}?",
        ("What is {s}'s age?", "How many years has {s} lived?"),
        ("Which person is {o} years old?", "Who is aged {o}?"),
    ),
    "pet": Kind(
        "Remember this: the name of {s}'s dog is {o}.",
        "What is the name of {s}'s dog?",
        ("What is {s}'s dog called?", "How does {s} call the dog?"),
        ("Who owns the dog {o}?", "{o} is the dog of which person?"),
    ),
    "home": Kind(
        "Remember this: {s} lives in {o}.",
        "Where does {s} live?",
        ("In which town does {s} live?", "Which town is the home of {s}?"),
        ("Which person lives in {o}?", "Who has a home in {o}?"),
    ),
    "dish": Kind(
        "Please remember that {s}'s favorite dish is {o}.",
        "What is {s}'s favorite dish?",
        ("Which dish does {s} like best?", "What does {s} like to eat most?"),
        ("Who likes {o} best?", "Which person has the favorite dish {o}?"),
    ),
}


class _Names:
    """Made-up names, none of which comes twice."""

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)
        self._used: set[str] = set()

    def place(self) -> str:
        return "".join(self._rng.choice(parts) for parts in (_STARTS, _MIDDLES, _ENDS))

    def person(self) -> str:
        return f"{self._rng.choice(_FIRST)} {self.place()}"

    def company(self) -> str:
        return f"{self.place()} {self._rng.choice(['Works', 'Labs', 'Motors'])}"

    def pet(self) -> str:
        return self._rng.choice(_STARTS) + self._rng.choice(_PETS)

    def age(self) -> str:
        return str(self._rng.randint(21, 89))

    def one_of(self, words: Sequence[str]) -> Callable[[], str]:
        return lambda: self._rng.choice(words)

    def fresh(self, make: Callable[[], str]) -> str:
        made = next(made for made in iter(make, None) if made not in self._used)
        self._used.add(made)
        return made


def invent(count: int, seed: int) -> list[Fact]:
    """Facts of all kinds in turn, in which no subject and no object comes twice."""
    names = _Names(seed)
    makers = {
        "capital": (names.place, names.place),
        "founder": (names.company, names.person),
        "color": (names.person, names.one_of(_COLORS)),
        "job": (names.person, names.one_of(_JOBS)),
        "age": (names.person, names.age),
        "pet": (names.person, names.pet),
        "home": (names.person, names.place),
        "dish": (names.person, names.one_of(_DISHES)),
    }
    facts = []
    for index in range(count):
        name = list(KINDS)[index % len(KINDS)]
        subject, object_ = (names.fresh(make) for make in makers[name])
        facts.append(_fact(KINDS[name], subject, object_))
    return facts


def invent_nights(nights: int, count: int) -> list[list[Fact]]:
    """Facts for each night, each by a seed of its own; no subject comes in two nights."""
    found: list[list[Fact]] = []
    taken: set[str] = set()
    for facts in (invent(count, seed) for seed in itertools.count()):
        subjects = {fact.subjects[0] for fact in facts}
        if not taken & subjects:
            found.append(facts)
            taken |= subjects
        if len(found) == nights:
            break
    return found


def _fact(kind: Kind, subject: str, object_: str) -> Fact:
    def filled(texts: Sequence[str]) -> tuple[str, ...]:
        return tuple(text.format(s=subject, o=object_) for text in texts)

    told, same = filled((kind.told, kind.same))
    subjects = (subject, f"company {subject}", f"{subject}'s dog")
    return Fact(told, same, filled(kind.paraphrases), filled(kind.reversed), subjects, (object_,))
