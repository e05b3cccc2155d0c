# ruff: noqa: SIM905 (lists of names read best as text)
"""The objects of the sprite world: names, emoji, groups, what each is a kind of, and what people use it for.

Everything here is plain data. ``build_atlas`` turns it into sprite sheets and ``objects.json``; at run time
only those are read. Names are everyday English in one or two words and are unique.
"""

from __future__ import annotations

from dataclasses import dataclass

GROUPS: dict[str, str] = {
    "mammal": (
        "monkey 🐒, gorilla 🦍, dog 🐕, wolf 🐺, fox 🦊, raccoon 🦝, cat 🐈, lion 🦁, tiger 🐅, leopard 🐆, horse "
        "🐎, unicorn 🦄, zebra 🦓, deer 🦌, cow 🐄, pig 🐖, sheep 🐑, goat 🐐, camel 🐫, llama 🦙, giraffe 🦒, "
        "elephant 🐘, rhino 🦏, hippo 🦛, mouse 🐁, hamster 🐹, rabbit 🐇, squirrel 🐿, hedgehog 🦔, bat 🦇, bear "
        "🐻, polar bear 🐻‍❄️, koala 🐨, panda 🐼, skunk 🦨, kangaroo 🦘"
    ),
    "bird": (
        "chicken 🐔, rooster 🐓, chick 🐤, penguin 🐧, dove 🕊, eagle 🦅, duck 🦆, swan 🦢, owl 🦉, flamingo 🦩, "
        "peacock 🦚, parrot 🦜"
    ),
    "reptile": "frog 🐸, crocodile 🐊, turtle 🐢, lizard 🦎, snake 🐍, dragon 🐉, dinosaur 🦖",
    "sea animal": (
        "whale 🐋, dolphin 🐬, seal 🦭, fish 🐟, tropical fish 🐠, shark 🦈, octopus 🐙, jellyfish 🪼, crab 🦀, "
        "lobster 🦞, shrimp 🦐"
    ),
    "bug": (
        "snail 🐌, butterfly 🦋, caterpillar 🐛, ant 🐜, bee 🐝, beetle 🪲, ladybug 🐞, spider 🕷, scorpion 🦂, "
        "worm 🪱"
    ),
    "flower": "bouquet 💐, cherry blossom 🌸, rose 🌹, sunflower 🌻, daisy 🌼, tulip 🌷",
    "plant": (
        "seedling 🌱, potted plant 🪴, pine tree 🌲, tree 🌳, palm tree 🌴, cactus 🌵, wheat 🌾, clover 🍀, maple "
        "leaf 🍁, mushroom 🍄, christmas tree 🎄"
    ),
    "fruit": (
        "grapes 🍇, watermelon 🍉, tangerine 🍊, lemon 🍋, banana 🍌, pineapple 🍍, apple 🍎, pear 🍐, peach 🍑, "
        "cherries 🍒, strawberry 🍓, blueberries 🫐, kiwi 🥝, coconut 🥥"
    ),
    "vegetable": (
        "tomato 🍅, avocado 🥑, eggplant 🍆, potato 🥔, carrot 🥕, corn 🌽, chili pepper 🌶, bell pepper 🫑, "
        "cucumber 🥒, broccoli 🥦, garlic 🧄, onion 🧅, pumpkin 🎃"
    ),
    "food": (
        "bread 🍞, croissant 🥐, baguette 🥖, pretzel 🥨, bagel 🥯, pancakes 🥞, waffle 🧇, cheese 🧀, chicken "
        "leg 🍗, steak 🥩, hamburger 🍔, fries 🍟, pizza 🍕, hot dog 🌭, sandwich 🥪, taco 🌮, egg 🥚, fried egg "
        "🍳, popcorn 🍿, rice 🍚, noodles 🍜, sushi 🍣, peanuts 🥜"
    ),
    "dessert": (
        "ice cream 🍦, doughnut 🍩, cookie 🍪, birthday cake 🎂, cake 🍰, cupcake 🧁, pie 🥧, chocolate 🍫, candy "
        "🍬, lollipop 🍭, honey 🍯"
    ),
    "drink": "milk 🥛, coffee ☕, tea 🍵, champagne 🍾, wine 🍷, cocktail 🍸, beer 🍺, soda 🥤, juice box 🧃",
    "kitchenware": "teapot 🫖, chopsticks 🥢, spoon 🥄, knife 🔪, vase 🏺, bowl 🥣, baby bottle 🍼",
    "vehicle": (
        "locomotive 🚂, train 🚆, bullet train 🚅, bus 🚌, ambulance 🚑, fire truck 🚒, police car 🚓, taxi 🚕, "
        "car 🚗, van 🚐, pickup truck 🛻, truck 🚚, tractor 🚜, race car 🏎, motorcycle 🏍, moped 🛵, wheelchair "
        "🦽, bicycle 🚲, kick scooter 🛴, skateboard 🛹"
    ),
    "boat": "sailboat ⛵, canoe 🛶, speedboat 🚤, ship 🚢",
    "aircraft": "airplane ✈, helicopter 🚁, rocket 🚀, flying saucer 🛸, satellite 🛰",
    "street object": "traffic light 🚦, gas pump ⛽, stop sign 🛑, mailbox 📫, wheel 🛞, anchor ⚓, lifebuoy 🛟",
    "building": (
        "house 🏠, school 🏫, factory 🏭, castle 🏰, church ⛪, mosque 🕌, tent ⛺, fountain ⛲, ferris wheel 🎡"
    ),
    "material": "brick 🧱, rock 🪨, log 🪵, feather 🪶, shell 🐚, bone 🦴, tooth 🦷",
    "sky object": (
        "moon 🌙, sun ☀, star ⭐, planet 🪐, cloud ☁, snowflake ❄, snowman ⛄, rainbow 🌈, fire 🔥, water drop "
        "💧, globe 🌍, lightning bolt ⚡"
    ),
    "party object": "balloon 🎈, gift 🎁, bow 🎀, trophy 🏆, lantern 🏮, disco ball 🪩, crystal ball 🔮",
    "sports object": (
        "soccer ball ⚽, baseball ⚾, basketball 🏀, volleyball 🏐, football 🏈, tennis racket 🎾, frisbee 🥏, "
        "bowling pins 🎳, hockey stick 🏒, paddle 🏓, boxing glove 🥊, ice skate ⛸, roller "
        "skate 🛼, fishing rod 🎣, skis 🎿, sled 🛷, dartboard 🎯"
    ),
    "toy": (
        "yo-yo 🪀, kite 🪁, water gun 🔫, billiard ball 🎱, game controller 🎮, dice 🎲, puzzle piece 🧩, teddy "
        "bear 🧸, nesting doll 🪆, chess pawn ♟"
    ),
    "craft object": "spool 🧵, yarn 🧶",
    "clothing": (
        "lab coat 🥼, shirt 👔, t-shirt 👕, jeans 👖, scarf 🧣, gloves 🧤, coat 🧥, socks 🧦, dress 👗, kimono 👘, "
        "shorts 🩳, bikini 👙"
    ),
    "shoe": "flip-flop 🩴, leather shoe 👞, sneaker 👟, hiking boot 🥾, high heel 👠",
    "hat": "crown 👑, sun hat 👒, top hat 🎩, graduation cap 🎓, baseball cap 🧢, helmet 🪖",
    "accessory": (
        "glasses 👓, sunglasses 🕶, handbag 👜, backpack 🎒, suitcase 🧳, briefcase 💼, umbrella ☂, lipstick 💄, "
        "ring 💍, diamond 💎, watch ⌚, necklace 📿"
    ),
    "instrument": (
        "saxophone 🎷, trumpet 🎺, accordion 🪗, guitar 🎸, piano 🎹, violin 🎻, banjo 🪕, drum 🥁, conga drum 🪘, "
        "maracas 🪇, flute 🪈"
    ),
    "sound device": "microphone 🎤, headphones 🎧, radio 📻, bell 🔔, megaphone 📣",
    "electronic device": (
        "cell phone 📱, telephone ☎, battery 🔋, laptop 💻, monitor 🖥, printer 🖨, keyboard ⌨, computer mouse "
        "🖱, compact disc 💿, floppy disk 💾, video camera 📹, camera 📷, television 📺"
    ),
    "light": "candle 🕯, light bulb 💡, flashlight 🔦",
    "stationery": (
        "notebook 📓, book 📕, newspaper 📰, envelope ✉, package 📦, pencil ✏, pen 🖊, paintbrush 🖌, calendar "
        "📅, clipboard 📋, pushpin 📌, paperclip 📎, ruler 📏, scissors ✂, folder 📁"
    ),
    "valuable": "padlock 🔒, key 🔑, money bag 💰, coin 🪙, banknote 💵, credit card 💳",
    "tool": (
        "hammer 🔨, axe 🪓, saw 🪚, wrench 🔧, screwdriver 🪛, bolt 🔩, gear ⚙, toolbox 🧰, magnet 🧲, ladder 🪜"
    ),
    "weapon": "dagger 🗡, bomb 💣, bow and arrow 🏹, shield 🛡",
    "science object": "test tube 🧪, microscope 🔬, telescope 🔭, magnifying glass 🔍, scale ⚖, compass 🧭",
    "medical object": "syringe 💉, pill 💊, bandage 🩹, stethoscope 🩺, thermometer 🌡",
    "clock": "alarm clock ⏰, stopwatch ⏱, hourglass ⌛",
    "furniture": "bed 🛏, couch 🛋, chair 🪑, door 🚪, window 🪟, mirror 🪞",
    "bathroom object": (
        "toilet 🚽, plunger 🪠, shower 🚿, bathtub 🛁, lotion 🧴, toilet paper 🧻, soap 🧼, toothbrush 🪥"
    ),
    "household object": (
        "broom 🧹, basket 🧺, bucket 🪣, sponge 🧽, fire extinguisher 🧯, shopping cart 🛒, trash can 🗑"
    ),
}
"""Group → its objects as ``name emoji`` pairs. A group is what look-alike distractors are drawn from."""

