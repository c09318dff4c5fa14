"""The words that the questions are made of."""

NAMES = tuple("Anna Ben Clara David Emma Felix Grace Henry Iris Jack Laura Maria Noah Olivia Paul Rosa Sam Tom Victor Wendy".split())
SURNAMES = tuple("Brown Carter Davis Evans Foster Green Hughes Jones Miller Parker Smith Taylor Walker Young".split())
CITIES = tuple("Athens Berlin Boston Cairo Chicago Dublin London Madrid Oslo Paris Rome Sydney Tokyo Vienna".split())
ANIMALS = tuple("bear cat cow dog duck fox goat horse lion mouse pig rabbit sheep tiger wolf".split())
FRUITS = tuple("apple banana cherry fig grape lemon mango orange peach pear plum".split())
THINGS = tuple("book bottle chair cup desk door garden hammer house lamp letter pencil river road table window".split())
COLOURS = tuple("black blue brown gray green orange pink purple red white yellow".split())
JOBS = tuple("baker dentist doctor driver farmer lawyer nurse painter pilot teacher".split())
DAYS = tuple("Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split())
MONTHS = tuple("January February March April May June July August September October November December".split())
COUNTS = tuple("one two three four five six seven eight nine ten eleven twelve".split())


def _pairs(text: str) -> tuple[tuple[str, str], ...]:
    return tuple((one, other) for one, _, other in (pair.partition("/") for pair in text.split()))


OPPOSITES = _pairs(
    "hot/cold up/down big/small day/night open/closed left/right old/young happy/sad fast/slow wet/dry light/dark full/empty "
    "hard/soft high/low long/short rich/poor early/late near/far clean/dirty strong/weak loud/quiet thick/thin"
)
CAPITALS = _pairs(
    "France/Paris Germany/Berlin Italy/Rome Spain/Madrid Japan/Tokyo China/Beijing England/London Russia/Moscow Egypt/Cairo "
    "Greece/Athens Ireland/Dublin Norway/Oslo Austria/Vienna Portugal/Lisbon Sweden/Stockholm Poland/Warsaw Cuba/Havana Peru/Lima"
)
YOUNG = _pairs("dog/puppy cat/kitten cow/calf horse/foal sheep/lamb pig/piglet duck/duckling goose/gosling")
SYMBOLS = _pairs("hydrogen/H oxygen/O carbon/C nitrogen/N iron/Fe gold/Au silver/Ag sodium/Na potassium/K helium/He copper/Cu lead/Pb")
