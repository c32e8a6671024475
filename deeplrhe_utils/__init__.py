"""DeepLRHE compendium: the thin package behind the numbered notebooks.

Rooms, in the order in which data walks through them::

    core → acquisition → slides → stain → synthetic → learning → evaluation → reporting → running

A room imports only rooms to its left, and no wing of a room imports another in a circle (``make lint``). Each room's
own docstring says what lives in it; ``docs/architecture.md`` says which line answers which question. Nothing heavy
(torch, openslide) is loaded here.
"""

__version__ = "1.0.0"
