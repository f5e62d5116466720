"""A model run in pieces: the program, its layers, the engine that runs it, a walk from layer to layer."""
