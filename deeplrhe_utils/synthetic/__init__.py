"""The planted cohort: slides with a known truth. SYNTHETIC, always labelled so.

- `genes`, `plan`: who has which mutation, how it shows, who has which slide
- `slide`, `truth`: one slide as SVS, and what was drawn on it
- `publish`: a whole cohort as files
- `paint`: tissue, nuclei, artefacts, light; a streaming writer of Aperio-style slides
"""
