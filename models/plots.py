"""The plots of the corpus and what fills them.

A beat is a list of wordings of one step; a beat that begins with "?" is left out of half of the stories. In a wording,
`[a|b]` is a choice, `{h}` the hero, `{f}` the friend (with `.he`, `.him`, `.his` ...), other braces are slots.
Everyone else (elders, strangers) goes without pronouns, so that every "he" or "she" is the hero's or the friend's.
"""

POOLS = {
    "toy": """ball kite doll drum whistle scarf hat book bell basket lantern puppet flute blanket wagon necklace
        spinning-top umbrella compass teddy-bear""".replace(
        "-", "~"
    ).split(),
    "colour": "red blue green yellow shiny little soft old wooden striped purple golden".split(),
    "outdoors": [
        "the park",
        "the forest",
        "the beach",
        "the meadow",
        "the river",
        "the garden",
        "the hill",
        "the pond",
        "the market",
        "the orchard",
    ],
    "spot": [
        "under a bush",
        "behind a big rock",
        "inside a hollow log",
        "on top of a fence",
        "beside the well",
        "under the old bridge",
        "in the tall grass",
        "between two trees",
        "behind the barn",
        "near the gate",
    ],
    "weather": ["sunny", "windy", "cloudy", "warm", "cold", "bright", "misty"],
    "daypart": ["morning", "afternoon", "day"],
    "treat": [
        "honey cake",
        "apple pie",
        "berry jam",
        "warm bread",
        "carrot soup",
        "nut cake",
        "plum tart",
        "pumpkin soup",
        "pear pudding",
        "cheese bread",
    ],
    "stranger": [
        "an old owl",
        "a tall farmer",
        "a friendly baker",
        "a wise turtle",
        "a busy bee",
        "a little sparrow",
        "a kind shepherd",
        "a grey goose",
        "a sleepy cat",
        "a jolly sailor",
    ],
    "small": ["ladybug", "sparrow", "butterfly", "snail", "lamb", "chick", "duckling", "beetle", "swallow", "lizard"],
    "lesson": ["ask for help", "tell the truth", "keep trying", "listen to others", "share with friends"],
    "flower": [
        "sunflower",
        "tulip",
        "rose",
        "daisy",
        "pumpkin vine",
        "bean plant",
        "apple tree",
        "strawberry plant",
        "cherry tree",
        "tomato plant",
    ],
    "number": ["two", "three", "four", "five", "seven"],
}
POOLS["toy"] = [toy.replace("~", " ") for toy in POOLS["toy"]]


def stranger(name):
    """ "an old owl" at first mention, "the owl" after."""
    return {"a": name, "the": "the " + name.split()[-1], "The": "The " + name.split()[-1]}


POOLS["stranger"] = [stranger(name) for name in POOLS["stranger"]]
ONE_DAY = ["One {weather} {daypart}, ", "On a {weather} {daypart}, "]


def one_day(*rests):
    return [start + rest for start in ONE_DAY for rest in rests]


HAPPY_END = [
    "From that day on, {h} and {f} were [the best of friends|never lonely again|always together].",
    "{h} and {f} [walked home hand in hand|laughed all the way home|smiled at each other].",
    "That night, {h} fell asleep with a smile.",
    "It was the [best|happiest] day {h} could remember.",
    "And they all lived happily ever after.",
]

