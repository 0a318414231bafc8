"""Where a member's key lies when nobody says otherwise."""

from pathlib import Path

KEY_FILE = Path.home() / ".config" / "thinwire" / "identity.key"