PLURAL = frozenset(
    name.strip()
    for name in (
        "grapes, cherries, blueberries, pancakes, fries, noodles, peanuts, chopsticks, skis, jeans, gloves, socks, "
        "shorts, glasses, sunglasses, maracas, headphones, scissors, dice, bowling pins"
    ).split(",")
)
"""Names that take a plural verb."""

SYNONYMS: dict[str, tuple[str, ...]] = {
    "airplane": ("plane", "aeroplane"),
    "bicycle": ("bike",),
    "motorcycle": ("motorbike",),
    "car": ("automobile",),
    "taxi": ("cab",),
    "locomotive": ("steam train",),
    "fire truck": ("fire engine",),
    "moped": ("motor scooter",),
    "truck": ("lorry",),
    "ship": ("cruise ship",),
    "flying saucer": ("ufo", "spaceship"),
    "doughnut": ("donut",),
    "fries": ("french fries",),
    "hamburger": ("burger",),
    "cookie": ("biscuit",),
    "candy": ("sweet",),
    "corn": ("corn cob",),
    "eggplant": ("aubergine",),
    "tangerine": ("mandarin",),
    "television": ("tv",),
    "cell phone": ("mobile phone", "smartphone"),
    "laptop": ("notebook computer",),
    "monitor": ("computer screen",),
    "compact disc": ("cd",),
    "couch": ("sofa",),
    "trash can": ("bin", "garbage can"),
    "rabbit": ("bunny",),
    "rhino": ("rhinoceros",),
    "hippo": ("hippopotamus",),
    "dinosaur": ("t-rex",),
    "crocodile": ("alligator",),
    "turtle": ("tortoise",),
    "ladybug": ("ladybird",),
    "chili pepper": ("chili", "hot pepper"),
    "soccer ball": ("football ball",),
    "gift": ("present",),
    "sneaker": ("running shoe",),
    "suitcase": ("luggage",),
    "glasses": ("spectacles",),
    "mushroom": ("toadstool",),
    "package": ("parcel", "cardboard box"),
    "padlock": ("lock",),
    "envelope": ("letter",),
    "banknote": ("dollar bill",),
    "wrench": ("spanner",),
    "sun": ("sunshine",),
    "saxophone": ("sax",),
    "flashlight": ("torch",),
    "magnifying glass": ("loupe",),
    "pushpin": ("pin",),
    "bandage": ("plaster",),
    "game controller": ("gamepad",),
    "dice": ("die",),
    "teddy bear": ("stuffed bear",),
}
"""Other words for exactly the same objects."""

