"""Writes the small WordPiece vocabulary that ships with the package, from the word lists below.

    python tools/build_vocab.py --output mqc_jax/assets/vocab.txt

The lists are what a person would say to point at a target in satellite video: what it is, where, of which colour and
size, and beside what. A word that is not here still tokenizes, in smaller pieces.
"""

import re
from pathlib import Path

from absl import flags

from mqc_jax.errors import UserError, run
from mqc_jax.files import write_atomic
from mqc_jax.text import build_vocab

_OUTPUT = flags.DEFINE_string("output", None, "The vocabulary file to write, one piece a line.")

TARGETS = """
    aeroplane airliner airplane ambulance amphibian barge battleship biplane boat bomber bulldozer bus cab canoe car
    carrier catamaran coach convoy corvette coupe crane cruiser destroyer digger dinghy dredger drone excavator
    ferry fighter freighter frigate glider helicopter hovercraft hydrofoil jet jetliner kayak lifeboat liner
    locomotive lorry minibus minivan monoplane motorbike motorboat motorcycle object pickup pilot plane powerboat
    propeller raft railcar rowboat sailboat schooner seaplane sedan ship speedboat submarine supertanker suv tanker
    target taxi tender thing tractor trailer train tram trawler trolley truck tug tugboat turboprop van vehicle
    vessel wagon warship yacht
"""
KINDS = """
    aircraft bodied body business cargo commercial container corporate cruise engine engined executive fishing
    flatbed four freight jumbo launch military narrow naval navy one other passenger patrol pontoon private rear
    regional speed transport twin two watercraft wide winged
"""
PLACES = """
    above across adjacent ahead alongside among apart approaching area around aside away back before behind below
    beneath beside between beyond border bottom bottom-left bottom-right bottommost center centered central centre
    close closest corner cross down east eastern easternmost edge end far farthest first foremost fourth frame front
    further furthest half here high higher horizontal image inside last left left-hand leftmost low lower lowermost
    margin mid middle midway near nearby nearer nearest next north north-east north-west northeast northeastern
    northern northernmost northwest northwestern of off on onto opposite out outer outermost outside over past
    picture place portion position quadrant quarter region right right-hand rightmost scene screen second section
    side situated south south-east south-west southeast southeastern southern southernmost southwest southwestern
    spot there third through top top-left top-right topmost toward towards under underneath up upper upper-left
    uppermost vertical video view west western westernmost within zone
"""
SCENERY = """
    aerodrome airfield airport anchorage apron asphalt avenue bank basin bay beach bend berth boulevard breakwater
    bridge building buoy canal carriageway channel coast coastline concrete container crossing crossroads deck dock
    dockside embankment estuary field flyover forest garage gate grass ground hangar harbor harbour highway hill
    house intersection island jetty junction lake land lane lawn line lot marina moorings motorway ocean overpass
    parking path pavement pier platform pond pool port quay quayside rail railroad rails railway ramp river road
    roadside roof roundabout runway sand sea shadow shore shoreline sidewalk slip stand station strait street strip
    tarmac taxiway terminal terrain town track tree tunnel turn viaduct village wake warehouse water waterfront
    waterway wave wharf yard
"""
LOOKS = """
    beige big black blue bright brighter brightest broad brown colored coloured crimson cyan dark darker darkest
    deep different dim dull faint fast gold golden gray green grey huge isolated large larger largest length light
    lighter lightest little lone long longer longest massive medium metallic mid-sized middle-sized navy-blue only
    orange pale pink plain purple red round same shiny short shorter shortest silver similar single sized slender
    slim slow small smaller smallest solitary square striped tall tan thick thin tiny turquoise vast violet white
    whitish wider widest yellow yellowish
"""
DEEDS = """
    anchored appear arrive arriving covered crossing cruising depart departing docked docking drive driving enter
    entering face facing find fly flying follow followed following go going halted head heading hidden idle lead
    leading leave leaving lie located lying moored motionless move moved moving occluded overtaking park parked
    parking pass passing point pointing rest resting roll rolling rotate run running sail sailed sailing see seen
    segment select show shown sit sitting speeding stand standing stationary stay staying still stop stopped
    stopping surrounded take taking taxi taxiing towed towing travel traveling travelling turn turned turning
    visible wait waiting
"""
FUNCTION_WORDS = """
    a about all also an and any are as at be been being but by can could do does each eight either every few five
    for from group had has have he her him his how i if in into is it its just many me more most much my neither
    nine no none nor not now or our pair part please row seven she should six so some such ten than that the their
    them then these they this those three to together upon us very was we were what when where which while who whose
    will with without would you your zero
"""
SENTENCES = (TARGETS, KINDS, PLACES, SCENERY, LOOKS, DEEDS, FUNCTION_WORDS)


def plurals(words: str) -> str:
    """Plurals of nouns: "ships" is as likely to be said as "ship". A wrong form of a rare noun costs one piece."""

    def plural(word: str) -> str:
        if word.endswith(("s", "x", "ch", "sh")):
            return word + "es"
        return word[:-1] + "ies" if re.search("[^aeiou]y$", word) else word + "s"

    return " ".join(map(plural, words.split()))


def main(argv: list[str]) -> None:
    if len(argv) > 1 or not _OUTPUT.value:
        raise UserError("give the file to write and nothing else: --output mqc_jax/assets/vocab.txt")
    pieces = build_vocab([*SENTENCES, plurals(TARGETS), plurals(SCENERY)])
    write_atomic(Path(_OUTPUT.value), "".join(f"{piece}\n" for piece in pieces))
    print(f"{len(pieces)} pieces written to {_OUTPUT.value}")


if __name__ == "__main__":
    run(main)
