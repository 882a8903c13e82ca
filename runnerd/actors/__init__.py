"""The actors: one file, one actor, one loop; none imports another."""
