"""What the categories ask: each function makes one random question of a level, 1 to 3."""

import json
from collections.abc import Callable, Sequence

from alpaca_jax.scores.suites.basics import words
from alpaca_jax.scores.suites.basics.draw import Draw
from alpaca_jax.scores.suites.basics.item import CHOICES, Question

NUMBER, WORD = "Answer with the number only.", "Answer with one word."


def arithmetic(draw: Draw, level: int) -> Question:
    """Sums and differences of small numbers; of numbers below 100, and products; two steps in words."""
    if level == 1:
        a, b = draw.number(1, 9), draw.number(1, 9)
        plus = draw.one((True, True, False))
        return _sum(draw, a, b, plus)
    if level == 2:
        a, b, sign = draw.number(11, 60), draw.number(11, 39), draw.one("+-*")
        if sign == "*":
            a, b = draw.number(2, 9), draw.number(2, 9)
            return _count(draw, f"What is {a} times {b}? {NUMBER}", a * b)
        return _sum(draw, a, b, plus=sign == "+")
    name, thing = draw.one(words.NAMES), draw.one(words.FRUITS)
    a, b = draw.number(2, 6), draw.number(3, 9)
    less = draw.number(1, a * b - 2)
    text = f"{name} has {a} boxes with {b} {_plural(thing)} in each, and eats {less}. How many are left? {NUMBER}"
    return _count(draw, text, a * b - less)


def extraction(draw: Draw, level: int) -> Question:
    """A word of one sentence; one of two people; a field of an order."""
    names = draw.some(words.NAMES, 2)
    if level == 1:
        city, job, animal = draw.one(words.CITIES), draw.one(words.JOBS), draw.one(words.ANIMALS)
        text = f"{names[0]} is a {job} from {city} with a {animal}."
        asked = {"name": names[0], "city": city, "job": job, "animal": animal}
        return _field(draw, text, asked, "What is the {} in this text?", {})
    if level == 2:
        jobs, cities = draw.some(words.JOBS, 2), draw.some(words.CITIES, 2)
        text = f"{names[0]} is a {jobs[0]} in {cities[0]}. {names[1]} is a {jobs[1]} in {cities[1]}."
        who = draw.number(0, 1)
        question, right, wrong = draw.one(
            (
                (f"Where is {names[who]}?", cities[who], (cities[1 - who], jobs[who], names[1 - who])),
                (f"What is {names[who]}'s job?", jobs[who], (jobs[1 - who], cities[who], names[1 - who])),
                (f"Who is the {jobs[who]}?", names[who], (names[1 - who], cities[1 - who], cities[who])),
            )
        )
        return Question(f"{text} {question} {WORD}", right, wrong, "word")
    surname, thing, city = draw.one(words.SURNAMES), draw.one(words.THINGS), draw.one(words.CITIES)
    order, count, price = draw.number(1000, 9999), draw.number(2, 9), draw.number(11, 98)
    text = f"Order {order}: {count} {_plural(thing)} for {names[0]} {surname} in {city}, {price} dollars in total."
    asked = {"order number": str(order), "price": str(price), "city": city, "surname": surname}
    return _field(draw, text, asked, "What is the {}?", {"order number": NUMBER, "price": NUMBER})


def facts(draw: Draw, level: int) -> Question:
    """Opposites and days; capitals and young animals; chemical symbols and months."""
    if level == 1:
        if draw.number(1, 3) == 1:
            return _follower(draw, words.DAYS, "Which day comes right {} {}?")
        return _known(draw, words.OPPOSITES, f"What is the opposite of {{}}? {WORD}")
    if level == 2:
        if draw.number(1, 3) == 1:
            return _known(draw, words.YOUNG, f"What is a young {{}} called? {WORD}")
        return _known(draw, words.CAPITALS, f"What is the capital of {{}}? {WORD}")
    if draw.number(1, 2) == 1:
        return _follower(draw, words.MONTHS, "Which month comes right {} {}?")
    return _known(draw, words.SYMBOLS, "What is the chemical symbol of {}? Answer with the symbol only.", "exact")


