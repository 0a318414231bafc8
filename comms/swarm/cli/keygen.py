"""Make a member's key, and print its public half: the member's name, which goes on the others' allow-lists.

    thinwire keygen
    thinwire keygen keys/region-a.key --json

The file is this member: keep it secret, and give no two members the same. Who has it can take part in its name.
"""

from dataclasses import dataclass
from pathlib import Path

import tyro

from thinwire.comms.swarm.cli.options import KEY_FILE
from thinwire.comms.swarm.identity import Identity
from thinwire.output import Form, one_sentence, parse


@dataclass(frozen=True)
class Options(Form):
    """Where it goes."""

    path: tyro.conf.Positional[Path] = KEY_FILE
    """The key file; one that is there is kept."""


def main(argv: list[str]) -> None:
    """Make it."""
    with one_sentence():
        options = parse(Options, argv, __doc__)
        out, path = options.output(), options.path
        identity = Identity.generate()
        try:
            identity.save(path)
        except FileExistsError:
            raise ValueError(f"{path} is there already; its key is a member's name: give another path, or remove it") from None
    out.say(f"key file: {path}\npublic key: {identity.key.hex()}")
    out.tell({"key_file": path, "public_key": identity.key})
