"""Write the ordinary captions that ship with the package: everyday scenes, composed from hand-written parts.

    python benchmarks/ordinary_captions.py surgery/localization/captions/ordinary.txt

The captions describe what anybody might ask for, and nobody in particular: no names, titles, brands or
artists, so that no model has one picture for them. The same parts in other combinations; seeded, so that the
file can be made again byte for byte.
"""

import random
import sys
from pathlib import Path

ANIMALS = """an old brown dog; a tabby cat; two grey geese; a young deer; a black horse; a flock of sheep; a
red squirrel; a barn owl; a small green frog; three ducklings; a pair of donkeys; a spotted cow; a white
rabbit; a heron; a hedgehog; a sleepy fox; a swarm of bees; a goat with curved horns; a garden snail; a blue
dragonfly; a seagull; two otters"""
ANIMAL_DEEDS = """resting in tall grass; crossing a shallow stream; looking straight into the camera;
sitting on a stone wall; waiting beside a wooden gate; under an apple tree; on a muddy path after rain; near
the edge of a pond; in deep snow; at the side of a country road; in the shade of a barn; among fallen
leaves; by a campfire at dusk; in a field of clover"""
PEOPLE = """a woman in a yellow raincoat; an elderly man with a walking stick; two children; a young couple;
a baker; a fisherman; a girl with a red scarf; a mechanic in blue overalls; a nurse; a street musician; a
gardener; a boy in a striped jumper; a postman; three friends; a tired commuter; a teacher; a runner; a
carpenter"""
PEOPLE_DEEDS = """waiting for a bus in the rain; reading a newspaper on a bench; laughing at a kitchen
table; walking along an empty beach; feeding pigeons in a square; repairing an old radio; carrying a basket
of vegetables; looking out of a train window; drinking coffee in a small cafe; playing chess in the park;
painting a wooden fence; crossing a busy street; choosing tomatoes at a market stall; sleeping in a hammock;
flying a kite on a hill"""
PLACES = """a narrow alley; a mountain lake; a lighthouse on a rocky coast; a field of sunflowers; a wooden
bridge; a quiet harbour; a village square; a pine forest; an abandoned greenhouse; a desert road; a terraced
hillside; a city rooftop; a frozen river; a country railway station; a row of brick houses; a waterfall; a
sandy bay; a vineyard; a suburban street; a canal with moored boats; a snow-covered valley; a stone
farmhouse; a ferry landing; an old windmill"""
LIGHTS = """at sunrise; on a foggy morning; under a clear blue sky; just before a thunderstorm; at night
under street lamps; in late autumn; in the first light of spring; on a hot afternoon; during a light
snowfall; with long evening shadows; after heavy rain; beneath a full moon; on an overcast day; in golden
evening light"""
FOODS = """a bowl of tomato soup; a loaf of rye bread; a plate of pancakes with berries; grilled fish with
lemon; a slice of plum cake; a cup of green tea; a basket of ripe pears; roasted carrots and potatoes; a jar
of honey; noodles with mushrooms; a cheese board with grapes; an omelette with herbs; a glass of lemonade;
fresh pasta on a floured board; a bowl of rice"""
SETTINGS = """on a rustic wooden table; seen from above; on a white plate; beside a folded linen napkin; on
a marble counter; next to a steaming kettle; on a picnic blanket; in soft window light; on a dark slate;
with a silver fork; in a cast-iron pan; on a blue tablecloth; with crumbs scattered around"""
OBJECTS = """a pair of worn leather boots; a glass vase with tulips; an old typewriter; a red umbrella; a
brass key; a wicker chair; a stack of letters tied with string; a chipped teapot; a pocket watch; a wool
blanket; a toy train; a ladder; a paper lantern; a guitar without strings; a bicycle bell; a box of crayons;
a cracked mirror; a candle; a canvas bag"""
SPOTS = """on a window sill; in the corner of an attic; on a bare wooden floor; against a plain grey wall;
on a cluttered desk; in an open suitcase; on a park bench; at the foot of a staircase; on a shelf full of
books; in a workshop; on a sunny balcony; half covered by a cloth; beside a sleeping cat; in the grass"""
VEHICLES = """a blue delivery van; a tram; a rusty pickup truck; a rowing boat; a steam locomotive; a yellow
taxi; a fishing boat; a double-decker bus; a small aeroplane; a tractor; a cable car; a motorbike with a
sidecar; a cargo ship"""
VEHICLE_DEEDS = """parked outside a bakery; on a winding mountain road; in heavy traffic; leaving the
harbour; beside a wheat field; crossing a stone viaduct; covered in autumn leaves; waiting at a red light;
seen through a rainy window; at dawn"""
ROOMS = """a bright kitchen; a small bedroom under the roof; an old library; a cosy living room; a tiled
bathroom; a classroom after school; a hotel lobby; a potter's workshop; an empty theatre; a home office; a
narrow hallway; a sunlit studio; a laundry room"""
ROOM_LOOKS = """with tall windows; painted in pale green; in warm lamplight; with a checkered floor; seen
from the doorway; in a minimal style; crowded with furniture; with a large rug; on a rainy afternoon;
photographed with a wide lens"""
MANNERS = """a photograph of {}; a watercolour of {}; an oil painting of {}; a pencil drawing of {}; a
children's book illustration of {}; a black and white photograph of {}; a close-up of {}; {}; {}; {}; a
woodcut of {}; a detailed 3d rendering of {}; a minimal line drawing of {}; a poster showing {}; a blurry
snapshot of {}; a film still of {}; a pastel sketch of {}"""
PAIRS = [
    (ANIMALS, ANIMAL_DEEDS, 240),
    (PEOPLE, PEOPLE_DEEDS, 240),
    (PLACES, LIGHTS, 260),
    (FOODS, SETTINGS, 160),
    (OBJECTS, SPOTS, 200),
    (VEHICLES, VEHICLE_DEEDS, 110),
    (ROOMS, ROOM_LOOKS, 110),
]


def parts(text: str) -> list[str]:
    """The phrases of a list above."""
    return [" ".join(part.split()) for part in text.split(";")]


def captions() -> list[str]:
    """All captions, each subject and each setting used about equally often, in mixed order."""
    chance = random.Random(2024)
    manners = parts(MANNERS)
    found = []
    for subjects, settings, count in PAIRS:
        pairs = [f"{subject} {setting}" for subject in parts(subjects) for setting in parts(settings)]
        found += chance.sample(pairs, min(count, len(pairs)))
    chance.shuffle(found)
    return [manners[chance.randrange(len(manners))].format(scene) for scene in found]


if __name__ == "__main__":
    Path(sys.argv[1]).write_text("\n".join(captions()) + "\n", encoding="utf-8")
