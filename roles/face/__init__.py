"""The face of a training run: the live view in a terminal, and the page that a run leaves behind.

Knows what the rows that the roles write mean. Knows nothing of the roles themselves, of wires or of
how a run is carried out: it reads rows, busy spans and files.
"""
