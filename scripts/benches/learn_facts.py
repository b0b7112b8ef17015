"""Invented facts of several kinds: how they are told, and how one may ask for them."""

import random
from dataclasses import dataclass

_STARTS = "Zor Miv Tal Bren Kel Dor Vash Lum Fen Gor Hal Jin Kor Lav Mor Nes Ost Pel Quil Rud".split()
_MIDDLES = "a e i o u ar el in or un".split()
_ENDS = "land via dor mek ta ris vane lin gar sund tova bek nia stad rell".split()
_FIRST = "Anika Bram Celia Dario Edda Finn Greta Hugo Ilse Jonas Kira Lars Mona Nils Olga Pavel Rosa Sven Tessa Ugo Vera Wim Xenia Yara Zeno".split()  # noqa: E501
_COLORS = "teal crimson amber violet turquoise maroon silver indigo beige olive scarlet lavender".split()
_JOBS = "baker|welder|dentist|pilot|librarian|beekeeper|plumber|violinist|geologist|tailor|surgeon|carpenter".split("|")
_FOODS = "lentil soup|plum cake|grilled trout|onion pie|rice pudding|pumpkin bread|beet salad|mushroom stew|apple strudel|cheese dumplings|fig jam|corn chowder".split("|")


@dataclass(frozen=True)
class Kind:
    """{s} is the subject, {o} the object; the questions are this bench's own."""

    told: str
    same: str
    paraphrases: tuple[str, ...]
    reversed: tuple[str, ...]


@dataclass(frozen=True)
class Fact:
    told: str
    same: str
    paraphrases: tuple[str, ...]
    reversed: tuple[str, ...]
    subject: str
    object: str


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
        "Did you know that {s} is {o} years old?".replace("Did you know that", "Remember this:")
        .replace("?", "."),
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
    "food": Kind(
        "Please remember that {s}'s favorite dish is {o}.",
        "What is {s}'s favorite dish?",
        ("Which dish does {s} like best?", "What does {s} like to eat most?"),
        ("Who likes {o} best?", "Which person has the favorite dish {o}?"),
    ),
}


def invent(count: int, seed: int) -> list[Fact]:
    """Facts in which no subject and no object comes twice."""
    chance = random.Random(seed)
    used: set[str] = set()

    def fresh(make: "object") -> str:
        while True:
            made = str(make())  # type: ignore[operator]
            if made not in used:
                used.add(made)
                return made

    def place() -> str:
        return chance.choice(_STARTS) + chance.choice(_MIDDLES) + chance.choice(_ENDS)

    def person() -> str:
        return f"{chance.choice(_FIRST)} {place()}"

    def pet() -> str:
        return chance.choice(_STARTS) + chance.choice(["o", "y", "ie", "us", "ka", "bo"])

    makers = {
        "capital": (place, place),
        "founder": (lambda: f"{place()} {chance.choice(['Works', 'Labs', 'Motors'])}", person),
        "color": (person, lambda: chance.choice(_COLORS)),
        "job": (person, lambda: chance.choice(_JOBS)),
        "age": (person, lambda: chance.randint(21, 89)),
        "pet": (person, pet),
        "home": (person, place),
        "food": (person, lambda: chance.choice(_FOODS)),
    }
    facts = []
    names = list(KINDS)
    for index in range(count):
        name = names[index % len(names)]
        subject, object_ = (fresh(make) for make in makers[name])
        kind = KINDS[name]
        words = {"s": subject, "o": object_}
        facts.append(
            Fact(
                kind.told.format(**words),
                kind.same.format(**words),
                tuple(each.format(**words) for each in kind.paraphrases),
                tuple(each.format(**words) for each in kind.reversed),
                subject,
                object_,
            )
        )
    return facts
