"""Changes in the shapes that other programs send: one module for each, from a message to changes.

`recognise` tells by its members whose a message is; `parsed` is what every module makes of one. No
I/O, no knowledge of tables or limits: what comes out is checked like any other change.
"""
