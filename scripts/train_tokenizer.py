"""Train the small sentencepiece model of the shipped Meta-World policy.

It knows the words of all Meta-World instructions, a few hundred common words of tabletop instructions,
every printable ASCII character (so that any English instruction has an encoding), the prompt template of
π0.5, and one token for each state bin (256, and one for values below the range). Deterministic: the same
script gives the same bytes.

    python scripts/train_tokenizer.py --out foveate/policies/metaworld_tiny/tokenizer.model
"""

from __future__ import annotations

import argparse
import io
import string
from pathlib import Path

import sentencepiece

VOCAB_SIZE = 1024  # large enough that every word below is one token

# ▁ is sentencepiece's space. The template pieces take one token each, so that a prompt stays short.
TEMPLATE = ["▁Task:", ",▁State:", ";\nAction:", "\n"]
STATE_BINS = [f"▁{i}" for i in range(-1, 256)]  # -1: below the range, as numpy.digitize counts

INSTRUCTIONS = """
move the gripper to the green marker
push the puck along the table to the green marker
pick up the puck and carry it to the green marker
press the button down from above
slide the window open
slide the window closed
insert the peg into the hole from the side
pick up the nut and place it onto the peg
dunk the basketball into the basket
grasp the puck from one bin and place it into another bin
press a button from the top
bypass a wall and press a button from the top
press the button
bypass a wall and press the button
push a button on the coffee machine
pull a mug from a coffee machine
push a mug under a coffee machine
rotate a dial 180 degrees
pick a nut out of the peg
close a door with a revolving joint
lock the door by rotating the lock clockwise
open a door with a revolving joint
unlock the door by rotating the lock counter clockwise
insert the gripper into a hole
push and close a drawer
open a drawer
rotate the faucet counter clockwise
rotate the faucet clockwise
turn on the faucet
turn off the faucet
hammer a screw on the wall
press a handle down
press a handle down sideways
pull a handle up
pull a handle up sideways
pull a lever up 90 degrees
insert a peg sideways
unplug a peg sideways
pick a puck and bypass a wall and place the puck at the goal
pick up the puck and lift it to the goal
pick a puck out of the hole
pick and place a puck to the goal
slide a plate into the cabinet
slide a plate into the cabinet sideways
get a plate from the cabinet
get a plate from the cabinet sideways
reach the goal position
reach the red marker with the hand
bypass a wall and reach a goal
push the puck to the goal
push the puck to the goal on the table
bypass a wall and push a puck to a goal
pull the puck back to the goal
kick a soccer ball into the goal
sweep a puck off the table
sweep a puck into a hole
grasp a stick and pull a box with the stick
grasp a stick and push a box using the stick
pick and place a puck onto a shelf
push and close a window
push and open a window
cut a thread with the hand tool and assemble the box
move the gripper above the block
""".strip().splitlines()

# Words of other tabletop instructions, so that a sentence of the user's own does not fall to letters.
WORDS = """
put take grab hold release drop raise lower move bring carry turn twist flip pour wipe clean stack unstack insert
remove switch touch point tap shift drag throw toss fold unfold hang wait stop start go find look follow keep set
red green blue yellow black white orange purple brown pink grey gray silver small large big tall short round square
left right front behind back middle center centre edge corner side near far next between under over above below top
bottom inside outside around through across along away toward towards onto into from with without beside against
cup bowl plate mug bottle can box block cube cylinder ball lid pan pot spoon fork knife towel cloth sponge tray
basket bin rack shelf table desk drawer cabinet door window oven stove microwave fridge sink faucet tap kettle
apple banana carrot tomato potato lemon bread egg butter sauce cheese milk soup book pen pencil marker eraser tape
screw bolt nut peg hole slot ring rope cable plug socket lever dial knob handle lock button key wheel gear tool
robot arm hand gripper finger object item thing goal target position place spot location first second third last
both all each other another same one two three four five six seven eight nine ten and or then until while please
carefully slowly quickly gently again once it its them this that these those there here is are be in on at of to by
for as up down off out not do make let use using get give open close push pull pick press slide reach sweep lift
opened closed assembly disassemble picking topdown hammer soccer unplug coffee lock unlock insert wall stick basketball
""".split()  # noqa: SIM905


def corpus() -> list[str]:
    """Sentences in a fixed order; a repeated one weighs more in the merges."""
    sentences = [s for s in INSTRUCTIONS for _ in range(40)]
    sentences += [w for w in WORDS for _ in range(8)]
    return sentences


def train() -> bytes:
    """The serialised model: pad 0, eos 1, bos 2, unk 3 (PaliGemma's ids)."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(corpus()),
        model_writer=model,
        model_type="bpe",
        vocab_size=VOCAB_SIZE,
        # The default rule set would embed 240 KB of Unicode tables.
        normalization_rule_name="identity",
        user_defined_symbols=TEMPLATE + STATE_BINS,
        required_chars="".join(c for c in string.printable if c not in string.whitespace),
        character_coverage=1.0,
        pad_id=0,
        eos_id=1,
        bos_id=2,
        unk_id=3,
        shuffle_input_sentence=False,
        num_threads=1,
        minloglevel=2,
    )
    return model.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("foveate/policies/metaworld_tiny/tokenizer.model"))
    args = parser.parse_args()
    proto = train()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_bytes(proto)
    tokenizer = sentencepiece.SentencePieceProcessor(model_proto=proto)
    example = "Task: push the puck to the goal, State: 12 200 4 5;\nAction: "
    pieces = tokenizer.id_to_piece(tokenizer.encode(example, add_bos=True))
    print(
        f"{args.out}: {len(proto)} bytes, {tokenizer.vocab_size()} pieces; {example!r}: {len(pieces)} tokens {pieces}"
    )


if __name__ == "__main__":
    main()