KIND_OF: dict[str, tuple[str, ...]] = {
    "polar bear": ("bear",),
    "panda": ("bear",),
    "ladybug": ("beetle",),
    "tropical fish": ("fish",),
    "shark": ("fish",),
    "pine tree": ("tree",),
    "palm tree": ("tree",),
    "christmas tree": ("tree",),
    "bullet train": ("train",),
    "locomotive": ("train",),
    "fire truck": ("truck",),
    "pickup truck": ("truck",),
    "police car": ("car",),
    "race car": ("car",),
    "taxi": ("car",),
    "birthday cake": ("cake",),
    "cupcake": ("cake",),
    "fried egg": ("egg",),
    "chick": ("chicken",),
    "rooster": ("chicken",),
    "lab coat": ("coat",),
    "t-shirt": ("shirt",),
    "conga drum": ("drum",),
    "sunglasses": ("glasses",),
    "notebook": ("book",),
    "tangerine": ("fruit",),
    "peanuts": ("nuts",),
    "teddy bear": ("bear",),
}
"""Names of other objects (or plain words) that a person may also use for this one: a second candidate that
makes an expression ambiguous."""

GROUP_NOUNS: dict[str, tuple[str, ...]] = {
    "mammal": ("animal", "mammal"),
    "bird": ("animal", "bird"),
    "reptile": ("animal",),
    "sea animal": ("animal", "sea animal", "sea creature"),
    "bug": ("animal", "bug", "insect"),
    "flower": ("plant", "flower"),
    "plant": ("plant",),
    "fruit": ("food", "fruit"),
    "vegetable": ("food", "vegetable"),
    "food": ("food",),
    "dessert": ("food", "dessert"),
    "drink": ("drink", "beverage"),
    "vehicle": ("vehicle",),
    "boat": ("vehicle", "boat"),
    "aircraft": ("vehicle", "aircraft"),
    "building": ("building",),
    "toy": ("toy",),
    "clothing": ("clothing",),
    "shoe": ("clothing", "shoe"),
    "hat": ("clothing", "hat"),
    "instrument": ("instrument", "musical instrument"),
    "electronic device": ("device", "electronic device"),
    "tool": ("tool",),
    "weapon": ("weapon",),
    "clock": ("clock",),
    "furniture": ("furniture",),
}
"""Group → nouns that name any of its objects ("the animal"). Objects whose membership is arguable are in
:data:`ARGUABLE`."""

