"""The command: parses, calls, prints, and wires the rooms to each other."""

from scaling.cli.main import main as main