PLOTS = [
    {
        "name": "lost",
        "slots": {
            "o": "toy",
            "c": "colour",
            "place": "outdoors",
            "spot": "spot",
            "wrong": "spot",
            "who": "taker",
            "weather": "weather",
            "daypart": "daypart",
        },
        "pools": {"taker": ["the wind", "a magpie", "a playful puppy", "a naughty goat", "a little monkey"]},
        "beats": [
            [
                "{h.He} had a {c} {o} and [took it everywhere|loved it very much|played with it every day].",
                "{h.His} favorite thing in the world was a {c} {o}.",
                "For {h.his} birthday, {h.he} got a {c} {o} from {h.his} {elder}.",
            ],
            one_day(
                "{h} [went to|walked to|played at] {place} and put the {o} down for a moment.",
                "{h} took the {o} to {place}.",
            ),
            [
                "When {h.he} [looked again|turned around|came back], the {o} was gone!",
                "After a while, {h.he} could not see the {o} anywhere.",
            ],
            [
                '{h} [felt very sad|began to cry|was worried]. "Where is my {o}?" {h.he} [asked|said].',
                '"Oh no, my {o} is lost!" cried {h}.',
            ],
            [
                '{h.His} friend {f} [heard {h.him}|came running]. "[Do not cry|Do not worry], {h}. I will help'
                ' you look,"'
                " said {f}.",
                'Then {h} met {f.intro}. "I will help you find it," said {f}.',
            ],
            [
                "First they looked {wrong}, but [it was not there|they found only leaves|there was nothing].",
                "They searched {wrong}, but the {o} was not there.",
            ],
            [
                "?",
                '{h} wanted to give up, but {f} said, "Let us look one more time."',
                '"We must keep looking," said {f}. {h} nodded and wiped {h.his} eyes.',
            ],
            [
                "Then {f} looked {spot}. There was the {c} {o}!",
                "At last, {h} saw something {c} {spot}. It was the {o}!",
            ],
            ["{who.Cap} had [carried|taken] it there.", "{who.Cap} had dropped it there while {h.he} was not looking."],
            [
                '{h} [hugged|held] the {o} [tightly|close]. "Thank you, {f}! You are a true friend," {h.he} said.',
                '{h} was so happy that {h.he} [danced|jumped up and down]. "Thank you for helping me," {h.he}'
                " told {f}.",
            ],
            [
                "After that, {h} always [took good care of|kept an eye on] the {o}.",
                "They played with the {o} until the sun went down.",
            ],
            HAPPY_END,
        ],
    },
    {
        "name": "share",
        "slots": {
            "o": "toy",
            "c": "colour",
            "place": "outdoors",
            "spot": "spot",
            "result": "mishap",
            "weather": "weather",
            "daypart": "daypart",
            "treat": "treat",
        },
        "pools": {
            "mishap": [
                "fell into the mud",
                "landed in a puddle",
                "dropped into the nettles",
                "fell into a ditch",
                "landed in the wet sand",
            ]
        },
        "beats": [
            one_day(
                "{h} and {h.his} friend {f} [were playing at|walked to] {place}.",
                "{h} met {h.his} friend {f} at {place}.",
            ),
            ["They found a {c} {o} {spot}.", "{spot.Cap}, they saw a {c} {o}."],
            [
                '"It is mine! I saw it first!" said {h}. "No, it is mine!" said {f}.',
                '{h} wanted the {o}, and {f} wanted it too. "Give it to me!" they both shouted.',
            ],
            ["{h} pulled one side and {f} pulled the other.", "They pulled and pulled, and nobody would let go."],
            ["Then the {o} slipped from their hands and {result}.", "Suddenly, the {o} {result}."],
            [
                '{h} looked at {f} and felt [sorry|ashamed]. "I am sorry," {h.he} said. "I do not want to fight'
                ' with you."',
                'Both friends were quiet for a while. "I was not kind," said {h}. "Neither was I," said {f}.',
            ],
            [
                '{f} [smiled|thought for a moment]. "We can take turns," said {f}. "You go first."',
                '"I have an idea," said {h}. "You can have the {o} today, and I can have it tomorrow."',
            ],
            [
                "Together they [got the {o} back and cleaned it|picked up the {o} and wiped it clean].",
                "They worked together to make the {o} as good as new.",
            ],
            ["?", "Then they sat down and shared some {treat}.", "{f} had some {treat}, and they ate it together."],
            [
                "Playing with the {o} was much more fun together.",
                "They took turns with the {o} all day, and nobody was angry any more.",
            ],
            [
                "{h} learned that sharing [makes everyone happy|is better than fighting].",
                '"Sharing is fun," said {h}, and {f} agreed.',
            ],
            HAPPY_END,
        ],
    },
    {
        "name": "afraid",
        "slots": {
            "fear": "fear",
            "tool": "comfort",
            "place": "outdoors",
            "treat": "treat",
            "weather": "weather",
            "daypart": "daypart",
            "who": "small",
        },
        "pools": {
            "fear": [
                {
                    "of": "the dark cave",
                    "do": "walk into the cave",
                    "did": "walked into the cave",
                    "truth": "The cave was full of tiny shining stones",
                },
                {
                    "of": "deep water",
                    "do": "step into the water",
                    "did": "stepped into the water",
                    "truth": "The water was warm and calm",
                },
                {
                    "of": "the old bridge",
                    "do": "cross the bridge",
                    "did": "crossed the bridge",
                    "truth": "The bridge was strong and did not shake",
                },
                {
                    "of": "high places",
                    "do": "climb the tall rock",
                    "did": "climbed the tall rock",
                    "truth": "From the top, the whole valley looked like a picture",
                },
                {
                    "of": "the big black dog",
                    "do": "say hello to the dog",
                    "did": "said hello to the dog",
                    "truth": "The dog only wagged its tail and licked a hand",
                },
                {
                    "of": "the empty mill",
                    "do": "open the door of the mill",
                    "did": "opened the door of the mill",
                    "truth": "Inside the mill, there was only a family of doves",
                },
                {
                    "of": "the dark stairs",
                    "do": "go down the stairs",
                    "did": "went down the stairs",
                    "truth": "Downstairs, there was only a lamp and an old chair",
                },
                {
                    "of": "the shadows in the woods",
                    "do": "walk among the trees",
                    "did": "walked among the trees",
                    "truth": "The shadows were only branches moving in the wind",
                },
            ],
            "comfort": [
                "a small lantern",
                "a lucky stone",
                "a warm scarf",
                "a silver bell",
                "a soft feather",
                "a blue ribbon",
            ],
        },
        "beats": [
            [
                "But {h} was afraid of {fear.of}.",
                "There was one thing that scared {h.him}: {h.he} was afraid of {fear.of}.",
            ],
            one_day(
                '{f}, {h.his} friend, came with bad news. "My little {who} is lost! We must {fear.do} to find it."',
                '{h.his} friend {f} ran up from {place}. "Please help me! My little {who} ran away, and we must'
                ' {fear.do} to find it."',
            ),
            [
                '{h}\'s knees began to shake. "I cannot do it. I am too scared," {h.he} [said|whispered].',
                '{h} took a step back. "I am scared," {h.he} said.',
            ],
            [
                '{h.His} {elder} gave {h.him} {tool}. "Being brave means trying even when you are afraid," said'
                " the {elder}.",
                '"Take this with you," said {h.his} {elder}, and gave {h.him} {tool}. "It will remind you that'
                ' you are brave."',
            ],
            ["{h} held it tightly and took a deep breath.", "{h} closed {h.his} eyes and counted to [three|ten]."],
            [
                "Then, step by step, {h.he} {fear.did} with {f}.",
                "Slowly, {h.he} {fear.did}. {f} stayed close to {h.him}.",
            ],
            ["{fear.truth}.", "{fear.truth}. It was not scary at all!"],
            [
                "And there sat the little {who}, safe and sound.",
                "Then they heard a tiny sound. It was the little {who}!",
            ],
            [
                '"You did it, {h}!" [cheered|cried] {f}. "You are so brave!"',
                '{f} hugged {h}. "Thank you for being so brave," said {f}.',
            ],
            ["?", "At home, they all ate {treat} together.", "To celebrate, {h.his} {elder} made {treat}."],
            [
                "{h} was not afraid of {fear.of} any more.",
                "After that, {h} [smiled|laughed] when {h.he} thought of {fear.of}.",
            ],
            HAPPY_END,
        ],
    },
    {
        "name": "broken",
        "slots": {
            "thing": "fragile",
            "c": "colour",
            "act": "careless",
            "weather": "weather",
            "daypart": "daypart",
            "fix": "fix",
            "treat": "treat",
            "wish": "hide",
        },
        "pools": {
            "fragile": ["vase", "bowl", "teapot", "cup", "plate", "jug", "clock", "mirror", "flower pot", "lamp"],
            "careless": [
                "running in the kitchen",
                "dancing on a chair",
                "throwing a ball inside",
                "playing a wild game with {f}",
                "spinning around and around",
                "chasing a fly",
                "jumping on the bed",
            ],
            "fix": ["glue", "string", "clay", "sticky tape", "a little paint"],
            "hide": ["under the bed", "behind the curtain", "in a box", "under a blanket", "in the garden"],
        },
        "beats": [
            [
                "{h.His} {elder} had a {c} {thing} and loved it very much.",
                "On a shelf at home stood a {c} {thing}. It belonged to {h.his} {elder}.",
            ],
            one_day("{h} was {act}.", "{h} and {h.his} friend {f} were inside. {h} was {act}."),
            [
                "[Crash|Bang]! The {thing} fell to the floor and broke.",
                "Oh no! {h} bumped into the {thing}, and it broke.",
            ],
            [
                "{h} was frightened. {h.He} hid the pieces {wish}.",
                '"What shall I do?" thought {h}. {h.He} quickly put the pieces {wish}.',
            ],
            [
                "But {h.he} felt [bad|heavy inside] and could not [eat|play|sleep].",
                "All {daypart} long, {h.his} tummy hurt because {h.he} had a secret.",
            ],
            [
                '"You should tell the truth," said {h.his} friend {f}.',
                '{h.His} friend {f} said softly, "Your {elder} will understand. Tell the truth."',
            ],
            [
                'So {h} went to {h.his} {elder}. "I broke your {thing}. I am very sorry," {h.he} said.',
                '{h} took the pieces out again and showed them to {h.his} {elder}. "It was me. I am sorry,"'
                " {h.he} said.",
            ],
            [
                'The {elder} was [sad|quiet] for a moment, but then [smiled|hugged {h.him}]. "Thank you for'
                ' telling the truth."',
                '"I am glad that you told me," said the {elder}. "A {thing} can be fixed."',
            ],
            [
                "Together they fixed the {thing} with {fix}.",
                "They sat at the table and put the {thing} together with {fix}.",
            ],
            [
                "It had a few lines now, but {h} thought it was [even more beautiful|still very pretty].",
                "The {thing} stood on the shelf again, a little crooked.",
            ],
            ["?", "Afterwards, they had {treat}.", "{f} came over, and they all ate {treat}."],
            [
                "{h} learned that [telling the truth makes the heart light|it is always better to tell the truth].",
                "From then on, {h} was more careful and always told the truth.",
            ],
        ],
    },
    {
        "name": "gift",
        "slots": {
            "o": "toy",
            "c": "colour",
            "place": "outdoors",
            "m1": "material",
            "m2": "material",
            "m3": "material",
            "s": "stranger",
            "treat": "treat",
        },
        "pools": {
            "material": [
                "a smooth stone",
                "some yellow leaves",
                "a long feather",
                "a piece of string",
                "three acorns",
                "a pretty shell",
                "some soft wool",
                "a pine cone",
                "a handful of daisies",
                "a shiny button",
            ]
        },
        "beats": [
            ["{h.His} best friend was {f.intro}.", "{h} had a good friend, {f.intro}."],
            [
                "Tomorrow was {f}'s birthday, but {h} had no present.",
                "It was almost {f}'s birthday, and {h} wanted to give {f} something special.",
            ],
            [
                '{h} had no money to buy a {o}. "I will make one," {h.he} [said|decided].',
                '"{f} has always wanted a {c} {o}," thought {h}. "I will make it."',
            ],
            ["{h.He} went to {place} and found {m1} and {m2}.", "At {place}, {h.he} picked up {m1} and {m2}."],
            ["But {h.he} still needed {m3}.", "Only one thing was missing: {m3}."],
            [
                'On the way, {h.he} met {s.a}. "Please, do you have {m3}?" asked {h}.',
                'Then {s.a} came by. "You look sad. What do you need?" "I need {m3}," said {h}.',
            ],
            [
                '"Yes, but first help me carry this basket," said {s.the}. {h} was glad to help.',
                '"I will give it to you if you sing me a song," said {s.the}. So {h} sang, and {s.the} clapped.',
            ],
            ["{h} thanked {s.the} and ran home.", "{s.The} was happy and gave {h.him} what {h.he} needed."],
            [
                "{h} worked all evening until the {c} {o} was ready.",
                "That evening, {h.he} made a {c} {o}. It was not perfect," " but it was made with love.",
            ],
            [
                'The next day, {f} opened the present. "A {c} {o}! It is beautiful!" {f.he} [cried|said].',
                'When {f} saw the {c} {o}, {f.his} eyes began to shine. "Did you make this for me?"',
            ],
            ['{f} hugged {h}. "This is the best present of all," {f.he} said.', '"I will keep it forever," said {f}.'],
            ["?", "Then everyone ate {treat} and danced.", "They ate {treat} and played games."],
            [
                "{h} was [proud|very happy]. A gift made with love is the best gift.",
                "{h} smiled, because making {f} happy made {h.him} happy too.",
            ],
        ],
    },
    {
        "name": "rescue",
        "slots": {
            "who": "small",
            "place": "outdoors",
            "trap": "trap",
            "tool": "tool",
            "o": "toy",
            "c": "colour",
            "weather": "weather",
            "daypart": "daypart",
        },
        "pools": {
            "trap": [
                "stuck in the mud",
                "caught in a thorn bush",
                "caught in a net",
                "trapped under a branch",
                "stuck in a deep hole",
                "tangled in some string",
            ],
            "tool": ["a long stick", "a piece of rope", "a wooden spoon", "a small ladder", "a bucket", "a big leaf"],
        },
        "beats": [
            one_day(
                "{h} [was walking|went] to {place} when {h.he} heard a tiny voice.",
                "{h} heard someone crying near {place}.",
            ),
            [
                '"Help! Please help me!" It was a little {who}, {trap}.',
                'There was a little {who}, {trap}. "Please help me," it said.',
            ],
            [
                '"Do not be afraid," said {h}. "I will get you out."',
                '{h} felt sorry for the {who}. "I will help you," {h.he} said.',
            ],
            [
                "{h} tried, but {h.he} could not do it alone. So {h.he} called {h.his} friend {f}.",
                '{h.He} pulled gently, but it did not work. "I will get my friend {f}," said {h}.',
            ],
            ['{f} came with {tool}. "This will help," said {f}.', '{f} brought {tool}. "Let us try this," said {f}.'],
            ["Very carefully, they used it to set the {who} free.", "Together they worked until the {who} was free."],
            [
                '"Thank you!" said the {who}. "One day, I will help you too." {h} smiled.',
                'The {who} was so glad. "I will never forget this," it said.',
            ],
            [
                "A few days later, {h} lost {h.his} {c} {o} at {place}. {h.He} looked everywhere and was very sad.",
                "The next week, {h} dropped {h.his} {c} {o} near {place} and could not find it.",
            ],
            [
                'Then {h.he} heard a tiny voice. It was the little {who}! "I found your {o}," it said.',
                'Suddenly, the little {who} came along. "Follow me! I know where your {o} is."',
            ],
            [
                '{h} was so happy to have the {o} back. "Thank you, little {who}!"',
                "And there it was, the {c} {o}! {h} laughed and thanked the {who}.",
            ],
            [
                '{f} smiled. "If you help others, they will help you," said {f}.',
                "{h} learned that even a small friend can be a great help.",
            ],
            [
                "?",
                "From that day on, {h}, {f} and the {who} played together.",
                "The three of them became good friends.",
            ],
        ],
    },
    {
        "name": "picnic",
        "slots": {
            "place": "outdoors",
            "treat": "treat",
            "treat2": "treat",
            "storm": "storm",
            "o": "toy",
            "c": "colour",
            "shelter": "shelter",
            "game": "game",
        },
        "pools": {
            "storm": [
                "it began to rain",
                "a cold wind began to blow",
                "thunder rumbled in the sky",
                "dark clouds came",
            ],
            "shelter": ["an old barn", "a dry cave", "a little hut", "a big hollow tree", "an empty boat house"],
            "game": [
                "told funny stories",
                "sang songs",
                "played guessing games",
                "made shadow animals on the wall",
                "counted the raindrops",
            ],
        },
        "beats": [
            [
                "{h} and {h.his} friend {f} wanted to have a picnic at {place}.",
                '"Let us have a picnic at {place}," {h} said to {h.his} friend {f}.',
            ],
            ["{h} packed {treat}, and {f} brought {treat2}.", "In the basket there were {treat} and {treat2}."],
            ["{f} also took a {c} {o} along.", '"I will bring my {c} {o}," said {f}.'],
            ["But just when they sat down, {storm}.", "They had only just started to eat when {storm}."],
            [
                '"Our picnic is ruined!" cried {h}. {h.He} was [so sad|very disappointed].',
                '{h} looked at the sky. "This is not fair," {h.he} said.',
            ],
            [
                '"Quick, let us run!" said {f}. They picked up everything and ran until they found {shelter}.',
                "{f} took {h} by the hand, and they ran to {shelter}.",
            ],
            ["Inside, it was [warm and dry|quiet and cozy].", "They were safe there, and nobody else was around."],
            [
                '"We can have our picnic right here," said {f}. {h} began to smile.',
                '"I have an idea," said {h}. "We will have our picnic inside!"',
            ],
            ["They ate the {treat}, and they {game}.", "First they shared the {treat2}, and then they {game}."],
            ["?", "{f} let {h} play with the {o}.", "The {o} was still dry, and they played with it."],
            [
                "Soon the sky was blue again. A big rainbow stood over {place}.",
                "When they looked outside, the sun was back, and there was a rainbow.",
            ],
            ['"This was the best picnic ever," said {h}.', '"A little bad weather cannot stop us," laughed {h}.'],
            [
                "{h} learned that a bad start can have a good end.",
                "They walked home and told {h.his} {elder} everything.",
            ],
        ],
    },
    {
        "name": "skill",
        "slots": {
            "skill": "skill",
            "hurt": "hurt",
            "days": "number",
            "treat": "treat",
            "advice": "advice",
            "s": "stranger",
        },
        "pools": {
            "skill": [
                {"do": "swim", "at": "the lake", "did": "swam across the water"},
                {"do": "whistle", "at": "the garden", "did": "whistled a happy tune"},
                {"do": "dance", "at": "the meadow", "did": "danced without one mistake"},
                {"do": "juggle", "at": "the orchard", "did": "juggled three apples"},
                {"do": "skip a stone", "at": "the pond", "did": "skipped a stone five times"},
                {"do": "play the drum", "at": "the barn", "did": "played the drum for everyone"},
                {"do": "climb the oak tree", "at": "the old oak", "did": "climbed to the top of the oak tree"},
                {"do": "skate", "at": "the frozen pond", "did": "skated in a big circle"},
                {"do": "fly a kite", "at": "the hill", "did": "made the kite fly high above the trees"},
                {"do": "bake bread", "at": "the kitchen", "did": "baked a golden loaf of bread"},
            ],
            "hurt": [
                "It went wrong, and {h.he} sat down in the grass",
                "It did not work at all",
                "Everything went wrong",
                "{h.He} got tired and cross",
            ],
            "advice": [
                "Go slowly and breathe",
                "Practice a little every day",
                "Watch me first, and then try",
                "Do not think about the mistakes",
            ],
        },
        "beats": [
            ["{h} wanted to learn how to {skill.do}.", "More than anything, {h} wished to {skill.do}."],
            ["{h.His} friend {f} could already do it.", "All the others could do it, even {h.his} friend {f}."],
            ["So {h.he} went to {skill.at} and tried. {hurt}.", "{h} tried it at {skill.at}. {hurt}."],
            ["{h.He} tried again and again, but it was too hard.", "{h} tried once more, and it was no better."],
            ['"I will never learn it!" {h.he} [cried|shouted].', '"I give up," said {h} sadly.'],
            [
                'Just then, {s.a} came by. "What is the matter?" asked {s.the}.',
                'Not far away sat {s.a}. "Why are you so sad?" asked {s.the}.',
            ],
            ['"I want to {skill.do}, but I cannot," said {h}.', "{h} told {s.the} about {h.his} wish."],
            [
                '"{advice}," said {s.the}. "Nobody can do it the first time."',
                '{s.The} smiled. "{advice}. That is the secret."',
            ],
            [
                "So {h} practiced for {days} days. {f} came along and cheered for {h.him}.",
                "For {days} days, {h} practiced with {f}. Each day, it went a little better.",
            ],
            ["And then, one [morning|afternoon], {h} {skill.did}!", "At last, {h} {skill.did}. It worked!"],
            [
                '"I did it! I did it!" {h.he} shouted. {f} clapped and laughed.',
                '"Look at me!" cried {h}. {f} cheered loudly.',
            ],
            ["?", "{h.His} {elder} made {treat} to celebrate.", "That evening, there was {treat} for everyone."],
            [
                "{h} learned that [you must keep trying|practice makes you better].",
                "{h} thanked {s.the} and was very proud.",
            ],
        ],
    },
    {
        "name": "plant",
        "slots": {
            "plant": "flower",
            "s": "stranger",
            "days": "number",
            "trouble": "trouble",
            "home": "bed",
            "treat": "treat",
            "song": "care",
        },
        "pools": {
            "bed": [
                "behind the house",
                "beside the well",
                "near the gate",
                "under the kitchen window",
                "next to the fence",
                "on the sunny side of the barn",
            ],
            "trouble": [
                {"what": "The ground became dry and hard", "do": "carried water from the well"},
                {"what": "A strong wind bent the little plant", "do": "tied it to a stick"},
                {"what": "Hungry snails came in the night", "do": "carried the snails to the meadow"},
                {"what": "A cold night covered everything with frost", "do": "covered it with a warm blanket"},
                {"what": "Weeds grew all around it", "do": "pulled out every weed"},
            ],
            "care": ["sang to it", "told it stories", "said good morning to it", "drew pictures of it", "read to it"],
        },
        "beats": [
            [
                'One spring day, {s.a} gave {h.him} a tiny seed. "Take good care of it," said {s.the}.',
                'One day, {h.he} met {s.a}. "This seed is for you," said {s.the}. "You must be patient."',
            ],
            ["{h} planted the seed {home}.", "{h.He} found a good place {home} and planted the seed there."],
            ["Every day, {h.he} gave it water and {song}.", "{h} watered it each morning and {song}."],
            [
                "But after {days} days, there was still nothing to see.",
                "{days.Cap} days went by, and nothing happened.",
            ],
            [
                '"Maybe the seed is asleep," said {h.his} friend {f}.',
                '"It does not work," {h} said to {h.his} friend {f}.' ' "Just wait," said {f}.',
            ],
            [
                "Then, one morning, a tiny green leaf looked out of the ground! {h} jumped for joy.",
                'The next morning, {h} saw something green. "It is growing!" {h.he} shouted.',
            ],
            ["But soon there was trouble. {trouble.what}.", "{trouble.what}. {h} was very worried."],
            ["{h} and {f} {trouble.do}.", '"We must save it," said {f}. So they {trouble.do}.'],
            [
                "Day after day, the plant grew [taller|bigger] and stronger.",
                "The sun was warm, and the plant grew and grew.",
            ],
            ["By summer, it was a beautiful {plant}.", "In the summer, {h} had the biggest {plant} of all."],
            [
                '{s.The} came to see it. "You were patient and kind to it," said {s.the}.',
                "When {s.the} came back, {h} was proud to show the {plant}.",
            ],
            ["?", "They sat beside the {plant} and ate {treat}.", "{f} brought {treat}, and they had a little party."],
            ["{h} learned that good things take time.", '"Good things need time and love," said {h}.'],
        ],
    },
    {
        "name": "newcomer",
        "slots": {
            "place": "outdoors",
            "o": "toy",
            "c": "colour",
            "game": "play",
            "treat": "treat",
            "why": "reason",
            "weather": "weather",
            "daypart": "daypart",
        },
        "pools": {
            "play": ["hide and seek", "catch", "pirates", "a jumping game", "tag", "kings and queens"],
            "reason": [
                "I am new here, and I do not know anyone",
                "My old friends live far away",
                "I am too shy to ask",
                "Nobody has asked me to play",
                "I do not know your games",
            ],
        },
        "beats": [
            one_day(
                "{h} [went to|walked to] {place} to play {game} with the others.", "{h} was playing {game} at {place}."
            ),
            [
                "There {h.he} saw {f.intro}, sitting all alone.",
                "Near a tree sat {f.intro}. {h} had never seen {f} before.",
            ],
            ["{f} held a {c} {o} and looked [sad|lonely].", "Next to {f} lay a {c} {o}, but {f} did not play with it."],
            [
                '{h} stopped playing and walked over. "Hello, I am {h}. What is your name?"',
                '"Hello," said {h}. "Why are you all alone?"',
            ],
            ['"I am {f}," was the quiet answer. "{why}."', '{f} looked down. "My name is {f}. {why}," {f.he} said.'],
            ["{h} remembered how it feels to be lonely.", "{h} thought for a moment. {h.He} knew what to do."],
            ['"Come and play {game} with us," said {h}.', '"Would you like to play {game} with me?" asked {h}.'],
            [
                '{f} [smiled a little|looked up]. "I would like that very much."',
                '{f}\'s face became bright. "Really? Yes, please!"',
            ],
            [
                "Soon they were running and laughing. {f} was very good at the game.",
                "They played {game} for hours, and everyone laughed.",
            ],
            ["Then {f} let {h} try the {c} {o}.", '"You can play with my {o} too," said {f}.'],
            ["?", "When they were hungry, they shared some {treat}.", "{h} gave {f} half of {h.his} {treat}."],
            [
                '"Will you come back tomorrow?" asked {f}. "Of course," said {h}. "We are friends now."',
                '"I am not lonely any more," said {f}. {h} was glad.',
            ],
            ["A kind word is all it takes to make a friend.", "From then on, the two met at {place} every day."],
        ],
    },
    {
        "name": "lost way",
        "slots": {
            "who": "small",
            "place": "outdoors",
            "mark1": "mark",
            "mark2": "mark",
            "s": "stranger",
            "treat": "treat",
            "weather": "weather",
            "daypart": "daypart",
        },
        "pools": {
            "mark": [
                "a tall pine tree",
                "a round white stone",
                "a broken fence",
                "a small stream",
                "a red mailbox",
                "an old windmill",
                "a patch of mushrooms",
                "a stone wall",
            ]
        },
        "beats": [
            [
                '"Do not go too far," {h.his} {elder} always said.',
                "{h.His} {elder} told {h.him} to stay close to home.",
            ],
            one_day("{h} saw a pretty {who} and followed it.", "a {who} came to the window, and {h} ran after it."),
            [
                "It went past {mark1}, then past {mark2}, and on to {place}.",
                "First they came to {mark1}, and then to {mark2}." " At last they were at {place}.",
            ],
            [
                "Then the {who} was gone, and {h} did not know where {h.he} was.",
                "Suddenly, {h.he} was alone. The {who} had disappeared.",
            ],
            [
                '"I am lost," said {h}, and a tear ran down {h.his} cheek.',
                '{h} was frightened. "How will I get home?" {h.he} said.',
            ],
            [
                'Just then, {s.a} came along. "What did you see on your way?" asked {s.the}.',
                '{h} met {s.a}. "Do not cry," said {s.the}. "Think of what you saw on the way."',
            ],
            [
                '{h} thought hard. "I saw {mark1} and {mark2}," {h.he} said.',
                '"There was {mark1}, and there was {mark2}," said {h}.',
            ],
            [
                '"I know them," said {s.the}. "Come with me."',
                '"Good! Then we only have to find them again," said {s.the}.',
            ],
            [
                "They walked until they saw {mark2.the}, and after that {mark1.the}.",
                "Soon they found {mark2.the}. A little later, they came to {mark1.the}.",
            ],
            [
                "From there, {h} could see {h.his} house! {h.His} friend {f} was waiting at the door.",
                '"I can see my house!" cried {h}. {h.His} {elder} and {h.his} friend {f} were outside, calling'
                " {h.his} name.",
            ],
            [
                '{h} hugged {h.his} {elder}. "I am sorry that I went so far," {h.he} said.',
                'The {elder} held {h.him} close. "I was so worried," said the {elder}. "I am sorry," said {h}.',
            ],
            ["They thanked {s.the} and ate {treat} together.", "{s.The} stayed for a while and had some {treat}."],
            [
                "After that, {h} never ran off without telling anyone.",
                "{h} never forgot that day and always stayed close to home.",
            ],
        ],
    },
    {
        "name": "race",
        "slots": {
            "place": "outdoors",
            "end": "mark",
            "prize": "toy",
            "c": "colour",
            "accident": "accident",
            "s": "stranger",
            "treat": "treat",
        },
        "pools": {
            "mark": [
                "the tall pine tree",
                "the white stone",
                "the windmill",
                "the stone wall",
                "the wooden bridge",
                "the church",
            ],
            "accident": [
                "tripped over a root",
                "fell into a ditch",
                "slipped on wet leaves",
                "stepped on a thorn",
                "stepped into a deep puddle",
            ],
        },
        "beats": [
            ["{h} was the fastest runner [of all|in the whole village].", "Nobody could run as fast as {h}."],
            [
                "One day, there was a big race from {place} to {end}. The prize was a {c} {prize}.",
                "One day, everyone met at {place} for a race to {end}. The winner would get a {c} {prize}.",
            ],
            [
                '"I will win that {prize}," said {h}.',
                '{h} wanted the {prize} very much. "I am sure that I will win," {h.he} said.',
            ],
            [
                "{h.His} friend {f} wanted to run too.",
                '{f}, {h.his} friend, stood beside {h.him}. "Good luck," said {f}.',
            ],
            ['"One, two, three, go!" called {s.a}.', "Then {s.a} rang a bell, and they all began to run."],
            ["{h} was in front, and {f} was close behind.", "{h} ran like the wind. Soon only {f} could keep up."],
            [
                'But then {f} {accident}. "Ouch! Help!" cried {f}.',
                'Suddenly, {f} {accident}. "Help me!" {f.he} called.',
            ],
            [
                "{h} could see {end}. {h.He} could still win! But {h.he} stopped.",
                "{h} looked at {end}. It was so near. Then {h.he} looked back.",
            ],
            [
                '"A friend is more important than a {prize}," {h.he} said, and ran back.',
                "{h} turned around and ran to help {f}.",
            ],
            [
                "{h} helped {f} to get up, and they walked on together, arm in arm.",
                '"Lean on me," said {h}. Slowly, they walked to {end} together.',
            ],
            ["They came in last, but everyone clapped.", "All the others were there already, but nobody laughed."],
            [
                '{s.The} gave them the {c} {prize}. "You lost the race, but you were the kindest," said {s.the}.',
                '"The {prize} is for {h}, who stopped to help," said {s.the}.',
            ],
            ["{h} shared the {prize} with {f}, and they were both happy.", '"It belongs to both of us," {h} told {f}.'],
            ["?", "Afterwards, there was {treat} for all.", "Then they ate {treat} together."],
        ],
    },
    {
        "name": "noise",
        "slots": {
            "noise": "noise",
            "cause": "cause",
            "light": "light",
            "guess": "guess",
            "where": "where",
            "treat": "treat",
            "weather": "night",
        },
        "pools": {
            "night": ["stormy", "windy", "cold", "dark", "quiet", "foggy", "rainy"],
            "noise": [
                "a scratching sound",
                "a strange tapping",
                "a soft humming",
                "a loud bump",
                "a rattling noise",
                "a squeaking sound",
            ],
            "cause": [
                {"is": "a lost kitten", "do": "gave it some milk"},
                {"is": "a small mouse with a nut", "do": "gave it a piece of cheese"},
                {"is": "a loose shutter in the wind", "do": "closed it with a string"},
                {"is": "a hungry hedgehog", "do": "put out a bowl of apples"},
                {"is": "a little bird with a hurt wing", "do": "made a soft nest for it"},
                {"is": "a branch that moved in the wind", "do": "tied it to the fence"},
                {"is": "an old tin can on a string", "do": "took it down from the wall"},
            ],
            "light": ["a candle", "a lantern", "a small lamp", "a torch"],
            "guess": ["a monster", "a ghost", "a dragon", "a thief", "a giant"],
            "where": [
                "in the attic",
                "under the stairs",
                "behind the door",
                "in the cellar",
                "outside the window",
                "in the kitchen",
            ],
        },
        "beats": [
            ["One {weather} night, {h} could not sleep.", "It was a {weather} night, and {h} was lying in bed."],
            ["{h.His} friend {f} was staying for the night.", "{f}, {h.his} friend, was sleeping in the same room."],
            ["Suddenly, {h.he} heard {noise} {where}.", "Then there was {noise} {where}."],
            [
                '"What is that?" whispered {h}. {h.He} pulled the blanket over {h.his} head.',
                '{h} sat up. "Did you hear that?" {h.he} asked.',
            ],
            ['{f} woke up. "Maybe it is {guess}!" said {f}.', '"I think it is {guess}," whispered {f}.'],
            ["They listened. There it was again!", "The sound came again, a little louder."],
            [
                '"We should go and look," said {h} bravely.',
                '{h} was afraid, but {h.he} also wanted to know. "Come with me," {h.he} said.',
            ],
            ["They took {light} and walked on tiptoe.", "{h} held {light}, and {f} held {h}'s hand."],
            [
                "They looked {where}. It was not {guess} at all. It was only {cause.is}!",
                "And what did they find {where}? It was {cause.is}!",
            ],
            ["{h} and {f} laughed and laughed.", '"And we thought it was {guess}!" laughed {f}.'],
            ["Then they {cause.do}.", "Together they {cause.do}, and it was quiet at last."],
            [
                "?",
                "{h.His} {elder} woke up too and gave them {treat}.",
                "Before they went back to bed, they ate a little {treat}.",
            ],
            ["After that, they slept until morning.", "Soon they were both fast asleep."],
            [
                "In the morning, {h} told {h.his} {elder} how brave they had been.",
                "{h} learned that many scary things are not scary when you look at them.",
            ],
        ],
    },
    {
        "name": "greedy",
        "slots": {
            "treat": "treat",
            "for": "feast",
            "place": "outdoors",
            "hide": "spot",
            "cure": "cure",
            "weather": "weather",
            "daypart": "daypart",
        },
        "pools": {
            "feast": [
                "the summer party",
                "the village fair",
                "{f}'s birthday",
                "the harvest dance",
                "the winter feast",
                "the spring picnic",
            ],
            "cure": [
                "a cup of warm tea",
                "some mint leaves",
                "a long rest",
                "a spoon of medicine",
                "a hot water bottle",
            ],
        },
        "beats": [
            ["{h.His} {elder} had made {treat} for {for}.", "There was {treat} on the table. It was for {for}."],
            [
                '"Please do not eat it yet," said {h.his} {elder}.',
                '"It is for everyone," {h.his} {elder} told {h.him}.',
            ],
            [
                "But it smelled so good! {h} took one little bite.",
                '{h} could not stop looking at it. "Only a little bit," {h.he} thought.',
            ],
            ["Then {h.he} took another bite, and another.", "One bite became two, and two became ten."],
            [
                "{h} carried the rest to a place {hide} and ate it all.",
                "{h.He} sat down {hide} and ate until nothing was left.",
            ],
            [
                'Soon {h.his} tummy began to hurt. "Ouch," said {h}.',
                "After that, {h} felt very sick and could not move.",
            ],
            [
                '{h.His} friend {f} found {h.him} there. "What is wrong?" asked {f}.',
                '{f}, {h.his} friend, came from {place} and saw {h.him}. "Are you sick?" asked {f}.',
            ],
            [
                '"I ate it all, and now there is nothing for {for}," said {h} and began to cry.',
                '{h} was ashamed. "I was greedy," {h.he} said. "I ate everything."',
            ],
            [
                '"You must tell your {elder}," said {f}. "I will come with you."',
                "{f} took {h} home to {h.his} {elder}.",
            ],
            [
                'The {elder} gave {h.him} {cure}. "I am glad that you are honest," said the {elder}.',
                '"I am sorry," said {h}. {h.His} {elder} nodded and gave {h.him} {cure}.',
            ],
            [
                "The next day, {h} felt better. {h.He} and {f} helped to make new {treat}.",
                "When {h} was well again, {h.he} made new {treat} with {f}.",
            ],
            [
                "This time, {h} waited until everyone had some.",
                "At {for}, {h} gave everyone a piece and took the last one for {h.himself}.",
            ],
            ["It tasted much better that way.", '"It tastes better when we share it," said {h}.'],
        ],
    },
    {
        "name": "magic",
        "slots": {"c": "colour", "o": "magic", "spot": "spot", "place": "outdoors", "wish": "wish", "s": "stranger"},
        "pools": {
            "magic": ["stone", "ring", "key", "feather", "shell", "coin", "bell"],
            "wish": [
                {"for": "a mountain of toys", "bad": "there was no room left to sit or sleep"},
                {"for": "a crown and a big castle", "bad": "the castle was cold and empty, and nobody came to play"},
                {"for": "summer all year", "bad": "the flowers became dry and the pond was empty"},
                {"for": "sweets every day", "bad": "they did not taste good any more"},
                {"for": "a day that never ends", "bad": "everyone was so tired and nobody could sleep"},
                {"for": "snow in the garden", "bad": "all the flowers were cold and the birds were hungry"},
                {"for": "a voice as loud as thunder", "bad": "everyone ran away from the noise"},
            ],
        },
        "beats": [
            [
                "One day, {h.he} found a {c} {o} {spot}.",
                "While {h.he} was walking near {place}, {h.he} found a {c} {o} {spot}.",
            ],
            [
                'The {o} began to shine. "I can give you one wish," it said.',
                '"I am a magic {o}," said a tiny voice. "Make a wish!"',
            ],
            [
                '{h} did not think for long. "I wish for {wish.for}!" {h.he} said.',
                '"Then I want {wish.for}," said {h} at once.',
            ],
            ["[Whoosh|Puff]! The wish came true.", "There was a flash of light, and there it was!"],
            ["At first, {h} was [delighted|very happy].", "{h} laughed and clapped {h.his} hands."],
            ["But soon {wish.bad}.", "After a few days, {wish.bad}."],
            [
                '{h.His} friend {f} came to see {h.him}. "Are you happy with your wish?" asked {f}.',
                '"I do not like this," said {h.his} friend {f}.',
            ],
            [
                '"No," said {h}. "I wish that everything was like before. But the {o} gave me only one wish."',
                '{h} shook {h.his} head. "I was silly. What can I do?"',
            ],
            [
                '"Let us ask for help," said {f}. They went to {place} and found {s.a}.',
                "{f} knew {s.a} who lived near {place}, and they went there together.",
            ],
            [
                '"Put the {o} back {spot}, and say that you are sorry," said {s.the}.',
                '{s.The} said, "You must give the {o} back to the place where you found it."',
            ],
            [
                '{h} put the {o} back {spot}. "Thank you, but I do not need {wish.for}," {h.he} said.',
                'So {h} did. "I am sorry," {h.he} told the {o}. "I do not need {wish.for}."',
            ],
            [
                "At once, everything was as it was before.",
                "There was another flash, and everything was the same as always.",
            ],
            [
                '"I have you, {f}, and that is enough," said {h}.',
                '{h} hugged {f}. "A friend is better than any wish," {h.he} said.',
            ],
        ],
    },
    {
        "name": "build",
        "slots": {
            "thing": "project",
            "m": "stuff",
            "m2": "stuff",
            "elder2": "advice",
            "weather": "weather",
            "daypart": "daypart",
            "treat": "treat",
        },
        "pools": {
            "project": [
                {
                    "name": "tree house",
                    "at": "the old oak",
                    "fail": "fell down with a crash",
                    "use": "They sat inside it and looked at the clouds",
                },
                {"name": "raft", "at": "the river", "fail": "sank at once", "use": "It carried them across the water"},
                {
                    "name": "snow castle",
                    "at": "the hill",
                    "fail": "fell over on one side",
                    "use": "They waved from it like a king and a queen",
                },
                {
                    "name": "swing",
                    "at": "the orchard",
                    "fail": "broke at the first try",
                    "use": "They took turns and went higher and higher",
                },
                {
                    "name": "little bridge",
                    "at": "the stream",
                    "fail": "broke in the middle",
                    "use": "Even the ducks walked over it",
                },
                {
                    "name": "birdhouse",
                    "at": "the garden",
                    "fail": "fell apart",
                    "use": "Soon a family of birds moved in",
                },
                {
                    "name": "cart",
                    "at": "the barn",
                    "fail": "lost all its wheels",
                    "use": "They rolled down the path and laughed",
                },
                {
                    "name": "tent",
                    "at": "the meadow",
                    "fail": "flew away in the wind",
                    "use": "They slept in it under the stars",
                },
            ],
            "stuff": [
                "old boards",
                "long branches",
                "strong rope",
                "big leaves",
                "empty boxes",
                "soft clay",
                "dry straw",
                "flat stones",
            ],
            "advice": [
                "Make the bottom wide and strong",
                "Work slowly and measure everything",
                "Make a drawing first",
                "Tie every corner twice",
                "Listen to each other while you work",
            ],
        },
        "beats": [
            one_day(
                '{h} had an idea. "Let us build a {thing}!" {h.he} told {h.his} friend {f}.',
                "{h} and {h.his} friend {f} wanted to build a {thing} at {thing.at}.",
            ),
            ["They collected {m} and {m2}.", "{h} brought {m}, and {f} brought {m2}."],
            [
                '"I know how to do it," said {h}. "No, my way is better," said {f}.',
                "{h} was in a hurry and did not listen to {f}.",
            ],
            [
                "When it was finished, the {thing} {thing.fail}.",
                "They worked all {daypart}, but then the {thing} {thing.fail}.",
            ],
            [
                '{h} kicked a stone. "It is all your fault!" {h.he} said. {f} looked sad.',
                '"All that work for nothing!" cried {h}. {f} said nothing.',
            ],
            [
                '{h.His} {elder} came out to {thing.at}. "What happened?"',
                "Then {h.his} {elder} walked by and saw what had happened.",
            ],
            ['"{elder2}," said the {elder}. "And do it together."', 'The {elder} smiled. "Try again. {elder2}."'],
            [
                '{h} turned to {f}. "I am sorry. Shall we try again?" "Yes," said {f}.',
                '"I should have listened to you," {h} told {f}. "Let us try again."',
            ],
            ["This time, they worked as a team.", "{h} held the {m}, while {f} put the {m2} in the right place."],
            [
                "At last, the {thing} was ready, and it was [wonderful|strong].",
                "In the end, the {thing} was better than they had dreamed.",
            ],
            ["{thing.use}.", "{thing.use}. It was so much fun!"],
            ["?", "{h.His} {elder} brought {treat} for the builders.", "To celebrate, they ate {treat}."],
            [
                '"We make a good team," said {h}, and {f} [smiled|nodded].',
                "{h} learned that working together makes hard things easy.",
            ],
        ],
    },
]
