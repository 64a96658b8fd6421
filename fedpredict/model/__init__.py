"""What a federated model is: kinds, links, partial models, shares and how shares become a prediction.

numpy only: no I/O, no clock, no process. Everything else in the package stands on this room.
"""
