"""Notebooks as stages, the command line, the report page.

- `stage`: what a notebook opens, what it leaves, and when it may be skipped
- `plan`: profiles and parameters, resolved and checked before anything starts
- `runner`: stages in order, skipped when unchanged, resumed after any death
- `machine`: processes, memory, locks, versions
- `page`: the report page, documents, RO-Crate
- `commands`, `jobs`: what may be typed, and what it does; one module per command
- `normalize`: the parts of ``deeplrhe normalize``
"""