def formats(draw: Draw, level: int) -> Question:
    """Capitals and digits; dates, and names turned round; JSON and thousands."""
    if level == 1:
        if draw.number(1, 3) == 1:
            number = draw.number(2, 12)
            return _count(draw, f"Write the number {words.COUNTS[number - 1]} in digits.", number)
        word = draw.one(words.THINGS + words.ANIMALS)
        other = draw.one([one for one in words.FRUITS if one != word]).upper()
        return Question(f"Write the word {word} in capital letters.", word.upper(), (word, word.capitalize(), other), "exact")
    if level == 2:
        if draw.number(1, 2) == 1:
            name, surname = draw.one(words.NAMES), draw.one(words.SURNAMES)
            wrong = (f"{name} {surname}", f"{name}, {surname}", f"{surname} {name}")
            return Question(f"Write the name {name} {surname} with the surname first, then a comma.", f"{surname}, {name}", wrong, "exact")
        year, month, day = draw.number(1990, 2030), draw.number(1, 12), draw.number(13, 28)
        text = f"Write the date {day} {words.MONTHS[month - 1]} {year} in the form YYYY-MM-DD."
        wrong = (f"{day}-{month:02}-{year}", f"{year}-{day}-{month:02}", f"{year}-{month % 12 + 1:02}-{day}")
        return Question(text, f"{year}-{month:02}-{day}", wrong, "exact")
    if draw.number(1, 3) == 1:
        number = draw.number(10_000, 9_999_999)
        digits = f"{number:,}"
        wrong = (str(number), digits.replace(",", "."), f"{number:,}".replace(",", " "))
        return Question(f"Write the number {number} with commas between the thousands.", digits, wrong, "exact")
    name, age, job = draw.one(words.NAMES), draw.number(20, 69), draw.one(words.JOBS)
    value = {"name": name, "age": age, "job": job}
    others = (value | {"age": age + 10}, {"name": job, "age": age, "job": name}, {"name": name, "job": job})
    text = f"{name} is a {job} and {age} years old. Write this as a JSON object with the keys name, age and job."
    return Question(text, json.dumps(value), tuple(map(json.dumps, others)), "json")


def lists(draw: Draw, level: int) -> Question:
    """The first or last of a list; one by its number, the largest, the length; sorting and turning round."""
    if level == 1:
        four = draw.some(draw.one((words.FRUITS, words.ANIMALS, words.COLOURS)), 4)
        place = draw.one((0, -1))
        return _picked(f"What is the {'last' if place else 'first'} word of this list: {', '.join(four)}? {WORD}", four, four[place])
    if level == 2:
        kind = draw.number(1, 3)
        if kind == 1:
            four = draw.some(words.THINGS, 4)
            place = draw.number(1, 2)
            return _picked(f"What is the {('second', 'third')[place - 1]} word of this list: {', '.join(four)}? {WORD}", four, four[place])
        if kind == 2:
            numbers = draw.some(range(10, 99), 4)
            largest = draw.one((True, False))
            asked = f"Which of these numbers is the {'largest' if largest else 'smallest'}: {', '.join(map(str, numbers))}? {NUMBER}"
            right = max(numbers) if largest else min(numbers)
            return Question(asked, str(right), tuple(str(one) for one in numbers if one != right), "number")
        count = draw.number(2, 7)
        return _count(draw, f"How many words are in this list: {', '.join(draw.some(words.ANIMALS, count))}? {NUMBER}", count)
    three, kind = draw.some(draw.one((words.FRUITS, words.ANIMALS, words.THINGS)), 3), draw.number(1, 3)
    if kind == 1:
        return _ordered(draw, "Sort these words alphabetically", three, sorted(three))
    if kind == 2:
        return _ordered(draw, "Write this list in reverse order", three, three[::-1])
    texts = [str(one) for one in draw.some(range(10, 99), 3)]
    return _ordered(draw, "Sort these numbers from smallest to largest", texts, sorted(texts))