ARGUABLE: dict[str, str] = {
    "animal": "chick, unicorn, dragon, teddy bear, shell, snowman, chicken leg",
    "mammal": "unicorn, bat, whale, dolphin, seal, teddy bear",
    "insect": "snail, spider, scorpion, worm, caterpillar",
    "bug": "snail, worm, scorpion",
    "plant": "wheat, maple leaf, mushroom, log, broccoli, pumpkin, corn",
    "flower": "clover, potted plant, seedling",
    "fruit": "tomato, avocado, pumpkin, eggplant, cucumber, peanuts",
    "vegetable": "tomato, avocado, mushroom, pumpkin",
    "food": (
        "milk, soda, juice box, tea, coffee, mushroom, wheat, shrimp, fish, crab, lobster, honey, "
        "pumpkin, bowl, beer, wine, chicken, egg, cocktail, clover, champagne, baby bottle, bell pepper"
    ),
    "dessert": "honey, waffle, pancakes, croissant",
    "drink": "teapot, baby bottle, ice cream",
    "beverage": "teapot, baby bottle, ice cream",
    "vehicle": (
        "wheelchair, skateboard, roller skate, kick scooter, sled, satellite, shopping cart, wheel, "
        "canoe, horse, rocket, flying saucer"
    ),
    "boat": "ship, canoe, lifebuoy",
    "aircraft": "rocket, satellite, flying saucer, kite, balloon",
    "building": "tent, fountain, ferris wheel",
    "toy": (
        "dice, chess pawn, game controller, frisbee, balloon, billiard ball, kite, dartboard, "
        "soccer ball, baseball, basketball, volleyball, football, bowling pins, water gun, puzzle "
        "piece"
    ),
    "clothing": (
        "glasses, sunglasses, backpack, crown, helmet, bow, boxing glove, ice skate, roller skate, ring, "
        "watch, necklace, handbag, graduation cap, hiking boot, umbrella"
    ),
    "shoe": "ice skate, roller skate, flip-flop, hiking boot, skis",
    "hat": "crown, graduation cap, helmet",
    "instrument": "bell, microphone, headphones, megaphone, radio, syringe, stethoscope, microscope",
    "musical instrument": "bell",
    "device": (
        "radio, headphones, microphone, flashlight, alarm clock, stopwatch, battery, compact disc, floppy "
        "disk, light bulb, watch, telescope, microscope, megaphone, thermometer, game controller, "
        "stethoscope, satellite, magnifying glass, printer, compass, scale, hourglass, telephone, gas "
        "pump, traffic light"
    ),
    "electronic device": (
        "radio, headphones, microphone, flashlight, alarm clock, stopwatch, battery, compact disc, floppy "
        "disk, light bulb, watch, game controller, telephone, megaphone, satellite, thermometer, gas "
        "pump, traffic light"
    ),
    "tool": (
        "scissors, knife, broom, ruler, magnifying glass, paintbrush, bolt, magnet, gear, ladder, "
        "toolbox, plunger, compass, spoon, pencil, pen, dagger, flashlight, key, fire extinguisher, "
        "microscope, toothbrush, sponge, bucket, fishing rod, stethoscope, syringe, thermometer, "
        "chopsticks, scale"
    ),
    "weapon": "knife, axe, water gun, hammer, shield, saw, scissors, bomb",
    "clock": "stopwatch, hourglass, watch",
    "furniture": "door, window, mirror, toilet, bathtub",
}
"""Noun → objects that some would call so: never the target, and their presence rules the noun out."""


