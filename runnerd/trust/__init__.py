"""Who may run here, and what they get: pure decisions that the actors carry out."""
