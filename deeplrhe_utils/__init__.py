"""DeepLRHE compendium: the thin package behind the numbered notebooks.

Rooms, in the order in which data walks through them::

    core → acquisition → slides → stain → learning → evaluation → reporting → running

A room imports only rooms to its left. Nothing heavy (torch, openslide) is loaded here.
"""

__version__ = "0.1.0"