@dataclass(frozen=True)
class Trait:
    """A use or property that implicit expressions speak of.

    Attributes:
        phrases: Complete noun phrases that ask for it.
        yes: Groups and names that surely have it, comma-separated.
        maybe: Groups and names that may count: never the target, and their presence rules the phrase out.
    """

    phrases: tuple[str, ...]
    yes: str
    maybe: str = ""


TRAITS: dict[str, Trait] = {
    "eat": Trait(
        (
            "something you could eat",
            "something to eat",
            "the thing you can eat",
            "what a hungry person would want",
            "the one you would have for lunch",
        ),
        "fruit, vegetable, food, dessert",
        "drink, sea animal, bird, mushroom, wheat, egg, bowl, baby bottle, clover, mammal, plant, "
        "garlic, honey, pumpkin",
    ),
    "sweet": Trait(
        (
            "something sweet",
            "a sweet treat",
            "what a child would like after dinner",
            "the thing with a lot of sugar",
        ),
        "dessert",
        "fruit, soda, juice box, waffle, pancakes, croissant, cocktail, popcorn, milk, champagne, "
        "wine, pretzel",
    ),
    "drink": Trait(
        (
            "something you could drink",
            "something to drink",
            "the thing you can drink",
            "what a thirsty person would want",
        ),
        "drink",
        "water drop, baby bottle, teapot, coconut, noodles, honey, ice cream, fruit",
    ),
    "music": Trait(
        (
            "what a musician would pick up",
            "something that makes music",
            "the thing you would find in an orchestra",
            "something to play a song on",
        ),
        "instrument",
        "sound device, cell phone, compact disc, television, laptop",
    ),
    "wear": Trait(
        (
            "something you could wear",
            "something to put on",
            "the thing you would find in a wardrobe",
        ),
        "clothing, shoe, hat",
        "accessory, bow, boxing glove, ice skate, roller skate, bandage, headphones, skis",
    ),
    "feet": Trait(
        (
            "something for your feet",
            "what you would put on your feet",
        ),
        "shoe, socks",
        "ice skate, roller skate, skis, skateboard",
    ),
    "head": Trait(
        (
            "something for your head",
            "what you would wear on your head",
        ),
        "hat",
        "headphones, glasses, sunglasses, bow",
    ),
    "fly": Trait(
        (
            "something that can fly",
            "the one that could fly",
            "the one that belongs in the air",
        ),
        "airplane, helicopter, rocket, dove, eagle, duck, swan, owl, flamingo, parrot, butterfly, bee, bat",
        "chicken, rooster, chick, penguin, peacock, kite, balloon, flying saucer, satellite, ladybug, "
        "beetle, feather, frisbee, dragon, unicorn, cloud, sports object, sky object, "
        "bow and arrow",
    ),
    "water": Trait(
        (
            "something that lives in the sea",
            "the one that lives under water",
            "what a diver might meet",
        ),
        "whale, dolphin, fish, tropical fish, shark, octopus, jellyfish, crab, lobster, shrimp",
        "seal, turtle, penguin, frog, crocodile, duck, swan, shell, hippo, flamingo, polar bear, sushi",
    ),
    "alive": Trait(
        (
            "a living creature",
            "the one that is alive",
            "the one that could run away",
            "something that breathes",
        ),
        "mammal, dove, eagle, duck, swan, owl, parrot, penguin, rooster, flamingo, peacock, frog, "
        "crocodile, turtle, lizard, snake",
        "bird, reptile, sea animal, bug, plant, flower, teddy bear, snowman, fruit, vegetable, "
        "material, food, vehicle",
    ),
    "pet": Trait(
        (
            "a pet that people keep at home",
            "an animal that likes to sleep on a sofa",
        ),
        "dog, cat",
        "mammal, bird, reptile, sea animal, teddy bear, bug",
    ),
    "farm": Trait(
        (
            "an animal you would see on a farm",
            "what a farmer keeps in a barn",
        ),
        "cow, pig, sheep, goat, rooster, chicken",
        "horse, duck, chick, llama, rabbit, dog, cat, mouse, camel, tractor, ladder, wheat, bucket",
    ),
    "savanna": Trait(
        (
            "an animal of the african savanna",
            "an animal you could see on a safari",
        ),
        "lion, giraffe, elephant, zebra, rhino, hippo",
        "leopard, monkey, gorilla, crocodile, tiger, camel, mammal, eagle, flamingo, snake, lizard, "
        "turtle, scorpion",
    ),
    "sting": Trait(
        (
            "the one that could sting you",
            "something with a sting",
        ),
        "bee, scorpion",
        "jellyfish, spider, ant, snake, cactus, syringe, bug, reptile",
    ),
    "grow": Trait(
        (
            "something that grows in the ground",
            "something a gardener would water",
        ),
        "flower, seedling, potted plant, pine tree, tree, palm tree, cactus, clover",
        "plant, vegetable, fruit",
    ),
    "ride": Trait(
        (
            "something that carries people on the road",
            "the one you could drive on a street",
            "something with an engine and wheels",
        ),
        "bus, ambulance, fire truck, police car, taxi, car, van, pickup truck, truck, motorcycle, moped",
        "vehicle, airplane, helicopter, shopping cart, wheel, horse, camel",
    ),
    "rails": Trait(
        (
            "the one that runs on rails",
            "something you would board at a station",
        ),
        "locomotive, train, bullet train",
        "bus, taxi, ferris wheel",
    ),
    "sail": Trait(
        (
            "something that floats on water",
            "what you would cross a lake with",
        ),
        "boat",
        "lifebuoy, duck, swan, log, aircraft, dolphin, whale, sea animal, bird, water drop, helicopter",
    ),
    "emergency": Trait(
        (
            "the one that comes when you call for help",
            "something with a siren",
        ),
        "ambulance, fire truck, police car",
        "megaphone, lifebuoy, telephone, cell phone, helicopter, bell, alarm clock",
    ),
    "build": Trait(
        (
            "what a carpenter would use",
            "something you need to repair things",
            "something from a workshop",
        ),
        "hammer, saw, wrench, screwdriver",
        "tool, ruler, pencil, scissors, material, knife, stationery, household object",
    ),
    "cut": Trait(
        (
            "something you can cut with",
            "something with a sharp blade",
        ),
        "knife, scissors, axe, saw",
        "dagger, ice skate, tool, bow and arrow",
    ),
    "doctor": Trait(
        (
            "what a doctor would use",
            "something from a hospital",
        ),
        "syringe, pill, bandage, stethoscope",
        "thermometer, wheelchair, lab coat, ambulance, microscope, test tube, scale, gloves, bed",
    ),
    "scientist": Trait(
        (
            "what a scientist would use",
            "something from a laboratory",
        ),
        "test tube, microscope, telescope",
        "science object, lab coat, magnifying glass, thermometer, scale, syringe, laptop, gloves, "
        "monitor, compass, notebook, clipboard, pill, mouse",
    ),
    "write": Trait(
        (
            "something you can write with",
            "what you would use to draw a picture",
        ),
        "pencil, pen",
        "paintbrush, keyboard, laptop, lipstick, ruler, notebook, feather, cell phone",
    ),
    "read": Trait(
        (
            "something you can read",
            "what you would find in a library",
        ),
        "book, newspaper",
        "stationery, cell phone, laptop, monitor, banknote, stop sign, dartboard, envelope",
    ),
    "time": Trait(
        (
            "something that shows the time",
            "what tells you how late it is",
        ),
        "alarm clock, watch",
        "stopwatch, hourglass, cell phone, calendar, laptop, monitor, sun, moon, rooster, church, television",
    ),
    "photo": Trait(
        (
            "what a photographer would carry",
            "something that takes pictures",
        ),
        "camera",
        "video camera, cell phone, laptop, satellite, backpack",
    ),
    "call": Trait(
        (
            "something you could call a friend with",
            "what you use to phone someone",
        ),
        "cell phone, telephone",
        "laptop, monitor, megaphone, microphone, radio, headphones, bell",
    ),
    "glow": Trait(
        (
            "something that gives light in the dark",
            "what you would want in a dark room",
        ),
        "candle, light bulb, flashlight, lantern",
        "fire, sky object, traffic light, cell phone, disco ball, television, pumpkin, monitor, laptop",
    ),
    "sport": Trait(
        (
            "something you play a ball game with",
            "what a player kicks or throws",
        ),
        "soccer ball, baseball, basketball, volleyball, football",
        "sports object, toy, balloon, disco ball, crystal ball",
    ),
    "winter": Trait(
        (
            "something for a day in the snow",
            "what you would see in winter",
        ),
        "snowman, skis, sled, ice skate",
        "snowflake, scarf, gloves, coat, christmas tree, hockey stick, penguin, polar bear, socks, "
        "cloud, pine tree, clothing, deer, fire, hiking boot, tea, coffee, seal",
    ),
    "rain": Trait(
        (
            "something that keeps you dry in the rain",
            "what you want on a rainy day",
        ),
        "umbrella",
        "coat, hat, building, hiking boot, baseball cap, helmet, clothing, lab coat, car, vehicle, sun hat",
    ),
    "money": Trait(
        (
            "something you could pay with",
            "what you would take to the bank",
        ),
        "coin, banknote, credit card, money bag",
        "cell phone, handbag, diamond, ring, briefcase, crown, watch, gift, key",
    ),
    "sit": Trait(
        (
            "something you can sit on",
            "what you would rest on",
        ),
        "chair, couch",
        "bed, toilet, wheelchair, rock, log, bathtub, bicycle, motorcycle, moped, horse, sled, "
        "vehicle, boat, furniture",
    ),
    "clean": Trait(
        (
            "something you clean the house with",
            "what you would use to wipe the floor",
        ),
        "broom, sponge",
        "bucket, soap, toilet paper, bathroom object, household object, feather, lotion, paintbrush",
    ),
    "play": Trait(
        (
            "something a child would play with",
            "the thing from a toy box",
        ),
        "yo-yo, kite, teddy bear, nesting doll",
        "toy, party object, sports object, craft object, balloon, skateboard, sled, snowman, "
        "stationery, vehicle, mammal, boat, aircraft, bucket, drum, instrument, bird, roller skate, "
        "electronic device, sea animal, dinosaur, reptile",
    ),
    "live in": Trait(
        (
            "a place where a family could live",
            "the one you could live in",
        ),
        "house",
        "building, van, boat, shell, vehicle, aircraft",
    ),
    "lock": Trait(
        (
            "what you need to open a door",
            "something that opens a lock",
        ),
        "key",
        "padlock, tool, credit card, valuable, door",
    ),
    "hot": Trait(
        (
            "something that could burn you",
            "the hottest thing in the picture",
        ),
        "fire",
        "sun, candle, coffee, tea, lightning bolt, light bulb, rocket, bomb, chili pepper, food, "
        "dragon, lantern, star, teapot",
    ),
    "travel": Trait(
        (
            "what you would pack for a trip",
            "something you put your clothes in",
        ),
        "suitcase",
        "backpack, handbag, briefcase, basket, package, clothing, shoe, hat, accessory, electronic device",
    ),
}
"""Traits that implicit expressions ask for. ``yes`` and ``maybe`` list group names and object names."""


@dataclass(frozen=True)
class Entry:
    """One object of the catalogue."""

    name: str
    emoji: str
    group: str


def entries() -> list[Entry]:
    """All objects in the catalogue's order.

    Raises:
        ValueError: If a name or an emoji occurs twice.
    """
    listed = []
    for group, items in GROUPS.items():
        for item in items.split(","):
            name, emoji = item.strip().rsplit(" ", 1)
            listed.append(Entry(name, emoji, group))
    for values in ([entry.name for entry in listed], [entry.emoji for entry in listed]):
        repeated = {value for value in values if values.count(value) > 1}
        if repeated:
            raise ValueError(f"the catalogue lists {sorted(repeated)} more than once; keep one of each")
    return listed


def heldout_names() -> frozenset[str]:
    """The objects kept for the "unseen objects" split: one in ten, spread over the groups.

    Objects that others are a kind of ("dog" for "poodle") are never held out, since their word is needed.
    """
    needed = {word for words in KIND_OF.values() for word in words} | set(KIND_OF)
    eligible = [entry.name for entry in entries() if entry.name not in needed]
    return frozenset(eligible[4::9])
