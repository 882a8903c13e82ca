"""The forge: what it sends, what it is told, and how it is spoken to."""
