"""What a delivery comes to: where its event happens, whom it starts, and what it asks of runs there are."""
