"""The laws of a pruning method and recordings of official code, for any method."""
