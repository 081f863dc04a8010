"""DNA: a network and its accelerator, searched together."""
