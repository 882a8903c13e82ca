"""The agent inside a machine: standard library only, packed as one .pyz, and nothing imports it."""