def patterns(draw: Draw, level: int) -> Question:
    """Counting and two words in turn; steps and letters; doubling, squares and sums."""
    if level == 1:
        if draw.number(1, 2) == 1:
            one, two = draw.some(words.COLOURS + words.ANIMALS, 2)
            wrong = [two, *draw.some([word for word in words.FRUITS if word not in (one, two)], 2)]
            return Question(f"What comes next: {one}, {two}, {one}, {two}, {one}, {two}? {WORD}", one, tuple(wrong), "word")
        first, step = draw.number(1, 30), draw.one((1, 1, 2, 5, 10))
        return _next(draw, [first + step * number for number in range(5)])
    if level == 2:
        if draw.number(1, 3) == 1:
            first = draw.number(0, 20)
            letters = [chr(65 + first + number) for number in range(5)]
            others = draw.some([chr(65 + place) for place in range(26) if chr(65 + place) not in letters], 3)
            asked = f"Which letter comes next: {', '.join(letters[:4])}? Answer with the letter only."
            return Question(asked, letters[4], tuple(others), "exact")
        first, step = draw.number(30, 90), draw.one((-1, -2, -3, -5, 3, 4, 7, 11))
        return _next(draw, [first + step * number for number in range(5)])
    kind, first = draw.number(1, 3), draw.number(1, 9)
    if kind == 1:
        return _next(draw, [first * 2**number for number in range(5)])
    if kind == 2:
        return _next(draw, [(first + number) ** 2 for number in range(5)])
    terms = [first, draw.number(1, 9)]
    while len(terms) < 6:
        terms.append(terms[-1] + terms[-2])
    return _next(draw, terms)


CATEGORIES: dict[str, Callable[[Draw, int], Question]] = {
    make.__name__: make for make in (arithmetic, extraction, facts, formats, lists, patterns)
}


def _count(draw: Draw, prompt: str, right: int) -> Question:
    """A question whose answer is a number; the wrong ones are near it."""
    near = [right + by for by in (-10, -3, -2, -1, 1, 2, 3, 10) if right + by >= 0]
    return Question(prompt, str(right), tuple(map(str, draw.some(near, CHOICES - 1))), "number")


def _sum(draw: Draw, a: int, b: int, plus: bool) -> Question:
    if plus:
        return _count(draw, f"What is {a} + {b}? {NUMBER}", a + b)
    return _count(draw, f"What is {a + b} - {b}? {NUMBER}", a)


def _next(draw: Draw, terms: Sequence[int]) -> Question:
    return _count(draw, f"Which number comes next: {', '.join(map(str, terms[:-1]))}? {NUMBER}", terms[-1])


def _known(draw: Draw, pairs: Sequence[tuple[str, ...]], prompt: str, kind: str = "word") -> Question:
    """A question about one of the pairs; the wrong answers are those of other pairs."""
    asked, *others = draw.some(pairs, CHOICES)
    return Question(prompt.format(asked[0]), asked[1], tuple(other[1] for other in others), "exact" if kind == "exact" else "word")


def _follower(draw: Draw, cycle: Sequence[str], prompt: str) -> Question:
    place, step = draw.number(0, len(cycle) - 1), draw.one((1, -1))
    right = cycle[(place + step) % len(cycle)]
    wrong = draw.some([one for one in cycle if one not in (right, cycle[place])], CHOICES - 1)
    return Question(f"{prompt.format('after' if step == 1 else 'before', cycle[place])} {WORD}", right, tuple(wrong), "word")


def _field(draw: Draw, text: str, fields: dict[str, str], prompt: str, endings: dict[str, str]) -> Question:
    name = draw.one(list(fields))
    wrong = tuple(value for other, value in fields.items() if other != name)
    return Question(f"{text} {prompt.format(name)} {endings.get(name, WORD)}", fields[name], wrong, "word")


def _picked(prompt: str, words: Sequence[str], right: str) -> Question:
    return Question(prompt, right, tuple(word for word in words if word != right), "word")


def _ordered(draw: Draw, task: str, given: Sequence[str], right: Sequence[str]) -> Question:
    a, b, c = right
    orders = [", ".join(order) for order in ((a, c, b), (b, a, c), (b, c, a), (c, a, b), (c, b, a))]
    wrong = draw.some(orders, CHOICES - 1)
    return Question(f"{task}: {', '.join(given)}. Answer with the list only.", ", ".join(right), tuple(wrong), "sequence")


def _plural(word: str) -> str:
    return f"{word[:-1]}ies" if word.endswith("y") else f"{word}es" if word.endswith("ch") else f"{word}s"
