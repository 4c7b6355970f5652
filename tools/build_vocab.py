"""Writes the small WordPiece vocabulary that ships with the package, from the word lists below.

    python tools/build_vocab.py --output mqc_jax/assets/vocab.txt

The lists are what a person would say to point at a target in satellite video: what it is, where, of which colour and
size, and beside what. A word that is not here still tokenizes, in smaller pieces.
"""

from pathlib import Path

from absl import flags

from mqc_jax.errors import UserError, run
from mqc_jax.files import write_atomic
from mqc_jax.text import build_vocab

_OUTPUT = flags.DEFINE_string("output", None, "The vocabulary file to write, one piece a line.")

TARGETS = """
    aeroplane aircraft airliner airplane ambulance amphibian barge battleship biplane boat bomber bulldozer bus cab
    canoe car carrier catamaran catamarans coach container convoy corvette coupe cruise cruiser crane destroyer digger
    dinghy dredger drone excavator ferry fighter fishing flatbed freight freighter frigate glider helicopter hovercraft
    hydrofoil jet jetliner jumbo kayak launch lifeboat liner locomotive lorry minibus minivan monoplane motorbike
    motorboat motorcycle naval navy other passenger patrol pickup pilot plane pontoon powerboat propeller raft railcar
    rowboat sailboat schooner seaplane sedan ship speed speedboat submarine supertanker suv tanker taxi tender tractor
    trailer train tram transport trawler trolley truck tug tugboat turboprop van vehicle vessel wagon warship
    watercraft yacht body bodied corporate engine engined four narrow rear twin two wide winged business executive
    private regional cargo commercial military target object thing one
"""
PLACES = """
    above across adjacent ahead alongside among apart approaching around aside away back before behind below beneath
    beside between beyond border bottom bottommost center centered central centre close closest corner cross down east
    eastern easternmost edge end far farthest first foremost fourth front further furthest half here high higher inside
    last left leftmost left-hand low lower lowermost margin mid middle midway near nearby nearer nearest next north
    north-east north-west northeast northeastern northern northernmost northwest northwestern of off on onto opposite
    out outer outermost outside over past place portion position quadrant quarter region right rightmost right-hand
    second section side situated south south-east south-west southeast southeastern southern southernmost southwest
    southwestern spot there third through toward towards top topmost top-left top-right bottom-left bottom-right under
    underneath up upper upper-left uppermost vertical horizontal west western westernmost within zone area image frame
    picture screen scene view video
"""
SCENERY = """
    aerodrome airfield airport anchorage apron asphalt avenue bank basin bay beach bend berth boulevard breakwater
    bridge building buoy canal carriageway channel coast coastline concrete container crossing crossroads deck dock
    dockside embankment estuary field flyover forest garage gate grass ground hangar harbor harbour highway hill house
    intersection island jetty junction lake land lane lawn line lot marina moorings motorway ocean overpass parking
    path pavement pier platform pond pool port quay quayside rail railroad rails railway ramp river road roadside roof
    roundabout runway sand sea shadow shore shoreline sidewalk slip stand station strait strip street tarmac taxiway
    terminal terrain town track tree tunnel turn viaduct village warehouse wake water waterfront waterway wave wharf
    yard
"""
LOOKS = """
    beige big black blue bright brighter brightest broad brown colored coloured crimson cyan dark darker darkest deep
    dim dull faint fast gold golden gray green grey huge large larger largest length light lighter lightest little long
    longer longest lone massive medium metallic middle-sized mid-sized navy-blue orange pale pink plain purple red
    round shiny short shorter shortest silver single sized slender slim slow small smaller smallest solitary square
    striped tall tan thick thin tiny turquoise vast violet white whitish wider widest yellow yellowish only same
    similar different isolated
"""
DEEDS = """
    anchored appear arrive arriving crossing cruising depart departing docked docking drive driving enter entering face
    facing fly flying follow followed following go going halted head heading idle lead leading leave leaving lie
    located lying moored motionless move moved moving overtaking park parked parking pass passing point pointing rest
    resting roll rolling rotate run running sail sailed sailing sit sitting speeding stand standing stationary stay
    staying still stop stopped stopping surrounded take taking taxi taxiing towed towing travel traveling travelling
    turn turned turning wait waiting find follow show see seen segment select shown visible hidden covered occluded
"""
FUNCTION_WORDS = """
    a about all also an and any are as at be been being but by can could do does each either every few for from group
    had has have he her him his how i if in into is it its just many me more most much my neither no none nor not now
    or our pair part please row she should so some such than that the their them then these they this those three
    to together upon us very was we were what when where which while who whose will with without would you your
    zero five six seven eight nine ten
"""
SENTENCES = (TARGETS, PLACES, SCENERY, LOOKS, DEEDS, FUNCTION_WORDS)


def plurals(words: str) -> str:
    """Regular plurals of nouns; "ships" is as likely to be said as "ship", and a rare wrong form costs one piece."""
    return " ".join(f"{word}es" if word.endswith(("s", "x", "ch", "sh")) else f"{word}s" for word in words.split())


def main(argv: list[str]) -> None:
    if len(argv) > 1 or not _OUTPUT.value:
        raise UserError("give the file to write and nothing else: --output mqc_jax/assets/vocab.txt")
    pieces = build_vocab([*SENTENCES, plurals(SCENERY)])
    write_atomic(Path(_OUTPUT.value), "".join(f"{piece}\n" for piece in pieces))
    print(f"{len(pieces)} pieces written to {_OUTPUT.value}")


if __name__ == "__main__":
    run(main)
