"""The words that the rules for prompts know."""

from __future__ import annotations

from typing import Final


def _words(*lines: str) -> frozenset[str]:
    return frozenset(" ".join(lines).split())


NUMBERS: Final = _words(
    "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen",
    "eighteen nineteen twenty",
)
SINGULAR: Final = _words("a an")
"""Articles of one thing."""
PLURAL: Final = _words("several some many multiple")
"""Begin things whose number the prompt leaves open."""
ATTRIBUTES: Final = _words(
    "red orange yellow green blue purple pink brown black white gray grey golden gold silver beige turquoise cyan",
    "magenta violet teal navy maroon crimson scarlet colorful colourful transparent",
    "big small large little tiny huge giant tall short long wide narrow thin thick round square rectangular",
    "circular oval triangular spherical cubic conical cylindrical pentagonal oblong diamond-shaped teardrop",
    "wooden metallic metal plastic glass leather rubber fabric fluffy furry woolen wool stone marble ceramic paper",
    "concrete soft hard smooth rough shiny glossy matte dirty clean wet dry rusty broken empty full open closed",
    "striped spotted checkered plaid dotted patterned",
    "old young new happy sad angry surprised scared tired",
)
"""Words that say what a thing is like, as the prompts of GenEval and T2I-CompBench use them."""
MATERIALS: Final = _words("metal plastic glass leather rubber fabric wool stone marble ceramic paper concrete")
"""Attributes that are nouns too."""
LOOSE: Final = _words("above below beneath")
"""Relations between rows of things."""
SPATIAL: Final = _words("left_of right_of next_to in_front_of beside behind near")
"""Relations between things. They bind tighter than ``LOOSE``."""
ATTACHED: Final = _words("on_top_of on in inside at by under over against around across")
"""Relations of a thing to what belongs to its description. They bind tighter than ``SPATIAL``."""
PREPOSITIONS: Final = LOOSE | SPATIAL | ATTACHED | _words("with between during for from to into")
NEGATIONS: Final = _words(
    "no not without never none nobody nothing neither nor except isn't aren't doesn't don't wasn't lacking missing"
)
OPEN: Final = _words("or either")
"""Words that leave open what is to be seen."""
STOPS: Final = _words(
    "that which who whose while as than but if because when where he she it they his her its their my our your this",
    "these those like very so also has have holds made",
)
"""Words at which the description of a thing ends."""
COPULAS: Final = _words("is are was were")
NOUNS_IN_ING: Final = _words(
    "building ceiling clothing drawing duckling dumpling earring evening morning nothing painting pudding railing",
    "string swing wedding",
)
SCENE: Final = _words(
    "style light lighting morning evening night afternoon sunset dawn dusk background foreground distance mood quality",
    "resolution detail details middle",
)
"""Nouns that name no thing."""
MEDIA: Final = _words("photo photograph picture image")
STYLED_MEDIA: Final = _words(
    "painting drawing sketch illustration rendering render cartoon poster portrait shot close-up watercolor sculpture"
)
"""Media whose style the prompt asks for too."""
